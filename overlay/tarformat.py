"""The headers of a tar archive as values, read from a stream that nobody vouches for.

Understood are V7, ustar, pax (POSIX.1-2001, local and global headers) and GNU's long names, big numbers and sparse
files in all four forms. Everything is bounded: no header, whatever size it claims, is read beyond a limit. Names are
bytes and stay so. The standard library's ``tarfile`` is not used here: it reads headers of any size into memory,
turns times into floats and loses their nanoseconds, and does not show what of an entry is a hole.
See pax(1p) "EXTENDED DESCRIPTION", tar(5), and GNU tar's manual, "Storing Sparse Files".

It is imported by the confined unpacker: standard library only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

BLOCK: Final = 512
_HEADER_MAX: Final = 1 << 20  # bytes of one pax header or GNU long name
_SPARSE_MAP_MAX: Final = 1 << 24
_SIZE_MAX: Final = (1 << 63) - 1
_ID_MAX: Final = (1 << 32) - 2
XATTR: Final = b"SCHILY.xattr."
_KEPT: Final = frozenset((b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"))

REGULAR: Final = b"0"
HARDLINK: Final = b"1"
SYMLINK: Final = b"2"
CHARACTER: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"
_DATA_TYPES: Final = frozenset((REGULAR, b"\0", b"7", b"S"))
_IGNORED_TYPES: Final = frozenset((b"V", b"A"))  # GNU's volume label, Solaris' access lists
_KNOWN_TYPES: Final = frozenset((HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO, b"D"))


class BadArchive(Exception):
    """The stream is not a tar archive, or a damaged or unacceptable one; the message is one line."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member.

    *mode* are the twelve permission bits; *mtime_ns* nanoseconds since the epoch; *size* the length of a regular file;
    *segments* the (offset, length) pairs that have data, in the stream's order, None for all of it; *xattrs* those of
    pax headers, unfiltered.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    link: bytes
    device: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[tuple[int, int], ...] | None = None


def is_kept(xattr: bytes) -> bool:
    """Whether layers keep the attribute: ``trusted.*`` and other ``security.*`` of a stranger mean nothing, or harm."""
    return xattr.startswith(b"user.") or xattr in _KEPT


def shown(name: bytes) -> str:
    """A name for a message: one line, not too long."""
    text = name.decode(errors="replace")
    return repr(text if len(text) <= 200 else text[:200] + "...")


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes, what: str, low: int, high: int) -> int:
    """Octal digits, or GNU's base 256 when the first bit is set."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        if field[0] == 0xFF:
            value -= 1 << 8 * (len(field) - 1)
    else:
        digits = _until_nul(field).strip()
        if digits.strip(b"01234567"):
            raise BadArchive(f"a header's {what} is not a number: {field!r}")
        value = int(digits or b"0", 8)
    if not low <= value <= high:
        raise BadArchive(f"a header's {what}, {value}, is out of range")
    return value


def _decimal(value: bytes, what: str, high: int) -> int:
    if not value.isdigit() or len(value) > 20 or int(value) > high:
        raise BadArchive(f"a pax header's {what} is not a number in range: {value[:40]!r}")
    return int(value)


def _nanoseconds(value: bytes) -> int:
    """A pax time, ``[-]SECONDS[.FRACTION]``; a negative one counts its fraction downwards too."""
    negative = value.startswith(b"-")
    whole, _, fraction = value.removeprefix(b"-").partition(b".")
    seconds = _decimal(whole or b"0", "time", 1 << 62)
    if fraction and not fraction.isdigit():
        raise BadArchive(f"a pax header's time is not a number: {value[:40]!r}")
    total = seconds * 10**9 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -total if negative else total


def _records(data: bytes) -> list[tuple[bytes, bytes]]:
    """The ``LENGTH KEY=VALUE`` records of a pax header."""
    records = []
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise BadArchive("a pax header is damaged")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise BadArchive("a pax header has a record without a key")
        records.append((key, value))
        position = end
    return records


class Reader:
    """Iterates over the members; between two steps :meth:`read` gives the data of the latest one."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = 0  # bytes of the current member's data not yet read
        self._padding = 0
        self._begun = False
        self._global: dict[bytes, bytes] = {}

    def read(self, limit: int) -> bytes:
        """Up to *limit* bytes of the current member's data, b"" at its end."""
        if not self._left:
            return b""
        data = self._stream.read(min(limit, self._left))
        if not data:
            raise BadArchive("the archive ends in the middle of a file")
        self._left -= len(data)
        return data

    def drain(self) -> None:
        """Read the stream to its end: what follows the archive's end is nobody's, but the sender waits for us."""
        while self._stream.read(1 << 20):
            pass

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise BadArchive("the archive ends in the middle of a header")
        return data

    def _skip_data(self) -> None:
        while self.read(1 << 20):
            pass
        if self._padding:
            self._exactly(self._padding)
            self._padding = 0

    def _extension(self, size: int) -> bytes:
        """The content of a header that is data for the next one."""
        if size > _HEADER_MAX:
            raise BadArchive(f"a header has {size} bytes, more than the {_HEADER_MAX} that are allowed")
        return self._exactly(size + -size % BLOCK)[:size]

    def _block(self) -> bytes | None:
        """The next header block; None at the archive's end."""
        block = self._stream.read(BLOCK)
        if not block:
            return None
        self._begun = True
        if len(block) < BLOCK:
            raise BadArchive("the archive ends in the middle of a header")
        if not block.strip(b"\0"):
            return None
        # eight blanks stand for the sum itself; some old programs took the bytes for signed
        rest = block[:148] + block[156:]
        with contextlib.suppress(BadArchive):
            stored = _number(block[148:156], "checksum", 0, 1 << 24)
            if stored == sum(rest) + 256 or stored == sum(b - 256 if b > 127 else b for b in rest) + 256:
                return block
        raise BadArchive("this is not a tar archive, or a damaged one: a header's checksum is wrong")

    def __iter__(self) -> Iterator[Entry]:
        local: list[tuple[bytes, bytes]] = []
        long_name = long_link = b""
        while True:
            self._skip_data()
            block = self._block()
            if block is None:
                if local or long_name or long_link:
                    raise BadArchive("the archive ends after an extended header")
                if not self._begun:
                    raise BadArchive("this is not a tar archive: it is empty")
                return
            kind = block[156:157]
            size = _number(block[124:136], "size", 0, _SIZE_MAX)
            if kind in b"xX":
                local += _records(self._extension(size))
            elif kind == b"g":
                self._global.update(_records(self._extension(size)))
            elif kind == b"L":
                long_name = _until_nul(self._extension(size))
            elif kind == b"K":
                long_link = _until_nul(self._extension(size))
            elif kind in _IGNORED_TYPES:
                self._expect(size)
            elif kind in _DATA_TYPES or kind in _KNOWN_TYPES:
                entry = self._entry(block, size, local, long_name, long_link)
                local, long_name, long_link = [], b"", b""
                yield entry
            else:
                raise BadArchive(f"entry {shown(_until_nul(block[:100]))} is of an unknown type, {kind!r}")

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _entry(
        self, block: bytes, size: int, local: list[tuple[bytes, bytes]], long_name: bytes, long_link: bytes
    ) -> Entry:
        kind = block[156:157]
        name = _until_nul(block[:100])
        # in GNU's own format the bytes of the prefix are something else
        if not block.startswith(b"ustar  \0", 257) and block.startswith(b"ustar", 257) and block[345]:
            name = _until_nul(block[345:500]) + b"/" + name
        sparse = self._old_gnu_map(block) if kind == b"S" else None
        uid, gid = _number(block[108:116], "owner", 0, _SIZE_MAX), _number(block[116:124], "group", 0, _SIZE_MAX)
        mtime_ns = _number(block[136:148], "time", -(1 << 62), 1 << 62) * 10**9
        name, link, device = long_name or name, long_link or _until_nul(block[157:257]), (0, 0)
        xattrs: list[tuple[bytes, bytes]] = []
        if kind in (CHARACTER, BLOCK_DEVICE):
            major = _number(block[329:337], "device", 0, (1 << 32) - 1)
            device = (major, _number(block[337:345], "device", 0, (1 << 32) - 1))
        # what pax headers say; an empty value takes a global one back
        for key, value in ({**self._global, **dict(local)} if local or self._global else {}).items():
            if key.startswith(XATTR):
                xattrs.append((key[len(XATTR) :], value))
            elif not value:
                continue
            elif key == b"mtime":
                mtime_ns = _nanoseconds(value)
            elif key == b"path":
                name = value
            elif key == b"linkpath":
                link = value
            elif key == b"size":
                size = _decimal(value, "size", _SIZE_MAX)
            elif key == b"uid":
                uid = _decimal(value, "owner", _SIZE_MAX)
            elif key == b"gid":
                gid = _decimal(value, "group", _SIZE_MAX)
        if uid > _ID_MAX or gid > _ID_MAX:
            raise BadArchive(f"entry {shown(name)} has an owner out of range, {uid}:{gid}")
        regular = kind in _DATA_TYPES
        if kind == b"D" or (regular and name.endswith(b"/")):
            self._expect(size)  # GNU's incremental dumps list a directory's names there
            kind, size, regular = DIRECTORY, 0, False
        elif regular:
            self._expect(size)
            kind = REGULAR
        else:
            size = 0  # links and nodes have no data, whatever the size field says
        mode = _number(block[100:108], "mode", 0, _SIZE_MAX) & 0o7777
        entry = Entry(name, kind, mode, uid, gid, size, mtime_ns, link, device, tuple(xattrs))
        if not regular:
            return entry
        if sparse is not None:
            return self._with_holes(entry, *sparse)
        return self._pax_sparse(entry, local) if local else entry

    def _old_gnu_map(self, block: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
        """The sparse map and real size of an old GNU sparse header, which may go on for more blocks."""
        real_size = _number(block[483:495], "real size", 0, _SIZE_MAX)
        fields, more = block[386:482], block[482]
        segments: list[tuple[int, int]] = []
        while True:
            for at in range(0, len(fields) - 23, 24):
                if not fields[at]:
                    break
                offset = _number(fields[at : at + 12], "sparse map", 0, _SIZE_MAX)
                segments.append((offset, _number(fields[at + 12 : at + 24], "sparse map", 0, _SIZE_MAX)))
            if not more:
                return tuple(segments), real_size
            if len(segments) * 24 > _SPARSE_MAP_MAX:
                raise BadArchive("a sparse map is too long")
            block = self._exactly(BLOCK)
            fields, more = block[:504], block[504]

    def _pax_sparse(self, entry: Entry, local: list[tuple[bytes, bytes]]) -> Entry:
        """GNU's sparse formats 0.0, 0.1 and 1.0, which are pax records."""
        merged = dict(local)
        real_size = merged.get(b"GNU.sparse.realsize") or merged.get(b"GNU.sparse.size")
        if real_size is None:
            return entry
        if b"GNU.sparse.name" in merged:
            entry = replace(entry, name=merged[b"GNU.sparse.name"])
        if merged.get(b"GNU.sparse.major") == b"1":
            numbers = self._leading_numbers()
        elif b"GNU.sparse.map" in merged:
            numbers = merged[b"GNU.sparse.map"].split(b",")
        else:
            numbers = [value for key, value in local if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes")]
        if len(numbers) % 2:
            raise BadArchive(f"entry {shown(entry.name)} has half a segment in its sparse map")
        plain = [_decimal(number, "sparse map", _SIZE_MAX) for number in numbers]
        segments = tuple(zip(plain[::2], plain[1::2], strict=True))
        return self._with_holes(entry, segments, _decimal(real_size, "real size", _SIZE_MAX))

    def _leading_numbers(self) -> list[bytes]:
        """Format 1.0's map: decimal lines at the start of the data, padded to a block; the first is their count / 2."""
        first, newline, text = self._data_block(BLOCK).partition(b"\n")
        if not newline:
            raise BadArchive("a sparse map does not begin with a number")
        wanted = 2 * _decimal(first, "sparse map", _SPARSE_MAP_MAX // 4)
        parts = [text]
        have = text.count(b"\n")
        while have < wanted:
            # a number takes two bytes at least, so this much is the map's for certain
            text = self._data_block(-(-2 * (wanted - have) // BLOCK) * BLOCK)
            parts.append(text)
            have += text.count(b"\n")
        return b"".join(parts).split(b"\n")[:wanted]

    def _data_block(self, size: int) -> bytes:
        if size > self._left:
            raise BadArchive("a sparse map is longer than its file's data")
        self._left -= size
        return self._exactly(size)

    def _with_holes(self, entry: Entry, segments: tuple[tuple[int, int], ...], real_size: int) -> Entry:
        """*entry* as a sparse file, after checking that the map fits the data and the size."""
        end = 0
        for offset, length in segments:
            if offset < end or offset + length > real_size:
                raise BadArchive(f"entry {shown(entry.name)} has a sparse map that is out of order or out of bounds")
            end = offset + length
        if sum(length for _, length in segments) != self._left:
            raise BadArchive(f"entry {shown(entry.name)} has a sparse map that does not fit its data")
        return replace(entry, size=real_size, segments=segments)
