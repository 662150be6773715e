from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from pydock.overlay.trees import remove_tree


@pytest.mark.parametrize("depth", [0, 1, 3000])
def test_a_tree_of_any_depth_is_removed(tmp_path: Path, depth: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(tree, aside=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_symlinks_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    remove_tree(tree, aside=tmp_path)
    remove_tree(tmp_path / "nothing", aside=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "file").exists()


def test_a_file_or_a_symlink_is_a_tree_as_well(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/etc")
    remove_tree(tmp_path / "file", aside=tmp_path)
    remove_tree(tmp_path / "link", aside=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_names_in_use_aside_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / f".removed-{os.getpid()}-0").mkdir()
    (tmp_path / "tree" / "below").mkdir(parents=True)
    remove_tree(tmp_path / "tree", aside=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f".removed-{os.getpid()}-0"]


def test_many_work_in_the_same_place(tmp_path: Path) -> None:
    trees = [tmp_path / str(number) for number in range(40)]
    for tree in trees:
        for name in range(20):
            (tree / f"{name}/below").mkdir(parents=True)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda tree: remove_tree(tree, aside=tmp_path), trees))
    assert list(tmp_path.iterdir()) == []


def test_what_a_dying_writer_adds_meanwhile_is_removed_too(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    begun = threading.Event()

    def write() -> None:
        with suppress(FileNotFoundError):  # the directory has gone
            for number in range(5000):
                (top / f"f{number}").touch()
                begun.set()

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    remove_tree(top, aside=tmp_path)
    writer.join()
    assert list(tmp_path.iterdir()) == []
