from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydock.overlay.blobs import Blobs
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.partials import Ended


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    (tmp_path / "tmp").mkdir()
    return Blobs(tmp_path / "blobs", tmp_path / "tmp")


def test_a_blob_is_found_under_its_digest(blobs: Blobs) -> None:
    digest = blobs.put(b"content")
    assert digest == Digest.of(b"content")
    assert blobs.path(digest) == blobs.directory / "sha256" / digest.hex
    assert blobs.read(digest) == b"content"
    assert b"".join(blobs.chunks(digest)) == b"content"


def test_a_blob_in_the_making_is_not_in_the_store(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(b"con")
        writer.write(b"tent")
        assert (writer.digest, writer.size) == (Digest.of(b"content"), 7)
        assert not blobs.has(writer.digest)
        writer.commit(Digest.of(b"content"))
        assert blobs.has(writer.digest)


def test_a_blob_with_another_digest_than_expected_is_invalid_and_leaves_nothing(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(b"forged")
        with pytest.raises(Invalid, match="damaged"):
            writer.commit(Digest.of(b"content"))
    assert not blobs.has(Digest.of(b"forged"))
    assert list(blobs.temporary.iterdir()) == []


def test_a_blob_given_up_leaves_nothing(blobs: Blobs) -> None:
    with blobs.writer() as writer:
        writer.write(b"half")
    assert list(blobs.temporary.iterdir()) == []


def test_a_missing_blob_is_not_found(blobs: Blobs) -> None:
    with pytest.raises(NotFound):
        blobs.read(Digest.of(b"nothing"))


def test_collect_removes_what_is_not_kept_and_says_how_much(blobs: Blobs) -> None:
    kept, gone = blobs.put(b"kept"), blobs.put(b"garbage")
    assert blobs.collect(frozenset((kept,))) == len(b"garbage")
    assert (blobs.has(kept), blobs.has(gone)) == (True, False)


def test_a_blob_is_followed_while_it_is_written(blobs: Blobs) -> None:
    stop = threading.Event()
    for _ in range(20):
        with blobs.writer() as writer, ThreadPoolExecutor(2) as pool:
            followers = [pool.submit(lambda w: b"".join(w.follow(stop)), writer) for _ in range(2)]
            pieces = [b"%d" % number * (number % 50) for number in range(2000)]
            for piece in pieces:
                writer.write(piece)
            writer.end()
            assert [follower.result() for follower in followers] == [b"".join(pieces)] * 2


def test_a_follower_is_told_to_stop(blobs: Blobs) -> None:
    stop = threading.Event()
    with blobs.writer() as writer, ThreadPoolExecutor(1) as pool:
        writer.write(b"begun")
        follower = pool.submit(lambda: list(writer.follow(stop)))
        stop.set()
        with pytest.raises(Ended):
            follower.result()
