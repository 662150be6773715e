from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay import tarformat
from pydock.overlay.tarformat import BadArchive, Entry, Reader

_NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=120).filter(
    lambda name: name not in (".", "..")
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(draw(_PATHS))
    member.type = draw(_KINDS | st.sampled_from([tarfile.CHRTYPE, tarfile.BLKTYPE]))
    member.mode = draw(st.integers(0, 0o7777))
    member.uid, member.gid = draw(st.integers(0, 2**32 - 2)), draw(st.integers(0, 2**32 - 2))
    member.mtime = draw(st.integers(-(10**9), 10**11))
    data = draw(st.binary(max_size=1500)) if member.isreg() else b""
    member.size = len(data)
    if member.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member.linkname = draw(_PATHS)
    if member.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        member.devmajor, member.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    return member, data


def read_all(archive: bytes) -> list[tuple[Entry, bytes]]:
    reader = Reader(io.BytesIO(archive))
    found = []
    for entry in reader:
        data = b""
        while piece := reader.read(700):
            data += piece
        found.append((entry, data))
    return found


@given(st.lists(members(), max_size=5), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_what_the_standard_library_writes_is_read(wanted: list[tuple[tarfile.TarInfo, bytes]], layout: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=layout) as tar:
        for member, data in wanted:
            tar.addfile(member, io.BytesIO(data))
    found = read_all(out.getvalue())
    assert len(found) == len(wanted)
    for (entry, content), (member, data) in zip(found, wanted, strict=True):
        assert entry.name.rstrip(b"/") == member.name.encode()
        assert entry.kind == member.type
        assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
        assert entry.mtime_ns == member.mtime * 10**9
        assert (entry.link, content) == (member.linkname.encode(), data)
        assert entry.device == (member.devmajor, member.devminor)


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_a_bad_one(data: bytes) -> None:
    with contextlib.suppress(BadArchive):
        read_all(data)


def header(name: bytes = b"x", size: int | bytes = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A ustar header with a right checksum; *fields* are at the offsets in their names, ``at_108=b"..."``."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = size if isinstance(size, bytes) else b"%011o\0" % size
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    for key, value in fields.items():
        offset = int(key.removeprefix("at_"))
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A pax header of *records*."""
    data = b""
    for key, value in records:
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        data += str(length).encode() + rest
    return header(size=len(data), kind=kind) + padded(data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


END = bytes(1024)


@given(st.binary(min_size=512, max_size=512), st.integers(0, 511), st.integers(0, 255))
def test_a_damaged_header_is_an_archive_or_a_bad_one(data: bytes, at: int, value: int) -> None:
    block = bytearray(header(size=512) + data + extended((b"path", b"y")) + header())
    block[at] = value
    with contextlib.suppress(BadArchive):
        read_all(bytes(block))


def test_times_keep_their_nanoseconds() -> None:
    ((entry, _),) = read_all(extended((b"mtime", b"1700000000.123456789")) + header() + END)
    assert entry.mtime_ns == 1_700_000_000_123_456_789


def test_times_before_1970_count_downwards() -> None:
    ((entry, _),) = read_all(extended((b"mtime", b"-1.5")) + header() + END)
    assert entry.mtime_ns == -1_500_000_000


def test_attributes_keep_any_bytes() -> None:
    value = bytes(range(256)) + b"\n=\0"
    ((entry, _),) = read_all(extended((b"SCHILY.xattr.user.a=b", value), (b"comment", b"c")) + header() + END)
    assert entry.xattrs == ((b"user.a", b"b=" + value),)


def test_a_global_header_holds_until_taken_back() -> None:
    archive = extended((b"uid", b"7"), kind=b"g") + header() + extended((b"uid", b"")) + header() + header() + END
    assert [entry.uid for entry, _ in read_all(archive)] == [7, 0, 7]


def test_a_name_that_ends_in_a_slash_is_a_directory() -> None:
    ((entry, _),) = read_all(header(b"d/") + END)
    assert entry.kind == tarformat.DIRECTORY


def test_the_prefix_of_a_ustar_name_comes_first() -> None:
    ((entry, _),) = read_all(header(b"name", at_345=b"some/where") + END)
    assert entry.name == b"some/where/name"


def test_what_gnu_tar_keeps_in_place_of_the_prefix_is_not_a_name() -> None:
    ((entry, _),) = read_all(header(b"name", at_257=b"ustar  \0", at_345=b"14523671234\0") + END)
    assert entry.name == b"name"


def test_an_archive_may_lack_its_end() -> None:
    assert len(read_all(header() + header())) == 2


def test_a_volume_label_is_no_entry() -> None:
    assert [entry.name for entry, _ in read_all(header(b"label", kind=b"V") + header(b"file") + END)] == [b"file"]


SPARSE = b"first" + b"second"
SPARSE_MAPS: dict[str, bytes] = {
    "old": header(
        b"f", size=11, kind=b"S", at_386=b"%011o\0%011o\0%011o\0%011o\0" % (0, 5, 1000, 6), at_483=b"%011o\0" % 4096
    )
    + padded(SPARSE),
    "old, continued": header(
        b"f", size=11, kind=b"S", at_386=b"%011o\0%011o\0" % (0, 5), at_482=b"\1", at_483=b"%011o\0" % 4096
    )
    + padded(b"%011o\0%011o\0" % (1000, 6))
    + padded(SPARSE),
    "0.0": extended(
        (b"GNU.sparse.size", b"4096"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.offset", b"0"),
        (b"GNU.sparse.numbytes", b"5"),
        (b"GNU.sparse.offset", b"1000"),
        (b"GNU.sparse.numbytes", b"6"),
    )
    + header(b"f", size=11)
    + padded(SPARSE),
    "0.1": extended((b"GNU.sparse.name", b"f"), (b"GNU.sparse.size", b"4096"), (b"GNU.sparse.map", b"0,5,1000,6"))
    + header(b"GNUSparseFile.1/f", size=11)
    + padded(SPARSE),
    "1.0": extended(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"f"),
        (b"GNU.sparse.realsize", b"4096"),
    )
    + header(b"GNUSparseFile.1/f", size=523)
    + padded(b"2\n0\n5\n1000\n6\n")
    + padded(SPARSE),
}


@pytest.mark.parametrize("form", list(SPARSE_MAPS))
def test_a_sparse_file_in_every_form_has_its_segments(form: str) -> None:
    ((entry, data), (after, _)) = read_all(SPARSE_MAPS[form] + header(b"after") + END)
    assert (entry.name, entry.size, entry.segments, data) == (b"f", 4096, ((0, 5), (1000, 6)), SPARSE)
    assert (entry.kind, after.name) == (tarformat.REGULAR, b"after")


def test_a_long_map_of_form_1_0_is_read_whole() -> None:
    segments = [(number * 4096, 1) for number in range(5000)]
    text = b"5000\n" + b"".join(b"%d\n%d\n" % segment for segment in segments)
    records = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.name", b"f"), (b"GNU.sparse.realsize", b"%d" % (1 << 30)))
    archive = extended(*records) + header(size=len(padded(text)) + 5000) + padded(text) + padded(b"x" * 5000)
    ((entry, data), (after, _)) = read_all(archive + header(b"after") + END)
    assert entry.segments == tuple(segments)
    assert (data, after.name) == (b"x" * 5000, b"after")


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "it is empty"),
    "text": (lambda: b"hello world\n" * 100, "not a tar archive|not a number"),
    "half a header": (lambda: header()[:300], "middle of a header"),
    "wrong checksum": (lambda: b"y" + header()[1:], "checksum"),
    "half a file": (lambda: header(size=1000) + bytes(512), "middle of a file"),
    "no padding": (lambda: header(size=10) + b"0123456789", "middle of a header"),
    "negative size": (lambda: header(size=b"\xff" * 12), "size, -1, is out of range"),
    "huge size": (lambda: header(size=b"\x80" + b"\xff" * 11), "size, .* is out of range"),
    "letters for a size": (lambda: header(size=b"0000abc0000\0"), "size is not a number"),
    "huge owner": (lambda: header(at_108=b"\x80\0\0\1\0\0\0\0") + END, "owner out of range"),
    "unknown type": (lambda: header(kind=b"Q") + END, "unknown type"),
    "several volumes": (lambda: header(kind=b"M") + END, "unknown type"),
    "pax header of a gigabyte": (lambda: header(size=1 << 30, kind=b"x"), "more than"),
    "long name of a gigabyte": (lambda: header(size=1 << 30, kind=b"L"), "more than"),
    "pax without length": (lambda: header(size=8, kind=b"x") + padded(b"path=x\n\n"), "pax header is damaged"),
    "pax with length 0": (lambda: header(size=10, kind=b"x") + padded(b"0 path=xy\n"), "pax header is damaged"),
    "pax with a wrong length": (lambda: header(size=9, kind=b"x") + padded(b"99 a=bcd\n"), "pax header is damaged"),
    "pax without a key": (lambda: header(size=6, kind=b"x") + padded(b"6 =bc\n"), "without a key"),
    "pax with a negative size": (lambda: extended((b"size", b"-1")) + header(), "size is not a number"),
    "pax with a time of letters": (lambda: extended((b"mtime", b"now")) + header(), "time is not a number"),
    "pax with a huge time": (lambda: extended((b"mtime", b"9" * 30)) + header(), "time is not a number"),
    "pax at the end": (lambda: extended((b"path", b"x")) + END, "after an extended header"),
    "sparse out of order": (
        lambda: (
            extended((b"GNU.sparse.size", b"99"), (b"GNU.sparse.map", b"9,2,3,2")) + header(size=4) + padded(b"1234")
        ),
        "out of order",
    ),
    "sparse out of bounds": (
        lambda: extended((b"GNU.sparse.size", b"9"), (b"GNU.sparse.map", b"8,4")) + header(size=4) + padded(b"1234"),
        "out of bounds",
    ),
    "sparse that does not fit": (
        lambda: extended((b"GNU.sparse.size", b"99"), (b"GNU.sparse.map", b"0,3")) + header(size=4) + padded(b"1234"),
        "does not fit",
    ),
    "half a segment": (
        lambda: extended((b"GNU.sparse.size", b"99"), (b"GNU.sparse.map", b"0,3,4")) + header(size=3) + padded(b"123"),
        "half a segment",
    ),
    "map longer than its data": (
        lambda: (
            extended((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
            + header(size=512)
            + padded(b"90\n0\n")
        ),
        "longer than its file",
    ),
    "map without a number": (
        lambda: extended((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9")) + header(size=512) + b"1" * 512,
        "does not begin with a number",
    ),
    "map of a billion segments": (
        lambda: (
            extended((b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"9"))
            + header(size=1 << 40)
            + padded(b"1000000000\n")
        ),
        "sparse map is not a number in range",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_archive_is_told_in_one_line(case: str) -> None:
    make, words = BAD[case]
    with pytest.raises(BadArchive, match=words) as caught:
        read_all(make())
    assert "\n" not in str(caught.value)
