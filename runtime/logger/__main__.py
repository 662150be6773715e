"""The logger: moves what containers write from their named pipes into their logs.

It loses nothing by dying: bytes wait in the pipes, which the container and the keeper hold open, and the next logger
goes on where this one was (``pydock.runtime.logger.index``). It opens the pipes for reading and writing, so that there
is no end of file to run into between one holder and the next.

A pipe that has been emptied is left alone for a few milliseconds while its writer goes on, so that many small writes
become one move and one line of the index; one that was found nearly full is not. The first output after silence
is moved at once.

A terminal's output goes from its master into the pipe of stdout, and from there into the log: so its bytes, too, are where
the next logger finds them.

When the disk is full the bytes stay in the pipe, and the writer waits, until there is room: tried every second.

Requests (``pydock.runtime.serving``):

- ``follow {id, stdout, stderr, directory, log_max}``: paths of named pipes, the directory of the log, bytes or null; with a
  descriptor, which is the master of a terminal
- ``drain {id}`` -> ``{offset}`` when all that was in the pipes at the time of the request is in the log
- ``finish {id}``: ``drain`` and, if that went well, ``unfollow``
- ``limit {id, log_max}``, ``unfollow {id}``, ``list`` -> ``{followed: [id, ...]}``
- ``grown {id, moves}`` -> ``{moves}`` once that is another number than the one the client knows: bytes have come into the log

Events: ``{"event": "full", id, error}`` when a log can't take bytes, ``{"event": "relieved", id}`` when it can again.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import sys
import termios
import time

from pydock.runtime import wire
from pydock.runtime.logger.index import STREAMS, Log
from pydock.runtime.serving import Options, Peer, Server, begin
from pydock.runtime.wire import Message

_PIPE_BYTES = 1 << 20
_FIRST_REST = 0.004  # seconds
_LEAST_REST = 0.001
_LONGEST_REST = 0.016
_RETRY = 1.0
_TERMINAL_BYTES = 1 << 16
_FULL_REST = 0.02  # seconds that a terminal is left alone while its pipe is full
_LONGEST_DRAIN = 2.0


class Stream:
    """One pipe."""

    __slots__ = ("capacity", "fd", "log", "name", "rest", "resting")

    def __init__(self, log: Followed, name: str, path: str) -> None:
        self.log = log
        self.name = name
        self.rest = _FIRST_REST  # seconds: how long it is left alone after it has been emptied
        self.resting = False
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self.capacity = fcntl.fcntl(self.fd, fcntl.F_GETPIPE_SZ)

    def adapt(self, moved: int) -> float:
        """How long to let it fill after *moved* bytes came out of it: so that it is about a quarter full, not more.

        A pipe that fills gets more room first. (Small writes don't use the ends of its pages: full may be well below its
        capacity.)
        """
        if moved >= self.capacity // 4:
            self.rest = max(_LEAST_REST, self.rest / 2)
            if self.capacity < _PIPE_BYTES:
                self.enlarge()
                return 0.0
            return 0.0 if moved >= self.capacity // 2 else self.rest
        if moved < self.capacity // 16:
            self.rest = min(_LONGEST_REST, self.rest * 2)
        return self.rest

    def waiting(self) -> int:
        """The bytes in the pipe."""
        count = array.array("i", [0])
        fcntl.ioctl(self.fd, termios.FIONREAD, count)
        return count[0]

    def enlarge(self) -> None:
        """Gives the pipe more room, once it has been seen to need it: room that is never used costs memory, too."""
        try:
            self.capacity = fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError as error:  # EPERM: beyond pipe-max-size or the user's pages. It works without.
            if error.errno not in (errno.EPERM, errno.EBUSY, errno.ENOMEM):
                raise


class Terminal:
    """The master of a terminal, whose output belongs into the pipe *into*."""

    __slots__ = ("fd", "into", "resting")

    def __init__(self, fd: int, into: Stream) -> None:
        self.fd = fd
        self.into = into
        self.resting = False  # it is not watched: its pipe is full, or nobody has it open
        os.set_blocking(fd, False)

    def move(self) -> bool:
        """Moves what there is, or what the pipe has room for; whether there was anything. EIO after the hang-up."""
        moved = False
        try:
            while os.splice(self.fd, self.into.fd, _TERMINAL_BYTES, flags=os.SPLICE_F_NONBLOCK):
                moved = True
        except BlockingIOError:
            pass
        return moved


class Followed:
    """A container's log and its pipes."""

    __slots__ = ("closed", "full", "id", "log", "moves", "streams", "terminal", "waiters")

    def __init__(self, id: str, directory: str, limit: int | None, pipes: list[str], terminal: int | None) -> None:
        self.id = id
        self.closed = False
        self.full = False
        self.moves = 0  # how often bytes came into the log
        self.waiters: dict[Peer, object] = {}  # who wants to know the next time, and the number of that request
        self.streams: list[Stream] = []
        self.terminal: Terminal | None = None
        self.log = Log(directory, limit)
        try:
            for name, path in zip(STREAMS, pipes, strict=True):
                self.streams.append(Stream(self, name, path))
            if terminal is not None:
                self.terminal = Terminal(terminal, self.streams[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes files and pipes."""
        self.closed = True
        self.log.close()
        for stream in self.streams:
            os.close(stream.fd)
        if self.terminal is not None:
            os.close(self.terminal.fd)


class Logger(Server):
    """The table of logs."""

    def __init__(self, options: Options) -> None:
        super().__init__(begin("logger", options, many_files=True))
        self.followed: dict[str, Followed] = {}

    def idle(self) -> bool:
        return not self.followed

    def handle(self, peer: Peer, message: Message, fds: list[int]) -> Message | tuple[Message, list[int]] | None:
        match message.get("do"):
            case "follow":
                return self._follow(message, fds)
            case "grown":
                return self._grown(peer, message)
            case "drain":
                return self._drain(self._of(message))
            case "finish":
                return self._finish(wire.text(message, "id"))
            case "limit":
                self._of(message).log.limit = _limit(message)
                return {}
            case "unfollow":
                self._unfollow(wire.text(message, "id"))
                return {}
            case "list":
                return {"followed": list(self.followed)}
            case _:
                return super().handle(peer, message, fds)

    def _finish(self, id: str) -> Message:
        if id in self.followed:
            self._drain(self.followed[id])
            self._unfollow(id)
        return {}

    def _unfollow(self, id: str) -> None:
        item = self.followed.pop(id, None)
        if item is not None:
            self._close(item)

    def _of(self, message: Message) -> Followed:
        id = wire.text(message, "id")
        if id not in self.followed:
            raise OSError(errno.ENOENT, f"{id} is not followed")
        return self.followed[id]

    def _follow(self, message: Message, fds: list[int]) -> Message:
        id = wire.text(message, "id")
        pipes = [wire.text(message, name) for name in STREAMS]
        before = self.followed.pop(id, None)
        if before is not None:
            self._close(before)
        terminal = os.dup(fds[0]) if fds else None
        item = Followed(id, wire.text(message, "directory"), _limit(message), pipes, terminal)
        self.followed[id] = item
        for stream in item.streams:
            self._wake(stream)
        if item.terminal is not None:
            self._watch_terminal(item.terminal)
        return {}

    def _grown(self, peer: Peer, message: Message) -> Message | None:
        item = self._of(message)
        if item.moves != message.get("moves"):
            return {"moves": item.moves}
        if peer in item.waiters:  # one answer is enough for a client that asks again
            self.reply(peer, item.waiters[peer], {"moves": item.moves})
        item.waiters[peer] = message.get("seq")
        return None

    def _tell_growth(self, item: Followed) -> None:
        waiters, item.waiters = item.waiters, {}
        for peer, seq in waiters.items():
            self.reply(peer, seq, {"moves": item.moves})

    def _close(self, item: Followed) -> None:
        for stream in item.streams:
            if not stream.resting:
                self.unwatch(stream.fd)
        if item.terminal is not None and not item.terminal.resting:
            self.unwatch(item.terminal.fd)
        item.close()
        self._tell_growth(item)

    # Moving

    def _watch_terminal(self, terminal: Terminal) -> None:
        terminal.resting = False
        self.watch(terminal.fd, lambda: self._written(terminal))

    def _written(self, terminal: Terminal) -> None:
        """A terminal has output, or has been hung up."""
        rest = _FULL_REST
        try:
            if terminal.move():
                return
        except OSError:  # EIO: nobody has it open, for the time being
            rest = _RETRY
        terminal.resting = True
        self.unwatch(terminal.fd)
        self.later(rest, lambda: self._terminal_rested(terminal))

    def _terminal_rested(self, terminal: Terminal) -> None:
        if not terminal.into.log.closed:
            self._watch_terminal(terminal)

    def _wake(self, stream: Stream) -> None:
        self.watch(stream.fd, lambda: self._readable(stream))

    def _rest(self, stream: Stream, seconds: float) -> None:
        stream.resting = True
        self.unwatch(stream.fd)
        self.later(seconds, lambda: self._rested(stream))

    def _rested(self, stream: Stream) -> None:
        if stream.log.closed:
            return
        stream.resting = False
        self._wake(stream)
        self._readable(stream)

    def _readable(self, stream: Stream) -> None:
        try:
            moved = self._take(stream)
        except BlockingIOError:
            return
        except OSError:
            self._rest(stream, _RETRY)
            return
        rest = stream.adapt(moved)
        if rest:
            self._rest(stream, rest)

    def _take(self, stream: Stream, most: int = _PIPE_BYTES) -> int:
        """Moves bytes, and tells clients when that begins to be impossible and when it is possible again."""
        item = stream.log
        try:
            moved = item.log.take(stream.fd, stream.name, most)
        except BlockingIOError:
            raise
        except OSError as error:
            if not item.full:
                item.full = True
                self.broadcast({"event": "full", "id": item.id, "error": error.errno, "words": error.strerror})
            raise
        if item.full:
            item.full = False
            self.broadcast({"event": "relieved", "id": item.id})
        if moved:
            item.moves += 1
            self._tell_growth(item)
        return moved

    def _drain(self, item: Followed) -> Message:
        self._empty_pipes(item)
        if item.terminal is not None:
            # As long as it gives something; but others who have it open may go on writing.
            deadline = time.monotonic() + _LONGEST_DRAIN
            with contextlib.suppress(OSError):
                while item.terminal.move() and time.monotonic() < deadline:
                    self._empty_pipes(item)
            self._empty_pipes(item)
        return {"offset": item.log.offset}

    def _empty_pipes(self, item: Followed) -> None:
        for stream in item.streams:
            # Not until it is empty: whoever else writes into the pipe could keep it from ever being.
            left = stream.waiting()
            while left > 0:
                try:
                    left -= self._take(stream, left)
                except BlockingIOError:
                    break


def _limit(message: Message) -> int | None:
    return None if message.get("log_max") is None else wire.number(message, "log_max")


if __name__ == "__main__":
    Logger(Options(sys.argv[1:])).run()
