"""Published ports: what a container's ``ports`` say, in docker's words, and who has which port of the machine.

``[IP:]HOST[-END]:CONTAINER[-END][/tcp|udp|sctp]``; an IPv6 address is in brackets; HOST 0 is any port that is free, and ``auto`` is
all that the image exposes, each at such a port. Nobody listens for a published port, the packet filter sends its packets on; so whether
it is free is asked by binding to it for a moment.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.errors import Invalid, Taken, Unsupported
from pydock.runtime.formats import quote
from pydock.runtime.network import loopback

AUTO: Final = "auto"
PROTOCOLS: Final = ("tcp", "udp", "sctp")
_HIGHEST: Final = 65535
_ITEM: Final = re.compile(
    r"(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<host>\d{1,5})(?:-(?P<host_end>\d{1,5}))?"
    r":(?P<inner>\d{1,5})(?:-(?P<inner_end>\d{1,5}))?(?:/(?P<protocol>[a-z]+))?",
    re.ASCII,
)
_EXPOSED: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/([a-z]+))?", re.ASCII)
_TABLES: Final = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTENING: Final = {"tcp": "0A", "udp": "07"}
_FEW: Final = 64  # as many are tried one by one
_LONGEST: Final = 16384  # ports of a range that have other numbers inside: each takes memory of the kernel's
MOST_CHOSEN: Final = 1000
DNS: Final = 53
_ALL_6: Final = "::"
_SOMEBODY: Final = "another process"


@dataclass(frozen=True, slots=True)
class Port:
    """One item: *count* ports from *host* on, of the machine's *address* (empty: of all), are *inner* and those behind it inside."""

    address: str
    host: int
    inner: int
    count: int = 1
    protocol: str = "tcp"
    chosen: bool = False  # of the machine's ports any would have done
    only6: bool = False  # of all addresses those of IPv6: ``[::]``

    @classmethod
    def parse(cls, text: str) -> Port:
        """Invalid for what is none."""
        match = _ITEM.fullmatch(text.strip())
        if match is None:
            raise Invalid(f"ports: {quote(text)} is not [IP:]HOST[-END]:CONTAINER[-END][/tcp|udp|sctp]")
        host, inner = int(match["host"]), int(match["inner"])
        host_end, inner_end = int(match["host_end"] or host), int(match["inner_end"] or inner)
        protocol = match["protocol"] or "tcp"
        if protocol not in PROTOCOLS:
            raise Invalid(f"ports: {quote(protocol)} is none of {', '.join(PROTOCOLS)}")
        if not host <= host_end <= _HIGHEST or not 0 < inner <= inner_end <= _HIGHEST or (host == 0 and host_end):
            raise Invalid(
                f"ports: {quote(text)} has a port beyond 1 to {_HIGHEST}, or a range that ends before it begins"
            )
        if host_end - host != inner_end - inner and not (host == host_end == 0):
            raise Invalid(f"ports: {quote(text)} has ranges of different lengths")
        if host == 0 and inner_end - inner >= MOST_CHOSEN:
            raise Invalid(f"ports: {quote(text)} is too long: at most {MOST_CHOSEN} get ports that are free")
        if inner_end - inner >= _LONGEST and host != inner:
            raise Invalid(
                f"ports: {quote(text)} is too long: more than {_LONGEST} ports need the same numbers on both sides"
            )
        address = _address(match["ip"] or "", text)
        all6 = address == _ALL_6
        return cls("" if all6 else address, host, inner, inner_end - inner + 1, protocol, only6=all6)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it is about."""
        if self.only6:
            return (6,)
        return (4, 6) if not self.address else (ip_address(self.address).version,)

    @property
    def written(self) -> str:
        """The address as an item has it; empty for all."""
        return _ALL_6 if self.only6 else self.address

    def __str__(self) -> str:
        address = f"[{self.written}]" if ":" in self.written else self.written
        host, inner = _span(self.host, self.count if self.host else 1), _span(self.inner, self.count)
        return f"{address}{':' if address else ''}{host}:{inner}/{self.protocol}"

    def overlaps(self, other: Port) -> bool:
        """Whether a port of the machine is in both."""
        return (
            self.protocol == other.protocol
            and self.host < other.host + other.count
            and other.host < self.host + self.count
            and (not self.address or not other.address or self.address == other.address)
            and not set(self.versions).isdisjoint(other.versions)
        )

    @property
    def place(self) -> str:
        """``PROTOCOL:ADDRESS:HOST[-END]``, of the machine."""
        return f"{self.protocol}:{self.written or '0.0.0.0'}:{_span(self.host, self.count)}"

    def is_had_by(self, bound: Port) -> bool:
        """Whether who has *bound* has what this asks for."""
        return bound == (self if self.host else replace(self, host=bound.host, chosen=True))

    def single(self) -> Iterator[Port]:
        """Each port by itself."""
        for index in range(self.count):
            yield replace(self, host=self.host and self.host + index, inner=self.inner + index, count=1)


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _address(text: str, item: str) -> str:
    if not text:
        return ""
    try:
        address: IPv4Address | IPv6Address = ip_address(text.strip("[]"))
    except ValueError:
        raise Invalid(f"ports: {quote(item)}: {quote(text)} is not an address") from None
    return "" if int(address) == 0 and address.version == 4 else str(address)


def parse(line: str) -> str:
    """A line of ``ports``, as it is written. Invalid."""
    text = line.strip()
    if text != AUTO:
        Port.parse(text)
    return text


def key(item: str) -> str:
    """What makes two items the same: the place on the machine, or inside when any will do."""
    if item == AUTO:
        return AUTO
    port = Port.parse(item)
    return f"{port.written} {port.host}-{port.count} {port.protocol}" + ("" if port.host else f" {port.inner}")


def exposed(texts: Iterable[str]) -> list[Port]:
    """What an image's EXPOSE says, each at any port that is free; what is none is passed over. Invalid for too many."""
    found = []
    for text in texts:
        match = _EXPOSED.fullmatch(text)
        if match is not None and (match[3] or "tcp") in PROTOCOLS:
            first, last = int(match[1]), int(match[2] or match[1])
            found += [
                Port("", 0, inner, 1, match[3] or "tcp") for inner in range(first, min(last, _HIGHEST) + 1) if inner
            ]
    if len(found) > MOST_CHOSEN:
        raise Invalid(f"ports: the image exposes {len(found)} ports, and auto is for {MOST_CHOSEN} at most")
    return found


def print_kept(port: Port) -> str:
    """*port* as a record keeps it."""
    return f"{port} chosen" if port.chosen else str(port)


def parse_kept(text: str) -> Port:
    """The inverse of :func:`print_kept`."""
    item, _, chosen = text.partition(" ")
    return replace(Port.parse(item), chosen=bool(chosen))


class Claims:
    """Who has which ports of the machine. In the loop's thread, but for what is said to block."""

    def __init__(self) -> None:
        self._bound: dict[str, tuple[Port, ...]] = {}  # by the container's id
        self.lock = trio.Lock()  # from looking for what is free until it is had
        self._moved: set[Port] = set()
        self.is_gateway: Callable[[str], bool] = lambda address: False  # of a network, where its DNS listens
        self.name_of: Callable[[str], str] = lambda container: container[:12]
        self.elsewhere: Callable[[], Iterable[tuple[Port, str]]] = (
            tuple  # what other engines have published, and who; blocks
        )

    def of(self, container: str) -> tuple[Port, ...]:
        """What it has."""
        return self._bound.get(container, ())

    def all(self) -> dict[str, tuple[Port, ...]]:
        """Everybody's."""
        return dict(self._bound)

    def adopt(self, container: str, ports: Iterable[Port]) -> None:
        """It has these and no others."""
        bound = tuple(ports)
        self._moved |= set(self.of(container)) ^ set(bound)
        if bound:
            self._bound[container] = bound
        else:
            self._bound.pop(container, None)

    def release(self, container: str) -> None:
        """It has none any more."""
        self.adopt(container, ())

    def lead_elsewhere(self, container: str) -> None:
        """It has what it had, at other addresses of its own."""
        self._moved |= set(self.of(container))

    def take_moved(self) -> set[Port]:
        """Those that lead elsewhere than when this was asked last."""
        moved, self._moved = self._moved, set()
        return moved

    def find(self, wanted: Iterable[Port], kept: Iterable[Port], container: str) -> tuple[Port, ...]:
        """*wanted*, with a free port where any will do; *kept* are the container's own already. Taken, with who has it. Blocks."""
        had, wanted = tuple(kept), tuple(wanted)
        own, others = _Index(), _Index()
        for port in had:
            own.add(port, container)
        for owner, theirs in tuple(self._bound.items()):
            if owner != container:
                name = f"container {self.name_of(owner)}"
                for port in theirs:
                    others.add(port, name)
        for port, name in self.elsewhere() if wanted else ():
            others.add(port, name)
        fresh: list[Port] = []
        for port in wanted:
            chosen = port if port.host else _any(port, own, others)
            if own.find(chosen) is not None:
                raise Taken(f"ports: {chosen} is published twice")
            if (having := others.find(chosen)) is not None:
                raise Taken(f"ports: {chosen} is taken by {having}")
            if port.host:
                _check_free(chosen, self.is_gateway)
            own.add(chosen, container)
            fresh.append(chosen)
        return (*had, *fresh)

    def check_elsewhere(self, fresh: Collection[Port]) -> None:
        """Taken when one of *fresh* has become another engine's since it was found free. Blocks."""
        others = _Index()
        for port, name in self.elsewhere() if fresh else ():
            others.add(port, name)
        for port in fresh:
            if (having := others.find(port)) is not None:
                raise Taken(f"ports: {port} is taken by {having}")


class _Index:
    """Ports by their numbers: there may be thousands."""

    def __init__(self) -> None:
        self._single: dict[tuple[str, int], list[tuple[Port, str]]] = {}
        self._long: list[tuple[Port, str]] = []

    def add(self, port: Port, owner: str) -> None:
        if port.count > _FEW:
            self._long.append((port, owner))
            return
        for number in range(port.host, port.host + port.count):
            self._single.setdefault((port.protocol, number), []).append((port, owner))

    def find(self, port: Port) -> str | None:
        """Who has what overlaps it."""
        numbers = range(port.host, port.host + port.count)
        near = [each for number in numbers for each in self._single.get((port.protocol, number), ())]
        return next((owner for each, owner in (*near, *self._long) if each.overlaps(port)), None)


def _any(port: Port, *taken: _Index) -> Port:
    """*port* at one of the machine's that is free. Taken when there is none."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in port.written else socket.AF_INET
    for _ in range(200):
        with socket.socket(family, kind) as probe:
            probe.bind((port.written, 0))
            chosen = replace(port, host=probe.getsockname()[1], chosen=True)
        if all(index.find(chosen) is None for index in taken) and all(
            _can_be_bound(chosen, version) for version in chosen.versions
        ):
            return chosen
    raise Taken("ports: there is no port left that is free")


def _check_free(port: Port, is_gateway: Callable[[str], bool]) -> None:
    """Whether nobody on the machine listens there, but for the networks' own DNS. Taken, with who does; Invalid for an address that is
    not the machine's, Unsupported for one that packets can't be led on from."""
    if port.address == "::1" and not loopback.is_led_on():
        raise Unsupported(
            f"ports: {port} can't be published where {loopback.ASKING} is 1: the kernel drops the answers"
        )
    if port.protocol == "sctp":
        return
    if port.count > _FEW:
        for found in sorted(_sockets(port.protocol), key=lambda each: each.port):
            if found.listens and found.is_at(port) and not (found.port == DNS and is_gateway(str(found.address))):
                raise Taken(f"ports: {_one(port, found.port)} is taken by {found.owner()}")
        return
    for each in port.single():
        for version in port.versions:
            if not _can_be_bound(each, version):
                sockets = [found for found in _sockets(port.protocol) if found.is_at(each)]
                if sockets and all(found.port == DNS and is_gateway(str(found.address)) for found in sockets):
                    continue
                owner = min(sockets, key=lambda found: not found.listens).owner() if sockets else _SOMEBODY
                raise Taken(f"ports: {each} is taken by {owner}")


def _can_be_bound(port: Port, version: int) -> bool:
    """Whether a socket could be. Invalid for an address that is not the machine's."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind) as probe:
            if version == 6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port.protocol == "tcp"))
            probe.bind((port.address or ("0.0.0.0" if version == 4 else "::"), port.host))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno == errno.EADDRNOTAVAIL and port.address:
            raise Invalid(f"ports: {port.address} is not an address of this machine") from None
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # there is no IPv6 here
            raise
    return True


def _one(port: Port, number: int) -> Port:
    """Of *port* the one that has this number."""
    return replace(port, host=number, inner=port.inner + number - port.host, count=1)


@dataclass(frozen=True, slots=True)
class _Socket:
    """One of the machine's, from ``/proc/net``."""

    address: IPv4Address | IPv6Address
    port: int
    listens: bool
    inode: str

    def is_at(self, port: Port) -> bool:
        """Whether it is in the way of one that is in *port*."""
        if not port.host <= self.port < port.host + port.count:
            return False
        address = self.address
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address == IPv6Address(_ALL_6):  # which may be about IPv4 as well
            return True
        if not port.address:
            return address.version in port.versions
        wanted = ip_address(port.address)
        return address.version == wanted.version and (int(address) == 0 or address == wanted)

    def owner(self) -> str:
        """Whose it is, as far as that can be seen: ``nginx (pid 12)``."""
        wanted = f"socket:[{self.inode}]"
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                with suppress(OSError):
                    for descriptor in (process / "fd").iterdir():
                        with suppress(OSError):
                            if os.readlink(descriptor) == wanted:
                                return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        return _SOMEBODY


def _sockets(protocol: str) -> Iterator[_Socket]:
    """Those of *protocol* in the machine's network."""
    for table in _TABLES[protocol]:
        with suppress(OSError):  # there is no IPv6 here
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                yield _Socket(_in_words(address), int(port, 16), fields[3] == _LISTENING[protocol], fields[9])


def _in_words(text: str) -> IPv4Address | IPv6Address:
    """An address of ``/proc/net``: words of 32 bits, each in this machine's order of bytes."""
    words = (int(text[index : index + 8], 16).to_bytes(4, sys.byteorder) for index in range(0, len(text), 8))
    return ip_address(b"".join(words))
