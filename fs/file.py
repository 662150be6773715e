"""Open files: snapshots, lines, transactions, offsets, poll. Lives once, under all tables.

A :class:`Handle` is what one open(2) made. Readers get a snapshot rendered at open, and again by pread(2) at 0. Writers
are validated in write(2), because a shell sees that error and ignores close's. The kinds differ in what a write means:

- value: one write is one value;
- list: one line is one item, ``-ITEM`` removes; opened with O_TRUNC all writes are one transaction, which ends at release;
- control: one line is one command, finished when the write returns;
- document: buffered, applied when the file is closed (flush), once;
- stream: a channel.

A write of 4,096 bytes or more may be a piece: shells and stdio cut long output at their buffer's size, so there a last line
without its newline waits for the next write or the release.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from pydock.fs.blocking import Caller, Interrupted, interruptible
from pydock.fs.errors import translate
from pydock.fs.node import (
    Channel,
    Control,
    Document,
    File,
    List,
    Refused,
    Report,
    Scratch,
    Stream,
    Subject,
    Value,
    Verb,
)
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.formats import quote

#: Writes shorter than this are complete without a newline (PIPE_BUF, and every stdio buffer's least size).
WHOLE: Final = 4096
#: The longest line or value taken; more than execve(2) allows for one argument several times over.
LONGEST: Final = 4 << 20


def now() -> int:
    return time.time_ns()


def text_of(data: bytes) -> str:
    """*data* as text; Invalid for NUL or what is not UTF-8."""
    if b"\0" in data:
        raise Invalid("a NUL byte can't be part of a setting")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"byte {error.start} is not UTF-8") from None


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
        case Document(show=document):
            return document(subject).encode(errors="surrogateescape")
    return b""


def written(file: File) -> None:
    """A setting took a write: its mtime is now, and the object's last failure is history."""
    file.attributes.mtime = now()
    file.subject.metadata.changed()
    file.subject.succeeded()


class Handle:
    """What one open(2) made: a snapshot to read, nothing to write."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.snapshot: bytes | None = None
        self.stamp = file.mtime  # at the open, and after each write

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """What is left to store at the close: a time that was set since the last write stands, as ``cp -p`` wants it."""
        own = self.file.mtime
        yield
        if own is not None and own != self.stamp:
            self.file.attributes.mtime = own

    async def render(self) -> bytes:
        """The bytes a reader sees now."""
        return shown(self.file)

    async def read(self, offset: int, size: int) -> bytes:
        if self.snapshot is None or offset == 0:
            self.snapshot = await self.render()
        return self.snapshot[offset : offset + size]

    async def write(self, offset: int, data: bytes) -> int:
        raise Refused(errno.EBADF, "not open for writing")

    async def truncate(self, size: int) -> None:
        """ftruncate(2) on this descriptor."""
        await truncate(self.file, size)

    async def flush(self) -> None:
        """A descriptor of this open file was closed, one of perhaps many."""

    async def release(self) -> None:
        """The last descriptor was closed."""

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
    """Rendered when first read, whole."""

    async def render(self) -> bytes:
        assert isinstance(self.file.entry, Report)
        data = (await self.file.entry.render(self.file.subject)).encode(errors="surrogateescape")
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

    async def write(self, offset: int, data: bytes) -> int:
        self.wrote = True
        self.pending += data
        if len(self.pending) > LONGEST:
            self.pending.clear()
            raise Invalid(f"longer than {LONGEST} bytes")
        if len(data) < WHOLE or data.endswith(b"\n"):
            await self._take()
        self.stamp = self.file.mtime
        return len(data)

    async def _take(self) -> None:
        data, self.pending = bytes(self.pending), bytearray()
        text = text_of(data.removesuffix(b"\n"))
        async with self.file.lock:
            await self.store(text, self.caller)
        self.truncated = False
        self.snapshot = None

    async def truncate(self, size: int) -> None:
        if size == 0:
            self.truncated = not self.wrote
        # else: rsync and others set the length of what they wrote; the value stands as written

    async def flush(self) -> None:
        if self.pending:
            with self._closing():
                await self._take()

    async def release(self) -> None:
        await self.flush()
        if self.truncated and not self.wrote:
            async with self.file.lock:
                await self.store(None)


class ListHandle(Handle):
    """A list: a line is an item; with O_TRUNC a transaction."""

    def __init__(self, file: File, *, truncated: bool) -> None:
        super().__init__(file)
        assert isinstance(file.entry, List)
        self.entry: List[Subject] = file.entry
        self.transaction = False
        self.before: tuple[str, ...] | None = None
        self.kept: list[str] = []
        self.wrote = False
        self.touched = False
        self.pending = b""
        self.refusal: Refused | None = None
        if truncated:
            self._begin()

    def _begin(self) -> None:
        self.transaction = True
        self.before = self.entry.own(self.file.subject)
        self.kept = []

    async def write(self, offset: int, data: bytes) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.wrote = True
        whole = self.pending + data
        if len(whole) > LONGEST:
            raise Invalid(f"a line longer than {LONGEST} bytes")
        head, newline, rest = whole.rpartition(b"\n")
        if len(data) < WHOLE and rest:
            head, newline, rest = whole, b"", b""
        await self._take(head + newline, already=len(self.pending), total=len(data))
        self.pending = rest
        self.stamp = self.file.mtime
        return len(data) if self._short is None else self._short

    _short: int | None = None

    async def _take(self, block: bytes, *, already: int, total: int) -> None:
        """Each line of *block* in turn. Outside a transaction lines are atomic one by one: when a later one is refused the write
        is short, and the caller's next write, which begins with that line, gets the error."""
        self._short = None
        done = 0
        async with self.file.lock:
            for line in block.splitlines(keepends=True) if b"\n" in block else [block]:
                try:
                    await self._line(text_of(line.removesuffix(b"\n")).strip())
                except Exception as error:
                    number, words = translate(error)
                    if self.transaction:
                        self.refusal = Refused(number, words)
                        if self.touched:
                            await self.entry.store(self.file.subject, self.before)
                        raise self.refusal from error
                    if done > already:
                        self._short = done - already
                        return
                    raise
                done += len(line)
        if block:
            written(self.file)
            self.snapshot = None

    async def _line(self, line: str) -> None:
        if not line:
            return
        subject = self.file.subject
        items = list(self.entry.show(subject))
        if line.startswith("-"):
            for removed in self._find(items, line[1:].strip()):
                items.remove(removed)
                if removed in self.kept:
                    self.kept.remove(removed)
        else:
            for item in self.entry.parse(subject, line):
                self._place(items, item)
                self._place(self.kept, item)
        await self.entry.store(subject, tuple(items))
        self.touched = True

    def _find(self, items: list[str], wanted: str) -> list[str]:
        """The items that ``-wanted`` takes away: the item itself, in any form, or its key."""
        try:
            canonical = self.entry.parse(self.file.subject, wanted)
        except Exception:
            canonical = ()
        found = [item for item in items if item == wanted or item in canonical or self.entry.key(item) == wanted]
        if found:
            return found
        raise NotFound(f"{quote(wanted)} is not in {self.file.name}, so it can't be removed")

    def _place(self, items: list[str], item: str) -> None:
        key = self.entry.key(item)
        for index, other in enumerate(items):
            if self.entry.key(other) == key:
                items[index] = item
                return
        items.append(item)

    async def truncate(self, size: int) -> None:
        if size == 0 and not self.transaction:
            self._begin()

    async def flush(self) -> None:
        if self.pending and self.refusal is None:
            data, self.pending = self.pending, b""
            with self._closing():
                await self._take(data, already=0, total=len(data))

    async def release(self) -> None:
        if self.refusal is not None:
            return
        await self.flush()
        if self.transaction and self.refusal is None:
            async with self.file.lock:
                if not self.wrote:
                    await self.entry.store(self.file.subject, None)
                    written(self.file)
                elif tuple(self.entry.show(self.file.subject)) != tuple(self.kept):
                    with self._closing():
                        await self.entry.store(self.file.subject, tuple(self.kept))
                        written(self.file)


class ControlHandle(Handle):
    """A control file. Reading from the descriptor that wrote gives the last command's outcome, wherever its offset is."""

    def __init__(self, file: File, *, caller: Caller, nursery: trio.Nursery) -> None:
        super().__init__(file)
        self.caller = caller
        self.nursery = nursery
        self.pending = b""
        self.outcome: bytes | None = None
        self.base: int | None = None

    async def read(self, offset: int, size: int) -> bytes:
        if self.outcome is None:
            return await super().read(offset, size)
        if self.base is None or offset < self.base:
            self.base = offset
        return self.outcome[offset - self.base :][:size]

    async def write(self, offset: int, data: bytes) -> int:
        whole = self.pending + data
        head, newline, rest = whole.rpartition(b"\n")
        if len(data) < WHOLE and rest:
            head, newline, rest = whole, b"", b""
        already, done = len(self.pending), 0
        self.pending = rest
        for line in (head + newline).splitlines(keepends=True):
            try:
                await self._command(text_of(line.removesuffix(b"\n")))
            except Exception:
                if done > already:
                    self.pending = b""
                    return done - already  # the refused command's turn comes with the caller's next write
                raise
            done += len(line)
        return len(data)

    async def _command(self, line: str) -> None:
        words = tuple(line.split())
        if not words:
            return
        assert isinstance(self.file.entry, Control)
        self.base = None
        self.outcome = b""
        try:
            verb = next((verb for verb in self.file.entry.verbs if verb.name == words[0]), None)
            if verb is None:
                verbs = ", ".join(verb.name for verb in self.file.entry.verbs)
                raise Invalid(f"{quote(words[0])} is not a command of {self.file.name}: {verbs}")
            self.file.subject.succeeded()  # before, so that what the command warns of stays to be read
            outcome = await self._run(verb, words[1:])
        except Exception as error:
            self.outcome = translate(error)[1].encode() + b"\n"
            raise
        self.outcome = outcome.encode(errors="surrogateescape") + b"\n"

    async def _run(self, verb: Verb[Subject], words: tuple[str, ...]) -> str:
        subject = self.file.subject
        if verb.cancelled:
            return await interruptible(self.caller, lambda: verb.run(subject, words))
        # The command goes on when its caller is interrupted: it belongs to the daemon's nursery, the caller only waits.
        finished = trio.Event()
        results: list[str] = []
        errors: list[Exception] = []

        async def run() -> None:
            try:
                results.append(await verb.run(subject, words))
            except Exception as error:
                errors.append(error)
            finally:
                finished.set()

        self.nursery.start_soon(run)
        try:
            await interruptible(self.caller, finished.wait)
        except Interrupted:
            self.nursery.start_soon(self._report_late, finished, errors)
            raise
        if errors:
            raise errors[0]
        return results[0] if results else ""

    async def _report_late(self, finished: trio.Event, errors: list[Exception]) -> None:
        """Nobody waits for the outcome any more: a failure still gets into ``error``."""
        await finished.wait()
        if errors:
            self.file.subject.failed(translate(errors[0])[1])

    async def flush(self) -> None:
        if self.pending:
            line, self.pending = self.pending, b""
            await self._command(text_of(line))

    async def release(self) -> None:
        await self.flush()

    async def truncate(self, size: int) -> None:
        """``>`` on a control file is harmless."""


class DocumentHandle(Handle):
    """A document: what was written is applied when a descriptor is closed after the last write, and once."""

    def __init__(self, file: File, *, truncated: bool) -> None:
        super().__init__(file)
        self.buffer: bytearray | None = bytearray() if truncated else None
        self.dirty = False
        self.wrote = False

    async def read(self, offset: int, size: int) -> bytes:
        if self.buffer is not None:
            return bytes(self.buffer[offset : offset + size])
        return await super().read(offset, size)

    async def write(self, offset: int, data: bytes) -> int:
        if self.buffer is None:
            self.buffer = bytearray(shown(self.file))
        if offset + len(data) > LONGEST:
            raise Refused(errno.EFBIG, f"longer than {LONGEST} bytes")
        if offset > len(self.buffer):
            self.buffer += bytes(offset - len(self.buffer))
        self.buffer[offset : offset + len(data)] = data
        self.dirty = self.wrote = True
        self.stamp = self.file.mtime
        return len(data)

    async def truncate(self, size: int) -> None:
        if self.buffer is None:
            self.buffer = bytearray(shown(self.file))
        if size < len(self.buffer):
            del self.buffer[size:]
        self.dirty = size != 0

    async def flush(self) -> None:
        # A shell flushes once before its first write (dup2): nothing written is nothing to apply yet.
        if self.dirty and self.buffer is not None:
            self.dirty = False
            async with self.file.lock:
                with self._closing():
                    await self.store(text_of(bytes(self.buffer)))

    async def release(self) -> None:
        if self.buffer is not None and not self.wrote:
            self.dirty = True
        await self.flush()


class StreamHandle(Handle):
    """A stream: blocks for the caller's sake, not the daemon's."""

    def __init__(self, file: File, channel: Channel, *, caller: Caller, nonblocking: bool) -> None:
        super().__init__(file)
        self.channel = channel
        self.caller = caller
        self.nonblocking = nonblocking
        self.rest = b""  # a shell's read takes a byte at a time

    async def read(self, offset: int, size: int) -> bytes:
        if not self.rest:
            self.rest = await self._receive()
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

    async def _receive(self) -> bytes:
        if self.channel.readable():
            return await self.channel.receive()
        if self.nonblocking:
            raise Refused(errno.EAGAIN, "")
        return await interruptible(self.caller, self.channel.receive)

    async def write(self, offset: int, data: bytes) -> int:
        if not self.channel.writable():
            if self.nonblocking:
                raise Refused(errno.EAGAIN, "")
            return await interruptible(self.caller, lambda: self.channel.send(data))
        return await self.channel.send(data)

    async def truncate(self, size: int) -> None:
        """``>`` on a stream is harmless."""

    async def release(self) -> None:
        self.channel.close()

    def poll(self) -> int:
        return (select.POLLIN if self.rest or self.channel.readable() else 0) | (
            select.POLLOUT if self.channel.writable() else 0
        )

    def on_ready(self, wake: Callable[[], None]) -> None:
        self.channel.on_ready(wake)


class ScratchHandle(Handle):
    """A file in memory."""

    def __init__(self, scratch: Scratch, *, truncated: bool) -> None:
        self.scratch = scratch
        if truncated:
            scratch.content.clear()

    async def read(self, offset: int, size: int) -> bytes:
        return bytes(self.scratch.content[offset : offset + size])

    async def write(self, offset: int, data: bytes) -> int:
        content = self.scratch.content
        if offset + len(data) > Scratch.LIMIT:
            raise Refused(errno.EFBIG, f"{self.scratch.name}: a scratch file holds at most {Scratch.LIMIT} bytes")
        if offset > len(content):
            content += bytes(offset - len(content))
        content[offset : offset + len(data)] = data
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


async def truncate(file: File, size: int) -> None:
    """truncate(2) of a file by name: to 0 it unsets a setting; a control file or stream does not mind."""
    if isinstance(file.entry, Control | Stream):
        return
    if size != 0 or not file.settable:
        raise Refused(errno.EINVAL if file.settable else errno.EACCES, f"{file.name} can't be cut to {size} bytes")
    async with file.lock:
        await Handle(file).store(None)


async def replace(file: File, content: bytes, caller: int) -> None:
    """The content of a scratch file becomes the setting's value, as one validated write."""
    async with file.lock:
        if isinstance(file.entry, List):
            entry = file.entry
            items: list[str] = []
            for line in text_of(content).splitlines():
                if line.strip():
                    for item in entry.parse(file.subject, line.strip()):
                        items = [other for other in items if entry.key(other) != entry.key(item)] + [item]
            await entry.store(file.subject, tuple(items) if content else None)
            written(file)
        else:
            text = text_of(content) if isinstance(file.entry, Document) else text_of(content.removesuffix(b"\n"))
            await Handle(file).store(text if content else None, caller)


async def open_file(file: File, flags: int, caller: int, number: int, nursery: trio.Nursery) -> Handle:
    """The handle for an open(2) of *file* with *flags*; *caller* is the opener's thread id, *number* the inode number it used."""
    writing = flags & os.O_ACCMODE != os.O_RDONLY
    truncated = bool(flags & os.O_TRUNC) and writing
    if file.lock.locked():  # a release is still at work: a later open sees it done
        async with file.lock:
            pass
    entry = file.entry
    if writing and not (file.settable or isinstance(entry, Control) or (isinstance(entry, Stream) and entry.writable)):
        raise Refused(errno.EACCES, f"{file.directory.place(file.name)} is read-only")
    match entry:
        case Stream(open=open_channel):
            channel = open_channel(file.subject)
            return StreamHandle(file, channel, caller=Caller(caller, number), nonblocking=bool(flags & os.O_NONBLOCK))
        case Control():
            return ControlHandle(file, caller=Caller(caller, number), nursery=nursery)
        case Report():
            return ReportHandle(file)
        case Value() if writing:
            return ValueHandle(file, truncated=truncated, caller=caller)
        case List() if writing:
            return ListHandle(file, truncated=truncated)
        case Document() if writing:
            return DocumentHandle(file, truncated=truncated)
    return Handle(file)
