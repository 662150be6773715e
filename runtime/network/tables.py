"""Which table of the packet filter is whose: several engines may be in one network namespace, and each has its own.

The first one has ``inet pydock``, one that finds that taken ``inet pydock-XXXXXXXX``. What they are told apart by is a chain of the
engine's own name, and the bridges. An engine that serves has that name as an abstract Unix socket's, which belongs to the network
namespace, as tables do, and goes with its process: see unix(7). The table of one that neither serves nor has a container in a bridge is
nobody's: who finds it takes it away, under its name, so that it does not come back in this moment.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import socket
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Final

from pydock.runtime.network import links, nftables
from pydock.runtime.network.addresses import Network, ip_network
from pydock.runtime.network.nft import Table
from pydock.runtime.network.ports import Port
from pydock.runtime.network.store import NetworkStore

_FIRST: Final = "pydock"
_NAME: Final = re.compile(r"pydock(-[0-9a-f]{8})?")
_OWNER: Final = re.compile(r"^\tchain (engine-[0-9a-f]{8}) \{", re.MULTILINE)
_BRIDGE: Final = re.compile(r'"(pd-[0-9a-f]{8})"')
_GATEWAY: Final = re.compile(r"\bip6? daddr (\S+) meta l4proto \{ tcp, udp \} th dport 53 return")
_SUBNET: Final = re.compile(r"\bip6? saddr (\S+/\d+) oifname ")
_SAID: Final = re.compile(r'^\tcomment "(.*)"$', re.MULTILINE)
#: Of a map: ``ADDRESS . PROTOCOL . PORT : …``, or without an address; of a rule: ``ip daddr ADDRESS … dport FIRST-LAST dnat …``.
_ELEMENT: Final = re.compile(r"(?:([0-9a-f.:]+) \. )?\b(tcp|udp|sctp|6|17|132) \. (\d+) : ")
_RANGE: Final = re.compile(
    r"(?:daddr ([0-9a-f.:]+) |local )(?:meta l4proto )?(tcp|udp|sctp) (?:th )?dport (\d+)-(\d+) dnat"
)
_PROTOCOLS: Final = {"6": "tcp", "17": "udp", "132": "sctp"}
PATIENCE: Final = 1.0  # seconds

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Other:
    """The table of another engine, as nft shows it."""

    name: str
    text: str

    def __str__(self) -> str:
        said = _SAID.search(self.text)
        return f"the pydock of {said[1]}" if said else f"another pydock (table inet {self.name})"

    def ports(self) -> list[Port]:
        """What is published there; what it leads to is no matter."""
        found = [
            Port(address, int(host), int(host), 1, _PROTOCOLS.get(protocol, protocol))
            for address, protocol, host in _ELEMENT.findall(self.text)
        ]
        for address, protocol, first, last in _RANGE.findall(self.text):
            found.append(Port(address, int(first), int(first), int(last) - int(first) + 1, protocol))
        return found

    def gateways(self) -> list[str]:
        """Where its networks' DNS is."""
        return _GATEWAY.findall(self.text)

    def subnets(self) -> list[Network]:
        """Those of its networks."""
        return [ip_network(text) for text in dict.fromkeys(_SUBNET.findall(self.text))]


class Tables:
    """The one of the engine that has the networks of *store*, and the others'. What is asked of the kernel blocks; OSError."""

    def __init__(self, store: NetworkStore) -> None:
        self._store = store
        self._serving: socket.socket | None = None
        self.owner = ""
        self.name = ""  # the table's, once it has been made

    def serve(self) -> None:
        """Have a name, and be known to serve, until :meth:`close`."""
        there = self._store.directory.stat()  # not its path: another engine may see the machine's files by other names
        self.owner = f"engine-{hashlib.sha256(f'{there.st_dev}:{there.st_ino}'.encode()).hexdigest()[:8]}"
        self._serving = hold(self.owner, PATIENCE)

    def close(self) -> None:
        if self._serving is not None:
            self._serving.close()

    def apply(self, wanted: Table, before: Table | None) -> None:
        """Have the kernel's table be as *wanted*; *before* is what it is as far as one knows. EOPNOTSUPP without nft or nftables."""
        if before is not None:
            with suppress(OSError):  # it is not: somebody has had a hand in it
                nftables.run(wanted.since(before, self.name))
                return
        with hold("tables", PATIENCE) or nullcontext():
            own, others = self._look()
            taken = any(each.name == _FIRST for each in others)
            self.name = _FIRST + self.owner.removeprefix("engine") if taken else _FIRST
            nftables.run("".join(f"delete table inet {name}\n" for name in own) + wanted.whole(self.name))

    def remove(self) -> None:
        """Have the kernel forget it, if it is there."""
        with suppress(OSError):
            nftables.run(f"flush chain inet {self.name} {self.owner}\ndelete table inet {self.name}\n")

    def is_there(self) -> bool:
        """Whether the kernel has it."""
        try:
            return bool(nftables.run(f"list chain inet {self.name} {self.owner}"))
        except OSError:
            return False

    def listed(self) -> str:
        """The table as nft shows it, with counters; empty when there is none."""
        return _listed(self.name)

    def others(self) -> list[Other]:
        """Those of engines that serve, or have containers in networks."""
        return self._look(self.name)[1]

    def _look(self, but: str = "") -> tuple[list[str], list[Other]]:
        """The names of the engine's own tables, and the others; *but* is not looked at."""
        own, others = list[str](), list[Other]()
        marks = (self.owner, *(f'"{each.bridge}"' for each in tuple(self._store)))
        for name in nftables.tables():
            if name == but or not _NAME.fullmatch(name):
                continue
            found = Other(name, _listed(name))
            if any(mark in found.text for mark in marks):
                own.append(name)
            elif not _taken_away(found):
                others.append(found)
        return own, others


def _listed(name: str) -> str:
    try:
        return nftables.run(f"list table inet {name}") if name else ""
    except OSError:
        return ""


def _taken_away(other: Other) -> bool:
    """Whether it was nobody's any more."""
    owner = _OWNER.search(other.text)
    if owner is None or (held := hold(owner[1])) is None:
        return False
    with held:
        if any(map(links.has_ports, set(_BRIDGE.findall(other.text)))):
            return False
        nftables.run(f"delete table inet {other.name}\n")
    log.warning("table inet %s was that of an engine that is gone: it is taken away", other.name)
    return True


def hold(name: str, patience: float = 0) -> socket.socket | None:
    """Have *name*, of all engines alone, until it is closed. None when somebody has it for longer than *patience* seconds; for
    one that is had for a moment only, that is somebody who is no engine: any user of the machine can."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    until = time.monotonic() + patience
    while True:
        try:
            held.bind(f"\0pydock/{name}")
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < until:
                time.sleep(0.001)
                continue
            held.close()
            return None
        return held
