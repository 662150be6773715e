"""The machine's other packet filters: what one of them drops is gone, whatever pydock's own table says. See nft(8).

iptables (as docker leaves it), ufw and firewalld can each be told to let containers pass; that is for the machine's owner to say, so
they are looked at and never changed. A chain that drops what it has no rule for is taken to be told when it, or one that it jumps to,
has rules about the bridges, ``pd-*``. The kernel's older filter, that of iptables-legacy, is asked about by its program where it has
rules, which ``/proc/net`` tells.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.network import nftables
from pydock.runtime.network.record import NetworkRecord

_FIREWALLD: Final = ("inet", "firewalld")
_MAY: Final = "may drop what containers send and get"
_MOMENT: Final = 0.1  # seconds until a look: the start that asked for it comes first
_PAUSE: Final = 1.0  # seconds between two looks, however many containers start
_BASE: Final = re.compile(r"type filter hook (forward|input) priority [^;]*;( policy drop;)?")
_JUMP: Final = re.compile(r"(?:\b(?:jump|goto)|-[jg]) (\S+)")
_LEGACY: Final = (
    (Path("/proc/net/ip_tables_names"), "iptables-legacy"),
    (Path("/proc/net/ip6_tables_names"), "ip6tables-legacy"),
)
_UFW: Final = "ufw route allow in on pd-+; ufw route allow out on pd-+; ufw allow in on pd-+ to any port 53"
_ZONE: Final = "firewall-cmd --permanent --zone=trusted --add-interface=pd-+; firewall-cmd --reload"


class Firewalls:
    """Tells, in the ``error`` of *networks*, what is in their way. *failed* is told when that is news."""

    def __init__(self, networks: Iterable[NetworkRecord], failed: Callable[[str, str], None]) -> None:
        self._networks = networks
        self._failed = failed
        self._asked = self._looking = False

    def ask(self, spawn: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        """Have a look soon, in a task of *spawn*'s."""
        self._asked = True
        if not self._looking:
            self._looking = True
            spawn(self._look_on)

    async def _look_on(self) -> None:
        try:
            while self._asked:
                await trio.sleep(_MOMENT)
                self._asked = False
                with suppress(OSError):  # without nftables nothing can be told; a start tells that
                    await self._look()
                await trio.sleep(_PAUSE)
        finally:
            self._looking = False

    async def _look(self) -> None:
        words = {ipv6: await trio.to_thread.run_sync(obstacles, ipv6) for ipv6 in (False, True)}
        for network in tuple(self._networks):
            said = "" if network.internal else words[bool(network.subnet6)]
            if said == network.error or not (said or _MAY in network.error):
                continue
            network.error = said
            if said:
                self._failed(f"networks/{network.name}", said)


@dataclass(frozen=True, slots=True)
class _Chain:
    """A base chain that drops by default. *hook* is ``forward``, or ``input``, where questions to the networks' DNS come."""

    family: str
    table: str
    name: str
    hook: str

    def __str__(self) -> str:
        return f"chain {self.name} of table {self.family} {self.table}"


def obstacles(ipv6: bool) -> str:
    """What is in the way of containers' packets, and the lines that let them pass; empty when nothing is. Blocks; OSError."""
    chains, lines = list[str](), list[str]()
    tables: dict[tuple[str, str], dict[str, list[str]]] = {}
    for chain in _dropping(nftables.run("list chains"), ipv6=ipv6):
        place = (chain.family, chain.table)
        if place not in tables:
            tables[place] = _chains(nftables.run(f"list table {chain.family} {chain.table}"))
        rules = "\n".join(_reached(tables[place], chain.name))
        # firewalld lets answers and published ports pass by itself
        ways = ("iif", "oif") if chain.hook == "forward" and place != _FIREWALLD else ("iif",)
        if not all(f'{way}name "pd-' in rules for way in ways):
            chains.append(str(chain))
            lines.append(_remedy(chain, tables[place]))
    for words, remedy in _legacy(ipv6=ipv6):
        chains.append(words)
        lines.append(remedy)
    return f"{', '.join(chains)} {_MAY}: {'; '.join(dict.fromkeys(lines))}" if chains else ""


def _dropping(text: str, *, ipv6: bool) -> Iterator[_Chain]:
    """Those of *text*, nft's list of chains."""
    families = ("ip", "inet", "ip6") if ipv6 else ("ip", "inet")
    family = table = name = ""
    for line in text.splitlines():
        words = line.split()
        if line.startswith("table"):
            family, table = words[1:3]
        elif words[:1] == ["chain"]:
            name = words[1]
        match = _BASE.search(line)
        if match and family in families and (match[2] or (family, table) == _FIREWALLD):
            yield _Chain(family, table, name, match[1])


def _legacy(*, ipv6: bool) -> Iterator[tuple[str, str]]:
    """Chains of iptables-legacy that are in the way, and what lets packets pass."""
    for names, program in _LEGACY if ipv6 else _LEGACY[:1]:
        with suppress(OSError):  # the kernel has no such filter, or nobody here its program
            if "filter" not in names.read_text().split():
                continue
            said = subprocess.run(
                [f"{program}-save", "-t", "filter"], capture_output=True, text=True, check=False
            ).stdout
            chains: dict[str, list[str]] = {name: [] for name in re.findall(r"^:(\S+)", said, re.MULTILINE)}
            for name, rule in re.findall(r"^-A (\S+) (.*)", said, re.MULTILINE):
                chains[name].append(rule)
            for hook, ways in (("FORWARD", "io"), ("INPUT", "i")):
                rules = "\n".join(_reached(chains, hook))
                if f":{hook} DROP" in said and not all(f"-{way} pd-" in rules for way in ways):
                    yield f"chain {hook} of {program}", _insertions(program, hook, chains)


def _chains(text: str) -> dict[str, list[str]]:
    """The rules of each chain of a table."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("chain "):
            name = line.split()[1]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _reached(chains: dict[str, list[str]], first: str) -> list[str]:
    """The rules of *first* and of all that it leads to."""
    names, rules = [first], list[str]()
    for name in names:
        rules += chains.get(name, ())
        names += [each for rule in chains.get(name, ()) for each in _JUMP.findall(rule) if each not in names]
    return rules


def _remedy(chain: _Chain, chains: dict[str, list[str]]) -> str:
    if (chain.family, chain.table) == _FIREWALLD:
        return _ZONE
    program = {"ip": "iptables", "ip6": "ip6tables"}.get(chain.family)
    if program and (chain.table, chain.name) == ("filter", chain.hook.upper()):
        return _insertions(program, chain.name, chains)
    place = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    if chain.hook == "input":
        return f"{place} iifname 'pd-*' udp dport 53 accept"
    return f"{place} iifname 'pd-*' accept; {place} oifname 'pd-*' accept"


def _insertions(program: str, chain: str, chains: Iterable[str]) -> str:
    """The lines for iptables, or who has rules made by it; *chains* are all that there are."""
    if any(name.startswith(("ufw-", "ufw6-")) for name in chains):
        return _UFW
    if chain == "INPUT":
        return f"{program} -I INPUT -i pd-+ -p udp --dport 53 -j ACCEPT"
    name = "DOCKER-USER" if "DOCKER-USER" in chains else chain
    return f"{program} -I {name} -i pd-+ -j ACCEPT; {program} -I {name} -o pd-+ -j ACCEPT"
