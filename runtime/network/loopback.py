"""How answers come back to ::1, the loopback of IPv6, from published ports.

What the machine sends to a published port from its loopback leaves by the container's bridge under another address (masquerade), and
its answers become the loopback's again before they are routed. IPv4 has a setting for that, ``route_localnet``. IPv6 has none, but a
packet for ::1 is looked up among the routes of the link that it came by, so a bridge gets one that leads to the machine itself. What
somebody else sends to ::1 by that link the kernel drops before any rule or route is asked.

Where bridges ask the packet filter for IPv6 (br_netfilter with ``bridge-nf-call-ip6tables``, as kubernetes and some versions of docker
have it), an answer is turned into one for ::1 in the bridge, and dropped like somebody else's. There ::1 can't be led on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydock.runtime.network import links, netlink
from pydock.runtime.network.netlink import Talk

ASKING: Final = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")


def is_led_on() -> bool:
    """Whether a published port can be had from ::1 here and now."""
    try:
        return ASKING.read_text().strip() == "0"
    except OSError:
        return True  # br_netfilter is not there


def lead_back(bridge: str) -> None:
    """Have answers that come by *bridge* reach ::1, if it is there yet. Blocks; OSError."""
    if index := links.index_of(bridge):
        with Talk() as talk:
            talk.ask(netlink.own_address(index, "::1"))
