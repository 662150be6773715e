"""Who listens at which port of the machine.

Whether a port is free is asked by binding to it for a moment; who has it is read from ``/proc``.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final

from pydock.runtime.errors import Invalid, Taken, Unsupported
from pydock.runtime.network import loopback
from pydock.runtime.network.ports import ALL_6, DNS, Port
from pydock.runtime.procfs import holders

_TABLES: Final = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6")}
_LISTENING: Final = {"tcp": "0A", "udp": "07"}
_FEW: Final = 64  # as many are tried one by one
_SOMEBODY: Final = "another process"


def check_free(port: Port, is_gateway: Callable[[str], bool]) -> None:
    """Whether nobody on the machine listens there, but for the networks' own DNS. Taken, with who does; Invalid for an address that is
    not the machine's, Unsupported for one that packets can't be led on from."""
    check_led_on(port)
    if port.protocol == "sctp":
        return
    if port.count > _FEW:
        for found in sorted(_sockets(port.protocol), key=lambda each: each.port):
            if found.listens and found.is_at(port) and not (found.port == DNS and is_gateway(str(found.address))):
                raise Taken(f"ports: {_one(port, found.port)} is taken by {found.owner()}")
        return
    for each in port.single():
        for version in port.versions:
            if not can_be_bound(each, version):
                sockets = [found for found in _sockets(port.protocol) if found.is_at(each)]
                if sockets and all(found.port == DNS and is_gateway(str(found.address)) for found in sockets):
                    continue
                owner = min(sockets, key=lambda found: not found.listens).owner() if sockets else _SOMEBODY
                raise Taken(f"ports: {each} is taken by {owner}")


def check_led_on(port: Port) -> None:
    """Unsupported for an address that packets can't be led on from."""
    if port.address == "::1" and not loopback.is_led_on():
        raise Unsupported(
            f"ports: {port} can't be published where {loopback.ASKING} is 1: the kernel drops the answers"
        )


def can_be_bound(port: Port, version: int) -> bool:
    """Whether a socket could be; of sctp's nobody asks. Invalid for an address that is not the machine's."""
    if port.protocol == "sctp":
        return True
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    try:
        with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind) as probe:
            if version == 6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(port.protocol == "tcp"))
            probe.bind((port.address or ("0.0.0.0" if version == 4 else "::"), port.host))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        if error.errno == errno.EADDRNOTAVAIL and port.address:
            raise Invalid(f"ports: {port.address} is not an address of this machine") from None
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # there is no IPv6 here
            raise
    return True


def _one(port: Port, number: int) -> Port:
    """Of *port* the one that has this number."""
    return replace(port, host=number, inner=port.inner + number - port.host, count=1)


@dataclass(frozen=True, slots=True)
class _Socket:
    """One of the machine's, from ``/proc/net``."""

    address: IPv4Address | IPv6Address
    port: int
    listens: bool
    inode: str

    def is_at(self, port: Port) -> bool:
        """Whether it is in the way of one that is in *port*."""
        if not port.host <= self.port < port.host + port.count:
            return False
        address = self.address
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        if address == IPv6Address(ALL_6):  # which may be about IPv4 as well
            return True
        if not port.address:
            return address.version in port.versions
        wanted = ip_address(port.address)
        return address.version == wanted.version and (int(address) == 0 or address == wanted)

    def owner(self) -> str:
        """Whose it is, as far as that can be seen: ``nginx (pid 12)``."""
        wanted = f"socket:[{self.inode}]"
        return next(holders(wanted.__eq__), _SOMEBODY)


def _sockets(protocol: str) -> Iterator[_Socket]:
    """Those of *protocol* in the machine's network."""
    for table in _TABLES[protocol]:
        with suppress(OSError):  # there is no IPv6 here
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                yield _Socket(_in_words(address), int(port, 16), fields[3] == _LISTENING[protocol], fields[9])


def _in_words(text: str) -> IPv4Address | IPv6Address:
    """An address of ``/proc/net``: words of 32 bits, each in this machine's order of bytes."""
    words = (int(text[index : index + 8], 16).to_bytes(4, sys.byteorder) for index in range(0, len(text), 8))
    return ip_address(b"".join(words))
