"""The packet filter: one table, ``inet pydock``, which is replaced as a whole and is nobody else's. See nft(8).

What comes from a network with a way out, and leaves by another link, gets the machine's address (masquerade). Between networks packets
go unless one of them is isolated; to and from an internal network nothing goes. All that is decided by the networks' records, so the
table can be written anew at any time; connections that are there go on, as it has no state of theirs.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterable
from typing import Final

from pydock.runtime.network.store import NetworkRecord

TABLE: Final = "inet pydock"
_LONGEST: Final = 300


def render(networks: Iterable[NetworkRecord]) -> str:
    """The table for *networks*, as ``nft -f`` takes it: in one transaction."""
    forward: list[str] = []
    nat: list[str] = []
    for network in sorted(networks, key=lambda each: each.name):
        link = f'"{network.bridge}"'
        if network.internal:
            forward += [
                f"iifname {link} oifname != {link} counter drop",
                f"oifname {link} iifname != {link} counter drop",
            ]
            continue
        if network.isolate:
            forward.append(f'iifname {link} oifname "pd-*" oifname != {link} counter drop')
            forward.append(f'oifname {link} iifname "pd-*" iifname != {link} counter drop')
        if network.masquerade:
            for subnet in network.subnets:
                family = "ip" if subnet.version == 4 else "ip6"
                nat.append(f"{family} saddr {subnet} oifname != {link} counter masquerade")
    return "\n".join(
        [
            f"add table {TABLE}",
            f"delete table {TABLE}",
            f"table {TABLE} {{",
            *_chain("forward", "type filter hook forward priority filter; policy accept;", forward),
            *_chain("postrouting", "type nat hook postrouting priority srcnat; policy accept;", nat),
            "}\n",
        ]
    )


def _chain(name: str, hook: str, rules: list[str]) -> list[str]:
    return [f"\tchain {name} {{", f"\t\t{hook}", *(f"\t\t{rule}" for rule in rules), "\t}"]


def apply(text: str) -> None:
    """Have the kernel take *text*. OSError: EOPNOTSUPP where there is no nft or no nftables. Blocks."""
    _nft("-f", "-", given=text)


def listed() -> str:
    """The table as nft shows it, with counters; empty when there is none. Blocks."""
    try:
        return _nft("list", "table", *TABLE.split())
    except OSError:
        return ""


def _nft(*words: str, given: str = "") -> str:
    try:
        done = subprocess.run(
            ["nft", *words], input=given, capture_output=True, text=True, check=False, timeout=60, cwd="/"
        )
    except FileNotFoundError:
        raise OSError(
            errno.EOPNOTSUPP, "there is no nft(8) on this machine: networks need the package nftables"
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.split())[:_LONGEST]
        raise OSError(errno.EOPNOTSUPP if "not supported" in said else errno.EIO, f"nft: {said}")
    return done.stdout
