"""Blobs on their way from a registry: ``images/partial/sha256-HEX``, which outlive an interrupted transfer.

What has come so far stays when a transfer ends early, whatever ends it, and the next one goes on behind it. A blob is moved
from here into the store when the image that needs it is complete; so what lies in ``blobs/`` belongs to an image. Whoever
wants to read a blob that is still coming may follow it, in a thread of its own, a little behind.

The content is trusted when it has the size and the digest that it was wanted for, and not before: a follower may have been
given anything.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydock.overlay.compression import CHUNK
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound

_LOOK: Final = 1.0  # seconds, the most until a follower sees that it is not wanted any more


class Ended(Exception):
    """Whoever followed has been told to stop."""


class Partial:
    """One blob on its way. Written by one at a time, followed by any number; all but the writing is safe in any thread."""

    def __init__(self, path: Path, digest: Digest, size: int) -> None:
        self.path = path
        self.digest = digest
        self.total = size
        self._changed = threading.Condition()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._hash = hashlib.new(digest.algorithm)
        self.size = 0  # bytes that are there and hashed
        self.complete = False
        self._resumed = False

    def resume(self) -> None:
        """Take in what an earlier transfer has left. Blocks."""
        left = os.fstat(self._fd).st_size
        if left > self.total:
            self.clear()
            return
        self._resumed = left > 0  # before anybody can take it for what has just come
        while data := os.pread(self._fd, CHUNK, self.size):
            self._hash.update(data)
            self.size += len(data)

    def clear(self) -> None:
        """Begin anew: what is there is not what it should be."""
        os.ftruncate(self._fd, 0)
        self._hash = hashlib.new(self.digest.algorithm)
        self.size, self._resumed = 0, False

    @property
    def doubtful(self) -> bool:
        """Whether a part of it came by an earlier transfer, so that another try may help."""
        return self._resumed

    def write(self, data: bytes) -> None:
        """Append *data*. Invalid when there is more than was promised; OSError, ENOSPC above all. Blocks."""
        if self.size + len(data) > self.total:
            raise Invalid(f"blob {self.digest} is larger than the {self.total} bytes that its manifest tells of")
        view = memoryview(data)
        offset = self.size
        while view:
            done = os.pwrite(self._fd, view, offset)
            view, offset = view[done:], offset + done
        self._hash.update(data)
        with self._changed:
            self.size = offset
            self._changed.notify_all()

    def finish(self) -> None:
        """All has come: it is trusted from now on. Invalid, and it is gone, when it is not what was wanted."""
        if self.size != self.total or self._hash.hexdigest() != self.digest.hex:
            found, size = self._hash.hexdigest(), self.size
            self.clear()
            raise Invalid(
                f"blob {self.digest} is damaged: got {size} bytes with digest {self.digest.algorithm}:{found}, "
                f"not the {self.total} bytes wanted"
            )
        with self._changed:
            self.complete = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Have followers look whether they are wanted still."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Nobody wants it any more; what is empty is removed."""
        os.close(self._fd)
        if not self.size:
            self.path.unlink(missing_ok=True)

    def chunks(self, stop: threading.Event) -> Iterator[bytes]:
        """What has come and what comes, until all of it is trusted; Ended once *stop* is set. Blocks: for a thread of its own."""
        fd = os.dup(self._fd)  # which outlives its name, when another one moves it into the store
        try:
            offset = 0
            while offset < self.total or not self.complete:
                with self._changed:
                    while not self.complete and (self._resumed or self.size <= offset):
                        if stop.is_set():
                            raise Ended
                        self._changed.wait(_LOOK)
                    there = self.size
                data = os.pread(fd, min(CHUNK, there - offset), offset)
                offset += len(data)
                if data:
                    yield data
        finally:
            os.close(fd)


class Partials:
    """Those below *directory*, which is made if need be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where what has come of it is or would be."""
        return self.directory / f"{digest.algorithm}-{digest.hex}"

    def open(self, digest: Digest, size: int) -> Partial:
        """The blob, to be brought in. Its directory entry is there from now on."""
        return Partial(self.path(digest), digest, size)

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """One that has come whole, in pieces. NotFound."""
        try:
            file = self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"blob {digest} has not come") from None
        with file:
            while data := file.read(CHUNK):
                yield data

    def collect(self, keep: frozenset[Digest]) -> int:
        """Remove what is not in *keep*; the bytes that were freed."""
        freed = 0
        for path in list(self.directory.iterdir()):
            if Digest(*path.name.split("-", 1)) not in keep:
                freed += path.stat().st_size
                path.unlink()
        return freed
