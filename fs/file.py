"""Files, by their kind: opening one, truncating it, replacing its content by a rename."""

from __future__ import annotations

import errno
import os

import trio
from pydock.fs.blobs import BlobHandle
from pydock.fs.blocking import Caller
from pydock.fs.bulk import BulkHandle
from pydock.fs.handle import (
    DocumentHandle,
    Handle,
    ReportHandle,
    ValueHandle,
    text_of,
    written,
)
from pydock.fs.inlets import InletHandle
from pydock.fs.lists import ListHandle
from pydock.fs.node import (
    Blob,
    Bulk,
    Control,
    Document,
    File,
    Inlet,
    List,
    Refused,
    Report,
    Stream,
    Value,
)
from pydock.fs.waiting import ControlHandle, StreamHandle


async def replace(file: File, content: bytes, caller: int) -> None:
    """The content of a scratch file becomes the setting's value, as one validated write."""
    async with file.lock:
        if isinstance(file.entry, List):
            entry = file.entry
            items: list[str] = []
            for line in map(entry.trimmed, text_of(content, file.path).split("\n")):
                if line:
                    for item in entry.parse(file.subject, line):
                        items = [other for other in items if entry.key(other) != entry.key(item)] + [item]
            await entry.store(file.subject, tuple(items) if content else None)
            written(file)
        elif isinstance(file.entry, Blob):
            await file.entry.store(file.subject, content)
            written(file)
        else:
            text = text_of(content if isinstance(file.entry, Document) else content.removesuffix(b"\n"), file.path)
            await Handle(file).store(text if content else None, caller)


def ask(file: File) -> None:
    """Raise what a write of anything would raise now; before the file is cut to nothing."""
    if file.entry.ready is not None:
        file.entry.ready(file.subject)


async def open_file(
    file: File, flags: int, caller: int, number: int, nursery: trio.Nursery, *, fresh: bool = False
) -> Handle:
    """The handle for an open(2) of *file* with *flags*; *caller* is the opener's thread id, *number* the inode number it used.
    A *fresh* file was unlinked before, and so is empty to who opens it."""
    writing = flags & os.O_ACCMODE != os.O_RDONLY
    truncated = (bool(flags & os.O_TRUNC) or fresh) and writing
    entry = file.entry
    taking = isinstance(entry, Control | Inlet) or (isinstance(entry, Stream) and entry.writable)
    if writing and not (file.settable or taking):
        raise Refused(errno.EACCES, f"{file.directory.place(file.name)} is read-only")
    if truncated:
        ask(file)
    match entry:
        case Stream(open=open_channel):
            channel = open_channel(file.subject)
            return StreamHandle(file, channel, caller=Caller(caller, number), nonblocking=bool(flags & os.O_NONBLOCK))
        case Inlet(open=open_inflow):
            if not writing:
                raise Refused(errno.EACCES, f"{file.directory.place(file.name)} can only be written")
            return InletHandle(file, open_inflow(file.subject, caller), Caller(caller, number))
        case Bulk(open=open_extent):
            return BulkHandle(file, await open_extent(file.subject))
        case Control():
            return ControlHandle(file, caller=Caller(caller, number), nursery=nursery)
        case Report(slow=slow):
            return await ReportHandle(file, Caller(caller, number) if slow else None).opened()
        case Value() if writing:
            return ValueHandle(file, truncated=truncated, caller=caller)
        case List() if writing:
            return ListHandle(file, truncated=truncated, fresh=fresh)
        case Blob() if writing:
            return BlobHandle(file, truncated=truncated, fresh=fresh, appending=bool(flags & os.O_APPEND))
        case Document() if writing:
            return DocumentHandle(file, truncated=truncated, appending=bool(flags & os.O_APPEND))
    return await Handle(file).opened()
