"""Questions that are passed on to the machine's resolvers.

Each has a socket of its own, connected to the resolver: its port is one of many, as its number is, and the kernel drops what
others send to it (RFC 5452). A resolver that says nothing for a while, can't be reached, or fails is followed by the next. How many
are under way is bounded for all, for a network, and for one address; who goes beyond that is told that it failed.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from pydock.runtime.names import message
from pydock.runtime.names.message import Query
from pydock.runtime.names.resolvers import Resolvers

_PORT: Final = 53
_MOST: Final = 1024  # under way at once; and of those
_MOST_OF_A_NETWORK: Final = 256
_MOST_OF_A_CLIENT: Final = 64
_PATIENCE: Final = 1.2  # seconds for one resolver; a client asks again after five
_ATTEMPTS: Final = 4
_SWEEP: Final = 0.1
_TRY_ANOTHER: Final = (message.SERVFAIL, message.REFUSED, message.NOTIMP)

Client = tuple[str, str]  # its network and its address


class Loop(Protocol):
    """What is needed of :class:`pydock.runtime.serving.Server`."""

    def watch(self, fd: int, callback: Callable[[], None], *, writable: bool = False) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def later(self, seconds: float, callback: Callable[[], None]) -> None: ...


class _Pending:
    """One question under way."""

    __slots__ = ("buffer", "client", "data", "deadline", "failed", "left", "number", "query", "reply", "sock", "stream")

    def __init__(self, query: Query, data: bytes, client: Client, reply: Callable[[bytes], None], stream: bool) -> None:
        self.query = query
        self.data = data
        self.client = client
        self.reply = reply
        self.stream = stream
        self.left: list[str] = []
        self.sock: socket.socket | None = None
        self.number = 0
        self.deadline = 0.0
        self.buffer = b""
        self.failed = b""  # what the last resolver said


class Forwarder:
    """Asks *resolvers*, on *loop*."""

    def __init__(self, loop: Loop, resolvers: Resolvers, own: Callable[[str], bool] = lambda address: False) -> None:
        self._loop = loop
        self._resolvers = resolvers
        self._own = own  # whether an address is one that we answer at ourselves
        self._pending: set[_Pending] = set()
        self._clients: Counter[Client] = Counter()
        self._networks: Counter[str] = Counter()
        self._sweeping = False

    def __len__(self) -> int:
        return len(self._pending)

    def ask(
        self, query: Query, data: bytes, client: Client, reply: Callable[[bytes], None], *, stream: bool = False
    ) -> None:
        """Have *reply* called with the answer to *query*, which came as *data*; over TCP when it came by a *stream*."""
        servers = [each for each in self._resolvers.now() if not self._own(each)]
        if not servers:
            code = message.NXDOMAIN if len(query.name) == 1 else message.SERVFAIL
            reply(message.answer(query, code, own=False))
            return
        if (
            len(self._pending) >= _MOST
            or self._clients[client] >= _MOST_OF_A_CLIENT
            or self._networks[client[0]] >= _MOST_OF_A_NETWORK
        ):
            reply(message.answer(query, message.SERVFAIL, own=False))
            return
        pending = _Pending(query, data, client, reply, stream)
        pending.left = (servers * _ATTEMPTS)[:_ATTEMPTS]
        self._pending.add(pending)
        self._clients[client] += 1
        self._networks[client[0]] += 1
        self._try(pending)
        if not self._sweeping:
            self._sweeping = True
            self._loop.later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        moment = time.monotonic()
        for pending in [each for each in self._pending if each.deadline <= moment]:
            self._try(pending)
        self._sweeping = bool(self._pending)
        if self._sweeping:
            self._loop.later(_SWEEP, self._sweep)

    def _try(self, pending: _Pending) -> None:
        """Ask the next resolver."""
        self._hang_up(pending)
        while pending.left:
            address = pending.left.pop(0)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            pending.number = int.from_bytes(os.urandom(2), "big")
            pending.deadline = time.monotonic() + _PATIENCE
            try:
                sock = pending.sock = socket.socket(family, socket.SOCK_STREAM if pending.stream else socket.SOCK_DGRAM)
                sock.setblocking(False)
                if pending.stream:
                    with suppress(BlockingIOError):
                        sock.connect((address, _PORT))
                    self._loop.watch(sock.fileno(), functools.partial(self._connected, pending), writable=True)
                else:
                    sock.connect((address, _PORT))
                    sock.send(message.with_number(pending.data, pending.number))
                    self._loop.watch(sock.fileno(), functools.partial(self._readable, pending))
            except OSError:  # it can't be reached
                if pending.sock is not None:
                    pending.sock.close()
                    pending.sock = None
                continue
            return
        self._finish(pending, pending.failed or message.answer(pending.query, message.SERVFAIL, own=False))

    def _connected(self, pending: _Pending) -> None:
        sock = pending.sock
        assert sock is not None
        self._loop.unwatch(sock.fileno())
        data = len(pending.data).to_bytes(2, "big") + message.with_number(pending.data, pending.number)
        try:
            whole = sock.send(data) == len(data)
        except OSError:
            whole = False
        self._loop.watch(sock.fileno(), functools.partial(self._readable, pending))
        if not whole:
            self._try(pending)

    def _readable(self, pending: _Pending) -> None:
        assert pending.sock is not None
        try:
            data = pending.sock.recv(message.LONGEST + 2)
        except BlockingIOError:
            return
        except OSError:  # nobody is there
            self._try(pending)
            return
        if pending.stream:
            if not data:
                self._try(pending)
                return
            pending.buffer += data
            length = int.from_bytes(pending.buffer[:2], "big")
            if len(pending.buffer) < max(2, length + 2):
                return
            data = pending.buffer[2 : length + 2]
        if not message.answers(data, pending.query, pending.number):
            if pending.stream:
                self._try(pending)
            return
        data = message.with_number(data, pending.query.number)
        if message.code_of(data) in _TRY_ANOTHER and pending.left:
            said = pending.sock.getpeername()[0]
            pending.left = [each for each in pending.left if each != said]
            pending.failed = data
            self._try(pending)
        else:
            self._finish(pending, data)

    def _finish(self, pending: _Pending, data: bytes) -> None:
        self._hang_up(pending)
        self._pending.discard(pending)
        self._clients[pending.client] -= 1
        self._networks[pending.client[0]] -= 1
        if not self._clients[pending.client]:
            del self._clients[pending.client]
        pending.reply(data)

    def _hang_up(self, pending: _Pending) -> None:
        if pending.sock is not None:
            self._loop.unwatch(pending.sock.fileno())
            pending.sock.close()
            pending.sock = None
        pending.buffer = b""
