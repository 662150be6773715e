"""A container's log on disk: ``log`` holds the bytes as they came, ``log.index`` says what they are.

Each line of the index is ``TIME STREAM OFFSET LENGTH``: when (RFC 3339, UTC, nanoseconds) *length* bytes of the
stream stdout or stderr were put at *offset* of ``log``. When ``log`` is full, both become ``log.1`` and ``log.1.index``,
and new ones are begun. ``log`` is linked to its other name, not renamed, until an empty file takes its place: it is there at
any moment. ``log.index`` is not there between: whoever opens the two together is not to get one of each.

Bytes are moved by splice(2) from the pipe to the file: a byte is in one of the two at any moment, and SIGKILL can't
come in between. What can be lost with the process is an index line, or the end of a rotation; ``Log`` mends both when it
opens the files. Whoever shortens ``log`` (``: > log``) begins it anew, and so the index.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

STREAMS = ("stdout", "stderr")
_SPLICE_BYTES = 1 << 20
_TAIL_BYTES = 4096  # more than a line of the index may have
_LEAST_INDEX = 1 << 20  # an index of tiny pieces may become this large, whatever the limit of the log is


class Log:
    """The files of one log, open. *limit* is what both generations of ``log`` may have in bytes, None if anything."""

    __slots__ = (
        "_directory",
        "_fd",
        "_index",
        "_index_size",
        "_rotating",
        "_second",
        "_stamp",
        "limit",
        "offset",
        "pending",
    )

    def __init__(self, directory: str, limit: int | None) -> None:
        self._directory = directory
        self.limit = limit
        self.offset = 0  # where the next byte goes
        self.pending = b""  # index lines that the disk had no room for
        self._rotating = False  # begun, and cut short as the disk had no room
        self._second = -1
        self._stamp = ""
        self._finish_rotation()
        self._fd = self._index = -1
        try:
            self._open()
            self._mend()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the files."""
        for fd in (self._fd, self._index):
            if fd >= 0:
                os.close(fd)
        self._fd = self._index = -1

    def take(self, pipe: int, stream: str, most: int = _SPLICE_BYTES) -> int:
        """Moves up to *most* bytes out of *pipe*; how many. BlockingIOError if it is empty, OSError of the disk."""
        if self.pending:
            self._append(b"")
        self._notice_truncation()
        if self._rotating or self._is_full():
            self._rotate()
        half = self._half()
        if half is not None:
            most = min(most, half - self.offset)
        moved = os.splice(pipe, self._fd, most, offset_dst=self.offset, flags=os.SPLICE_F_NONBLOCK)
        if moved:
            line = f"{self._now()} {stream} {self.offset} {moved}\n".encode()
            self.offset += moved
            self._append(line)
        return moved

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        log = os.open(f"{self._directory}/log", flags, 0o600)
        try:
            index = os.open(f"{self._directory}/log.index", flags | os.O_APPEND, 0o600)
        except BaseException:
            os.close(log)
            raise
        self.close()
        self._fd, self._index = log, index
        self.offset = os.fstat(self._fd).st_size
        self._index_size = os.fstat(self._index).st_size

    # Limits

    def _half(self) -> int | None:
        return None if self.limit is None else max(1, self.limit // 2)

    def _is_full(self) -> bool:
        half = self._half()
        return half is not None and (self.offset >= half or self._index_size >= max(half, _LEAST_INDEX))

    def _rotate(self) -> None:
        # That log and log.1 are one file tells what was being done (see _finish_rotation). When the disk has no room for a
        # step this is called again: what is not log any more must not become log.1 once more.
        log, self._rotating = f"{self._directory}/log", True
        if _is_one(self._fd, log) and not _is_one(self._fd, f"{log}.1"):
            os.link(log, self._next())
            os.rename(f"{log}.next", f"{log}.1")
        self._finish_rotation()
        if self.pending:
            self._append(b"")  # to the index that they belong to: there is room now, or they are lost
            self.pending = b""
        self._open()
        self._mend()
        self._rotating = False

    def _finish_rotation(self) -> None:
        log, next = f"{self._directory}/log", self._next()
        if os.path.lexists(f"{log}.1") and (_is_one(log, f"{log}.1") or not os.path.lexists(log)):
            os.close(os.open(next, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with suppress(FileNotFoundError):
                os.rename(f"{log}.index", f"{log}.1.index")
            os.rename(next, log)

    def _next(self) -> str:
        """The path of what is about to become a file of the log; nothing is there."""
        path = f"{self._directory}/log.next"
        with suppress(FileNotFoundError):
            os.unlink(path)
        return path

    # The index

    def _append(self, line: bytes) -> None:
        """Adds to the index. While the disk has no room the lines wait; the log's bytes are safe without them."""
        data = self.pending + line
        try:
            while data:
                written = os.write(self._index, data)
                self._index_size += written
                data = data[written:]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
        self.pending = data

    def _mend(self) -> None:
        """Makes the index cover the log: removes half a line at its end, adds one for bytes that have none."""
        size = self._index_size
        tail = os.pread(self._index, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            size -= len(tail) - whole
            os.ftruncate(self._index, size)
            self._index_size = size
        end = 0
        if whole:
            fields = tail[:whole].splitlines()[-1].split()
            try:
                end = int(fields[2]) + int(fields[3])
            except (IndexError, ValueError):
                end = self.offset + 1  # nothing that this module has written
        if end > self.offset:
            self._restart_index()
            end = 0
        if end < self.offset:
            self._append(f"{self._now()} stdout {end} {self.offset - end}\n".encode())

    def _restart_index(self) -> None:
        os.ftruncate(self._index, 0)
        self._index_size = 0
        self.pending = b""

    def _notice_truncation(self) -> None:
        size = os.fstat(self._fd).st_size
        if size < self.offset:
            self.offset = size
            self._restart_index()
            if size:
                self._append(f"{self._now()} stdout 0 {size}\n".encode())

    def _now(self) -> str:
        now = time.time_ns()
        second, rest = divmod(now, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{rest:09d}Z"


def _is_one(one: int | str, other: str) -> bool:
    """Whether two paths, or a descriptor and a path, are the same file."""
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except FileNotFoundError:
        return False
