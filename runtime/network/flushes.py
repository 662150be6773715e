"""Tells when somebody takes tables of the packet filter away. ``systemctl restart nftables`` does, with everybody's: Debian's
/etc/nftables.conf begins with ``flush ruleset``. See nft(8), "monitor"; the kernel tells it by netlink(7), to a group of its own.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncIterator
from typing import Final

import trio

_NETFILTER: Final = 12  # NETLINK_NETFILTER
_GROUP: Final = 1 << 6  # NFNLGRP_NFTABLES, 7
_DELETED: Final = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
_LARGEST: Final = 1 << 16
_PAUSE: Final = 0.1  # seconds that follow-ups are waited for: a file of rules that is loaded again is one thing


async def deletions() -> AsyncIterator[None]:
    """An item for each time that some table has been removed since the one before, by whomever. OSError without nftables."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETFILTER
    ) as news:
        news.bind((0, _GROUP))
        while True:
            await trio.lowlevel.wait_readable(news)
            if _any_deleted(news):
                await trio.sleep(_PAUSE)
                _any_deleted(news)
                yield


def _any_deleted(news: socket.socket) -> bool:
    """Whether there is such a message, or some have been lost, among those that have come."""
    found = False
    while True:
        try:
            data = news.recv(_LARGEST)
        except BlockingIOError:
            return found
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            found = True
            continue
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("=LH", data, offset)
            found = found or kind == _DELETED
            offset += max(length + 3 & ~3, 16)
