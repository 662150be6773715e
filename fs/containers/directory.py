"""``containers/``: mkdir makes a container, rmdir removes it, mv renames it."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Sequence
from typing import cast

from pydock.fs.containers.cgroup import cgroup_directory
from pydock.fs.containers.execs import ExecsDirectory
from pydock.fs.containers.health import health_directory
from pydock.fs.containers.secrets import SecretsDirectory
from pydock.fs.containers.settings import SETTINGS
from pydock.fs.containers.status import STATUS
from pydock.fs.containers.streams import STREAMS
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.handle import touched
from pydock.fs.imagefiles import Images
from pydock.fs.node import Directory, Entry, File, Folder, Node, Refused, Subject
from pydock.fs.subject import Place
from pydock.runtime.container import Container
from pydock.runtime.containers import Containers
from pydock.runtime.execs import Exec

TABLE: tuple[Entry[ContainerSubject], ...] = (
    *STATUS,
    *STREAMS,
    *SETTINGS,
    Folder(
        name="cgroup",
        make=cgroup_directory,
        doc="The container's cgroup with cgroup v2's files, whatever the kernel has; there from mkdir on, live. v1 names (tasks, "
        "cpu.cfs_quota_us, memory.limit_in_bytes, …) open too, without being listed.",
    ),
    Folder(
        name="health",
        make=health_directory,
        doc="The check of what runs in it: what is run, when, and what it has found.",
    ),
    Folder(
        name="exec",
        make=ExecsDirectory,
        doc="mkdir in it makes a further process of the container, rmdir forgets one that does not run, mv renames it.",
    ),
    Folder(
        name="secrets",
        make=SecretsDirectory,
        doc="A file a secret: ``echo VALUE > secrets/NAME`` (or cp) makes or replaces one, rm removes it, reading gives it back. "
        "Inside it is /run/secrets/NAME, mode 0400, owned by the container's user; a container that runs sees each change at once. A "
        "line of text loses its newline, anything else is kept byte for byte. At most 1 MiB each (EFBIG), 16 MiB together (ENOSPC). "
        "They are in memory (from Linux 6.4 on never swapped): not on a disk, not in spec.toml, inspect.json, a writable layer or a "
        "commit; there after the engine's end and death, gone with the container or a reboot.",
    ),
)


class ContainerDirectory(Directory):
    """``containers/NAME/``."""

    scratchable = True

    def __init__(self, container: Container, images: Images, parent: Directory) -> None:
        subject = ContainerSubject(container, images)
        super().__init__(container.name, parent, subject, cast("tuple[Entry[Subject], ...]", TABLE))
        self.container = container


class ContainersDirectory(Directory):
    """``containers/``."""

    def __init__(self, containers: Containers, images: Images, parent: Directory) -> None:
        super().__init__("containers", parent, Place("containers", containers.engine), ())
        self._containers = containers
        self._images = images
        self._nodes: dict[str, ContainerDirectory] = {}  # by id: a rename keeps the node
        self._asked: set[str] = set()  # names that rmdir(2) is at work on
        containers.engine.on_set = self._set

    def dynamic(self, name: str) -> Node | None:
        container = self._containers.get(name)
        if container is None:
            return None
        node = self._nodes.get(container.id)
        if node is None:
            node = self._nodes[container.id] = ContainerDirectory(container, self._images, self)
        return node

    def dynamic_names(self) -> Sequence[str]:
        return [container.name for container in self._containers]

    async def make(self, name: str) -> None:
        await self._containers.create(name)

    async def remove(self, name: str) -> None:
        self._asked.add(name)
        try:
            await self._containers.remove(name)
        finally:
            self._asked.discard(name)

    def forget(self, container: Container) -> bool:
        """It has been removed. Whether the kernel has not heard of that: nobody asked for it by rmdir(2)."""
        self._nodes.pop(container.id, None)
        return container.name not in self._asked

    async def rename(self, name: str, new: str) -> None:
        if self._containers.get(new) is not None and name != new:
            raise Refused(errno.EEXIST, f"containers/{new} exists")
        await self._containers.rename(name, new)

    async def settled_all(self) -> None:
        """Return when what was closed of any container's settings has been stored."""
        for node in tuple(self._nodes.values()):
            await node.subject.metadata.settled()

    def _set(self, what: object, names: Collection[str]) -> None:
        """Settings of a container became others, without anybody's write of their files *names*."""
        assert isinstance(what, Container)
        directory = self.dynamic(what.name) if self._containers.get(what.name) is what else None
        for name in names:
            node = directory
            for part in name.split("/"):
                node = node.static(part) if isinstance(node, Directory) else None
            if isinstance(node, File):
                touched(node)
        what.engine.on_change(what)

    def files_of(self, what: Container | Exec) -> Iterable[Node]:
        """The files of a container or of one of its processes that anybody has looked at."""
        directory: Directory | None = self._nodes.get(what.id if isinstance(what, Container) else what.container.id)
        if isinstance(what, Exec) and directory is not None:
            execs = directory.files.get("exec")
            directory = execs.node(what) if isinstance(execs, ExecsDirectory) else None
        if directory is None:
            return ()
        health = directory.files.get("health")
        return [*directory.files.values(), *(health.files.values() if isinstance(health, Directory) else ())]
