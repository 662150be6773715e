"""Messages between pydockd and its small processes: one JSON object and any number of descriptors.

The transport is a unix(7) SOCK_SEQPACKET socket, so a packet is a message and nothing needs framing. The first
byte of a packet tells its kind:

- ``.`` the JSON object follows; this packet ends the message
- ``@`` the JSON object is in a memfd, the last descriptor of this packet, which ends the message (an object
  larger than a packet may be: a launch with a long environment)
- ``+`` descriptors only, more packets of the same message follow (SCM_RIGHTS takes a limited number at a time)

Received descriptors are close-on-exec. Whoever gets a message owns its descriptors and closes them.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

Message = dict[str, object]

DESCRIPTORS_A_PACKET = 64
INLINE_BYTES = 48 * 1024

# The arguments of recvmsg that every packet fits into.
ROOM = (INLINE_BYTES + 1, socket.CMSG_SPACE(DESCRIPTORS_A_PACKET * 4), getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000))


class Requester(Protocol):
    """Whoever takes a request to one of the small processes and brings back the answer."""

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        """The answer and its descriptors, the caller's from now on; *fds* stay the caller's. Raises ``Failed``.

        *sent* is called as soon as the process gets it whatever becomes of the caller.
        """


class Closed(Exception):
    """The other side has hung up."""


class Malformed(Exception):
    """The other side sent something that is no message."""


class Packet:
    """One packet that is yet to be sent. ``owned`` descriptors are closed once it has gone or is given up."""

    __slots__ = ("data", "fds", "owned")

    def __init__(self, data: bytes, fds: Sequence[int], owned: Sequence[int] = ()) -> None:
        self.data = data
        self.fds = tuple(fds)
        self.owned = tuple(owned)

    def ancillary(self) -> list[tuple[int, int, array.array[int]]]:
        """The second argument of sendmsg."""
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.fds))] if self.fds else []

    def close(self) -> None:
        """Closes what the packet owns."""
        close_all(self.owned)
        self.owned = ()


def close_all(fds: Iterable[int]) -> None:
    """Closes each of *fds*."""
    for fd in fds:
        os.close(fd)


def packets(message: Message, fds: Sequence[int] = (), *, give: bool = False) -> list[Packet]:
    """*message* with *fds* as packets, in order. With *give* the descriptors are closed as their packets are sent."""
    data = json.dumps(message, separators=(",", ":")).encode()
    result = []
    rest = list(fds)
    room = DESCRIPTORS_A_PACKET - 1  # one is left for the memfd
    while len(rest) > room:
        head, rest = rest[:room], rest[room:]
        result.append(Packet(b"+", head, head if give else ()))
    owned = rest if give else []
    if len(data) <= INLINE_BYTES:
        result.append(Packet(b"." + data, rest, owned))
    else:
        large = os.memfd_create("message")
        with open(large, "wb", closefd=False) as file:
            file.write(data)
        result.append(Packet(b"@", [*rest, large], [*owned, large]))
    return result


class Assembler:
    """Puts packets together again. One for each connection."""

    __slots__ = ("_fds",)

    def __init__(self) -> None:
        self._fds: list[int] = []

    def feed(
        self, data: bytes, ancillary: Iterable[tuple[int, int, bytes]], flags: int
    ) -> tuple[Message, list[int]] | None:
        """Takes what recvmsg gave, gives the message if complete; ``Closed`` at the end, ``Malformed`` if rubbish."""
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % received.itemsize])
                self._fds.extend(received)
        if flags & socket.MSG_CTRUNC:
            self.close()
            raise OSError(errno.EMFILE, "descriptors of a message were lost: the limit of open files is reached")
        if not data:
            self.close()
            raise Closed
        if data[:1] == b"+":
            return None
        fds, self._fds = self._fds, []
        try:
            if flags & socket.MSG_TRUNC:
                raise ValueError("too long")
            if data[:1] == b"@":
                if not fds:
                    raise ValueError("no memfd")
                large = fds.pop()
                with open(large, "rb") as file:
                    file.seek(0)
                    content = file.read()
            elif data[:1] == b".":
                content = data[1:]
            else:
                raise ValueError("unknown kind of packet")
            message = json.loads(content)
            if not isinstance(message, dict):
                raise ValueError("not an object")
        except ValueError as error:
            close_all(fds)
            raise Malformed(str(error)) from None
        return message, fds

    def close(self) -> None:
        """Closes the descriptors of a message of which only a part has come."""
        fds, self._fds = self._fds, []
        close_all(fds)


def receive_packet(sock: socket.socket) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
    """recvmsg(2) with room for the largest packet, as ``Assembler.feed`` wants it."""
    data, ancillary, flags, _ = sock.recvmsg(*ROOM)
    return data, ancillary, flags


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Sends a message on a blocking socket; the caller keeps its descriptors."""
    queue = packets(message, fds)
    try:
        for packet in queue:
            sock.sendmsg([packet.data], packet.ancillary())
    finally:
        for packet in queue:
            packet.close()


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Receives a message from a blocking socket; ``Closed`` when there will be no more."""
    assembler = Assembler()
    while True:
        try:
            complete = assembler.feed(*receive_packet(sock))
        except OSError:
            assembler.close()
            raise
        if complete is not None:
            return complete


def text(message: Message, key: str) -> str:
    """The string *key* of a message; ValueError if it has none."""
    value = message.get(key)
    if not isinstance(value, str):
        raise ValueError(f"{key}: a string is needed")
    return value


def number(message: Message, key: str) -> int:
    """The whole number *key* of a message; ValueError if it has none."""
    value = message.get(key)
    if not isinstance(value, int):
        raise ValueError(f"{key}: a number is needed")
    return value


def texts(message: Message, key: str) -> list[str]:
    """The list of strings *key* of a message; ValueError if it has none."""
    value = message.get(key)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key}: a list of strings is needed")
    return value
