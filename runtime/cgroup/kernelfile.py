"""Reading and writing one file of a cgroup file system, with the kernel's refusals put into words.

A write is one write(2), since the kernel takes each as one command. Given a *name*, what is wrong with the value
becomes the domain's error; without one the plain ``OSError`` goes on to a caller that handles it.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path

from pydock.runtime.cgroup.formats import flat
from pydock.runtime.errors import Busy, Failed, Invalid, NotFound, PydockError, Unsupported


def read_text(path: str | Path, name: str | None = None) -> str:
    """The whole file without its last newline."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = []
            while part := os.read(fd, 65536):
                parts.append(part)
        finally:
            os.close(fd)
    except OSError as error:
        if name is None:
            raise
        raise _worded(name, None, error) from error
    return b"".join(parts).decode().rstrip("\n")


def write_text(path: str | Path, value: str, name: str | None = None, tried: str | None = None) -> None:
    """One write(2) of *value*; *tried* is what to call it in an error, if that was translated."""
    try:
        # O_TRUNC means nothing to cgroupfs; in a directory that only looks like it, it makes the write a replacement.
        fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            # A NUL-free empty write would not reach the kernel's handler at all: an empty value is an empty line.
            os.write(fd, value.encode() or b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        if name is None:
            raise
        raise _worded(name, tried or value, error) from error


def write_lines(path: str | Path, lines: Sequence[str], name: str) -> None:
    """A write(2) of each of *lines*, which the kernel takes as a command each."""
    if not lines:
        return
    line = lines[0]
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for line in lines:
                os.write(fd, line.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise _worded(name, line, error) from error


def readable(path: Path) -> bool:
    """Not so where pressure is not built in (ENOENT), or is switched off (EOPNOTSUPP)."""
    try:
        read_text(path)
    except OSError:
        return False
    return True


def wait_event(path: Path, key: str, value: int, seconds: float) -> bool:
    """Wait until *key* has *value* in the flat keyed file *path*, which says POLLPRI when it has changed since it was read."""
    deadline = time.monotonic() + seconds
    with open(path, "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while flat(os.pread(events.fileno(), 4096, 0).decode()).get(key) != value:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(left * 1000)
    return True


def _worded(name: str, value: str | None, error: OSError) -> PydockError:
    tried = name if value is None else f'{name}: "{value}"'
    match error.errno:
        case errno.EINVAL | errno.ERANGE | errno.ENOSPC:
            return Invalid(f"{tried} is not what the kernel accepts here")
        case errno.EBUSY:
            return Busy(f"{tried}: in use: more of it is taken already, or a cgroup above or below forbids it")
        case errno.EACCES | errno.EPERM:
            return Invalid(f"{tried} is more than the cgroups above it allow, or than this machine has")
        case errno.ENOENT:
            return NotFound(f"{tried}: the cgroup is gone, or the kernel has no such file")
        case errno.EOPNOTSUPP:
            return Unsupported(f"{tried}: the kernel does not support it")
        case errno.ENODEV:
            # Either the cgroup was removed while the file was open, or the value names no whole disk.
            return Failed(errno.ENODEV, f"{tried}: no such device (a whole disk is needed), or the cgroup is gone")
    return Failed(error.errno or errno.EIO, f"{tried}: {error.strerror}")
