"""A part of a container's cgroup that is the container's to divide: for a systemd inside. See cgroups(7), "Delegation".

Beside v1 controllers the container's cgroup in the v2 tree is given away as it is: there are no limits in it, and what is
moved about below it stays under those of the v1 hierarchies. On a v2 machine the limits are in the very directory, so the
container gets one below it, ``payload``, with every controller handed down; and since a v2 cgroup that hands down controllers may
hold no process itself, whoever is moved into the container's cgroup from outside lands in ``beside``.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

from pydock.runtime.cgroup.kernelfile import read_text, write_text
from pydock.runtime.cgroup.layout import Layout
from pydock.runtime.cgroup.processes import PROCS, bottom_up, pids
from pydock.runtime.errors import Failed

_PAYLOAD: Final = "payload"
_BESIDE: Final = "beside"
_CONTROL: Final = "cgroup.subtree_control"
_DELEGATED: Final = (PROCS, "cgroup.threads", _CONTROL)


def entrance(directory: Path) -> Path:
    """Where a process from outside goes that is to be in the cgroup at *directory*."""
    beside = directory / _BESIDE
    return beside if beside.is_dir() else directory


def delegate(layout: Layout, directory: Path, owner: int) -> Path:
    """Give the v2 cgroup at *directory*, or what is to be given of it, to the user *owner*; the directory given."""
    given = directory
    if layout.kind == "v2":
        given = directory / _PAYLOAD
        for path in (given, directory / _BESIDE):
            path.mkdir(exist_ok=True)
        for pid in pids(directory):
            with contextlib.suppress(OSError):  # it has just ended
                write_text(directory / _BESIDE / PROCS, str(pid))
        for controller in read_text(directory / "cgroup.controllers").split():
            with contextlib.suppress(OSError):  # as for the parent: cpu can't be while realtime processes are elsewhere
                write_text(directory / _CONTROL, f"+{controller}")
    for path in (given, *(given / name for name in _DELEGATED)):
        os.chown(path, owner, owner)
    return given


def take_back(layout: Layout, directory: Path) -> None:
    """Remove what a run has made below *directory*; what somebody from outside is in stays."""
    for below in bottom_up(directory):
        if below != str(directory):
            try:
                os.rmdir(below)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                    raise Failed(error.errno or errno.EIO, f"rmdir {below}: {error.strerror}") from error
    if layout.kind == "v2" and not (directory / _BESIDE).is_dir():
        for controller in read_text(directory / _CONTROL).split():
            write_text(directory / _CONTROL, f"-{controller}")
