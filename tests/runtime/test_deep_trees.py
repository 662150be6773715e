"""Removal and measure of trees that are deeper than recursion goes."""

from __future__ import annotations

import os
from pathlib import Path

from pydock.runtime.trees import remove_tree, size_of

DEPTH = 3000


def deepen(path: Path) -> None:
    here = os.open(path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=here)
        following = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    os.close(here)


def test_a_tree_of_any_depth_is_measured_and_removed(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    deepen(top)
    assert size_of(top) >= DEPTH * 4096
    remove_tree(top)
    assert not top.exists()


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(tmp_path / "kept")
    remove_tree(top)
    assert (tmp_path / "kept/file").exists()
    assert not top.exists()


def test_nothing_there_is_fine(tmp_path: Path) -> None:
    remove_tree(tmp_path / "none")
