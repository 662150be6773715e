"""Blobs on their way: what interrupted transfers leave, and reading what is still coming."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid
from pydock.overlay.partials import Ended, Partial, Partials

DATA = b"0123456789" * 1000
DIGEST = Digest.of(DATA)


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    return Partials(tmp_path / "partial")


def new(partials: Partials, size: int = len(DATA)) -> Partial:
    return partials.open(DIGEST, size)


def test_what_has_come_is_gone_on_with(partials: Partials) -> None:
    first = new(partials)
    first.write(DATA[:4000])
    first.close()
    second = new(partials)
    second.resume()
    assert (second.size, second.doubtful) == (4000, True)
    second.write(DATA[4000:])
    second.finish()
    assert second.complete
    assert b"".join(partials.chunks(DIGEST)) == DATA


def test_more_than_was_promised_is_invalid(partials: Partials) -> None:
    partial = new(partials, 5)
    with pytest.raises(Invalid, match="larger than the 5 bytes"):
        partial.write(b"123456")


@pytest.mark.parametrize("data", [DATA[:-1], DATA[:-1] + b"x", b""])
def test_what_is_not_what_was_wanted_is_invalid_and_gone(partials: Partials, data: bytes) -> None:
    partial = new(partials)
    partial.write(data)
    with pytest.raises(Invalid, match="damaged"):
        partial.finish()
    partial.close()
    assert not partials.path(DIGEST).exists()


def test_a_longer_one_than_wanted_begins_anew(partials: Partials) -> None:
    partials.path(DIGEST).write_bytes(DATA + b"x")
    partial = new(partials)
    partial.resume()
    assert (partial.size, partial.doubtful) == (0, False)


def followed(partial: Partial, stop: threading.Event | None = None) -> tuple[threading.Thread, list[bytes]]:
    taken: list[bytes] = []

    def follow() -> None:
        try:
            for chunk in partial.chunks(stop or threading.Event()):
                taken.append(chunk)
        except Ended:
            taken.append(b"ended")

    thread = threading.Thread(target=follow)
    thread.start()
    return thread, taken


def test_a_follower_gets_what_comes(partials: Partials) -> None:
    partial = new(partials)
    thread, taken = followed(partial)
    for start in range(0, len(DATA), 1000):
        partial.write(DATA[start : start + 1000])
    partial.finish()
    thread.join(60)
    assert b"".join(taken) == DATA


def test_what_was_left_is_in_doubt_before_it_counts(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that comes while it is read must not take it for what has just come."""
    partials.path(DIGEST).write_bytes(b"x" * 10)
    partial = new(partials)
    seen: list[tuple[int, bool]] = []
    read = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        seen.append((partial.size, partial.doubtful))
        return read(fd, size, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", pread)
        partial.resume()
    assert seen == [(0, True), (10, True)]


def test_a_follower_of_a_resumed_one_waits_until_it_is_trusted(partials: Partials) -> None:
    partials.path(DIGEST).write_bytes(b"x" * 10)
    partial = new(partials)
    partial.resume()
    thread, taken = followed(partial)
    partial.write(DATA[10:])
    with pytest.raises(Invalid):
        partial.finish()
    partial.write(DATA)
    partial.finish()
    thread.join(60)
    assert b"".join(taken) == DATA


def test_a_follower_that_is_not_wanted_ends(partials: Partials) -> None:
    partial, stop = new(partials), threading.Event()
    partial.write(DATA)
    thread, taken = followed(partial, stop)  # all has come, but it is not trusted yet
    stop.set()
    partial.wake()
    thread.join(60)
    assert taken[-1] == b"ended"


def test_a_follower_reads_on_when_it_is_moved_and_closed(partials: Partials, tmp_path: Path) -> None:
    partial = new(partials)
    partial.write(DATA)
    partial.finish()
    chunks = partial.chunks(threading.Event())
    partial.path.rename(tmp_path / "blob")
    first = next(chunks)
    partial.close()
    assert first + b"".join(chunks) == DATA


def test_only_what_nobody_needs_is_collected(partials: Partials) -> None:
    other = Digest.of(b"other")
    partials.path(DIGEST).write_bytes(DATA)
    partials.path(other).write_bytes(b"othe")
    assert partials.collect(frozenset([other])) == len(DATA)
    assert [path.name for path in partials.directory.iterdir()] == [f"sha256-{other.hex}"]
