"""Subnets that are free, and addresses in them: plain arithmetic, without a kernel.

A network has an IPv4 subnet, and an IPv6 one where the machine has IPv6. Its first address is the bridge's own, which is the gateway.
A subnet that nobody wrote is taken from the pools: RFC 1918 space that few others use by default, and unique local addresses
(RFC 4193) whose global id is this machine's.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from typing import Final, TypeVar

from pydock.runtime.errors import Invalid, Taken
from pydock.runtime.formats import quote

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
N = TypeVar("N", IPv4Network, IPv6Network)
#: The ipaddress module's own, which take ten microseconds each: a start asks for all that a network has given out.
ip_address = functools.lru_cache(1 << 14)(ipaddress.ip_address)
ip_network = functools.lru_cache(1 << 10)(ipaddress.ip_network)
ip_interface = functools.lru_cache(1 << 14)(ipaddress.ip_interface)

#: Where subnets of /24 are taken from, in this order.
POOLS: Final = (IPv4Network("10.213.0.0/16"), IPv4Network("172.24.0.0/14"), IPv4Network("192.168.128.0/17"))
#: Where a larger one is looked for first, that of containers which name no network.
LARGE_POOLS: Final = (IPv4Network("10.212.0.0/16"), IPv4Network("172.24.0.0/14"), IPv4Network("10.64.0.0/10"))
_LARGE: Final = 16
_PREFIX: Final = 24
_PREFIX6: Final = 64
_SMALLEST: Final = 30  # a bridge and one container
_SMALLEST6: Final = 126
#: This host, link-local, multicast and what no host has: RFC 6890.
_OTHERS: Final = tuple(
    map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/8", "fe80::/10", "ff00::/8"))
)
_MACHINE: Final = Path("/etc/machine-id")


def pool6(machine: Path = _MACHINE) -> IPv6Network:
    """This machine's /48 of unique local addresses; the same one each time."""
    try:
        seed = machine.read_bytes()
    except OSError:
        seed = b""
    return IPv6Network((b"\xfd" + hashlib.sha256(b"pydock" + seed).digest()[:5] + bytes(10), 48))


def free_subnet(taken: Iterable[Network], pools: Iterable[IPv4Network] = POOLS) -> IPv4Network:
    """The first of the pools' that overlaps none of *taken*. Taken when there is none."""
    return _free(taken, pools, _PREFIX)


def large_subnet(taken: Iterable[Network]) -> IPv4Network:
    """One for thousands of containers, or :func:`free_subnet` where there is no such one left. Taken."""
    others = list(taken)
    try:
        return _free(others, LARGE_POOLS, _LARGE)
    except Taken:
        return free_subnet(others)


def free_subnet6(taken: Iterable[Network], pool: IPv6Network | None = None) -> IPv6Network:
    """The same for IPv6."""
    return _free(taken, (pool or pool6(),), _PREFIX6)


def _free(taken: Iterable[Network], pools: Iterable[N], prefix: int) -> N:
    others = sorted((each for each in taken if each.prefixlen), key=lambda each: each.prefixlen)
    for pool in pools:
        subnet = next(pool.subnets(new_prefix=prefix))
        step = subnet.num_addresses
        while subnet.subnet_of(pool):
            other = next((each for each in others if each.version == pool.version and each.overlaps(subnet)), None)
            if other is None:
                return subnet
            # over all of what is in the way at once: it may be a route to millions of them
            begin = max(int(other.broadcast_address) + 1, int(subnet.network_address) + step)
            begin += -begin % step
            if begin + step > int(pool.broadcast_address) + 1:
                break
            subnet = type(pool)((begin, prefix))
    raise Taken("there is no subnet left that this machine does not route already: write one to subnet")


def parse_subnet(text: str, version: int) -> Network:
    """``ADDRESS/BITS`` of that IP version, with room for a bridge and a container. Invalid."""
    try:
        subnet = ip_network(text.strip())
    except ValueError as error:
        raise Invalid(f"{quote(text)} is not a subnet: {error}") from None
    if subnet.version != version:
        raise Invalid(f"{quote(text)} is not a subnet of IPv{version}")
    smallest = _SMALLEST if version == 4 else _SMALLEST6
    if subnet.prefixlen > smallest:
        raise Invalid(f"{quote(text)} is too small: /{smallest} has room for the gateway and a container")
    for other in _OTHERS:
        if other.version == version and other.overlaps(subnet):
            raise Invalid(f"{quote(text)} is not for hosts: {other} is something else")
    return subnet


def check_free(subnet: Network, taken: Iterable[tuple[Network, str]]) -> None:
    """Taken when *subnet* overlaps one of those, which are by whom they are used."""
    for other, owner in taken:
        if other.prefixlen and other.version == subnet.version and other.overlaps(subnet):
            raise Taken(f"{subnet} overlaps {other}, which {owner}")


def parse_address(text: str, subnet: Network, what: str) -> Address:
    """An address that a host in *subnet* may have. Invalid."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise Invalid(f"{what}: {quote(text)} is not an address") from None
    if address.version != subnet.version or address not in subnet or not is_usable(address, subnet):
        raise Invalid(f"{what}: {address} is not an address of a host in {subnet}")
    return address


def is_usable(address: Address, subnet: Network) -> bool:
    """Whether a host may have it: not the network's own, nor the broadcast one."""
    return address != subnet.network_address and (subnet.version == 6 or address != subnet.broadcast_address)


def first_address(subnet: Network) -> Address:
    """The gateway's, unless one was written."""
    return subnet.network_address + 1


def free_address(subnet: Network, used: Iterable[Address], after: Address | None = None) -> Address:
    """The next that nobody uses, beginning behind *after*, so that one that was given back is not another's at once. Taken."""
    taken = {int(each) for each in used}
    begin, end = int(subnet.network_address), int(subnet.broadcast_address)
    last = end - 1 if subnet.version == 4 else end
    start = int(after) + 1 if after is not None and begin < int(after) < last else begin + 1
    for low, high in ((start, last), (begin + 1, start - 1)):
        number = low
        while number <= high:
            if number not in taken:
                return subnet.network_address + (number - begin)
            number += 1
    raise Taken(f"{subnet} is full: each of its addresses is in use")


def mac_of(address: Address) -> str:
    """A locally administered one that goes with an IPv4 address, as docker has it."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *address.packed[-4:]))


def parse_mtu(text: str) -> int:
    """Bytes of the largest packet of a link. Invalid."""
    word = text.strip()
    if not (word.isascii() and word.isdigit() and len(word) < 6 and 68 <= int(word) <= 65535):
        raise Invalid(f"mtu: {quote(text)} is not a number of bytes from 68 to 65535")
    return int(word)


def parse_mac(text: str) -> str:
    """``XX:XX:XX:XX:XX:XX`` of one host, in lower case. Invalid."""
    parts = text.strip().lower().split(":")
    if len(parts) != 6 or not all(len(part) == 2 and set(part) <= set("0123456789abcdef") for part in parts):
        raise Invalid(f"mac: {quote(text)} is not XX:XX:XX:XX:XX:XX")
    if int(parts[0], 16) & 1 or parts == ["00"] * 6:
        raise Invalid(f"mac: {quote(text)} is not the address of one host")
    return ":".join(parts)
