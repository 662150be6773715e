"""``wait`` and ``stdin``: the streams of a container."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable

import trio
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Entry, Refused, Stream
from pydock.runtime.container import Container
from pydock.runtime.errors import Busy

C = ContainerSubject


class Wait:
    """Blocks until the run that is awaited has ended, then gives its exit code, once."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._end = container.process.end
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

        self._container.engine.spawn(watch)

    def close(self) -> None:
        """Nothing is held."""


class Stdin:
    """The writing end of the container's standard input, opened by name at the first write of each open file."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._fd = -1

    async def receive(self) -> bytes:
        return b""

    async def send(self, data: bytes) -> int:
        """A pipe takes what it has room for; 0 room is waited for."""
        while True:
            fd = self._open()
            try:
                return os.write(fd, data)
            except BlockingIOError:
                with trio.move_on_after(0.5):  # and look again whether it still runs
                    await trio.lowlevel.wait_writable(fd)
            except BrokenPipeError:
                raise Refused(errno.EPIPE, f"{self._container.name} has closed its standard input") from None

    def _open(self) -> int:
        if not self._container.record.pid:
            self.close()
            raise Busy(f"stdin: {self._container.name} is not running: it is {self._container.state}")
        if self._fd < 0:
            if self._container.process.stdin_closed:
                raise Refused(errno.EPIPE, f"the standard input of {self._container.name} has been closed")
            try:
                self._fd = os.open(self._container.process.stdio.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    raise Refused(errno.EPIPE, f"{self._container.name} has closed its standard input") from None
                raise
        return self._fd

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        if not self._container.record.pid or self._container.process.stdin_closed:
            return True  # the error is there at once
        try:
            fd = self._open()
        except Refused:
            return True
        return bool(_writable(fd))

    def on_ready(self, wake: Callable[[], None]) -> None:
        if self.writable():
            wake()
            return

        async def watch() -> None:
            fd = os.dup(self._fd)
            try:
                await trio.lowlevel.wait_writable(fd)
            finally:
                os.close(fd)
            wake()

        self._container.engine.spawn(watch)

    def close(self) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1


def _writable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


STREAMS: tuple[Entry[C], ...] = (
    Stream(
        name="wait",
        open=lambda c: Wait(c.container),
        doc="Blocks until the container is not running (or restarting), then gives the exit code; at once if it has "
        "exited; before the first start, until that run ends.",
    ),
    Stream(
        name="stdin",
        writable=True,
        open=lambda c: Stdin(c.container),
        doc="The container's standard input, once it runs: blocks until what is written has been taken by the pipe. EBUSY while "
        "it does not run, EPIPE when it has closed it or after the command ``eof``.",
    ),
)
