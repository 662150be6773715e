"""Roots that are not what they should be: links, files, FIFOs and devices where directories and files are expected.

Whatever an image holds, a start and an exec either work, confined, or fail with words; nothing hangs, and nothing outside is touched.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Plant = Callable[[Path], None]
CANARY = Path(tempfile.gettempdir(), f"pydock-canary-{secrets.token_hex(4)}")

#: What a start or an exec may fail with; anything else is a fault of ours, or a hang.
REFUSALS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EROFS}
PLACES = ["proc", "sys", "dev", "run", "etc", "etc/passwd", "etc/group", "etc/hosts", "dev/pts"]
SHAPES: dict[str, Plant] = {
    "a-link-out": lambda path: path.symlink_to(f"../../../../../../../..{CANARY}/outside"),
    "a-link-to-the-root": lambda path: path.symlink_to("/"),
    "a-link-to-itself": lambda path: path.symlink_to(path.name),
    "a-magic-link": lambda path: path.symlink_to("/proc/self/fd/3"),
    "a-file": lambda path: path.write_bytes(b"root:x:0:0::/:\n\xff\0"),
    "a-huge-file": lambda path: path.write_bytes(b"x" * (8 << 20)),
    "a-fifo": os.mkfifo,
    "an-endless-device": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5)),
    "a-device-that-is-not-there": lambda path: os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(240, 77)),
    "a-disk": lambda path: os.mknod(path, 0o666 | stat.S_IFBLK, os.makedev(7, 0)),
    "a-socket": lambda path: os.mknod(path, 0o666 | stat.S_IFSOCK),
}


@pytest.fixture
def canary() -> Iterator[Path]:
    """A place of the machine that links lead to."""
    (CANARY / "outside").mkdir(parents=True)
    yield CANARY
    shutil.rmtree(CANARY)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory that can be an image: a shell and its programs."""
    made = tmp_path / "root"
    (made / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", made / "bin/busybox")
    for name in ("sh", "sleep", "cat", "id", "ls", "true"):
        (made / "bin" / name).symlink_to("busybox")
    for name in ("etc", "proc", "sys", "dev", "run", "tmp"):
        (made / name).mkdir()
    (made / "etc/passwd").write_text("nobody:x:65534:65534::/:\n")
    (made / "etc/group").write_text("nobody:x:65534:\n")
    return made


def plant(root: Path, place: str, shape: Plant) -> None:
    """Put *shape* in the *place*."""
    path = root / place
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
    shape(path)


def outcome(path: Path, text: str) -> int:
    """The errno of a write, 0 when it is taken."""
    try:
        path.write_text(text)
    except OSError as error:
        return error.errno or -1
    return 0


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def go_through(c: Path) -> tuple[int, int, int]:
    """A whole life of *c*; what start, exec and a secret said."""
    before = mounts()
    started = outcome(c / "ctl", "start")
    assert bool(started) == bool((c / "error").read_text())
    executed = shown = -1
    if not started:
        assert (c / "processes").read_text().count("sleep 1000") == 1
        (c / "exec/x").mkdir()
        (c / "exec/x/command").write_text("true")
        (c / "exec/x/tty").write_text("1")
        executed = outcome(c / "exec/x/ctl", "start")
        assert bool(executed) == bool((c / "exec/x/error").read_text())
        if not executed:
            assert (c / "exec/x/wait").read_text() == "0\n"
        shown = outcome(c / "secrets/key", "value")
        assert outcome(c / "ctl", "kill") == 0
        assert (c / "wait").read_text() == "137\n"
    assert (c / "changes").read_text() is not None
    c.rmdir()
    assert mounts() == before
    return started, executed, shown


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("place", PLACES)
def test_a_root_works_or_fails_with_words(
    make: Callable[..., Path], canary: Path, root: Path, place: str, shape: str
) -> None:
    plant(root, place, SHAPES[shape])
    c = make(image=str(root), command="sleep 1000", user="nobody:nobody")
    said = go_through(c)
    assert {each for each in said if each > 0} <= REFUSALS
    assert [str(path.relative_to(canary)) for path in canary.rglob("*")] == ["outside"]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_image_that_was_imported_is_treated_alike(
    engine: Engine, make: Callable[..., Path], canary: Path, root: Path, shape: str
) -> None:
    for place in ("etc/passwd", "etc/hosts", "run"):
        plant(root, place, SHAPES[shape])
    archive = root.with_suffix(".tar")
    subprocess.run(["tar", "cf", archive, "--exclude=etc/hosts/*", "-C", root, "."], check=True, stderr=subprocess.PIPE)
    (engine.tree / "images/ctl").write_text(f"import {archive} hostile:1")
    try:
        c = make(image="hostile:1", command="sleep 1000")
        said = go_through(c)
    finally:
        (engine.tree / "images/hostile:1").rmdir()
    assert {each for each in said if each > 0} <= REFUSALS
    assert [str(path.relative_to(canary)) for path in canary.rglob("*")] == ["outside"]


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_a_link_where_the_kernel_s_files_belong_is_said_to_be_one(
    make: Callable[..., Path], root: Path, place: str
) -> None:
    plant(root, place, SHAPES["a-link-to-the-root"])
    c = make(image=str(root), command="true")
    assert outcome(c / "ctl", "start") == errno.ELOOP
    assert f"{place} is a symlink in the image" in (c / "error").read_text()
