"""What holds for the whole run: it leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest


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
    """No process, mount, cgroup, network namespace or file of pydock's is there afterwards that was not there before."""
    looks = {"processes": _processes, "mounts": _mounts, "cgroups": _cgroups, "files": _files}
    before = {name: look() for name, look in looks.items()}
    yield
    deadline = time.monotonic() + 10
    while True:
        left = {name: sorted(look() - before[name]) for name, look in looks.items()}
        if not any(left.values()) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert not any(left.values()), left
