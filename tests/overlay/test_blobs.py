from __future__ import annotations

from pathlib import Path

import pytest
from pydock.overlay.blobs import Blobs
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound


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
