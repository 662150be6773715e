"""What the kernel remembers of datagrams, as far as published ports are concerned. See conntrack(8).

Where the first datagram of a conversation goes, those go that follow it within 30 seconds, whatever the packet filter says by then: to
a container that has ended, or to nobody when they came before the port was published. So what is remembered of a port is forgotten when
the port moves. Connections (TCP) are told apart by themselves, and go on.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from pydock.runtime.network import netlink
from pydock.runtime.network.ports import Port

if TYPE_CHECKING:
    from pyroute2 import NFCTSocket

log = logging.getLogger(__name__)

_FEW: Final = 16  # as many are asked for one by one


def forget(ports: Collection[Port]) -> None:
    """Forget the conversations with these ports of the machine, those of UDP. Blocks; a failure is logged."""
    numbers = {port.host + index for port in ports if port.protocol == "udp" for index in range(port.count)}
    if not numbers:
        return
    netlink.load()
    from pyroute2 import NFCTSocket
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            with NFCTSocket(family) as kernel:
                _forget(kernel, family, numbers)
    except (OSError, NetlinkError) as error:
        log.warning("what is remembered of datagrams could not be forgotten: %s", error)


def _forget(kernel: NFCTSocket, family: int, numbers: set[int]) -> None:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple

    own: dict[str, bool] = {}  # by address: whether it is the machine's
    for number in numbers if len(numbers) <= _FEW else (None,):
        asked = NFCTAttrTuple(family=family, proto=socket.IPPROTO_UDP, dport=number)
        for message in list(kernel.dump(tuple_orig=asked)):
            there, back = (
                NFCTAttrTuple.from_netlink(family, message.get_attr(name))
                for name in ("CTA_TUPLE_ORIG", "CTA_TUPLE_REPLY")
            )
            if there.proto != socket.IPPROTO_UDP or there.dport not in numbers:
                continue  # a kernel before 5.8 tells all
            led = back.saddr != there.daddr
            if there.daddr not in own:
                own[there.daddr] = _is_own(there.daddr, family)
            if led or own[there.daddr]:
                try:
                    kernel.entry("del", tuple_orig=there)
                except NetlinkError as error:
                    if error.code != errno.ENOENT:  # it has ended
                        raise


def _is_own(address: str, family: int) -> bool:
    """Whether it is one of the machine's addresses."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
