"""Open files whose calls may block: control files, where a line is a command that is finished when the write returns, and streams.

A command goes on when its caller is interrupted, unless it is one that a signal cancels.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from typing import Final

import trio
from pydock.fs.blocking import PERIOD, Caller, Interrupted, interruptible
from pydock.fs.errors import translate
from pydock.fs.flows import Channel
from pydock.fs.handle import LONGEST, WHOLE, Handle, lines_of, text_of, too_long
from pydock.fs.node import (
    Control,
    File,
    Refused,
    Subject,
    Verb,
)
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_arguments, quote


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
        self.pending = b""  # nothing is left to run at the close when a command fails
        if len(whole) > LONGEST:
            raise too_long(self.file.path)
        for line in lines_of(head + newline):
            try:
                await self._command(text_of(line.removesuffix(b"\n"), self.file.path))
            except Exception:
                if done > already:
                    return done - already  # the refused command's turn comes with the caller's next write
                raise
            done += len(line)
        self.pending = rest
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
            outcome = await self._run(verb, (parse_arguments(line) if verb.quoted else words)[1:])
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
            with trio.move_on_after(PERIOD):  # most are done by then, and nobody needs to look at the caller
                await finished.wait()
            if not finished.is_set():
                await interruptible(self.caller, finished.wait, first=0.0)
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

    @property
    def unfinished(self) -> bool:
        return bool(self.pending)

    async def flush(self) -> None:
        if self.unfinished:
            line, self.pending = self.pending, b""
            await self._command(text_of(line, self.file.path))

    async def release(self) -> None:
        await self.flush()

    async def truncate(self, size: int) -> None:
        """``>`` on a control file is harmless."""


class StreamHandle(Handle):
    """A stream: blocks for the caller's sake, not the daemon's.

    head(1) and a shell's ``read`` take more than they need and lseek(2) back to give up the rest, and take a file that is
    no pipe and can't seek for broken: so what was given last is kept, and given again to who comes back for it. A write moves the
    offset, too, with O_APPEND to the beginning: who reads after that has not come back.
    """

    AGAIN: Final = 65536

    def __init__(self, file: File, channel: Channel, *, caller: Caller, nonblocking: bool) -> None:
        super().__init__(file)
        self.channel = channel
        self.caller = caller
        self.nonblocking = nonblocking
        self.rest = b""  # received and not given yet: a shell's read takes a byte at a time
        self.given = b""  # the last bytes before ``position``
        self.position = 0
        self.written = False

    async def read(self, offset: int, size: int) -> bytes:
        if self.written:
            self.written, self.given, self.position = False, b"", offset
        behind = self.position - offset
        if 0 < behind <= len(self.given):
            return self.given[-behind:][:size]
        if not self.rest:
            self.rest += await self._receive()
        data, self.rest = self.rest[:size], self.rest[size:]
        self.given = ((self.given if behind == 0 else b"") + data)[-self.AGAIN :]
        self.position = offset + len(data)
        return data

    async def _receive(self) -> bytes:
        if self.channel.readable():
            return await self.channel.receive()
        if self.nonblocking:
            raise Refused(errno.EAGAIN, "")
        return await interruptible(self.caller, self.channel.receive, heeds_flags=True, reading=True)

    async def write(self, offset: int, data: bytes) -> int:
        self.written = True
        if not self.channel.writable():
            if self.nonblocking:
                raise Refused(errno.EAGAIN, "")
            return await interruptible(self.caller, lambda: self.channel.send(data), heeds_flags=True)
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
