"""Archives of images on their way in: ``docker save``'s, ``podman save``'s and OCI layouts, compressed or not, as they stream.

A confined child (:mod:`pydock.overlay.members`) reads the archive; what it tells is hashed and stored here, in a temporary
directory, each byte once: members may come in any order, and the documents that tell what they are come last. A blob that the
store has already is not written again. At the end those files that an image needs become blobs, by rename, the layers are
unpacked, and all images get their names at once; the rest is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import msgspec
from pydock.overlay import archiveformat
from pydock.overlay.archiveformat import Found
from pydock.overlay.blobs import chunks_of
from pydock.overlay.compression import Compression, ZstdWriter, expand
from pydock.overlay.contents import Contents, Header, Member, blob_digest, shown
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid
from pydock.overlay.image import Image
from pydock.overlay.intake import Aborted, Intake, Prepared
from pydock.overlay.layers import need_room, with_room
from pydock.overlay.members import DATA, END, FRAME, MEMBER
from pydock.overlay.reference import Reference
from pydock.overlay.trees import remove_tree
from pydock.overlay.unpackers import PIPE_SIZE

if TYPE_CHECKING:
    from pydock.overlay.store import Store

_FRAME_MAX: Final = 4 << 20  # bytes; a name may have a mebibyte, and JSON makes six of one
_WHAT: Final = "storing the archive"


_M = TypeVar("_M", bound=msgspec.Struct)


class _Told(msgspec.Struct, frozen=True):
    """A member, as the child tells it."""

    name: str
    kind: str
    link: str
    size: int


class _End(msgspec.Struct, frozen=True):
    """The child's last words."""

    error: str | None
    errno: int | None


class Loading:
    """One archive on its way into *store*. *file* is its name, for an image that has none and for messages.

    :meth:`run` blocks, in a thread; :meth:`abort` may come from any other.
    """

    def __init__(self, store: Store, file: str) -> None:
        self._store = store
        self._file = file
        self._aborted = threading.Event()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._count = 0

    def abort(self) -> None:
        """It is not wanted any more: :meth:`run` ends soon, with Aborted, unless the images have their names by now."""
        self._aborted.set()
        with self._lock:
            if self._child is not None and self._child.poll() is None:
                self._child.kill()

    def run(self, source: int) -> tuple[Image, ...]:
        """Load what the descriptor *source*, which is closed, gives until its end; the images by all their names.

        Invalid for a fault of the archive, OSError for one of the machine, ENOSPC above all; then nothing has changed. Aborted.
        """
        directory = Path(tempfile.mkdtemp(prefix="load-", dir=self._store.blobs.temporary))
        try:
            with self._store.intake() as intake:
                contents = self._receive(source, directory, intake)
                found = archiveformat.images_in(contents, self._file)
                return intake.publish(self._prepared(found, contents, directory, intake))
        except Invalid as error:
            raise Invalid(f"{shown(self._file)} can't be loaded: {error}") from None
        finally:
            remove_tree(directory, aside=self._store.blobs.temporary)

    # what comes

    def _receive(self, source: int, directory: Path, intake: Intake) -> Contents:
        """The whole archive."""
        (directory / "void").mkdir()
        void = os.open(directory / "void", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._lock:
                if self._aborted.is_set():
                    raise Aborted
                child = self._child = subprocess.Popen(
                    [sys.executable, "-I", "-m", "pydock.overlay.members", str(void)],
                    bufsize=PIPE_SIZE,
                    stdin=source,
                    stdout=subprocess.PIPE,
                    pass_fds=(void,),
                    cwd="/",
                    env={"LC_ALL": "C.UTF-8"},
                )
        finally:
            os.close(void)
            os.close(source)
        assert child.stdout is not None
        with child:
            try:
                return self._members(_Frames(child.stdout), directory, intake)
            except EOFError:
                if self._aborted.is_set():
                    raise Aborted from None
                raise RuntimeError("the reader of the archive died") from None
            finally:
                child.kill()  # it has nothing to say any more

    def _members(self, frames: _Frames, directory: Path, intake: Intake) -> Contents:
        contents = Contents()
        while frames.kind == MEMBER:
            told = _decoded(frames.data, _Told)
            name = contents.admit(Header(told.name, told.kind.encode(), told.link, told.size))
            frames.advance()
            if name is None:
                for _ in frames.data_chunks():
                    raise RuntimeError("the reader of the archive tells of data where there are none")
            else:
                contents.add(name, self._stored(name, told.size, frames.data_chunks(), directory, intake))
        return contents

    def _stored(self, name: str, told: int, chunks: Iterator[bytes], directory: Path, intake: Intake) -> Member:
        """The member of that name, in a file of its own, unless it is a blob that is there. It has *told* bytes."""
        wanted = blob_digest(name)
        found, size = hashlib.new(wanted.algorithm if wanted else "sha256"), 0
        if wanted is not None:
            intake.reserve((wanted,))
            if self._store.blobs.has(wanted):
                for chunk in chunks:
                    found.update(chunk)
                    size += len(chunk)
                return Member(self._store.blobs.path(wanted), _checked(name, found.hexdigest(), wanted), size)
        self._count += 1
        path = directory / str(self._count)
        with path.open("xb", buffering=0) as file:
            need_room(file.fileno(), told, _WHAT)
            for chunk in with_room(file.fileno(), chunks, _WHAT):
                found.update(chunk)
                size += _write(file, chunk)
        return Member(path, _checked(name, found.hexdigest(), wanted), size)

    # what it was

    def _prepared(
        self, images: Iterable[Found], contents: Contents, directory: Path, intake: Intake
    ) -> dict[Reference, Prepared]:
        """The images, ready to get their names."""
        prepared: dict[Reference, Prepared] = {}
        taken: dict[Digest, tuple[Member, Compression]] = {}
        for image in images:
            layers = []
            for layer in image.layers:
                if layer.digest not in taken:
                    taken[layer.digest] = self._taken(layer, contents, directory, intake, keep=bool(image.manifest))
                layers.append(taken[layer.digest])
            manifest = image.manifest or archiveformat.made_manifest(image.config, layers)
            whole = intake.prepare(str(image.references[0]), manifest, image.config, aborted=self._aborted)
            prepared |= dict.fromkeys(image.references, whole)
        if self._aborted.is_set():
            raise Aborted
        return prepared

    def _taken(
        self, layer: Member, contents: Contents, directory: Path, intake: Intake, *, keep: bool
    ) -> tuple[Member, Compression]:
        """A layer as a blob of the store; unless it is to be kept as it is, one that OCI has no media type for with zstd."""
        compression = archiveformat.compression_of(contents, layer)
        if compression in (Compression.BZIP2, Compression.XZ) and not keep:
            layer, compression = self._recompressed(layer, compression, directory), Compression.ZSTD
        intake.take_blob(layer.path, layer.digest)
        return layer, compression

    def _recompressed(self, layer: Member, compression: Compression, directory: Path) -> Member:
        self._count += 1
        path, found, size, writer = directory / str(self._count), hashlib.sha256(), 0, ZstdWriter()
        with layer.path.open("rb", buffering=0) as source, path.open("xb", buffering=0) as file:
            for chunk in with_room(file.fileno(), expand(chunks_of(source), compression), _WHAT):
                data = writer.feed(chunk)
                found.update(data)
                size += _write(file, data)
                if self._aborted.is_set():
                    raise Aborted
            data = writer.finish()
            found.update(data)
            size += _write(file, data)
        return Member(path, Digest("sha256", found.hexdigest()), size)


class _Frames:
    """What the child says, a frame at a time: the one that has come is *kind* and *data*.

    Invalid or OSError when that is a failure, EOFError when it says no more.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.kind, self.data = b"", b""
        self.advance()

    def advance(self) -> None:
        """The next frame."""
        self.kind, size = FRAME.unpack(self._exactly(FRAME.size))
        if self.kind not in (MEMBER, DATA, END) or size > _FRAME_MAX:
            raise RuntimeError("the reader of the archive talks nonsense")
        self.data = self._exactly(size)
        if self.kind == END and (end := _decoded(self.data, _End)).error is not None:
            raise Invalid(end.error) if end.errno is None else OSError(end.errno, end.error)

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def data_chunks(self) -> Iterator[bytes]:
        """The data of a member, to its end."""
        while self.kind == DATA:
            yield self.data
            self.advance()


def _decoded(data: bytes, kind: type[_M]) -> _M:
    # json, not msgspec: names that are not UTF-8 come as lone surrogates
    return msgspec.convert(json.loads(data), kind)


def _checked(name: str, found: str, wanted: Digest | None) -> Digest:
    """The digest of a member; Invalid if it has another than its name tells."""
    if wanted is None:
        return Digest("sha256", found)
    if wanted.hex != found:
        raise Invalid(f"{name} is damaged: its digest is {found}")
    return wanted


def _write(file: FileIO, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
    return len(data)
