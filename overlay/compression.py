"""Which compression a layer has, and its bytes without it, in bounded memory.

The kind is told by the first bytes, never by a name or a media type. Streams of several members (pigz, ``cat a.gz
b.gz``, zstd's frames) are one stream. A few bytes can expand to gigabytes, so no step returns more than a chunk.
"""

from __future__ import annotations

import bz2
import enum
import lzma
import sys
from collections.abc import Iterable, Iterator
from typing import Final, Protocol, cast

from isal import isal_zlib
from pydock.overlay.errors import Invalid

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_ISAL_ERROR: Final = cast("type[Exception]", isal_zlib.error)  # whose stubs have it as an instance
CHUNK: Final = 1 << 20  # bytes, the most that one step yields


_USTAR: Final = b"ustar"
_USTAR_AT: Final = 257
_GZIP_LEVEL: Final = 2  # of ISA-L's four: 225 MB a second, and no larger than zlib's 1 makes it, which does 40
_GZIP_WINDOW: Final = 31  # zlib's number for gzip's format


class Compression(enum.Enum):
    """The value is the magic number; a tar has none at its start."""

    NONE = b""
    GZIP = b"\x1f\x8b"
    BZIP2 = b"BZh"
    XZ = b"\xfd7zXZ\0"
    ZSTD = b"\x28\xb5\x2f\xfd"


class _Decoder(Protocol):
    """What the decompressors of bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """ISA-L's decompressor, a third of zlib's time, in the others' shape: it has *unconsumed_tail* where they have *needs_input*."""

    def __init__(self) -> None:
        self._inner = isal_zlib.decompressobj(wbits=31)
        self._filled = False  # the last step gave all it might, so it may hold more without having more input

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not (self._inner.unconsumed_tail or self._filled)

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        block = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._filled = len(block) == max_length
        return block


def _decoder(kind: Compression) -> _Decoder:
    match kind:
        case Compression.GZIP:
            return _Gzip()
        case Compression.BZIP2:
            return bz2.BZ2Decompressor()
        case Compression.XZ:
            return lzma.LZMADecompressor(lzma.FORMAT_XZ)
        case _:
            return zstd.ZstdDecompressor()


def detect(start: bytes) -> Compression:
    """The compression of a stream that begins with *start*: of a tar a header's worth, else six bytes suffice."""
    if start.startswith(_USTAR, _USTAR_AT):  # whose first bytes are a name, and that may be anything
        return Compression.NONE
    for kind in (Compression.GZIP, Compression.BZIP2, Compression.XZ, Compression.ZSTD):
        if start.startswith(kind.value):
            return kind
    return Compression.NONE


def expand(chunks: Iterable[bytes], kind: Compression) -> Iterator[bytes]:
    """*chunks* decompressed. Invalid if they are damaged or end too early.

    Unless it raises, it reads *chunks* to their end: whoever hashes them on the way sees every byte.
    """
    if kind is Compression.NONE:
        yield from chunks
        return
    decoder = _decoder(kind)
    for data in chunks:
        while True:
            if decoder.eof:
                data = data.lstrip(b"\0")  # zeros may pad the last member (gzip(1), xz(1))
                if not data:
                    break
                decoder = _decoder(kind)
            try:
                block = decoder.decompress(data, CHUNK)
            except (OSError, EOFError, ValueError, _ISAL_ERROR, lzma.LZMAError, zstd.ZstdError) as error:
                raise Invalid(f"the {kind.name.lower()} data is damaged: {error}") from None
            if block:
                yield block
            if decoder.eof:
                data = decoder.unused_data
            elif decoder.needs_input:
                break
            else:
                data = b""
    if not decoder.eof:
        raise Invalid(f"the {kind.name.lower()} data ends too early")


class GzipWriter:
    """Compresses what it is fed, always to the same bytes; for layers that are made here: every engine and registry takes gzip."""

    def __init__(self) -> None:
        self._inner = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)

    def feed(self, data: bytes) -> bytes:
        """The next compressed bytes, often none."""
        return self._inner.compress(data)

    def finish(self) -> bytes:
        """The last compressed bytes."""
        return self._inner.flush()


class ZstdWriter:
    """Compresses what it is fed; for layers that come in a compression OCI has no media type for."""

    def __init__(self) -> None:
        self._inner = zstd.ZstdCompressor()

    def feed(self, data: bytes) -> bytes:
        """The next compressed bytes, often none."""
        return self._inner.compress(data)

    def finish(self) -> bytes:
        """The last compressed bytes."""
        return self._inner.flush()
