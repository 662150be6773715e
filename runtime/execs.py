"""Further processes in a running container: ``exec/NAME/``.

Each has settings, streams, a log and an exit code of its own, and is kept in ``containers/ID/exec/ID/`` until it is removed. It
joins all of the container's namespaces and its cgroup, and is confined as the container is. The end of the container's first
process ends it, as the kernel ends a PID namespace.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import trio
from pydock.runtime import joining, launching, oom
from pydock.runtime.errors import Busy, Exists, Invalid, NotFound
from pydock.runtime.formats import checked_name, now
from pydock.runtime.monitor import launch as plain
from pydock.runtime.process import Aside, Left, Process
from pydock.runtime.record import Life, RecordFile, kept
from pydock.runtime.runs import frozen
from pydock.runtime.spec import parse_signal, print_signal
from pydock.runtime.state import clear_halves, printed

if TYPE_CHECKING:
    from pydock.runtime.container import Container

_LISTS: Final = ("command", "env")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecSpec:
    """What was set of a process; None where the container's setting holds."""

    command: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    user: str | None = None
    workdir: str | None = None
    tty: bool | None = None
    privileged: bool | None = None


@dataclass(slots=True)
class ExecRecord(Life):
    """What is known of a process that is executed in a container."""

    settings: dict[str, object] = field(default_factory=dict)  # those of an ExecSpec that were set


class Exec:
    """One process of *container*. Commands take its lock one after another."""

    def __init__(self, container: Container, record: ExecRecord, directory: Path) -> None:
        self.container = container
        self.record = record
        self.directory = directory
        self.lock = trio.Lock()
        self.removed = False
        self.error_changed = record.changed
        self._file = RecordFile(record, directory, container.engine.settler)
        self._changes = trio.Lock()
        identity = f"{container.id}.{record.id}"
        self.process = Process(container.engine, record, self._file, directory, self, identity=identity)

    @property
    def hidden(self) -> bool:
        """Whether it is the engine's own: mkdir would refuse such a name."""
        return self.name.startswith(".")

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def label(self) -> str:
        """The path below the mount point."""
        return f"{self.container.label}/exec/{self.name}"

    @property
    def spec(self) -> ExecSpec:
        """The settings that were set."""
        return ExecSpec(**self.record.settings)  # type: ignore[arg-type]  # as change wrote them

    @property
    def alive(self) -> bool:
        return self.process.ending or self.record.state == "running"

    @property
    def env(self) -> tuple[str, ...]:
        """Its environment: the container's when it has none of its own."""
        spec = self.container.spec
        own = self.spec.env if self.spec.env is not None else spec.env
        return own if own is not None else self.container.defaults().env

    async def change(self, setting: str, value: object) -> None:
        """Set (or, with None, unset) a field of the spec, and keep it. Busy while it runs."""
        self.refuse_alive(setting)
        async with self._changes:
            settings = {**self.record.settings, setting: value}
            await self._file.save(settings=settings)
            self.record.settings = settings
        self._publish("set", setting=setting)

    def refuse_alive(self, setting: str) -> None:
        """Busy while it runs; *setting* as in the words for a person."""
        if self.alive:
            raise Busy(f"{setting} can't be changed while {self.name} is {self.record.state}: kill it first")

    async def save(self) -> None:
        """Keep the record on disk."""
        await self._file.save()

    def save_soon(self) -> None:
        """Keep the record on disk behind the reply, if it is still there by then."""

        async def save() -> None:
            async with self.lock:
                if not self.removed:
                    await self._file.keep()

        self.container.engine.spawn(save)

    # commands

    async def start(self) -> str:
        """``start``: run it in the container, which must be running."""
        async with self.lock:
            if self.alive:
                raise Busy(f"{self.name} is {self.record.state} already")
            if not self.spec.command:
                raise Invalid(f"{self.name} has no command: write one into command first")
            launching.runnable(self.spec.command)
            container = self.container
            if container.state != "running" or container.process.pidfd < 0:
                raise Busy(f"{container.name} is not running: it is {container.state}")
            if frozen(container.cgroup):
                raise Busy(f"{container.name} stands still: cgroup/cgroup.freeze is 1")
            with ExitStack() as stack:
                pidfd = os.dup(container.process.pidfd)  # whatever becomes of the container meanwhile
                stack.callback(os.close, pidfd)

                async def prepare(stack: ExitStack, aside: Aside) -> tuple[plain.Launch, list[int]]:
                    return await trio.to_thread.run_sync(self._prepare, pidfd, stack)

                first = joining.first(self.process.id, container.cgroup, container.spec, container.runs.ids())
                terminal = bool(self.spec.tty)
                with oom.told(container):
                    warnings = await self.process.start(first, prepare, fds=[pidfd], terminal=terminal)
            if warnings:
                self.failed("; ".join(warnings))
            return f"started, pid {self.record.pid}"

    def _prepare(self, pidfd: int, stack: ExitStack) -> tuple[plain.Launch, list[int]]:
        container, spec = self.container, self.spec
        ids = container.runs.ids()
        self.process.streams.open_pipes(stack, None if ids is None else ids[:2])
        command = joining.Command(
            argv=spec.command or (),
            env=self.env,
            user=spec.user,
            workdir=spec.workdir,
            terminal=bool(spec.tty),
            privileged=bool(spec.privileged),
        )
        joined = joining.Joined(
            pidfd, container.runs.place, container.spec, container.defaults(), container.cgroup, ids
        )
        return joining.prepare(self.process.id, joined, command, stack, self.process.streams.stdio.paths)

    async def kill(self, signal_name: str | None = None) -> str:
        """``kill [SIGNAL]``: without a signal SIGKILL, and returns once it has exited; with one it is sent."""
        down = self._running()
        number = signal.SIGKILL if signal_name is None else parse_signal(signal_name)
        self.process.send_signal(number)
        self._publish("kill", signal=print_signal(number))
        if signal_name is None:
            await down.wait()
            return "killed"
        return f"sent {print_signal(number)}"

    def _running(self) -> trio.Event:
        if self.record.state != "running":
            raise Busy(f"{self.name} is not running: it is {self.record.state}")
        return self.process.down

    async def close_stdin(self) -> str:
        """``eof``: nothing more comes from stdin."""
        self._running()
        await self.process.close_stdin()
        return "stdin is closed"

    async def resize(self, rows: int, columns: int) -> str:
        """``resize ROWS COLS``: the size of its terminal."""
        self._running()
        if not self.process.streams.has_terminal:
            raise Busy(f"{self.name} has no terminal: set tty to 1 before it starts")
        self.process.streams.resize(rows, columns)
        return f"{rows} rows, {columns} columns"

    # what its process tells

    def log_max(self) -> int | None:
        """As the container's, each for itself."""
        return self.container.log_max()

    async def tidy(self) -> None:
        """It leaves nothing but its output."""

    def after(self, exit_code: int | None, finished: int) -> Mapping[str, object]:
        return {"state": "exited"}

    def began(self) -> None:
        self.container.engine.on_change(self)
        self._publish("start", pid=str(self.record.pid))

    def ended(self) -> None:
        code = "" if self.record.exit_code is None else str(self.record.exit_code)
        self.container.engine.on_change(self)
        self._publish("exit", exit_code=code)

    async def parting(self) -> None:
        """It stays until it is removed."""

    async def lost(self) -> None:
        """The monitor died in the midst of it; the child, if it got as far as its program, ends with the container."""

    def _publish(self, action: str, **fields: str) -> None:
        if self.hidden:
            return  # nobody sees it: the end of each health check is not news
        self.container.engine.events.publish("exec", f"{self.container.name}/{self.name}", action, **fields)

    def failed(self, words: str) -> None:
        """*words* go into ``error`` and the root's ``errors``."""
        self.record.error = words
        self.error_changed = now()
        self.container.engine.failures.add(self.label, words)
        self.container.engine.on_change(self)

    def succeeded(self) -> None:
        """The last failure is history."""
        if self.record.error:
            self.record.error = ""
            self.error_changed = now()
            self.container.engine.on_change(self)

    async def adopt(self, left: Left) -> None:
        """After pydockd's own restart: see :meth:`Process.adopt`."""
        if not await self.process.adopt(left) and self.record.state != "created":
            self.process.settle_exited()


class Execs:
    """Those of *container*, by name and by id."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._directory = container.directory / "exec"
        self._by_name: dict[str, Exec] = {}

    def __iter__(self) -> Iterator[Exec]:
        return iter(tuple(self._by_name.values()))

    def get(self, name: str) -> Exec | None:
        return self._by_name.get(name)

    def by_id(self, identity: str) -> Exec | None:
        return next((each for each in self if each.record.id == identity), None)

    async def create(self, name: str) -> Exec:
        """mkdir."""
        checked_name(name)
        if name in self._by_name:
            raise Exists(f"{self._container.label}/exec/{name} exists")
        return await self.add(name)

    async def add(self, name: str, **settings: object) -> Exec:
        """One of any name, also of one that mkdir refuses and nobody is shown, with *settings*."""
        time = now()
        record = ExecRecord(id=secrets.token_hex(16), name=name, created=time, changed=time, settings=settings)
        made = self._by_name[name] = Exec(self._container, record, self._directory / record.id)
        try:
            await trio.to_thread.run_sync(self._make, made)
        except BaseException:
            del self._by_name[name]
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._clear, made.directory)
            raise
        self._container.engine.settler.touched(made.directory / "state.json")
        made._publish("create")
        return made

    async def remove(self, name: str) -> None:
        """rmdir: Busy while it runs."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f"{self._container.label}/exec/{name} does not exist")
        async with found.lock:
            if found.alive:
                raise Busy(f"{name} is {found.record.state}: kill it first")
            trash = self._directory / f".trash-{found.record.id}"
            await trio.to_thread.run_sync(self._take_away, found.directory, trash)
            del self._by_name[name]
            found.removed = True
            found.process.tell_end()
        found._publish("remove")
        self._container.engine.spawn(lambda: trio.to_thread.run_sync(self._clear, trash))

    async def rename(self, name: str, new: str) -> None:
        """mv."""
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f"{self._container.label}/exec/{name} does not exist")
        checked_name(new)
        if new == name:
            return
        if new in self._by_name:
            raise Exists(f"{self._container.label}/exec/{new} exists")
        self._by_name[new] = self._by_name.pop(name)
        found.record.name = new
        try:
            await found.save()
        except OSError:
            self._by_name[name] = self._by_name.pop(new)
            found.record.name = name
            raise
        found._publish("rename", before=name)

    def read(self) -> None:
        """Read what is on disk, and clear what was half made. Blocks."""
        settler = self._container.engine.settler
        for directory in self._directory.iterdir() if self._directory.is_dir() else ():
            values = None if directory.name.startswith(".") else settler.read_json(directory / "state.json")
            if values is None:
                self._clear(directory)
                continue
            clear_halves(directory)
            record = _record_of(values)
            self._by_name[record.name] = Exec(self._container, record, directory)

    def _make(self, made: Exec) -> None:
        self._directory.mkdir(mode=0o700, exist_ok=True)  # and nothing above it, which may be about to go
        made.directory.mkdir(mode=0o700)
        for name in ("log", "log.index"):
            (made.directory / name).touch(mode=0o600)
        self._container.engine.settler.replace(made.directory / "state.json", printed(kept(made.record)))

    def _take_away(self, directory: Path, trash: Path) -> None:
        os.rename(directory, trash)
        self._container.engine.settler.forget(directory)

    def _clear(self, directory: Path) -> None:
        self._container.engine.settler.forget(directory)
        with suppress(OSError):
            shutil.rmtree(directory)


def _record_of(values: dict[str, object]) -> ExecRecord:
    """The record in a ``state.json``; TypeError when it is none."""
    record = cast("Callable[..., ExecRecord]", ExecRecord)(**values)
    for name in _LISTS:
        if isinstance(found := record.settings.get(name), list):
            record.settings[name] = tuple(found)
    return record
