"""pydockd's hold on one of the small processes: starts it, talks to it, starts it again.

The process is not pydockd's: it is in a session and a cgroup of its own and goes on when pydockd ends. So ``Companion``
first tries whether one listens already and only otherwise starts one; there is never a second, as only one pydockd runs
at a time (it holds a lock). The listening socket is made here and inherited by the process, so a connection can be made
at once. A socket file that a dead process has left refuses connections and is replaced.

Invariant: ``_link`` is set from when the owner's ``on_connect`` has finished until the connection's end; requests wait
for it. So nobody meets a process that has not been told what it must know.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from itertools import count

import trio
from pydock.runtime import wire
from pydock.runtime.errors import Failed
from pydock.runtime.serving import listen
from pydock.runtime.wire import Message, Requester

_log = logging.getLogger(__name__)

_HUNG_UP = (errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN)
_SHORT_LIFE = 1.0  # seconds; a process that dies sooner is started again only after a while
_LONGEST_WAIT = 5.0


class Lost(Failed):
    """The process died, or was replaced, before it answered; whether it has done what was asked isn't known."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.ECONNRESET, f"the {name} ended before it answered")


class _Call:
    """A request that waits for its answer."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: tuple[Message, list[int]] | None = None


class Link:
    """One connection to the process, by a socket that does not block.

    A request is sent without a turn of the loop where the socket takes it, as it mostly does: each takes a start its time.
    """

    def __init__(self, name: str, sock: socket.socket) -> None:
        self.name = name
        self.closed = trio.Event()
        self._sock = sock
        self._calls: dict[int, _Call] = {}
        self._numbers = count(1)
        self._sending = trio.Lock()  # the packets of a message may not be mixed with another's

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        """Sends a request and waits for its answer. ``Failed`` if that is an error, ``Lost`` if there will be none.

        When this is cancelled, or dies, once it was *sent*, the process does it nevertheless: packets with their descriptors wait in
        the socket, whoever sent them. An answer that comes later is dropped.
        """
        number = next(self._numbers)
        call = self._calls[number] = _Call()
        try:
            await self._send(message | {"seq": number}, fds)
            if sent is not None:
                sent()
            await call.done.wait()
        except BaseException:
            if call.answer is not None:
                wire.close_all(call.answer[1])
            raise
        finally:
            del self._calls[number]
        if call.answer is None:
            raise Lost(self.name)
        answer, received = call.answer
        if "error" in answer:
            wire.close_all(received)
            step = str(answer.get("step") or "")
            words = wire.text(answer, "words")
            raise Failed(wire.number(answer, "error"), f"{step}: {words}" if step else words)
        return answer, received

    async def _send(self, message: Message, fds: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        packets = wire.packets(message, fds)
        try:
            if self._sending.locked():
                await self._sending.acquire()
            else:
                self._sending.acquire_nowait()
            try:
                # A message that has been begun must be ended, or the next one would be taken for its rest.
                with trio.CancelScope(shield=len(packets) > 1):
                    for packet in packets:
                        await self._send_packet(packet)
            finally:
                self._sending.release()
        except (OSError, trio.ClosedResourceError) as error:
            if isinstance(error, OSError) and error.errno not in _HUNG_UP:
                raise
            await self.closed.wait()  # which is about to be known here: who asks again does not get this connection
            raise Lost(self.name) from None
        finally:
            for packet in packets:
                packet.close()

    async def _send_packet(self, packet: wire.Packet) -> None:
        while True:
            try:
                self._sock.sendmsg([packet.data], packet.ancillary())
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock)

    async def serve(self, on_event: Callable[[Message, list[int]], None]) -> None:
        """Receives, until the process hangs up."""
        assembler = wire.Assembler()
        try:
            while True:
                await trio.lowlevel.wait_readable(self._sock)
                complete = assembler.feed(*wire.receive_packet(self._sock))
                if complete is None:
                    continue
                message, fds = complete
                number = message.get("seq")
                if number is None:
                    on_event(message, fds)
                    continue
                call = self._calls.get(number) if isinstance(number, int) else None
                if call is None:
                    wire.close_all(fds)
                else:
                    call.answer = message, fds
                    call.done.set()
        except (wire.Closed, wire.Malformed, ConnectionError) as error:
            if isinstance(error, wire.Malformed):
                _log.error("the %s sent what is no message: %s", self.name, error)
        finally:
            assembler.close()
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
            self.closed.set()
            for call in self._calls.values():
                call.done.set()


async def _nothing_to_tell(link: Link, fresh: bool) -> None:
    """The ``on_connect`` of an owner without any."""


class Companion:
    """One small process, *name*, of the run directory *run*; ``run`` keeps it going, ``request`` asks it.

    - *join*: cgroup.procs or tasks files of the cgroups where a new process shall be.
    - *on_connect*: is awaited with every new connection, before anybody else's requests get through; its second
      argument tells whether the process is a new one, which knows nothing yet.
    """

    def __init__(
        self,
        name: str,
        run: str,
        *,
        join: Sequence[str] = (),
        on_connect: Callable[[Link, bool], Awaitable[None]] = _nothing_to_tell,
    ) -> None:
        self.name = name
        self.directory = run
        self.join = tuple(join)
        self._on_connect = on_connect
        self._subscribers: list[Callable[[Message], None]] = []
        self._link: Link | None = None
        self._linked = trio.Event()

    def subscribe(self, callback: Callable[[Message], None]) -> None:
        """Has *callback* called with every event; it must not block."""
        self._subscribers.append(callback)

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        """``Link.request`` on the connection there is, or the next."""
        while self._link is None or self._link.closed.is_set():
            await self._linked.wait()
        return await self._link.request(message, fds, sent)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until it is cancelled; the process itself goes on. Started when the first connection is made."""
        wait = 0.0
        while True:
            begun = trio.current_time()
            try:
                sock, fresh = await self._connect()
            except (OSError, subprocess.SubprocessError) as error:
                _log.error("the %s can't be started: %s", self.name, error)
            else:
                if await self._attend(Link(self.name, sock), fresh, task_status):
                    task_status = trio.TASK_STATUS_IGNORED
            if trio.current_time() - begun < _SHORT_LIFE:
                await trio.sleep(wait)
                wait = min(_LONGEST_WAIT, wait * 2 + 0.05)
            else:
                wait = 0.0

    async def _attend(self, link: Link, fresh: bool, task_status: trio.TaskStatus[None]) -> bool:
        """Serve *link* to its end; whether anybody could ask by it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.serve, self._event)
            try:
                # Until it has answered it may not have taken the connection, and would not send us events.
                await link.request({"do": "who"})
                await self._on_connect(link, fresh)
            except Lost:
                return False  # the nursery ends with the connection
            self._link = link
            self._linked.set()
            task_status.started()
            try:
                await link.closed.wait()
            finally:
                self._link = None
                self._linked = trio.Event()
        return True

    def _event(self, message: Message, fds: list[int]) -> None:
        wire.close_all(fds)  # no event carries any
        for callback in self._subscribers:
            callback(message)

    async def _connect(self) -> tuple[socket.socket, bool]:
        sock = await self._try_to_connect()
        if sock is not None:
            return sock, False
        await trio.to_thread.run_sync(self._start)
        sock = await self._try_to_connect()
        if sock is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"it ended at once, see {self.directory}/{self.name}.err")
        return sock, True

    async def _try_to_connect(self) -> socket.socket | None:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_SEQPACKET)
        try:
            await sock.connect(f"{self.directory}/{self.name}.sock")
        except (ConnectionRefusedError, FileNotFoundError):
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise
        connected = socket.socket(fileno=sock.detach())
        connected.setblocking(False)
        return connected

    def _start(self) -> None:
        """Starts the process; it leaves our session and parentage by itself before this returns."""
        module = f"pydock.runtime.{self.name}"
        errors = f"{self.directory}/{self.name}.err"
        with listen(self.directory, self.name) as listener, open(errors, "ab") as stderr:
            arguments = [sys.executable, "-I", "-m", module, self.directory, "--listen", str(listener.fileno())]
            for path in self.join:
                arguments += ["--join", path]
            subprocess.run(
                arguments,
                check=True,
                cwd="/",
                env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                pass_fds=[listener.fileno()],
            )


class Persistent:
    """Requests to a process all of whose requests may be made twice: made again when it died before it answered."""

    def __init__(self, requester: Requester) -> None:
        self._requester = requester

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        """``Requester.request``; the next one has been told what it must know when this gets through."""
        for _ in range(4):
            try:
                return await self._requester.request(message, fds, sent)
            except Lost:
                continue
        return await self._requester.request(message, fds, sent)
