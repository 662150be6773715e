"""The keeper: holds descriptors for pydockd, so that what they stand for outlives it.

Kept are each container's ends of its named pipes (a pipe forgets its bytes when nobody has it open, and a reader of
stdin sees its end when the last writer is gone) and its detached union mount (which is undone with its last
descriptor). The process never reads from or writes to any of them. ``Keeper`` is pydockd's side.

Requests (``pydock.runtime.serving``): ``keep {id, names}`` + descriptors (one of a name that is there takes its place),
``get {id}`` -> ``{names}`` + descriptors, ``drop {id}`` or ``drop {id, name}``, ``list`` -> ``{kept: {id: names}}``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from pydock.runtime import wire
from pydock.runtime.serving import Options, Peer, Server, begin
from pydock.runtime.wire import Message, Requester


class Keeper:
    """pydockd's side: every method is one request, and raises ``Failed`` if the process can't do it."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def keep(self, id: str, fds: Mapping[str, int], sent: Callable[[], None] | None = None) -> None:
        """Has duplicates of *fds* kept under their names; *sent* as of ``Requester.request``."""
        await self._requester.request({"do": "keep", "id": id, "names": list(fds)}, list(fds.values()), sent)

    async def get(self, id: str) -> dict[str, int]:
        """Duplicates of all that is kept for *id*, the caller's to close; nothing if there is nothing."""
        answer, fds = await self._requester.request({"do": "get", "id": id})
        return dict(zip(wire.texts(answer, "names"), fds, strict=True))

    async def drop(self, id: str, name: str | None = None) -> None:
        """Closes one descriptor of *id*, or all; it is no error if there is none."""
        message: Message = {"do": "drop", "id": id}
        if name is not None:
            message["name"] = name
        await self._requester.request(message)

    async def list(self) -> dict[str, tuple[str, ...]]:
        """The names of what is kept, by id."""
        answer, _ = await self._requester.request({"do": "list"})
        kept = answer["kept"]
        assert isinstance(kept, dict)
        return {id: tuple(names) for id, names in kept.items()}


class KeeperProcess(Server):
    """The process: a table of descriptors."""

    def __init__(self, options: Options) -> None:
        super().__init__(begin("keeper", options, many_files=True))
        self.kept: dict[str, dict[str, int]] = {}

    def idle(self) -> bool:
        return not self.kept

    def handle(self, peer: Peer, message: Message, fds: list[int]) -> Message | tuple[Message, list[int]] | None:
        match message.get("do"):
            case "keep":
                return self._keep(wire.text(message, "id"), wire.texts(message, "names"), fds)
            case "get":
                kept = self.kept.get(wire.text(message, "id"), {})
                return {"names": list(kept)}, [os.dup(fd) for fd in kept.values()]
            case "drop":
                return self._forget(wire.text(message, "id"), message.get("name"))
            case "list":
                return {"kept": {id: list(kept) for id, kept in self.kept.items()}}
            case _:
                return super().handle(peer, message, fds)

    def _keep(self, id: str, names: list[str], fds: list[int]) -> Message:
        if len(names) != len(fds):
            raise ValueError(f"{len(names)} names for {len(fds)} descriptors")
        kept = self.kept.setdefault(id, {})
        for name in names:
            before = kept.pop(name, None)
            kept[name] = fds.pop(0)
            if before is not None:
                os.close(before)
        return {}

    def _forget(self, id: str, name: object) -> Message:
        kept = self.kept.get(id, {})
        for each in [item for item in kept if name is None or item == name]:
            os.close(kept.pop(each))
        if not kept:
            self.kept.pop(id, None)
        return {}


if __name__ == "__main__":
    KeeperProcess(Options(sys.argv[1:])).run()
