"""What one open(2) made: the reading side, and the writing of values and documents.

A reader gets a snapshot, rendered at the open and again by pread(2) at 0. Writers are validated in write(2), because
a shell sees that error and ignores close's: one write is one value; a document is applied when it is closed.

A write of 4,096 bytes or more may be a piece: shells and stdio cut long output at their buffer's size, so there a text
without a newline at its end waits for the next write or the release.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self

import trio
from pydock.fs.blocking import At, Caller, interruptible
from pydock.fs.node import (
    Blob,
    Control,
    Directory,
    Document,
    File,
    Inlet,
    List,
    Refused,
    Report,
    Stream,
    Subject,
    Value,
)
from pydock.runtime.errors import Invalid

#: Writes shorter than this are complete without a newline (PIPE_BUF, and every stdio buffer's least size).
WHOLE: Final = 4096
#: The longest line or value taken; more than execve(2) allows for one argument several times over.
LONGEST: Final = 4 << 20


def now() -> int:
    return time.time_ns()


def text_of(data: bytes, name: str) -> str:
    """*data* as text; Invalid for NUL or what is not UTF-8, with the *name* of the file that it is for."""
    if b"\0" in data:
        raise Invalid(f"{name}: byte {data.index(0)} is NUL: text in UTF-8 without it is taken")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{name}: byte {error.start} is not UTF-8: text in UTF-8 is taken") from None


def too_long(name: str) -> Invalid:
    """What to raise for a line or value of more than LONGEST bytes, with the *name* of the file that it is for."""
    return Invalid(f"{name}: longer than {LONGEST} bytes")


def lines_of(data: bytes) -> list[bytes]:
    """The lines of *data* with their newlines, and nothing else taken for the end of one (bytes.splitlines does)."""
    return [line + b"\n" for line in data.split(b"\n")[:-1]] + [rest for rest in data.split(b"\n")[-1:] if rest]


def shown(file: File) -> bytes:
    """What a reader of a value, list, control or document sees now."""
    subject = file.subject
    match file.entry:
        case Value(show=show):
            text = show(subject)
            return b"" if text is None else text.encode(errors="surrogateescape") + b"\n"
        case List(show=items):
            return "".join(f"{item}\n" for item in items(subject)).encode(errors="surrogateescape")
        case Control(verbs=verbs):
            width = max((len(verb.usage) for verb in verbs), default=0)
            return "".join(f"{verb.usage:<{width}}  {verb.doc}\n" for verb in verbs).encode()
        case Blob(show=blob):
            return blob(subject)
        case Document(show=document):
            return document(subject).encode(errors="surrogateescape")
    return b""


def put(content: bytearray, offset: int, data: bytes) -> None:
    """pwrite(2): what is between the end and *offset* is zeros."""
    if offset > len(content):
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


def written(file: File) -> None:
    """A setting took a write, and the object's last failure is history."""
    touched(file)
    file.subject.succeeded()


def touched(file: File) -> None:
    """A setting has become another: its mtime is now, as that of the document it stands in."""
    file.attributes.mtime = moment = now()
    if not isinstance(file.entry, Blob):
        for document in _documents(file):
            document.attributes.mtime = moment  # else rsync, which goes by time and size, would pass over it
    file.subject.metadata.changed()


def _documents(file: File) -> Iterator[File]:
    """The documents of the file's object: in its directory, or in one above that is of the same object."""
    directory: Directory | None = file.directory
    while directory is not None and directory.subject.metadata is file.subject.metadata:
        for name, entry in directory.entries.items():
            if isinstance(entry, Document) and isinstance(node := directory.static(name), File):
                yield node
        directory = directory.parent


class Handle:
    """What one open(2) made: a snapshot to read, nothing to write."""

    #: Whether a copy of its descriptor is looked for with everybody, as the end of what is written can't be taken back.
    anywhere = False

    def __init__(self, file: File) -> None:
        self.file = file
        self.snapshot: bytes | None = None
        self.unread = False  # the snapshot is that of the open
        self.stamp = file.mtime  # at the open, and after each write

    async def opened(self) -> Self:
        """Rendered now, for fstat(2) to tell the size of what is read; what can't be shown now is refused to who reads it."""
        with suppress(Exception):
            self.snapshot = await self.render()
            self.unread = True
        return self

    @property
    def subject(self) -> Subject:
        """Whom a write that fails is told."""
        return self.file.subject

    @property
    def length(self) -> int | None:
        """The bytes of what is read, as far as it is known."""
        return None if self.snapshot is None else len(self.snapshot)

    def moved(self, inode: int) -> None:
        """It is opened by that number, after all."""

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """What is left to store at the close: a time that was set since the last write stands, as ``cp -p`` wants it."""
        own = self.file.mtime
        yield
        if own is not None and own != self.stamp:
            self.file.attributes.mtime = own

    async def render(self) -> bytes:
        """The bytes a reader sees now."""
        if not self.file.is_long:
            return shown(self.file)
        data = await trio.to_thread.run_sync(shown, self.file)
        self.file.reported = len(data)
        return data

    async def read(self, offset: int, size: int) -> bytes:
        if self.snapshot is None or (offset == 0 and not self.unread):
            self.snapshot = await self.render()
        self.unread = False
        return self.snapshot[offset : offset + size]

    async def write(self, offset: int, data: bytes) -> int:
        raise Refused(errno.EBADF, "not open for writing")

    async def truncate(self, size: int) -> None:
        """ftruncate(2) on this descriptor."""
        await truncate(self.file, size)

    @property
    def unfinished(self) -> bool:
        """Whether a part of what was written waits for the close."""
        return False

    async def flush(self) -> None:
        """The last descriptor of this open file that anybody is seen to have is being closed, and the caller gets what this raises."""

    async def release(self) -> None:
        """The last descriptor was closed; nobody gets what this raises."""

    def poll(self) -> int:
        """The poll(2) events that are there now."""
        return select.POLLIN | select.POLLOUT

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call *wake* when poll's answer may have changed."""

    async def store(self, text: str | None, caller: int = 0) -> None:
        """Set or (None) unset the value behind this file."""
        match self.file.entry:
            case Value(store=store) if store is not None:
                await store(self.file.subject, text, caller)
            case List(store=store_list) if text is None:
                await store_list(self.file.subject, None)
            case Document(apply=apply):
                await apply(self.file.subject, text or "")
            case _:
                raise Refused(errno.EACCES, f"{self.file.directory.place(self.file.name)} is read-only")
        written(self.file)


class ReportHandle(Handle):
    """Rendered when opened, whole: fstat(2) then tells the size, which rsync and tar go by. A wait for that ends with a signal of the
    *caller*, if it may be long and so there is one."""

    def __init__(self, file: File, caller: Caller | None) -> None:
        super().__init__(file)
        self.caller = caller

    async def opened(self) -> Self:
        """What the open waits for."""
        if self.caller is not None:
            self.caller.at = At.ALONE
        self.snapshot, self.unread = await self.render(), True
        if self.caller is not None:
            self.caller.at = At.CALL
        return self

    def moved(self, inode: int) -> None:
        if self.caller is not None:
            self.caller.number = inode

    async def render(self) -> bytes:
        entry = self.file.entry
        assert isinstance(entry, Report)

        async def text() -> str:
            return await entry.render(self.file.subject)

        data = (await (text() if self.caller is None else interruptible(self.caller, text))).encode(
            errors="surrogateescape"
        )
        self.file.reported = len(data)
        return data


class ValueHandle(Handle):
    """A value: one write, one value. A truncating open that is closed unwritten unsets it."""

    def __init__(self, file: File, *, truncated: bool, caller: int) -> None:
        super().__init__(file)
        self.truncated = truncated
        self.pending = bytearray()
        self.wrote = False
        self.caller = caller
        self.unended = 0  # where a value without a newline ended

    async def write(self, offset: int, data: bytes) -> int:
        self.wrote = True
        unended, self.unended = self.unended, 0
        if data == b"\n" and offset == unended != 0:  # it comes by itself, from echo after printf or from Emacs
            return len(data)
        self.pending += data
        if len(self.pending) > LONGEST:
            self.pending.clear()
            raise too_long(self.file.path)
        if len(data) < WHOLE or data.endswith(b"\n"):
            await self._take()
            self.unended = 0 if data.endswith(b"\n") else offset + len(data)
        self.stamp = self.file.mtime
        return len(data)

    async def _take(self) -> None:
        data, self.pending = bytes(self.pending), bytearray()
        text = text_of(data.removesuffix(b"\n"), self.file.path)
        async with self.file.lock:
            await self.store(text, self.caller)
        self.truncated = False
        self.snapshot = None

    async def truncate(self, size: int) -> None:
        if size == 0:
            self.truncated = not self.wrote
        # else: rsync and others set the length of what they wrote; the value stands as written

    @property
    def unfinished(self) -> bool:
        return bool(self.pending)

    async def flush(self) -> None:
        if self.unfinished:
            with self._closing():
                await self._take()

    async def release(self) -> None:
        await self.flush()
        if self.truncated and not self.wrote:
            async with self.file.lock:
                await self.store(None)


class DocumentHandle(Handle):
    """A document: what was written is applied when a descriptor is closed after the last write, and once.

    *appending* are those with O_APPEND: the kernel takes the size that it knows for the end, which may be another by now.
    """

    def __init__(self, file: File, *, truncated: bool, appending: bool = False) -> None:
        super().__init__(file)
        self.appending = appending
        self.buffer: bytearray | None = None
        self.dirty = False
        self.wrote = False
        self.refused = False
        if truncated:
            self._draft(bytearray())

    def _draft(self, buffer: bytearray) -> None:
        """*buffer* is what the document will be; until it is closed its size is told: git keeps the size before its close."""
        self.buffer = buffer
        self.file.draft = len(buffer)

    async def read(self, offset: int, size: int) -> bytes:
        if self.buffer is not None:
            return bytes(self.buffer[offset : offset + size])
        return await super().read(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        if self.buffer is None:
            self.buffer = bytearray(shown(self.file))
        if self.appending:
            offset = len(self.buffer)
        if self.refused or offset + len(data) > LONGEST:
            self.refused = True
            raise Refused(errno.EFBIG, f"longer than {LONGEST} bytes")
        put(self.buffer, offset, data)
        self._draft(self.buffer)
        self.dirty = self.wrote = True
        self.stamp = self.file.mtime
        return len(data)

    async def truncate(self, size: int) -> None:
        if self.buffer is None:
            self.buffer = bytearray(shown(self.file))
        if size < len(self.buffer):
            del self.buffer[size:]
        self._draft(self.buffer)
        self.dirty = size != 0

    @property
    def unfinished(self) -> bool:
        return self.dirty and self.buffer is not None and not self.refused  # its beginning alone is another document

    async def flush(self) -> None:
        if self.unfinished:
            assert self.buffer is not None
            self.dirty = False
            try:
                async with self.file.lock:
                    with self._closing():
                        await self.store(text_of(bytes(self.buffer), self.file.path))
            finally:
                self.file.draft = None

    async def release(self) -> None:
        if self.buffer is not None and not self.wrote:
            self.dirty = True
        await self.flush()
        if self.buffer is not None:
            self.file.draft = None


async def truncate(file: File, size: int) -> None:
    """truncate(2) of a file by name: to 0 it unsets a setting; a control file or stream does not mind."""
    if isinstance(file.entry, Control | Inlet | Stream):
        return
    if size != 0 or not file.settable:
        raise Refused(errno.EINVAL if file.settable else errno.EACCES, f"{file.name} can't be cut to {size} bytes")
    async with file.lock:
        await Handle(file).store(None)
