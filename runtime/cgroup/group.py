"""A cgroup: one directory in each hierarchy, seen as one directory with cgroup v2's files.

``Cgroup`` has what does not depend on the kind of machine: making and removing the directories, the processes inside,
freezing and killing, and the look-up of files by name. The files of the controllers come from ``v1`` and ``v2``.

Nothing is kept here that the kernel keeps, with one exception: values that v1 can't hold (``cpuset.cpus`` unset, a swap
limit without a memory limit) are remembered as written; whoever keeps ``limits()`` in a spec passes them in again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydock.runtime.cgroup.aliases import ALIASES
from pydock.runtime.cgroup.delegation import entrance
from pydock.runtime.cgroup.devices import DeviceRule
from pydock.runtime.cgroup.entry import Entry, Mode
from pydock.runtime.cgroup.formats import parse_flag
from pydock.runtime.cgroup.kernelfile import read_text, readable, wait_event, write_text
from pydock.runtime.cgroup.layout import Layout
from pydock.runtime.cgroup.processes import PROCS, bottom_up, kill_all, living, pids, place
from pydock.runtime.errors import Busy, Failed, Invalid, NotFound, TimedOut, Unsupported

_REMOVE_SECONDS: Final = 1.0  # how long dying processes may keep a cgroup
_FREEZE_SECONDS: Final = 5.0  # a process in uninterruptible sleep can't be frozen; the caller should hear of it


class Cgroup(ABC):
    """The cgroup *path* (relative to the hierarchies' roots); *above* is its parent, None right below the roots.

    *written* are settings as they were last written, for the few that the kernel's own files can't tell.
    """

    def __init__(self, layout: Layout, path: str, above: Cgroup | None, written: Mapping[str, str]) -> None:
        self.path = path
        self.above = above
        self.layout = layout
        self.places = tuple(f"{root}/{path}" for root in layout.roots)  # its directories; pathlib takes long to join
        self.unified: Path | None = None if layout.unified is None else layout.unified / path
        self.written: dict[str, str] = dict(written)
        self._known: set[str] = set()  # files that the kernel has in it, and so in each cgroup below

    @cached_property
    def directories(self) -> tuple[Path, ...]:
        """Its directory in each hierarchy."""
        return tuple(map(Path, self.places))

    @property
    def mounts(self) -> tuple[tuple[str, str], ...]:
        """Those, each with the name of its hierarchy's mount point."""
        return tuple((root.name, place) for root, place in zip(self.layout.roots, self.places, strict=True))

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return self._common() | self._controllers()

    def probe(self, directory: Path) -> Path:
        """Where to look which files the kernel has: the parent has the same as a cgroup not yet made."""
        return directory if self.above is None else directory.parent

    def knows(self, file: str, look: Callable[[], bool]) -> bool:
        """Whether the kernel has *file*, as *look* finds out; a file that was there once for the parent is not looked for again."""
        known = (self.above or self)._known
        if file not in known and look():
            known.add(file)
        return file in known

    # What the kinds differ in

    @abstractmethod
    def _controllers(self) -> dict[str, Entry]:
        """The controllers' files that this machine has, by v2 name."""

    @abstractmethod
    def _prepare(self, fresh: frozenset[str]) -> None:
        """Make the *fresh* directories usable before any process or child is in them."""

    @abstractmethod
    def oom_kills(self) -> int:
        """Processes in it or below that the kernel killed for want of memory."""

    @abstractmethod
    def allow_devices(self, rules: Iterable[DeviceRule]) -> None:
        """Replace the list of devices that its processes may make, read and write."""

    @abstractmethod
    def native_alias(self, name: str) -> Entry | None:
        """The kernel's own file behind a v1 name, where it says more than the translation would."""

    # The directories

    def create(self) -> None:
        """mkdir(2) in each hierarchy; what exists already is left as it is."""
        fresh = set()
        for directory in self.places:
            try:
                os.mkdir(directory)
            except FileExistsError:
                continue
            except OSError as error:
                number = error.errno or errno.EIO
                raise Failed(number, f"cgroup {self.path}: mkdir {directory}: {error.strerror}") from error
            fresh.add(directory)
        if fresh:
            self.written.clear()  # nothing of it is in force: it is for ``apply`` to write it again
            self._prepare(frozenset(fresh))

    def exists(self) -> bool:
        return all(map(os.path.isdir, self.places))  # pathlib's own takes four times as long

    def remove(self) -> None:
        """rmdir(2) in each hierarchy, cgroups that were made below it included.

        Processes that are dying are waited for, a second at most; others make it Busy, and nothing is removed.
        """
        deadline = time.monotonic() + _REMOVE_SECONDS
        pause = 0.001
        while True:
            self._refuse_living(final=time.monotonic() > deadline)
            try:
                for directory in self.places:
                    for below in bottom_up(directory):
                        os.rmdir(below)
                return
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    number = error.errno or errno.EIO
                    raise Failed(number, f"cgroup {self.path}: rmdir {error.filename}: {error.strerror}") from error
                if time.monotonic() > deadline:
                    raise Busy(f"cgroup {self.path} can't be removed: it is still in use") from error
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def _refuse_living(self, *, final: bool) -> None:
        for pid in self.procs():
            command = living(pid)
            if command is not None or final:
                raise Busy(
                    f"cgroup {self.path} is in use by process {pid} ({command or 'dying'}): end it or move it elsewhere"
                )

    # The processes

    @property
    def join_files(self) -> tuple[str, ...]:
        """Files into which a single-threaded process writes ``0`` to move itself into the cgroup.

        On v1 ``tasks``: for the caller itself it does without the lock that stops every fork of the machine.
        v2's cgroup.procs, the last, needs that lock, which costs 8 ms when nobody moved anything lately: see
        ``join_files_after_clone``.
        """
        unified = () if self.unified is None else (str(self.unified / PROCS),)
        return self.join_files_after_clone + unified

    @cached_property
    def join_files_after_clone(self) -> tuple[str, ...]:
        """What is left of ``join_files`` for a child made by clone3(2) with CLONE_INTO_CGROUP of ``clone_into``."""
        without = self.places if self.unified is None else self.places[:-1]
        return tuple(f"{place}/tasks" for place in without)

    @property
    def clone_into(self) -> str | None:
        """The v2 directory for CLONE_INTO_CGROUP, which takes no time; None where there is no v2 tree."""
        return None if self.unified is None else str(entrance(self.unified))

    def procs(self) -> tuple[int, ...]:
        """The processes in any of its directories or below; of those in other PID namespaces only their presence, 0."""
        found: set[int] = set()
        for directory in self.places:
            for below in bottom_up(directory):
                with contextlib.suppress(FileNotFoundError):  # removed under the walk
                    found |= pids(below)
        return tuple(sorted(found))

    def move(self, pid: int) -> None:
        """Move the process into the cgroup, in all hierarchies or in none."""
        try:
            before = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError as error:
            raise Failed(errno.ESRCH, f"{PROCS}: there is no process {pid}") from error
        done: list[Path] = []
        for directory in self.directories:
            try:
                write_text(entrance(directory) / PROCS, str(pid))
            except OSError as error:
                for root in done:
                    with contextlib.suppress(OSError):  # its old place may be gone meanwhile: it stays in ours
                        write_text(place(self.layout, root, before) / PROCS, str(pid))
                number = error.errno or errno.EIO
                raise Failed(number, f"{PROCS}: process {pid} can't be moved: {error.strerror}") from error
            done.append(directory.parents[self.path.count("/")])

    # The files

    def names(self) -> tuple[str, ...]:
        """v2's names of the files that this machine can serve."""
        return tuple(self._entries)

    def aliases(self) -> frozenset[str]:
        """v1's names, not to be listed but there to be opened."""
        return frozenset(name for name in ALIASES if self._alias(name) is not None)

    def mode(self, name: str) -> Mode:
        return self._entry(name).mode

    def read(self, name: str) -> str:
        """The file's text without its last newline."""
        entry = self._entry(name)
        if entry.read is None:
            raise Invalid(f"{name} can only be written")
        return entry.read()

    def write(self, name: str, value: str, caller: int | None = None) -> None:
        """Set a file; *caller* is the process that ``0`` stands for in cgroup.procs and tasks."""
        value = value.strip()
        if name in (PROCS, "tasks"):
            self._move_written(name, value, caller)
            return
        entry = self._entry(name)
        if entry.write is None:
            raise Invalid(f"{name} can only be read")
        entry.write(value or entry.default or "")  # emptied is unset, and unset is the default

    def limits(self, written: str = "", before: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """The settings that differ from the kernel's defaults, as ``apply`` takes them.

        After *written* was written they are those *before*, but for that controller's.
        """
        controller = written.partition(".")[0] if written in self._entries else ""
        found = {}
        for name, entry in self._entries.items():
            if entry.default is not None and entry.read is not None:
                same = controller and name.partition(".")[0] != controller
                value = before.get(name, entry.default) if same else entry.read()
                if value != entry.default:
                    found[name] = value
        return found

    def apply(self, settings: Mapping[str, str]) -> None:
        """Write *settings*, in an order that works; one that the kernel lacks is Unsupported, before any is written.

        What is no setting but does something, such as cgroup.kill, is Invalid.
        """
        for name in settings:
            if name not in self._entries:
                raise Unsupported(f"{name}: this kernel has no such limit")
            if self._entries[name].default is None:
                raise Invalid(f"{name} is not a limit that can be kept")
        for name in self._entries:  # in the tables' order: a memory limit before that of swap
            if name in settings:
                self.write(name, settings[name])

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name) or self._alias(name)
        if entry is None:
            raise NotFound(f"{name}: this kernel has no such cgroup file")
        return entry

    def _alias(self, name: str) -> Entry | None:
        alias = ALIASES.get(name)
        if alias is None:
            return None
        native = self.native_alias(name)
        if native is not None:
            return native
        if any(need not in self._entries for need in alias.needs):
            return None
        read, write = alias.read, alias.write
        return Entry(
            None if read is None else lambda: read(self), None if write is None else lambda value: write(self, value)
        )

    def refuse_above(self, name: str, value: str, exceeds: Callable[[str], bool]) -> None:
        """Invalid if the parent or one further up has a limit that *value* exceeds: the kernel would just ignore it."""
        above = self.above
        while above is not None:
            entry = above._entries.get(name)
            if entry is not None and entry.read is not None and (limit := entry.read()) and exceeds(limit):
                raise Invalid(f'{name}: "{value}" is more than the "{limit}" that cgroup {above.path} above it allows')
            above = above.above

    # The files that are not about a controller

    def _common(self) -> dict[str, Entry]:
        entries = {
            PROCS: Entry(self._read_procs, lambda value: self._move_written(PROCS, value, None)),
            "cgroup.freeze": Entry(self._read_freeze, self._write_freeze),
            "cgroup.kill": Entry(None, self._write_kill),
            "cgroup.events": Entry(self._read_events),
        }
        if self.unified is not None:
            for name in ("cpu.pressure", "memory.pressure", "io.pressure"):
                if self.knows(name, functools.partial(readable, self.probe(self.unified) / name)):
                    entries[name] = Entry(self._pressure(self.unified / name))
        return entries

    def _pressure(self, path: Path) -> Callable[[], str]:
        return lambda: read_text(path, path.name)

    def _read_procs(self) -> str:
        try:  # v1 has a directory a controller, and cgexec(1) may have put a process into some of them only
            found = set().union(*(pids(entrance(directory)) for directory in self.directories))
            return "\n".join(str(pid) for pid in sorted(found))
        except FileNotFoundError as error:
            raise NotFound(f"cgroup {self.path} is gone") from error

    def _move_written(self, name: str, value: str, caller: int | None) -> None:
        if not value.isascii() or not value.isdigit() or len(value) > 10:
            raise Invalid(f'{name}: "{value}" is not a process: its number, or 0 for the one that writes')
        pid = int(value) or caller
        if not pid:
            raise Invalid(f"{name}: 0 stands for the process that writes, and nobody knows which that is")
        self.move(pid)

    def _write_freeze(self, value: str) -> None:
        self._set_frozen(parse_flag("cgroup.freeze", value))

    def _write_kill(self, value: str) -> None:
        if value != "1":
            raise Invalid(f'cgroup.kill: "{value}" is not 1')
        self.kill()

    def kill(self) -> None:
        """SIGKILL to every process in it and below; they may still be dying when this returns.

        The kernel's cgroup.kill is for those in foreign PID namespaces alone: since Linux 6.14 it also kills whatever
        CLONE_INTO_CGROUP starts in that cgroup ever after, for one that was forked meanwhile.
        """
        if 0 in self.procs() and self.unified is not None:
            with contextlib.suppress(FileNotFoundError):  # cgroup.kill is of Linux 5.14
                write_text(self.unified / "cgroup.kill", "1")
        with self._standing():
            if kill_all(self.procs):
                return
        raise Busy(f"cgroup.kill: processes in cgroup {self.path} multiply faster than they can be killed")

    @contextlib.contextmanager
    def _standing(self) -> Iterator[None]:
        """Nobody in it forks within, where SIGKILL ends those who are frozen as well: not so with v1's freezer."""
        if freezes := self.unified is not None and not self.is_frozen():
            self._set_frozen(True)
        try:
            yield
        finally:
            if freezes:
                self._set_frozen(False)

    def is_frozen(self) -> bool:
        """Whether its processes stand, or are about to."""
        return self._read_freeze() == "1"

    def freeze(self) -> None:
        """Stop every process in it and wait until they stand; TimedOut, and thawed again, if one does not."""
        self._set_frozen(True)
        if not self._wait_frozen(True):
            self._set_frozen(False)
            raise TimedOut(f"cgroup {self.path} could not be frozen within {_FREEZE_SECONDS:.0f} seconds")

    def thaw(self) -> None:
        """Let them go on."""
        self._set_frozen(False)
        if not self._wait_frozen(False):
            raise TimedOut(f"cgroup {self.path} could not be thawed: is the cgroup above it frozen?")

    # Freezing by the v2 tree; a v1 machine without one has its own way.

    def _v2_file(self, name: str) -> Path:
        if self.unified is None:
            raise Unsupported(f"{name}: this machine has neither a cgroup v2 tree nor a v1 freezer")
        return self.unified / name

    def _set_frozen(self, frozen: bool) -> None:
        write_text(self._v2_file("cgroup.freeze"), "1" if frozen else "0", "cgroup.freeze")

    def _read_freeze(self) -> str:
        return read_text(self._v2_file("cgroup.freeze"), "cgroup.freeze")

    def _read_events(self) -> str:
        return read_text(self._v2_file("cgroup.events"), "cgroup.events")

    def _wait_frozen(self, frozen: bool) -> bool:
        return wait_event(self._v2_file("cgroup.events"), "frozen", int(frozen), _FREEZE_SECONDS)
