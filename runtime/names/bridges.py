"""Whether somebody is in a network: its bridge tells. See netdevice(7)."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import Final

_SIOCGIFFLAGS: Final = 0x8913
_RUNNING: Final = 0x40  # IFF_RUNNING: a bridge is that as long as the link of somebody who is up leads to it


def is_used(bridge: str) -> bool:
    """Whether a link that is up leads to *bridge*, which may not be there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("=16s24x", bridge.encode()))
        except OSError:
            return False
    return bool(struct.unpack_from("=H", found, 16)[0] & _RUNNING)
