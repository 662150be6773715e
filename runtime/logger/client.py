"""pydockd's side of the logger."""

from __future__ import annotations

import os

from pydock.runtime import wire
from pydock.runtime.wire import Message, Requester


class Logger:
    """Every method is one request, and raises ``Failed`` if it can't be done.

    The process knows nothing when it is new: everything that runs has to be followed again, which does no harm if it is
    followed already.
    """

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def follow(
        self,
        id: str,
        *,
        stdout: str,
        stderr: str,
        directory: str | os.PathLike[str],
        log_max: int | None,
        terminal: int = -1,
    ) -> None:
        """Moves what comes through two named pipes into ``log`` in *directory*, at most *log_max* bytes (None: any); and what
        comes from *terminal*, the master of one."""
        message: Message = {"do": "follow", "id": id, "stdout": stdout, "stderr": stderr}
        message |= {"directory": os.fspath(directory), "log_max": log_max}
        await self._requester.request(message, [terminal] if terminal >= 0 else [])

    async def drain(self, id: str) -> int:
        """Has all that is in the pipes now put into the log; the log's size then. ENOSPC if there is no room."""
        answer, _ = await self._requester.request({"do": "drain", "id": id})
        return wire.number(answer, "offset")

    async def finish(self, id: str) -> None:
        """``drain`` and, if there was room, ``unfollow``. No error if it isn't followed."""
        await self._requester.request({"do": "finish", "id": id})

    async def grown(self, id: str, moves: int) -> int:
        """Waits until bytes have come into the log more often than *moves* times; how often. ENOENT if it isn't followed."""
        answer, _ = await self._requester.request({"do": "grown", "id": id, "moves": moves})
        return wire.number(answer, "moves")

    async def limit(self, id: str, log_max: int | None) -> None:
        """Changes the log's limit."""
        await self._requester.request({"do": "limit", "id": id, "log_max": log_max})

    async def unfollow(self, id: str) -> None:
        """Lets go of pipes and log; what is still in the pipes stays there. No error if it isn't followed."""
        await self._requester.request({"do": "unfollow", "id": id})

    async def followed(self) -> list[str]:
        """The ids of all that are."""
        answer, _ = await self._requester.request({"do": "list"})
        return wire.texts(answer, "followed")
