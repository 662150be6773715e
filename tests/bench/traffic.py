"""What is measured in a network: a script that runs where it shall be measured from, and prints milliseconds.

- ``listen ADDRESS PORT [COUNT]``: what the others speak to, at COUNT ports from PORT on; ``ready`` is its first line
- ``connect ADDRESS PORT``: a round of connections for each line that it is given; a number
- ``stream ADDRESS PORT``: a round of bytes for each line that it is given; a number
- ``ask ADDRESS NAME RATE SECONDS``: as many questions a second; the median, the 99th of a hundred, and how many had no answer

One processor is the client's and another the server's, as long as there are two: where the kernel puts them makes more difference
than all that is measured.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

CONNECTIONS: Final = 320  # of a round
ROUND: Final = 96 << 20  # bytes

_AT_ONCE: Final = 16
_PIECE: Final = 1 << 18
_LATE: Final = 2.0  # seconds until a question counts as lost


def stand(index: int) -> None:
    """Have the processor with that number among those there are."""
    processors = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processors[index % len(processors)]})


def listen(address: str, first: int, count: int = 1) -> None:
    """Takes connections and closes each; at the last port it takes what comes instead, and says when a round is over. Never returns."""
    stand(1)
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    arrived: dict[int, int] = {}  # bytes of a round, by who sends them
    for port in range(first, first + count):
        listener = socket.create_server((address, port), backlog=1024)
        sockets[listener.fileno()] = listener
        poll.register(listener.fileno(), select.EPOLLIN)
    last, buffer = listener.fileno(), bytearray(_PIECE)
    print("ready", flush=True)
    while True:
        for fd, _ in poll.poll():
            if fd in arrived:
                arrived[fd] += sockets[fd].recv_into(buffer)
                if arrived[fd] == ROUND:
                    arrived[fd] = 0
                    sockets[fd].send(b".")
                continue
            accepted = sockets[fd].accept()[0]
            if fd == last:
                sockets[accepted.fileno()], arrived[accepted.fileno()] = accepted, 0
                poll.register(accepted.fileno(), select.EPOLLIN)
            else:
                accepted.close()


def stream(address: str, port: int) -> Iterator[float]:
    """Rounds of bytes. Always by cubic: others (bbr) send as fast as they think that they may, by timers."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    sock.connect((address, port))
    piece = bytes(_PIECE)
    while True:
        begun = time.perf_counter()
        for _ in range(ROUND // _PIECE):
            sock.sendall(piece)
        assert sock.recv(1) == b"."
        yield (time.perf_counter() - begun) * 1000


def connect(address: str, port: int) -> Iterator[float]:
    """Rounds of connections, some at once, so that neither side sleeps much. They end by a reset: nothing is kept for late packets."""
    lingering = struct.pack("ii", 1, 0)
    while True:
        begun = time.perf_counter()
        for _ in range(CONNECTIONS // _AT_ONCE):
            opened = []
            for _ in range(_AT_ONCE):
                sock = socket.socket()
                sock.setblocking(False)
                sock.connect_ex((address, port))
                opened.append(sock)
            for sock in opened:
                sock.settimeout(20)
                assert sock.recv(1) == b""
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
                sock.close()
        yield (time.perf_counter() - begun) * 1000


def ask(address: str, name: str, rate: int, seconds: float) -> tuple[float, float, int]:
    """Questions at a steady rate, whatever becomes of those before."""
    stand(0)
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
    if len(took) < 2:
        raise SystemExit(f"{address} has not answered {name}")
    return statistics.median(took), statistics.quantiles(took, n=100)[98], total - len(took)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["listen", address, port, *count]:
            listen(address, int(port), *map(int, count))
        case ["connect" | "stream" as what, address, port]:
            stand(0)
            rounds = (connect if what == "connect" else stream)(address, int(port))
            for _ in sys.stdin:
                print(next(rounds), flush=True)
        case ["ask", address, name, rate, seconds]:
            print(*ask(address, name, int(rate), float(seconds)))
        case _:
            raise SystemExit(__doc__)
