"""Large read-only files that are open: read in pieces, each where it is stored, never rendered as a whole."""

from __future__ import annotations

import trio
from pydock.fs.flows import Extent
from pydock.fs.handle import Handle
from pydock.fs.node import File


class BulkHandle(Handle):
    """Bytes of an extent, as it was when the file was opened. What is not in memory is read in a thread."""

    def __init__(self, file: File, extent: Extent) -> None:
        super().__init__(file)
        self.extent = extent

    async def read(self, offset: int, size: int) -> bytes:
        found = self.extent.cached(offset, size)
        return await trio.to_thread.run_sync(self.extent.read, offset, size) if found is None else found

    async def release(self) -> None:
        self.extent.close()
