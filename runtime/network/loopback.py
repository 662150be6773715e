"""How answers come back to ::1, the loopback of IPv6, from published ports.

What the machine sends to a published port from its loopback leaves by the container's bridge under another address (masquerade), and
its answers become the loopback's again before they are routed. IPv4 has a setting for that, ``route_localnet``. IPv6 has none, but a
packet for ::1 is looked up among the routes of the link that it came by, so a bridge gets one that leads to the machine itself. What
somebody else sends to ::1 by that link the kernel drops before any rule or route is asked.

Where bridges ask the packet filter for IPv6 (br_netfilter with ``bridge-nf-call-ip6tables``, as kubernetes and some versions of docker
have it), an answer is turned into one for ::1 in the bridge, and dropped like somebody else's. There ::1 can't be led on.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

ASKING: Final = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")
_LOCAL: Final = 255  # the routing table of the machine's own addresses


def is_led_on() -> bool:
    """Whether a published port can be had from ::1 here and now."""
    try:
        return ASKING.read_text().strip() == "0"
    except OSError:
        return True  # br_netfilter is not there


def lead_back(bridge: str) -> None:
    """Have answers that come by *bridge* reach ::1. Blocks; OSError."""
    from pyroute2 import IPRoute  # takes a third of a second to be loaded
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as ip:
            for index in ip.link_lookup(ifname=bridge):
                ip.route("replace", dst="::1/128", oif=index, type="local", table=_LOCAL)
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from None
