"""nft(8) without a process of its own: libnftables(3), which the program itself is made of. A call takes a millisecond, not ten."""

from __future__ import annotations

import ctypes
import errno
import functools
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Final

_LIBRARY: Final = "libnftables.so.1"
NETLINK_NETFILTER: Final = 12
_GETTABLE: Final = 10 << 8 | 1  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETTABLE
_DONE, _ERROR = 3, 2  # NLMSG_DONE, NLMSG_ERROR
_DUMP: Final = 0x1 | 0x300  # NLM_F_REQUEST, NLM_F_DUMP
_INET: Final = 1  # NFPROTO_INET
_TABLE_NAME: Final = 1  # NFTA_TABLE_NAME
_NO_KERNEL: Final = "this machine's kernel has no nftables, which networks need (none and host don't)"
_LARGEST: Final = 1 << 16
_LONGEST: Final = 300  # characters of what it says
_ALONE: Final = threading.Lock()  # a context is one thread's at a time


@functools.cache
def _library() -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """The library, and a context that keeps to itself what it has to say."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise OSError(
            errno.EOPNOTSUPP,
            f"there is no {_LIBRARY} on this machine: networks need the package nftables (none and host don't)",
        ) from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).restype = ctypes.c_char_p
    context = ctypes.c_void_p(library.nft_ctx_new(0))
    library.nft_ctx_buffer_output(context)
    library.nft_ctx_buffer_error(context)
    return library, context


def _socket() -> socket.socket:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    except OSError:
        raise OSError(errno.EOPNOTSUPP, f"nft: {_NO_KERNEL}") from None


def run(commands: str) -> str:
    """Have *commands* done, all or none; what they print. OSError: EOPNOTSUPP without the library or the kernel's part, EIO for
    what it does not take. Blocks."""
    with _ALONE:
        _socket().close()  # where there is no such socket the library ends the process
        library, context = _library()
        failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        said = library.nft_ctx_get_error_buffer(context).decode(errors="replace")
        printed = library.nft_ctx_get_output_buffer(context).decode(errors="replace")
    if failed:
        words = " ".join(said.split())[:_LONGEST]
        if "cache initialization failed" in words or "not supported" in words:
            raise OSError(errno.EOPNOTSUPP, f"nft: {_NO_KERNEL}: {words}")
        raise OSError(errno.EIO, f"nft: {words}")
    return str(printed)


def tables() -> list[str]:
    """The names of the tables of the family inet, in a hundredth of the time that the library takes; none where the kernel has no such
    family. OSError."""
    found: list[str] = []
    with _socket() as talk:
        talk.bind((0, 0))
        talk.send(struct.pack("=LHHLLBBH", 20, _GETTABLE, _DUMP, 1, 0, _INET, 0, 0))
        while True:
            answer, offset = talk.recv(_LARGEST), 0
            while offset < len(answer):
                length, kind = struct.unpack_from("=LH", answer, offset)
                if kind in (_DONE, _ERROR):
                    return found
                found += _names(answer[offset + 20 : offset + length])
                offset += (length + 3) & ~3


def _names(attributes: bytes) -> Iterator[str]:
    offset = 0
    while offset < len(attributes):
        length, kind = struct.unpack_from("=HH", attributes, offset)
        if kind == _TABLE_NAME:
            yield attributes[offset + 4 : offset + length - 1].decode(errors="replace")
        offset += (length + 3) & ~3
