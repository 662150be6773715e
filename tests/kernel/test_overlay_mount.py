"""Union mounts: what they show, that they are nowhere, and the ways of older kernels."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydock.overlay import mount
from pydock.overlay.trees import remove_tree
from pydock.runtime import syscalls

Union = Callable[[list[Path], Path | None, Path | None], int]
WAYS = pytest.mark.parametrize("union", [mount.union, mount.union_by_fsconfig, mount.union_by_mount])
CLONES = pytest.mark.parametrize("clone", [mount.clone, mount.clone_in_a_child])
pytestmark = pytest.mark.mount


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with layers low and high, upper, work and a mount point; their names are awkward."""
    path = Path(tempfile.mkdtemp(prefix="pydock-test-")) / "a:b,c\\d e"
    for name in ("low", "high", "upper", "work", "point"):
        (path / name).mkdir(parents=True)
    (path / "low" / "both").write_text("low")
    (path / "low" / "only-low").write_text("low")
    (path / "high" / "both").write_text("high")
    os.mknod(path / "high" / "only-low", 0o020000, 0)
    yield path
    with tempfile.TemporaryDirectory(prefix="pydock-test-") as aside:  # another run's threads have the same numbers
        remove_tree(path.parent, aside=aside)


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def read(tree: int, name: str) -> str:
    with open(os.open(name, os.O_RDONLY, dir_fd=tree)) as file:
        return file.read()


def listing(tree: int) -> list[str]:
    descriptor = os.open(".", os.O_RDONLY, dir_fd=tree)
    try:
        return sorted(os.listdir(descriptor))
    finally:
        os.close(descriptor)


def error_of(attempt: Callable[[], object]) -> int | None:
    try:
        attempt()
    except OSError as error:
        return error.errno
    return None


@WAYS
def test_a_union_shows_the_higher_layer_and_hides_what_it_whites_out(place: Path, union: Union) -> None:
    before = mounts()
    tree = union([place / "low", place / "high"], place / "upper", place / "work")
    try:
        assert mounts() == before
        assert read(tree, "both") == "high"
        assert listing(tree) == ["both"]
        assert not os.get_inheritable(tree)
    finally:
        os.close(tree)


@WAYS
def test_writes_go_to_the_upper_directory_alone(place: Path, union: Union) -> None:
    tree = union([place / "low", place / "high"], place / "upper", place / "work")
    try:
        os.unlink("both", dir_fd=tree)
        os.mkdir("new", dir_fd=tree)
    finally:
        os.close(tree)
    assert sorted(os.listdir(place / "upper")) == ["both", "new"]
    assert (place / "upper" / "both").lstat().st_rdev == 0
    assert (place / "high" / "both").read_text() == "high"


@WAYS
def test_a_union_without_upper_is_read_only(place: Path, union: Union) -> None:
    tree = union([place / "low", place / "high"], None, None)
    try:
        assert listing(tree) == ["both"]
        assert error_of(lambda: os.mkdir("new", dir_fd=tree)) == errno.EROFS
    finally:
        os.close(tree)


def test_a_single_layer_without_upper_is_a_read_only_view_of_it(place: Path) -> None:
    tree = mount.union([place / "low"], None, None)
    try:
        assert listing(tree) == ["both", "only-low"]
        assert error_of(lambda: os.mkdir("new", dir_fd=tree)) == errno.EROFS
    finally:
        os.close(tree)
    (place / "low" / "still-writable").touch()


@WAYS
def test_a_hundred_layers_are_no_matter(place: Path, union: Union) -> None:
    layers = [place / f"layer-{'x' * 200}-{number}" for number in range(100)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / "top").write_text(str(number))
        (layer / f"f{number}").touch()
    tree = union(layers, place / "upper", place / "work")
    try:
        assert read(tree, "top") == "99"
        assert len(listing(tree)) == 101
    finally:
        os.close(tree)


@WAYS
def test_a_missing_layer_is_enoent(place: Path, union: Union) -> None:
    layers = [place / "low", place / "nothing"]
    assert error_of(lambda: union(layers, place / "upper", place / "work")) == errno.ENOENT


def test_no_layers_or_half_an_upper_are_einval(place: Path) -> None:
    assert error_of(lambda: mount.union([], None, None)) == errno.EINVAL
    assert error_of(lambda: mount.union([place / "low"], place / "upper", None)) == errno.EINVAL


def test_more_layers_than_fit_a_page_are_einval_with_words(place: Path) -> None:
    with pytest.raises(OSError, match="too many for this kernel"):
        mount.union_by_mount([place / "low"] * 900, None, None)


@CLONES
def test_a_clone_is_the_same_union(place: Path, clone: Callable[[int], int]) -> None:
    tree = mount.union([place / "low", place / "high"], place / "upper", place / "work")
    copy = clone(tree)
    again = mount.clone(tree)
    try:
        os.mkdir("new", dir_fd=copy)
        assert os.stat("new", dir_fd=tree).st_ino == os.stat("new", dir_fd=again).st_ino
        assert not os.get_inheritable(copy)
        assert not os.get_inheritable(tree)
    finally:
        for descriptor in (tree, copy, again):
            os.close(descriptor)


def test_attributes_of_a_clone_are_its_own(place: Path) -> None:
    tree = mount.union([place / "low"], place / "upper", place / "work")
    copy = mount.clone(tree, attributes=syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSYMFOLLOW)
    try:
        os.symlink("both", "link", dir_fd=tree)
        assert read(tree, "link") == "low"
        assert error_of(lambda: read(copy, "link")) == errno.ELOOP
        assert error_of(lambda: os.mkdir("new", dir_fd=copy)) == errno.EROFS
    finally:
        os.close(copy)
        os.close(tree)


def test_an_attached_clone_is_found_by_its_path_until_it_is_detached(place: Path) -> None:
    before = mounts()
    tree = mount.union([place / "low", place / "high"], place / "upper", place / "work")
    point = place / "point"
    copy = mount.clone(tree)
    try:
        mount.attach(copy, point)
    finally:
        os.close(copy)
    try:
        held = os.open(point / "both", os.O_RDONLY)
        assert error_of(lambda: mount.detach(point)) == errno.EBUSY
        os.close(held)
    finally:
        mount.detach(point)
        os.close(tree)
    assert mounts() == before
    assert os.listdir(point) == []
    assert error_of(lambda: mount.detach(point)) == errno.EINVAL


def test_the_mount_point_is_not_reached_through_a_symlink(place: Path) -> None:
    (place / "link").symlink_to(place / "point")
    tree = mount.union([place / "low"], None, None)
    try:
        assert error_of(lambda: mount.attach(tree, place / "link")) == errno.EINVAL
    finally:
        os.close(tree)


def test_unions_are_made_from_many_threads_at_once(place: Path) -> None:
    made: list[int] = []

    def make(number: int) -> None:
        for name in ("upper", "work"):
            (place / f"{name}{number}").mkdir()
        way = mount.union_by_mount if number % 4 == 0 else mount.union
        tree = way([place / "low", place / "high"], place / f"upper{number}", place / f"work{number}")
        os.mkdir(f"made{number}", dir_fd=tree)
        made.append(tree)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tree in made:
        os.close(tree)
    assert len(made) == 12
    assert {os.listdir(place / f"upper{number}")[0] for number in range(12)} == {f"made{n}" for n in range(12)}


def test_the_directory_is_free_when_the_last_descriptor_is_closed(place: Path) -> None:
    (place / "disk").mkdir()
    tree = mount.union([place / "low", place / "high"], place / "upper", place / "work")
    copy = mount.clone(tree)
    os.close(tree)
    assert read(copy, "both") == "high"
    os.close(copy)
    # overlayfs marks its work directory as in use: a second union of it is refused or warned of while one lives
    again = mount.union([place / "low", place / "high"], place / "upper", place / "work")
    os.close(again)
