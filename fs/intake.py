"""How the loop takes requests in: what pyfuse3 sees of trio.

pyfuse3 waits for each request with a ``trio.Lock`` and ``trio.lowlevel.wait_readable``: three turns of the loop, an epoll_ctl and
an epoll_wait, about half of what a read of a status file takes. Most requests do not come alone, though: a RELEASE is asked for
together with the next OPEN, a WRITE follows its FLUSH. So whoever has answered a request looks first whether there is another
(a poll(2) that does not wait), and gives its turn away only if there is none. pyfuse3 has this seam for asyncio: the ``trio`` that it
uses is an attribute of the module (its ``asyncio.enable``), and what stands here for it is what ``internal.pxi`` asks of it.
"""

from __future__ import annotations

import select
from types import SimpleNamespace, TracebackType
from typing import Final

import trio

_ROW: Final = 16
"""Requests that may be answered one after the other before the rest of the loop has its turn: about a millisecond."""


class Reading:
    """The right to wait for the next request: a lock that who has just given it back may take again at once.

    A ``trio.Lock`` is handed to who waits longest, and each taking of it is a turn of the loop. Here one of those who wait is woken
    when the lock is given back, and waits again if it has been taken meanwhile; so it is never free while all wait.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
        self._waiting.unpark()


class Intake:
    """Waits for requests on the descriptor that it is asked for first."""

    def __init__(self) -> None:
        self._poll: select.poll | None = None
        self._row = 0

    async def wait_readable(self, fd: int) -> None:
        """Return when there is a request on *fd*. Raises trio.ClosedResourceError when it is closed."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
        self._row += 1
        if self._row < _ROW and self._poll.poll(0):
            return
        self._row = 0
        await trio.lowlevel.wait_readable(fd)


def taking_in() -> SimpleNamespace:
    """The ``trio`` for pyfuse3."""
    lowlevel = SimpleNamespace(
        current_task=trio.lowlevel.current_task,
        current_trio_token=trio.lowlevel.current_trio_token,
        notify_closing=trio.lowlevel.notify_closing,
        wait_readable=Intake().wait_readable,
    )
    return SimpleNamespace(
        ClosedResourceError=trio.ClosedResourceError,
        Lock=Reading,
        from_thread=trio.from_thread,
        lowlevel=lowlevel,
        open_nursery=trio.open_nursery,
    )
