"""What has been stored but is perhaps not on the disk yet: the store's ledger against power loss.

A kill of the process loses nothing that was renamed into place. A loss of power may: the names can be there and the
bytes not, as nothing waits for the disk before it is acknowledged. So before a blob or layer gets its name, the name
goes into this file, with the id of the running system; :meth:`Store.settle` (called now and then, behind the replies)
waits for the disk and takes the names out. Names found under another boot's id are suspect, and
:meth:`pydock.overlay.store.Store.recover` checks or makes them anew. See syncfs(2), random(4) for boot_id.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from pydock.runtime import syscalls

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class _Page(msgspec.Struct, frozen=True):
    """The file's content; *names* relative to the store's directory."""

    boot: str
    names: tuple[str, ...] = ()


class Ledger:
    """The file *path*; *replace_file* replaces a file's content by rename. The caller's lock guards all but the wait."""

    def __init__(self, path: Path, replace_file: Callable[[Path, bytes], None], *, boot: str | None = None) -> None:
        self._path = path
        self._replace_file = replace_file
        self._boot = boot or _BOOT_ID.read_text().strip()
        self._names: dict[str, None] = {}
        self.suspects: frozenset[str] | None = frozenset()  # None: the ledger itself was lost, so everything
        try:
            page = msgspec.json.decode(path.read_bytes(), type=_Page)
        except FileNotFoundError:
            self._write()
            return
        except msgspec.DecodeError:
            self.suspects = None
            return
        self._names = dict.fromkeys(page.names)
        if page.boot != self._boot:
            self.suspects = frozenset(page.names)

    def add(self, *names: str) -> None:
        """Note *names* before they come to be."""
        if not self._names.keys() >= set(names):
            self._names.update(dict.fromkeys(names))
            self._write()

    def unsettled(self) -> tuple[str, ...]:
        """The names that wait for the disk."""
        return tuple(self._names)

    def wait(self) -> None:
        """Until the disk has all that has been written to the file system; may take seconds."""
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.syncfs(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, names: tuple[str, ...]) -> None:
        """Forget names that have been waited for, or that are no more."""
        for name in names:
            self._names.pop(name, None)
        self._write()

    def _write(self) -> None:
        self._replace_file(self._path, msgspec.json.encode(_Page(self._boot, tuple(self._names))))
