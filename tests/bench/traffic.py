"""What is measured in a network: a script that prints milliseconds.

- ``connect SERVER CLIENT ADDRESS PORT LISTENED``: a round of connections for each line that it is given; a number
- ``stream SERVER CLIENT ADDRESS PORT LISTENED``: a round of bytes for each line that it is given; a number
- ``ask ADDRESS NAME RATE SECONDS``: as many questions a second from where it is; how long 99 of 100 took at most

SERVER and CLIENT are processes in whose network namespaces the ends are; LISTENED is the port there to which PORT of ADDRESS leads.
Both ends are one thread's, and what counts is the processor's time: a packet is carried on by who has sent it till it lies in the
other's socket, so that is all that the packet costs, and neither the scheduler nor who else is on the machine has a say in it.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

from pydock.runtime import syscalls

CONNECTIONS: Final = 320  # of a round
ROUND: Final = 96 << 20  # bytes

_PIECE: Final = 1 << 18
_LATE: Final = 2.0  # seconds until a question counts as lost


def ends(server: int, client: int, listened: int) -> socket.socket:
    """Somebody who listens where *server* is; what is opened after that is where *client* is."""
    places = [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in (server, client)]
    syscalls.setns(places[0], syscalls.CLONE_NEWNET)
    listener = socket.create_server(("0.0.0.0", listened))
    syscalls.setns(places[1], syscalls.CLONE_NEWNET)
    return listener


def connect(listener: socket.socket, address: str, port: int) -> Callable[[], None]:
    """Rounds of connections, one after the other. They end by a reset, so that nothing is kept for late packets."""
    lingering = struct.pack("ii", 1, 0)

    def once() -> None:
        for _ in range(CONNECTIONS):
            sock = socket.create_connection((address, port), timeout=20)
            listener.accept()[0].close()
            assert sock.recv(1) == b""
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
            sock.close()

    return once


def stream(listener: socket.socket, address: str, port: int) -> Callable[[], None]:
    """Rounds of bytes. Always by cubic: others (bbr) send as fast as they think that they may, by timers."""
    sender = socket.socket()
    sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    sender.connect((address, port))
    taker = listener.accept()[0]
    sender.setblocking(False)
    taker.setblocking(False)
    piece, buffer = bytes(_PIECE), bytearray(4 * _PIECE)

    def once() -> None:
        sent = got = 0
        while got < ROUND:
            try:
                while sent < ROUND:
                    sent += sender.send(piece[: ROUND - sent])
            except BlockingIOError:
                pass
            try:
                while got < ROUND:
                    got += taker.recv_into(buffer)
            except BlockingIOError:
                pass

    return once


def ask(address: str, name: str, rate: int, seconds: float) -> float:
    """Questions at a steady rate, whatever becomes of those before."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect((address, 53))
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    asked: dict[int, float] = {}
    took: list[float] = []
    begun = time.perf_counter()
    total = int(rate * seconds)
    sent = 0
    while len(took) < total and time.perf_counter() < begun + seconds + _LATE:
        while sent < total and (moment := time.perf_counter()) >= begun + sent / rate:
            number = sent & 0xFFFF
            sock.send(struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1")
            asked[number] = moment
            sent += 1
        wait = begun + sent / rate - time.perf_counter() if sent < total else 0.1
        if select.select([sock], [], [], max(0.0, wait))[0]:
            answer = sock.recv(2048)
            number, flags, _, answers = struct.unpack_from("!4H", answer)
            if not flags & 0xF and answers and (since := asked.pop(number, None)) is not None:
                took.append((time.perf_counter() - since) * 1000)
    took += [_LATE * 1000] * (total - len(took))
    return statistics.quantiles(took, n=100)[98]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["connect" | "stream" as what, server, client, address, port, listened]:
            listener = ends(int(server), int(client), int(listened))
            once = (connect if what == "connect" else stream)(listener, address, int(port))
            for _ in sys.stdin:
                begun = time.process_time()
                once()
                print((time.process_time() - begun) * 1000, flush=True)
        case ["ask", address, name, rate, seconds]:
            print(ask(address, name, int(rate), float(seconds)))
        case _:
            raise SystemExit(__doc__)
