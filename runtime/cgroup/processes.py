"""The processes in a cgroup's directories, as /proc and cgroup.procs tell of them. See proc(5), cgroups(7)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from pydock.runtime.cgroup.kernelfile import read_text
from pydock.runtime.cgroup.layout import Layout
from pydock.runtime.procfs import stat_of, status_of

PROCS: Final = "cgroup.procs"
_KILL_ROUNDS: Final = 100
_PF_EXITING: Final = 0x4  # include/linux/sched.h, field 9 of /proc/PID/stat


def bottom_up(directory: str | Path) -> Iterator[str]:
    """The directory and those below it, the innermost first; none if it is not there."""
    try:
        alone = os.stat(directory).st_nlink == 2  # a walk would look at each file in it
    except OSError:
        return
    if alone:
        yield os.fspath(directory)
        return
    for below, _, _ in os.walk(directory, topdown=False):
        yield below


def pids(directory: str | Path) -> set[int]:
    """What is in this one directory; a process of another PID namespace is a 0."""
    try:
        return {int(pid) for pid in read_text(os.path.join(directory, PROCS)).split()}
    except OSError as error:
        # Threaded v2 cgroups list their processes at the domain above; a child may vanish under the walk.
        if error.errno in (errno.EOPNOTSUPP, errno.ENODEV):
            return set()
        raise


def living(pid: int) -> str | None:
    """The command of a process that is not about to be gone; None when it is."""
    try:
        (command, fields), status = stat_of(pid), status_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None if pid else "of another PID namespace"
    pending = [int(status[key], 16) for key in ("SigPnd", "ShdPnd")]
    if fields[0] in "ZX" or int(fields[6]) & _PF_EXITING or any(mask >> (signal.SIGKILL - 1) & 1 for mask in pending):
        return None
    return command


def kill_all(procs: Callable[[], Iterable[int]]) -> bool:
    """SIGKILL to whoever *procs* lists until those are dying; False if forks outrun it."""
    for _ in range(_KILL_ROUNDS):
        left = [pid for pid in procs() if pid and living(pid) is not None]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return True
    return False


def place(layout: Layout, root: Path, cgroups: str) -> Path:
    """Where /proc/PID/cgroup says that a process is, in the hierarchy mounted at *root*."""
    names = {name for name, point in layout.controllers.items() if point == root}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if (names & set(controllers.split(","))) if names else not controllers:
            return root / path.lstrip("/")
    return root
