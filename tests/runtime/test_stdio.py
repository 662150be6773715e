"""A container's named pipes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from pydock.runtime.stdio import Stdio


def test_three_private_fifos_are_made_and_removed(tmp_path: Path) -> None:
    stdio = Stdio(tmp_path, "c")
    stdio.make()
    assert [stat.filemode(os.stat(path).st_mode) for path in stdio.paths] == ["prw-------"] * 3
    assert stat.S_IMODE(os.stat(stdio.directory).st_mode) == 0o700
    stdio.remove()
    stdio.remove()
    assert not os.path.exists(stdio.directory)


def test_making_again_begins_with_empty_pipes(tmp_path: Path) -> None:
    stdio = Stdio(tmp_path, "c")
    stdio.make()
    with stdio.open() as before:
        os.write(before["stdout"], b"old")
        stdio.make()
        with stdio.open() as fds, pytest.raises(BlockingIOError):
            os.read(fds["stdout"], 3)


def test_the_held_ends_keep_bytes_and_keep_the_reader_from_the_end(tmp_path: Path) -> None:
    stdio = Stdio(tmp_path, "c")
    stdio.make()
    with stdio.open() as fds:
        reader = os.open(stdio.stdin, os.O_RDONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            os.read(reader, 1)
        writer = os.open(stdio.stdout, os.O_WRONLY)
        os.write(writer, b"last words")
        os.close(writer)
        assert os.read(fds["stdout"], 100) == b"last words"
    assert os.read(reader, 1) == b""
    os.close(reader)
