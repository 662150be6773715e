"""What a container's ``network`` says: ``host``, ``none``, ``container:NAME``, or lines of networks that it is a member of.

A line is ``NAME [ip=ADDRESS]… [mac=ADDRESS] [alias=NAME]…``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.formats import checked_name, quote
from pydock.runtime.network.addresses import parse_mac
from pydock.runtime.sharing import Find

HOST: Final = "host"
NONE: Final = "none"
#: The network that is there from the start, and a container's own as long as nothing is said.
DEFAULT: Final = "bridge"
_CONTAINER: Final = "container:"
_KEYS: Final = ("ip", "mac", "alias")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Membership:
    """One line about a network."""

    network: str
    addresses: tuple[str, ...] = ()
    mac: str = ""
    aliases: tuple[str, ...] = ()

    @classmethod
    def parse(cls, line: str) -> Membership:
        """Invalid for a key or value that is none."""
        name, *words = line.split()
        checked_name(name)
        found: dict[str, list[str]] = {key: [] for key in _KEYS}
        for word in words:
            key, equals, value = word.partition("=")
            if key not in found or not equals:
                raise Invalid(f"network: {quote(word)} is not one of ip=ADDRESS, mac=ADDRESS, alias=NAME")
            found[key].append(value)
        if len(found["mac"]) > 1:
            raise Invalid("network: one mac= at most")
        return cls(
            name,
            tuple(map(_address, found["ip"])),
            parse_mac(found["mac"][0]) if found["mac"] else "",
            tuple(dict.fromkeys(map(checked_host, found["alias"]))),
        )

    def __str__(self) -> str:
        parts = [self.network, *(f"ip={each}" for each in self.addresses)]
        parts += [f"mac={self.mac}"] if self.mac else []
        return " ".join((*parts, *(f"alias={each}" for each in self.aliases)))


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise Invalid(f"network: ip: {quote(text)} is not an address") from None


def checked_host(text: str) -> str:
    """A host's name as the DNS takes it (RFC 1123, and the underscore), in lower case. Invalid."""
    if len(text) > 253 or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise Invalid(f"{quote(text)} is not a name of a host")
    return text.lower()


def memberships(items: tuple[str, ...] | None) -> tuple[Membership, ...]:
    """The networks that a setting names; none for host, none and container:NAME."""
    if is_shared(items) or items == (NONE,):
        return ()
    return tuple(Membership.parse(item) for item in items or (DEFAULT,))


def named(items: tuple[str, ...] | None) -> tuple[str, ...]:
    """What a setting names of networks/: networks, or ``host``, or ``none``; nothing where the network is another container's."""
    if joined(items) is not None:
        return ()
    return tuple(each.network for each in memberships(items)) or (items or ())[:1]


def renamed(item: str, name: str, new: str) -> str:
    """*item* with the network *name* called *new*."""
    before, space, options = item.partition(" ")
    return f"{new}{space}{options}" if before == name else item


def joined(items: tuple[str, ...] | None) -> str | None:
    """The name in ``container:NAME``, or None."""
    if items and items[0].startswith(_CONTAINER):
        return items[0].removeprefix(_CONTAINER)
    return None


def is_shared(items: tuple[str, ...] | None) -> bool:
    """Whether the network is somebody else's: the machine's or another container's."""
    return items == (HOST,) or joined(items) is not None


def is_alone(item: str) -> bool:
    """Whether *item* is the only one that there may be."""
    return item in (HOST, NONE) or item.startswith(_CONTAINER)


def others(some: tuple[Membership, ...], present: tuple[Membership, ...]) -> tuple[Membership, ...]:
    """Those of *some* whose links are not among those of *present*; what they are called there does not matter."""
    there = {(each.network, each.addresses, each.mac) for each in present}
    return tuple(each for each in some if (each.network, each.addresses, each.mac) not in there)


def settled(items: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """*items* as they hold: what was written last and can only be alone takes the others' place, and gives way to others."""
    if items is None:
        return None
    if not items:
        return (NONE,)
    if is_alone(items[-1]):
        return items[-1:]
    return tuple(item for item in items if not is_alone(item))


def parse(line: str, own: str, find: Find) -> str:
    """A line of ``network`` of the container called *own*, in canonical form. Invalid; NotFound for a container that there is not."""
    text = line.strip()
    name = joined((text,))
    if name is not None:
        seen: list[str] = []
        while name is not None and name not in seen:
            if name == own:
                raise Invalid(f"network: {own} can't join itself{''.join(f', through {each}' for each in seen)}")
            found = find(name)
            if found is None and not seen:
                raise NotFound(f"network: there is no container {quote(name)}")
            if found is not None and found.name != name:  # it was renamed in this moment
                return parse(f"container:{found.name}", own, find)
            seen.append(name)
            name = None if found is None else joined(found.spec.network)
        return text
    if is_alone(text):
        return text
    if text.split()[0] in (HOST, NONE):
        raise Invalid(f"network: {text.split()[0]} takes no options")
    return str(Membership.parse(text))
