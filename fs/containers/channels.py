"""What an open stream of a process is: its end that is awaited, its input, its output, its terminal."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable, Collection
from contextlib import ExitStack

import trio
from pydock.fs.node import Refused
from pydock.runtime.errors import Busy, Failed
from pydock.runtime.output import Tail
from pydock.runtime.process import Process
from pydock.runtime.streams import WriteEnd

_MOST = 1 << 17  # bytes given at a time, as much as FUSE asks for


class Wait:
    """Blocks until the run that is awaited has ended, then gives its exit code, once."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._end = process.end
        self._given = False

    async def receive(self) -> bytes:
        if self._given:
            return b""
        await self._end.event.wait()
        self._given = True
        return b"\n" if self._end.code is None else f"{self._end.code}\n".encode()

    async def send(self, data: bytes) -> int:
        raise Refused(errno.EACCES, "wait is read-only")

    def readable(self) -> bool:
        return self._given or self._end.event.is_set()

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        if self.readable():
            wake()
            return

        async def watch() -> None:
            await self._end.event.wait()
            wake()

        self._process.engine.spawn(watch)

    def close(self) -> None:
        """Nothing is held."""


class Input:
    """What the process called ``label()`` reads, opened at the first write of each open file."""

    def __init__(self, process: Process, label: Callable[[], str]) -> None:
        self._process = process
        self._label = label
        self._end: WriteEnd | None = None

    async def receive(self) -> bytes:
        return b""

    async def send(self, data: bytes) -> int:
        """A pipe takes what it has room for; 0 room is waited for."""
        while True:
            end = self._open()
            try:
                return os.write(end.fd, data)
            except BlockingIOError:
                with trio.move_on_after(0.5):  # and look again whether it still runs
                    await end.room()
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                raise Refused(errno.EPIPE, f"{self._label()} has closed its standard input") from None

    def _open(self) -> WriteEnd:
        if not self._process.running:
            self.close()
            raise Busy(f"stdin: {self._label()} is not running: it is {self._process.state}")
        if self._end is None or self._end.fd < 0:
            self._end = self._opened()
        return self._end

    def _opened(self) -> WriteEnd:
        """A new one: it lasts until it, or the process's whole stdin, is closed."""
        if self._process.streams.stdin_closed:
            raise Refused(errno.EPIPE, f"the standard input of {self._label()} has been closed")
        try:
            return self._process.streams.open_input()
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise Refused(errno.EPIPE, f"{self._label()} has closed its standard input") from None
            raise

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        if not self._process.running or self._process.streams.stdin_closed:
            return True  # the error is there at once
        try:
            end = self._open()
        except Refused:
            return True
        return bool(_writable(end.fd))

    def on_ready(self, wake: Callable[[], None]) -> None:
        if self.writable():
            wake()
            return

        async def watch() -> None:
            try:
                end = self._opened()  # one of its own, as a writer may wait as well
            except (OSError, Refused):
                pass  # which the next write tells
            else:
                try:
                    await end.room()
                finally:
                    end.close()
            wake()

        self._process.engine.spawn(watch)

    def close(self) -> None:
        if self._end is not None:
            self._end.close()


def _writable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


class Output:
    """What the process writes to *streams* from now on, until the end of the run that goes on, or comes."""

    def __init__(self, process: Process, streams: Collection[str], *, screen: bool = False) -> None:
        self._process = process
        self._end = process.end
        self._tail = Tail(process.streams.directory, streams, screen=screen)
        self._reading = ExitStack()
        self._reading.enter_context(process.streams.read_along())
        self._next = b""
        self._failure: Failed | None = None

    async def receive(self) -> bytes:
        while True:
            over = self._end.event.is_set()  # first: what comes before the end is in the log by then
            if self._fill() or over:
                if self._failure is not None:
                    failure, self._failure = self._failure, None
                    raise failure
                data, self._next = self._next, b""
                return data
            await self._process.streams.news.wait()

    def _fill(self) -> bool:
        if not self._next and self._failure is None:
            try:
                self._next = self._tail.read(_MOST)
            except Failed as error:
                self._failure = error
        return bool(self._next) or self._failure is not None

    async def send(self, data: bytes) -> int:
        raise Refused(errno.EACCES, "output can't be written to")

    def readable(self) -> bool:
        return self._fill() or self._end.event.is_set()

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        if self.readable():
            wake()
        else:
            self._process.streams.news.call(wake)

    def close(self) -> None:
        self._reading.close()
        self._tail.close()


class Console:
    """The terminal of a process, both ways: what it shows, the last screenful first, and what is typed."""

    def __init__(self, process: Process, label: Callable[[], str]) -> None:
        self._output = Output(process, ("stdout",), screen=True)
        self._input = Input(process, label)

    async def receive(self) -> bytes:
        return await self._output.receive()

    async def send(self, data: bytes) -> int:
        return await self._input.send(data)

    def readable(self) -> bool:
        return self._output.readable()

    def writable(self) -> bool:
        return self._input.writable()

    def on_ready(self, wake: Callable[[], None]) -> None:
        # What is awaited is not told: output, as whoever waits for room can hardly be kept waiting by a terminal.
        self._output.on_ready(wake)
        if not self._input.writable():
            self._input.on_ready(wake)

    def close(self) -> None:
        self._output.close()
        self._input.close()


class NoConsole:
    """That of a process without a terminal: empty, so that whoever copies a whole directory gets past it."""

    def __init__(self, label: Callable[[], str]) -> None:
        self._label = label

    async def receive(self) -> bytes:
        return b""

    async def send(self, data: bytes) -> int:
        raise Refused(errno.ENOTTY, f"{self._label()} has no terminal: set tty to 1 before it starts")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        wake()

    def close(self) -> None:
        """Nothing is held."""


def console(process: Process, label: Callable[[], str], *, tty: bool) -> Console | NoConsole:
    """The terminal of a process that was told to have one, or not."""
    return Console(process, label) if tty else NoConsole(label)
