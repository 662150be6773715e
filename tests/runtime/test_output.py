"""Reading along in a log that another process writes, across its generations."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydock.runtime.errors import Failed
from pydock.runtime.logger.index import Log
from pydock.runtime.output import Bell, Tail


class Writer:
    """A log as the logger writes it."""

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        self.log = Log(str(directory), limit)
        self.pipe, self.end = os.pipe2(os.O_NONBLOCK)

    def write(self, data: bytes, stream: str = "stdout") -> None:
        os.write(self.end, data)
        while data:
            data = data[self.log.take(self.pipe, stream) :]

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self.end)
        self.log.close()


@pytest.fixture
def writer(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writer]:
    made = Writer(tmp_path, getattr(request, "param", None))
    yield made
    made.close()


def test_what_came_before_is_left_out(tmp_path: Path, writer: Writer) -> None:
    writer.write(b"before\n")
    tail = Tail(tmp_path, ("stdout",))
    assert tail.read(100) == b""
    writer.write(b"after\n")
    assert tail.read(100) == b"after\n"
    assert tail.read(100) == b""
    tail.close()


def test_each_stream_has_its_own(tmp_path: Path, writer: Writer) -> None:
    out, err = Tail(tmp_path, ("stdout",)), Tail(tmp_path, ("stderr",))
    writer.write(b"one\n")
    writer.write(b"oops\n", "stderr")
    writer.write(b"two\n")
    assert out.read(100) + out.read(100) == b"one\ntwo\n"
    assert err.read(100) == b"oops\n"
    out.close()
    err.close()


def test_a_small_reader_gets_it_in_pieces(tmp_path: Path, writer: Writer) -> None:
    tail = Tail(tmp_path, ("stdout",))
    writer.write(b"abcdef")
    assert [tail.read(4), tail.read(4), tail.read(4)] == [b"abcd", b"ef", b""]
    tail.close()


@pytest.mark.parametrize("writer", [20], indirect=True)
def test_the_next_generation_follows(tmp_path: Path, writer: Writer) -> None:
    tail = Tail(tmp_path, ("stdout",))
    writer.write(b"0123456789abc")  # of 20 bytes one generation may have 10
    assert tail.read(100) + tail.read(100) == b"0123456789abc"
    tail.close()


@pytest.mark.parametrize("writer", [20], indirect=True)
def test_whoever_is_too_far_behind_is_told_once_and_goes_on(tmp_path: Path, writer: Writer) -> None:
    tail = Tail(tmp_path, ("stdout",))
    writer.write(b"x" * 35)
    assert tail.read(100) == b"x" * 10
    with pytest.raises(Failed) as caught:
        tail.read(100)
    assert caught.value.errno == errno.EOVERFLOW
    assert tail.read(100) + tail.read(100) == b"x" * 15
    tail.close()


def test_a_log_that_was_cut_begins_anew(tmp_path: Path, writer: Writer) -> None:
    tail = Tail(tmp_path, ("stdout",))
    writer.write(b"first\n")
    assert tail.read(100) == b"first\n"
    os.truncate(tmp_path / "log", 0)
    writer.write(b"second\n")
    assert tail.read(100) == b"second\n"
    tail.close()


def test_a_generation_that_is_being_renamed_is_waited_for(tmp_path: Path, writer: Writer) -> None:
    writer.write(b"old\n")
    os.rename(tmp_path / "log", tmp_path / "log.1")  # the logger died here
    tail = Tail(tmp_path, ("stdout",))
    assert tail.read(100) == b""
    again = Writer(tmp_path)
    again.write(b"new\n")
    assert tail.read(100) == b"new\n"
    tail.close()
    again.close()


@pytest.mark.parametrize(
    ("before", "screen"),
    [
        (b"", b""),
        (b"one\ntwo", b"one\ntwo"),
        (b"".join(b"%d\n" % number for number in range(100)), b"".join(b"%d\n" % number for number in range(77, 100))),
        (b"x" * 5000 + b"\nlast", b"last"),
    ],
)
def test_the_last_screenful_comes_first(tmp_path: Path, writer: Writer, before: bytes, screen: bytes) -> None:
    if before:
        writer.write(before)
    tail = Tail(tmp_path, ("stdout",), screen=True)
    assert tail.read(10_000) == screen
    tail.close()


async def test_a_bell_wakes_those_who_wait_and_calls_once() -> None:
    bell = Bell()
    calls: list[int] = []
    bell.call(lambda: calls.append(1))
    bell.ring()
    bell.ring()
    assert calls == [1]
