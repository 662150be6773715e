"""Published ports: what a container's ``ports`` say, in docker's words.

``[IP:]HOST[-END]:CONTAINER[-END][/tcp|udp|sctp]``; an IPv6 address is in brackets; HOST 0 is any port that is free, HOST-END with
one CONTAINER the first of these that is, and ``auto`` is all that the image exposes, each at any port that is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pydock.runtime.errors import Invalid
from pydock.runtime.formats import quote

AUTO: Final = "auto"
PROTOCOLS: Final = ("tcp", "udp", "sctp")
_HIGHEST: Final = 65535
_ITEM: Final = re.compile(
    r"(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<host>\d{1,5})(?:-(?P<host_end>\d{1,5}))?"
    r":(?P<inner>\d{1,5})(?:-(?P<inner_end>\d{1,5}))?(?:/(?P<protocol>[a-z]+))?",
    re.ASCII,
)
_EXPOSED: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/([a-z]+))?", re.ASCII)
_LONGEST: Final = 16384  # ports of a range that have other numbers inside: each takes memory of the kernel's
MOST_CHOSEN: Final = 1000
DNS: Final = 53
ALL_6: Final = "::"


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
    choices: int = 1  # so many of the machine's, from *host* on, would do; it gets one

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
        choices = host_end - host + 1 if inner == inner_end else 1
        if choices == 1 and host_end - host != inner_end - inner and host:
            raise Invalid(f"ports: {quote(text)} has ranges of different lengths")
        if host == 0 and inner_end - inner >= MOST_CHOSEN:
            raise Invalid(f"ports: {quote(text)} is too long: at most {MOST_CHOSEN} get ports that are free")
        if inner_end - inner >= _LONGEST and host != inner:
            raise Invalid(
                f"ports: {quote(text)} is too long: more than {_LONGEST} ports need the same numbers on both sides"
            )
        address = _address(match["ip"] or "", text)
        all6 = address == ALL_6
        return cls("" if all6 else address, host, inner, inner_end - inner + 1, protocol, only6=all6, choices=choices)

    @property
    def is_open(self) -> bool:
        """Whether which of the machine's ports it gets is to be found."""
        return self.host == 0 or self.choices > 1

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions that it is about."""
        if self.only6:
            return (6,)
        return (4, 6) if not self.address else (ip_address(self.address).version,)

    @property
    def written(self) -> str:
        """The address as an item has it; empty for all."""
        return ALL_6 if self.only6 else self.address

    def __str__(self) -> str:
        address = f"[{self.written}]" if ":" in self.written else self.written
        host, inner = _span(self.host, max(self.count, self.choices) if self.host else 1), _span(self.inner, self.count)
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
    def _where(self) -> str:
        return f"{self.protocol}:{self.written or '0.0.0.0'}:"

    def places(self) -> Iterator[str]:
        """``PROTOCOL:ADDRESS:PORT`` of each port of the machine's."""
        where = self._where
        return (f"{where}{number}" for number in range(self.host, self.host + self.count))

    def has(self, place: str) -> bool:
        """Whether *place* is one of them; there may be thousands."""
        number = place.rpartition(":")[2]
        if f"{self._where}{number}" != place:
            return False
        return number.isdecimal() and self.host <= int(number) < self.host + self.count and str(int(number)) == number

    def is_had_by(self, bound: Port) -> bool:
        """Whether who has *bound* has what this asks for."""
        if not self.is_open:
            return bound == self
        would_do = self.host == 0 or self.host <= bound.host < self.host + self.choices
        return would_do and bound == self.at(bound.host)

    def at(self, host: int) -> Port:
        """The one that this becomes when it gets the machine's port *host*."""
        return replace(self, host=host, choices=1, chosen=True)

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
    return f"{port.written} {port.host}-{max(port.count, port.choices)} {port.protocol}" + (
        f" {port.inner}" if port.is_open else ""
    )


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
