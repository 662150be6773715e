"""The packet filter: one table, ``inet pydock``, which is replaced as a whole and is nobody else's. See nft(8).

A published port is an element of one of four maps, so that thousands cost a connection no more than one. What comes from a network
with a way out, and leaves by another link, gets the machine's address (masquerade); from there nothing comes but answers, and what is
for published ports. Between networks packets go unless one of them is isolated; to and from an internal network nothing goes. All that
is decided by the networks' records and the claims of ports, so the table can be written anew at any time; connections that are there go
on, as it has no state of theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pydock.runtime.network import loopback, nftables
from pydock.runtime.network.ports import DNS, Port
from pydock.runtime.network.store import NetworkRecord

TABLE: Final = "inet pydock"
_PORT: Final = "{}meta l4proto {{ tcp, udp, sctp }} dnat {} to {}meta l4proto . th dport map @{}"
_LOOKUPS: Final = (
    ("", "ip", "ip daddr . ", "at4"),
    ("", "ip6", "ip6 daddr . ", "at6"),
    ("fib daddr type local ", "ip", "", "any4"),
    ("fib daddr type local ", "ip6", "", "any6"),
)
_FEW: Final = 16  # ports of a range that are elements of a map in any case
_MARTIANS: Final = 'iifname "pd-*" ip daddr 127.0.0.0/8 counter drop'


@dataclass(frozen=True, slots=True)
class Published:
    """The ports of one container, and its own addresses, of one IP version each at most, that they lead to."""

    addresses: tuple[str, ...]
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What is to be in force: maps and chains with their *rules*, in nft's words, and the *elements* of the maps, by map and key. An
    empty chain tells the *owner*: another engine in this network namespace may have made it another table."""

    owner: str
    rules: str
    elements: dict[str, dict[str, str]]

    def whole(self) -> str:
        """Commands that make it, whatever there is of it."""
        return f"add table {TABLE}\ndelete table {TABLE}\n{self.rules}{self._difference({})}"

    def since(self, before: Table) -> str:
        """Commands that make it of *before*: its counters stay, and the cost is that of what has changed. They fail if it is not
        there, or another engine's."""
        rules = "" if self.rules == before.rules else f"flush table {TABLE}\n{self.rules}"
        return f"flush chain {TABLE} {self.owner}\n{rules}{self._difference(before.elements)}"

    def away(self) -> str:
        """Commands that remove it; they fail as those do."""
        return f"flush chain {TABLE} {self.owner}\ndelete table {TABLE}\n"

    def _difference(self, before: dict[str, dict[str, str]]) -> str:
        lines = []
        for name, elements in self.elements.items():
            there = before.get(name, {})
            gone = [key for key, value in there.items() if elements.get(key) != value]
            fresh = [f"{key} : {value}" for key, value in elements.items() if there.get(key) != value]
            for verb, items in (("delete", gone), ("add", fresh)):
                if items:
                    lines.append(f"{verb} element {TABLE} {name} {{ {', '.join(items)} }}\n")
        return "".join(lines)


def table(networks: Iterable[NetworkRecord], published: Iterable[Published] = (), owner: str = "engine") -> Table:
    """The table for *networks* and what is *published*."""
    networks = sorted(networks, key=lambda each: each.name)
    elements, ranges = _elements(published)
    gateways = [
        f"{'ip6' if each.version == 6 else 'ip'} daddr {each.ip}" for network in networks for each in network.gateways
    ]
    lookups = [
        *(f"{each} meta l4proto {{ tcp, udp }} th dport {DNS} return" for each in gateways),  # the networks' own
        *([] if loopback.is_led_on() else ["ip6 daddr ::1 return"]),
        *(_PORT.format(*each) for each in _LOOKUPS),
        *ranges,
    ]
    forward, nat = _between(networks)
    rules = [
        f"table {TABLE} {{",
        *_chain(owner, "", []),
        *(line for *_, name in _LOOKUPS for line in _map(name)),
        *_chain("published", "", lookups),
        *_chain("prerouting", "type nat hook prerouting priority dstnat; policy accept;", ["jump published"]),
        *_chain("output", "type nat hook output priority -100; policy accept;", ["jump published"]),
        # the machine's loopback is reached through bridges by nobody, though answers have to be (route_localnet)
        *_chain("loopback", "type filter hook prerouting priority raw; policy accept;", [_MARTIANS]),
        *_chain("forward", "type filter hook forward priority filter; policy accept;", forward),
        *_chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", nat),
        "}\n",
    ]
    return Table(owner, "\n".join(rules), elements)


def _between(networks: Iterable[NetworkRecord]) -> tuple[list[str], list[str]]:
    """The rules for what goes between links, and for what leaves by them."""
    forward: list[str] = ["ct state { established, related } accept", "ct status dnat accept"]
    nat: list[str] = [  # from the machine itself, to a published port
        'oifname "pd-*" ip saddr 127.0.0.0/8 counter masquerade',
        'oifname "pd-*" ip6 saddr ::1 counter masquerade',
    ]
    for network in networks:
        link = f'"{network.bridge}"'
        for subnet in network.subnets:
            family = "ip" if subnet.version == 4 else "ip6"
            if network.masquerade and not network.internal:
                nat.append(f"{family} saddr {subnet} oifname != {link} counter masquerade")
            # to a neighbour, or itself, by a published port: the answer has to come back this way
            nat.append(f"{family} saddr {subnet} oifname {link} ct status dnat counter masquerade")
        if network.internal:
            forward += [
                f"iifname {link} oifname != {link} counter drop",
                f"oifname {link} iifname != {link} counter drop",
            ]
        elif (
            network.masquerade
        ):  # nobody is to know the addresses in it: one that routes them here all the same has no business there
            forward.append(f'oifname {link} iifname != "pd-*" ct state != {{ established, related }} counter drop')
        if network.isolate and not network.internal:
            forward.append(f'iifname {link} oifname "pd-*" oifname != {link} counter drop')
            forward.append(f'oifname {link} iifname "pd-*" iifname != {link} counter drop')
    return forward, nat


def _elements(published: Iterable[Published]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The elements of the maps, and rules for ranges that are long and keep their ports."""
    elements: dict[str, dict[str, str]] = {name: {} for *_, name in _LOOKUPS}
    ranges: list[str] = []
    for each in published:
        own, rules = _elements_of(each)
        for name, found in own.items():
            elements[name] |= found
        ranges += rules
    return elements, ranges


@functools.lru_cache(maxsize=4096)  # of all that is published little changes at a time
def _elements_of(each: Published) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    elements: dict[str, dict[str, str]] = {}
    ranges = []
    for address in each.addresses:
        version = 6 if ":" in address else 4
        for port in each.ports:
            if version not in port.versions:
                continue
            if port.count > _FEW and port.host == port.inner:
                ranges.append(_range(port, version, address))
                continue
            place = f"{port.address} . " if port.address else ""
            found = elements.setdefault(f"{'at' if place else 'any'}{version}", {})
            for number in range(port.count):
                found[f"{place}{port.protocol} . {port.host + number}"] = f"{address} . {port.inner + number}"
    return elements, tuple(ranges)


def _range(port: Port, version: int, address: str) -> str:
    family = "ip" if version == 4 else "ip6"
    place = f"{family} daddr {port.address}" if port.address else "fib daddr type local"
    return f"{place} meta l4proto {port.protocol} th dport {port.host}-{port.host + port.count - 1} dnat {family} to {address}"


def _map(name: str) -> list[str]:
    """By protocol and port, and for some by the machine's address before, the container's address and port."""
    kind = f"ipv{name[-1]}_addr"
    before = f"{kind} . " if name.startswith("at") else ""
    return [f"\tmap {name} {{", f"\t\ttype {before}inet_proto . inet_service : {kind} . inet_service;", "\t}"]


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"\tchain {name} {{", *([f"\t\t{hook}"] if hook else []), *(f"\t\t{rule}" for rule in rules), "\t}"]


def apply(wanted: Table, before: Table | None) -> None:
    """Have the kernel's table be as *wanted*; *before* is what it is as far as one knows. OSError: EOPNOTSUPP without nft or
    nftables. Blocks."""
    if before is not None:
        try:
            nftables.run(wanted.since(before))
        except OSError:  # it is not: somebody has had a hand in it
            nftables.run(wanted.whole())
    else:
        nftables.run(wanted.whole())


def remove(present: Table) -> None:
    """Have the kernel forget the table, if it is that one. Blocks."""
    with suppress(OSError):
        nftables.run(present.away())


def is_there() -> bool:
    """Whether the kernel has the table. Blocks; OSError."""
    return f"table {TABLE}" in nftables.run("list tables").splitlines()


def listed() -> str:
    """The table as nft shows it, with counters; empty when there is none. Blocks."""
    try:
        return nftables.run(f"list table {TABLE}")
    except OSError:
        return ""
