"""The packet filter: one table, ``inet pydock`` where there is one engine, which is nobody else's (:mod:`.tables`). See nft(8).

A published port is an element of one of four maps, so that thousands cost a connection no more than one. What comes from a network
with a way out, and leaves by another link, gets the machine's address (masquerade); from there nothing comes but answers, and what is
for published ports. Between networks packets go unless one of them is isolated; to and from an internal network nothing goes. All that
is decided by the networks' records and the claims of ports, so the table can be written anew at any time; connections that are there go
on, as it has no state of theirs.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydock.runtime.network import loopback
from pydock.runtime.network.ports import DNS, Port
from pydock.runtime.network.record import NetworkRecord

_PORT: Final = "{}meta l4proto {{ tcp, udp, sctp }} dnat {} to {}meta l4proto . th dport map @{}"
_LOOKUPS: Final = (
    ("", "ip", "ip daddr . ", "at4"),
    ("", "ip6", "ip6 daddr . ", "at6"),
    ("fib daddr type local ", "ip", "", "any4"),
    ("fib daddr type local ", "ip6", "", "any6"),
)
_GATEWAYS: Final = f'iifname "pd-*" fib daddr . iif type local meta l4proto {{ tcp, udp }} th dport {DNS} return'
_SAYABLE: Final = re.compile(r"[ !#-~]{1,120}")  # a comment of nft's
_FEW: Final = 16  # ports of a range that are elements of a map in any case
_MARTIANS: Final = 'iifname "pd-*" ip daddr 127.0.0.0/8 counter drop'


@dataclass(frozen=True, slots=True)
class Published:
    """The ports of one container, and its own addresses, of one IP version each at most, that they lead to."""

    addresses: tuple[str, ...]
    ports: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """What is to be in force, whatever it is called: maps and chains with their *rules*, in nft's words, and the *elements* of the
    maps, by map and key. An empty chain tells the *owner*, and *said* is for who looks at it."""

    owner: str
    said: str
    rules: str
    elements: dict[str, dict[str, str]]

    def whole(self, name: str) -> str:
        """Commands that make it. They fail if somebody has one of that name."""
        comment = f' {{\n\tcomment "{self.said}"\n}}' if _SAYABLE.fullmatch(self.said) else ""
        return f"create table inet {name}{comment}\n{self._ruled(name)}{self._difference(name, {})}"

    def since(self, before: Table, name: str) -> str:
        """Commands that make it of *before*: its counters stay, and the cost is that of what has changed. They fail if it is not
        there, or another engine's."""
        rules = "" if self.rules == before.rules else f"flush table inet {name}\n{self._ruled(name)}"
        return f"flush chain inet {name} {self.owner}\n{rules}{self._difference(name, before.elements)}"

    def _ruled(self, name: str) -> str:
        return f"table inet {name} {{\n{self.rules}\n}}\n"

    def _difference(self, name: str, before: dict[str, dict[str, str]]) -> str:
        lines = []
        for key, elements in self.elements.items():
            there = before.get(key, {})
            gone = [each for each, value in there.items() if elements.get(each) != value]
            fresh = [f"{each} : {value}" for each, value in elements.items() if there.get(each) != value]
            for verb, items in (("delete", gone), ("add", fresh)):
                if items:
                    lines.append(f"{verb} element inet {name} {key} {{ {', '.join(items)} }}\n")
        return "".join(lines)


def table(
    networks: Iterable[NetworkRecord], published: Iterable[Published] = (), owner: str = "engine", said: str = ""
) -> Table:
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
        *_chain(owner, "", []),
        *(line for *_, name in _LOOKUPS for line in _map(name)),
        *_chain("published", "", lookups),
        *_chain(
            "prerouting", "type nat hook prerouting priority dstnat; policy accept;", [_GATEWAYS, "jump published"]
        ),
        *_chain("output", "type nat hook output priority -100; policy accept;", ["jump published"]),
        # the machine's loopback is reached through bridges by nobody, though answers have to be (route_localnet)
        *_chain("loopback", "type filter hook prerouting priority raw; policy accept;", [_MARTIANS]),
        *_chain("forward", "type filter hook forward priority filter; policy accept;", forward),
        *_chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", nat),
    ]
    return Table(owner, said, "\n".join(rules), elements)


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
