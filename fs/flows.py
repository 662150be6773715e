"""What stands behind an open file that is more than a text: bytes that come and go, that lie somewhere, that are on their way in.

The entries of the tree's tables say how one is opened; the handles give the kernel what it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Channel(Protocol):
    """One open stream. ``receive`` and ``send`` block in trio's sense; the machinery ends them for a signalled caller."""

    async def receive(self) -> bytes:
        """Some bytes once there are some; empty at the end."""

    async def send(self, data: bytes) -> int:
        """Take *data*, or its beginning, once there is room; the number of bytes taken."""

    def readable(self) -> bool:
        """Whether ``receive`` would return at once."""

    def writable(self) -> bool:
        """Whether ``send`` would return at once."""

    def on_ready(self, wake: Callable[[], None]) -> None:
        """Call *wake* whenever readiness may have changed."""

    def close(self) -> None:
        """The file was closed for the last time."""


class Extent(Protocol):
    """Bytes that are somewhere, and stay while it is open. Safe in any thread."""

    def cached(self, offset: int, size: int) -> bytes | None:
        """Up to *size* bytes from *offset*, fewer only at the end, without waiting for a disk; None when that is not possible."""

    def read(self, offset: int, size: int) -> bytes:
        """The same, and it may block."""

    def close(self) -> None:
        """The file was closed for the last time."""


class Inflow(Protocol):
    """Bytes on their way in, from one open file."""

    def take(self, data: memoryview) -> int:
        """Take *data*, or its beginning; the number of bytes. BlockingIOError without room, BrokenPipeError when it has failed."""

    async def room(self) -> None:
        """Return when ``take`` may take something."""

    async def finish(self) -> None:
        """There is no more. Return when what is made of them is there, raise why it is not; cancelled by nobody."""

    async def abandon(self) -> None:
        """It is not wanted any more; return when nothing is left of it."""

    def close(self) -> None:
        """It has finished, or failed, or was abandoned."""
