"""A container: its settings, its state, and the life between mkdir and rmdir.

``created → running ⇄ paused → exited``; ``restarting`` between two runs, those of the restart command or of the restart policy.
Commands take the container's lock one after another. An exit may come at any time; it is handled without the lock (see
:mod:`pydock.runtime.process`).
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio
from pydock.runtime import launching, sharing, systemd
from pydock.runtime import spec as spec_
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.confine.user import resolve
from pydock.runtime.confine.userns import AUTO, IdMap, in_force
from pydock.runtime.engine import Defaults, Engine, Source
from pydock.runtime.errors import Busy, Invalid, NotFound, PydockError
from pydock.runtime.execs import Execs
from pydock.runtime.formats import now, parse_limit
from pydock.runtime.health import Health
from pydock.runtime.keeper import Keeper
from pydock.runtime.members import Members
from pydock.runtime.monitor import launch as plain
from pydock.runtime.monitor.protocol import Exit
from pydock.runtime.mounted import MountedVolumes
from pydock.runtime.process import GRACE, End, Process
from pydock.runtime.record import Record, RecordFile, State
from pydock.runtime.restarts import Restarts
from pydock.runtime.rootfs import RootFilesystem
from pydock.runtime.secretfiles import SecretFiles
from pydock.runtime.settings import Settings
from pydock.runtime.shifting import Shift
from pydock.runtime.spec import Spec, parse_signal

STOP_TIMEOUT: Final = 10.0
#: Settings that may change while it runs.
LIVE: Final = frozenset({"restart", "stop_signal", "stop_timeout", "log_max", "oom_score_adj", "volumes", "cgroup"})
_SAVE_DELAY: Final = 1.0


class Container:
    """One container. *directory* holds ``spec.toml``, ``state.json``, the writable layer and the log."""

    def __init__(self, engine: Engine, record: Record, spec: Spec) -> None:
        self.engine = engine
        self.record = record
        self.directory = engine.root / "containers" / record.id
        self._settings = Settings(spec, self.directory, engine.settler)
        self._file = RecordFile(record, self.directory, engine.settler)
        self.cgroup: Cgroup = engine.hierarchy.cgroup(record.id, dict(spec.cgroup))
        self.members = Members(record, self.cgroup)
        self.root = RootFilesystem(engine, record, self.directory, self.ids)
        self.lock = trio.Lock()
        self.process = Process(engine, record, self._file, self.directory, self, identity=record.id)
        self.volumes = MountedVolumes(engine, record, self._file, lambda: self.process.pidfd, self.ids)
        self.process.before_end = self._end_members
        self.execs = Execs(self)
        self.secrets = SecretFiles(
            engine, record, self._file, lambda: self.process.pidfd, self._found_owner, self.volumes.lock
        )
        self.error_changed = record.changed
        self._restarting = False  # by the command
        self.restarts = Restarts(self)
        self.health = Health(self)
        self._saving = False
        self._oom_kills = 0

    # names and places

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
        return self._settings.spec

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

    # settings

    async def change(self, setting: str, value: object, *, live: bool = False) -> None:
        """Set (or, with None, unset) a field of the spec, and keep it. Busy while running unless it is *live*."""
        if self.alive and not live:
            raise Busy(f"{setting} can't be changed while {self.name} is {self.state}: stop it first")
        await self._settings.change(
            lambda spec: dataclasses.replace(spec, **{setting: value})  # type: ignore[arg-type]
        )
        self.engine.events.publish("container", self.name, "set", setting=setting)

    async def change_image(self, reference: str | None) -> None:
        """The image may change only as long as no writable layer was made on top of it."""
        if self.record.layers and reference != self.spec.image and not self.record.started:
            await self.root.discard()  # nothing ran on it: it was made for somebody who looked at rootfs
        if self.record.layers and reference != self.spec.image:
            raise Busy(
                f"image can't be changed: {self.name} has a writable layer on {self.spec.image}: reset discards it"
            )
        await self.change("image", reference)

    async def change_volumes(self, items: tuple[str, ...] | None) -> None:
        """Set the volumes, in the container as well when it runs."""
        async with self.volumes.lock:
            await self._with_volumes(items, lambda: self.change("volumes", items, live=True))

    async def _with_volumes(self, items: tuple[str, ...] | None, keep: Callable[[], Awaitable[None]]) -> None:
        if self.record.pid:
            await self.volumes.change(self.spec.volumes or (), items or (), keep)
        else:
            await keep()

    async def rename_volume(self, name: str, new: str) -> None:
        """A volume got another name: its mount stays what it is."""
        async with self.volumes.lock:
            names = {item: new + item[len(name) :] for item in self.spec.volumes or () if item.startswith(f"{name}:")}
            if names:
                mounts = self.record.mounts
                self.record.mounts = {names.get(item, item): ids for item, ids in mounts.items()}
                items = tuple(names.get(item, item) for item in self.spec.volumes or ())
                await self._settings.change(lambda spec: dataclasses.replace(spec, volumes=items))
                await self.save()
                self.engine.on_change(self)

    def _owner(self) -> tuple[int, int]:
        """The user and group that its process has or would have; root's when that is not known."""
        user = self.spec.user if self.spec.user is not None else self.defaults().user
        try:
            who = resolve(user, self.root.read("etc/passwd"), self.root.read("etc/group"))
        except (Invalid, NotFound):
            return 0, 0
        ids = self.ids()
        return (who.uid, who.gid) if ids is None else (ids.uid + who.uid, ids.gid + who.gid)

    async def _found_owner(self) -> tuple[int, int]:
        if self.record.pid:
            await self._union()  # to look its user up in
        return self._owner()

    async def _union(self) -> int:
        assert self.spec.image is not None
        return await self.root.union(self.source(self.spec.image))

    async def apply_spec(self, spec: Spec) -> None:
        """Make *spec*, validated by the caller, the whole of the settings; those that are not live only while it doesn't run."""
        async with self.volumes.lock:
            await self._apply_spec(spec)

    async def _apply_spec(self, spec: Spec) -> None:
        changed = {
            item.name for item in dataclasses.fields(Spec) if getattr(spec, item.name) != getattr(self.spec, item.name)
        }
        if self.alive and not changed <= LIVE:
            raise Busy(
                f"{', '.join(sorted(changed - LIVE))} can't be changed while {self.name} is {self.state}: stop it first"
            )
        if self.record.layers and "image" in changed:
            raise Busy(
                f"image can't be changed: {self.name} has a writable layer on {self.spec.image}: reset discards it"
            )
        if "cgroup" in changed:
            before = self.spec.cgroup
            try:
                await trio.to_thread.run_sync(self._apply_cgroup, spec.cgroup)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._apply_cgroup, before)
                raise
        if "oom_score_adj" in changed:
            await self.set_oom_score(spec.oom_score_adj)
        await self._with_volumes(spec.volumes, lambda: self._settings.change(lambda _: spec))
        await self.process.streams.limit_log()
        await self.restarts.review()
        self.engine.events.publish("container", self.name, "set", setting="spec.toml")

    def _apply_cgroup(self, settings: Mapping[str, str]) -> None:
        for name in set(self.cgroup.limits()) - set(settings):
            self.cgroup.write(name, "")
        self.cgroup.apply(settings)

    async def keep_cgroup(self, limits: Mapping[str, str]) -> None:
        """The cgroup's *limits*, as they are now, become part of the spec."""
        if limits != dict(self.spec.cgroup):
            await self._settings.change(lambda spec: dataclasses.replace(spec, cgroup=MappingProxyType(dict(limits))))

    async def save(self) -> None:
        """Keep the record on disk."""
        await self._file.save()

    def _changed(self, state: State) -> None:
        self.record.state = state
        self.record.changed = now()
        self.engine.on_change(self)

    # commands

    async def start(self) -> str:
        """``start``: run it. The outcome in words; Busy when it runs already."""
        async with self.lock:
            if self.alive:
                raise Busy(f"{self.name} is {self.state} already")
            return await self.restarts.begin(self.run)

    async def run(self) -> str:
        """Start it, with the lock; the outcome in words."""
        self.record.leaving = False
        if self.spec.image is None:
            raise Invalid(f"{self.name} has no image: write one into image first")
        source = self.source(self.spec.image)
        if not self.cgroup.exists():  # no disk is asked
            await trio.to_thread.run_sync(self._make_cgroup)
        given = await self._look_up()

        async def prepare(stack: ExitStack) -> tuple[plain.Launch, list[int]]:
            union = await self.root.union(source)
            await self.volumes.claim(self.spec.volumes or ())
            shifted = await self._opened(given, stack)
            made = await trio.to_thread.run_sync(self._prepare, source.defaults, union, stack, shifted)
            await self.root.keep_clone()
            return made

        self.record.namespaces = ()
        async with self.volumes.lock:
            first, fds = launching.first(self.id, self.spec, self.cgroup, given)
            try:
                warnings = await self.process.start(first, prepare, fds=fds, terminal=bool(self.spec.tty))
            except BaseException:
                self.volumes.ended()
                raise
        if warnings:
            self.failed("; ".join(warnings))
        return f"started, pid {self.record.pid}"

    async def _look_up(self) -> launching.Given:
        """What a start depends on beyond settings and image."""
        joined = sharing.look_up(self.spec, self.name, self.engine.find)
        ids = self.ids()
        shift = None if ids is None else Shift(-1, ids)
        if not self.spec.systemd:
            return launching.Given(joined, shift=shift)
        owner = 0 if ids is None else ids.uid
        return launching.Given(joined, await trio.to_thread.run_sync(systemd.delegate, self.cgroup, owner), shift)

    def ids(self) -> IdMap | None:
        """The mapping of its user namespace, None without one; of ``auto`` it is its own from the first time on."""
        ids = in_force(self.spec.userns, self.id, self.engine.ranges, self.engine.user_namespaces())
        if ids is not None and self.spec.userns == AUTO and self.record.range != ids.uid:
            self.record.range = ids.uid
            self.save_soon()
        return ids

    async def _opened(self, given: launching.Given, stack: ExitStack) -> launching.Given:
        """With a user namespace that has the mapping, until *stack* is left."""
        if given.shift is None:
            return given
        userns = await self.engine.monitor.user_namespace(*given.shift.ids)
        stack.callback(os.close, userns)
        return dataclasses.replace(given, shift=Shift(userns, given.shift.ids))

    def began(self) -> None:
        """Its first process runs."""
        if self._shares_pids():
            self.members.note()
            self.engine.spawn(self.save)
        self.engine.on_change(self)
        self.engine.events.publish("container", self.name, "start", pid=str(self.record.pid))
        self.health.begin()

    async def lost(self) -> None:
        """Nobody knows whether its first process was started."""
        await self.end_strays()

    def _make_cgroup(self) -> None:
        self.cgroup.create()
        self.cgroup.apply(self.spec.cgroup)

    def place(self) -> launching.Place:
        """Where it lives on the machine."""
        return launching.Place(
            self.id,
            self.engine.run / "etc" / self.id,
            self.engine.mountpoint,
            self.engine.root / "cache" / "seccomp",
            self.engine.volumes.directory,
        )

    def processes(self) -> list[Process]:
        """Its first process and those that are executed in it, whether they run or not."""
        return [self.process, *(each.process for each in self.execs)]

    def _prepare(
        self, defaults: Defaults, union: int, stack: ExitStack, given: launching.Given
    ) -> tuple[plain.Launch, list[int]]:
        self._oom_kills = self.cgroup.oom_kills()
        self.process.streams.open_pipes(stack, None if given.shift is None else given.shift.ids[:2])
        stdio = self.process.streams.stdio.paths
        launch, fds = launching.prepare(self.place(), self.spec, defaults, self.cgroup, stack, stdio, given)
        fds[0] = self.engine.images.clone(union)
        stack.callback(os.close, fds[0])
        launch = launch._replace(parts=self.root.parts)
        self.volumes.launched(self.spec.volumes or (), launch, fds)
        before = len(fds)
        launch = self.secrets.launched(launch, fds, self._owner() if self.secrets.any else (0, 0))
        for fd in fds[before:]:
            stack.callback(os.close, fd)
        return launch, fds

    async def stop(self, seconds: float | None = None) -> str:
        """``stop [SECONDS]``: the stop signal, and SIGKILL when it has not exited by then. Returns once it has exited."""
        end = self.process.end
        async with self.lock:
            outcome = await self._stop(seconds)
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
        self.process.send_signal(parse_signal(launching.stop_signal(self.spec, self.defaults())))
        if self.state == "paused":
            await self._thaw()
        with trio.move_on_after(seconds):
            await down.wait()
        if not down.is_set():
            self.process.send_signal(signal.SIGKILL)
            await down.wait()
        self.engine.events.publish("container", self.name, "stop")
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
        self.process.send_signal(number)
        self.engine.events.publish("container", self.name, "kill", signal=spec_.print_signal(number))
        if number == signal.SIGKILL and self.state == "paused":
            await self._thaw()
        if signal_name is None:
            await down.wait()
            await self._part(end)
            return "killed"
        return f"sent {spec_.print_signal(number)}"

    async def pause(self) -> str:
        """``pause``: freeze every process of its cgroup."""
        async with self.lock:
            if self.state != "running":
                raise Busy(f"{self.name} is not running: it is {self.state}")
            await trio.to_thread.run_sync(self.cgroup.freeze)
            if self.state == "running":
                self._changed("paused")
                await self.save()
                self.engine.events.publish("container", self.name, "pause")
            return "paused"

    async def resume(self) -> str:
        """``resume``: let them run again."""
        async with self.lock:
            if self.state != "paused":
                raise Busy(f"{self.name} is not paused: it is {self.state}")
            await self._thaw()
            return "resumed"

    async def _thaw(self) -> None:
        await trio.to_thread.run_sync(self.cgroup.thaw)
        if self.state == "paused":
            self._changed("running")
            await self.save()
            self.engine.events.publish("container", self.name, "resume")

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
                outcome = await self.restarts.begin(self.run)
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
        await self.process.streams.close_stdin()
        return "stdin is closed"

    # exits

    def next_state(self) -> State:
        """What it is when its first process has ended."""
        state: State = "restarting" if self._restarting or self.restarts.follows() else "exited"
        self.record.leaving = bool(self.spec.autoremove) and state == "exited"
        return state

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
            self._changed("exited")
            self.health.tell()
            self.record.leaving = bool(self.spec.autoremove)
            self.engine.spawn(self.parting)
            self.process.tell_end()
            with trio.CancelScope(shield=True):
                await self.save()

    def _shares_pids(self) -> bool:
        return not sharing.own_namespace(self.spec.pid_mode)

    async def _end_members(self) -> None:
        """Its first process has ended: with a PID namespace that is not its own the kernel does not end the others."""
        if self._shares_pids():
            if self.state == "paused":
                await trio.to_thread.run_sync(self.cgroup.thaw)
            await trio.to_thread.run_sync(self.members.kill)

    async def end_strays(self) -> None:
        """It does not run: end what a start that nobody was told of may have left."""
        await trio.to_thread.run_sync(self.members.kill if self._shares_pids() else self.members.kill_strays)

    async def set_oom_score(self, value: int | None) -> None:
        """``oom_score_adj`` is about to become *value*."""
        if self.record.pid:
            await trio.to_thread.run_sync(self.members.set_oom_score, value or 0)

    async def parting(self) -> None:
        """Its run has ended: with ``autoremove`` it goes before waiters are told."""
        if self.record.leaving and self.engine.remove is not None:
            try:
                await self.engine.remove(self.name)
            except (PydockError, OSError) as error:
                self.failed(f"autoremove: {error}")

    def _clear(self, *, paused: bool) -> int:
        """What a run leaves besides its output; the processes that the kernel has killed for want of memory in it."""
        launching.remove_files(self.engine.run / "etc" / self.id)
        if self.spec.systemd or self.spec.privileged:
            systemd.take_back(self.cgroup)
        if paused:
            self.cgroup.thaw()
        try:
            return self.cgroup.oom_kills() - self._oom_kills
        except OSError:
            return 0

    async def tidy(self) -> None:
        """Its first process has ended: what it leaves besides its output."""
        self.volumes.ended()
        kills = await trio.to_thread.run_sync(lambda: self._clear(paused=self.state == "paused"))
        if kills > 0:
            limit = await trio.to_thread.run_sync(self.cgroup.read, "memory.max")
            self.failed(f"oom: the kernel killed {kills} process{'es' * (kills > 1)}: memory.max is {limit.strip()}")
            self.engine.events.publish("container", self.name, "oom", kills=str(kills))

    async def adopt(self, pidfd: int, gone: Exit | None, kept: Sequence[str] | None) -> None:
        """After pydockd's own restart: see :meth:`Process.adopt`."""
        await self.root.keep(self.engine.keeper)
        if self._shares_pids() and not self.record.namespaces:
            self.members.note()
        await self.process.adopt(pidfd, gone, kept)
        if self.record.pid:
            self.health.begin()
            try:
                await self.volumes.agree(self.spec.volumes or ())
            except (PydockError, OSError) as error:
                self.failed(f"volumes: not as they were set: {error}")

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
            if self.directory.exists():
                with trio.CancelScope(shield=True):
                    await self.save()
