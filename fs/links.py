"""A directory of links to containers: those that use an object."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydock.fs.node import Directory, File, Link, Node, Subject


class ContainerLinks(Directory):
    """``NAME/`` in the directory of *subject*: a link to each of the containers that *users* tells, once *settled* has returned."""

    unsteady = True

    def __init__(
        self,
        name: str,
        subject: Subject,
        users: Callable[[], Sequence[str]],
        settled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(name, None, subject, (), prefix=f"{name}/")
        self._users = users
        self._settled = settled
        self._links: dict[str, File] = {}

    async def settled(self) -> None:
        if self._settled is not None:
            await self._settled()

    def dynamic(self, name: str) -> Node | None:
        if name not in self.dynamic_names():
            return None
        if name not in self._links:
            up = "../" * (self.subject.label.count("/") + 2)

            async def target(subject: Subject) -> str:
                return f"{up}containers/{name}"

            self._links[name] = File(Link(name=name, target=target, doc="A container that uses it."), self)
        return self._links[name]

    def dynamic_names(self) -> Sequence[str]:
        return self._users()
