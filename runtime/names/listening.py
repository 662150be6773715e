"""Where one network's members ask: UDP and TCP port 53 of a gateway's address.

What comes over UDP is taken off the socket as fast as it can be, put into a short queue for each member that asks, and answered in
turns: who floods loses its own questions only. Whoever asks from an address that is no member's waits in one queue with all such, as
a container may send from any. A connection is ended when it stands idle, or does not take its answers.
"""

from __future__ import annotations

import functools
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from pydock.runtime.names import message
from pydock.runtime.names.forwarding import Loop

PORT: Final = 53
_IP_FREEBIND: Final = 15  # the bridge may not have its address yet: ip(7), ipv6(7)
_IPV6_FREEBIND: Final = 78
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 4 << 20
_AT_ONCE: Final = 512  # packets taken off a socket in one go
_TURNS: Final = 32  # questions answered in one go
_WAITING: Final = 64  # questions of one address that wait
_BACKLOG: Final = 64
_CONNECTIONS: Final = 512
_CONNECTIONS_OF_A_NETWORK: Final = 128
_CONNECTIONS_OF_ONE: Final = 16
_IDLE: Final = 10.0  # seconds


class Answerer(Protocol):
    """Who knows answers: *reply* is called with one at once, later or never."""

    def __call__(
        self, network: str, host: str, data: bytes, reply: Callable[[bytes], None], *, stream: bool
    ) -> None: ...


class Turns:
    """The questions that wait, in a queue for each *member* that asks."""

    def __init__(
        self, loop: Loop, answer: Callable[[bytes, tuple[str, int]], None], member: Callable[[str], str]
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._member = member
        self._queues: dict[str, deque[tuple[bytes, tuple[str, int]]]] = {}
        self._coming = False

    def put(self, data: bytes, source: tuple[str, int]) -> None:
        """It is answered when it is its turn; dropped when too many of its sender's wait."""
        queue = self._queues.setdefault(self._member(source[0]), deque())
        if len(queue) < _WAITING:
            queue.append((data, source))

    def serve(self) -> None:
        """Answer some, and come back for the others."""
        self._coming = False
        left = _TURNS
        while left > 0 and self._queues:
            key = next(iter(self._queues))
            queue = self._queues.pop(key)
            data, source = queue.popleft()
            if queue:
                self._queues[key] = queue  # behind the others
            left -= 1
            self._answer(data, source)
        if self._queues:
            self.come()

    def come(self) -> None:
        """Have ``serve`` called soon."""
        if not self._coming:
            self._coming = True
            self._loop.later(0, self.serve)


class Connection:
    """One client's."""

    __slots__ = ("buffer", "host", "seen", "sock")

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self.host = host
        self.buffer = b""
        self.seen = time.monotonic()


class Gateway:
    """One address of *network*. OSError when it can't be had."""

    def __init__(
        self,
        loop: Loop,
        network: str,
        address: IPv4Address | IPv6Address,
        answer: Answerer,
        member: Callable[[str, str], str],
        total: Counter[str],
    ) -> None:
        self.network = network
        self.address = address
        self.open = True
        self._loop = loop
        self._answer = answer
        self._total = total  # connections of all gateways: "", by network and by network and client
        self._connections: set[Connection] = set()
        self.turns = Turns(loop, self._answer_packet, functools.partial(member, network))
        self._packets = self._bound(socket.SOCK_DGRAM)
        self._listener: socket.socket | None = None
        loop.watch(self._packets.fileno(), self._receive)

    def listen(self) -> None:
        """Take connections as well, from now on. OSError when somebody has that port at all of the machine's addresses: packets can be
        shared with one that lets others (SO_REUSEADDR), as the nearer address is preferred."""
        if self._listener is None:
            listener = self._bound(socket.SOCK_STREAM)
            try:
                listener.listen(_BACKLOG)
            except OSError:
                listener.close()
                raise
            self._listener = listener
            self._loop.watch(listener.fileno(), self._accept)

    def _bound(self, kind: socket.SocketKind) -> socket.socket:
        version6 = self.address.version == 6
        sock = socket.socket(socket.AF_INET6 if version6 else socket.AF_INET, kind)
        try:
            if version6:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            if kind == socket.SOCK_DGRAM:
                with suppress(PermissionError):
                    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind((str(self.address), PORT))
        except BaseException:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Nobody asks here any more."""
        self.open = False
        for connection in list(self._connections):
            self._drop(connection)
        for sock in filter(None, (self._packets, self._listener)):
            self._loop.unwatch(sock.fileno())
            sock.close()

    # UDP

    def _receive(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, source = self._packets.recvfrom(message.LONGEST)
            except OSError:  # no more, or an ICMP error of an answer before
                break
            self.turns.put(data, source)
        self.turns.come()

    def _answer_packet(self, data: bytes, source: tuple[str, int]) -> None:
        def reply(answer: bytes) -> None:
            if self.open:
                with suppress(OSError):  # it has gone, or takes no more: it asks again if it wants to know
                    self._packets.sendto(answer, source)

        self._answer(self.network, source[0], data, reply, stream=False)

    # TCP

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            sock, source = self._listener.accept()
        except OSError:
            return
        connection = Connection(sock, source[0])
        limits = zip(
            self._counted(connection), (_CONNECTIONS, _CONNECTIONS_OF_A_NETWORK, _CONNECTIONS_OF_ONE), strict=True
        )
        if any(self._total[key] >= limit for key, limit in limits):
            sock.close()
            return
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * message.LONGEST)
        self._connections.add(connection)
        self._total.update(self._counted(connection))
        self._loop.watch(sock.fileno(), functools.partial(self._read, connection))
        self._loop.later(_IDLE, functools.partial(self._look, connection))

    def _counted(self, connection: Connection) -> tuple[str, str, str]:
        return "", self.network, f"{self.network} {connection.host}"

    def _look(self, connection: Connection) -> None:
        if connection in self._connections:
            left = connection.seen + _IDLE - time.monotonic()
            if left <= 0:
                self._drop(connection)
            else:
                self._loop.later(left, functools.partial(self._look, connection))

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(message.LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.buffer += data
        self._loop.unwatch(connection.sock.fileno())  # nothing more is taken before this is answered
        self._serve(connection)

    def _serve(self, connection: Connection) -> None:
        """Answer some of what it has asked, and come back for the rest."""
        for _ in range(_TURNS):
            if connection not in self._connections:
                return
            length = int.from_bytes(connection.buffer[:2], "big")
            if len(connection.buffer) < max(2, length + 2):
                self._loop.watch(connection.sock.fileno(), functools.partial(self._read, connection))
                return
            question, connection.buffer = connection.buffer[2 : length + 2], connection.buffer[length + 2 :]
            connection.seen = time.monotonic()
            self._answer(
                self.network, connection.host, question, functools.partial(self._send, connection), stream=True
            )
        self._loop.later(0, functools.partial(self._serve, connection))

    def _send(self, connection: Connection, answer: bytes) -> None:
        if connection not in self._connections:
            return
        data = len(answer).to_bytes(2, "big") + answer
        try:
            whole = connection.sock.send(data) == len(data)
        except OSError:
            whole = False
        if not whole:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._connections.discard(connection)
        with suppress(KeyError):  # its questions are being answered
            self._loop.unwatch(connection.sock.fileno())
        connection.sock.close()
        for key in self._counted(connection):
            self._total[key] -= 1
            if not self._total[key]:
                del self._total[key]
