"""pydockd's side of the monitor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import trio
from pydock.runtime import wire
from pydock.runtime.monitor.launch import Launch, to_json
from pydock.runtime.monitor.protocol import Exit, exit_from
from pydock.runtime.wire import Message, Requester


@dataclass(frozen=True, slots=True)
class Started:
    """A process that runs its program. The *pidfd* is the receiver's to close."""

    pid: int
    starttime: int
    pidfd: int
    warnings: tuple[str, ...]


class Monitor:
    """Every method is one request. ``event`` is to be subscribed to the companion; ``exits`` then gives each exit.

    An exit that happens while pydockd isn't connected is in ``pydock.runtime.monitor.protocol.read_exits``: read that,
    and ask ``alive``, after each new connection. One may come both ways.
    """

    def __init__(self, requester: Requester) -> None:
        self._requester = requester
        self._gone, self.exits = trio.open_memory_channel[Exit](math.inf)

    def event(self, message: Message) -> None:
        """Takes an event of the companion."""
        if message.get("event") == "exit":
            self._gone.send_nowait(exit_from(message))

    async def start(self, launch: Launch, fds: Sequence[int]) -> Started:
        """Starts a process; *fds* stay the caller's. ``Failed`` with the step, the errno and words if it can't be.

        Shield this from cancellation: the process would be started all the same.
        """
        answer, received = await self._requester.request({"do": "start", "launch": to_json(launch)}, fds)
        (pidfd,) = received
        warnings = tuple(wire.texts(answer, "warnings"))
        return Started(wire.number(answer, "pid"), wire.number(answer, "starttime"), pidfd, warnings)

    async def alive(self) -> dict[str, int]:
        """All that run: their pidfds by id, the receiver's to close."""
        answer, fds = await self._requester.request({"do": "list"})
        alive = answer["alive"]
        assert isinstance(alive, list)
        return {id: pidfd for (id, _, _), pidfd in zip(alive, fds, strict=True)}

    async def forget(self, id: str) -> None:
        """Removes the record of an exit that has been taken note of."""
        await self._requester.request({"do": "forget", "id": id})
