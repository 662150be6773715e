"""The content addressed store: ``blobs/ALGORITHM/HEX`` of an OCI image layout.

A blob is written to a temporary file, verified, and renamed to its digest; so what has a digest's name has its
content, whenever the process is killed. See the OCI image-spec, image-layout.md.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from pydock.overlay.compression import CHUNK
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.partials import Ended

_LOOK: Final = 0.5  # seconds, the most until a follower sees that it is not wanted any more


class BlobWriter:
    """A blob in the making. Nothing is in the store before :meth:`commit`, and nothing is left after a failure."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        descriptor, name = tempfile.mkstemp(prefix="blob-", dir=blobs.temporary)
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._hash = hashlib.sha256()
        self._changed = threading.Condition()
        self._whole = False
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append *data*; OSError as write(2), ENOSPC above all."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        with self._changed:
            self.size += len(data)
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more is written: for those who follow."""
        with self._changed:
            self._whole = True
            self._changed.notify_all()

    def follow(self, stop: threading.Event) -> Iterator[bytes]:
        """What has been written and what is, until :meth:`end`; Ended once *stop* is set. Blocks: for a thread of its own."""
        with self._path.open("rb", buffering=0) as file:
            done = 0  # may be ahead of the size, which is told behind the write
            while True:
                with self._changed:
                    while not stop.is_set() and not self._whole and self.size <= done:
                        self._changed.wait(_LOOK)
                if stop.is_set():
                    raise Ended
                data = file.read(CHUNK)
                if not data:
                    return
                done += len(data)
                yield data

    @property
    def digest(self) -> Digest:
        """The digest of what has been written so far."""
        return Digest("sha256", self._hash.hexdigest())

    def commit(self, expected: Digest | None = None) -> Digest:
        """Put it into the store. Invalid if *expected* is not what was written."""
        digest = self.digest
        if expected is not None and expected != digest:
            raise Invalid(f"the blob is {digest}, but {expected} was wanted: it is damaged")
        self._file.close()
        target = self._blobs.path(digest)
        self._path.chmod(0o644)
        self._path.replace(target)
        return digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)  # after a commit it has another name


class Blobs:
    """The blobs below *directory*; *temporary* is a directory on the same file system for those in the making."""

    def __init__(self, directory: Path, temporary: Path) -> None:
        self.directory = directory
        self.temporary = temporary
        (directory / "sha256").mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob is or would be."""
        return self.directory / digest.algorithm / digest.hex

    def has(self, digest: Digest) -> bool:
        """Whether it is there."""
        return self.path(digest).exists()

    def open(self, digest: Digest) -> BinaryIO:
        """The blob, open for reading; NotFound if it is not there."""
        try:
            return self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} is not in the store") from None

    def read(self, digest: Digest) -> bytes:
        """A small blob (a document) as a whole."""
        with self.open(digest) as file:
            return file.read()

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """The blob in pieces."""
        with self.open(digest) as file:
            yield from chunks_of(file)

    def writer(self) -> BlobWriter:
        """A new blob; a context manager."""
        return BlobWriter(self)

    def put(self, data: bytes) -> Digest:
        """Store a small blob."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def take(self, path: Path, digest: Digest) -> None:
        """Make the file at *path*, which is on the same file system and whose content is known, a blob. NotFound if it is not there."""
        target = self.path(digest)
        target.parent.mkdir(exist_ok=True)
        try:
            path.rename(target)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} has not come") from None

    def digests(self) -> frozenset[Digest]:
        """Those that are there."""
        return frozenset(Digest(path.parent.name, path.name) for path in self.directory.glob("*/*"))

    def verify(self, digest: Digest) -> bool:
        """Whether the blob has the content that its name says; if not, it is removed."""
        found = hashlib.new(digest.algorithm)
        for chunk in self.chunks(digest):
            found.update(chunk)
        if found.hexdigest() == digest.hex:
            return True
        self.path(digest).unlink()
        return False

    def collect(self, keep: frozenset[Digest]) -> int:
        """Remove every blob that is not in *keep*; the bytes that were freed."""
        freed = 0
        for digest in self.digests() - keep:
            freed += self.path(digest).stat().st_size
            self.path(digest).unlink()
        return freed


def open_plain(path: Path) -> BinaryIO:
    """The plain file *path*, to be read. Invalid for anything else, which to open may wait or do something; OSError."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        kind = os.fstat(place).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise Invalid(f"{path} is not a file")
        return open(f"/proc/self/fd/{place}", "rb", buffering=0)
    finally:
        os.close(place)


def chunks_of(file: BinaryIO, check: Callable[[], object] = bool) -> Iterator[bytes]:
    """The rest of *file* in pieces. *check* is called before each, and may raise."""
    while data := file.read(CHUNK):
        check()
        yield data
