"""A container's settings: the spec in force, and ``spec.toml`` that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio
from pydock.runtime.settler import Settler
from pydock.runtime.spec import Spec


class Settings:
    """The *spec* of a container, kept in *directory*. Changes are one after another: each sees the one before, and a change that
    can't be kept on disk (ENOSPC) leaves everything as it was."""

    def __init__(self, spec: Spec, directory: Path, settler: Settler) -> None:
        self.spec = spec
        self._path = directory / "spec.toml"
        self._settler = settler
        self._lock = trio.Lock()

    async def change(self, edit: Callable[[Spec], Spec]) -> None:
        """Replace the spec by ``edit(spec)``, on disk first."""
        async with self._lock:
            spec = edit(self.spec)
            if spec != self.spec:
                await self._settler.keep(self._path, spec.to_toml())
                self.spec = spec

    async def change_with(self, edit: Callable[[Spec], Spec]) -> None:
        """``change`` by an *edit* that blocks: it is in the same thread."""

        def change() -> Spec:
            spec = edit(self.spec)
            if spec != self.spec:
                self._settler.replace(self._path, spec.to_toml())
            return spec

        async with self._lock:
            self.spec = await trio.to_thread.run_sync(change)
        self._settler.touched(self._path)
