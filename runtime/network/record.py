"""A network as it is kept: its settings, and the leases of its members."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

import trio
from pydock.runtime.errors import Busy, Invalid
from pydock.runtime.network.addresses import (
    Address,
    Interface,
    Network,
    first_address,
    ip_address,
    ip_interface,
    ip_network,
    parse_address,
)
from pydock.runtime.network.words import Membership

BRIDGE: Final = "pd-"
_KEPT: Final = (
    *("name", "id", "created", "subnet", "gateway", "subnet6", "gateway6"),
    *("mtu", "internal", "isolate", "masquerade", "last", "files"),
)


@dataclass(slots=True)
class Lease:
    """What a container has in a network: addresses without bits, and a hardware address."""

    addresses: list[str]
    mac: str


@dataclass(frozen=True, slots=True)
class Addressing:
    """What the default network is to have, as far as somebody has said it; an empty *subnet6* is none."""

    subnet: str = ""
    gateway: str = ""
    subnet6: str | None = None
    gateway6: str = ""
    mtu: int = 0

    def settings(self) -> dict[str, object]:
        """As those of a network."""
        found: dict[str, object] = {}
        for subnet, gateway, key in (
            (self.subnet or None, self.gateway, "gateway"),
            (self.subnet6, self.gateway6, "gateway6"),
        ):
            if subnet is not None:
                first = str(first_address(ip_network(subnet))) if subnet else ""
                found |= {key.replace("gateway", "subnet"): subnet, key: gateway or first}
        return found | ({"mtu": self.mtu} if self.mtu else {})


@dataclass(slots=True)
class NetworkRecord:
    """One network. *subnet6* is empty on a machine without IPv6. *files* are the modes, owners and times of its files in the tree."""

    name: str
    id: str
    created: int
    subnet: str
    gateway: str
    subnet6: str = ""
    gateway6: str = ""
    mtu: int = 0
    internal: bool = False
    isolate: bool = False
    masquerade: bool = True
    last: str = ""  # the IPv4 address that was given out last
    leases: dict[str, Lease] = field(default_factory=dict)
    files: dict[str, list[int | None]] = field(default_factory=dict)
    error: str = ""
    lock: trio.Lock = field(default_factory=trio.Lock, compare=False)
    saving: trio.Lock = field(default_factory=trio.Lock, compare=False)
    saved: str = field(default="", compare=False, repr=False)  # what is on disk

    @classmethod
    def from_plain(cls, values: dict[str, object], name: str) -> NetworkRecord:
        """What was kept as ``plain``, called *name* by now."""
        network = cls(**{key: values[key] for key in _KEPT if key in values} | {"name": name})  # type: ignore[arg-type]
        leases = values.get("leases")
        if isinstance(leases, dict):
            network.leases = {key: Lease(each["addresses"], each["mac"]) for key, each in leases.items()}
        return network

    @property
    def bridge(self) -> str:
        """The name of its link."""
        return f"{BRIDGE}{self.id}"

    @property
    def subnets(self) -> tuple[Network, ...]:
        """Of both IP versions, as far as it has them."""
        return tuple(ip_network(text) for text in (self.subnet, self.subnet6) if text)

    @property
    def gateways(self) -> tuple[Interface, ...]:
        """The bridge's own addresses."""
        pairs = ((self.gateway, self.subnet), (self.gateway6, self.subnet6))
        return tuple(ip_interface(f"{address}/{ip_network(subnet).prefixlen}") for address, subnet in pairs if subnet)

    def interfaces(self, lease: Lease) -> tuple[Interface, ...]:
        """A lease's addresses, with the bits of their subnets."""
        bits = {subnet.version: subnet.prefixlen for subnet in self.subnets}
        return tuple(ip_interface(f"{text}/{bits[ip_address(text).version]}") for text in lease.addresses)

    def asked(self, wanted: Membership) -> dict[int, Address]:
        """The addresses that *wanted* asks for, by IP version. Invalid for what no member can have, Busy for a gateway's."""
        found: dict[int, Address] = {}
        subnets = {subnet.version: subnet for subnet in self.subnets}
        for text in wanted.addresses:
            version = ip_address(text).version
            if version not in subnets:
                raise Invalid(f"network: {self.name} has no IPv{version}")
            if version in found:
                raise Invalid(f"network: {self.name}: one ip= of IPv{version} at most")
            found[version] = parse_address(text, subnets[version], f"network: {self.name}")
            if any(found[version] == each.ip for each in self.gateways):
                raise Busy(f"network: {text} is the gateway of {self.name}")
        return found

    def ruled(self) -> tuple[object, ...]:
        """What the packet filter's rules for it are made of."""
        return (
            *(self.name, self.id, self.subnet, self.gateway, self.subnet6, self.gateway6),
            *(self.internal, self.isolate, self.masquerade),
        )

    def plain(self) -> dict[str, object]:
        """What is kept."""
        kept = {name: getattr(self, name) for name in _KEPT}
        return kept | {
            "leases": {key: {"addresses": each.addresses, "mac": each.mac} for key, each in self.leases.items()}
        }


def link_name(network: NetworkRecord, container: str) -> str:
    """The machine's end of the link of *container* (its id): the same one each time."""
    return f"pv-{hashlib.sha256(f'{network.id} {container}'.encode()).hexdigest()[:11]}"
