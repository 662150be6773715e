"""Paths on the machine that people write into settings and commands.

pydockd never touches its own mount, as it could not answer itself: a look at any path of somebody else's comes after
:func:`checked_source`.
"""

from __future__ import annotations

import os
import posixpath
import stat

from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.formats import quote
from pydock.runtime.procfs import mounts


def places_of(mountpoint: str) -> frozenset[str]:
    """Where that what is mounted at *mountpoint*, or a part of it, is mounted, besides there: proc_pid_mountinfo(5)."""
    found = mounts()
    devices = {each.device for each in found if each.place == mountpoint}
    return frozenset({mountpoint, *(each.place for each in found if each.device in devices)})


def read_plain(path: str, limit: int) -> bytes:
    """What is in the plain file *path*. Invalid for anything else, which to open may wait or do something, and for more than *limit*
    bytes; OSError."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(place).st_mode):
            raise Invalid(f"{quote(path)} is not a file")
        with open(f"/proc/self/fd/{place}", "rb") as file:
            data = file.read(limit + 1)
    finally:
        os.close(place)
    if len(data) > limit:
        raise Invalid(f"{quote(path)} is longer than {limit} bytes")
    return data


def checked_source(path: str, *, outside: str) -> str:
    """*path*, when it is absolute, exists, and does not lead into what is mounted at *outside*, which the daemon itself must never
    walk: there, or at another of its places.

    Symlinks are followed one component at a time, looking at each place before stepping into it. Invalid, NotFound.
    """
    if not path.startswith("/"):
        raise Invalid(f"{quote(path)} is not an absolute path")
    closed = places_of(outside) if outside else frozenset()
    pending = path.split("/")[::-1]
    place, steps = "/", 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        place = posixpath.normpath(posixpath.join(place, part))
        if any(place == each or place.startswith(each + "/") for each in closed):
            raise Invalid(f"{quote(path)} leads into the mount itself")
        try:
            mode = os.lstat(place).st_mode
        except OSError as error:
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise NotFound(f"{quote(path)} does not exist") from None
            raise
        if stat.S_ISLNK(mode):
            steps += 1
            if steps > 40:
                raise Invalid(f"{quote(path)}: too many symlinks")
            link = os.readlink(place)
            place = "/" if link.startswith("/") else posixpath.dirname(place)
            pending.extend(link.split("/")[::-1])
        elif pending and not stat.S_ISDIR(mode):
            raise NotFound(f"{quote(path)} does not exist: {quote(place)} is not a directory")
    return path
