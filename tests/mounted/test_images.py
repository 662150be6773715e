"""Images: imported, looked at, used, renamed, removed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
REFERENCE = "team.example/app/mine:1"


def write(path: Path, text: str) -> int:
    """The errno of writing *text*; 0 when it is taken."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A root file system: busybox as a shell, and a file of somebody else's."""
    path = tmp_path / "rootfs.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add("/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(link)
        owned = tarfile.TarInfo("data/owned")
        owned.uid, owned.gid, owned.mode, owned.size = 1234, 4321, 0o4750, 3
        tar.addfile(owned, io.BytesIO(b"hi\n"))
    return path


@pytest.fixture
def image(engine: Engine, archive: Path) -> Iterator[Path]:
    """The archive as an image."""
    (engine.tree / "images/ctl").write_text(f"import {archive} {REFERENCE}\n")
    path = engine.tree / "images" / REFERENCE
    yield path
    engine.clear()
    if path.exists():
        path.rmdir()
    for directory in (path.parent, path.parent.parent):  # they are plain ones, and stay
        if directory.exists():
            directory.rmdir()


def test_an_imported_image_is_found_at_its_reference_and_runs(image: Path, tree: Path, make: Make) -> None:
    assert (image / "id").read_text().startswith("sha256:")
    assert int((image / "size").read_text()) > 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z\n", (image / "created").read_text())
    c = make(image=REFERENCE, command="""sh -c 'busybox stat -c "%u %g %a" /data/owned'""")
    assert (c / "image").read_text() == f"{REFERENCE}\n"
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "1234 4321 4750\n"


def test_an_image_in_use_can_t_be_removed_and_the_user_is_named(image: Path, tree: Path, make: Make) -> None:
    make("user-of-it", image=REFERENCE)
    with pytest.raises(OSError, match="busy") as refused:
        image.rmdir()
    assert refused.value.errno == errno.EBUSY
    assert "user-of-it" in (tree / "errors").read_text().splitlines()[-1]
    assert "user-of-it" in (image / "error").read_text()
    (image / "ctl").write_text("tag other/name:3")
    assert (image / "error").read_text() == ""
    (tree / "images/other/name:3").rmdir()
    (tree / "images/other").rmdir()


def test_a_container_with_a_writable_layer_does_not_mind_a_renamed_image(image: Path, make: Make) -> None:
    c = make(image=REFERENCE, command="sh -c :")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    renamed = image.with_name("mine:2")
    image.rename(renamed)
    try:
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n"
    finally:
        renamed.rename(image)


def test_a_container_knows_a_renamed_image_by_its_new_name(image: Path, tree: Path, make: Make) -> None:
    c = make("user", image=REFERENCE, command="sh -c :")
    renamed = image.with_name("mine")
    image.rename(renamed)
    try:
        assert (c / "image").read_text() == "team.example/app/mine:latest\n"
        assert 'image = "team.example/app/mine:latest"' in (c / "spec.toml").read_text()
        assert os.listdir(renamed / "containers") == ["user"]
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n"
    finally:
        renamed.rename(image)
    assert (c / "image").read_text() == f"{REFERENCE}\n"


def test_a_further_name_does_not_take_an_image_from_who_uses_it(image: Path, tree: Path, make: Make) -> None:
    further = tree / "images/further:1"
    further.symlink_to(REFERENCE)
    try:
        c = make("user-of-it", image=REFERENCE, command="sh -c :")
        assert os.listdir(further / "containers") == ["user-of-it"]
        with pytest.raises(OSError, match="busy"):
            image.rmdir()
        assert "user-of-it" in (image / "error").read_text()
    finally:
        further.rmdir()
    with pytest.raises(OSError, match="busy"):
        image.rmdir()
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"


def test_an_image_is_found_by_the_digest_of_its_tag(image: Path, tree: Path, make: Make) -> None:
    digest = (image / "digest").read_text().strip()
    name = REFERENCE.partition(":")[0]
    c = make("user", image=f"{name}@{digest}", command="sh -c :")
    with pytest.raises(OSError, match="busy"):
        image.rmdir()
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert write(c.parent / "user/image", f"{name}@sha256:{'0' * 64}") == errno.ENOENT


@pytest.mark.parametrize(
    "name",
    [
        "busybox",
        "library/busybox",
        "docker.io/busybox:latest",
        "docker.io/library/busybox:latest",
        "index.docker.io/library/busybox",
    ],
)
def test_the_longer_forms_of_a_reference_are_found_and_not_listed(tree: Path, name: str) -> None:
    images = tree / "images"
    assert (images / name / "id").read_text() == (images / "busybox:latest/id").read_text()
    assert name.partition("/")[0] not in os.listdir(images)


def test_its_rootfs_is_read_only_and_leads_nowhere_else(image: Path) -> None:
    rootfs = image / "rootfs"
    assert (rootfs / "data/owned").read_text() == "hi\n"
    with pytest.raises(OSError, match="Read-only"):
        (rootfs / "data/new").touch()
    with pytest.raises(OSError, match="symbolic links"):
        (rootfs / "bin/sh").read_bytes()


def test_what_tells_of_an_image_is_as_old_as_its_tag_also_after_another_mount(
    own_engine: Engine, archive: Path, tmp_path: Path
) -> None:
    images = own_engine.tree / "images"
    (images / "ctl").write_text(f"import {archive} app:1\n")
    stamp = time.time_ns()

    def times() -> dict[str, int]:
        """Of all that is below it, the target of rootfs aside."""
        top = images / "app:1"
        found = {".": top, **{path.name: path for path in top.iterdir()}}
        return {name: path.lstat().st_mtime_ns for name, path in found.items()}

    before = times()
    assert {"id", "layers", "config.json", "archive.tar", "containers", "rootfs"} <= before.keys()
    assert max(before.values()) <= stamp
    own_engine.umount()
    own_engine.start()
    assert times() == before
    with pytest.raises(PermissionError):
        os.utime(images / "app:1/id")
    (tmp_path / "id").symlink_to(images / "app:1/id")  # make has an opinion on colons
    (tmp_path / "Makefile").write_text("made: id\n\tcp $< $@\n")
    make_it = ["make", "-s", "-C", tmp_path]
    subprocess.run(make_it, check=True)
    assert subprocess.run([*make_it, "-q"], check=False).returncode == 0
    own_engine.umount()
    own_engine.start()
    assert subprocess.run([*make_it, "-q"], check=False).returncode == 0
    (images / "ctl").write_text(f"import {archive} other\n")
    images.joinpath("app:1/ctl").write_text("tag mine")
    assert times() == before
    tarfile.open(tmp_path / "empty.tar", "w").close()
    (images / "ctl").write_text(f"import {tmp_path}/empty.tar app:1\n")
    assert subprocess.run([*make_it, "-q"], check=False).returncode == 1
    assert {name for name, time in times().items() if time <= stamp} <= {"error"}


def test_no_tag_is_latest(tree: Path) -> None:
    assert (tree / "images/busybox/id").read_text() == (tree / "images/busybox:latest/id").read_text()
    assert "busybox" not in os.listdir(tree / "images")


def test_the_directories_of_a_reference_are_plain_ones(tree: Path) -> None:
    made = tree / "images/registry.example/team"
    made.mkdir(parents=True)
    made.rmdir()
    made.parent.rmdir()
    assert not made.parent.exists()


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("import /nowhere x:1", errno.ENOENT),
        ("import /etc/passwd x:1", errno.EINVAL),
        ("import relative x:1", errno.EINVAL),
        ("import /etc/passwd Bad//Name", errno.EINVAL),
        ("import /etc/passwd", errno.EINVAL),
        ("frobnicate", errno.EINVAL),
    ],
)
def test_a_refused_command_leaves_no_image(tree: Path, command: str, number: int) -> None:
    before = sorted(os.listdir(tree / "images"))
    seen = (tree / "errors").read_text()
    assert write(tree / "images/ctl", command) == number
    assert (tree / "errors").read_text() != seen
    assert sorted(os.listdir(tree / "images")) == before


def test_a_path_inside_the_mount_is_refused(tree: Path) -> None:
    assert write(tree / "images/ctl", f"import {tree}/version x:1") == errno.EINVAL


def test_a_name_that_is_given_has_no_digest(tree: Path, archive: Path) -> None:
    false = f"x@sha256:{'0' * 64}"
    assert write(tree / "images/ctl", f"import {archive} {false}") == errno.EINVAL
    assert write(tree / "images/busybox/ctl", f"tag {false}") == errno.EINVAL
    with pytest.raises(OSError, match="Invalid argument"):
        (tree / "images" / false).symlink_to("busybox")
    assert not (tree / "images" / false).exists()


def test_what_is_no_plain_file_is_not_imported(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert write(tree / "images/ctl", f"import {tmp_path}/fifo x:1") == errno.EINVAL


def test_a_signal_ends_an_import(tree: Path, tmp_path: Path) -> None:
    big = tmp_path / "big.tar"
    with open(big, "wb") as file:
        member = tarfile.TarInfo("zeros")
        member.size = 20 << 30
        file.write(member.tobuf())
        file.truncate(512 + member.size)
    with subprocess.Popen(["sh", "-c", f"echo 'import {big} big:1' > {tree}/images/ctl"]) as writer:
        while not list((tree.parent / "root/images/tmp").iterdir()):
            assert writer.poll() is None
        writer.terminate()
        assert writer.wait(10) == -signal.SIGTERM
    assert not (tree / "images/big:1").exists()


def test_a_directory_is_an_image_and_stays_as_it_was(make: Make, archive: Path, tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    lower.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", lower], check=True)
    before = sorted(os.listdir(lower))
    c = make(image=str(lower), command="sh -c 'echo new > /new'")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "rootfs/new").read_text() == "new\n"
    assert sorted(os.listdir(lower)) == before


def test_prune_removes_what_nobody_uses(own_engine: Engine, archive: Path) -> None:
    tree = own_engine.tree
    (tree / "images/ctl").write_text(f"import {archive} {REFERENCE}")
    (tree / "containers/c").mkdir()
    (tree / "containers/c/image").write_text("busybox")
    assert (tree / "images" / REFERENCE / "id").exists()
    (tree / "ctl").write_text("prune images")
    assert not (tree / "images" / REFERENCE).exists()
    assert (tree / "images/busybox:latest").exists()
    (tree / "images/further:1").symlink_to("busybox")
    (tree / "ctl").write_text("prune images")
    assert (tree / "images/further:1/containers/c").exists()
    assert (tree / "images/busybox:latest").exists()


FILES = {
    "architecture": "amd64|arm64",
    "os": "linux",
    "command": "sh",
    "env": "PATH=/[^\n]*",
    "digest": "sha256:[0-9a-f]{64}",
    "layers": r"sha256:[0-9a-f]{64} [1-9]\d* [1-9]\d*",
    "history": r"[1-9]\d* \d{4}-\d\d-\d\dT\S+Z made from \S+",
    "waste": "0 total",
    **dict.fromkeys(["author", "entrypoint", "workdir", "user", "ports", "volumes", "labels", "healthcheck"], ""),
}


@pytest.mark.parametrize("name", FILES)
def test_what_an_image_is_made_of_is_in_its_files(tree: Path, name: str) -> None:
    assert re.fullmatch(f"(?:(?:{FILES[name]})\n)?", (tree / "images/busybox" / name).read_text())


def test_the_documents_are_those_of_the_digests(tree: Path) -> None:
    image = tree / "images/busybox:latest"
    for name, document in (("id", "config.json"), ("digest", "manifest.json")):
        digest = hashlib.sha256((image / document).read_bytes()).hexdigest()
        assert (image / name).read_text() == f"sha256:{digest}\n"


@pytest.fixture
def untagged(tree: Path) -> Iterator[None]:
    """Takes away further names of busybox's afterwards."""
    yield
    for reference in ("further:1", "further:latest", "further.example/team/app:7", "further.example/team/app:8"):
        if (tree / "images" / reference).exists():
            (tree / "images" / reference).rmdir()
    for directory in ("further.example/team", "further.example"):
        if (tree / "images" / directory).exists():
            (tree / "images" / directory).rmdir()


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize(
    ("target", "name", "reference"),
    [
        ("busybox:latest", "further:1", "further:1"),
        ("busybox", "further:1", "further:1"),
        ("../images/busybox", "further", "further:latest"),
        ("/anywhere/images/busybox:latest", "further.example/team/app:7", "further.example/team/app:7"),
    ],
)
def test_ln_minus_s_tags(tree: Path, target: str, name: str, reference: str) -> None:
    new = tree / "images" / name
    new.parent.mkdir(parents=True, exist_ok=True)
    new.symlink_to(target)
    assert (new / "id").read_text() == (tree / "images/busybox/id").read_text()
    assert (tree / "images" / reference).is_dir()
    with pytest.raises(FileExistsError):
        new.symlink_to(target)
    (tree / "images" / reference).rmdir()
    assert not new.exists()


@pytest.mark.usefixtures("untagged")
@pytest.mark.parametrize("target", ["./app:7", "app:7", "../team/app:7", "../../further.example/team/app:7"])
def test_a_relative_target_is_the_image_beside(image: Path, tree: Path, target: str) -> None:
    team = tree / "images/further.example/team"
    team.mkdir(parents=True)
    (team / "app:7").symlink_to(REFERENCE)
    other = tree / "images/app:7"
    other.symlink_to("busybox")
    try:
        (team / "app:8").symlink_to(target)
        assert (team / "app:8/id").read_text() == (image / "id").read_text()
    finally:
        other.rmdir()


@pytest.mark.parametrize(
    ("target", "name", "number"),
    [
        ("no-such-image", "further:1", errno.ENOENT),
        ("busybox", "Upper:1", errno.EINVAL),
        ("busybox", "further:latest@x", errno.EINVAL),
        ("", "further:1", errno.ENOENT),
    ],
)
def test_what_can_t_be_tagged_is_refused(tree: Path, target: str, name: str, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        (tree / "images" / name).symlink_to(target)


@pytest.mark.usefixtures("untagged")
def test_the_command_tag_gives_a_further_name(tree: Path) -> None:
    assert write(tree / "images/busybox/ctl", "tag further:1") == 0
    assert (tree / "images/further:1/id").read_text() == (tree / "images/busybox/id").read_text()
    assert write(tree / "images/busybox/ctl", "tag") == errno.EINVAL
    assert write(tree / "images/busybox/ctl", "tag A:B:C") == errno.EINVAL


def test_its_containers_are_linked(make: Make, tree: Path) -> None:
    c = make("user")
    link = tree / "images/busybox:latest/containers/user"
    assert (link / "id").read_text() == (c / "id").read_text()
    (c / "image").write_text("/usr")
    assert not link.exists()


def test_a_directory_that_holds_the_engine_s_own_is_an_image(engine: Engine, make: Make) -> None:
    """Layers may not overlap: the one with the places to mount on is left out."""
    program = engine.directory / "bin/true"
    program.parent.mkdir()
    try:
        shutil.copy("/bin/busybox", program)
        c = make(image=str(engine.directory), command="/bin/true")
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n"
    finally:
        shutil.rmtree(program.parent)
