"""Content digests as values, and the chain ids of layers.

A digest is written ``ALGORITHM:HEX`` (OCI image-spec, descriptor.md, "Digests"). A layer is named by its *chain id*,
which covers the layer and everything below it, because the unpacked directory of a layer means something only on top
of those (config.md, "Layer ChainID").
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from pydock.overlay.errors import Invalid

_HEX_DIGITS: Final = {"sha256": 64, "sha512": 128}
_DIGEST: Final = re.compile(r"(sha256|sha512):([0-9a-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest; ``str()`` is the written form, *hex* the name of the blob's file."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Invalid unless *text* is ``sha256:`` or ``sha512:`` and the right number of lower case hex digits."""
        match = _DIGEST.fullmatch(text)
        if match is None or len(match[2]) != _HEX_DIGITS[match[1]]:
            raise Invalid(f"{text[:160]!r} is not a digest: want sha256: and 64 lower case hex digits")
        return cls(match[1], match[2])

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The sha256 digest of *data*."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def matches(self, data: bytes) -> bool:
        """Whether it is that of *data*."""
        return hashlib.new(self.algorithm, data).hexdigest() == self.hex

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def chain_ids(diff_ids: Iterable[Digest]) -> tuple[Digest, ...]:
    """The chain id of each layer, given the digests of the uncompressed layers, bottom first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
