"""Scratch files that are open: files in memory that editors and copying tools make beside a setting."""

from __future__ import annotations

import errno
import re
from typing import Final

from pydock.fs.handle import Handle, now, put
from pydock.fs.node import (
    Directory,
    File,
    Refused,
    Scratch,
    Subject,
)

_TEMPORARY: Final = re.compile(r".+[A-Za-z0-9]{6}")
_NAME: Final = re.compile(r"\..+|.*~|#.*#|sed.{6}|4913", re.DOTALL)


def may_scratch(directory: Directory, name: str, *, exclusive: bool = False) -> bool:
    """Whether *name* is one that tools give to their files on the way, and may be made in *directory*.

    busybox's sed -i takes mkstemp(3)'s ``SETTINGXXXXXX``. A person may mean something else by that, whom a shell's open tells
    apart: only mkstemp's is *exclusive* (O_EXCL).
    """
    if not directory.scratchable:
        return False
    if exclusive and not directory.growing and _TEMPORARY.fullmatch(name):
        setting = directory.static(name[:-6])
        if isinstance(setting, File) and setting.settable:
            return True
    return is_scratch_name(name)


def is_scratch_name(name: str) -> bool:
    """Whether *name* is one that tools give to their files on the way, whatever directory they are in."""
    return _NAME.fullmatch(name) is not None


def new_scratch(directory: Directory, name: str, mode: int, uid: int, gid: int) -> Scratch:
    """A file in memory, in *directory*."""
    if name not in directory.scratch and len(directory.scratch) >= Scratch.PER_DIRECTORY:
        words = f"{directory.place(name)}: {Scratch.PER_DIRECTORY} scratch files are the most here"
        raise Refused(errno.ENOSPC, words)
    scratch = Scratch(name, directory, mode=mode & 0o7777, uid=uid, gid=gid, mtime=now())
    directory.scratch[name] = scratch
    return scratch


class ScratchHandle(Handle):
    """A file in memory."""

    def __init__(self, scratch: Scratch, *, truncated: bool) -> None:
        self.scratch = scratch
        if truncated:
            scratch.content.clear()

    @property
    def subject(self) -> Subject:
        assert self.scratch.parent is not None
        return self.scratch.parent.subject

    @property
    def length(self) -> int:
        return len(self.scratch.content)

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self.scratch.content[offset : offset + size])

    async def write(self, offset: int, data: bytes) -> int:
        content = self.scratch.content
        if offset + len(data) > Scratch.LIMIT:
            raise Refused(errno.EFBIG, f"{self.scratch.name}: a scratch file holds at most {Scratch.LIMIT} bytes")
        put(content, offset, data)
        self.scratch.mtime = now()
        return len(data)

    async def truncate(self, size: int) -> None:
        resize(self.scratch, size)


def resize(scratch: Scratch, size: int) -> None:
    """truncate(2) of a scratch file."""
    if size > Scratch.LIMIT:
        raise Refused(errno.EFBIG, f"{scratch.name}: a scratch file holds at most {Scratch.LIMIT} bytes")
    if size < len(scratch.content):
        del scratch.content[size:]
    else:
        scratch.content += bytes(size - len(scratch.content))
    scratch.mtime = now()
