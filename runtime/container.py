"""A container: its settings, its state, and the life between mkdir and rmdir.

``created → running ⇄ paused → exited``; ``restarting`` between two runs, those of the restart command or of the restart policy.
Commands take the container's lock one after another. An exit may come at any time; it is handled without the lock (see
:mod:`pydock.runtime.process`).
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import trio
from pydock.runtime import launching
from pydock.runtime import spec as spec_
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.configuration import Configuration
from pydock.runtime.engine import Defaults, Engine, Source
from pydock.runtime.errors import Busy, PydockError, words_of
from pydock.runtime.execs import Execs
from pydock.runtime.formats import now, parse_limit
from pydock.runtime.health import Health
from pydock.runtime.keeper import Keeper
from pydock.runtime.members import Members
from pydock.runtime.mounted import MountedVolumes
from pydock.runtime.network.container import ContainerNetwork
from pydock.runtime.pauses import Pauses
from pydock.runtime.process import GRACE, End, Left, Process
from pydock.runtime.record import Record, RecordFile, State
from pydock.runtime.restarts import Restarts
from pydock.runtime.rootfs import RootFilesystem
from pydock.runtime.runs import Runs, frozen
from pydock.runtime.secretfiles import SecretFiles
from pydock.runtime.spec import Spec, parse_signal

STOP_TIMEOUT: Final = 10.0
_SAVE_DELAY: Final = 1.0


class Container:
    """One container. *directory* holds ``spec.toml``, ``state.json``, the writable layer and the log."""

    def __init__(self, engine: Engine, record: Record, spec: Spec) -> None:
        self.engine = engine
        self.record = record
        self.directory = engine.root / "containers" / record.id
        self.configuration = Configuration(self, spec)
        self._file = RecordFile(record, self.directory, engine.settler)
        self.cgroup: Cgroup = engine.hierarchy.cgroup(record.id, dict(spec.cgroup))
        self.members = Members(record, self.cgroup)
        self.runs = Runs(self)
        self.root = RootFilesystem(engine, record, self.directory, self.runs.ids)
        self.lock = trio.Lock()
        self.process = Process(engine, record, self._file, self.directory, self, identity=record.id)
        self.volumes = MountedVolumes(engine, record, self._file, lambda: self.process.pidfd, self.runs.ids)
        self.process.before_end = self.runs.end_members
        self.execs = Execs(self)
        self.secrets = SecretFiles(engine, record, lambda: self.process.pidfd, self.runs.found_owner, self.volumes.lock)
        self.error_changed = record.changed
        self._restarting = False  # by the command
        self.restarts = Restarts(self)
        self.health = Health(self)
        self.network = ContainerNetwork(self)
        self.pauses = Pauses(self)
        self._saving = False

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def label(self) -> str:
        """The path below the mount point."""
        return f"containers/{self.record.name}"

    @property
    def spec(self) -> Spec:
        """The settings that were set."""
        return self.configuration.spec

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def alive(self) -> bool:
        """Whether there is, or is about to be again, a process."""
        return self.process.ending or self.record.state in ("running", "paused", "restarting")

    @property
    def log(self) -> Path:
        return self.directory / "log"

    # what is in force

    def source(self, reference: str) -> Source:
        """The image that it is made of: the one below its writable layer, whatever has become of the name since."""
        record = self.record
        if record.layers:
            return Source(reference, record.image_id, record.layers, Defaults(**record.defaults))  # type: ignore[arg-type]  # as asdict wrote them
        return self.engine.images.find(reference)

    def defaults(self) -> Defaults:
        """The image's configuration; an empty one when there is no image."""
        if self.spec.image is None:
            return Defaults()
        try:
            return self.source(self.spec.image).defaults
        except Exception:
            return Defaults()

    def log_max(self) -> int | None:
        """Bytes, None for no limit."""
        return parse_limit(self.spec.log_max or self.engine.log_max)

    async def save(self, **coming: object) -> None:
        """Keep the record on disk; with the fields that it is about to have."""
        await self._file.save(**coming)

    async def keep(self, **coming: object) -> str:
        """``save``, later if it can't be now; what was wrong."""
        return await self._file.keep(**coming)

    def is_kept(self, name: str, value: object) -> bool:
        """Whether the field *name*, a plain one, is *value* on disk."""
        return self._file.says(name, value)

    def changed(self, state: State) -> None:
        """It is *state* from now on."""
        self.record.state = state
        self.record.changed = now()
        self.engine.on_change(self)

    # commands

    async def start(self) -> str:
        """``start``: run it. The outcome in words; Busy when it runs already."""
        async with self.lock:
            if self.alive:
                raise Busy(f"{self.name} is {self.state} already")
            return await self.restarts.begin(self.runs.begin)

    def began(self) -> None:
        """Its first process runs."""
        if self.runs.shares_pids():
            self.members.note()
            self.engine.spawn(self.keep)
        self.engine.on_change(self)
        self.engine.events.publish("container", self.name, "start", pid=str(self.record.pid))
        self.health.begin()

    async def lost(self) -> None:
        """Nobody knows whether its first process was started."""
        await self.runs.end_strays()

    def processes(self) -> list[Process]:
        """Its first process and those that are executed in it, whether they run or not."""
        return [self.process, *(each.process for each in self.execs)]

    async def stop(self, seconds: float | None = None) -> str:
        """``stop [SECONDS]``: the stop signal, and SIGKILL when it has not exited by then. Returns once it has exited; whoever asks
        while it runs gets that, whatever ends it."""
        end, asked = self.process.end, self.state in ("running", "paused", "restarting")
        async with self.lock:
            outcome = self._stopped() if asked and self.state == "exited" else await self._stop(seconds)
        await self._part(end)
        return outcome

    async def _part(self, end: End) -> None:
        """After its end: return when it has been removed, if it is to be."""
        if self.record.leaving:
            with trio.move_on_after(GRACE):
                await end.event.wait()

    async def _stop(self, seconds: float | None) -> str:
        if self.state == "restarting":
            await self.restarts.end()
            self.engine.events.publish("container", self.name, "stop")
            return "stopped: it is not started again"
        down = self._running()
        await self.restarts.stop()
        if seconds is None:
            seconds = STOP_TIMEOUT if self.spec.stop_timeout is None else self.spec.stop_timeout
        await self.runs.send_signal(parse_signal(launching.stop_signal(self.spec, self.defaults())))
        if self.state == "paused":
            await self.pauses.thaw()
        with trio.move_on_after(seconds):
            await down.wait()
        if not down.is_set():
            self.process.send_signal(signal.SIGKILL)
            await down.wait()
        self.engine.events.publish("container", self.name, "stop")
        return self._stopped()

    def _stopped(self) -> str:
        return f"stopped, exit code {'unknown' if self.record.exit_code is None else self.record.exit_code}"

    def _running(self) -> trio.Event:
        if self.state not in ("running", "paused"):
            raise Busy(f"{self.name} is not running: it is {self.state}")
        return self.process.down

    async def kill(self, signal_name: str | None = None) -> str:
        """``kill [SIGNAL]``: without a signal SIGKILL, and returns once it has exited; with one it is sent."""
        if self.state != "restarting":
            self._running()
        number = signal.SIGKILL if signal_name is None else parse_signal(signal_name)
        final = number in (signal.SIGKILL, parse_signal(launching.stop_signal(self.spec, self.defaults())))
        if final and self.state == "restarting":
            async with self.lock:  # it may be about to run
                if self.state == "restarting":
                    await self.restarts.end()
                    self.engine.events.publish("container", self.name, "kill", signal=spec_.print_signal(number))
                    return "killed: it is not started again"
        down, end = self._running(), self.process.end
        if final:
            await self.restarts.stop()
        await self.runs.send_signal(number)
        self.engine.events.publish("container", self.name, "kill", signal=spec_.print_signal(number))
        if number == signal.SIGKILL and self.state == "paused":
            await self.pauses.thaw()
        if signal_name is None:
            await down.wait()
            await self._part(end)
            return "killed"
        return f"sent {spec_.print_signal(number)}"

    async def pause(self) -> str:
        """``pause``: freeze every process of its cgroup."""
        async with self.lock:
            return await self.pauses.pause()

    async def resume(self) -> str:
        """``resume``: let them run again."""
        held = self.record.held
        async with self.lock:
            return "resumed" if held and self.state == "running" else await self.pauses.resume()

    async def restart(self, seconds: float | None = None) -> str:
        """``restart [SECONDS]``: stop it if it runs, then start it. Who waits goes on waiting, for the new run's end."""
        async with self.lock:
            if self.state == "restarting":
                self.restarts.cancel()
            elif self.alive:
                self._restarting = True
                try:
                    await self._stop(seconds)
                finally:
                    self._restarting = False
            try:
                outcome = await self.restarts.begin(self.runs.begin)
            except BaseException:
                await self.stay_down()
                raise
            self.engine.events.publish("container", self.name, "restart")
            return f"re{outcome}"

    async def reset(self) -> str:
        """``reset``: discard the writable layer."""
        async with self.lock:
            if self.alive:
                raise Busy(f"{self.name} is {self.state}: stop it first")
            await self.root.discard()
            await self.save()
            return "the writable layer is discarded"

    async def close_stdin(self) -> str:
        """``eof``: nothing more comes from stdin."""
        self._running()
        await self.process.close_stdin()
        return "stdin is closed"

    # exits

    def after(self, exit_code: int | None, finished: int) -> Mapping[str, object]:
        """What is in its record when its first process has ended."""
        counts = {} if self._restarting else self.restarts.follows(exit_code, finished)
        again = self._restarting or bool(counts)
        leaving = bool(self.spec.autoremove) and not again
        return {**counts, "state": "restarting" if again else "exited", "leaving": leaving}

    def ended(self) -> None:
        """Its first process has ended."""
        code = "" if self.record.exit_code is None else str(self.record.exit_code)
        self.engine.events.publish("container", self.name, "exit", exit_code=code)
        self.engine.on_change(self)
        self.health.tell()
        if self.state == "restarting" and not self._restarting:
            self.engine.spawn(self.restarts.carry_on)

    def settle(self) -> None:
        """After pydockd's own restart: it does not run; its policy may want that it does."""
        if not self.restarts.settle():
            self.process.settle_exited()

    async def stay_down(self) -> None:
        """If another run was to follow, none does."""
        if self.state == "restarting":
            leaving = bool(self.spec.autoremove)
            with trio.CancelScope(shield=True):
                await self.keep(state="exited", leaving=leaving)
            self.record.leaving = leaving
            self.changed("exited")
            self.health.tell()
            self.engine.spawn(self.parting)
            self.process.tell_end()

    async def parting(self) -> None:
        """Its run has ended: with ``autoremove`` it goes before waiters are told."""
        if self.record.leaving and self.engine.remove is not None:
            await self.pauses.read()
            try:
                await self.engine.remove(self.name)
            except (PydockError, OSError) as error:
                self.failed(f"autoremove: {words_of(error)}")

    async def tidy(self) -> None:
        """Its first process has ended: what it leaves besides its output."""
        await self.runs.clear()

    async def adopt(self, left: Left) -> None:
        """After pydockd's own restart: see :meth:`Process.adopt`."""
        await self.configuration.agree()
        for each in self.execs:  # before the container, whose end ends them
            await each.adopt(left)
        await self.pauses.recover()
        if self.root.key in left.kept:
            await self.root.recover()
        if self.secrets.key in left.kept:
            await self.secrets.recover()
        if self.runs.shares_pids() and not self.record.namespaces:
            self.members.note()
        if not await self.process.adopt(left):
            if self.state != "created":
                self.settle()
            await self.runs.end_strays()
            await self.parting()
        elif self.record.pid:
            self.record.state = "paused" if frozen(self.cgroup) else "running"  # a pause may have been half told
            self.record.by_hand = False  # a stop that the death has cut short was not done
            self.health.begin()
            await self.runs.agree()

    async def keep_again(self, keeper: Keeper) -> None:
        """A keeper was started anew: the descriptors are still here."""
        await self.root.keep(keeper)
        for process in self.processes():
            await process.streams.keep_again(keeper)
        await self.secrets.keep(keeper)

    async def resize(self, rows: int, columns: int) -> str:
        """``resize ROWS COLS``: the size of its terminal."""
        self._running()
        if not self.process.streams.has_terminal:
            raise Busy(f"{self.name} has no terminal: set tty to 1 before it starts")
        self.process.streams.resize(rows, columns)
        return f"{rows} rows, {columns} columns"

    # reporting

    def failed(self, words: str) -> None:
        """*words* go into ``error`` and the root's ``errors``."""
        self.record.error = words
        self.error_changed = now()
        self.engine.failures.add(self.label, words)
        self.engine.on_change(self)

    def succeeded(self) -> None:
        """The last failure is history."""
        if self.record.error:
            self.record.error = ""
            self.error_changed = now()
            self.engine.on_change(self)

    def readdressed(self) -> None:
        """Its addresses, or the names of their networks, have become others."""
        if self.record.pid:
            self.record.addressed = now()
            self.save_soon()

    def save_soon(self) -> None:
        """Keep the record on disk behind the reply: for what may be lost, as the times of files."""
        if not self._saving:
            self._saving = True
            self.engine.spawn(self._save_later)

    async def _save_later(self) -> None:
        try:
            await trio.sleep(_SAVE_DELAY)
        finally:
            self._saving = False
            with trio.CancelScope(shield=True):
                await self.keep()
