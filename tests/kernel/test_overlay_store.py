"""The store with layers: real archives in and out, kills at bad moments, full disks."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydock.overlay import manifest as documents
from pydock.overlay.busybox import is_static, make_busybox
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.image import Image
from pydock.overlay.intake import Aborted
from pydock.overlay.manifest import ImageConfig
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store
from pydock.overlay.trees import remove_tree

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep, revision 2


def archive(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def add(store: Store, name: str, *layers: bytes) -> Image:
    with store.intake() as intake:
        for layer in layers:
            intake.add_layer((layer,))
        return intake.finish(Reference.parse(name), ImageConfig())


def files_of(store: Store) -> int:
    """The number of blobs and layers."""
    return sum(len(list((store.directory / name).iterdir())) for name in ("blobs/sha256", "layers"))


def is_clean(store: Store) -> bool:
    return [path for name in ("tmp", "trash") for path in (store.directory / name).iterdir()] == []


# -- a tree, GNU tar, and back


def make_tree(tree: Path, seed: int) -> None:
    """Everything that a file system can hold, at random but the same for the same *seed*."""
    dice = random.Random(seed)
    tree.mkdir()
    directories, files = [tree], []
    for number in range(60):
        home = dice.choice(directories)
        name = dice.choice(["f", "with space ", "ünï", "new\nline", "-rf", "long" * 50, "\udcff\udcfe"]) + str(number)
        path = home / name
        kind = dice.choice(["directory", "file", "file", "file", "symlink", "link", "fifo", "node", "sparse"])
        match kind:
            case "directory":
                path.mkdir()
                directories.append(path)
            case "file":
                path.write_bytes(dice.randbytes(dice.choice([0, 1, 511, 512, 513, 70_000])))
                files.append(path)
            case "symlink":
                path.symlink_to(dice.choice(["/etc/passwd", "../..", "x" * 150, "nowhere"]))
            case "link" if files:
                os.link(dice.choice(files), path)
                continue
            case "fifo":
                os.mkfifo(path)
            case "node":
                os.mknod(path, dice.choice([stat.S_IFCHR, stat.S_IFBLK]) | 0o600, os.makedev(7, 300))
            case _:
                with path.open("wb") as file:
                    for _ in range(dice.randrange(9)):
                        file.seek(dice.randrange(1, 500) * 4096, os.SEEK_CUR)
                        file.write(dice.randbytes(4096))
                    file.truncate(file.tell() + dice.choice([0, 5, 1 << 20]))
        os.chown(path, dice.choice([0, 1000, 3_000_000]), dice.choice([0, 1000, 70_000]), follow_symlinks=False)
        if kind != "symlink":
            path.chmod(dice.choice([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0, 0o6711]))
        if kind in ("directory", "file", "link", "sparse"):
            os.setxattr(path, "user.text", dice.randbytes(20) + b"\n=")
        if kind == "file":
            os.setxattr(path, "security.capability", CAPABILITY)
    for path in [tree, *sorted(tree.rglob("*"))]:
        when = dice.randrange(-(10**9), 4 * 10**9) * 10**9 + dice.randrange(10**9)
        os.utime(path, ns=(when, when), follow_symlinks=False)


def picture(tree: Path, *, nanoseconds: bool) -> dict[str, tuple[object, ...]]:
    """All there is to know of each path, as comparable values."""
    inodes: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        name, status = str(path.relative_to(tree)), path.lstat()
        content: object = None
        holes: object = None
        if stat.S_ISREG(status.st_mode):
            content, holes = Digest.of(path.read_bytes()), segments(path)
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)
        }
        found[name] = (
            oct(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_size if not stat.S_ISDIR(status.st_mode) else 0,
            status.st_mtime_ns if nanoseconds else status.st_mtime_ns // 10**9,
            status.st_rdev,
            inodes.setdefault(status.st_ino, name),
            content,
            holes,
            xattrs,
        )
    return found


def segments(path: Path) -> list[tuple[int, int]]:
    """Where a file has data (lseek(2), SEEK_DATA)."""
    found = []
    with path.open("rb") as file:
        end, size = 0, path.stat().st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, end))
    return found


FORMS = {
    "pax, sparse 1.0": (["--format=pax", "--sparse"], True, True),
    "pax, sparse 0.1": (["--format=pax", "--sparse", "--sparse-version=0.1"], True, True),
    "pax, sparse 0.0": (["--format=pax", "--sparse", "--sparse-version=0.0"], True, True),
    "pax": (["--format=pax"], True, False),
    "gnu, sparse": (["--format=gnu", "--sparse"], False, True),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", list(FORMS))
def test_a_tree_comes_back_from_gnu_tar_as_it_was(place: Path, store: Store, form: str, seed: int) -> None:
    options, pax, sparse = FORMS[form]
    tree, packed = place / "tree", place / "tree.tar"
    make_tree(tree, seed)
    xattrs = ["--xattrs", "--xattrs-include=*"] if pax else []
    command = ["tar", "--create", "--numeric-owner", *options, *xattrs, f"--file={packed}", f"--directory={tree}", "."]
    subprocess.run(command, check=True)
    (layer,) = store.layer_paths(store.import_tar(packed, "tree"))
    wanted, found = (picture(path, nanoseconds=pax) for path in (tree, layer))
    assert list(found) == list(wanted)
    if not sparse:
        wanted, found = ({k: v[:-2] + v[-1:] for k, v in each.items()} for each in (wanted, found))
    if not pax:
        wanted, found = ({k: v[:-1] for k, v in each.items()} for each in (wanted, found))
    assert found == wanted


# -- blobs and documents

COMPRESSIONS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "plain": (lambda data: data, documents.LAYER),
    "gzip": (gzip.compress, documents.LAYER_GZIP),
    "bzip2": (bz2.compress, documents.LAYER_ZSTD),
    "xz": (lzma.compress, documents.LAYER_ZSTD),
    "zstd": (
        lambda data: subprocess.run(["zstd"], input=data, capture_output=True, check=True).stdout,
        documents.LAYER_ZSTD,
    ),
}


@pytest.mark.parametrize("name", list(COMPRESSIONS))
def test_an_import_in_any_compression_is_the_same_layer(place: Path, store: Store, name: str) -> None:
    compress, media_type = COMPRESSIONS[name]
    plain = archive(a=b"a" * 100_000, b=b"b")
    packed = compress(plain)
    (place / "a.tar").write_bytes(packed)
    image = store.import_tar(place / "a.tar", "app:1")
    (layer,) = image.layers
    assert layer.diff_id == layer.chain_id == str(Digest.of(plain))
    assert (image.size, layer.unpacked) == (100_001, 100_001)
    (descriptor,) = json.loads(store.manifest(image))["layers"]
    assert (descriptor["mediaType"], descriptor["digest"]) == (media_type, layer.digest)
    blob = store.blobs.read(Digest.parse(layer.digest))
    assert (Digest.of(blob), len(blob)) == (Digest.parse(layer.digest), layer.compressed)
    assert (blob == packed) == (name in ("plain", "gzip", "zstd"))
    assert json.loads(store.config_file(image))["rootfs"]["diff_ids"] == [layer.diff_id]
    assert (store.layer_paths(image)[0] / "b").read_bytes() == b"b"
    assert is_clean(store)


@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_an_import_of_damaged_compressed_data_is_invalid_and_leaves_nothing(
    place: Path, store: Store, name: str
) -> None:
    (place / "a.tar").write_bytes(COMPRESSIONS[name][0](archive(a=os.urandom(3_000_000)))[:2_000_000])
    with pytest.raises(Invalid, match="ends too early"):
        store.import_tar(place / "a.tar", "app")
    assert (files_of(store), is_clean(store)) == (0, True)


def test_an_import_of_what_is_not_there_or_no_file_changes_nothing(place: Path, store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.import_tar(place / "nothing", "app")
    with pytest.raises(IsADirectoryError):
        store.import_tar(place, "app")
    with pytest.raises(Invalid):
        store.import_tar(place / "nothing", "Not A Name")
    assert (files_of(store), is_clean(store)) == (0, True)


def test_a_failed_import_leaves_the_image_that_had_the_name(place: Path, store: Store) -> None:
    before = add(store, "app", archive(a=b"1"))
    (place / "a.tar").write_bytes(b"garbage" * 1000)
    with pytest.raises(Invalid):
        store.import_tar(place / "a.tar", "app")
    assert store.image("app") == before


def test_a_failed_import_leaves_layers_that_another_image_has(store: Store) -> None:
    shared = archive(a=b"1")
    add(store, "app", shared)
    with store.intake() as intake:
        intake.add_layer((shared,))
        intake.add_layer((archive(b=b"2"),))
        assert files_of(store) == 8
    store.empty_trash()
    assert (files_of(store), is_clean(store)) == (5, True)
    assert store.layer_paths(store.image("app"))[0].is_dir()


def test_a_layer_with_another_digest_than_expected_is_invalid_and_leaves_nothing(store: Store) -> None:
    with pytest.raises(Invalid, match="damaged"), store.intake() as intake:
        intake.add_layer((archive(a=b"forged"),), expected=Digest.of(b"wanted"))
    store.empty_trash()
    assert (files_of(store), is_clean(store)) == (0, True)


def test_layers_are_shared_and_go_with_the_last_image(store: Store) -> None:
    base, top = archive(a=b"1"), archive(b=b"22")
    low = add(store, "low", base)
    high = add(store, "high", base, top)
    assert high.layers[0] == low.layers[0]
    assert store.layer_paths(high)[0] == store.layer_paths(low)[0]
    assert high.size == 3
    store.untag("low")
    assert all(path.is_dir() for path in store.layer_paths(high))
    store.untag("high")
    store.empty_trash()
    assert (files_of(store), is_clean(store)) == (0, True)


def test_an_image_on_top_of_another_begins_with_its_layers(store: Store) -> None:
    low = add(store, "low", archive(a=b"1"))
    with store.intake() as intake:
        intake.begin_with(low)
        store.untag("low")
        intake.add_layer((archive(b=b"2"),))
        high = intake.finish(Reference.parse("high"), low.config)
    assert high.layers[0] == low.layers[0]
    assert [os.listdir(path) for path in store.layer_paths(high)] == [["a"], ["b"]]


def test_untag_keeps_layers_that_are_in_use(store: Store) -> None:
    image = add(store, "app", archive(a=b"1"))
    (path,) = store.layer_paths(image)
    keep = frozenset((image.layers[0].chain_id,))
    store.untag("app", keep=keep)
    assert path.is_dir()
    store.collect(keep=keep)
    assert path.is_dir()
    store.collect()
    store.empty_trash()
    assert files_of(store) == 0


def test_layers_that_are_not_unpacked_are_unpacked_from_their_blobs(store: Store) -> None:
    image = add(store, "app", archive(a=b"1"), gzip.compress(archive(b=b"22")))
    top = Digest.parse(image.layers[1].chain_id)
    remove_tree(store.layers.path(top), aside=store.directory / "tmp")
    again = Store(store.directory)
    again.recover()
    assert (again.image("app").size, again.image("app").layers[1].unpacked) == (1, 0)
    with pytest.raises(NotFound, match="is not unpacked"):
        again.layer_paths(again.image("app"))
    assert again.unpack_layers(again.image("app")) == image
    assert (again.layer_paths(image)[1] / "b").read_bytes() == b"22"


def test_a_damaged_blob_is_not_unpacked(store: Store) -> None:
    image = add(store, "app", archive(a=b"1"))
    (layer,) = image.layers
    store.layers.collect(frozenset())
    store.blobs.path(Digest.parse(layer.digest)).write_bytes(archive(a=b"2"))
    with pytest.raises(Invalid, match="damaged"):
        store.unpack_layers(image)
    assert not store.layers.has(Digest.parse(layer.chain_id))


# -- bad moments

_IMPORT_FOREVER = """
import sys
from pathlib import Path
from pydock.overlay.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
for number in range(10**9):
    store.import_tar(Path(sys.argv[2]), f"app:{number % 2}")
    store.tag(f"app:{number % 2}", "other")
    store.untag("other")
    store.collect()
    if number == 1:
        print("going", flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.013, 0.031, 0.057, 0.083])
def test_a_kill_at_any_instant_leaves_each_image_whole_or_absent(place: Path, delay: float) -> None:
    (place / "a.tar").write_bytes(archive(**{f"f{number}": os.urandom(3000) for number in range(200)}))
    command = [sys.executable, "-c", _IMPORT_FOREVER, str(place / "images"), str(place / "a.tar")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        assert worker.stdout.readline() == b"going\n"
        signal.sigtimedwait([], delay)  # the instant is what varies
        worker.kill()
    store = Store(place / "images")
    store.recover()
    store.empty_trash()
    assert is_clean(store)
    for ref in store.references():
        (layer,) = store.layer_paths(store.image(ref))
        assert len(os.listdir(layer)) == 200
        assert store.image(ref).size == 600_000
    needed = {Digest.parse(d) for ref in store.references() for d in (store.image(ref).id, store.image(ref).digest)}
    layers = {Digest.parse(layer.digest) for ref in store.references() for layer in store.image(ref).layers}
    assert {path.name for path in (store.directory / "blobs/sha256").iterdir()} == {d.hex for d in needed | layers}
    store.import_tar(place / "a.tar", "after")
    assert "after:latest" in store.references()


_ON_A_SMALL_DISK = """
set -e
mount -t tmpfs -o size="$4" tmpfs "$1"
exec "$2" -c '
import errno, sys
from pathlib import Path
from pydock.overlay.store import Store
store = Store(Path(sys.argv[1]) / "images")
try:
    store.import_tar(Path(sys.argv[2]), "app")
except OSError as error:
    print(errno.errorcode[error.errno], *store.references())
    print(error, file=sys.stderr)
for name in ("tmp", "trash", "layers", "blobs/sha256"):
    print(*(store.directory / name).iterdir())
' "$1" "$3"
"""


@pytest.mark.parametrize("content", [4 << 20, 2 << 20], ids=["of its blob", "of its files"])
def test_a_full_disk_is_enospc_and_leaves_nothing(place: Path, content: int) -> None:
    (place / "a.tar").write_bytes(archive(a=bytes(range(256)) * (content // 256)))
    (place / "disk").mkdir()
    script = ["unshare", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh"]
    done = subprocess.run(
        [*script, place / "disk", sys.executable, place / "a.tar", "3m"], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["ENOSPC"]


def test_a_bomb_is_refused_before_it_fills_the_disk(place: Path) -> None:
    (place / "a.tar").write_bytes(gzip.compress(archive(zeros=bytes(200 << 20)), 1))
    (place / "disk").mkdir()
    script = ["unshare", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh"]
    done = subprocess.run(
        [*script, place / "disk", sys.executable, place / "a.tar", "100m"], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["ENOSPC"]
    assert "would fill the disk" in done.stderr


def children(pid: int) -> list[int]:
    return [
        int(each) for entry in Path(f"/proc/{pid}/task").iterdir() for each in (entry / "children").read_text().split()
    ]


def unpackers() -> list[int]:
    """The processes that fork unpackers."""
    return [
        pid for pid in children(os.getpid()) if b"pydock.overlay.unpack" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_the_process_that_starts_unpackers_is_there_while_somebody_has_layers(store: Store) -> None:
    with store.layers.unpackers:
        add(store, "one", archive(a=b"1"))
        (first,) = unpackers()
        os.kill(first, signal.SIGKILL)
        while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            pass
        add(store, "two", archive(a=b"2"))
        assert unpackers() != [first]
    assert unpackers() == []


def test_an_unpacker_that_is_killed_is_an_error_and_leaves_nothing(place: Path, store: Store) -> None:
    def stream() -> Iterator[bytes]:
        yield archive(a=bytes(8 << 20))[: 4 << 20]  # more than the pipe holds: it is at work
        for pid in unpackers():
            for child in children(pid):
                os.kill(child, signal.SIGKILL)
        yield bytes(4 << 20)

    with pytest.raises(RuntimeError, match="the unpacker died"), store.intake() as intake:
        intake.add_layer(stream())
    assert (files_of(store), is_clean(store)) == (0, True)


def test_a_source_that_fails_ends_the_unpacker_and_leaves_nothing(store: Store) -> None:
    def stream() -> Iterator[bytes]:
        yield archive(a=b"1")[:1024]
        raise ConnectionResetError("the registry went away")

    with pytest.raises(ConnectionResetError), store.intake() as intake:
        intake.add_layer(stream())
    assert (files_of(store), is_clean(store)) == (0, True)


def test_layers_that_had_not_settled_when_the_power_went_are_unpacked_again(store: Store) -> None:
    image = add(store, "app", archive(a=b"1"))
    (layer,) = store.layer_paths(image)
    (layer / "a").write_bytes(b"")
    ledger = store.directory / "unsettled.json"
    now = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    ledger.write_text(ledger.read_text().replace(now, "another boot"))
    again = Store(store.directory)
    assert again.recover() == ()
    assert again.image("app") == image
    assert (layer / "a").read_bytes() == b"1"


# -- busybox


def test_busybox_is_made_of_the_machine_s_own(store: Store) -> None:
    image = make_busybox(store)
    (root,) = store.layer_paths(image)
    assert image.reference == "busybox:latest"
    assert image.config.command == ("sh",)
    assert image.config.env == ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    done = subprocess.run(["chroot", root, "/bin/sh", "-c", "id -un; /usr/bin/env true && ls /"], capture_output=True)
    assert done.stdout.split()[0] == b"root"
    assert b"tmp" in done.stdout.split()
    assert (root / "bin/ls").stat().st_ino == (root / "bin/busybox").stat().st_ino
    assert stat.S_IMODE((root / "tmp").stat().st_mode) == 0o1777
    assert "nobody:x:65534:65534:" in (root / "etc/passwd").read_text()


def test_busybox_is_the_same_image_each_time(store: Store) -> None:
    first = make_busybox(store)
    assert make_busybox(store) == first
    store.collect()
    store.empty_trash()
    assert files_of(store) == 5


@pytest.mark.parametrize("binary", ["/bin/true", "/etc/passwd", "/nothing/busybox"])
def test_a_busybox_that_will_not_do_names_the_package(store: Store, binary: str) -> None:
    with pytest.raises((Invalid, NotFound), match="install the package busybox-static"):
        make_busybox(store, binary=Path(binary))
    assert files_of(store) == 0


def test_a_static_elf_is_told_from_a_dynamic_one() -> None:
    assert is_static(Path("/bin/busybox").read_bytes())
    assert not is_static(Path("/bin/true").read_bytes())
    with pytest.raises(Invalid):
        is_static(b"\x7fELF\2\1")


# -- images whose documents exist already


def documents_of(store: Store, name: str) -> tuple[bytes, bytes]:
    image = store.image(name)
    return store.manifest(image), store.config_file(image)


def elsewhere(place: Path, source: Store, name: str, *, partial: bool = False, spoil: bool = False) -> Store:
    """Another store, with the blobs of an image's layers and no more."""
    other = Store(place / "other")
    for layer in source.image(name).layers:
        digest = Digest.parse(layer.digest)
        data = source.blobs.read(digest)
        (other.partials if partial else other.blobs).path(digest).write_bytes(b"x" * len(data) if spoil else data)
    return other


@pytest.mark.parametrize("partial", [False, True])
def test_an_image_is_assembled_from_blobs_that_are_there(store: Store, place: Path, partial: bool) -> None:
    add(store, "app", archive(a=b"1"), archive(b=b"2"), archive(c=b"3"))
    other = elsewhere(place, store, "app", partial=partial)
    with other.intake() as intake:
        image = intake.assemble(Reference.parse("app"), *documents_of(store, "app"))
    assert image == store.image("app")
    assert [next(path.iterdir()).name for path in other.layer_paths(image)] == ["a", "b", "c"]
    assert list(other.partials.directory.iterdir()) == []
    other.untag("app")
    assert files_of(other) == 0


def test_a_blob_that_is_not_what_the_config_tells_of_is_invalid(store: Store, place: Path) -> None:
    add(store, "app", archive(a=b"1"))
    other = elsewhere(place, store, "app", spoil=True)
    with other.intake() as intake, pytest.raises(Invalid):
        intake.assemble(Reference.parse("app"), *documents_of(store, "app"))
    assert (other.references(), other.layers.chain_ids(), is_clean(other)) == ((), frozenset(), True)


def test_an_image_whose_blob_is_missing_is_not_assembled(store: Store, place: Path) -> None:
    add(store, "app", archive(a=b"1"), archive(b=b"2"))
    other = elsewhere(place, store, "app")
    other.blobs.path(Digest.parse(store.image("app").layers[1].digest)).unlink()
    with other.intake() as intake, pytest.raises(NotFound, match="has not come"):
        intake.assemble(Reference.parse("app"), *documents_of(store, "app"))
    other.empty_trash()
    assert (other.references(), other.layers.chain_ids(), is_clean(other)) == ((), frozenset(), True)


def test_what_is_not_wanted_any_more_leaves_nothing(store: Store, place: Path) -> None:
    add(store, "app", archive(a=b"1"))
    other, stop = elsewhere(place, store, "app"), threading.Event()
    stop.set()
    with other.intake() as intake, pytest.raises(Aborted):
        intake.assemble(Reference.parse("app"), *documents_of(store, "app"), aborted=stop)
    assert (other.references(), other.layers.chain_ids(), is_clean(other)) == ((), frozenset(), True)


def test_documents_that_do_not_fit_are_invalid(store: Store) -> None:
    add(store, "app", archive(a=b"1"))
    add(store, "app2", archive(a=b"1"), archive(b=b"2"))
    manifest, _ = documents_of(store, "app")
    _, config = documents_of(store, "app2")
    with store.intake() as intake, pytest.raises(Invalid, match="the manifest has 1 layers, but the config tells of 2"):
        intake.assemble(Reference.parse("app3"), manifest, config)
