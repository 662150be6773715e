"""The streams of a process: its named pipes or its terminal, held by the keeper, moved into its log by the logger.

stdin's write end and a terminal's master are held here as well as by the keeper, so that the death of one of the two is
harmless: the one would be the end of the file, the other a hang-up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import trio
from pydock.runtime import wire
from pydock.runtime.companion import Lost
from pydock.runtime.engine import Engine, persistently
from pydock.runtime.errors import Failed
from pydock.runtime.keeper import Keeper
from pydock.runtime.logger.client import Logger
from pydock.runtime.output import Bell
from pydock.runtime.stdio import Stdio
from pydock.runtime.tasks import side_by_side


class WriteEnd:
    """Where one of those who write what a process reads does so: open until its holder closes it, or nothing more is to be read."""

    def __init__(self, fd: int, ends: set[WriteEnd]) -> None:
        self.fd = fd  # -1 when it is closed
        self._ends = ends
        ends.add(self)

    async def room(self) -> None:
        """Return when it may take something, or is closed."""
        with suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_writable(self.fd)

    def close(self) -> None:
        """Whoever waits for room is woken. It may be closed already."""
        if self.fd >= 0:
            trio.lowlevel.notify_closing(self.fd)
            os.close(self.fd)
            self.fd = -1
            self._ends.discard(self)


class Streams:
    """Those of the process that is called *identity*. Its log is in *directory*, and may take ``log_max()`` bytes."""

    def __init__(self, engine: Engine, identity: str, directory: Path, log_max: Callable[[], int | None]) -> None:
        self.stdio = Stdio(engine.run, identity)  # named pipes, there while it runs
        self.directory = directory
        self.stdin_closed = False
        self.news = Bell()  # rung when there may be output, and when a run has begun or ended
        self._engine = engine
        self._id = identity
        self._log_max = log_max
        self._piped = False  # its named pipes are there, kept and followed
        self._followed = True  # perhaps
        self._stdin = -1
        self._writers: set[WriteEnd] = set()  # each keeps the process from reading the end of its stdin
        self._ends: Mapping[str, int] = {}  # of its pipes, while it is being started
        self._outputs: list[int] = []  # held here too: keeper and logger may die at once, in the moment of its end
        self._terminal = -1  # the master
        self._readers = 0
        self._listening = False  # to the growth of its log

    # a run of it

    def open_pipes(self, stack: ExitStack, owner: tuple[int, int] | None = None) -> None:
        """Make the named pipes, open at both ends until *stack* is left. Blocks.

        The program may read and write, and even end, before the pipes are kept and followed.
        """
        self.stdio.make(owner)
        self._ends = stack.enter_context(self.stdio.open())
        self._piped, self._followed, self.stdin_closed = True, True, False

    async def take_terminal(self, master: int) -> None:
        """Its terminal has been opened, *master* is given away; returns when it is held and followed."""
        os.set_blocking(master, False)
        self._terminal = master
        await side_by_side(self.keep, self.follow)

    async def keep(self) -> None:
        """Have the keeper hold what must not vanish; while the pipes are open."""
        await persistently(lambda: self._give(self._engine.keeper, self._ends))

    async def follow(self) -> None:
        """Have the logger move its output."""
        await persistently(lambda: self._follow(self._engine.logger))

    async def finish(self) -> None:
        """It has ended: the rest of its output goes into the log. ENOSPC if there is no room. ``release`` is to follow."""
        if self._piped:
            await persistently(lambda: self._engine.logger.finish(self._id))
            self._followed = False

    async def release(self) -> None:
        """Let go of everything, there or not."""
        self.forget()
        self.stdio.remove()  # four calls on a file system in memory: a thread's turn takes longer
        calls: list[Callable[[], Awaitable[object]]] = [lambda: self._engine.keeper.drop(self.stdio.key)]
        if self._followed:
            calls.append(lambda: persistently(lambda: self._engine.logger.unfollow(self._id)))
        await side_by_side(*calls)

    def forget(self) -> None:
        """There is nothing to keep, follow or drain any more."""
        self._piped = False
        self._close_stdin()
        wire.close_all(self._outputs)
        self._outputs = []
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1

    async def _keep(self, keeper: Keeper) -> None:
        with self.stdio.open() as ends:
            await self._give(keeper, ends)

    async def _give(self, keeper: Keeper, ends: Mapping[str, int]) -> None:
        if not self.stdin_closed and self._stdin < 0:
            self._stdin = os.dup(ends["stdin"])
        if not self._outputs:
            self._outputs = [os.dup(ends[name]) for name in ("stdout", "stderr")]
        wanted = {name: fd for name, fd in ends.items() if not (name == "stdin" and self.stdin_closed)}
        if self._terminal >= 0:
            wanted["terminal"] = self._terminal
        await keeper.keep(self.stdio.key, wanted)

    async def _follow(self, logger: Logger) -> None:
        await logger.follow(
            self._id,
            stdout=self.stdio.stdout,
            stderr=self.stdio.stderr,
            directory=self.directory,
            log_max=self._log_max(),
            terminal=self._terminal,
        )

    # small processes that were started anew, and pydockd

    async def follow_again(self, logger: Logger) -> None:
        """A logger was started anew."""
        if self._piped:
            await self._follow(logger)

    async def keep_again(self, keeper: Keeper) -> None:
        """A keeper was started anew: the pipes are opened by name."""
        if self._piped:
            await self._keep(keeper)

    async def adopt(self, kept: Sequence[str] | None, *, followed: bool, at_end: bool) -> None:
        """After pydockd's own restart: the process runs, or ran. *kept* is what the keeper has of it, *followed* whether the logger
        moves its output, *at_end* whether its stdin was to be closed. With a thousand of them what is right already must not be asked
        for again."""
        self._piped = True
        self.stdin_closed = at_end or (kept is not None and "stdin" not in kept)
        try:
            if at_end and kept is not None and "stdin" in kept:  # pydockd died before that was told
                await self._engine.keeper.drop(self.stdio.key, "stdin")
            if kept is not None and "terminal" in kept:
                held = await self._engine.keeper.get(self.stdio.key)
                self._terminal = held.pop("terminal", -1)
                wire.close_all(held.values())
            if kept is None or not {"stdout", "stderr"} <= set(kept):
                await self._keep(self._engine.keeper)
            elif not self.stdin_closed:
                with self.stdio.open() as ends:
                    self._stdin = os.dup(ends["stdin"])
            if followed:
                await self._limit()  # which may be another by now
            else:
                await self._follow(self._engine.logger)
        except (OSError, Failed):
            self.forget()  # no pipes: they went with an end that was half written down, or with a reboot

    async def limit_log(self) -> None:
        """``log_max`` has changed."""
        if self._piped:
            try:
                await self._limit()
            except Failed as error:
                if error.errno != errno.ENOENT:  # its output has ended in this moment
                    raise

    async def _limit(self) -> None:
        await persistently(lambda: self._engine.logger.limit(self._id, self._log_max()))

    # its input

    def open_input(self) -> WriteEnd:
        """Where to write what it is to read, without waiting; the caller's to close. ENXIO when it reads no more."""
        if self._terminal >= 0:
            return WriteEnd(os.dup(self._terminal), self._writers)
        return WriteEnd(os.open(self.stdio.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC), self._writers)

    def type_end(self) -> None:
        """Nothing more comes from its terminal for now: the end-of-file character. It stays open for what comes later."""
        os.write(self._terminal, termios.tcgetattr(self._terminal)[6][termios.VEOF])

    async def close_stdin(self) -> None:
        """Nothing more comes from stdin, whoever has it open."""
        self.stdin_closed = True
        self._close_stdin()
        await self._engine.keeper.drop(self.stdio.key, "stdin")

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1
        for each in tuple(self._writers):
            each.close()

    @property
    def has_terminal(self) -> bool:
        """Whether it runs on a terminal."""
        return self._terminal >= 0

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal, in characters; it gets SIGWINCH."""
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    # those who read along

    @contextmanager
    def read_along(self) -> Iterator[None]:
        """Within, ``news`` is rung whenever something has come into the log."""
        self._readers += 1
        self.listen()
        try:
            yield
        finally:
            self._readers -= 1

    def listen(self) -> None:
        """Have the logger tell when the log grows, if anybody reads along."""
        if self._readers and self._piped and not self._listening:
            self._listening = True
            self._engine.spawn(self._ring_when_grown)

    async def _ring_when_grown(self) -> None:
        moves = -1
        try:
            while self._readers and self._piped:
                try:
                    moves = await self._engine.logger.grown(self._id, moves)
                except Lost:
                    moves = -1  # the next one counts anew
                self.news.ring()
        except Failed:
            return  # it is not followed any more: the end rings, or the next beginning
        finally:
            self._listening = False
