"""mv of what settings name: containers, networks, volumes, images. The settings follow; but for images' whatever dies meanwhile.

A note of both names is on the disk from before anything has the new one until all settings do; a start that finds one does the rest.
That of a container is in its record: what the settler keeps is in order, so it needs no fsync(2).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from pydock.runtime.container import Container
    from pydock.runtime.containers import Containers


class Renaming:
    """Has the settings of *containers* follow. *lock* orders the renames of containers."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._engine = containers.engine
        self.lock = trio.Lock()

    async def finish(self) -> None:
        """What a death has cut short; before anybody is taken up."""
        if (volume := self._engine.volumes.renaming()) is not None:
            await self._volume(*volume)
        if (network := self._engine.attachments.store.renaming()) is not None:
            await self._network(*network)
        for container in tuple(self._containers):
            await self.container(container)

    async def container(self, container: Container) -> None:
        """Who joins it names it anew, if it was renamed. What finds no room on the disk does so later."""
        try:
            await self.tell(container)
        except OSError:
            self._engine.settler.owe(partial(self._tell_later, container))

    async def _tell_later(self, container: Container) -> None:
        self._engine.spawn(partial(self._tell_again, container))  # others' saving does not wait for it

    async def _tell_again(self, container: Container) -> None:
        async with self.lock:
            await self.container(container)

    async def free(self, name: str) -> None:
        """Nobody is called *name* any more, also where the rename away from it was not told everywhere. With the lock. OSError."""
        for container in tuple(self._containers):
            if container.record.before == name:
                await self.tell(container)

    async def tell(self, container: Container) -> None:
        """:meth:`container`, at once. With the lock. OSError."""
        record = container.record
        if before := record.before:
            for each in tuple(self._containers):
                await each.configuration.rename_container(before, record.name)
            record.before = ""
            try:
                await container.save()
            except OSError:
                record.before = before
                raise

    async def network(self, name: str, new: str) -> None:
        """Its members name it anew."""
        if name != new:
            await self._engine.attachments.store.rename(name, new)
            await self._network(name, new)

    async def _network(self, name: str, new: str) -> None:
        for container in tuple(self._containers):
            await container.configuration.rename_network(name, new)
        await self._settle()
        await self._engine.attachments.store.renamed(name)

    async def volume(self, name: str, new: str) -> None:
        """Its users name it anew."""
        if name != new:
            await self._engine.volumes.rename(name, new)
            await self._volume(name, new)

    async def _volume(self, name: str, new: str) -> None:
        for container in tuple(self._containers):
            await container.configuration.rename_volume(name, new)
        await self._settle()
        await trio.to_thread.run_sync(self._engine.volumes.renamed)

    async def image(self, name: str, new: str) -> None:
        """It is called *new* by now: who names it does so anew."""
        for container in tuple(self._containers):
            await container.configuration.rename_image(name, new)

    async def _settle(self) -> None:
        """Settings that name what has been renamed are on the disk before the note of that goes, which finishes it after a death."""
        await self._engine.settler.settle()
