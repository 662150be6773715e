"""Requests to rtnetlink(7) in batches: pyroute2 encodes them, a socket of our own carries them.

A start asks for a dozen things at once, and each question of pyroute2's own sockets takes half a millisecond; all of these together
take as much. A socket belongs to the network namespace in which it was opened, whoever uses it later.
"""

from __future__ import annotations

import functools
import importlib
import os
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any, Final

from pydock.runtime.network.addresses import Interface

if TYPE_CHECKING:
    from pyroute2.netlink import nlmsg

_CAP_ACK: Final = 10  # NETLINK_CAP_ACK: an answer does not repeat what was asked
_SOL_NETLINK: Final = 270
_LARGEST: Final = 1 << 16
_ERROR: Final = 2  # NLMSG_ERROR, an acknowledgement too
_NEWLINK, _DELLINK, _SETLINK, _NEWADDR, _NEWROUTE = 16, 17, 19, 20, 24
_REQUEST: Final = 0x1 | 0x4  # with an acknowledgement
_CREATE: Final = 0x200 | 0x400  # and it must not be there
_REPLACE: Final = 0x100 | 0x400
_NESTED: Final = 0x8000  # NLA_F_NESTED
_UP: Final = 1  # IFF_UP
_MAIN: Final = 254  # the routing table
_LOCAL: Final = 255  # that of the machine's own addresses
_STATIC: Final = 4  # RTPROT_STATIC
_UNICAST: Final = 1
_TO_ITSELF: Final = 2  # RTN_LOCAL


_LOADING: Final = threading.Lock()


def load() -> None:
    """Have pyroute2 in memory, which takes a third of a second. Before anything of it is imported: its modules import each other in
    circles, and two threads that begin at different ends find them half made. Blocks."""
    with _LOADING:
        importlib.import_module("pyroute2")


class Talk:
    """A conversation about the network namespace that the thread is in now. One thread's at a time. OSError with the kernel's errno."""

    def __init__(self) -> None:
        load()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.bind((0, 0))

    def close(self) -> None:
        """End it."""
        self._socket.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, *requests: bytes) -> None:
        """Have *requests* done, one after another, whichever fails; then the first failure is raised. Blocks for none of them."""
        self._socket.send(b"".join(requests))
        open_, failure = len(requests), 0
        while open_:
            answer = self._socket.recv(_LARGEST)
            offset = 0
            while offset < len(answer):
                length, kind = struct.unpack_from("=LH", answer, offset)
                if kind == _ERROR:
                    open_ -= 1
                    failure = failure or -struct.unpack_from("=i", answer, offset + 16)[0]
                offset += (length + 3) & ~3
        if failure:
            raise OSError(failure, os.strerror(failure))


def pair(name: str, other: str, namespace: int) -> bytes:
    """A new pair of links, veth(4): *name* here, *other* in *namespace*, both down."""
    there = {"attrs": [("IFLA_IFNAME", other), ("IFLA_NET_NS_FD", namespace)]}
    kind = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", there)]})]
    return _link(_NEWLINK, _CREATE, attributes=[("IFLA_IFNAME", name), ("IFLA_LINKINFO", {"attrs": kind})])


def up(index: int, *, name: str = "", mac: str = "", mtu: int = 0, master: int = 0) -> bytes:
    """The link *index* is up, after it got what is given: a name, a hardware address, an MTU, a bridge that it is a port of."""
    given = (("IFLA_ADDRESS", mac), ("IFLA_MTU", mtu), ("IFLA_IFNAME", name), ("IFLA_MASTER", master))
    return _link(_NEWLINK, 0, index=index, flags=_UP, attributes=[each for each in given if each[1]])


def hairpin(index: int) -> bytes:
    """The port *index* of a bridge sends back to where it came from what is meant for there."""
    mode = {"attrs": [("IFLA_BRPORT_MODE", 1)]}
    return _link(_SETLINK, 0, family=socket.AF_BRIDGE, index=index, attributes=[("IFLA_PROTINFO", mode, _NESTED)])


def gone(index: int) -> bytes:
    """The link *index* is removed, with its other end."""
    return _link(_DELLINK, 0, index=index)


def address(index: int, interface: Interface) -> bytes:
    """The link *index* has this address too."""
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    message = ifaddrmsg()
    message["family"] = socket.AF_INET if interface.version == 4 else socket.AF_INET6
    message["prefixlen"], message["index"] = interface.network.prefixlen, index
    message["attrs"] = [("IFA_LOCAL", str(interface.ip)), ("IFA_ADDRESS", str(interface.ip))]
    return _encoded(message, _NEWADDR, _CREATE)


@functools.lru_cache(256)
def default_route(index: int, gateway: str) -> bytes:
    """All that goes nowhere else goes by *gateway*, from the link *index*."""
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = rtmsg()
    message["family"] = socket.AF_INET6 if ":" in gateway else socket.AF_INET
    message["table"], message["proto"], message["type"] = _MAIN, _STATIC, _UNICAST
    message["attrs"] = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    return _encoded(message, _NEWROUTE, _REPLACE)


def own_address(index: int, text: str) -> bytes:
    """What comes by the link *index* for the address *text* is for the machine itself, though the link has no such address."""
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    message = rtmsg()
    message["family"], message["dst_len"] = (socket.AF_INET6, 128) if ":" in text else (socket.AF_INET, 32)
    message["table"], message["proto"], message["type"] = _LOCAL, _STATIC, _TO_ITSELF
    message["attrs"] = [("RTA_DST", text), ("RTA_OIF", index)]
    return _encoded(message, _NEWROUTE, _REPLACE)


def _link(
    kind: int,
    flags_of_request: int,
    *,
    attributes: list[Any] | None = None,
    family: int = 0,
    index: int = 0,
    flags: int = 0,
) -> bytes:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    message = ifinfmsg()
    message["family"], message["index"] = family, index
    message["flags"], message["change"] = flags, flags
    message["attrs"] = attributes or []
    return _encoded(message, kind, flags_of_request)


def _encoded(message: nlmsg, kind: int, flags: int) -> bytes:
    message["header"]["type"], message["header"]["flags"] = kind, _REQUEST | flags
    message.encode()
    return bytes(message.data)
