"""Paths that people write: what leads into the mount is known before anybody looks there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.paths import checked_source, places_of, read_plain


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """Stands for the mount: nothing of the tests may look at it."""
    place = tmp_path / "mnt"
    place.mkdir()
    (place / "inside").mkdir()
    return place


LEADS = {
    "itself": "{mnt}",
    "below": "{mnt}/inside",
    "slashes": "{mnt}//inside/",
    "dots": "{top}/other/../mnt",
    "dots-from-within": "{top}/other/.//../mnt/inside",
    "link": "{top}/link",
    "link-to-link": "{top}/links",
    "relative-link": "{top}/relative",
    "link-on-the-way": "{top}/link/inside",
    "link-with-dots": "{top}/dots",
}


@pytest.mark.parametrize("path", LEADS.values(), ids=LEADS)
def test_a_source_that_leads_into_the_mount_is_invalid(tmp_path: Path, mount: Path, path: str) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(mount)
    (tmp_path / "links").symlink_to(tmp_path / "link")
    (tmp_path / "relative").symlink_to("mnt/inside")
    (tmp_path / "dots").symlink_to("other/../mnt")
    with pytest.raises(Invalid, match="into the mount itself"):
        checked_source(path.format(mnt=mount, top=tmp_path), outside=str(mount))


@pytest.mark.parametrize("path", ["{top}/file", "{top}/beside", "{top}/mnt2", "{top}/away", "/", "/etc"])
def test_a_source_beside_the_mount_is_taken(tmp_path: Path, mount: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "beside").mkdir()
    (tmp_path / "mnt2").mkdir()
    (tmp_path / "away").symlink_to("/usr")
    text = path.format(top=tmp_path)
    assert checked_source(text, outside=str(mount)) == text


@pytest.mark.parametrize("path", ["{top}/nope", "{top}/file/x", "{top}/dangling", "{top}/file/../file"])
def test_a_source_that_does_not_exist_is_not_found(tmp_path: Path, mount: Path, path: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(NotFound):
        checked_source(path.format(top=tmp_path), outside=str(mount))


def test_a_loop_of_symlinks_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Invalid, match="too many symlinks"):
        checked_source(f"{tmp_path}/a", outside="/nonexistent")


@pytest.mark.parametrize("path", ["", "a", "./a", "~"])
def test_a_source_is_an_absolute_path(path: str) -> None:
    with pytest.raises(Invalid):
        checked_source(path, outside="")


@pytest.fixture
def bound(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A file system, and another place of a directory of it, whose name has what mountinfo escapes."""
    first, second = tmp_path / "first", tmp_path / "the\\ second"
    first.mkdir()
    second.mkdir()
    syscalls.mount("none", str(first), "tmpfs", 0, "")
    (first / "below").mkdir()
    syscalls.mount(str(first / "below"), str(second), "", syscalls.MS_BIND, "")
    yield first, second
    syscalls.umount2(str(second), 0)
    syscalls.umount2(str(first), 0)


def test_the_mount_is_closed_at_each_of_its_places(tmp_path: Path, bound: tuple[Path, Path]) -> None:
    first, second = bound
    assert places_of(str(first)) == {str(first), str(second)}
    (tmp_path / "link").symlink_to(second)
    for path in (first, second, second / "x", tmp_path / "link", tmp_path / "link/x"):
        with pytest.raises(Invalid, match="into the mount itself"):
            checked_source(str(path), outside=str(first))
    assert checked_source(str(tmp_path), outside=str(first)) == str(tmp_path)


def test_only_a_plain_file_is_read_and_no_more_than_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    os.mkfifo(tmp_path / "fifo")
    assert read_plain(str(tmp_path / "file"), 5) == b"12345"
    with pytest.raises(Invalid, match="longer than 4 bytes"):
        read_plain(str(tmp_path / "file"), 4)
    for other in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(Invalid, match="is not a file"):
            read_plain(str(other), 5)
    with pytest.raises(FileNotFoundError):
        read_plain(str(tmp_path / "none"), 5)
