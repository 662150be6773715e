"""``secrets/``: a file a secret. Writing a name makes one, rm removes it; what is read can be written back."""

from __future__ import annotations

from collections.abc import Sequence

from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Blob, Directory, File, Node
from pydock.runtime.formats import checked_name
from pydock.runtime.secretfiles import LARGEST, canonical, is_line


class SecretsDirectory(Directory):
    """The secrets of one container."""

    scratchable = True
    growing = True
    unsteady = True

    def __init__(self, subject: ContainerSubject) -> None:
        super().__init__("secrets", None, subject, (), prefix="secrets/")
        self._container = subject.container
        self._nodes: dict[str, File] = {}
        self._made: set[str] = set()  # created, and not written yet

    def dynamic(self, name: str) -> Node | None:
        if name not in self.dynamic_names():
            return None
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = File(self._entry(name), self)
        return node

    def dynamic_names(self) -> Sequence[str]:
        return sorted({*self._container.secrets.names(), *self._made})

    def _entry(self, name: str) -> Blob:  # type: ignore[type-arg]  # its subject is not asked
        def show(subject: object) -> bytes:
            value = self._container.secrets.read(name)
            return value + b"\n" if value and is_line(value) else value

        async def store(subject: object, data: bytes | None) -> None:
            if data is None:
                self._made.discard(name)
                return
            await self._container.secrets.put(name, canonical(data))
            self._made.discard(name)

        return Blob(name=name, largest=LARGEST, show=show, store=store, doc="A secret of the container's.")

    async def create(self, name: str) -> None:
        """It is there, empty, when it is closed without a write; a write that is refused leaves nothing."""
        self._made.add(checked_name(name))

    async def unlink(self, name: str) -> None:
        self._nodes.pop(name, None)
        self._made.discard(name)
        self.subject.metadata.files.pop(self.prefix + name, None)
        if name in self._container.secrets.names():
            await self._container.secrets.take(name)
