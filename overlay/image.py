"""Images and their layers as values, and what of the store they need."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.manifest import ImageConfig

# OCI's name for this machine's architecture (Go's GOARCH)
ARCHITECTURE: Final = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image: its digests, and bytes as it came and unpacked (0 when it is not unpacked)."""

    digest: str
    diff_id: str
    chain_id: str
    compressed: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Image:
    """An image under one of its names. *id* is the digest of its configuration, *digest* that of its manifest.

    *size* are bytes unpacked, *created* RFC 3339 or "". Of a directory that serves as an image, *reference* is the
    path, *directory* too, and most is empty.
    """

    reference: str
    id: str
    digest: str
    size: int
    created: str
    architecture: str
    os: str
    author: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What must stay on disk for some image."""

    blobs: frozenset[Digest] = frozenset()
    chain_ids: frozenset[Digest] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.blobs | other.blobs, self.chain_ids | other.chain_ids)

    def __sub__(self, other: Needs) -> Needs:
        return Needs(self.blobs - other.blobs, self.chain_ids - other.chain_ids)


def directory_image(path: Path) -> Image:
    """The directory at the absolute *path* as an image: its tree is the only layer. NotFound, Invalid."""
    if not path.is_absolute():
        raise Invalid(f"{path} is not an absolute path")
    if not path.exists():
        raise NotFound(f"no such directory: {path}")
    if not path.is_dir():
        raise Invalid(f"{path} is not a directory")
    return Image(
        reference=str(path),
        id="",
        digest="",
        size=0,
        created="",
        architecture=ARCHITECTURE,
        os="linux",
        author="",
        config=ImageConfig(),
        layers=(),
        directory=path,
    )
