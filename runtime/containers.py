"""All containers: made, found, renamed, removed, and found again after the engine's death.

On disk a container exists as soon as its ``state.json`` does, and until its directory is renamed into the trash; what a death
left in between is removed at the next start. Directories are named by id, so a rename touches one file.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from pydock.runtime import oom, syscalls
from pydock.runtime.container import Container
from pydock.runtime.engine import Engine, persistently
from pydock.runtime.errors import Busy, Exists, Invalid, NotFound, PydockError, words_of
from pydock.runtime.formats import checked_name
from pydock.runtime.keeper import Keeper
from pydock.runtime.launching import remove_files
from pydock.runtime.logger.client import Logger
from pydock.runtime.monitor.protocol import Exit, read_exits
from pydock.runtime.network.words import DEFAULT, joined, named
from pydock.runtime.process import GRACE, Left, Process
from pydock.runtime.record import kept, new_record, record_of
from pydock.runtime.renaming import Renaming
from pydock.runtime.rootfs import detach
from pydock.runtime.sharing import Neighbour
from pydock.runtime.spec import Spec
from pydock.runtime.state import clear_halves, printed
from pydock.runtime.trees import remove_tree
from pydock.runtime.wire import Message, text

log = logging.getLogger(__name__)
_ID: Final = re.compile(r"[0-9a-f]{64}")

_ADOPTED_AT_ONCE: Final = 32


class Containers:
    """The containers of one engine, by name and by id."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.directory = engine.root / "containers"
        self._by_name: dict[str, Container] = {}
        self._by_id: dict[str, Container] = {}
        self.renaming = Renaming(self)
        engine.volumes.users = self.volume_users
        engine.find = self._neighbour
        engine.attachments.store.users = self.network_users
        engine.attachments.store.runners = self.network_runners
        engine.attachments.store.joining = self._changes_links
        engine.attachments.claims.is_gateway = engine.attachments.has_gateway
        engine.attachments.addresses_of = lambda identity: self._by_id[identity].network.targets()
        engine.attachments.claims.name_of = lambda identity: self._by_id[identity].name
        engine.user_namespaces = lambda: {container.id: container.spec.userns for container in self}
        engine.remove = self.remove
        engine.on_networks = self._refresh_joined

    def __iter__(self) -> Iterator[Container]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Container | None:
        return self._by_name.get(name)

    def by_id(self, identity: str) -> Container | None:
        return self._by_id.get(identity)

    def _neighbour(self, name: str) -> Neighbour | None:
        found = self._by_name.get(name)
        if found is None and name:
            found = next((each for each in self if each.record.before == name), None)
        return None if found is None else Neighbour(found.id, found.name, found.state, found.spec, found.process.pidfd)

    def _processes(self) -> list[Process]:
        return [process for container in self for process in container.processes()]

    def _process(self, identity: str) -> Process | None:
        """Whom the monitor calls that."""
        container, _, executed = identity.partition(".")
        found = self._by_id.get(container)
        if found is None or not executed:
            return None if found is None else found.process
        each = found.execs.by_id(executed)
        return None if each is None else each.process

    async def create(self, name: str) -> Container:
        """mkdir: a container with its cgroup, and every default."""
        checked_name(name)
        if any(container.record.before == name for container in self):
            async with self.renaming.lock:
                await self.renaming.free(name)
        if name in self._by_name:
            raise Exists(f"containers/{name} exists")
        record = new_record(secrets.token_hex(32), name)
        container = Container(self.engine, record, Spec())
        self._by_name[name] = self._by_id[record.id] = container
        try:
            await trio.to_thread.run_sync(self._make, container)
        except BaseException:
            del self._by_name[name], self._by_id[record.id]
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._unmake, container)
            raise
        self.engine.settler.touched(container.directory / "state.json")
        self.engine.events.publish("container", name, "create", id=record.id)
        return container

    def _make(self, container: Container) -> None:
        container.cgroup.create()
        container.directory.mkdir(mode=0o700)
        for name in ("log", "log.index"):
            (container.directory / name).touch(mode=0o600)
        settler = self.engine.settler
        settler.replace(container.directory / "spec.toml", container.spec.to_toml())
        settler.replace(container.directory / "state.json", printed(kept(container.record)))

    def _unmake(self, container: Container) -> None:
        self.engine.settler.forget(container.directory)
        shutil.rmtree(container.directory, ignore_errors=True)
        container.cgroup.remove()

    async def remove(self, name: str) -> None:
        """rmdir: Busy while it runs, while somebody is in its rootfs, or while foreign processes are in its cgroup."""
        container = self._by_name.get(name)
        if container is None:
            raise NotFound(f"containers/{name} does not exist")
        if container.pauses.reading:  # the kernel lets nobody look a name up here while rmdir(2) waits
            raise Busy(f"{name} is being committed: wait until that is done, or end it")
        async with container.lock:
            if container.alive:
                raise Busy(f"{name} is {container.state}: stop it first")
            await container.root.detach()
            trash = self.directory / f".trash-{container.id}"
            await trio.to_thread.run_sync(self._take_away, container, trash)
            del self._by_name[container.name], self._by_id[container.id]  # it may have been renamed meanwhile
            self.engine.ranges.forget(container.id)
            give_back = container.network.gone()
        await self.engine.on_removed(container)
        for process in container.processes():
            process.tell_end()
        container.health.removed()
        self.engine.events.publish("container", name, "remove", id=container.id)
        self.engine.spawn(lambda: self._clear(container, trash, give_back))

    def _take_away(self, container: Container, trash: Path) -> None:
        container.cgroup.remove()
        os.rename(container.directory, trash)
        self.engine.settler.forget(container.directory)

    async def _clear(self, container: Container, trash: Path, give_back: Callable[[], Awaitable[None]]) -> None:
        with trio.move_on_after(GRACE, shield=True):
            await give_back()  # first, as somebody may want that address at once
            await container.root.close()
            await container.secrets.forget()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(remove_tree, trash)

    async def rename(self, name: str, new: str) -> None:
        """mv: also while it runs. Who joins it names it anew."""
        async with self.renaming.lock:
            await self._rename(name, new)

    async def _rename(self, name: str, new: str) -> None:
        container = self._by_name.get(name)
        if container is None:
            raise NotFound(f"containers/{name} does not exist")
        checked_name(new)
        if new == name:
            return
        await self.renaming.tell(container)  # of the last time, if that found no room on the disk
        await self.renaming.free(new)
        if new in self._by_name:
            raise Exists(f"containers/{new} exists")
        if self._by_name.get(name) is not container:
            raise NotFound(f"containers/{name} does not exist")  # any more
        self._by_name[new] = self._by_name.pop(name)
        container.record.name, container.record.before = new, name
        try:
            await container.save()
        except OSError:
            self._by_name[name] = self._by_name.pop(new)
            container.record.name, container.record.before = name, ""
            raise
        await self.renaming.container(container)
        if container.record.pid:
            await container.network.renamed()
        self.engine.events.publish("container", new, "rename", before=name)

    def network_users(self, name: str) -> tuple[str, ...]:
        """The containers whose settings have the network *name*, which may be host or none."""
        return tuple(container.name for container in self if name in named(container.spec.network))

    def network_runners(self, name: str) -> tuple[str, ...]:
        """Those of them that run, or are being started."""
        return tuple(
            each
            for each in self.network_users(name)
            if (found := self._by_name[each]).alive or found.network.lock.locked()
        )

    def _changes_links(self, identity: str) -> bool:
        container = self._by_id.get(identity)
        return container is not None and container.network.lock.locked()

    async def _refresh_joined(self, name: str) -> None:
        """Who has joined the network of *name* has the same resolvers."""
        for container in tuple(self):
            if container.record.pid and joined(container.spec.network) == name:
                with suppress(OSError):  # it ends in this moment
                    await container.network.refresh()

    def volume_users(self, name: str) -> tuple[str, ...]:
        """The containers whose settings have the volume *name*."""
        return tuple(
            container.name
            for container in self
            if any(item.startswith(f"{name}:") for item in container.spec.volumes or ())
        )

    # after a death

    def read(self) -> None:
        """Read what is on disk, and undo what was half done. Blocks; before anything else."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        roots = self.engine.run / "roots"
        for place in roots.iterdir() if roots.is_dir() else ():
            try:
                detach(place)
            except OSError:
                syscalls.umount2(str(place), syscalls.MNT_DETACH)
        for directory in sorted(self.directory.iterdir()):
            self._read_one(directory)
        for name in self.engine.hierarchy.names() - self._by_id.keys():
            if _ID.fullmatch(name):  # made for a container that did not get as far as a directory
                with suppress(Busy):
                    self.engine.hierarchy.cgroup(name).remove()

    def _read_one(self, directory: Path) -> None:
        settler = self.engine.settler
        values = None if directory.name.startswith(".") else settler.read_json(directory / "state.json")
        if values is None:
            remove_tree(directory)
            if not directory.name.startswith("."):
                self.engine.hierarchy.cgroup(directory.name).remove()
            return
        clear_halves(directory)
        try:
            record = record_of(values)
            spec = Spec.from_toml(settler.read(directory / "spec.toml"))
        except (TypeError, OSError, Invalid) as error:
            log.error("the container in %s can't be read and is left alone: %s", directory, error)
            return
        if record.range:
            self.engine.ranges.note(record.id, record.range)
        container = Container(self.engine, record, spec)
        if not container.cgroup.exists():
            container.cgroup.create()
            container.cgroup.apply(spec.cgroup)
        container.execs.read()
        self._by_name[record.name] = self._by_id[record.id] = container

    async def adopt(self) -> None:
        """Take up what still runs, and take note of what has ended meanwhile."""
        self.engine.spawn(lambda: oom.watch(self))
        await self.renaming.finish()
        alive = await self.engine.monitor.alive()
        exits = await trio.to_thread.run_sync(read_exits, str(self.engine.run))
        followed = frozenset(await self.engine.logger.followed())
        left = Left(alive, {gone.id: gone for gone in exits}, await self.engine.keeper.list(), followed)
        limit = trio.CapacityLimiter(_ADOPTED_AT_ONCE)

        async def adopt(container: Container) -> None:
            async with limit:
                await container.adopt(left)

        async with trio.open_nursery() as nursery:
            for container in tuple(self):
                nursery.start_soon(adopt, container)
        for pidfd in alive.values():
            os.close(pidfd)
        for gone in exits:
            if self._process(gone.id) is None:
                await self.engine.monitor.forget(gone.id, gone.pid)
        await self.let_go()
        await trio.to_thread.run_sync(
            self._clear_runs, tuple(self), {process.id for process in self._processes() if process.running}
        )
        await self.engine.attachments.store.forget_all_but(self._by_id)
        await self._readdress()
        self.engine.adopted.set()

    async def _readdress(self) -> None:
        """The options may say other addresses of the default network than last time."""
        try:
            await self.engine.attachments.store.agree()
        except (PydockError, OSError) as error:
            log.warning("networks/%s is not as the options say: %s", DEFAULT, words_of(error))
            self.engine.failures.add(f"networks/{DEFAULT}", f"not as the options say: {words_of(error)}")

    async def let_go(self, *, ending: bool = False) -> None:
        """Have the small processes forget what no container needs: a death, or an end, came between two steps. Roots of those that do
        not run are needed until pydockd is *ending*, which holds them as well: two unions of one container would break it."""
        await self.engine.attachments.names.let_go()
        wanted = {each.root.key for each in self if not ending or each.alive or each.root.attached}
        running = {process.id: process for process in self._processes() if process.running}
        wanted |= {process.streams.stdio.key for process in running.values()}
        wanted |= {container.secrets.key for container in self if container.secrets.any}
        for key in (await self.engine.keeper.list()).keys() - wanted:
            await self.engine.keeper.drop(key)
        for identity in await self.engine.logger.followed():
            if identity not in running:
                await self.engine.logger.unfollow(identity)

    def _clear_runs(self, containers: tuple[Container, ...], living: set[str]) -> None:
        """Remove what runs have left of processes that do not run."""
        for place in ("io", "etc"):  # the second of a version that kept those files there
            directory = self.engine.run / place
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.name not in living:
                    shutil.rmtree(path, ignore_errors=True)
        for container in containers:
            if container.id not in living:
                remove_files(container.runs.place.files)

    async def take_exits(self) -> None:
        """Take note of every exit that the monitor tells, until cancelled."""
        async for gone in self.engine.monitor.exits:
            self._take(gone)

    def take_missed(self) -> None:
        """Those that the monitor noted while nobody was connected to it. What was told already does no harm."""
        for gone in read_exits(str(self.engine.run)) if self.engine.adopted.is_set() else ():
            self._take(gone)

    def _take(self, gone: Exit) -> None:
        process = self._process(gone.id)
        if process is not None:
            self.engine.spawn(lambda: process.exited(gone.status, gone.time, gone.pid))
        else:
            self.engine.spawn(lambda: persistently(lambda: self.engine.monitor.forget(gone.id, gone.pid)))

    def monitor_died(self) -> None:
        """Its children are orphans now: an exit it had noted counts, the others are watched by pidfd."""
        self.engine.monitors += 1
        if self.engine.adopted.is_set():
            self._take_orphans()
        else:
            self.engine.spawn(self._take_orphans_later)

    async def _take_orphans_later(self) -> None:
        """Who is being taken up must not end meanwhile: it would be taken for one that runs when it is gone."""
        await self.engine.adopted.wait()
        self._take_orphans()

    def _take_orphans(self) -> None:
        ended = {gone.id: gone for gone in read_exits(str(self.engine.run))}
        for process in self._processes():
            process.monitor_died(ended.get(process.id))

    def logger_said(self, message: Message) -> None:
        """An event of the logger's: when a log takes no bytes, people have to know why a container stands still."""
        if message.get("event") == "full" and (process := self._process(text(message, "id"))) is not None:
            process.log_is_full(text(message, "words"))

    async def logger_is_new(self, logger: Logger) -> None:
        """Have it follow all that run."""
        for process in self._processes():
            await process.streams.follow_again(logger)

    async def keeper_is_new(self, keeper: Keeper) -> None:
        """Give it again what pydockd can give."""
        for container in tuple(self):
            await container.keep_again(keeper)
