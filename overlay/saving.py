"""An image as an archive that others load: an OCI image layout and docker's own format in one, as docker has saved since 25.

It is made of tar headers, three small documents and the blobs as they are stored, one behind another: so its size is known without
reading anything, any part of it can be read at once, nothing is copied to a temporary file, and an image always gives the same bytes.
Layers stay compressed as they came; ``docker load``, ``podman load`` and skopeo take them so.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec
from pydock.overlay import manifest as documents
from pydock.overlay import tarformat, tarwriter
from pydock.overlay.archiveformat import CONTAINERD_NAME
from pydock.overlay.digest import Digest
from pydock.overlay.errors import NotFound
from pydock.overlay.image import Image
from pydock.overlay.manifest import Descriptor, Index, Manifest
from pydock.overlay.reference import Reference
from pydock.overlay.tarformat import Entry

if TYPE_CHECKING:
    from pydock.overlay.store import Store

_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}'
_FILE, _DIRECTORY = 0o644, 0o755


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """An element of docker's manifest.json."""

    config: str
    repo_tags: tuple[str, ...] | None
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """An archive before anything of it is opened: what is not a blob as bytes, the blobs with their sizes, and the whole size."""

    parts: tuple[bytes | tuple[Digest, int], ...]
    size: int


def plan(store: Store, image: Image) -> Plan:
    """How the archive of *image* is made up. NotFound, Invalid if the store is damaged."""
    data = store.manifest(image)
    manifest = documents.decode(data, Manifest, f"manifest {image.digest}")
    sizes = {layer.digest: layer.size for layer in (manifest.config, *manifest.layers)}
    reference = Reference.parse(image.reference)
    annotations = {CONTAINERD_NAME: reference.full, documents.REF_NAME: reference.full}
    manifests = {image.digest: data}
    if manifest.media_type != documents.MANIFEST:  # skopeo takes nothing else in a layout
        annotations[documents.ORIGINAL] = image.digest
        form = documents.encode(documents.oci_form(manifest))
        manifests[str(Digest.of(form))] = form
    digest, form = list(manifests.items())[-1]
    own = Descriptor(media_type=documents.MANIFEST, digest=digest, size=len(form), annotations=annotations)
    saved = _Saved(
        config=_name(manifest.config.digest),
        repo_tags=None if reference.digest else (reference.full,),  # docker's tags have no digest
        layers=tuple(_name(layer.digest) for layer in manifest.layers),
    )
    parts: list[bytes | tuple[Digest, int]] = []
    small = b""
    for name, content in (
        ("oci-layout", _LAYOUT),
        ("index.json", documents.encode(Index(manifests=(own,)))),
        ("manifest.json", msgspec.json.encode([saved])),
    ):
        small += _head(name, len(content)) + content + tarwriter.padding(len(content))
    algorithms = sorted({Digest.parse(digest).algorithm for digest in (*sizes, image.digest)})
    for directory in ("blobs", *(f"blobs/{algorithm}" for algorithm in algorithms)):
        small += _head(f"{directory}/", None)
    for digest, content in manifests.items():
        small += _head(_name(digest), len(content)) + content + tarwriter.padding(len(content))
    for digest, size in sizes.items():
        parts += [small + _head(_name(digest), size), (Digest.parse(digest), size)]
        small = tarwriter.padding(size)
    parts.append(small + tarwriter.END)
    return Plan(tuple(parts), sum(len(part) if isinstance(part, bytes) else part[1] for part in parts))


def _name(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _head(name: str, size: int | None) -> bytes:
    """The header of a file of *size* bytes, or of a directory."""
    return tarwriter.head(
        Entry(
            name=name.encode(),
            kind=tarformat.DIRECTORY if size is None else tarformat.REGULAR,
            mode=_DIRECTORY if size is None else _FILE,
            uid=0,
            gid=0,
            size=size or 0,
            mtime_ns=0,
            link=b"",
            device=(0, 0),
        )
    )


class Archive:
    """An archive that is open: its blobs are, so that it stays whole whatever becomes of the image. Reads are safe in any thread."""

    def __init__(self, store: Store, made: Plan) -> None:
        self.size = made.size
        self._parts: list[bytes | int] = []  # bytes, or the descriptor of a blob
        self._starts: list[int] = []
        offset = 0
        try:
            for part in made.parts:
                self._starts.append(offset)
                if isinstance(part, bytes):
                    self._parts.append(part)
                    offset += len(part)
                    continue
                digest, size = part
                self._parts.append(os.open(store.blobs.path(digest), os.O_RDONLY | os.O_CLOEXEC))
                offset += size
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise NotFound(f"a blob is not in the store any more: {error.filename}") from None
            raise
        self._starts.append(offset)

    def read(self, offset: int, size: int) -> bytes:
        """Up to *size* bytes from *offset*, fewer only at the end. Blocks for the disk."""
        return self._read(offset, size, 0)

    def cached(self, offset: int, size: int) -> bytes | None:
        """The same, when they are in memory so that it does not block; else None."""
        try:
            return self._read(offset, size, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EOPNOTSUPP):
                return None
            raise

    def _read(self, offset: int, size: int, flags: int) -> bytes:
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        found = bytearray(end - offset)
        view, begin = memoryview(found), offset
        index = bisect_right(self._starts, offset) - 1
        while offset < end:
            part, start = self._parts[index], self._starts[index]
            upto = min(end, self._starts[index + 1])
            target = view[offset - begin : upto - begin]
            if isinstance(part, bytes):
                target[:] = part[offset - start : upto - start]
                offset = upto
            else:
                done = os.preadv(part, [target], offset - start, flags)
                if done == 0 and target:
                    raise OSError(errno.EIO, "a blob of the store is shorter than its image says")
                if done < len(target) and flags:
                    raise BlockingIOError(errno.EAGAIN, "")
                offset += done
            if offset == upto:
                index += 1
        return bytes(found)

    def close(self) -> None:
        """Let the blobs go."""
        for part in self._parts:
            if isinstance(part, int):
                os.close(part)
        self._parts.clear()
