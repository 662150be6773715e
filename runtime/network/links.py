"""The kernel's side: bridges, pairs of links, addresses and routes. Everything here blocks; OSError with the kernel's errno.

What every start does is asked for in batches (:mod:`.netlink`), the rest by pyroute2's own calls. What is done in another network
namespace is done by a thread that is there for the moment, as setns(2) is about a thread alone. See rtnetlink(7), veth(4).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from pydock.runtime import syscalls
from pydock.runtime.confine.network import set_defaults
from pydock.runtime.network import netlink
from pydock.runtime.network.addresses import Interface, Network, mac_of
from pydock.runtime.network.netlink import Talk

if TYPE_CHECKING:
    from pyroute2 import IPRoute

T = TypeVar("T")

_OWN: Final = "/proc/thread-self/ns/net"
_LOOPBACK: Final = 1  # the index of lo in every namespace
_MAIN: Final = 254  # the routing table
_SETTINGS: Final = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class End:
    """What the container's end of a link is configured with."""

    mac: str
    addresses: tuple[Interface, ...]
    gateways: tuple[str, ...] = ()  # one of each IP version at most
    mtu: int = 0


@contextmanager
def _talking() -> Iterator[IPRoute]:
    """pyroute2's own conversation with the kernel about the thread's namespace."""
    netlink.load()
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None


@contextmanager
def _in(namespace: int) -> Iterator[None]:
    """This thread is in *namespace* within."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    finally:
        os.close(own)


@dataclass(frozen=True, slots=True)
class Pair:
    """A pair of links that is nowhere connected yet: one end in *namespace*, the other one the machine's."""

    namespace: int  # a descriptor, which keeps it alive
    talk: Talk  # about that namespace
    index: int  # of the end in there
    port: int  # of the machine's

    def is_there(self) -> bool:
        """Whether nobody has removed it."""
        try:
            return bool(socket.if_indextoname(self.port))
        except OSError:
            return False

    def close(self) -> None:
        """Nothing more is asked; the descriptor is its owner's."""
        self.talk.close()


def new_namespace() -> int:
    """A network namespace with nothing but lo, which is up, and a container's parameters; a descriptor, which keeps it alive."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        try:
            made = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
            with Talk() as talk:
                talk.ask(netlink.up(_LOOPBACK))
            set_defaults()
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
    finally:
        os.close(own)
    return made


def new_pair() -> Pair:
    """With a network namespace of its own, where it is called eth0; the descriptor is the caller's."""
    namespace = new_namespace()
    try:
        return pair_in(namespace, "eth0")
    except BaseException:
        os.close(namespace)
        raise


def pair_in(namespace: int, name: str) -> Pair:
    """With an end called *name* in *namespace*."""
    spare = f"pp-{os.urandom(5).hex()}"
    with Talk() as talk:
        talk.ask(netlink.pair(spare, name, namespace))
    port = socket.if_nametoindex(spare)
    with _in(namespace):
        with suppress(OSError):  # a kernel without IPv6; nobody else has its addresses, which is not to be waited for
            (_SETTINGS / "ipv6/conf" / name / "accept_dad").write_text("0")
        return Pair(namespace, Talk(), socket.if_nametoindex(name), port)


def namespace_of(pidfd: int) -> int:
    """The network namespace of a process: a descriptor."""
    with _in(pidfd):
        return os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)


def routed() -> list[tuple[Network, str]]:
    """The networks that the machine routes, but for the default, and by which link: ``is routed to eth0``."""
    found: list[tuple[Network, str]] = []
    with _talking() as ip:
        names = {link["index"]: link.get("ifname") for link in ip.get_links()}
        for route in ip.get_routes(table=_MAIN):
            target = route.get("dst")
            if target and route["dst_len"]:
                network = ip_network(f"{target}/{route['dst_len']}", strict=False)
                if not network.is_link_local and not network.is_multicast:
                    found.append((network, f"is routed to {names.get(route.get('oif'), 'nowhere')}"))
    return found


def index_of(name: str) -> int:
    """The number of a link of the machine's; 0 when there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def has_ports(bridge: str) -> bool:
    """Whether there are links in a bridge; one that is not there has none."""
    if not (index := index_of(bridge)):
        return False
    with _talking() as ip:
        return bool(ip.link_lookup(master=index))


def make_bridge(name: str, gateways: Iterable[Interface], mtu: int) -> int:
    """Have a bridge with these addresses and no others, up; one that is there is made so. Its index."""
    wanted = set(gateways)
    with _talking() as ip:
        found = ip.link_lookup(ifname=name)
        if not found:
            # one of its own: it would be that of a port otherwise, and change as they come and go, which nobody is told
            own = mac_of(min(wanted, key=lambda each: each.version).ip)
            ip.link("add", ifname=name, kind="bridge", address=own, **({"mtu": mtu} if mtu else {}))
            found = ip.link_lookup(ifname=name)
        (index,) = found
        with suppress(OSError):  # a kernel without IPv6; no host is to be waited for by a bridge that is one alone
            (_SETTINGS / "ipv6/conf" / name / "accept_dad").write_text("0")
        # what the machine itself sends from its loopback to a published port leaves by the bridge
        (_SETTINGS / "ipv4/conf" / name / "route_localnet").write_text("1")
        present = {
            ip_interface(f"{each.get('address')}/{each['prefixlen']}")
            for each in ip.get_addr(index=index)
            if each["scope"] == 0
        }
        for address in present - wanted:
            ip.addr("del", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        for address in wanted - present:
            ip.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        ip.link("set", index=index, state="up")
        return int(index)


def remove_link(name: str) -> None:
    """Remove a link of the machine's, with its other end; none is fine."""
    if index := index_of(name):
        with Talk() as talk:
            talk.ask(netlink.gone(index))


def connect(pair: Pair, bridge: int, name: str, end: End) -> None:
    """The machine's end is a port of *bridge* (its index), called *name*, and the other is *end*. What has that name is replaced."""
    with Talk() as talk:
        if stale := index_of(name):
            with suppress(OSError):  # it goes with its namespace in this moment
                talk.ask(netlink.gone(stale))
        # where bridges ask the packet filter (br_netfilter), what a container sends to its own published port turns back at its link
        talk.ask(netlink.up(pair.port, name=name, mtu=end.mtu, master=bridge), netlink.hairpin(pair.port))
    pair.talk.ask(
        *(netlink.address(pair.index, each) for each in end.addresses),
        netlink.up(pair.index, mac=end.mac, mtu=end.mtu),
        *(netlink.default_route(pair.index, each) for each in end.gateways),
    )


def disconnect(namespace: int, name: str, gateways: tuple[str, ...], through: str) -> None:
    """Remove the link called *name* in *namespace*; the default routes are by *gateways* on the link *through* from then on."""
    with _in(namespace), _talking() as ip:
        for index in ip.link_lookup(ifname=name):
            ip.link("del", index=index)
        for index in ip.link_lookup(ifname=through) if gateways else []:
            for gateway in gateways:
                ip.route("replace", dst="default" if ":" not in gateway else "::/0", gateway=gateway, oif=index)


def links_in(namespace: int) -> dict[str, str]:
    """The names of the links in *namespace* by their hardware address."""
    with _in(namespace), _talking() as ip:
        return {
            str(link.get("address")): str(link.get("ifname")) for link in ip.get_links() if link["index"] != _LOOPBACK
        }


def forward(*, ipv6: bool) -> None:
    """Have the machine forward packets; where it does already, nothing is changed."""
    for path in ("ipv4/ip_forward", *(("ipv6/conf/all/forwarding",) if ipv6 else ())):
        file = _SETTINGS / path
        if file.read_text().strip() != "1":
            file.write_text("1")
