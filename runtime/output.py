"""What a process writes, for those who read along: its log, piece by piece, from a moment on.

The logger moves output into the log and nothing else reads it on the way, so whoever reads along reads the log: any number of
readers cost the process nothing, and a slow one holds nobody up. ``log.index`` tells what belongs to which stream. A reader
keeps the files that it reads open, so that it may be one whole log behind; who is further behind is told that bytes are lost.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.errors import Failed

_INDEX_BYTES: Final = 65536
_MARK_BYTES: Final = 64  # a line's time and more: no two ends of an index are alike
#: What the last screenful of a terminal may have: rows, bytes.
_SCREEN: Final = (24, 4096)


class Bell:
    """Wakes everybody who waits for it, each time it is rung."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._calls: list[Callable[[], None]] = []

    def ring(self) -> None:
        event, self._event = self._event, trio.Event()
        event.set()
        calls, self._calls = self._calls, []
        for call in calls:
            call()

    async def wait(self) -> None:
        """Returns when it is rung the next time."""
        await self._event.wait()

    def call(self, callback: Callable[[], None]) -> None:
        """Have *callback* called when it is rung the next time."""
        self._calls.append(callback)


class Tail:
    """What comes into the log in *directory* from now on, of *streams* (``stdout``, ``stderr``).

    With *screen* the last screenful of what is there comes first.
    """

    def __init__(self, directory: Path, streams: Collection[str], *, screen: bool = False) -> None:
        self._directory = directory
        self._streams = frozenset(name.encode() for name in streams)
        self._index = self._log = -1
        self._position = 0  # in the index
        self._last = (
            b""  # what stands right before that: is it another, somebody has cut the log, and the index is a new one
        )
        self._lines: list[bytes] = []
        self._piece = (0, 0)  # what is to be read of the log next: offset, length
        self._first = b""
        if self._open("log"):
            self._go_to(os.fstat(self._index).st_size)
            if screen:
                self._first = self._screen()

    def close(self) -> None:
        """Closes the files."""
        for fd in (self._index, self._log):
            if fd >= 0:
                os.close(fd)
        self._index = self._log = -1

    def read(self, size: int) -> bytes:
        """The next bytes, at most *size*; empty when there are none yet. EOVERFLOW when some have been lost."""
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        while self._index >= 0 or self._open("log"):
            offset, length = self._piece
            if length:
                data = os.pread(self._log, min(size, length), offset)
                self._piece = (offset + len(data), length - len(data)) if data else (0, 0)
                if data:
                    return data
            elif self._next_lines():
                self._take_line(self._lines.pop(0))
            elif not self._next_generation():
                break
        return b""

    def _open(self, name: str) -> bool:
        """Opens a generation, *name* ``log`` or ``log.1``; false while it is being renamed."""
        self.close()
        log, index = f"{self._directory}/{name}", f"{self._directory}/{name}.index"
        try:
            self._index = os.open(index, os.O_RDONLY | os.O_CLOEXEC)
            self._log = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
            if _is(self._index, index) and _is(self._log, log):
                self._lines, self._piece = [], (0, 0)
                self._go_to(0)
                return True
        except FileNotFoundError:
            pass
        self.close()
        return False

    def _screen(self) -> bytes:
        rows, most = _SCREEN
        size = os.fstat(self._log).st_size
        data = os.pread(self._log, most, max(0, size - most))
        lines = data.split(b"\n")
        return b"\n".join(lines[-rows:] if size <= most else lines[1:][-rows:])

    def _next_lines(self) -> bool:
        """Whether there are lines of the index to be taken; reads more of it if need be."""
        if self._lines:
            return True
        if self._before(self._position) != self._last:
            self._go_to(0)
        data = os.pread(self._index, _INDEX_BYTES, self._position)
        whole = data.rfind(b"\n") + 1
        self._lines = data[:whole].splitlines()
        if whole:
            self._go_to(self._position + whole)
        return bool(self._lines)

    def _go_to(self, position: int) -> None:
        self._position, self._last = position, self._before(position)

    def _before(self, position: int) -> bytes:
        begin = max(0, position - _MARK_BYTES)
        return os.pread(self._index, position - begin, begin)

    def _take_line(self, line: bytes) -> None:
        fields = line.split()
        with suppress(IndexError, ValueError):
            if fields[1] in self._streams:
                self._piece = (int(fields[2]), int(fields[3]))

    def _next_generation(self) -> bool:
        """Goes on to the log that has come after this one, when all of this one is read; false when this is the newest."""
        try:
            if _is(self._index, f"{self._directory}/log.index"):
                return False
            follows = "log" if _is(self._index, f"{self._directory}/log.1.index") else "log.1"
        except FileNotFoundError:
            return False
        if self._next_lines():  # they came between the last look and the renaming
            return True
        if not self._open(follows):
            return False
        if follows == "log.1":
            raise Failed(
                errno.EOVERFLOW, "output is lost to this reader: more came than log_max lets be kept meanwhile"
            )
        return True


def _is(fd: int, path: str) -> bool:
    """Whether *path* is the open file *fd*."""
    ours, theirs = os.fstat(fd), os.stat(path)
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
