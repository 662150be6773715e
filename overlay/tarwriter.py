"""The headers of a tar archive as bytes: the other direction of :mod:`pydock.overlay.tarformat`, with the same entries.

What fits is plain ustar; the rest is in a pax header before it, which GNU tar, libarchive, Go's and Python's libraries all
read: long names, big numbers, times with nanoseconds, extended attributes (``SCHILY.xattr.``), and files with holes as GNU's
sparse format 1.0. Names are any bytes and stay so. Equal entries give equal bytes. See pax(1p), "pax Header Block", and GNU
tar's manual, "Storing Sparse Files".
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable
from typing import Final

from pydock.overlay.tarformat import BLOCK, BLOCK_DEVICE, CHARACTER, REGULAR, XATTR, Entry

#: What ends an archive.
END: Final = bytes(2 * BLOCK)
_NAME_MAX: Final = 100
_SMALL_MAX: Final = 8**7 - 1  # seven octal digits
_LARGE_MAX: Final = 8**11 - 1
_HEADER: Final = struct.Struct(
    "100s8s8s8s12s12s8s1s100s8s32s32s8s8s167s"
)  # the last one is the prefix, unused, and padding
_PAX: Final = b"x"
_PAX_NAME: Final = b"././@PaxHeader"
_SECOND: Final = 10**9


def head(entry: Entry) -> bytes:
    """Everything of *entry* before its data: for a file with *segments* these are their bytes alone, one after another."""
    records: list[tuple[bytes, bytes]] = []
    name, size, table = entry.name, entry.size, b""
    if entry.segments is not None:
        table = _sparse_map(entry.segments)
        size = len(table) + sum(length for _, length in entry.segments)
        records += [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", name),
            (b"GNU.sparse.realsize", b"%d" % entry.size),
        ]
        name = b"GNUSparseFile.0/" + name.rpartition(b"/")[2]
    elif len(name) > _NAME_MAX:
        records.append((b"path", name))
    if len(entry.link) > _NAME_MAX:
        records.append((b"linkpath", entry.link))
    if size > _LARGE_MAX:
        records.append((b"size", b"%d" % size))
    for key, number in ((b"uid", entry.uid), (b"gid", entry.gid)):
        if number > _SMALL_MAX:
            records.append((key, b"%d" % number))
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    if fraction or not 0 <= seconds <= _LARGE_MAX:
        records.append((b"mtime", _time(entry.mtime_ns)))
    records += [(XATTR + key, value) for key, value in sorted(entry.xattrs)]
    block = _block(
        name,
        entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        mtime=seconds,
        link=entry.link,
        device=entry.device if entry.kind in (CHARACTER, BLOCK_DEVICE) else None,
    )
    return (_pax_header(records) if records else b"") + block + table


def padding(size: int) -> bytes:
    """What follows *size* bytes of data."""
    return bytes(-size % BLOCK)


def data_size(entry: Entry) -> int:
    """The bytes of data that follow the head."""
    if entry.segments is None:
        return entry.size if entry.kind == REGULAR else 0
    return sum(length for _, length in entry.segments)


def _time(nanoseconds: int) -> bytes:
    """Decimal seconds; of a negative time the fraction counts downwards too."""
    seconds, fraction = divmod(abs(nanoseconds), _SECOND)
    text = b"%d.%09d" % (seconds, fraction) if fraction else b"%d" % seconds
    return b"-" + text if nanoseconds < 0 else text


def _pax_header(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    data = b"".join(_record(key, value) for key, value in records)
    return _pax_block(len(data)) + data + padding(len(data))


@functools.lru_cache(maxsize=1024)  # most are of the same few lengths, and a checksum takes time
def _pax_block(size: int) -> bytes:
    return _block(_PAX_NAME, _PAX, mode=0o644, size=size)


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE`` and a newline, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _sparse_map(segments: tuple[tuple[int, int], ...]) -> bytes:
    text = b"%d\n" % len(segments) + b"".join(b"%d\n%d\n" % segment for segment in segments)
    return text + padding(len(text))


def _block(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: tuple[int, int] | None = None,
) -> bytes:
    """A ustar header; what does not fit, and so is in a pax header, is cut or 0."""
    nodes = (b"", b"") if device is None else (_octal(device[0]), _octal(device[1]))
    block = _HEADER.pack(
        name[:_NAME_MAX],
        b"%07o\0" % mode,
        _octal(uid),
        _octal(gid),
        b"%011o\0" % (size if size <= _LARGE_MAX else 0),
        b"%011o\0" % (mtime if 0 <= mtime <= _LARGE_MAX else 0),
        b" " * 8,
        kind,
        link[:_NAME_MAX],
        b"ustar\00000",
        b"",
        b"",
        *nodes,
        b"",
    )
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def _octal(number: int) -> bytes:
    return b"%07o\0" % (number if number <= _SMALL_MAX else 0)
