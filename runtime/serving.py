"""What the small processes (monitor, logger, keeper, names) have in common: how they begin, their loop, their end.

A process is started as ``python -m pydock.runtime.NAME RUN [--listen FD] [--join FILE]... [--state FD]``:

- RUN is the run directory; the process listens on ``RUN/NAME.sock``, and its tracebacks go to ``RUN/NAME.err``.
- ``--listen``: the socket, made by the starter, who can then connect without waiting for the process to be ready.
- ``--join``: a cgroup's ``cgroup.procs`` or ``tasks`` file, into which it writes itself before anything else.
- ``--state``: it has replaced an older version of itself by exec and finds what that knew in this memfd.

It has its own session, stands in ``/``, is spared by the OOM killer as far as it is allowed to ask for that, and
is nobody's child: the death of whoever started it changes nothing. It is single-threaded, imports little
(memory counts: it runs for as long as any container does) and ends by itself when it has neither clients nor
anything to hold.

Requests are messages (``pydock.runtime.wire``) with ``do`` and ``seq``; each is answered by one with the same
``seq``, and ``error`` (an errno) and ``words`` if it failed. Messages without ``seq`` are events for every client.
Every process answers ``who`` with its ``{pid}``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import heapq
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence

from pydock.runtime import wire
from pydock.runtime.wire import Message

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE
_BACKLOG = 64
_MOST_QUEUED = 20_000  # packets; a client that is this far behind is cut off and asks again when it is back
_FIRST_CLIENT = 10.0  # seconds
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE)
_HANDLED = (signal.SIGTERM, signal.SIGCHLD)
NOT_DEFAULT = (*_IGNORED, *_HANDLED)  # what a child has to set back


class Options:
    """The command line of a small process."""

    __slots__ = ("join", "listen", "run", "state")

    def __init__(self, arguments: Sequence[str]) -> None:
        self.run = ""
        self.listen: int | None = None
        self.state: int | None = None
        self.join: list[str] = []
        words = iter(arguments)
        for word in words:
            if word == "--listen":
                self.listen = int(next(words, ""))
            elif word == "--state":
                self.state = int(next(words, ""))
            elif word == "--join":
                self.join.append(next(words, ""))
            else:
                self.run = os.path.abspath(word)
        if not self.run:
            raise SystemExit("usage: RUN [--listen FD] [--join FILE]... [--state FD]")


def listen(run: str, name: str) -> socket.socket:
    """A listening socket at ``RUN/NAME.sock``, in the place of whatever a dead process has left there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    try:
        path = f"{run}/{name}.sock"
        temporary = f"{path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.fchmod(
            sock.fileno(), 0o600
        )  # which bind(2) takes over; a umask is the whole process's, and others start meanwhile
        sock.bind(temporary)
        sock.listen(_BACKLOG)
        os.rename(temporary, path)
    except BaseException:
        sock.close()
        raise
    return sock


def begin(name: str, options: Options, *, many_files: bool) -> socket.socket:
    """Turns the calling process into a small process, and gives its listening socket.

    With *many_files* the soft limit of open files is raised to the hard one.
    """
    if options.state is None:
        for path in options.join:
            with open(path, "w") as file:
                file.write("0")
        if os.fork():
            os._exit(0)
        os.setsid()
        os.chdir("/")
        os.umask(0o022)
        null = os.open("/dev/null", os.O_RDWR)
        errors = os.open(f"{options.run}/{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(errors, 2)
        os.close(null)
        os.close(errors)
        _spare_from_oom_killer()
    if many_files:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.listen is None:
        return listen(options.run, name)
    os.set_inheritable(options.listen, False)
    return socket.socket(fileno=options.listen)


def _spare_from_oom_killer() -> None:
    for value in ("-999", "0"):  # below what it is now needs CAP_SYS_RESOURCE
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(value)
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES):
                raise


class Peer:
    """One client's connection."""

    __slots__ = ("assembler", "awaited", "queue", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.awaited = 0  # what the selector watches it for
        self.assembler = wire.Assembler()
        self.queue: deque[wire.Packet] = deque()


class Server:
    """The loop. A subclass says what the requests mean (``handle``) and when there is nothing to hold (``idle``)."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.peers: set[Peer] = set()
        self.stopping = False
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = 0
        self._served = False

    # For subclasses to define

    def handle(self, peer: Peer, message: Message, fds: list[int]) -> Message | tuple[Message, list[int]] | None:
        """Answers a request: with a message, or one with descriptors (given away), or None (it will be later).

        *fds* are closed by the caller afterwards, save those that were taken out of the list.
        """
        if message.get("do") == "who":
            return {"pid": os.getpid()}
        raise ValueError(f"unknown request {message.get('do')!r}")

    def idle(self) -> bool:
        """Whether nothing would be lost if the process ended now."""
        return True

    def signalled(self) -> None:
        """A signal has come; called from the loop."""

    def deserted(self) -> None:
        """The last client has gone."""

    # For subclasses to use

    def watch(self, fd: int, callback: Callable[[], None], *, writable: bool = False) -> None:
        """Calls *callback* whenever *fd* is readable, or *writable* instead, or has been hung up."""
        self._selector.register(fd, _WRITE if writable else _READ, callback)

    def unwatch(self, fd: int) -> None:
        """Undoes ``watch``; to be called before *fd* is closed."""
        self._selector.unregister(fd)

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Calls *callback* once, that much later."""
        self._timer_number += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timer_number, callback))

    def reply(self, peer: Peer, seq: object, message: Message, fds: Sequence[int] = ()) -> None:
        """Sends the answer to request *seq*; the descriptors are given away."""
        message["seq"] = seq
        self._queue(peer, wire.packets(message, fds, give=True))

    def fail(self, peer: Peer, seq: object, number: int, words: str, step: str = "") -> None:
        """Answers request *seq* with an error."""
        self.reply(peer, seq, {"error": number, "words": words, "step": step})

    def tell(self, peer: Peer, message: Message) -> None:
        """Sends an event to one client."""
        self._queue(peer, wire.packets(message))

    def broadcast(self, message: Message) -> None:
        """Sends an event to every client."""
        for peer in list(self.peers):
            self._queue(peer, wire.packets(message))

    def flush(self) -> None:
        """Sends what can be sent without waiting."""
        for peer in list(self.peers):
            self._send(peer)

    # The loop

    def run(self) -> None:
        """Serves until it is neither needed nor holds anything."""
        gc.collect()
        gc.freeze()
        self._signals()
        self.listener.setblocking(False)
        self._selector.register(self.listener, _READ, self._accept)
        self.later(_FIRST_CLIENT, self._nobody_came)
        while not self.stopping:
            wait = None
            if self._timers:
                wait = max(0.0, self._timers[0][0] - time.monotonic())
            for key, mask in self._selector.select(wait):
                now_registered = self._selector.get_map().get(key.fd)
                if now_registered is None or now_registered.data is not key.data:
                    continue  # an earlier callback of this round has done away with it
                if isinstance(key.data, Peer):
                    self._guard(functools.partial(self._serve, key.data, mask))
                else:
                    self._guard(key.data)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                self._guard(heapq.heappop(self._timers)[2])
            if self._served and not self.peers and self.idle():
                self._accept()  # somebody may just be knocking
                self.stopping = self.stopping or not self.peers

    def _guard(self, callback: Callable[[], None]) -> None:
        """No fault in one callback may end a process on which every container depends."""
        try:
            callback()
        except Exception:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()

    def _signals(self) -> None:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)  # whatever the starter had ignored (nohup, systemd)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for ignored in _IGNORED:
            signal.signal(ignored, signal.SIG_IGN)
        for handled in _HANDLED:
            signal.signal(handled, lambda number, frame: None)  # the number reaches the loop through the pipe

        def woken() -> None:
            numbers = os.read(reader, 4096)
            if signal.SIGTERM in numbers and self.idle():  # idle when it came, not only after what else came
                self.stopping = True
            self.signalled()

        self._selector.register(reader, _READ, woken)

    def _nobody_came(self) -> None:
        if not self._served and self.idle():
            self.stopping = True

    def _accept(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        sock.setblocking(False)
        peer = Peer(sock)
        self._served = True
        self.peers.add(peer)
        self._register(peer)

    def _serve(self, peer: Peer, mask: int) -> None:
        if mask & _WRITE:
            self._send(peer)
        if mask & _READ and peer in self.peers:
            self._receive(peer)

    def _receive(self, peer: Peer) -> None:
        try:
            complete = peer.assembler.feed(*wire.receive_packet(peer.sock))
        except BlockingIOError:
            return
        except (wire.Closed, wire.Malformed, OSError):
            self._drop(peer)
            return
        if complete is None:
            return
        message, fds = complete
        seq = message.get("seq")
        try:
            answer = self.handle(peer, message, fds)
            if isinstance(answer, tuple):
                self.reply(peer, seq, answer[0], answer[1])
            elif answer is not None:
                self.reply(peer, seq, answer)
        except OSError as error:
            self.fail(peer, seq, error.errno or errno.EIO, error.strerror or str(error), str(error.filename or ""))
        except (ValueError, TypeError, KeyError) as error:
            self.fail(peer, seq, errno.EINVAL, f"{message.get('do')}: {error}")
        finally:
            wire.close_all(fds)

    def _queue(self, peer: Peer, packets: list[wire.Packet]) -> None:
        if peer not in self.peers:  # it has gone; what was meant for it can only be closed
            for packet in packets:
                packet.close()
            return
        peer.queue.extend(packets)
        self._send(peer)
        if len(peer.queue) > _MOST_QUEUED:
            self._drop(peer)

    def _send(self, peer: Peer) -> None:
        try:
            while peer.queue:
                packet = peer.queue[0]
                peer.sock.sendmsg([packet.data], packet.ancillary())
                packet.close()
                peer.queue.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:  # descriptors in flight are limited: wait till some are taken
                self._drop(peer)
                return
            self.later(0.05, self.flush)
            return
        self._register(peer)

    def _register(self, peer: Peer) -> None:
        wanted = _READ | (_WRITE if peer.queue else 0)
        if wanted == peer.awaited:
            return
        if peer.awaited:
            self._selector.modify(peer.sock, wanted, peer)
        else:
            self._selector.register(peer.sock, wanted, peer)
        peer.awaited = wanted

    def _drop(self, peer: Peer) -> None:
        self.peers.discard(peer)
        if peer.awaited:
            self._selector.unregister(peer.sock)
            peer.awaited = 0
        peer.assembler.close()
        while peer.queue:
            peer.queue.popleft().close()
        peer.sock.close()
        if not self.peers:
            self.deserted()
