"""What holds for the whole run: it leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_FILES = 1 << 16  # descriptors; 1024 is what a shell has on most machines


def pytest_configure() -> None:
    """Tests that hold many descriptors may: the engine raises its own limit likewise."""
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
    return frozenset(str(path) for place in ("/tmp", "/run") for path in Path(place).glob("pydock*"))


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
    deadline = time.monotonic() + 10
    while True:
        left = {name: sorted(look() - before[name]) for name, look in looks.items()}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        left |= {"cgroups": [], "files": []}
    finally:
        os.close(lock)
    assert not any(left.values()), left
