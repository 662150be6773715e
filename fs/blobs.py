"""Files of bytes that are open for writing.

What is written is stored with each write(2) shorter than 4,096 bytes, else when the file is closed, so that nobody sees half of a
long one; a truncating open that is closed unwritten stores nothing but the empty value.
"""

from __future__ import annotations

import errno

from pydock.fs.handle import WHOLE, Handle, put, written
from pydock.fs.node import Blob, File, Refused, Subject


class BlobHandle(Handle):
    """The bytes as they will be: those that are there, unless *truncated*, with what was written over them, or *appending* behind."""

    def __init__(self, file: File, *, truncated: bool, fresh: bool, appending: bool = False) -> None:
        super().__init__(file)
        self.appending = appending
        assert isinstance(file.entry, Blob)
        self.entry: Blob[Subject] = file.entry
        self.buffer = bytearray() if truncated else bytearray(self.entry.show(file.subject))
        self.dirty = truncated or fresh
        self.refused = False

    async def write(self, offset: int, data: bytes) -> int:
        if self.appending:
            offset = len(self.buffer)
        if offset + len(data) > self.entry.largest + 1:  # a newline at its end may not count
            self.refused = True
            raise Refused(
                errno.EFBIG, f"{self.file.directory.place(self.file.name)}: at most {self.entry.largest} bytes"
            )
        put(self.buffer, offset, data)
        self.dirty = True
        if len(data) < WHOLE:
            await self._take()
        return len(data)

    async def _take(self) -> None:
        async with self.file.lock:
            try:
                await self.entry.store(self.file.subject, bytes(self.buffer))
            except BaseException:
                self.refused = True
                raise
        self.dirty = False
        self.snapshot = None
        written(self.file)
        self.stamp = self.file.mtime

    async def truncate(self, size: int) -> None:
        if size > self.entry.largest:
            raise Refused(errno.EFBIG, f"{self.file.name}: at most {self.entry.largest} bytes")
        if size < len(self.buffer):
            del self.buffer[size:]
        else:
            self.buffer += bytes(size - len(self.buffer))
        self.dirty = True

    @property
    def unfinished(self) -> bool:
        return self.dirty and bool(self.buffer) and not self.refused

    async def flush(self) -> None:
        if self.unfinished:
            with self._closing():
                await self._take()

    async def release(self) -> None:
        await self.flush()
        if self.refused:
            await self.entry.store(self.file.subject, None)  # what was only created is not there
        elif self.dirty:
            await self._take()
