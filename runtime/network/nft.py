"""The packet filter: one table, ``inet pydock``, which is replaced as a whole and is nobody else's. See nft(8).

A published port is an element of one of four maps, so that thousands cost a connection no more than one. What comes from a network
with a way out, and leaves by another link, gets the machine's address (masquerade); from there nothing comes but answers, and what is
for published ports. Between networks packets go unless one of them is isolated; to and from an internal network nothing goes. All that
is decided by the networks' records and the claims of ports, so the table can be written anew at any time; connections that are there go
on, as it has no state of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydock.runtime.network import loopback, nftables
from pydock.runtime.network.ports import Port
from pydock.runtime.network.store import NetworkRecord

TABLE: Final = "inet pydock"
_PORT: Final = "{}meta l4proto {{ tcp, udp, sctp }} dnat {} to {}meta l4proto . th dport map @{}"
_LOOKUPS: Final = (
    ("", "ip", "ip daddr . ", "at4"),
    ("", "ip6", "ip6 daddr . ", "at6"),
    ("fib daddr type local ", "ip", "", "any4"),
    ("fib daddr type local ", "ip6", "", "any6"),
)
_MARTIANS: Final = 'iifname "pd-*" ip daddr 127.0.0.0/8 counter drop'


@dataclass(frozen=True, slots=True)
class Published:
    """The ports of one container, and its own addresses, of one IP version each at most, that they lead to."""

    addresses: tuple[str, ...]
    ports: tuple[Port, ...]


def render(networks: Iterable[NetworkRecord], published: Iterable[Published] = ()) -> str:
    """The table for *networks* and what is *published*, as ``nft -f`` takes it: in one transaction."""
    forward: list[str] = ["ct status dnat accept"]
    nat: list[str] = [  # from the machine itself, to a published port
        'oifname "pd-*" ip saddr 127.0.0.0/8 counter masquerade',
        'oifname "pd-*" ip6 saddr ::1 counter masquerade',
    ]
    for network in sorted(networks, key=lambda each: each.name):
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
    return "\n".join(
        [
            f"add table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *_maps(published),
            *_chain(
                "published",
                "",
                [
                    *([] if loopback.is_led_on() else ["ip6 daddr ::1 return"]),
                    *(_PORT.format(*each) for each in _LOOKUPS),
                ],
            ),
            *_chain("prerouting", "type nat hook prerouting priority dstnat; policy accept;", ["jump published"]),
            *_chain("output", "type nat hook output priority -100; policy accept;", ["jump published"]),
            # the machine's loopback is reached through bridges by nobody, though answers have to be (route_localnet)
            *_chain("loopback", "type filter hook prerouting priority raw; policy accept;", [_MARTIANS]),
            *_chain("forward", "type filter hook forward priority filter; policy accept;", forward),
            *_chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", nat),
            "}\n",
        ]
    )


def _maps(published: Iterable[Published]) -> list[str]:
    """By protocol and port, and for some by the machine's address before, the container's address and port."""
    elements: dict[str, list[str]] = {name: [] for *_, name in _LOOKUPS}
    for each in published:
        for address in each.addresses:
            version = 6 if ":" in address else 4
            for port in each.ports:
                if version in port.versions:
                    place = f"{port.address} . " if port.address else ""
                    name = f"{'at' if place else 'any'}{version}"
                    elements[name] += [
                        f"{place}{port.protocol} . {one.host} : {address} . {one.inner}" for one in port.single()
                    ]
    lines = []
    for name, found in elements.items():
        kind = f"ipv{name[-1]}_addr"
        before = f"{kind} . " if name.startswith("at") else ""
        lines.append(f"\tmap {name} {{")
        lines.append(f"\t\ttype {before}inet_proto . inet_service : {kind} . inet_service;")
        lines += [f"\t\telements = {{ {', '.join(found)} }}"] if found else []
        lines.append("\t}")
    return lines


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"\tchain {name} {{", *([f"\t\t{hook}"] if hook else []), *(f"\t\t{rule}" for rule in rules), "\t}"]


def apply(text: str) -> None:
    """Have the kernel take *text*. OSError: EOPNOTSUPP where there is no nft or no nftables. Blocks."""
    nftables.run(text)


def listed() -> str:
    """The table as nft shows it, with counters; empty when there is none. Blocks."""
    try:
        return nftables.run(f"list table {TABLE}")
    except OSError:
        return ""
