"""``volumes/``: mkdir makes a named volume, rmdir removes one that no container names, mv renames it, there as well."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import trio
from pydock.fs.links import ContainerLinks
from pydock.fs.metadata import Attributes, Metadata
from pydock.fs.node import Directory, Entry, Folder, Link, List, Node, Report, Subject, Value
from pydock.fs.subject import Place
from pydock.runtime.containers import Containers
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Busy
from pydock.runtime.formats import now, parse_label
from pydock.runtime.trees import remove_tree, size_of
from pydock.runtime.volumestore import NamedVolume


class VolumeSubject:
    """One volume, as the subject of its directory."""

    def __init__(self, volume: NamedVolume, engine: Engine, settled: Callable[[], Awaitable[None]]) -> None:
        self.volume = volume
        self.engine = engine
        self.error_changed = volume.created
        self.settled = settled  # when what was closed of containers' settings is stored
        kept = {path: Attributes(*values) for path, values in volume.files.items()}
        self.metadata = Metadata(born=volume.created, files=kept, changed=self._keep)

    def _keep(self) -> None:
        self.volume.files = self.metadata.plain()
        self.engine.spawn(self._save)

    async def _save(self) -> None:
        try:
            await self.engine.volumes.save(self.volume)
        except OSError:  # a full disk; times and modes may wait
            self.engine.settler.owe(self._save)

    @property
    def label(self) -> str:
        return f"volumes/{self.volume.name}"

    def failed(self, words: str) -> None:
        self.volume.error = words
        self.error_changed = now()
        self.engine.failures.add(self.label, words)

    def succeeded(self) -> None:
        if self.volume.error:
            self.volume.error = ""
            self.error_changed = now()


V = VolumeSubject


async def _data(subject: V) -> str:
    return str(subject.engine.volumes.data(subject.volume.name))


async def _size(subject: V) -> str:
    return f"{await trio.to_thread.run_sync(size_of, subject.engine.volumes.data(subject.volume.name))}\n"


async def _store_labels(subject: V, items: tuple[str, ...] | None) -> None:
    await subject.engine.volumes.change_labels(subject.volume.name, items)


def _users(subject: V) -> ContainerLinks:
    return ContainerLinks(
        "used_by", subject, lambda: subject.engine.volumes.users(subject.volume.name), lambda: subject.settled()
    )


VOLUME: tuple[Entry[V], ...] = (
    Link(
        name="data",
        target=_data,
        doc="Where its files are. Root may read and change them at any time.",
    ),
    Report(name="size", render=_size, doc="Bytes that its files take on the disk, hard links once, as du(1) tells."),
    List(
        name="labels",
        verbatim=True,
        show=lambda v: v.volume.labels or (),
        own=lambda v: v.volume.labels,
        parse=lambda v, line: (parse_label(line),),
        store=_store_labels,
        key=lambda item: item.partition("=")[0],
        doc="Notes of yours, NAME=VALUE a line.",
    ),
    Value(name="driver", show=lambda v: "local", doc="``local``: a directory of this machine."),
    Value(
        name="error",
        volatile=True,
        changed=lambda v: v.error_changed,
        show=lambda v: v.volume.error or None,
        doc="One line on what failed last, as why it can't be removed. Empty after the next success.",
    ),
    Folder(
        name="used_by",
        make=_users,
        doc="A link to each container whose ``volumes`` have it, running or not.",
    ),
)


class VolumeDirectory(Directory):
    """``volumes/NAME/``."""

    scratchable = True

    def __init__(self, subject: VolumeSubject, parent: Directory) -> None:
        super().__init__(subject.volume.name, parent, subject, cast("tuple[Entry[Subject], ...]", VOLUME))


class VolumesDirectory(Directory):
    """``volumes/``."""

    def __init__(self, containers: Containers, settled: Callable[[], Awaitable[None]], parent: Directory) -> None:
        self._engine = containers.engine
        self._containers_settled = settled
        super().__init__("volumes", parent, Place("volumes", self._engine), ())
        self._containers = containers
        self._nodes: dict[str, VolumeDirectory] = {}

    def dynamic(self, name: str) -> Node | None:
        volume = self._engine.volumes.get(name)
        if volume is None:
            return None
        node = self._nodes.get(name)
        if node is None or cast(VolumeSubject, node.subject).volume is not volume:
            node = self._nodes[name] = VolumeDirectory(
                VolumeSubject(volume, self._engine, self._containers_settled), self
            )
        return node

    def dynamic_names(self) -> Sequence[str]:
        return [volume.name for volume in self._engine.volumes]

    async def make(self, name: str) -> None:
        await self._engine.volumes.create(name)

    async def remove(self, name: str) -> None:
        await self._containers_settled()
        trash = await self._engine.volumes.remove(name)
        self._nodes.pop(name, None)

        async def clear() -> None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(remove_tree, trash)

        self._engine.spawn(clear)

    async def rename(self, name: str, new: str) -> None:
        await self._containers.renaming.volume(name, new)
        if name != new and (node := self._nodes.pop(name, None)) is not None:
            node.name = new
            self._nodes[new] = node

    async def prune(self) -> tuple[str, ...]:
        """Remove every volume that no container names; their names."""
        removed = []
        for name in tuple(self.dynamic_names()):
            try:
                await self.remove(name)
            except Busy:
                continue
            removed.append(name)
        return tuple(removed)
