"""Files that take something in while it is written: what comes is handed on at once, and close(2) returns when it is done.

Only from the beginning to the end: a hole that cp(1) leaves is zeros, going back is ESPIPE. A writer waits when what takes the bytes
is slower, until a signal of its own. Each close(2) comes here, and the kernel does not tell which is the last, so who else has the
file open is looked up in /proc: then it goes on, as with ``{ cat a; cat b; } > FILE``; a shell closes one descriptor before anything
is written. A failure is told once, by the write that it is known in or by the close, and the file is gone.
"""

from __future__ import annotations

import errno
import select
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pydock.fs.blocking import At, Caller, Interrupted, interruptible
from pydock.fs.errors import translate
from pydock.fs.flows import Inflow
from pydock.fs.handle import Handle
from pydock.fs.node import File, Refused

_ZEROS: Final = bytes(1 << 20)


class InletHandle(Handle):
    """One open file, and what is made of it."""

    anywhere = True

    def __init__(self, file: File, inflow: Inflow, caller: Caller) -> None:
        super().__init__(file)
        file.draft = 0
        self.inflow = inflow
        self.caller = caller
        self.position = 0
        self.size = 0  # what truncate(2) has made of it
        self.failed = 0  # the errno
        self.over = False

    async def read(self, offset: int, size: int) -> bytes:
        raise Refused(errno.EINVAL, f"{self._place} can only be written")

    async def write(self, offset: int, data: bytes) -> int:
        if self.failed or self.over:
            raise Refused(self.failed or errno.EPIPE, "")
        if offset < self.position:
            words = f"{self._place} is taken from its beginning to its end, and goes on at byte {self.position}"
            raise Refused(errno.ESPIPE, words)
        try:
            await self._fill(offset)
            return await self._take(data)
        except BrokenPipeError:
            await self._end()  # tells why
            raise Refused(errno.EPIPE, f"{self._place}: nothing is wanted behind byte {self.position}") from None

    async def _fill(self, upto: int) -> None:
        while self.position < upto:
            await self._take(_ZEROS[: upto - self.position])

    async def _take(self, data: bytes) -> int:
        """Hand *data* on; all of it, or what was taken when a signal came, or there is no room and no waiting."""
        view = memoryview(data)
        while view:
            try:
                taken = self.inflow.take(view)
            except BlockingIOError:
                try:
                    # which looks at the flags: tar opens with O_NONBLOCK, and takes it back when it is told to wait
                    await interruptible(self.caller, self.inflow.room, heeds_flags=True)
                except Refused:
                    if len(view) == len(data):
                        raise
                    break
                continue
            view = view[taken:]
            self.position += taken
        self.file.draft = self.position
        return len(data) - len(view)

    async def truncate(self, size: int) -> None:
        if size < self.position:
            raise Refused(errno.EINVAL, f"{self._place} can't be cut to {size} bytes: {self.position} are taken")
        self.size = size

    @property
    def unfinished(self) -> bool:
        return not self.over

    async def flush(self) -> None:
        self.caller.at = At.ALONE
        await self._end()

    async def release(self) -> None:
        self.caller.at = At.NOWHERE
        await self._end()

    async def _end(self) -> None:
        """There is no more: what has come is all, and its outcome that of the file."""
        if self.over:
            return
        self.over = True
        try:
            with suppress(BrokenPipeError):
                await self._fill(self.size)
            await interruptible(self.caller, self.inflow.finish)
        except Exception as error:
            if isinstance(error, Interrupted):
                await self.inflow.abandon()
            self.failed, words = translate(error)
            raise Refused(self.failed, words) from None
        finally:
            self.inflow.close()

    @property
    def _place(self) -> str:
        return self.file.directory.place(self.file.name)

    def poll(self) -> int:
        return select.POLLOUT

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Regular files are always ready, and a writer that finds no room waits, or gets EAGAIN."""
