"""Unpacked layers, ``layers/sha256-HEX/`` by chain id, and the way of a layer from a stream of bytes to there.

The bytes are hashed, decompressed and hashed again here, and piped to a confined child (:mod:`pydock.overlay.unpack`)
that alone looks into them. It works in a temporary directory, which is renamed when all went well: a directory with a
chain id's name is complete, whenever anything is killed. Beside each stands ``sha256-HEX.json`` with what is known
about it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from pydock.overlay.compression import detect, expand
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.trees import remove_tree
from pydock.overlay.unpackers import Unpackers
from pydock.runtime import syscalls

_SPARE: Final = 256 << 20  # bytes that are left to others, or a twentieth of a small disk
_LOOK_EVERY: Final = 1 << 20  # bytes
_OPAQUE_ATTRIBUTE: Final = "trusted.overlay.opaque"


class LayerFacts(msgspec.Struct, frozen=True):
    """What is kept beside an unpacked layer. *bytes* is the data of its regular files, hard links once, no holes."""

    diff_id: str
    bytes: int
    entries: int


class _Report(msgspec.Struct, frozen=True):
    """The child's last line."""

    bytes: int = 0
    entries: int = 0
    opaque: tuple[str, ...] = ()
    error: str | None = None
    errno: int | None = None


def _unpack_into(unpackers: Unpackers, directory: int, chunks: Iterable[bytes]) -> _Report:
    """Unpack the uncompressed tar *chunks* into *directory* (a descriptor) in a confined child.

    Invalid for a fault of the archive, OSError for one of the machine.
    """
    tar, said = unpackers.start(directory)
    with os.fdopen(said, "rb", buffering=0) as report_file:
        try:
            # a child that has found a fault stops reading; what it found is in its report
            with contextlib.suppress(BrokenPipeError):
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[os.write(tar, view) :]
        finally:
            os.close(tar)  # when the source fails: the child finds the archive too short
            output = report_file.read()  # and nobody removes the directory under it
    lines = output.splitlines()
    try:
        # json, not msgspec: names that are not UTF-8 come as lone surrogates
        report = msgspec.convert(json.loads(lines[-1]), _Report)
    except (IndexError, ValueError):
        words = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the unpacker died: {words}") from None
    if report.error is not None:
        if report.errno is None:
            raise Invalid(report.error)
        raise OSError(report.errno, report.error)
    return report


def need_room(directory: int, size: int, what: str) -> None:
    """ENOSPC, with *what* was to be done in its words, if *size* bytes more would leave the file system of *directory* no room to
    spare: everybody's writes would fail before long."""
    status = os.fstatvfs(directory)
    if status.f_bavail * status.f_frsize < size + min(_SPARE, status.f_blocks * status.f_frsize // 20):
        raise OSError(errno.ENOSPC, f"{what} would fill the disk")


def with_room(directory: int, chunks: Iterable[bytes], what: str = "unpacking the layer") -> Iterator[bytes]:
    """*chunks* for as long as :func:`need_room` finds some: a few bytes may expand to what fills any disk."""
    since = _LOOK_EVERY
    for chunk in chunks:
        since += len(chunk)
        if since >= _LOOK_EVERY:
            since = 0
            need_room(directory, 0, what)
        yield chunk


def _mark_opaque(directory: int, paths: Iterable[str]) -> None:
    """Set overlayfs' attribute for directories that hide what lies below them."""
    for path in paths:
        try:
            # the archive's symlinks are in the way of these paths: resolve them as the child did, inside
            descriptor = syscalls.openat2(
                directory,
                os.fsencode(path),
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
                resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS | syscalls.RESOLVE_NO_XDEV,
            )
        except (FileNotFoundError, NotADirectoryError):
            continue  # a later entry of the archive has replaced it
        try:
            os.setxattr(descriptor, _OPAQUE_ATTRIBUTE, b"y")
        finally:
            os.close(descriptor)


def _ignore(data: bytes) -> None:
    pass


class LayerStream:
    """A layer's bytes on their way: iterating yields them uncompressed, then *diff_id* is their digest."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._rest = iter(chunks)
        self._first = next(self._rest, b"")
        self._raw: Callable[[bytes], None] = _ignore
        self._plain: Callable[[bytes], None] = _ignore
        self._hash = hashlib.sha256()
        self.compression = detect(self._first)

    def shown_to(self, *, raw: Callable[[bytes], None] = _ignore, plain: Callable[[bytes], None] = _ignore) -> Self:
        """Show *raw* the bytes as they come and *plain* the uncompressed ones, on the way."""
        self._raw, self._plain = raw, plain
        return self

    def _chunks(self) -> Iterator[bytes]:
        chunk = self._first
        while chunk:
            self._raw(chunk)
            yield chunk
            chunk = next(self._rest, b"")

    def __iter__(self) -> Iterator[bytes]:
        for block in expand(self._chunks(), self.compression):
            self._hash.update(block)
            self._plain(block)
            yield block

    @property
    def diff_id(self) -> Digest:
        """Of what has been yielded so far."""
        return Digest("sha256", self._hash.hexdigest())

    def check(self, expected: Digest) -> None:
        """Invalid when the diff id is not *expected*."""
        if self.diff_id != expected:
            raise Invalid(f"the layer's content is {self.diff_id}, but {expected} was wanted: it is damaged")


class PendingLayer:
    """A temporary directory with an unpacked layer; a context manager that removes it unless it got a name."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.path = Path(tempfile.mkdtemp(prefix="layer-", dir=layers.temporary))
        (self.path / "tree").mkdir()
        (self.path / "tree").chmod(0o755)

    def unpack(self, stream: LayerStream, *, expected: Digest | None = None) -> LayerFacts:
        """Unpack *stream*. Invalid (also if its diff id is not *expected*) or OSError."""
        directory = os.open(self.path / "tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._layers.unpackers as unpackers:
                report = _unpack_into(unpackers, directory, with_room(directory, stream))
            if expected is not None:
                stream.check(expected)
            _mark_opaque(directory, report.opaque)
        finally:
            os.close(directory)
        return LayerFacts(diff_id=str(stream.diff_id), bytes=report.bytes, entries=report.entries)

    def commit(self, chain_id: Digest, facts: LayerFacts) -> None:
        """Give it its name. If the layer is there already, that one stays."""
        facts_path = self.path / "facts"
        facts_path.write_bytes(msgspec.json.encode(facts))
        if self._layers.has(chain_id):
            return
        facts_path.rename(self._layers.facts_path(chain_id))
        (self.path / "tree").rename(self._layers.path(chain_id))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        remove_tree(self.path, aside=self._layers.temporary)  # now and not lazily: the disk may be full


class Layers:
    """The unpacked layers below *directory*; *temporary* and *trash* are directories on the same file system."""

    def __init__(self, directory: Path, temporary: Path, trash: Path) -> None:
        self.directory = directory
        self.temporary = temporary
        self.unpackers = Unpackers()
        self._trash = trash
        # files with set-id bits inside are anybody's to run otherwise
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, chain_id: Digest) -> Path:
        """Where the layer is or would be."""
        return self.directory / f"{chain_id.algorithm}-{chain_id.hex}"

    def facts_path(self, chain_id: Digest) -> Path:
        """Where what is known about it is."""
        return self.directory / f"{chain_id.algorithm}-{chain_id.hex}.json"

    def has(self, chain_id: Digest) -> bool:
        """Whether it is there."""
        return self.path(chain_id).is_dir()

    def facts(self, chain_id: Digest) -> LayerFacts:
        """What is known about a layer; NotFound if it is not unpacked."""
        try:
            return msgspec.json.decode(self.facts_path(chain_id).read_bytes(), type=LayerFacts)
        except FileNotFoundError:
            raise NotFound(f"layer {chain_id} is not unpacked") from None

    def pending(self) -> PendingLayer:
        """A new layer; a context manager."""
        return PendingLayer(self)

    def chain_ids(self) -> frozenset[Digest]:
        """Those that are there."""
        names = (entry.name for entry in self.directory.iterdir() if not entry.name.endswith(".json"))
        return frozenset(Digest(*name.split("-", 1)) for name in names)

    def collect(self, keep: frozenset[Digest]) -> None:
        """Put every layer that is not in *keep* into the trash."""
        for chain_id in self.chain_ids() - keep:
            self.remove(chain_id)

    def remove(self, chain_id: Digest) -> None:
        """Put a layer into the trash; none is fine."""
        self.discard(self.path(chain_id))
        self.facts_path(chain_id).unlink(missing_ok=True)

    def discard(self, path: Path) -> None:
        """Move a directory into the trash: at once, whatever its size."""
        holder = tempfile.mkdtemp(prefix="trash-", dir=self._trash)
        with contextlib.suppress(FileNotFoundError):
            path.rename(Path(holder) / "tree")

    def recover(self) -> None:
        """Remove facts of layers that are not there: their process was killed between two renames."""
        for facts in self.directory.glob("*.json"):
            if not facts.with_suffix("").is_dir():
                facts.unlink()
