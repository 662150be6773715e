"""bare.py MOUNTPOINT: the least file system that pyfuse3 can be, with one status file three levels deep as the C one has it.

What the library itself takes: pydock's own part of a read is what is above it.
"""

from __future__ import annotations

import errno
import stat
import sys

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

TEXT = b"created\n"
TREE: dict[tuple[int, bytes], int] = {(1, b"containers"): 2, (2, b"c"): 3, (3, b"state"): 4}


class Bare(pyfuse3.Operations):
    """Three directories and a file, with names and attributes cached for long."""

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        found = EntryAttributes()
        found.st_ino = inode
        found.st_mode = stat.S_IFREG | 0o444 if inode == 4 else stat.S_IFDIR | 0o755
        found.st_size = len(TEXT) if inode == 4 else 0
        found.entry_timeout = found.attr_timeout = 3600
        return found

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        number = TREE.get((parent_inode, name))
        if number is None:
            raise FUSEError(errno.ENOENT)
        return await self.getattr(InodeT(number), ctx)

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=FileHandleT(inode), direct_io=True, keep_cache=False)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return TEXT[off : off + size]


pyfuse3.init(Bare(), sys.argv[1], {"fsname=bare", "default_permissions"})
trio.run(pyfuse3.main)
