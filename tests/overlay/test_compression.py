from __future__ import annotations

import bz2
import gzip
import lzma
import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay.compression import CHUNK, Compression, ZstdWriter, detect, expand
from pydock.overlay.errors import Invalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSORS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: zstd.compress,
}
KINDS = pytest.mark.parametrize("kind", list(COMPRESSORS))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(st.binary(max_size=300), st.binary(max_size=300), st.integers(1, 400), st.sampled_from(list(COMPRESSORS)))
def test_members_one_after_the_other_in_any_pieces_are_one_stream(
    first: bytes, second: bytes, size: int, kind: Compression
) -> None:
    packed = COMPRESSORS[kind](first) + COMPRESSORS[kind](second)
    assert b"".join(expand(pieces(packed, size), kind)) == first + second


@KINDS
def test_the_kind_is_told_by_the_first_bytes(kind: Compression) -> None:
    assert detect(COMPRESSORS[kind](b"x")) is kind


def test_a_tar_is_not_compressed() -> None:
    assert detect(b"etc/passwd\0\0\0") is Compression.NONE
    assert detect(b"") is Compression.NONE


@KINDS
def test_a_stream_that_ends_early_is_invalid(kind: Compression) -> None:
    with pytest.raises(Invalid, match="ends too early"):
        list(expand([COMPRESSORS[kind](os.urandom(1000))[:-9]], kind))


@KINDS
def test_a_damaged_stream_is_invalid(kind: Compression) -> None:
    packed = bytearray(COMPRESSORS[kind](os.urandom(10000)))
    packed[len(packed) // 2] ^= 0xFF
    packed[8:20] = bytes(12)
    with pytest.raises(Invalid, match="damaged|too early"):
        list(expand([bytes(packed)], kind))


@KINDS
def test_a_bomb_expands_in_bounded_steps(kind: Compression) -> None:
    packed = COMPRESSORS[kind](bytes(64 << 20))
    total = 0
    for block in expand([packed], kind):
        assert len(block) <= CHUNK
        total += len(block)
    assert total == 64 << 20


@KINDS
def test_zeros_after_the_last_member_are_padding(kind: Compression) -> None:
    packed = COMPRESSORS[kind](b"content")
    assert b"".join(expand([packed, bytes(700), bytes(3)], kind)) == b"content"


def test_the_source_is_read_to_its_end() -> None:
    source = iter([gzip.compress(b"x"), bytes(10), bytes(10)])
    list(expand(source, Compression.GZIP))
    assert next(source, None) is None


@given(st.lists(st.binary(max_size=1000)))
def test_what_the_zstd_writer_writes_expands_to_what_it_was_fed(blocks: list[bytes]) -> None:
    writer = ZstdWriter()
    packed = b"".join([*(writer.feed(block) for block in blocks), writer.finish()])
    assert b"".join(expand([packed], detect(packed))) == b"".join(blocks)
