"""pydockd's side of the monitor."""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from pydock.runtime import wire
from pydock.runtime.companion import Lost
from pydock.runtime.errors import Failed
from pydock.runtime.monitor import visit
from pydock.runtime.monitor.edition import edition
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
        self._born: dict[str, Callable[[int, int], None]] = {}
        self._edition = edition()
        self._agreed = False
        self._gone, self.exits = trio.open_memory_channel[Exit](math.inf)

    async def agree(self, requester: Requester) -> None:
        """*requester* is a monitor that was there before. If it runs another edition of the program it is asked, once, to execute this
        one, and takes its children along: then ``Lost``, as it is to be connected to again. While something is under way there it
        stays as it is."""
        answer, _ = await requester.request({"do": "who"})
        if answer.get("edition") != self._edition and not self._agreed:
            self._agreed = True
            try:
                await requester.request({"do": "upgrade"})
            except Lost:
                raise
            except Failed:
                return

    def event(self, message: Message) -> None:
        """Takes an event of the companion."""
        if message.get("event") == "exit":
            self._gone.send_nowait(exit_from(message))
        elif message.get("event") == "born" and (born := self._born.pop(wire.text(message, "id"), None)) is not None:
            born(wire.number(message, "pid"), wire.number(message, "starttime"))

    async def start(self, launch: Launch, fds: Sequence[int]) -> Started:
        """Starts a process; *fds* stay the caller's. ``Failed`` with the step, the errno and words if it can't be.

        Shield this from cancellation: the process would be started all the same.
        """
        answer, received = await self._requester.request({"do": "start", "launch": to_json(launch)}, fds)
        return _started(answer, received)

    async def start_with(
        self,
        first: Launch,
        prepare: Callable[[], Awaitable[tuple[Launch, Sequence[int]]]],
        born: Callable[[int, int], None],
        *,
        fds: Sequence[int] = (),
        terminal: Callable[[int], Awaitable[None]] | None = None,
    ) -> Started:
        """``start`` of what *prepare* gives, while the child already comes into being as *first* tells (see ``Launch.rest``),
        whose own descriptors are *fds*.

        *born* is called with its number and start time before it runs its program, with zeros when there will be none; *terminal*
        with the master of its terminal, which is the receiver's to close; the program runs when that has returned. If *prepare* raises,
        nothing has been started, and that error is raised. Shield this from cancellation.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        results: list[tuple[Message, list[int]]] = []
        failures: list[Exception] = []
        self._born[first.id] = born

        async def send_rest() -> None:
            with ours:
                try:
                    launch, launch_fds = await prepare()
                    wire.send(ours, {"launch": to_json(launch)}, launch_fds)
                    if terminal is not None and (master := await _terminal_of(ours)) is not None:
                        await terminal(master)
                        wire.send(ours, {})
                except ConnectionError:
                    pass  # the child has failed already: the answer tells how
                except Exception as error:
                    failures.append(error)

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_rest)  # its turn comes when this waits, and so has been sent
                try:
                    with theirs:
                        asked: Message = {"do": "start", "launch": to_json(first._replace(rest=len(fds)))}
                        results.append(await self._requester.request(asked, [*fds, theirs.fileno()]))
                except Exception as error:
                    failures.append(error)
                    if self._born.pop(first.id, None) is not None:
                        born(0, 0)  # what is being prepared may wait for it
        finally:
            self._born.pop(first.id, None)
        if failures:
            raise failures[0]
        return _started(*results[0])

    async def visit(
        self, pidfd: int, task: visit.Task, mounts: Sequence[int]
    ) -> tuple[dict[int, int], tuple[int, str] | None]:
        """Changes mounts in the container of *pidfd*; *mounts* are those to add, with indices from 1 on, and stay the caller's.

        Gives the ids of mounts that had to be put back, new by old, and if nothing was changed the errno and why. ``Lost`` leaves
        open what has been done.
        """
        answer, _ = await self._requester.request(visit.to_message(task), [pidfd, *mounts])
        return visit.answered(answer)

    async def user_namespace(self, uid: int, gid: int, count: int) -> int:
        """A user namespace in which 0 is *uid* and *gid* outside, and *count* ids are mapped: a descriptor, the receiver's to close."""
        _, (fd,) = await self._requester.request({"do": "userns", "uid": uid, "gid": gid, "count": count})
        return fd

    async def alive(self) -> dict[str, int]:
        """All that run: their pidfds by id, the receiver's to close."""
        answer, fds = await self._requester.request({"do": "list"})
        alive = answer["alive"]
        assert isinstance(alive, list)
        return {id: pidfd for (id, _, _), pidfd in zip(alive, fds, strict=True)}

    async def forget(self, id: str, pid: int) -> None:
        """Removes the record of the exit of *pid*, which has been taken note of; not that of a later run."""
        await self._requester.request({"do": "forget", "id": id, "pid": pid})


async def _terminal_of(sock: socket.socket) -> int | None:
    """The master that the child sends; None when it has ended before."""
    await trio.lowlevel.wait_readable(sock)
    try:
        _, (master,) = wire.receive(sock)
    except (wire.Closed, ConnectionError):
        return None
    return master


def _started(answer: Message, received: list[int]) -> Started:
    (pidfd,) = received
    warnings = tuple(wire.texts(answer, "warnings"))
    return Started(wire.number(answer, "pid"), wire.number(answer, "starttime"), pidfd, warnings)
