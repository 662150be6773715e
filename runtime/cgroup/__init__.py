"""Control groups with one interface, cgroup v2's, over what the machine has: v1, v2 or both.

``Hierarchy`` is the choice: it finds what is mounted, makes the engine's parent cgroup and gives out ``Cgroup``s below
it, one a container. Everything blocks, for milliseconds. See cgroups(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from pydock.runtime.cgroup.devices import ALL, DEFAULT, DeviceRule
from pydock.runtime.cgroup.entry import Mode
from pydock.runtime.cgroup.group import Cgroup
from pydock.runtime.cgroup.kernelfile import read_text, write_text
from pydock.runtime.cgroup.layout import (
    Kind,
    Layout,
    default_parent,
    detect_layout,
    read_layout,
)
from pydock.runtime.cgroup.v1 import V1Cgroup
from pydock.runtime.cgroup.v2 import V2Cgroup
from pydock.runtime.errors import Busy, Failed, Invalid, PydockError
from pydock.runtime.locks import flock
from pydock.runtime.procfs import locker

__all__ = [
    "ALL",
    "DEFAULT",
    "HELPERS",
    "Cgroup",
    "DeviceRule",
    "Hierarchy",
    "Kind",
    "Layout",
    "Mode",
    "default_parent",
    "detect_layout",
    "read_layout",
]

HELPERS: Final = "engine"


class Hierarchy:
    """The engine's part of the machine's cgroups: everything below *parent*, a path relative to the roots."""

    def __init__(self, layout: Layout, parent: str) -> None:
        self.layout = layout
        self.parent = parent.strip("/")
        if not self.parent or any(part in ("", ".", "..") for part in self.parent.split("/")):
            raise Invalid(f'cgroup_parent: "{parent}" is not a relative path such as pydock')
        self._parents: dict[str, Cgroup] = {}  # those above the engine's cgroups, by path

    @classmethod
    def detect(cls, parent: str | None = None, mountpoint: Path = Path("/sys/fs/cgroup")) -> Hierarchy:
        """What this machine has, below *parent* or where it is usual; nothing is made yet."""
        layout = detect_layout(mountpoint)
        return cls(layout, parent or default_parent(layout))

    @property
    def kind(self) -> Kind:
        return self.layout.kind

    def prepare(self) -> None:
        """Make the parent, with its ancestors, and hand the controllers down to its children. Idempotent."""
        parts = self.parent.split("/")
        for depth in range(1, len(parts) + 1):
            self._hand_down("/".join(parts[: depth - 1]))
            self._make("/".join(parts[:depth]))
        self._hand_down(self.parent)

    @contextlib.contextmanager
    def owned(self, seconds: float) -> Iterator[None]:
        """One engine a parent, which is made: Busy when another has it, and does not end within *seconds*.

        It is a lock on the parent's directory, in one hierarchy, where who ends removes it last: one that was waited for may have gone.
        If it was made here and nothing has come into it, it is removed again.
        """
        directory, deadline = self.layout.roots[-1] / self.parent, time.monotonic() + seconds
        while True:
            fresh = not directory.exists()
            with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
                self.prepare()
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                self._lock(fd, deadline)
                if os.path.samestat(os.fstat(fd), os.stat(directory)):
                    kept = stack.pop_all()
                    break
        with kept:
            try:
                yield
            finally:
                if fresh:
                    with contextlib.suppress(PydockError):
                        self.remove_parent()

    def _lock(self, fd: int, deadline: float) -> None:
        left = deadline - time.monotonic()
        if not flock(fd, lambda: left):
            holder = locker(fd)
            who = f"another pydockd{f', process {holder},' if holder else ''}"
            raise Busy(f"{who} has its containers below the cgroup {self.parent}: choose another cgroup_parent")

    def cgroup(self, name: str, written: Mapping[str, str] | None = None) -> Cgroup:
        """The cgroup *name* below the parent, made or not; *written* are its settings as they were kept."""
        if not name or "/" in name or name in (".", ".."):
            raise Invalid(f'cgroup: "{name}" is not a name')
        return self._at(f"{self.parent}/{name}", written or {})

    def create(self, name: str) -> Cgroup:
        """A cgroup below the parent for the engine's own processes, which may use every device."""
        group = self.cgroup(name)
        group.create()
        group.allow_devices(ALL)
        return group

    @property
    def helpers(self) -> Cgroup:
        """That of the engine's own processes, as ``create`` makes it."""
        return self.cgroup(HELPERS)

    def names(self) -> frozenset[str]:
        """The names of the cgroups right below the parent, in any hierarchy."""
        found: set[str] = set()
        for root in self.layout.roots:
            parent = root / self.parent
            if parent.is_dir():
                found.update(path.name for path in parent.iterdir() if path.is_dir())
        return frozenset(found)

    def remove_parent(self) -> None:
        """rmdir(2) of the parent where nothing is left in it; its ancestors stay."""
        for root in self.layout.roots:
            try:
                os.rmdir(root / self.parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                    raise Failed(error.errno or errno.EIO, f"rmdir {root / self.parent}: {error.strerror}") from error
                raise Busy(f"cgroup {self.parent} can't be removed: there are processes or cgroups in it") from error

    def _at(self, path: str, written: Mapping[str, str]) -> Cgroup:
        above, _, _ = path.rpartition("/")
        parent = self._parents.get(above) if above else None
        if above and parent is None:
            parent = self._parents[above] = self._at(above, {})
        kind = V2Cgroup if self.layout.kind == "v2" else V1Cgroup
        return kind(self.layout, path, parent, written)

    def _make(self, path: str) -> None:
        for root in self.layout.roots:
            directory = root / path
            try:
                directory.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise Failed(error.errno or errno.EIO, f"mkdir {directory}: {error.strerror}") from error
            if root == self.layout.controllers.get("cpuset"):
                for file in ("cpuset.cpus", "cpuset.mems"):  # empty at first, which allows no process
                    write_text(directory / file, read_text(directory.parent / file), file)
                # Those below have them from the beginning then.
                with contextlib.suppress(OSError):
                    write_text(directory / "cgroup.clone_children", "1")

    def _hand_down(self, path: str) -> None:
        """v2: enable every controller that *path* has for its children."""
        if self.layout.kind != "v2" or self.layout.unified is None:
            return
        directory = self.layout.unified / path
        enabled = read_text(directory / "cgroup.subtree_control", "cgroup.subtree_control").split()
        for controller in read_text(directory / "cgroup.controllers", "cgroup.controllers").split():
            if controller in enabled:
                continue
            try:
                write_text(directory / "cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                if error.errno != errno.EBUSY:
                    # e.g. cpu while realtime processes are elsewhere: that controller's files will be absent
                    continue
                pid = (read_text(directory / "cgroup.procs").split() or ["?"])[0]
                raise Busy(
                    f"cgroup /{path} can't hand the {controller} controller to cgroups below it while processes are "
                    f"in itself (process {pid}): move them to a cgroup beside, or choose another cgroup_parent"
                ) from error
