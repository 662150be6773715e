"""A process that runs for a container: its first one, or one that is executed in it. Its pipes, its log, its end.

The monitor is its parent, the logger moves its output, the keeper holds what must not vanish; this is pydockd's side of all
three. What the process is for, and what its end means, is its owner's business.

An exit may come at any time; it is handled by :meth:`Process.exited`, and between its awaits the state is still ``running``: it
changes, and waiters wake, only when the log is complete and the exit code is kept on disk.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio
from pydock.runtime import syscalls
from pydock.runtime.companion import Lost
from pydock.runtime.engine import Engine, persistently
from pydock.runtime.errors import Failed, words_of
from pydock.runtime.formats import now
from pydock.runtime.monitor.client import Started
from pydock.runtime.monitor.launch import Launch
from pydock.runtime.monitor.protocol import Exit, start_time
from pydock.runtime.procfs import boot_id, born, pid_of
from pydock.runtime.record import Life, RecordFile, Run, State, lives
from pydock.runtime.streams import Streams
from pydock.runtime.tasks import side_by_side

#: Seconds that tidying up may take when the engine ends meanwhile; the next start does what is left.
GRACE: Final = 5.0
#: Has something done side by side with a start, which fails when that does.
Aside = Callable[[Callable[[], Awaitable[None]]], None]
#: Makes a launch, and its descriptors, which the stack closes.
Prepare = Callable[[ExitStack, Aside], Awaitable[tuple[Launch, list[int]]]]


class End:
    """The end of a run, for those who wait: set once, with the exit code (None: unknown)."""

    __slots__ = ("code", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.code: int | None = None


@dataclass(frozen=True, slots=True)
class Left:
    """What the small processes have, by their names for processes, when pydockd is started."""

    alive: dict[str, int]  # the monitor's pidfds; whoever takes one up takes it out
    ended: Mapping[str, Exit]  # exits that the monitor noted
    kept: Mapping[str, tuple[str, ...]]  # the names of what the keeper has
    followed: frozenset[str]  # by the logger


class Owner(Protocol):
    """Whose process it is."""

    def log_max(self) -> int | None:
        """What the log may take in bytes; None for any."""

    async def tidy(self) -> None:
        """It has ended: what is to be done side by side with the end of its output."""

    def after(self, exit_code: int | None, finished: int) -> Mapping[str, object]:
        """What is in the record after an end at *finished*, its ``state`` above all: ``exited``, or ``restarting`` when waiters shall
        go on waiting. Asked again after each await, since a command may have come in between."""

    def began(self) -> None:
        """It runs, and that is kept on disk."""

    def ended(self) -> None:
        """Its end is kept on disk; waiters are about to be told."""

    async def parting(self) -> None:
        """What is left to do before waiters are told that its run has ended."""

    async def lost(self) -> None:
        """Whether it was started can't be known: undo what may have been."""

    def failed(self, words: str) -> None:
        """Something of it went wrong."""


def exit_code_of(status: int) -> int:
    """The shell's number for a wait(2) status: the code, or 128 and the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Process:
    """The process with *record*, which *file* keeps; its log is in *directory*. *identity* is what the small processes call it."""

    def __init__(
        self, engine: Engine, record: Life, file: RecordFile, directory: Path, owner: Owner, *, identity: str
    ) -> None:
        self.engine = engine
        self.id = identity
        self.streams = Streams(engine, identity, directory, owner.log_max)
        self.end = End()  # what waiters see: a restart does not end it
        self.pidfd = -1
        self.ending = False
        self.down = trio.Event()  # the current run is over, its log complete, its exit code kept
        self._record = record
        self._file = file
        self._owner = owner
        self.found = False  # by a pydockd that has just been started, though nobody had written down that it runs
        self._watch: trio.CancelScope | None = None  # of who awaits the exit by pidfd
        self._starting = False
        self._born = trio.Event()
        self._born_pid = 0
        self._over = False
        self._early: dict[int | None, tuple[int | None, int]] = {}  # exits that were told during a start, by pid
        self.before_end: Callable[[], Awaitable[object]] | None = None  # awaited before the end of its output is

    # the beginning

    async def start(
        self, first: Launch, prepare: Prepare, *, fds: Sequence[int] = (), terminal: bool = False
    ) -> tuple[str, ...]:
        """Have it come into being as *first* tells, whose descriptors are *fds*, and run what *prepare* makes; the warnings.

        A start that was begun is carried through. *prepare* calls ``streams.open_pipes`` before it returns.
        """
        self._starting, self._early, self._born, self._born_pid = True, {}, trio.Event(), 0
        monitors = self.engine.monitors
        try:
            with ExitStack() as stack:
                started, running = await self._launch(first, fds, prepare, stack, terminal=terminal)
        except BaseException as error:
            self._starting = False
            if isinstance(error, Lost):
                await self._owner.lost()
            with trio.move_on_after(GRACE, shield=True):
                await self.streams.release()
                await self._file.save()
            raise
        if self.end.event.is_set():
            self.end = End()
        self.down = trio.Event()
        self.pidfd = started.pidfd
        self._record.take(running)
        with trio.CancelScope(shield=True):  # it runs: its end must be taken note of whoever gives up now
            await self._file.keep()  # which it mostly is by now
        self._owner.began()
        self._starting = False
        self.streams.listen()
        self.streams.news.ring()
        if monitors != self.engine.monitors:  # its parent died right after the start
            self.engine.spawn(self.watch_orphan)
        if early := self._early.get(started.pid):  # and not one of a run before, which may be told twice
            status, time = early
            self.engine.spawn(lambda: self.exited(status, time))
        return started.warnings

    async def born(self) -> int:
        """Its process id as soon as it is there, while it is being started: it waits for its launch then. ESRCH when there is none."""
        await self._born.wait()
        if not self._born_pid:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return self._born_pid

    async def _launch(
        self, first: Launch, fds: Sequence[int], prepare: Prepare, stack: ExitStack, *, terminal: bool
    ) -> tuple[Started, Run]:
        """Have it started, with all that takes time side by side: it comes into being while its launch is made, and is set up
        while its pipes get kept and followed and its record written.

        The record is on disk before the program may run or not: after a death of pydockd the monitor says whether it does.
        """
        results: list[Started] = []
        failures: list[Exception] = []
        runs: list[Run] = []
        born = trio.Event()

        def on_birth(pid: int, starttime: int) -> None:
            self._born_pid = pid
            self._born.set()
            if pid:
                runs.append(Run(pid, starttime, boot_id(), now()))
                born.set()

        async def aside(call: Callable[[], Awaitable[None]]) -> None:
            try:
                await call()
            except Exception as error:
                failures.append(error)

        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:

                async def keep_record() -> None:
                    await born.wait()
                    await self._file.save(runs[0])

                async def prepared() -> tuple[Launch, list[int]]:
                    made = await prepare(stack, lambda call: nursery.start_soon(aside, call))
                    kept = () if terminal else (self.streams.keep, self.streams.follow)  # else when it is opened
                    for call in (*kept, keep_record):
                        nursery.start_soon(aside, call)
                    return made

                monitor, take = self.engine.monitor, self.streams.take_terminal if terminal else None
                try:
                    results.append(await monitor.start_with(first, prepared, on_birth, fds=fds, terminal=take))
                except Exception as error:
                    failures.insert(0, error)
                    if not born.is_set():
                        nursery.cancel_scope.cancel()
        if failures:
            for started in results:
                await _kill(started.pidfd)
            raise failures[0]
        return results[0], runs[0]

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended; no more when that is being written down."""
        return bool(self._record.pid) and not self._over

    @property
    def state(self) -> State:
        return self._record.state

    # signals and the end

    def send_signal(self, number: int) -> None:
        """Signal it; nothing when it has just gone."""
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self.pidfd, number)

    async def close_stdin(self) -> None:
        """Nothing more comes from its stdin; a terminal is told, and stays open."""
        if self.streams.has_terminal:
            self.streams.type_end()
            return
        run, self._record.at_end = self.down, True
        await self._file.keep()  # first: if pydockd and the keeper die at once, nobody else knows
        if self.down is run:  # else another has begun meanwhile
            await self.streams.close_stdin()

    async def exited(self, status: int | None, time: int, pid: int | None = None) -> None:
        """It, number *pid*, has ended, with wait(2) *status* (None: nobody can know), at *time* (ns)."""
        if self._starting:
            self._early[pid] = (status, time)
            return
        if self.ending or self._record.pid == 0 or pid not in (None, self._record.pid):
            return
        self.ending = True
        try:
            await self._take_down(status, time)
        finally:
            self.ending = False
        if self._record.state == "exited":
            await self._owner.parting()
            if self._record.state == "exited":
                self.tell_end()

    async def _take_down(self, status: int | None, time: int) -> None:
        if self.before_end is not None:
            await self.before_end()
        await side_by_side(self._end_output, self._owner.tidy)
        self._close_pidfd()
        self._over = True
        code = None if status is None else exit_code_of(status)
        ended = {"pid": 0, "finished": time, "exit_code": code, "changed": now()}
        after = self._owner.after(code, time)
        try:
            await side_by_side(lambda: self._write_down({**ended, **after}), self.streams.release)
        except (OSError, Failed) as error:  # the next start of the engine clears what is left
            self._owner.failed(f"its pipes are not cleared away: {words_of(error)}")
        while after != (other := self._owner.after(code, time)):
            after = other
            await self._write_down({**ended, **after})
        self._file.take_announced()
        self._over = False  # the record says it now
        self._owner.ended()
        self.down.set()
        self.streams.news.ring()

    async def _write_down(self, ended: Mapping[str, object]) -> None:
        pid = self._record.pid
        self._file.announce(ended)
        if wrong := await self._file.keep():  # the monitor's note of the exit stays, and with it the exit code
            self._owner.failed(f"state.json: the exit could not be written down: {wrong}")
        else:
            self.engine.spawn(lambda: persistently(lambda: self.engine.monitor.forget(self.id, pid)))

    def tell_end(self) -> None:
        """Wake those who wait for the end: it is not started again by itself."""
        self.end.code = self._record.exit_code
        self.end.event.set()
        self.streams.news.ring()

    async def _end_output(self) -> None:
        try:
            await self.streams.finish()
        except Failed as error:
            self._owner.failed(f"log: the end of the output is lost: {error}")

    def log_is_full(self, words: str) -> None:
        """Its output can't be written, by the kernel's *words*, and it may be waiting for that."""
        self._owner.failed(f"log: {words}: what it writes waits until there is room")

    async def watch_orphan(self) -> None:
        """Await the exit of a process whose monitor has died: by pidfd, with the status where the kernel tells it."""
        pidfd = self.pidfd
        if pidfd < 0 or self._watch is not None:
            return
        with trio.CancelScope() as self._watch:
            await trio.lowlevel.wait_readable(pidfd)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            for _ in range(500):  # readable comes at the exit, the hang-up with the reap by init, soon after
                if any(mask & select.POLLHUP for _, mask in poller.poll(0)):
                    break
                await trio.sleep(0.01)
            self._watch = None
            await self.exited(syscalls.pidfd_exit_status(pidfd), now())

    def _close_pidfd(self) -> None:
        """Its number may be another's at once: nobody waits for it any more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def monitor_died(self, gone: Exit | None) -> None:
        """Its parent has died, perhaps after noting its exit *gone*."""
        if not self._record.pid:
            return
        if gone is not None and gone.pid == self._record.pid:
            self.engine.spawn(lambda: self.exited(gone.status, gone.time, gone.pid))
        else:
            self.engine.spawn(self.watch_orphan)

    # after pydockd's own restart

    async def adopt(self, left: Left) -> bool:
        """Take it up if it ran when it was last heard of, or the monitor has it; false if it did not and has not."""
        record = self._record
        pidfd, gone = left.alive.pop(self.id, -1), left.ended.get(self.id)
        if pidfd < 0 and not record.pid:
            return False
        orphan = False
        if pidfd >= 0 and (pid := pid_of(pidfd)) > 0:
            self._take_up(pid, start_time(pid), pidfd)
        elif (gone is None or gone.pid != record.pid) and lives(record):
            orphan = True
            self._take_up(record.pid, record.starttime, syscalls.pidfd_open(record.pid))
        else:
            self._take_up(record.pid, record.starttime, -1)
        kept, followed = left.kept.get(self.streams.stdio.key), self.id in left.followed
        await self.streams.adopt(kept, followed=followed, at_end=record.at_end)
        if orphan:
            self.engine.spawn(self.watch_orphan)
        elif self.pidfd < 0:
            known = gone is not None and gone.pid == record.pid
            await self.exited(gone.status if gone and known else None, gone.time if gone and known else now())
        return True

    def _take_up(self, pid: int, starttime: int, pidfd: int) -> None:
        """The run goes on, or has gone on until its unnoticed end (pidfd -1)."""
        record = self._record
        if (pid, starttime) != (
            record.pid,
            record.starttime,
        ):  # it was begun, and pydockd died before that was written down
            record.take(Run(pid, starttime, boot_id(), born(starttime)))
            self.found = True
        record.boot = boot_id()
        self.pidfd = pidfd
        self.down = trio.Event()
        if record.state != "paused":
            record.state = "running"

    def settle_exited(self) -> None:
        """It does not run."""
        self._record.state, self._record.pid = "exited", 0
        self.tell_end()
        self.down.set()


async def _kill(pidfd: int) -> None:
    """End what was started, and nobody is to hear of; *pidfd* is closed."""
    with suppress(ProcessLookupError):
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
    with trio.move_on_after(GRACE, shield=True):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)
