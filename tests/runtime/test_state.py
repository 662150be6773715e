"""Files that are replaced whole."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydock.runtime.state import read_json, replace, replace_json


def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    replace(tmp_path / "x", "one")
    replace(tmp_path / "x", "two", mode=0o644)
    assert (tmp_path / "x").read_text() == "two"
    assert os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_the_new_file_has_the_mode(tmp_path: Path, mode: int) -> None:
    replace(tmp_path / "x", "", mode=mode)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_whoever_has_the_old_file_open_reads_the_old_text(tmp_path: Path) -> None:
    replace(tmp_path / "x", "old")
    with open(tmp_path / "x") as file:
        replace(tmp_path / "x", "new")
        assert file.read() == "old"


@contextmanager
def little_room() -> Iterator[None]:
    """No file can grow beyond 4 KiB (Python ignores SIGXFSZ, so that write(2) fails with EFBIG): nor can the one that the
    tests' own output may go to, so for no longer than the call."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_when_it_can_t_be_written_the_old_file_stays(tmp_path: Path) -> None:
    replace(tmp_path / "x", "old")
    with pytest.raises(OSError, match="too large") as caught, little_room():
        replace(tmp_path / "x", "n" * 10_000)
    assert caught.value.errno == errno.EFBIG
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_bytes_that_are_not_utf_8_come_back(tmp_path: Path) -> None:
    text = b"caf\xe9".decode(errors="surrogateescape")
    replace(tmp_path / "x", text)
    assert (tmp_path / "x").read_bytes() == b"caf\xe9"


def test_an_object_is_read_as_it_was_written(tmp_path: Path) -> None:
    replace_json(tmp_path / "x", {"a": [1, None, "ä"]})
    assert read_json(tmp_path / "x") == {"a": [1, None, "ä"]}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"\xff", b"\0"])
def test_what_is_no_object_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert read_json(tmp_path / "x") is None


def test_no_file_is_none(tmp_path: Path) -> None:
    assert read_json(tmp_path / "x") is None
