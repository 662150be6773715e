"""What of an image's layers nobody sees: files that a later layer overwrites or deletes.

Layers are unpacked as overlayfs has them: a character device 0:0 hides the name below, a directory with the opaque attribute
all that is below it. See the kernel's Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_OPAQUE: Final = b"trusted.overlay.opaque"
_BLOCK: Final = 512


class _Cover:
    """What the layers above hide of those below: single names, and everything below some directories."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()
        self.trees: set[bytes] = set()

    def hides(self, path: bytes) -> bool:
        """Whether *path* (relative) of a lower layer is out of sight."""
        if path in self.names:
            return True
        while path:
            path = os.path.dirname(path)
            if path in self.trees:
                return True
        return False

    def add(self, path: bytes, status: os.stat_result, *, opaque: bool) -> None:
        """Take in an entry of a layer."""
        if not stat.S_ISDIR(status.st_mode):
            self.names.add(path)
            self.trees.add(path)
        elif opaque:
            self.trees.add(path)


def waste(layers: Iterable[Path]) -> dict[str, int]:
    """The bytes on disk of each hidden file by its path inside, which begins with a slash; *layers* bottom first. A file with hard
    links takes them for the first, and only once all are hidden: else they are no waste. Blocks."""
    cover = _Cover()
    found: dict[str, int] = {}
    for layer in reversed(list(layers)):
        entries = list(_entries(os.fsencode(layer)))
        visible: set[int] = set()
        hidden: dict[int, tuple[bytes, os.stat_result]] = {}
        for path, status, _ in entries:
            if stat.S_ISREG(status.st_mode):
                if cover.hides(path):
                    hidden.setdefault(status.st_ino, (path, status))
                else:
                    visible.add(status.st_ino)
        for path, status in (each for number, each in hidden.items() if number not in visible):
            name = "/" + os.fsdecode(path)
            found[name] = found.get(name, 0) + min(status.st_size, status.st_blocks * _BLOCK)
        for path, status, opaque in entries:
            cover.add(path, status, opaque=opaque)
    return {name: size for name, size in found.items() if size}


def _entries(top: bytes) -> Iterator[tuple[bytes, os.stat_result, bool]]:
    """Everything below *top*, by relative path, with whether it is an opaque directory."""
    pending = [b""]
    while pending:
        directory = pending.pop()
        with os.scandir(os.path.join(top, directory)) as entries:
            for entry in entries:
                path = os.path.join(directory, entry.name)
                status = entry.stat(follow_symlinks=False)
                opaque = False
                if stat.S_ISDIR(status.st_mode):
                    pending.append(path)
                    opaque = _is_opaque(entry.path)
                yield path, status, opaque


def _is_opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, _OPAQUE, follow_symlinks=False) == b"y"
    except OSError:
        return False
