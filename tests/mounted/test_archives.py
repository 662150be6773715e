"""Archives of images: put into ``images/`` and taken out of it, by the tools that people have, through kills and signals."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
PATIENCE = 100


def layer(ballast: int = 0) -> bytes:
    """busybox as a shell, and so many bytes that don't compress."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
        member = tarfile.TarInfo("ballast")
        member.size = ballast
        tar.addfile(member, io.BytesIO(os.urandom(ballast)))
    return out.getvalue()


def saved(tags: list[str] | None, layers: tuple[bytes, ...]) -> bytes:
    """docker's archive of an image that says hello, with its documents at the end."""
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
    config = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Cmd": ["sh", "-c", "echo hello"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    document = json.dumps(config).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    members = {f"{number}/layer.tar": data for number, data in enumerate(layers)}
    described = [{"Config": name, "RepoTags": tags, "Layers": list(members)}]
    members |= {name: document, "manifest.json": json.dumps(described).encode()}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path, data in members.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of app:1."""
    path = tmp_path_factory.mktemp("archives") / "app.tar"
    path.write_bytes(saved(["app:1"], (layer(),)))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of large:1, of 24 MiB: more than pipes hold."""
    path = tmp_path_factory.mktemp("archives") / "large.tar"
    path.write_bytes(saved(["large:1"], (layer(24 << 20),)))
    return path


@pytest.fixture
def images(engine: Engine) -> Iterator[Path]:
    """``images/``, where only busybox is; what comes is removed again."""
    path = engine.tree / "images"
    yield path
    engine.clear()
    for name in names(path) - {"busybox:latest"}:
        (path / name).rmdir()
    eventually(lambda: os.listdir(engine.root / "images/tmp") == [])  # an index may just be written


def names(images: Path) -> set[str]:
    return set(os.listdir(images)) - {"ctl", "progress"}


def last_error(images: Path) -> str:
    return (images.parent / "errors").read_text().splitlines()[-1]


def pour(fd: int, data: bytes) -> None:
    """Write all of *data*, in pieces."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view[:100_000]) :]


def ends(process: subprocess.Popen[bytes]) -> int:
    return process.wait(PATIENCE)


def eventually(true: Callable[[], bool]) -> None:
    """Wait until what no event tells of is so."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "command",
    [
        "cp {app} .",
        "cp {app} whatever",
        "cp -p {app} x.tar",
        "cp -a {app} x.tar",
        "busybox cp {app} .",
        "cp --sparse=always {app} .",
        "cat {app} > x.tar",
        "busybox cat {app} > x.tar",
        "dd if={app} of=x.tar bs=100k status=none",
        "install -m 600 {app} .",
        "cp {app} {app}.copy; mv {app}.copy .; [ ! -e {app}.copy ]",
        "rsync -a {app} .",
        "rsync --inplace {app} x.tar",
        "tar -C {directory} -c app.tar | tar -x",
        "gzip -c {app} > x.tar.gz",
        "zstd -qc {app} > x",
        "{{ head -c 1000000 {app}; tail -c +1000001 {app}; }} > x.tar",
        "exec 3> x.tar; cat {app} >&3; exec 3>&-",
        'python3 -c \'import shutil; shutil.copyfile("{app}", "x.tar")\'',
        "echo load {app} > ctl",
        "cp {app} busybox",
    ],
)
def test_an_archive_that_is_put_there_is_an_image_when_the_tool_has_ended(
    engine: Engine, images: Path, app: Path, command: str
) -> None:
    script = command.format(app=app, directory=app.parent)
    if command.endswith(" busybox"):  # which is a directory of images, into which no file can be put
        engine.sh(f"cd images; ! {script}")
        assert names(images) == {"busybox:latest"}
        return
    engine.sh(f"cd images; set -e; {script}\n[ -e app:1/id ]; ls > /dev/null")
    assert names(images) == {"busybox:latest", "app:1"}
    assert "image app:1 load" in " ".join(
        f"{event['kind']} {event['name']} {event['action']}"
        for event in map(json.loads, (images.parent / "journal").read_text().splitlines()[-2:])
    )


def test_a_loaded_image_runs(images: Path, app: Path, engine: Engine, make: Make) -> None:
    engine.sh(f"cp {app} images/")
    c = make(image="app:1")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "hello\n"


def test_an_image_without_a_name_gets_the_file_s(images: Path, engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(saved(None, (layer(),)))
    engine.sh(f"cp {tmp_path}/x images/web-2.tar; rsync {tmp_path}/x images/api:3.tar")
    assert names(images) == {"busybox:latest", "web-2:latest", "api:3"}
    engine.sh(f"! cp {tmp_path}/x images/Web.tar 2> /dev/null")
    assert "has no name, and 'Web.tar' is none" in last_error(images)


BAD: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "damaged": lambda data: data[:9000] + b"damaged" + data[9007:],
    "no archive": lambda data: b"hello\n",
    "empty": lambda data: b"",
    "a root file system": lambda data: layer(),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize(
    "tool",
    ["cp {} images/", "busybox cp {} images/", "dd if={} of=images/bad status=none", "echo load {} > images/ctl"],
)
def test_a_bad_archive_fails_the_tool_and_leaves_nothing(
    engine: Engine, images: Path, app: Path, tmp_path: Path, what: str, tool: str
) -> None:
    bad = tmp_path / "bad"
    bad.write_bytes(BAD[what](app.read_bytes()))
    count = len((images.parent / "errors").read_text().splitlines())
    engine.sh(f"! {tool.format(bad)} 2> /dev/null")
    assert names(images) == {"busybox:latest"}
    assert not (images / "bad").exists()
    assert len((images.parent / "errors").read_text().splitlines()) == min(count + 1, 64)  # told once
    assert " images " in last_error(images)
    assert ("import PATH REFERENCE" in last_error(images)) == (what == "a root file system")


def test_a_fault_at_the_beginning_fails_a_write(images: Path, large: Path) -> None:
    fd = os.open(images / "x.tar", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(OSError, match="Invalid") as refused:
            pour(fd, b"no tar" * 10_000_000)
        assert refused.value.errno == errno.EINVAL
        words = last_error(images)
        assert "not a tar archive" in words
        with pytest.raises(OSError, match="Invalid"):
            os.write(fd, b"more")
    finally:
        os.close(fd)
    assert last_error(images) == words


def test_only_what_comes_in_order_is_taken(images: Path, app: Path) -> None:
    data = app.read_bytes()
    fd = os.open(images / "x.tar", os.O_RDWR | os.O_CREAT)
    assert os.pwrite(fd, data[:10000], 0) == 10000
    with pytest.raises(OSError, match="Illegal seek") as refused:
        os.pwrite(fd, data[:10], 5000)
    assert refused.value.errno == errno.ESPIPE
    with pytest.raises(OSError, match="Invalid"):
        os.ftruncate(fd, 100)
    with pytest.raises(OSError, match="Invalid"):
        os.read(fd, 10)
    assert os.fstat(fd).st_size == 10000
    assert os.pwrite(fd, data[10000:], 10000) == len(data) - 10000
    os.ftruncate(fd, len(data) + 20000)
    os.fchmod(fd, 0o640)
    os.utime(fd, ns=(1, 1))
    os.close(fd)
    assert names(images) == {"busybox:latest", "app:1"}


def test_a_hole_is_zeros(images: Path, engine: Engine, tmp_path: Path) -> None:
    data = saved(["app:1"], (layer() + bytes(4 << 20),))
    with open(tmp_path / "sparse.tar", "wb") as file:
        for at in range(0, len(data), 4096):
            if any(data[at : at + 4096]):
                os.pwrite(file.fileno(), data[at : at + 4096], at)
        os.ftruncate(file.fileno(), len(data))
    engine.sh(f"cp --sparse=always {tmp_path}/sparse.tar images/")
    assert names(images) == {"busybox:latest", "app:1"}


@pytest.mark.parametrize("name", [".x.tar", "x.tar~", "#x#", "4913"])
def test_scratch_files_have_no_place_there(images: Path, name: str) -> None:
    with pytest.raises(PermissionError):
        (images / name).write_bytes(b"x")
    assert "scratch" in last_error(images)


def test_what_is_there_can_t_be_unlinked(images: Path) -> None:
    with pytest.raises(PermissionError):
        (images / "ctl").unlink()
    with pytest.raises(IsADirectoryError):
        (images / "busybox:latest").unlink()


def test_two_archives_at_once(images: Path, app: Path, large: Path) -> None:
    copies = [subprocess.Popen(["cp", path, images / str(at)]) for at, path in enumerate((app, large, app, large))]
    assert [ends(copy) for copy in copies] == [0] * 4
    assert names(images) == {"busybox:latest", "app:1", "large:1"}


def test_two_archives_under_one_name(images: Path, app: Path, large: Path) -> None:
    # cat, as cp fails when the name comes between its look and its open
    copies = [subprocess.Popen(["sh", "-c", f"cat {path} > {images}/x"]) for path in (app, large)]
    assert [ends(copy) for copy in copies] == [0] * 2
    assert names(images) == {"busybox:latest", "app:1", "large:1"}


# who waits, and who is killed


def stopped_reader(engine: Engine) -> int:
    """The process that reads the archive which is on its way, and stands still from now on; 0 when there is none."""
    assert engine.process is not None
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"pydock.overlay.members" not in (entry / "cmdline").read_bytes():
                continue
            if f"PPid:\t{engine.process.pid}\n" not in (entry / "status").read_text():
                continue
            os.kill(int(entry.name), signal.SIGSTOP)
            while (state := (entry / "stat").read_text().rpartition(")")[2].split()[0]) not in "TZX":
                os.sched_yield()
            if state == "T":
                return int(entry.name)
    return 0


@contextlib.contextmanager
def caught(engine: Engine, *command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that brings an archive, whose reader stands still within; another one where it was quicker than we are."""
    reader = 0
    while not reader:
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reader:
            reader = stopped_reader(engine)
        if not reader:
            assert process.returncode == 0
            for name in names(engine.tree / "images") - {"busybox:latest"}:
                (engine.tree / "images" / name).rmdir()
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(reader, signal.SIGCONT)


def test_a_writer_waits_for_the_reader_or_is_told_so(engine: Engine, images: Path, large: Path) -> None:
    data = large.read_bytes()
    fd = os.open(images / "x.tar", os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
    os.write(fd, data[:1000])
    found: list[int] = []
    eventually(lambda: found.append(stopped_reader(engine)) or found[-1] > 0)
    try:
        with pytest.raises(BlockingIOError):
            pour(fd, data[1000:])
    finally:
        os.kill(found[-1], signal.SIGCONT)
    done = os.fstat(fd).st_size
    assert 1000 < done < len(data)
    os.set_blocking(fd, True)
    pour(fd, data[done:])
    os.close(fd)
    assert names(images) == {"busybox:latest", "large:1"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_writer_that_waits_ends_with_its_signal_and_leaves_nothing(
    engine: Engine, images: Path, large: Path, number: signal.Signals
) -> None:
    with caught(engine, "cp", large, images) as copy:
        eventually(lambda: Path(f"/proc/{copy.pid}/wchan").read_text() == "request_wait_answer")
        copy.send_signal(number)
        assert ends(copy) == -number
    eventually(lambda: names(images) == {"busybox:latest"} and os.listdir(engine.root / "images/tmp") == [])


def test_a_close_that_waits_ends_with_its_signal(engine: Engine, images: Path, app: Path) -> None:
    with caught(engine, "dd", f"if={app}", f"of={images}/x.tar", "bs=300000", "status=none") as copy:
        eventually(lambda: Path(f"/proc/{copy.pid}/wchan").read_text() == "request_wait_answer")
        copy.kill()
        assert ends(copy) == -signal.SIGKILL
    eventually(lambda: names(images) == {"busybox:latest"} and os.listdir(engine.root / "images/tmp") == [])


def test_a_load_by_ctl_ends_with_its_signal_and_leaves_nothing(engine: Engine, images: Path, large: Path) -> None:
    with caught(engine, "sh", "-c", f"echo load {large} > {images}/ctl; exit") as shell:
        shell.kill()
        assert ends(shell) == -signal.SIGKILL
    eventually(lambda: os.listdir(engine.root / "images/tmp") == [])
    assert names(images) == {"busybox:latest"}


def test_an_engine_that_is_killed_fails_the_copy_and_has_a_clean_store_at_the_next_start(
    own_engine: Engine, large: Path
) -> None:
    images = own_engine.tree / "images"
    before = sorted(str(path) for path in (own_engine.root / "images/blobs").rglob("*"))
    with caught(own_engine, "cp", large, images) as copy:
        eventually(lambda: Path(f"/proc/{copy.pid}/wchan").read_text() == "request_wait_answer")
        own_engine.kill()
        assert ends(copy) == 1
    own_engine.start()
    assert names(images) == {"busybox:latest"}
    assert sorted(str(path) for path in (own_engine.root / "images/blobs").rglob("*")) == before
    assert os.listdir(own_engine.root / "images/tmp") == []
    own_engine.sh(f"cp {large} images/")
    assert names(images) == {"busybox:latest", "large:1"}


def test_a_full_disk_is_enospc_and_leaves_nothing(small_engine: Engine, large: Path) -> None:
    small_engine.sh(f"! cp {large} images/ 2> said; grep -q 'No space left' said", check=False)
    done = subprocess.run(["cp", large, small_engine.tree / "images"], capture_output=True, text=True, check=False)
    assert "No space left" in done.stderr
    assert names(small_engine.tree / "images") == {"busybox:latest"}
    assert os.listdir(small_engine.root / "images/tmp") == []


# commands


def say(images: Path, command: str) -> str:
    """What the descriptor that wrote a command reads."""
    fd = os.open(images / "ctl", os.O_RDWR)
    try:
        with contextlib.suppress(OSError):
            os.write(fd, command.encode())
        return os.read(fd, 4096).decode()
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("load {app}", "loaded app:1"),
        ("load", "load takes one word"),
        ("load app.tar", "absolute"),
        ("load /nowhere", "does not exist"),
        ("load /etc", "is not a file"),
        ("load /dev/null", "is not a file"),
        ("load {tree}/README", "leads into the mount"),
        ("prune now", "prune takes no arguments"),
    ],
)
def test_load_says_what_came_of_it(images: Path, app: Path, command: str, words: str) -> None:
    assert words in say(images, command.format(app=app, tree=images.parent))


def test_prune_removes_what_no_container_uses(own_engine: Engine, app: Path) -> None:
    images = own_engine.tree / "images"
    own_engine.sh(f"cp {app} images/; mkdir containers/c; echo busybox > containers/c/image")
    assert say(images, "prune") == "removed 1 image\n"
    assert names(images) == {"busybox:latest"}
    assert say(images, "prune") == "removed 0 images\n"


# going out


@pytest.mark.parametrize(
    "command",
    [
        "cp {archive} {out}",
        "cp -p {archive} {out}",
        "busybox cp {archive} {out}",
        "cat {archive} > {out}",
        "busybox cat {archive} > {out}",
        "dd if={archive} of={out} bs=7777 status=none",
        "dd if={archive} of={out} bs=1M status=none",
        "rsync {archive} {out}",
        "head -c 70000 {archive} > {out}; dd if={archive} of={out} bs=1000 skip=70 seek=70 status=none",
        "tail -c +1 {archive} > {out}",
        "tar -c {archive} -O | tar -xO > {out}",
        "socat -u OPEN:{archive} CREATE:{out}",
        'python3 -c \'import shutil; shutil.copyfile("{archive}", "{out}")\'',
        'python3 -c \'import mmap, os; m = mmap.mmap(os.open("{archive}", 0), 0, mmap.MAP_PRIVATE); open("{out}", "wb").write(m)\'',
    ],
)
def test_an_archive_is_read_by_any_tool_and_always_the_same(
    engine: Engine, images: Path, tmp_path: Path, command: str
) -> None:
    archive = images / "busybox:latest/archive.tar"
    whole = archive.read_bytes()
    assert archive.stat().st_size == len(whole)
    out = tmp_path / "out"
    # GNU tar and rsync take a colon for a host's
    engine.sh("cd images/busybox:latest; " + command.format(archive="archive.tar", out=out))
    assert out.read_bytes() == whole


def test_sendfile_and_many_readers(images: Path, engine: Engine, tmp_path: Path, large: Path) -> None:
    engine.sh(f"cp {large} images/")
    archive = images / "large:1/archive.tar"
    whole = archive.read_bytes()
    found: list[bytes] = []

    def read(number: int) -> None:
        out = tmp_path / str(number)
        with archive.open("rb") as source, out.open("wb") as sink:
            while os.sendfile(sink.fileno(), source.fileno(), None, 999_999 + number):
                pass
        found.append(out.read_bytes())

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert found == [whole] * 4


def test_an_open_archive_outlives_its_image(images: Path, engine: Engine, app: Path) -> None:
    engine.sh(f"cp {app} images/")
    with (images / "app:1/archive.tar").open("rb") as file:
        begin = file.read(100_000)
        (images / "app:1").rmdir()
        engine.sh("echo gc > ctl")
        whole = begin + file.read()
    assert len(whole) > 100_000
    (images / "x.tar").write_bytes(whole)
    assert names(images) == {"busybox:latest", "app:1"}


def test_an_archive_follows_its_reference(images: Path, engine: Engine, app: Path, large: Path) -> None:
    engine.sh(f"cp {app} images/; cp {large} images/")
    sizes = {name: (images / name / "archive.tar").stat().st_size for name in ("app:1", "large:1")}
    assert sizes["app:1"] < 24 << 20 < sizes["large:1"]
    engine.sh("echo tag app:1 > images/large:1/ctl; echo tag large:1 > images/large:1/ctl", check=False)
    assert (images / "app:1/archive.tar").stat().st_size == sizes["large:1"]
    assert len((images / "app:1/archive.tar").read_bytes()) == sizes["large:1"]


def test_an_image_goes_from_tree_to_tree(images: Path, engine: Engine, own_engine: Engine, app: Path) -> None:
    engine.sh(f"cp {app} images/; cp images/app:1/archive.tar {own_engine.tree}/images/")
    theirs = own_engine.tree / "images/app:1"
    assert (theirs / "id").read_text() == (images / "app:1/id").read_text()
    assert (theirs / "digest").read_text() == (images / "app:1/digest").read_text()
    assert (theirs / "archive.tar").read_bytes() == (images / "app:1/archive.tar").read_bytes()
