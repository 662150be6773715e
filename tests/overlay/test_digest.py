from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay.digest import Digest, chain_ids
from pydock.overlay.errors import Invalid


@given(st.binary())
def test_a_digest_parses_to_itself(data: bytes) -> None:
    digest = Digest.of(data)
    assert Digest.parse(str(digest)) == digest
    assert digest.hex == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "A" * 64,
        "sha512:" + "a" * 64,
        "md5:" + "a" * 32,
        "sha256:" + "a" * 64 + "\n",
        "sha256:../" + "a" * 61,
        "sha256:" + "٣" * 64,
    ],
)
def test_what_is_no_digest_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="is not a digest"):
        Digest.parse(text)


def test_the_lowest_chain_id_is_the_diff_id_and_the_next_covers_both() -> None:
    low, high = Digest.of(b"low"), Digest.of(b"high")
    assert chain_ids([low, high]) == (low, Digest.of(f"{low} {high}".encode()))


def test_the_same_layer_on_another_base_has_another_chain_id() -> None:
    layer = Digest.of(b"layer")
    assert chain_ids([Digest.of(b"a"), layer])[-1] != chain_ids([Digest.of(b"b"), layer])[-1]
