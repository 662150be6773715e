"""What survives: files that are replaced whole, and records that grow at their end.

A file is replaced by writing a temporary one beside it and rename(2): whoever reads sees the old or the new text, and
what was acknowledged survives the death of any process without an fsync(2). :class:`Settler` makes it survive a loss of
power as well, in batches behind the replies: data first, then the directory's entry, so that seconds may be lost but
nothing is ever half written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import trio


def replace(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Make *path* hold *text*, atomically."""
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(text.encode(errors="surrogateescape"))
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, path.name) from None


def replace_json(path: Path, value: Mapping[str, object]) -> None:
    """:func:`replace` with one JSON object."""
    replace(path, printed(value))


def printed(value: Mapping[str, object]) -> str:
    """What a file says with one JSON object."""
    return json.dumps(value) + "\n"


def read_json(path: Path) -> dict[str, object] | None:
    """The object in *path*; None when there is none or it is not an object."""
    try:
        value = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def clear_halves(directory: Path) -> None:
    """Remove what a death has left of files in *directory* that were being replaced."""
    for path in directory.glob("*.new"):
        path.unlink()


class Settler:
    """fsync(2) behind the replies. ``touched`` is cheap and may be called from the loop for every change."""

    def __init__(self, *, interval: float = 1.0) -> None:
        self._interval = interval
        self._paths: set[Path] = set()
        self._owed: set[Callable[[], Awaitable[None]]] = set()
        self._wake = trio.Event()

    def touched(self, path: Path) -> None:
        """*path* was replaced."""
        self._paths.add(path)
        self._wake.set()

    def owe(self, save: Callable[[], Awaitable[None]]) -> None:
        """*save* found no room on the disk: it is done again until there is some, or nothing left to be saved."""
        self._owed.add(save)
        self._wake.set()

    async def run(self) -> None:
        """Settle until cancelled, and once more at the end."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(self._interval)
                self._wake = trio.Event()
                await self.settle()
        finally:
            with trio.CancelScope(shield=True):
                await self.settle()

    async def settle(self) -> None:
        """Settle what was touched until now, and save what is owed."""
        owed, self._owed = self._owed, set()
        for save in owed:
            try:
                await save()
            except FileNotFoundError:
                continue  # it has been removed
            except OSError:
                self.owe(save)
        paths, self._paths = self._paths, set()
        if paths:
            await trio.to_thread.run_sync(_sync, paths)


def _sync(paths: set[Path]) -> None:
    for path in sorted(paths | {path.parent for path in paths}, key=lambda path: -len(path.parts)):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # removed since
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
