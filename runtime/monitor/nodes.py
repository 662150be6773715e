"""The steps that make device nodes: those that were asked for, and for a privileged container those that the machine has."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import NamedTuple

from pydock.runtime.monitor.inside import make_inside
from pydock.runtime.monitor.launch import Device
from pydock.runtime.monitor.mounts import NODES
from pydock.runtime.monitor.step import Context

_HOST_DIRECTORIES_LEFT_OUT = ("pts", "shm", "mqueue", "fd", ".lxc", ".udev", "hugepages")
_HOST_NODES_LEFT_OUT = ("console", "ptmx", *(name for name, _, _ in NODES))


class MakeDevice(NamedTuple):
    """A further device node."""

    device: Device

    def describe(self) -> str:
        return f"make the device {self.device.path}"

    def execute(self, context: Context) -> None:
        wanted = self.device
        above, _, name = wanted.path.rstrip("/").rpartition("/")
        if name in ("", ".", ".."):
            raise ValueError(f"{wanted.path!r} is no name for a device")
        kind = stat.S_IFBLK if wanted.kind == "b" else stat.S_IFCHR
        directory = make_inside(context.root, above or "/", directory=True)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            os.mknod(name, kind | wanted.mode, os.makedev(wanted.major, wanted.minor), dir_fd=directory)
            if wanted.uid or wanted.gid:
                os.chown(name, wanted.uid, wanted.gid, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)


class FindHostDevices(NamedTuple):
    """Looks up the host's device nodes, for a privileged container."""

    found: list[Device]

    def describe(self) -> str:
        return "look up the host's devices"

    def execute(self, context: Context) -> None:
        pending = [("/dev", "")]
        while pending:
            directory, below = pending.pop()
            with os.scandir(directory) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    kind = stat.S_IFMT(status.st_mode)
                    if kind == stat.S_IFDIR and entry.name not in _HOST_DIRECTORIES_LEFT_OUT:
                        pending.append((entry.path, f"{below}{entry.name}/"))
                    elif kind in (stat.S_IFCHR, stat.S_IFBLK) and (below or entry.name not in _HOST_NODES_LEFT_OUT):
                        self.found.append(_device(entry.path, status))


def _device(path: str, status: os.stat_result) -> Device:
    kind = "b" if stat.S_ISBLK(status.st_mode) else "c"
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    return Device(path, kind, major, minor, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)


class MakeHostDevices(NamedTuple):
    """Makes the nodes that ``FindHostDevices`` has found."""

    found: list[Device]

    def describe(self) -> str:
        return "make the host's devices"

    def execute(self, context: Context) -> None:
        for device in self.found:
            MakeDevice(device).execute(context)
