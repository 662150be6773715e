"""How a container's settings change: what is set is kept on disk, and what is live reaches the running container."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio
from pydock.runtime import sharing
from pydock.runtime.cgroup.aliases import set_by
from pydock.runtime.errors import Busy, PydockError, words_of
from pydock.runtime.network.words import renamed
from pydock.runtime.settings import Settings
from pydock.runtime.spec import Spec

if TYPE_CHECKING:
    from pydock.runtime.container import Container

#: Settings that may change while it runs.
LIVE: Final = frozenset(
    [
        "restart",
        "stop_signal",
        "stop_timeout",
        "log_max",
        "oom_score_adj",
        "volumes",
        "cgroup",
        "network",
        "ports",
        "dns",
        "hosts",
    ]
)
#: Those of them that are about its networks.
_NETWORK: Final = ("network", "ports", "dns", "hosts")


def _file(setting: str) -> str:
    """Where people find the field *setting* of the spec."""
    return setting.replace("health_", "health/")


def _differing(one: Spec, other: Spec) -> list[str]:
    """The files of the settings that are not the same in both."""
    names = [each.name for each in dataclasses.fields(Spec) if each.name != "cgroup"]
    limits = {**one.cgroup, **other.cgroup}
    return [
        *(_file(name) for name in names if getattr(one, name) != getattr(other, name)),
        *(f"cgroup/{name}" for name in limits if one.cgroup.get(name) != other.cgroup.get(name)),
    ]


class Configuration:
    """The settings of *container*. A change that can't be kept, or that a running container refuses, changes nothing."""

    def __init__(self, container: Container, spec: Spec) -> None:
        self._container = container
        self._settings = Settings(spec, container.directory, container.engine.settler)
        self._limits = trio.Lock()  # of changes of the cgroup's limits

    @property
    def spec(self) -> Spec:
        """What was set."""
        return self._settings.spec

    async def change(self, setting: str, value: object, *, live: bool = False) -> None:
        """Set (or, with None, unset) a field of the spec, and keep it. Busy while running unless it is *live*."""
        container = self._container
        if not live:
            self.refuse_alive(setting)
        await self._settings.change(
            lambda spec: dataclasses.replace(spec, **{setting: value})  # type: ignore[arg-type]
        )
        container.engine.events.publish("container", container.name, "set", setting=_file(setting))

    def refuse_alive(self, setting: str) -> None:
        """Busy while the container runs."""
        container = self._container
        if container.alive:
            raise Busy(f"{_file(setting)} can't be changed while {container.name} is {container.state}: stop it first")

    async def change_image(self, reference: str | None) -> None:
        """The image may change only as long as no writable layer was made on top of it."""
        if reference != self.spec.image:
            await self._free_image()
        await self.change("image", reference)

    async def rename_image(self, name: str, new: str) -> None:
        """An image got another name."""
        if self.spec.image == name:
            await self._settings.change(lambda spec: dataclasses.replace(spec, image=new))
            self._container.engine.on_set(self._container, ("image",))

    async def _free_image(self) -> None:
        """Busy while there is a writable layer. One in which nothing ran and nothing is was made for somebody who looked at rootfs,
        and goes."""
        container = self._container
        if container.record.layers:
            if container.record.started or await trio.to_thread.run_sync(container.root.touched):
                raise Busy(
                    f"image can't be changed: {container.name} has a writable layer on {self.spec.image}: "
                    "reset discards it"
                )
            await container.root.discard()

    async def change_volumes(self, items: tuple[str, ...] | None) -> None:
        """Set the volumes, in the container as well when it runs."""
        async with self._container.volumes.lock:
            await self._with_volumes(items, lambda: self.change("volumes", items, live=True))

    async def change_network(self, setting: str, items: tuple[str, ...] | None) -> None:
        """Set ``network``, ``ports``, ``dns`` or ``hosts``, in the container as well when it runs."""
        keep = partial(self.change, setting, items, live=True)
        await self._container.network.change(keep, **{setting: items})

    async def _with_volumes(self, items: tuple[str, ...] | None, keep: Callable[[], Awaitable[None]]) -> None:
        container = self._container
        if container.record.pid:
            await container.volumes.change(self.spec.volumes or (), items or (), keep)
        else:
            await keep()

    async def rename_volume(self, name: str, new: str) -> None:
        """A volume got another name: its mount stays what it is."""
        container = self._container
        async with container.volumes.lock:
            names = {item: new + item[len(name) :] for item in self.spec.volumes or () if item.startswith(f"{name}:")}
            if names:
                mounts = container.record.mounts
                container.record.mounts = {names.get(item, item): ids for item, ids in mounts.items()}
                items = tuple(names.get(item, item) for item in self.spec.volumes or ())
                await self._settings.change(lambda spec: dataclasses.replace(spec, volumes=items))
                await container.save()
                container.engine.on_set(container, ("volumes",))

    async def rename_network(self, name: str, new: str) -> None:
        """A network got another name: its links and addresses stay what they are."""
        container = self._container
        async with container.network.lock:
            items = tuple(renamed(item, name, new) for item in self.spec.network or ())
            if items != (self.spec.network or ()):
                await self._settings.change(lambda spec: dataclasses.replace(spec, network=items))
                container.readdressed()
                container.engine.on_set(container, ("network",))
                if container.engine.adopted.is_set():
                    await container.network.named_anew()

    async def rename_container(self, name: str, new: str) -> None:
        """Another container got another name: what is joined of it stays what it is."""
        container = self._container
        if sharing.renamed(self.spec, name, new) == self.spec:
            return  # without the lock, which a start that goes on has
        async with container.network.lock:
            before = self.spec
            await self._settings.change(lambda spec: sharing.renamed(spec, name, new))
            if self.spec is not before:
                container.engine.on_set(container, _differing(before, self.spec))

    async def apply_spec(self, spec: Spec) -> None:
        """Make *spec*, validated by the caller, the whole of the settings; those that are not live only while it doesn't run."""
        async with self._container.network.lock, self._container.volumes.lock:
            before = self.spec
            await self._apply_spec(spec)
            self._container.engine.on_set(self._container, _differing(before, self.spec))
        await self._container.restarts.review()  # with none of them: it may wait for a start
        self._container.engine.events.publish("container", self._container.name, "set", setting="spec.toml")

    async def _apply_spec(self, spec: Spec) -> None:
        container = self._container
        changed = {
            item.name for item in dataclasses.fields(Spec) if getattr(spec, item.name) != getattr(self.spec, item.name)
        }
        if container.alive and (fixed := changed - LIVE):
            raise Busy(
                f"{', '.join(sorted(fixed))} can't be changed while {container.name} is {container.state}: stop it first"
            )
        if "image" in changed:
            await self._free_image()
        before = self.spec

        async def keep() -> None:
            await self._with_volumes(spec.volumes, lambda: self._settings.change(lambda _: canonical))

        async with self._limiting() if "cgroup" in changed else nullcontext():
            try:
                canonical = await self._reach(spec, changed)
                await container.network.apply(keep, **{name: getattr(spec, name) for name in _NETWORK})
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._reach(before, changed)
                raise
        await container.process.streams.limit_log()

    async def _reach(self, spec: Spec, changed: Collection[str]) -> Spec:
        """Those of the *changed* settings that the kernel has, too; *spec* with limits as the kernel's files, read again, tell them."""
        if "cgroup" in changed:
            limits = await trio.to_thread.run_sync(self._apply_cgroup, spec.cgroup)
            spec = dataclasses.replace(spec, cgroup=MappingProxyType(limits))
        if "oom_score_adj" in changed:
            await self.set_oom_score(spec.oom_score_adj)
        return spec

    def _apply_cgroup(self, settings: Mapping[str, str]) -> dict[str, str]:
        container = self._container
        for name in set(container.cgroup.limits()) - set(settings):
            container.cgroup.write(name, "")
        container.cgroup.apply(settings)
        return container.cgroup.limits()

    async def write_cgroup(self, name: str, value: str, caller: int) -> None:
        """Write a file of the cgroup, for the process *caller*; what limits it then becomes part of the spec."""
        cgroup = self._container.cgroup
        if name.startswith("cgroup.") or name == "tasks":  # no limit: about the processes
            await trio.to_thread.run_sync(cgroup.write, name, value, caller)
            return

        in_force = False

        def write(spec: Spec) -> Spec:
            nonlocal in_force
            cgroup.write(name, value, caller)
            limits = cgroup.limits(name, spec.cgroup)
            in_force = True
            return dataclasses.replace(spec, cgroup=MappingProxyType(limits))

        async with self._limiting():
            before = self.spec.cgroup
            try:
                await self._settings.change_with(write)
            except OSError:
                if in_force:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._apply_cgroup, before)
                raise
        container, setting = self._container, f"cgroup/{set_by(name)}"
        if setting != f"cgroup/{name}":
            container.engine.on_set(container, (setting,))
        container.engine.events.publish("container", container.name, "set", setting=setting)

    @asynccontextmanager
    async def _limiting(self) -> AsyncIterator[None]:
        """The kernel has the limits first, then the settings: that is known on disk meanwhile, for :meth:`agree`."""
        container = self._container
        async with self._limits:
            container.record.limiting = True
            try:
                if not container.is_kept("limiting", True):  # by the change before
                    await container.save()
                yield
            finally:
                container.record.limiting = False
                container.save_soon()  # a death before that makes agree() find all well

    async def agree(self) -> None:
        """After pydockd's own restart: have the kernel's limits be those that are set, if the death left that open."""
        container = self._container
        if container.record.limiting:
            container.record.limiting = False
            try:
                await trio.to_thread.run_sync(self._apply_cgroup, self.spec.cgroup)
            except (PydockError, OSError) as error:
                container.failed(f"cgroup: not as it was set: {words_of(error)}")

    async def set_oom_score(self, value: int | None) -> None:
        """``oom_score_adj`` is about to become *value*."""
        container = self._container
        if container.record.pid:
            await trio.to_thread.run_sync(container.members.set_oom_score, value or 0)
