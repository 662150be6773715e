"""Entries as headers, and what others read in them."""

from __future__ import annotations

import io
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay import tarformat, tarwriter
from pydock.overlay.tarformat import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, HARDLINK, REGULAR, SYMLINK, Entry, Reader

_NAMES = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"-").replace(b"/", b"+"))
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(b"/".join)
_IDS = st.integers(0, 2**32 - 2)
_XATTRS = st.dictionaries(st.sampled_from([b"user.a", b"user.b", b"security.capability"]), st.binary(max_size=60))


@st.composite
def _segments(draw: st.DrawFn) -> tuple[tuple[tuple[int, int], ...], int]:
    """Where a file has data, and its size."""
    found, end = [], 0
    for hole, length in draw(st.lists(st.tuples(st.integers(1, 9000), st.integers(0, 2000)), max_size=60)):
        found.append((end + hole, length))
        end += hole + length
    return tuple(found), end + draw(st.integers(0, 2**40))


@st.composite
def entries(draw: st.DrawFn) -> tuple[Entry, bytes]:
    kind = draw(st.sampled_from([REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO]))
    segments, size = draw(_segments()) if kind == REGULAR and draw(st.booleans()) else (None, 0)
    length = sum(each for _, each in segments) if segments is not None else draw(st.integers(0, 1500))
    data = draw(st.binary(min_size=min(length, 9), max_size=9)).ljust(length, b".")[:length] if kind == REGULAR else b""
    entry = Entry(
        name=draw(_PATHS) + (b"/" if kind == DIRECTORY else b""),
        kind=kind,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(_IDS),
        gid=draw(_IDS),
        size=len(data) if segments is None else size,
        mtime_ns=draw(st.integers(-(10**20), 10**20)),
        link=draw(_PATHS) if kind in (HARDLINK, SYMLINK) else b"",
        device=(draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1)))
        if kind in (CHARACTER, BLOCK_DEVICE)
        else (0, 0),
        xattrs=tuple(sorted(draw(_XATTRS).items())),
        segments=segments,
    )
    return entry, data


def written(*members: tuple[Entry, bytes]) -> bytes:
    pieces = [tarwriter.head(entry) + data + tarwriter.padding(len(data)) for entry, data in members]
    return b"".join(pieces) + tarwriter.END


@given(st.lists(entries(), min_size=1, max_size=5))
def test_what_is_written_is_read_as_it_was(members: list[tuple[Entry, bytes]]) -> None:
    reader = Reader(io.BytesIO(written(*members)))
    found = [(entry, b"".join(iter(lambda: reader.read(700), b""))) for entry in reader]
    assert found == members
    assert all(tarwriter.data_size(entry) == len(data) for entry, data in members)


def plain(name: bytes = b"file", **fields: object) -> Entry:
    values: dict[str, object] = {
        "kind": REGULAR,
        "mode": 0o644,
        "uid": 0,
        "gid": 0,
        "size": 0,
        "mtime_ns": 10**18,
        "link": b"",
        "device": (0, 0),
    }
    return Entry(name=name, **(values | fields))  # type: ignore[arg-type]


CASES: dict[str, tuple[Entry, str]] = {
    "a plain file": (plain(), "-rw-r--r-- 0/0 0 file"),
    "a name of 200 bytes": (plain(b"n" * 200), f"-rw-r--r-- 0/0 0 {'n' * 200}"),
    "a path of 3,000 bytes": (plain(b"p/" * 1500 + b"x"), f"-rw-r--r-- 0/0 0 {'p/' * 1500}x"),
    "a name in another encoding": (plain(b"\xff\xfe"), "-rw-r--r-- 0/0 0 \\377\\376"),
    "a long name in another encoding": (plain(b"\xff" * 150), "-rw-r--r-- 0/0 0 " + "\\377" * 150),
    "large ids": (plain(uid=3_000_000, gid=2**32 - 2), "-rw-r--r-- 3000000/4294967294 0 file"),
    "bits": (plain(mode=0o6755), "-rwsr-sr-x 0/0 0 file"),
    "a directory": (plain(b"d/", kind=DIRECTORY, mode=0o1777), "drwxrwxrwt 0/0 0 d/"),
    "a symlink": (plain(kind=SYMLINK, link=b"t" * 150), f"lrw-r--r-- 0/0 0 file -> {'t' * 150}"),
    "a device": (plain(kind=BLOCK_DEVICE, device=(259, 70_000)), "brw-r--r-- 0/0 259,70000 file"),
    "a pipe": (plain(kind=FIFO), "prw-r--r-- 0/0 0 file"),
    "a terabyte of nothing": (plain(size=1 << 40, segments=((1 << 40, 0),)), f"-rw-r--r-- 0/0 {1 << 40} file"),
    "9 GiB": (plain(size=9 << 30, segments=((5, 3), (9 << 30, 0))), f"-rw-r--r-- 0/0 {9 << 30} file"),
    "a time before 1970": (plain(mtime_ns=-1_500_000_000), "-rw-r--r-- 0/0 0 file"),
}


@pytest.mark.parametrize("case", list(CASES))
def test_gnu_tar_and_the_standard_library_read_it(case: str) -> None:
    entry, line = CASES[case]
    data = b"abc" if case == "9 GiB" else b""
    archive = written((entry, data))
    done = subprocess.run(["tar", "-tv", "--numeric-owner"], input=archive, capture_output=True, check=True)
    assert done.stderr == b""
    fields = done.stdout.decode().rstrip("\n").split()
    assert " ".join(fields[:3] + fields[5:]) == line
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (member,) = tar.getmembers()
    assert member.name.encode(errors="surrogateescape") == entry.name.rstrip(b"/")
    assert (member.uid, member.gid, member.mode) == (entry.uid, entry.gid, entry.mode)
    assert (member.size, member.linkname) == (entry.size, entry.link.decode())
    assert (member.devmajor, member.devminor) == entry.device
    assert member.mtime == entry.mtime_ns / 1e9


def test_attributes_are_told_as_other_engines_do() -> None:
    entry = plain(xattrs=((b"user.text", b"a\n=\0\xff"), (b"security.capability", b"\1\0")))
    assert b"32 SCHILY.xattr.user.text=a\n=\0\xff\n" in tarwriter.head(entry)
    (found,) = Reader(io.BytesIO(written((entry, b""))))
    assert found.xattrs == ((b"security.capability", b"\1\0"), (b"user.text", b"a\n=\0\xff"))


def test_every_length_of_a_record_counts_itself() -> None:
    for size in range(101, 1200):
        (found,) = Reader(io.BytesIO(written((plain(b"n" * size), b""))))
        assert len(found.name) == size


def test_kept_attributes() -> None:
    kept = [b"user.x", b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"]
    lost = [b"trusted.overlay.opaque", b"security.selinux", b"system.nfs4_acl", b"userx"]
    assert [tarformat.is_kept(name) for name in (*kept, *lost)] == [True] * 4 + [False] * 4
