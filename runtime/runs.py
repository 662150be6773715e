"""How a container's runs are set up, and what they leave is cleared."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio
from pydock.runtime import launching, oom, reaper, sharing, systemd
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.confine.user import resolve
from pydock.runtime.confine.userns import AUTO, IdMap, in_force
from pydock.runtime.engine import Defaults, Source
from pydock.runtime.errors import Invalid, NotFound, PydockError, words_of
from pydock.runtime.monitor import launch as plain
from pydock.runtime.network.etc import HOSTS
from pydock.runtime.process import Aside
from pydock.runtime.shifting import Shift
from pydock.runtime.tasks import nothing, side_by_side

if TYPE_CHECKING:
    from pydock.runtime.container import Container


class Runs:
    """Those of *container*, one after another."""

    def __init__(self, container: Container) -> None:
        self._container = container
        engine, identity = container.engine, container.id
        self.place = launching.Place(
            identity,
            container.directory,
            engine.mountpoint,
            engine.root / "cache" / "seccomp",
            engine.volumes.directory,
        )

    async def begin(self) -> str:
        """Start it, with the lock; the outcome in words."""
        container = self._container
        container.record.leaving = False
        image = container.spec.image
        if image is None:
            raise Invalid(f"{container.name} has no image: write one into image first")
        if not container.cgroup.exists():  # no disk is asked
            await trio.to_thread.run_sync(self._make_cgroup)
        if frozen(container.cgroup):  # by somebody's hand, or a death: what is born in it would never run
            await trio.to_thread.run_sync(container.cgroup.thaw)
        oom.note(container)
        given = await self._look_up()

        async def prepare(stack: ExitStack, aside: Aside) -> tuple[plain.Launch, list[int]]:
            source = container.source(image)
            if container.spec.volumes:  # which may be filled from the image
                await container.root.union(source)
                await container.volumes.claim(container.spec.volumes)
            return await self._connected(await self._opened(given, stack), source, stack, aside)

        container.record.namespaces, name = (), container.name
        async with container.network.lock, container.volumes.lock:
            first, fds = launching.first(container.id, container.spec, container.cgroup, given)
            try:
                with oom.told(container):
                    warnings = await container.process.start(first, prepare, fds=fds, terminal=bool(container.spec.tty))
            except BaseException:
                container.volumes.ended()
                with trio.CancelScope(shield=True):
                    await container.network.unpublish()
                    await trio.to_thread.run_sync(launching.remove_files, self.place.files)
                raise
        if container.name != name:
            container.engine.spawn(container.network.renamed)
        if warnings:
            container.failed("; ".join(warnings))
        return f"started, pid {container.record.pid}"

    async def _look_up(self) -> launching.Given:
        """What a start depends on beyond settings and image."""
        container = self._container
        joined = sharing.look_up(container.spec, container.name, container.engine.find)
        ids = self.ids()
        shift = None if ids is None else Shift(-1, ids)
        if not container.spec.systemd:
            return launching.Given(joined, shift=shift)
        owner = 0 if ids is None else ids.uid
        return launching.Given(joined, await trio.to_thread.run_sync(systemd.delegate, container.cgroup, owner), shift)

    async def _opened(self, given: launching.Given, stack: ExitStack) -> launching.Given:
        """With a user namespace that has the mapping, until *stack* is left."""
        if given.shift is None:
            return given
        userns = await self._container.engine.monitor.user_namespace(*given.shift.ids)
        stack.callback(os.close, userns)
        return dataclasses.replace(given, shift=Shift(userns, given.shift.ids))

    async def _connected(
        self, given: launching.Given, source: Source, stack: ExitStack, aside: Aside
    ) -> tuple[plain.Launch, list[int]]:
        """The launch; its network is set up while it is made."""
        network = self._container.network
        descriptor, connect = await network.prepare(stack, self.ids())
        whole = dataclasses.replace(given, network=descriptor, etc=network.naming.etc())
        made: list[tuple[plain.Launch, list[int]]] = []

        async def make() -> None:
            """The union is the keeper's when the launch is sent, as soon as it takes it: its answer need not be awaited for that."""
            root, sent = self._container.root, trio.Event()
            made.append(await root.used(source, lambda union: self._prepare(source.defaults, union, stack, whole)))
            aside(lambda: root.keep_used(sent.set))
            await sent.wait()

        left: list[Callable[[], Awaitable[None]]] = []

        async def publish() -> None:
            left.append(await network.publish())

        if connect is nothing:  # without links the others have nothing to wait for
            await publish()
            await network.naming.tell()
            await make()
        else:
            await side_by_side(connect, publish, network.naming.tell, make)
        for call in left:  # while the program begins
            aside(call)
        return made[0]

    def _prepare(
        self, defaults: Defaults, union: int, stack: ExitStack, given: launching.Given
    ) -> tuple[plain.Launch, list[int]]:
        container = self._container
        container.process.streams.open_pipes(stack, None if given.shift is None else given.shift.ids[:2])
        stdio = container.process.streams.stdio.paths
        launch, fds = launching.prepare(self.place, container.spec, defaults, container.cgroup, stack, stdio, given)
        fds[0] = container.engine.images.clone(union)
        stack.callback(os.close, fds[0])
        launch = launch._replace(parts=container.root.parts)
        container.volumes.launched(container.spec.volumes or (), launch, fds)
        before = len(fds)
        launch = container.secrets.launched(launch, fds, self.owner() if container.secrets.any else (0, 0))
        for fd in fds[before:]:
            stack.callback(os.close, fd)
        return launch, fds

    def _make_cgroup(self) -> None:
        container = self._container
        container.cgroup.create()
        container.cgroup.apply(container.spec.cgroup)

    def ids(self) -> IdMap | None:
        """The mapping of its user namespace, None without one; of ``auto`` it is its own from the first time on."""
        container = self._container
        ids = in_force(container.spec.userns, container.id, container.engine.ranges, container.engine.user_namespaces)
        if ids is not None and container.spec.userns == AUTO and container.record.range != ids.uid:
            container.record.range = ids.uid
            container.save_soon()
        return ids

    def owner(self) -> tuple[int, int]:
        """The user and group that its process has or would have; root's when that is not known."""
        container = self._container
        user = container.spec.user if container.spec.user is not None else container.defaults().user
        try:
            who = resolve(user, container.root.read("etc/passwd"), container.root.read("etc/group"))
        except (Invalid, NotFound):
            return 0, 0
        ids = self.ids()
        return (who.uid, who.gid) if ids is None else (ids.uid + who.uid, ids.gid + who.gid)

    async def found_owner(self) -> tuple[int, int]:
        """``owner``, also where the root has not been opened since pydockd was started."""
        if self._container.record.pid:
            await self._union()  # to look its user up in
        return self.owner()

    async def _union(self) -> int:
        container = self._container
        assert container.spec.image is not None
        return await container.root.union(container.source(container.spec.image))

    def _clear(self) -> None:
        """What a run leaves besides its output."""
        container = self._container
        launching.remove_files(self.place.files)
        self.place = dataclasses.replace(self.place, files=container.directory)
        if container.spec.systemd or container.spec.privileged:
            systemd.take_back(container.cgroup)
        if frozen(container.cgroup):
            container.cgroup.thaw()

    async def clear(self) -> None:
        """A run has ended: clear what it leaves besides its output."""
        container = self._container
        container.volumes.ended()
        await container.network.unpublish()
        await oom.tell(container)  # before cgroups below it go, with their counters
        await trio.to_thread.run_sync(self._clear)

    async def agree(self) -> None:
        """It has gone on while pydockd was away: make good what the death has left half done to its mounts."""
        container = self._container
        await oom.tell(container)
        before = container.engine.run / "etc" / container.id
        if (before / HOSTS).exists():  # a pydockd that kept them there began it
            self.place = dataclasses.replace(self.place, files=before)
        container.network.adopt()
        items = container.spec.volumes or ()
        found = container.process.found
        agreements = {
            "volumes": lambda: container.volumes.agree(items, found=found),
            "secrets": container.secrets.agree,
            "network": container.network.agree,
        }
        for what, agree in agreements.items():
            try:
                await agree()
            except (PydockError, OSError) as error:
                container.failed(f"{what}: not as they were set: {words_of(error)}")

    async def send_signal(self, number: int) -> None:
        """Signal its first process; nothing when it has just gone."""
        container = self._container
        if container.spec.init and number not in (signal.SIGKILL, signal.SIGSTOP):
            await reaper.taking_signals(container.record.pid)
        container.process.send_signal(number)

    def shares_pids(self) -> bool:
        """Whether its PID namespace is not its own."""
        return not sharing.own_namespace(self._container.spec.pid_mode)

    async def end_members(self) -> None:
        """Its first process has ended: with a PID namespace that is not its own the kernel does not end the others."""
        if self.shares_pids():
            if self._container.state == "paused":
                await trio.to_thread.run_sync(self._container.cgroup.thaw)
            await trio.to_thread.run_sync(self._container.members.kill)

    async def end_strays(self) -> None:
        """It does not run: end what a start that nobody was told of may have left."""
        await trio.to_thread.run_sync(
            self._container.members.kill if self.shares_pids() else self._container.members.kill_strays
        )


def frozen(cgroup: Cgroup) -> bool:
    """Whether what is in *cgroup*, and what comes into it, stands still."""
    try:
        return cgroup.is_frozen()
    except (PydockError, OSError):
        return False
