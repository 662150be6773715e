"""A container: its settings, its state, and the life between mkdir and rmdir.

``created → running ⇄ paused → exited``; ``restarting`` while the restart command is between two runs. Commands take the
container's lock one after another. An exit may come at any time; it is handled by :meth:`Container.exited` without the
lock, and between its awaits the state is still ``running``: it changes, and waiters wake, only when the log is complete
and the exit code is kept on disk.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import select
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

import trio
from pydock.runtime import launching, syscalls
from pydock.runtime import spec as spec_
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.companion import Lost
from pydock.runtime.engine import Defaults, Engine, Source, persistently, side_by_side
from pydock.runtime.errors import Busy, Failed, Invalid
from pydock.runtime.formats import now, parse_limit
from pydock.runtime.keeper import Keeper
from pydock.runtime.logger.client import Logger
from pydock.runtime.monitor import launch as plain
from pydock.runtime.monitor.client import Started
from pydock.runtime.record import Record, RecordFile, Run, State
from pydock.runtime.rootfs import RootFilesystem
from pydock.runtime.settings import Settings
from pydock.runtime.spec import Spec, parse_signal
from pydock.runtime.stdio import Stdio

STOP_TIMEOUT: Final = 10.0
#: Settings that may change while it runs.
LIVE: Final = frozenset({"stop_signal", "stop_timeout", "log_max", "cgroup"})
_SAVE_DELAY: Final = 1.0
#: Seconds that tidying up may take when the engine ends meanwhile; the next start does what is left.
GRACE: Final = 5.0


class End:
    """The end of a run, for those who wait: set once, with the exit code (None: unknown)."""

    __slots__ = ("code", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.code: int | None = None


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def exit_code_of(status: int) -> int:
    """The shell's number for a wait(2) status: the code, or 128 and the signal."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Container:
    """One container. *directory* holds ``spec.toml``, ``state.json``, the writable layer and the log."""

    def __init__(self, engine: Engine, record: Record, spec: Spec) -> None:
        self.engine = engine
        self.record = record
        self.directory = engine.root / "containers" / record.id
        self._settings = Settings(spec, self.directory, engine.settler)
        self._file = RecordFile(record, self.directory, engine.settler)
        self.cgroup: Cgroup = engine.hierarchy.cgroup(record.id, dict(spec.cgroup))
        self.root = RootFilesystem(engine, record, self.directory)
        self.lock = trio.Lock()
        self.end = End()  # what waiters see: a restart does not end it
        self.pidfd = -1
        self.error_changed = record.changed
        self._stdin = -1  # beside the keeper's: stdin ends when both keeper and pydockd die at once
        self._piped = False  # its named pipes are there, kept and followed
        self._ending = False
        self._watched = -1
        self._down = trio.Event()  # the current run is over, its log complete, its exit code kept
        self._restarting = False
        self._starting = False
        self._saving = False
        self.stdio = Stdio(engine.run, record.id)  # named pipes, there while it runs
        self._early: tuple[int | None, int] | None = None
        self.stdin_closed = False
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
        return self._ending or self.record.state in ("running", "paused", "restarting")

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

    async def apply_spec(self, spec: Spec) -> None:
        """Make *spec*, validated by the caller, the whole of the settings; those that are not live only while it doesn't run."""
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
        await self._settings.change(lambda _: spec)
        await self.limit_log()
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
            return await self._start()

    async def _start(self) -> str:
        if self.spec.image is None:
            raise Invalid(f"{self.name} has no image: write one into image first")
        source = self.source(self.spec.image)
        if not self.cgroup.exists():  # no disk is asked
            await trio.to_thread.run_sync(self._make_cgroup)
        self._starting, self._early = True, None
        monitors = self.engine.monitors
        try:
            with ExitStack() as stack:
                started, running = await self._launch(source, stack)
        except BaseException as error:
            self._starting = False
            if isinstance(error, Lost):
                await trio.to_thread.run_sync(self.kill_strays)
            with trio.move_on_after(GRACE, shield=True):
                await self._release_stdio()
                await self.save()
            raise
        record = self.record
        if self.end.event.is_set():
            self.end = End()
        self._down = trio.Event()
        self.pidfd = started.pidfd
        record.take(running)
        await self.save()  # which it mostly is by now
        self.engine.on_change(self)
        self.engine.events.publish("container", self.name, "start", pid=str(record.pid))
        self._starting = False
        if monitors != self.engine.monitors:  # its parent died right after the start
            self.engine.spawn(self.watch_orphan)
        if self._early is not None:
            status, time = self._early
            self.engine.spawn(lambda: self.exited(status, time))
        if started.warnings:
            self.failed("; ".join(started.warnings))
        return f"started, pid {started.pid}"

    def _make_cgroup(self) -> None:
        self.cgroup.create()
        self.cgroup.apply(self.spec.cgroup)

    async def _launch(self, source: Source, stack: ExitStack) -> tuple[Started, Run]:
        """Have it started, with all that takes time side by side: its process comes into being while its root and its launch
        are made, and is set up while its pipes get kept and followed and its record written.

        The record is on disk before the program may run or not: after a death of pydockd the monitor says whether it does.
        """
        results: list[Started] = []
        failures: list[Exception] = []
        runs: list[Run] = []
        born = trio.Event()

        def on_birth(pid: int, starttime: int) -> None:
            runs.append(Run(pid, starttime, boot_id(), now()))
            born.set()

        async def aside(call: Callable[[], Awaitable[None]]) -> None:
            try:
                await persistently(call)
            except Exception as error:
                failures.append(error)

        with trio.CancelScope(shield=True):  # a start that was begun is carried through
            async with trio.open_nursery() as nursery:

                async def keep_record() -> None:
                    await born.wait()
                    await self._file.save(runs[0])

                async def prepared() -> tuple[plain.Launch, list[int]]:
                    union = await self.root.union(source)
                    made = await trio.to_thread.run_sync(self._prepare, source.defaults, union, stack)
                    self._piped, self.stdin_closed = True, False
                    nursery.start_soon(aside, lambda: self._keep_pipes(self.engine.keeper))
                    nursery.start_soon(aside, lambda: self._follow(self.engine.logger))
                    nursery.start_soon(aside, keep_record)
                    return made

                first = launching.first(self.id, self.spec, self.cgroup)
                try:
                    results.append(await self.engine.monitor.start_with(first, prepared, on_birth))
                except Exception as error:
                    failures.insert(0, error)
                    if not born.is_set():
                        nursery.cancel_scope.cancel()
        if failures:
            for started in results:
                syscalls.pidfd_send_signal(started.pidfd, signal.SIGKILL)
                os.close(started.pidfd)
            raise failures[0]
        return results[0], runs[0]

    def _prepare(self, defaults: Defaults, union: int, stack: ExitStack) -> tuple[plain.Launch, list[int]]:
        self._oom_kills = self.cgroup.oom_kills()
        place = launching.Place(
            self.id,
            self.engine.run / "etc" / self.id,
            self.engine.mountpoint,
            self.engine.root / "cache" / "seccomp",
        )
        self.stdio.make()
        # The program may read and write, and even end, before the pipes are kept and followed.
        stack.enter_context(self.stdio.open())
        launch, fds = launching.prepare(place, self.spec, defaults, self.cgroup, stack, self.stdio.paths)
        fds[0] = self.engine.images.clone(union)
        stack.callback(os.close, fds[0])
        return launch, fds

    async def _keep_pipes(self, keeper: Keeper) -> None:
        with self.stdio.open() as ends:
            if not self.stdin_closed and self._stdin < 0:
                self._stdin = os.dup(ends["stdin"])
            wanted = {name: fd for name, fd in ends.items() if not (name == "stdin" and self.stdin_closed)}
            await keeper.keep(self.stdio.key, wanted)

    async def _follow(self, logger: Logger) -> None:
        await logger.follow(
            self.id,
            stdout=self.stdio.stdout,
            stderr=self.stdio.stderr,
            directory=self.directory,
            log_max=self.log_max(),
        )

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    async def _release_stdio(self) -> None:
        self._piped = False
        self._close_stdin()
        await side_by_side(
            lambda: persistently(lambda: self.engine.logger.unfollow(self.id)),
            lambda: persistently(lambda: self.engine.keeper.drop(self.stdio.key)),
            lambda: trio.to_thread.run_sync(self.stdio.remove),
        )

    def kill_strays(self) -> None:
        """End the first process of a start that nobody was told of: the monitor, perhaps pydockd too, died in the midst of it.
        Processes that somebody moved into the cgroup are not the first of a PID namespace, and are left alone."""
        for pid in self.cgroup.procs():
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text()
                numbers = next((line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")), [])
                if len(numbers) > 1 and numbers[-1] == "1":
                    os.kill(pid, signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Signal the container's first process; nothing when it has just gone."""
        if self.pidfd >= 0:
            with suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self.pidfd, number)

    async def stop(self, seconds: float | None = None) -> str:
        """``stop [SECONDS]``: the stop signal, and SIGKILL when it has not exited by then. Returns once it has exited."""
        async with self.lock:
            return await self._stop(seconds)

    async def _stop(self, seconds: float | None) -> str:
        down = self._running()
        if seconds is None:
            seconds = STOP_TIMEOUT if self.spec.stop_timeout is None else self.spec.stop_timeout
        name = self.spec.stop_signal or self.defaults().stop_signal or "SIGTERM"
        self.send_signal(parse_signal(name))
        if self.state == "paused":
            await self._thaw()
        with trio.move_on_after(seconds):
            await down.wait()
        if not down.is_set():
            self.send_signal(signal.SIGKILL)
            await down.wait()
        self.engine.events.publish("container", self.name, "stop")
        return f"stopped, exit code {'unknown' if self.record.exit_code is None else self.record.exit_code}"

    def _running(self) -> trio.Event:
        if self.state not in ("running", "paused"):
            raise Busy(f"{self.name} is not running: it is {self.state}")
        return self._down

    async def kill(self, signal_name: str | None = None) -> str:
        """``kill [SIGNAL]``: without a signal SIGKILL, and returns once it has exited; with one it is sent."""
        down = self._running()
        number = signal.SIGKILL if signal_name is None else parse_signal(signal_name)
        self.send_signal(number)
        self.engine.events.publish("container", self.name, "kill", signal=spec_.print_signal(number))
        if number == signal.SIGKILL and self.state == "paused":
            await self._thaw()
        if signal_name is None:
            await down.wait()
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
            if self.alive:
                self._restarting = True
                try:
                    await self._stop(seconds)
                finally:
                    self._restarting = False
            try:
                outcome = await self._start()
            except BaseException:
                if self.state == "restarting":
                    self._end_run()
                    with trio.CancelScope(shield=True):
                        await self.save()
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
        self.stdin_closed = True
        self._close_stdin()
        await self.engine.keeper.drop(self.stdio.key, "stdin")
        return "stdin is closed"

    # exits

    async def exited(self, status: int | None, time: int, pid: int | None = None) -> None:
        """Its first process, number *pid*, has ended, with wait(2) *status* (None: nobody can know), at *time* (ns)."""
        if self._starting:
            self._early = (status, time)
            return
        record = self.record
        if self._ending or record.pid == 0 or pid not in (None, record.pid):
            return
        self._ending = True
        try:
            await self._take_down(status, time)
        finally:
            self._ending = False

    async def _take_down(self, status: int | None, time: int) -> None:
        record = self.record
        await side_by_side(self._end_output, self._tidy)
        record.pid = 0
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        record.finished = time
        record.exit_code = None if status is None else exit_code_of(status)
        await self._file.save(state="restarting" if self._restarting else "exited")
        await persistently(lambda: self.engine.monitor.forget(self.id))
        code = "" if record.exit_code is None else str(record.exit_code)
        self.engine.events.publish("container", self.name, "exit", exit_code=code)
        if self._restarting:
            self._changed("restarting")
        else:
            self._end_run()
        self._down.set()

    def _end_run(self) -> None:
        self.end.code = self.record.exit_code
        self._changed("exited")
        self.end.event.set()

    async def _end_output(self) -> None:
        if self._piped:
            try:
                await persistently(lambda: self.engine.logger.drain(self.id))
            except Failed as error:
                self.failed(f"log: the end of the output is lost: {error}")
            await self._release_stdio()

    def _clear(self, *, paused: bool) -> int:
        """What a run leaves besides its output; the processes that the kernel has killed for want of memory in it."""
        launching.remove_files(self.engine.run / "etc" / self.id)
        if paused:
            self.cgroup.thaw()
        try:
            return self.cgroup.oom_kills() - self._oom_kills
        except OSError:
            return 0

    async def _tidy(self) -> None:
        kills = await trio.to_thread.run_sync(lambda: self._clear(paused=self.state == "paused"))
        if kills > 0:
            limit = await trio.to_thread.run_sync(self.cgroup.read, "memory.max")
            self.failed(f"oom: the kernel killed {kills} process{'es' * (kills > 1)}: memory.max is {limit.strip()}")
            self.engine.events.publish("container", self.name, "oom", kills=str(kills))

    async def watch_orphan(self) -> None:
        """Await the exit of a process whose monitor has died: by pidfd, with the status where the kernel tells it."""
        pidfd = self.pidfd
        if pidfd < 0 or self._watched == pidfd:
            return
        self._watched = pidfd
        await trio.lowlevel.wait_readable(pidfd)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        for _ in range(500):  # readable comes at the exit, the hang-up with the reap by init, soon after
            if any(mask & select.POLLHUP for _, mask in poller.poll(0)):
                break
            await trio.sleep(0.01)
        self._watched = -1
        if self.pidfd == pidfd:
            await self.exited(syscalls.pidfd_exit_status(pidfd), now())

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

    async def follow_again(self, logger: Logger) -> None:
        """A logger was started anew."""
        if self._piped:
            await self._follow(logger)

    async def keep_again(self, keeper: Keeper) -> None:
        """A keeper was started anew: the pipes are opened by name, the union's descriptor is still here."""
        await self.root.keep(keeper)
        if self._piped:
            await self._keep_pipes(keeper)

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

    def adopt(self, pid: int, starttime: int, pidfd: int) -> None:
        """After pydockd's own restart: the run goes on, or has gone on until its unnoticed end (pidfd -1)."""
        self.record.pid, self.record.starttime, self.record.boot = pid, starttime, boot_id()
        self.pidfd = pidfd
        self._piped = True
        self._down = trio.Event()
        if self.record.state != "paused":
            self.record.state = "running"
        self.stdin_closed = False

    def without_pipes(self) -> None:
        """After pydockd's own restart: there is nothing to keep, follow or drain any more."""
        self._piped = False
        self._close_stdin()

    def settle_exited(self) -> None:
        """After pydockd's own restart: it does not run."""
        self.record.state, self.record.pid = "exited", 0
        self.end.code = self.record.exit_code
        self.end.event.set()
        self._down.set()

    async def limit_log(self) -> None:
        """``log_max`` changed."""
        if self._piped:
            await self.engine.logger.limit(self.id, self.log_max())
