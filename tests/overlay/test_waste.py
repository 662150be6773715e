"""What later layers overwrite or delete, told from unpacked layers."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydock.overlay.waste import waste

BLOCK = 4096


def fill(layer: Path, *entries: str) -> Path:
    """A layer of *entries*: files of a block; ``d/`` a directory, ``d!/`` an opaque one, ``-f`` a whiteout."""
    layer.mkdir()
    for entry in entries:
        path = layer / entry.lstrip("-").rstrip("/").rstrip("!")
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.startswith("-"):
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
        elif entry.endswith("/"):
            path.mkdir(exist_ok=True)
            if entry.endswith("!/"):
                os.setxattr(path, "trusted.overlay.opaque", b"y")
        else:
            path.write_bytes(b"x" * BLOCK)
    return layer


@pytest.mark.parametrize(
    ("layers", "wasted"),
    [
        ([["a", "d/b"]], []),
        ([["a", "d/b"], ["a"]], ["/a"]),
        ([["a", "d/b"], ["-a"]], ["/a"]),
        ([["d/a", "d/e/b", "c"], ["-d"]], ["/d/a", "/d/e/b"]),
        ([["d/a", "d/e/b", "c"], ["d!/", "d/a"]], ["/d/a", "/d/e/b"]),
        ([["d/a"], ["d"]], ["/d/a"]),
        ([["d/a"], ["d/"]], []),
        ([["a"], ["-a"], ["a"]], ["/a"]),
        ([["da"], ["-d"]], []),
    ],
)
def test_hidden_files_and_only_they(tmp_path: Path, layers: list[list[str]], wasted: list[str]) -> None:
    made = [fill(tmp_path / str(number), *entries) for number, entries in enumerate(layers)]
    assert waste(made) == dict.fromkeys(wasted, BLOCK)


def test_one_path_hidden_twice_counts_twice(tmp_path: Path) -> None:
    made = [fill(tmp_path / str(number), "a") for number in range(3)]
    assert waste(made) == {"/a": 2 * BLOCK}


def test_holes_and_further_links_take_nothing(tmp_path: Path) -> None:
    below = fill(tmp_path / "0", "a")
    os.link(below / "a", below / "b")
    with open(below / "hole", "wb") as file:
        file.truncate(1 << 30)
    assert sum(waste([below, fill(tmp_path / "1", "a", "b", "hole")]).values()) == BLOCK


@pytest.mark.parametrize(
    ("above", "wasted"),
    [
        (["-a"], 0),
        (["-a", "-d"], 0),
        (["-a", "e", "-d"], BLOCK),
        (["a", "e", "d!/", "d/b"], BLOCK),
    ],
)
def test_a_file_is_wasted_once_all_of_its_links_are_hidden(tmp_path: Path, above: list[str], wasted: int) -> None:
    below = fill(tmp_path / "0", "a", "d/")
    os.link(below / "a", below / "d/b")
    os.link(below / "a", below / "e")
    assert sum(waste([below, fill(tmp_path / "1", *above)]).values()) == wasted
