"""A writable layer as the tar of an image's layer: what comes out of it again is what was seen in the union."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydock.overlay import mount, treetar
from pydock.overlay.errors import Invalid
from pydock.overlay.manifest import ImageConfig
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store
from pydock.overlay.tarformat import Entry, Reader
from pydock.overlay.trees import remove_tree
from pydock.runtime import syscalls

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, revision 2
ACCESS = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000400ffffffff")
OPAQUE = "trusted.overlay.opaque"


class Layers:
    """A store, a lower directory, and a writable layer over it, which is seen at *seen*."""

    def __init__(self) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="pydock-test-"))
        self.lower, self.upper, self.work, self.seen = (self.top / name for name in ("lower", "upper", "work", "seen"))
        for path in (self.lower, self.upper, self.work, self.seen):
            path.mkdir()
            path.chmod(0o755)
        self.store = Store(self.top / "images")
        self._mounted = False

    def mount(self) -> None:
        """Show the union, writable."""
        fd = mount.union([self.lower], self.upper, self.work)
        mount.attach(fd, self.seen)
        os.close(fd)
        self._mounted = True

    def unmount(self) -> None:
        if self._mounted:
            mount.detach(self.seen)
            self._mounted = False

    def tar(self, *made: str) -> bytes:
        """What the upper directory changes."""
        return b"".join(treetar.changes_of(self.upper, [self.lower], made, lambda: None))

    def names(self, *made: str) -> list[str]:
        return [os.fsdecode(entry.name) for entry in members(self.tar(*made))]

    def rebuilt(self, *layers: bytes) -> list[Path]:
        """The directories of these layers, stored and unpacked."""
        with self.store.intake() as intake:
            for layer in layers:
                intake.add_layer((layer,))
            return list(self.store.layer_paths(intake.finish(Reference.parse("made"), ImageConfig())))

    def end(self) -> None:
        self.unmount()
        with tempfile.TemporaryDirectory(prefix="pydock-test-") as aside:  # another run's threads have the same numbers
            remove_tree(self.top, aside=aside)


@pytest.fixture
def layers() -> Iterator[Layers]:
    made = Layers()
    yield made
    made.end()


def members(archive: bytes) -> list[Entry]:
    return list(Reader(io.BytesIO(archive))) if archive else []


def picture(tree: Path) -> dict[str, tuple[object, ...]]:
    """All there is to know of each path but for times of directories, which every change in them alters."""
    first: dict[tuple[int, int], str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        name, status = str(path.relative_to(tree)), path.lstat()
        if stat.S_ISSOCK(status.st_mode):
            continue
        content: object = None
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                content = (file.read(1 << 20), status.st_size)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        directory = stat.S_ISDIR(status.st_mode)
        found[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            None if directory else status.st_mtime_ns,
            None if directory else first.setdefault((status.st_dev, status.st_ino), name),
            content,
            xattrs,
        )
    return found


# -- any tree, by a real union mount

NAMES = st.sampled_from(["a", "b", "c", "with space", "ünï", "new\nline", "-rf", "l" * 150, "\udcff\udcfe", ".wah"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
STEPS = st.tuples(
    st.sampled_from(
        ["file", "file", "directory", "directory", "symlink", "link", "fifo", "node", "socket", "sparse"]
        + ["remove", "remove", "renew", "chmod", "chown", "time", "xattr", "capability", "acl", "append", "rename"]
    ),
    PATHS,
    PATHS,
    st.integers(0, 2**31 - 1),
)


def step(tree: Path, kind: str, first: str, second: str, number: int) -> None:
    """One change, or none where it can't be made."""
    path, other = tree / first, tree / second
    match kind:
        case "file":
            path.write_bytes(b"%d" % number * (number % 300))
        case "directory":
            path.mkdir(parents=True)
        case "symlink":
            path.symlink_to(second * (number % 30))
        case "link":
            os.link(other, path, follow_symlinks=False)
        case "fifo":
            os.mkfifo(path)
        case "node":
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(number % 4096, 1 + number % 100_000))
        case "socket":
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(str(path))
        case "sparse":
            with path.open("wb") as file:
                for _ in range(number % 4):
                    file.seek(number % (3 << 20), os.SEEK_CUR)
                    file.write(b"data" * (number % 2000))
                file.truncate(file.tell() + (number % 3) * (35 << 20))
        case "remove":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        case "renew":
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
                path.mkdir()
                (path / "a").mkdir()
        case "chmod":
            path.chmod(number % 0o10000, follow_symlinks=path.is_symlink() is False)
        case "chown":
            os.chown(path, number, number // 7, follow_symlinks=False)
        case "time":
            os.utime(path, ns=(number, number * 10**9 + number), follow_symlinks=False)
        case "xattr":
            os.setxattr(path, f"user.{number % 3}", b"\0\n=%d" % number, follow_symlinks=False)
        case "capability":
            os.setxattr(path, "security.capability", CAPABILITY, follow_symlinks=False)
        case "acl":
            os.setxattr(path, "system.posix_acl_access", ACCESS, follow_symlinks=False)
        case "append":
            with path.open("ab") as file:
                file.write(b"more")
        case "rename":
            path.rename(other)


def apply(tree: Path, steps: list[tuple[str, str, str, int]]) -> None:
    for each in steps:
        path = tree / each[1]
        if each[0] in ("file", "append", "sparse") and not (path.is_file() or not os.path.lexists(path)):
            continue  # a pipe would block, a device is the machine's
        if each[0] in ("xattr", "capability", "acl") and not (path.is_file() or path.is_dir()):
            continue  # of other kinds no archive keeps them
        try:
            step(tree, *each)
        except (OSError, NotImplementedError, shutil.Error):
            continue


# without shrinking: each example takes most of a second
@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(STEPS, min_size=5, max_size=40), st.lists(STEPS, min_size=1, max_size=40))
def test_any_changes_come_back_as_they_were(
    base: list[tuple[str, str, str, int]], later: list[tuple[str, str, str, int]]
) -> None:
    layers = Layers()
    try:
        apply(layers.lower, base)
        layers.mount()
        apply(layers.seen, later)
        wanted = picture(layers.seen)
        first = b"".join(treetar.whole(layers.lower, "layer", lambda: None))
        second = layers.tar()
        assert second == layers.tar()
        flat = b"".join(treetar.whole(layers.seen, "flat", lambda: None))
        layers.unmount()
        paths = layers.rebuilt(first, second) if second else layers.rebuilt(first)
        union = mount.union(paths, None, None)
        mount.attach(union, layers.seen)
        os.close(union)
        try:
            assert picture(layers.seen) == wanted
        finally:
            mount.detach(layers.seen)
        (single,) = layers.rebuilt(flat)
        assert picture(single) == wanted
    finally:
        layers.end()


# -- single things


def file(top: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)


def _opaque(layers: Layers) -> None:
    file(layers.lower, "d/old", "d/sub/x")
    (layers.upper / "d/sub").mkdir(parents=True)
    os.setxattr(layers.upper / "d", OPAQUE, b"y")


def _opaque_over_nothing(layers: Layers) -> None:
    (layers.upper / "d").mkdir()
    os.setxattr(layers.upper / "d", OPAQUE, b"y")


def _whiteouts(layers: Layers) -> None:
    file(layers.lower, "d/old")
    (layers.upper / "d").mkdir()
    os.mknod(layers.upper / "d/old", stat.S_IFCHR, 0)
    os.link(layers.upper / "d/old", layers.upper / "d/never")


def _attribute(layers: Layers) -> None:
    for top in (layers.lower, layers.upper):
        (top / "d").mkdir()
    os.setxattr(layers.upper / "d", "user.x", b"1")


def _links(layers: Layers) -> None:
    file(layers.upper, "z/first", "a")
    os.link(layers.upper / "a", layers.upper / "z/b")
    os.symlink("nowhere", layers.upper / "s1")
    os.link(layers.upper / "s1", layers.upper / "s2", follow_symlinks=False)


CASES: dict[str, tuple[Callable[[Layers], object], list[str]]] = {
    "nothing": (lambda la: None, []),
    "what is only copied up": (lambda la: [(top / "d").mkdir() for top in (la.lower, la.upper)], []),
    "a directory whose attributes changed": (_attribute, ["d/"]),
    "a file in a directory that is below": (lambda la: (file(la.lower, "d/x"), file(la.upper, "d/y")), ["d/", "d/y"]),
    "the root's mode": (lambda la: la.upper.chmod(0o700), ["./"]),
    "an opaque directory": (_opaque, ["d/", "d/.wh..wh..opq", "d/sub/"]),
    "an opaque directory over nothing": (_opaque_over_nothing, ["d/"]),
    "whiteouts, one of nothing": (_whiteouts, ["d/", "d/.wh.old"]),
    "links": (_links, ["a", "s1", "s2", "z/", "z/b", "z/first"]),
    "what pydock mounts on": (lambda la: (file(la.upper, "etc/hosts", content=""), (la.upper / "data").mkdir()), []),
    "more than that": (lambda la: file(la.upper, "etc/hosts"), ["etc/", "etc/hosts"]),
    "what is beside it": (lambda la: file(la.upper, "etc/hosts", "etc/x", content=""), ["etc/", "etc/x"]),
}


@pytest.mark.parametrize("case", list(CASES))
def test_what_is_in_the_layer(layers: Layers, case: str) -> None:
    prepare, names = CASES[case]
    prepare(layers)
    assert layers.names("/etc/hosts", "/data", "/a/b/c") == names


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda up: file(up, "d/.wh.x"), r"'d/\.wh\.x' can't be in a layer: .*means a deletion"),
    "a directory": (lambda up: (up / ".wh..wh..opq").mkdir(), r"'\.wh\.\.wh\.\.opq' can't be in a layer"),
    "a line": (lambda up: file(up, ".wh.a\nb"), r"'\.wh\.a\\nb' can't"),
}


@pytest.mark.parametrize("case", list(UNFIT))
def test_a_name_that_would_delete_is_refused(layers: Layers, case: str) -> None:
    make, words = UNFIT[case]
    make(layers.upper)
    with pytest.raises(Invalid, match=words) as caught:
        layers.tar()
    assert "\n" not in str(caught.value)


def test_a_tree_that_is_deeper_than_a_path_may_be_long_is_refused_in_words(layers: Layers) -> None:
    here = os.open(layers.upper, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=here)
        following = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    os.close(here)
    with pytest.raises(Invalid, match="its path has 4099 bytes, more than can be opened"):
        layers.tar()


def test_links_in_it_lead_nowhere(layers: Layers) -> None:
    for name, target in (("etc", "/etc"), ("up", "../../../../etc"), ("passwd", "/etc/passwd")):
        os.symlink(target, layers.upper / name)
    found = {entry.name: entry.link for entry in members(layers.tar())}
    assert found == {b"etc": b"/etc", b"passwd": b"/etc/passwd", b"up": b"../../../../etc"}


def test_a_huge_hole_takes_no_time_and_comes_back(layers: Layers) -> None:
    with (layers.upper / "huge").open("wb") as huge:
        huge.seek(1 << 40)
        huge.write(b"end")
        huge.truncate(1 << 42)
    before = time.monotonic()
    archive = layers.tar()
    assert time.monotonic() - before < 60
    assert len(archive) < 20_000
    (path,) = layers.rebuilt(archive)
    assert (path / "huge").stat().st_size == 1 << 42
    assert (path / "huge").stat().st_blocks <= 16
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getmember("huge").size == 1 << 42


def test_little_holes_are_zeros_as_other_engines_want_them(layers: Layers) -> None:
    with (layers.upper / "x").open("wb") as sparse:
        sparse.truncate(20_000_000)
    (entry,) = members(layers.tar())
    assert (entry.segments, entry.size) == (None, 20_000_000)


def test_what_changes_meanwhile_gives_an_archive_all_the_same(layers: Layers) -> None:
    """Files that shrink, grow, vanish and change their kind, a hundred times."""
    churn = """
import os, sys
top, number = sys.argv[1], 0
while True:
    path = f"{top}/{number % 40}"
    for make in (lambda: open(path, "wb").write(bytes(200_000)), lambda: os.truncate(path, 3), lambda: os.unlink(path),
                 lambda: os.symlink("/etc/passwd", path), lambda: os.unlink(path), lambda: os.mkfifo(path),
                 lambda: os.unlink(path), lambda: os.mkdir(path), lambda: os.rmdir(path)):
        try:
            make()
        except OSError:
            pass
    number += 1
"""
    child = subprocess.Popen([sys.executable, "-c", churn, str(layers.upper)])
    try:
        for _ in range(30):
            archive = layers.tar()
            if archive:
                with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                    assert {member.name.isdigit() for member in tar.getmembers()} == {True}
                assert b"root:" not in archive
    finally:
        child.kill()
        child.wait()


def test_whoever_does_not_want_it_any_more_ends_the_reader(layers: Layers) -> None:
    file(layers.upper, *map(str, range(2000)), content="x" * 5000)

    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(treetar.changes_of(layers.upper, [layers.lower], (), check))
    first = next(chunks := treetar.whole(layers.upper, "layer", lambda: None))
    assert first
    chunks.close()  # type: ignore[attr-defined]


def test_a_reader_that_is_killed_gives_no_archive(layers: Layers) -> None:
    file(layers.upper, *map(str, range(2000)), content="x" * 5000)
    chunks = treetar.whole(layers.upper, "layer", lambda: None)
    next(chunks)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (reader,) = [pid for pid in children if b"pydock.overlay.diff" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(reader), 9)
    with pytest.raises(RuntimeError, match="the reader of a tree died with -9"):
        list(chunks)


def test_the_reader_has_nothing_but_the_trees(layers: Layers) -> None:
    probe = """
import os, sys
from pydock.overlay import diff
from pydock.overlay.confine import confine
stray = os.dup2(os.open("/etc", os.O_RDONLY), 100)
confine(int(sys.argv[1]), capabilities=diff.CAPABILITIES, read_only=True, keep=[int(sys.argv[2])])
below = os.open(".", os.O_RDONLY, dir_fd=int(sys.argv[2]))
found = [sorted(os.listdir("/")), sorted(os.listdir(below)), os.listdir("/..") == os.listdir("/")]
for attempt in (
    lambda: os.stat("/etc"), lambda: os.fstat(stray), lambda: os.mkdir("/x"), lambda: os.open("/null", os.O_RDONLY),
    lambda: os.setuid(1), lambda: os.mknod("/y"), lambda: os.chroot("/d"),
):
    try:
        attempt()
        found.append("it worked")
    except OSError as error:
        found.append(error.errno)
os.write(1, repr(found).encode())
"""
    file(layers.lower, "below")
    (layers.upper / "d").mkdir()
    os.mknod(layers.upper / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    lower = mount.union([layers.lower], None, None)
    upper = os.open(layers.upper, os.O_RDONLY)
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", probe, str(upper), str(lower)],
            pass_fds=(upper, lower),
            capture_output=True,
            text=True,
        )
    finally:
        os.close(lower)
        os.close(upper)
    assert done.stderr == ""
    assert done.stdout == repr([["d", "null"], ["below"], True, 2, 9, 30, 13, 1, 30, 1])


@pytest.mark.mount
def test_a_union_in_no_namespace_is_read_on_any_kernel(layers: Layers) -> None:
    file(layers.lower, "a/b", "gone")
    os.mknod(layers.upper / "gone", stat.S_IFCHR, 0)
    union = mount.union([layers.lower, layers.upper], None, None)
    try:
        archive = b"".join(treetar.whole(union, "flat", lambda: None))
    finally:
        os.close(union)
    assert [entry.name for entry in members(archive)] == [b"./", b"a/", b"a/b"]


@pytest.fixture
def memory(layers: Layers) -> Iterator[Path]:
    """The upper directory, on a file system in memory: some disks take a minute for so many files."""
    syscalls.mount("pydock-test", str(layers.upper), "tmpfs", 0, "mode=755")
    yield layers.upper
    syscalls.umount2(str(layers.upper), 0)


def test_a_hundred_thousand_files_take_little_memory(layers: Layers, memory: Path) -> None:
    for number in range(100):
        (layers.upper / f"{number:03}").mkdir()
        for each in range(1000):
            os.close(os.open(layers.upper / f"{number:03}" / f"{each:04}", os.O_CREAT | os.O_WRONLY))
    size = peak = 0
    for chunk in treetar.changes_of(layers.upper, [layers.lower], (), lambda: None):
        size += len(chunk)
        for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
            if b"pydock.overlay.diff" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
            status = Path(f"/proc/{pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) if "VmHWM:" in status else 0)
    assert size >= 100_000 * 512
    assert peak < 60_000  # KB, of which Python has 20,000


def test_the_end_of_everything_is_an_error_of_the_machine() -> None:
    with pytest.raises(FileNotFoundError):
        list(treetar.whole(Path("/nowhere"), "layer", lambda: None))
