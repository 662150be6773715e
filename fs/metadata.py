"""What chmod, chown and utimens leave on the files of an object, and the closes that are still at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio


@dataclass(slots=True)
class Attributes:
    """What chmod, chown and utimens leave on a file; None where the default holds. Times in ns since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None


@dataclass(slots=True)
class Metadata:
    """The attributes of one object's files, by path below the object's directory (``""`` is the directory).

    *closing* are the closes of its settings that are still at work: the kernel does not wait for them, so whoever comes next does.
    """

    born: int
    files: dict[str, Attributes] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None
    closing: set[trio.Event] = field(default_factory=set)

    async def settled(self) -> None:
        """Return when what was closed before has been stored."""
        for each in tuple(self.closing):
            await each.wait()

    def of(self, path: str) -> Attributes:
        """The attributes of *path*, made when missing."""
        return self.files.setdefault(path, Attributes())

    def plain(self) -> dict[str, list[int | None]]:
        """What the object's record keeps of them."""
        return {
            path: [own.mode, own.uid, own.gid, own.mtime] for path, own in self.files.items() if own != Attributes()
        }
