"""What holds for the whole run: it leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_HOME = Path(__file__).parents[1]
#: A module with tests that depend on the kernel. The others are not even imported in the virtual machine, which is slow.
_MARKED = re.compile(r"pytest\.mark\.(cgroup|device|mount)\b")
_FILES = 1 << 16  # descriptors; 1024 is what a shell has on most machines


def pytest_configure() -> None:
    """Tests that hold many descriptors may: the engine raises its own limit likewise. Examples are the same in each run, however long
    they take: what fails by chance fails those who have changed something else."""
    settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("same")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES), hard))


def _processes() -> frozenset[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if words and state not in "ZX" and "pydock" in words:
                found.add(f"{entry.name} {words}")
    return frozenset(found)


def _mounts() -> frozenset[str]:
    return frozenset(line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _cgroups() -> frozenset[str]:
    top = Path("/sys/fs/cgroup")
    trees = [top, *(path for path in top.iterdir() if path.is_dir())]
    return frozenset(str(path) for tree in trees for path in tree.glob("pydock*"))


def _files() -> frozenset[str]:
    return frozenset(str(path) for place in (tempfile.gettempdir(), "/run") for path in Path(place).glob("pydock*"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """No process, mount, cgroup or file of pydock's is there afterwards that was not there before.

    Cgroups and files are not told from those of another run at the same time: while there is one, only processes and mounts are
    looked at. Every run holds a lock on the directory where the hierarchies are mounted.
    """
    looks = {"processes": _processes, "mounts": _mounts, "cgroups": _cgroups, "files": _files}
    lock = os.open("/sys/fs/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_SH)
    before = {name: look() for name, look in looks.items()}
    yield
    deadline = time.monotonic() + 60
    while True:
        left = {name: sorted(look() - before[name]) for name, look in looks.items()}
        if not _is_alone(lock):
            left |= {"cgroups": [], "files": []}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    os.close(lock)
    assert not any(left.values()), left


def _is_alone(lock: int) -> bool:
    """Whether nobody else has the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        fcntl.flock(lock, fcntl.LOCK_SH)  # what was had before is lost when it can't be had for oneself
    return True


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return False
    return True


@pytest.fixture(scope="session")
def free() -> Callable[..., int]:
    """``free()`` is a port that nobody has, ``free(5)`` the first of so many in a row; none is given twice.

    They are below those that the kernel gives to connections and to who listens at any port: one of these may be taken at any moment.
    """
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = iter(range(10000, end))

    def find(count: int = 1) -> int:
        row = 0
        for port in ports:
            row = row + 1 if _is_free(port) else 0
            if row == count:
                return port - count + 1
        raise AssertionError(f"there are no {count} ports left")

    return find


@pytest.fixture(scope="session")
def other_kernel(_nothing_stays_behind: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Runs the tests that depend on the kernel in a virtual machine; called, it waits for their end: what pytest said."""
    modules = [
        path.relative_to(_HOME) for path in sorted(_HOME.glob("tests/*/test_*.py")) if _MARKED.search(path.read_text())
    ]
    tests = [
        "-m",
        "pytest",
        "-q",
        "-m",
        "cgroup or device or mount",
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=300",
        "--tb=short",
    ]
    output = tmp_path_factory.mktemp("machine") / "output"
    with open(output, "wb") as file:
        # What is emulated takes all that it gets: the tests beside it come first.
        machine = subprocess.Popen(
            ["nice", "-n", "19", _HOME / "tests/vm/run", "-t", "3000", sys.executable, *tests, *modules],
            cwd=_HOME,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )

    def wait() -> str:
        status = machine.wait(3050)
        said = output.read_text(errors="replace")
        assert status == 0, said
        return said

    yield wait
    machine.terminate()
    machine.wait(30)


@pytest.fixture(scope="session", autouse=True)
def _other_kernel_is_early(request: pytest.FixtureRequest) -> None:
    """The virtual machine starts before the first test, if one asks for it: its tests take as long as all the others."""
    if any("other_kernel" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("other_kernel")
