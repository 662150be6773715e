"""What one network's members are called, and the answers to questions about them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from pydock.runtime.names import message
from pydock.runtime.names.message import Name, Query
from pydock.runtime.wire import Message, text, texts

Address = IPv4Address | IPv6Address
_REVERSE: Final = ((b"in-addr", b"arpa"), (b"ip6", b"arpa"))
_LABELS: Final = {b"in-addr": 4, b"ip6": 32}


class Zone:
    """Those of one network. *internal* ones have nothing but their members' names."""

    def __init__(self, plain: Message) -> None:
        self.name = text(plain, "name")
        self.bridge = text(plain, "bridge")
        self.gateways = tuple(ip_address(each) for each in texts(plain, "gateways"))
        self.subnets: tuple[IPv4Network | IPv6Network, ...] = tuple(
            ip_network(each) for each in texts(plain, "subnets")
        )
        self.internal = plain.get("internal") is True
        self._members: dict[str, tuple[tuple[Name, ...], tuple[Address, ...]]] = {}
        self._names: dict[Name, dict[str, tuple[Address, ...]]] = {}
        self._reverse: dict[Name, Name] = {}
        self._at: dict[Address, str] = {}

    def __len__(self) -> int:
        return len(self._members)

    def put(self, identity: str, names: list[str], addresses: list[str]) -> None:
        """A member has these names, the first of which is what its addresses are called; without addresses it is none. ValueError."""
        found = tuple(name for each in names if (name := message.name_of(each)) is not None)
        parsed = tuple(ip_address(each) for each in addresses)
        self._remove(identity)
        if not parsed:
            return
        self._members[identity] = found, parsed
        self._at |= dict.fromkeys(parsed, identity)
        for name in found:
            self._names.setdefault(name, {})[identity] = parsed
        if found:
            for address in parsed:
                self._reverse[_pointer(address)] = found[0]

    def _remove(self, identity: str) -> None:
        names, addresses = self._members.pop(identity, ((), ()))
        for name in names:
            self._names[name].pop(identity, None)
            if not self._names[name]:
                del self._names[name]
        for address in addresses:
            self._reverse.pop(_pointer(address), None)
            self._at.pop(address, None)

    def serves(self, address: Address) -> bool:
        """Whether who has that address is somebody in this network."""
        return any(address in subnet for subnet in self.subnets)

    def member_at(self, address: Address) -> str:
        """The member that has that address; empty for none."""
        return self._at.get(address, "")

    def members(self) -> Iterable[str]:
        """All of them."""
        return self._members

    def answer(self, query: Query, room: int) -> bytes | None:
        """The answer, when the name is one of these; None otherwise."""
        name = self._reverse.get(query.name)
        if name is not None:
            pointers = ((message.PTR, message.encode(name)),) if query.kind in (message.PTR, message.ANY) else ()
            return message.answer(query, message.NOERROR, pointers, room=room)
        members = self._names.get(query.name)
        if members is None:
            return None
        addresses = list(dict.fromkeys(address for each in members.values() for address in each))
        random.shuffle(addresses)  # those of one name share the load
        records = [
            (kind, address.packed)
            for address in addresses
            if query.kind in ((kind := message.A if address.version == 4 else message.AAAA), message.ANY)
        ]
        return message.answer(query, message.NOERROR, records, room=room)

    def covers(self, query: Query) -> bool:
        """Whether it is about an address of this network, which nobody else knows."""
        address = _pointed(query.name)
        return address is not None and self.serves(address)


def _pointer(address: Address) -> Name:
    return tuple(address.reverse_pointer.encode().split(b"."))


def _pointed(name: Name) -> Address | None:
    """The address that a name below in-addr.arpa or ip6.arpa stands for; None for other names."""
    if name[-2:] not in _REVERSE:
        return None
    labels = [label.decode("ascii", "replace") for label in reversed(name[:-2])]
    if len(labels) != _LABELS[name[-2]]:
        return None
    try:
        if name[-2] == b"in-addr":
            return ip_address(".".join(labels))
        digits = "".join(labels)
        return ip_address(":".join(digits[place : place + 4] for place in range(0, 32, 4)))
    except ValueError:
        return None
