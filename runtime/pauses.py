"""A container whose processes stand still: paused by a command, or for as long as its files are read.

What is paused to be read is so on disk as well, so that an engine that dies in the middle lets it go on when it is started again;
what a command has paused stays paused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio
from pydock.runtime.errors import Busy, PydockError
from pydock.runtime.runs import frozen

if TYPE_CHECKING:
    from pydock.runtime.container import Container


class Pauses:
    """Those of *container*; all with its lock."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._read = trio.Event()  # its files are not being read
        self._read.set()

    @property
    def reading(self) -> bool:
        """Whether its files are being read, which may take minutes."""
        return not self._read.is_set()

    async def read(self) -> None:
        """Return when they are not."""
        await self._read.wait()

    async def pause(self) -> str:
        """Freeze every process of its cgroup."""
        container = self._container
        if container.state != "running":
            raise Busy(f"{container.name} is not running: it is {container.state}")
        await trio.to_thread.run_sync(container.cgroup.freeze)
        if container.state == "running":
            container.changed("paused")
            await container.keep()  # after a death the cgroup itself tells
            container.engine.events.publish("container", container.name, "pause")
        return "paused"

    async def resume(self) -> str:
        """Let them run again."""
        container = self._container
        if container.state != "paused":
            raise Busy(f"{container.name} is not paused: it is {container.state}")
        await self.thaw()
        return "resumed"

    async def thaw(self) -> None:
        """Let them run again, if they stand still; without the lock too."""
        container = self._container
        await trio.to_thread.run_sync(container.cgroup.thaw)
        if container.state == "paused":
            container.changed("running")
            await container.keep()
            container.engine.events.publish("container", container.name, "resume")

    @asynccontextmanager
    async def still(self, *, pause: bool = True) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Within, no command reaches the container, and with *pause* no process of it runs, unless it is killed meanwhile, until
        what this gives is called.

        What is not running, or paused already, stays so. OSError when it can't be written down that it is paused.
        """
        container = self._container
        async with container.lock:
            self._read = trio.Event()
            held = pause and container.state == "running" and not frozen(container.cgroup)
            if held:
                await container.save(held=True)
                container.record.held = True
            try:
                if held and container.state == "running":
                    await self.pause()
                yield self._let_go
            finally:
                self._read.set()
                await self._let_go()

    async def _let_go(self) -> None:
        container = self._container
        if container.record.held:
            with trio.CancelScope(shield=True):
                container.record.held = False
                await self.thaw()
                await container.keep()

    async def recover(self) -> None:
        """After the engine's own restart: let go on what stood still to be read."""
        if self._container.record.held:
            self._container.record.held = False
            try:
                await self.thaw()
            except PydockError as error:
                self._container.failed(f"resume: {error}")
