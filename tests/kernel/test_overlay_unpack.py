"""The confined unpacker: what strangers' archives may try, and that honest ones arrive whole."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydock.overlay.errors import Invalid
from pydock.overlay.store import Store
from pydock.overlay.trees import remove_tree

REG, DIR, SYM, LNK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
CHR, BLK, FIFO = tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE
Member = tuple[str, bytes, bytes | str]  # name, type, content or target


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a store's directory in it, and beside it something that no archive may touch."""
    path = Path(tempfile.mkdtemp(prefix="pydock-test-"))
    (path / "outside").mkdir()
    (path / "outside" / "canary").write_text("alive")
    yield path
    remove_tree(path / "images", aside=path)
    with tempfile.TemporaryDirectory(prefix="pydock-test-") as aside:  # another run's threads have the same numbers
        remove_tree(path, aside=aside)


def archive(members: list[Member], *, mode: int = 0o755, headers: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = kind, mode, 1_000_000_000
            member.pax_headers = headers or {}
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.linkname = content
                tar.addfile(member)
    return out.getvalue()


def unpack(store: Store, data: bytes) -> Path:
    """The directory of the layer."""
    file = store.directory.parent / "archive.tar"
    file.write_bytes(data)
    try:
        image = store.import_tar(file, "tested")
    finally:
        file.unlink()
    return store.layer_paths(image)[0]


def nothing_happened(store: Store) -> bool:
    """Whether the store is empty and the world outside it as it was."""
    images, outside = store.directory, store.directory.parent / "outside"
    left = [path for name in ("tmp", "layers", "trash", "blobs/sha256") for path in (images / name).iterdir()]
    canary = (outside / "canary").read_text() == "alive" and os.stat(outside).st_mode & 0o777 == 0o755
    return left == [] and store.references() == () and canary and len(list(outside.iterdir())) == 1


def climb(store: Store) -> str:
    """A relative path from a layer's root to the directory outside."""
    return "../" * 20 + str(store.directory.parent / "outside").lstrip("/")


REFUSED: dict[str, tuple[list[Member], str]] = {
    "..": ([("..", DIR, b"")], r"'\.\./' has a name that is empty or has \.\. in it"),
    "../x": ([("../x", REG, b"x")], r"'\.\./x' has a name"),
    "a/../../x": ([("a/../../x", REG, b"x")], "has a name that is empty or has"),
    "a/..": ([("a/..", DIR, b"")], "has a name that is empty or has"),
    "/../x": ([("/../x", SYM, "y")], "has a name that is empty or has"),
    "an empty name": ([("", REG, b"x")], "has a name that is empty"),
    "a hard link to ..": ([("x", LNK, "../../etc/passwd")], r"has a name that is empty or has \.\."),
    "a hard link to nothing": ([("x", LNK, "etc/passwd")], "'x': No such file"),
    "a hard link to /etc/passwd": ([("x", LNK, "/etc/passwd")], "'x': No such file"),
    "a hard link to nothing by name": ([("x", LNK, "")], "has a name that is empty"),
    "a file as the root": ([(".", REG, b"x")], "is the root, but not a directory"),
    "a symlink as the root": ([("./", SYM, "/etc")], "is the root, but not a directory"),
    "a whiteout of ..": ([(".wh...", REG, b"")], "whiteout of nothing"),
    "a whiteout of .": ([(".wh..", REG, b"")], "whiteout of nothing"),
    "a whiteout of nothing": ([("a/.wh.", REG, b"")], "whiteout of nothing"),
    "a file in a whiteout": ([(".wh.a/b", REG, b"")], "is inside a whiteout"),
    "an opaque mark in a whiteout": ([("x/.wh.a/.wh..wh..opq", REG, b"")], "is inside a whiteout"),
    "a name of 300 bytes": ([("n" * 300, REG, b"")], "File name too long"),
    "a path of 5,000 bytes": ([("p/" * 2500, DIR, b"")], "File name too long"),
    "a symlink to a name too long": ([("x", SYM, "t" * 5000)], "File name too long"),
    "a symlink to nothing": ([("x", SYM, "")], "No such file"),
    "a loop of symlinks": ([("a", SYM, "b"), ("b", SYM, "a"), ("a/x", REG, b"")], "Too many levels of symbolic links"),
    "a file below a file": ([("a", REG, b""), ("a/b", REG, b"")], "Not a directory"),
    "a file below a symlink to nothing": ([("a", SYM, "/nowhere"), ("a/b", REG, b"")], "'a/b': No such file"),
    "a file below a symlink to /etc": ([("a", SYM, "/etc"), ("a/pydock-test", REG, b"")], "'a/pydock-test': No such"),
    "a newline in a name": ([("a\n\n/..", REG, b"")], r"'a\\n\\n/\.\.' has a name"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_an_archive_is_refused_by_name_and_nothing_is_left(store: Store, case: str) -> None:
    members, words = REFUSED[case]
    with pytest.raises(Invalid, match=words) as caught:
        unpack(store, archive([("fine", REG, b"content"), *members]))
    assert "\n" not in str(caught.value)
    assert nothing_happened(store)


OUTWARD: dict[str, Callable[[str], list[Member]]] = {
    "through a symlink": lambda up: [("l", SYM, up), ("l/canary", REG, b"dead")],
    "through an absolute symlink": lambda up: [("l", SYM, "/" + up.lstrip("./")), ("l/canary", REG, b"dead")],
    "through a chain": lambda up: [("a", SYM, up), ("b", SYM, "a"), ("b/canary", REG, b"dead")],
    "onto a symlink": lambda up: [("l", SYM, up + "/canary"), ("l", REG, b"dead")],
    "a hard link to a symlink, then onto it": lambda up: [
        ("s", SYM, up + "/canary"),
        ("h", LNK, "s"),
        ("h", REG, b"dead"),
    ],
    "a hard link through a symlink": lambda up: [("l", SYM, up), ("h", LNK, "l/canary"), ("h", REG, b"dead")],
    "a directory through a symlink": lambda up: [("l", SYM, up), ("l/", DIR, b"")],
    "a whiteout through a symlink": lambda up: [("l", SYM, up), ("l/.wh.canary", REG, b"")],
    "an opaque mark through a symlink": lambda up: [("l", SYM, up), ("l/.wh..wh..opq", REG, b"")],
    "an absolute name": lambda up: [("/" + up.lstrip("./") + "/canary", REG, b"dead")],
}


@pytest.mark.parametrize("case", list(OUTWARD))
def test_no_way_leads_out_of_the_layer(store: Store, case: str) -> None:
    members = OUTWARD[case](climb(store))
    outside = store.directory.parent / "outside"
    before = os.stat(outside), os.stat(outside / "canary")
    try:
        unpack(store, archive(members, mode=0o777))
    except Invalid:
        assert nothing_happened(store)
    assert (outside / "canary").read_text() == "alive"
    assert os.listxattr(outside) == []
    after = os.stat(outside), os.stat(outside / "canary")
    assert [(s.st_mode, s.st_ctime_ns, s.st_nlink) for s in after] == [
        (s.st_mode, s.st_ctime_ns, s.st_nlink) for s in before
    ]


def test_an_absolute_name_lands_in_the_layer(store: Store) -> None:
    layer = unpack(store, archive([("/etc//./passwd", REG, b"mine")]))
    assert (layer / "etc" / "passwd").read_bytes() == b"mine"


def test_a_symlink_to_a_directory_of_the_layer_is_followed_inside(store: Store) -> None:
    members: list[Member] = [("usr/lib", DIR, b""), ("lib", SYM, "/usr/lib"), ("lib/libc", REG, b"code")]
    layer = unpack(store, archive(members))
    assert os.readlink(layer / "lib") == "/usr/lib"
    assert (layer / "usr" / "lib" / "libc").read_bytes() == b"code"


def test_symlinks_are_kept_as_they_are(store: Store) -> None:
    layer = unpack(store, archive([("l", SYM, "../../x//y")]))
    assert os.readlink(layer / "l") == "../../x//y"


REPLACED: dict[str, tuple[list[Member], Callable[[Path], bool]]] = {
    "file by file": ([("a", REG, b"1"), ("a", REG, b"2")], lambda a: a.read_bytes() == b"2"),
    "hard link by file": (
        [("b", REG, b"1"), ("a", LNK, "b"), ("a", REG, b"2")],
        lambda a: a.read_bytes() == b"2" and (a.parent / "b").read_bytes() == b"1",
    ),
    "file by directory": ([("a", REG, b"1"), ("a", DIR, b""), ("a/b", REG, b"2")], lambda a: (a / "b").is_file()),
    "directory by file": ([("a/b/c/d", REG, b"1"), ("a", REG, b"2")], lambda a: a.read_bytes() == b"2"),
    "directory by symlink": (
        [("d/x", REG, b"1"), ("a/b", REG, b"1"), ("a", SYM, "d"), ("a/y", REG, b"2")],
        lambda a: a.is_symlink() and sorted(os.listdir(a.parent / "d")) == ["x", "y"],
    ),
    "symlink by directory": (
        [("d", DIR, b""), ("a", SYM, "d"), ("a", DIR, b""), ("a/y", REG, b"2")],
        lambda a: not a.is_symlink() and os.listdir(a) == ["y"] and os.listdir(a.parent / "d") == [],
    ),
    "directory by itself": ([("a/b", REG, b"1"), ("a", DIR, b"")], lambda a: (a / "b").read_bytes() == b"1"),
    "link to itself": ([("a", REG, b"1"), ("a", LNK, "./a")], lambda a: a.read_bytes() == b"1"),
    "fifo by device": ([("a", FIFO, ""), ("a", CHR, "")], lambda a: stat.S_ISCHR(a.lstat().st_mode)),
}


@pytest.mark.parametrize("case", list(REPLACED))
def test_of_two_entries_with_a_name_the_later_holds(store: Store, case: str) -> None:
    members, holds = REPLACED[case]
    layer = unpack(store, archive(members))
    assert holds(layer / "a")
    assert not [name for name in os.listdir(layer) if name.startswith(".removed")]


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return os.listxattr(path) == ["trusted.overlay.opaque"] and os.getxattr(path, "trusted.overlay.opaque") == b"y"


def test_whiteouts_become_those_of_overlayfs(store: Store) -> None:
    layer = unpack(
        store, archive([("d/.wh.gone", REG, b""), (".wh.top", LNK, ".wh..wh.aufs"), (".wh..wh.plnk", DIR, b"")])
    )
    assert is_whiteout(layer / "d" / "gone")
    assert is_whiteout(layer / "top")
    assert sorted(os.listdir(layer)) == ["d", "top"]


def test_an_opaque_directory_is_marked_and_keeps_what_the_layer_has_in_it(store: Store) -> None:
    layer = unpack(store, archive([("d/first", REG, b""), ("d/.wh..wh..opq", REG, b""), ("d/last", REG, b"")]))
    assert is_opaque(layer / "d")
    assert sorted(os.listdir(layer / "d")) == ["first", "last"]


def test_an_opaque_mark_for_a_directory_behind_a_symlink_finds_it(store: Store) -> None:
    layer = unpack(store, archive([("r/d", DIR, b""), ("l", SYM, "/r"), ("l/d/.wh..wh..opq", REG, b"")]))
    assert is_opaque(layer / "r" / "d")


BOTH: dict[str, list[Member]] = {
    "whiteout first": [(".wh.a", REG, b""), ("a", DIR, b""), ("a/b", REG, b"")],
    "whiteout last": [("a", DIR, b""), ("a/b", REG, b""), (".wh.a", REG, b"")],
    "whiteout, then a file below": [(".wh.a", REG, b""), ("a/b", REG, b"")],
}


@pytest.mark.parametrize("case", list(BOTH))
def test_a_directory_that_a_layer_hides_and_has_is_opaque(store: Store, case: str) -> None:
    layer = unpack(store, archive(BOTH[case]))
    assert is_opaque(layer / "a")
    assert os.listdir(layer / "a") == ["b"]


def test_an_opaque_directory_that_is_replaced_is_opaque_no_more(store: Store) -> None:
    layer = unpack(store, archive([("d/.wh..wh..opq", REG, b""), ("d", REG, b"file")]))
    assert (layer / "d").read_bytes() == b"file"


def test_attributes_of_a_stranger_are_kept_only_where_they_mean_no_harm(store: Store) -> None:
    headers = {
        f"SCHILY.xattr.{name}": "y"
        for name in (
            "trusted.overlay.opaque",
            "trusted.overlay.redirect",
            "security.selinux",
            "security.capabilityx",
            "user.a",
        )
    }
    layer = unpack(store, archive([("f", REG, b""), ("d", DIR, b"")], headers=headers))
    assert (os.listxattr(layer / "f"), os.listxattr(layer / "d")) == (["user.a"], ["user.a"])


BAD_ATTRIBUTES = {
    "a NUL": "user.a\0b",
    "a name too long": "user." + "a" * 300,
    "no name": "user.",
}


@pytest.mark.parametrize("case", list(BAD_ATTRIBUTES))
def test_an_attribute_with_a_bad_name_is_refused(store: Store, case: str) -> None:
    with pytest.raises(Invalid, match="entry 'f'"):
        unpack(store, archive([("f", REG, b"")], headers={f"SCHILY.xattr.{BAD_ATTRIBUTES[case]}": "y"}))
    assert nothing_happened(store)


def test_a_nul_in_a_name_is_refused(store: Store) -> None:
    with pytest.raises(Invalid, match="NUL in its name"):
        unpack(store, archive([("f", REG, b"")], headers={"path": "a\0b"}))


def test_device_nodes_are_made_but_lead_nowhere_on_the_machine(store: Store) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in (("null", CHR), ("loop", BLK)):
            member = tarfile.TarInfo(name)
            member.type, member.devmajor, member.devminor, member.mode = kind, 1, 3, 0o666
            tar.addfile(member)
    layer = unpack(store, out.getvalue())
    assert os.lstat(layer / "null").st_rdev == os.lstat(layer / "loop").st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(os.lstat(layer / "null").st_mode) == 0o666
    assert os.stat(store.directory).st_mode & 0o777 == 0o700


def test_a_truncated_archive_is_refused_and_nothing_is_left(store: Store) -> None:
    with pytest.raises(Invalid, match="ends in the middle of a file"):
        unpack(store, archive([("f", REG, bytes(100_000))])[:50_000])
    assert nothing_happened(store)


def test_a_header_of_a_gigabyte_is_refused(store: Store) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = b"x", 1 << 30
    with pytest.raises(Invalid, match="a header has 1073741824 bytes"):
        unpack(store, member.tobuf() + bytes(1 << 20))


def test_what_is_no_archive_is_refused(store: Store) -> None:
    with pytest.raises(Invalid, match="not a tar archive"):
        unpack(store, b"\x7fELF" + bytes(range(256)) * 100)
    with pytest.raises(Invalid, match="it is empty"):
        unpack(store, b"")
    assert nothing_happened(store)


def test_a_tree_that_is_deeper_than_any_path_is_unpacked_and_removed(store: Store) -> None:
    step = "d/" * 1500
    members: list[Member] = [(step, DIR, b"")]
    for number in range(2):
        members += [(f"l{number}", SYM, (f"l{number - 1}/" if number else "") + step)]
        members += [(f"l{number}/" + step, DIR, b"")]
    members += [("d", REG, b"all of it is replaced")]
    layer = unpack(store, archive(members))
    assert (layer / "d").is_file()
    store.untag("tested")
    store.empty_trash()
    assert list((store.directory / "trash").iterdir()) == []


def test_times_of_directories_are_those_of_the_archive(store: Store) -> None:
    layer = unpack(store, archive([("d", DIR, b""), ("d/e", DIR, b""), ("d/e/f", REG, b""), ("d/g", REG, b"")]))
    assert {int((layer / name).stat().st_mtime) for name in ("d", "d/e", "d/e/f", "d/g")} == {1_000_000_000}


def test_the_unpacker_has_nothing_but_the_layer(store: Store) -> None:
    probe = """
import os, sys
from pydock.overlay import unpack
from pydock.runtime import syscalls
stray = os.open("/etc", os.O_RDONLY)
unpack.confine(int(sys.argv[1]), capabilities=unpack.CAPABILITIES)
os.mkdir("/made")
found = [os.listdir("/"), syscalls.capget(), os.listdir("/..")]
for attempt in (
    lambda: os.stat("/etc"), lambda: os.fstat(stray), lambda: os.chroot("/made"),
    lambda: syscalls.mount("none", "/made", "tmpfs", 0), lambda: syscalls.unshare(syscalls.CLONE_NEWNS),
    lambda: os.setxattr("/made", "trusted.x", b""), lambda: os.setuid(1),
):
    try:
        attempt()
        found.append("it worked")
    except OSError as error:
        found.append(error.errno)
os.write(1, repr(found).encode())
"""
    tree = store.directory / "tree"
    tree.mkdir()
    directory = os.open(tree, os.O_RDONLY)
    try:
        command = [sys.executable, "-I", "-c", probe, str(directory)]
        done = subprocess.run(command, pass_fds=(directory,), capture_output=True, check=True, text=True)
    finally:
        os.close(directory)
    held = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31
    assert done.stdout == repr([["made"], (held, held, 0), ["made"], 2, 9, 1, 1, 1, 1, 1])
    assert os.listdir(tree) == ["made"]
