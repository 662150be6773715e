"""The steps that protect what a container gets to see: masks, read-only paths, the read-only root; and sysctls.

Protected paths of /proc are looked up in the procfs itself, wherever an image's symlinks have made it land.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.monitor.inside import attach, clone, new_mount, open_beneath, open_inside
from pydock.runtime.monitor.mounts import PLAIN
from pydock.runtime.monitor.step import Context


def _open_protected(context: Context, path: str) -> int:
    """A path of /proc is looked up in the procfs itself, wherever an image's symlinks have made it land."""
    if context.proc >= 0 and path.startswith("/proc/"):
        return open_beneath(context.proc, path.removeprefix("/proc/"), os.O_PATH)
    return open_inside(context.root, path, os.O_PATH)


def _matches(context: Context, path: str) -> list[str]:
    """The paths that *path* stands for, if one of its components has a ``*``; else itself."""
    parts = path.split("/")
    number = next((number for number, part in enumerate(parts) if "*" in part), None)
    if number is None:
        return [path]
    above = "/".join(parts[:number])
    # All there is to patterns here: re takes long to warm up in a child.
    before, _, after = parts[number].partition("*")
    try:
        place = open_inside(context.root, above, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        names = [name for name in os.listdir(place) if name.startswith(before) and name.endswith(after)]
    finally:
        os.close(place)
    return ["/".join([above, name, *parts[number + 1 :]]) for name in sorted(names)]


class Mask(NamedTuple):
    """Hides *paths*, those that exist; one component of each may have a ``*``."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "mask paths of /proc and /sys"

    def execute(self, context: Context) -> None:
        null = -1
        empty = -1
        for path in [match for pattern in self.paths for match in _matches(context, pattern)]:
            try:
                place = _open_protected(context, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISDIR(os.fstat(place).st_mode):
                if empty < 0:
                    options = (("mode", "555"), ("size", "4k"))
                    empty = mask = new_mount("tmpfs", PLAIN | syscalls.MOUNT_ATTR_RDONLY, options)
                else:
                    mask = clone(empty)  # of one that is attached: before Linux 6.15 others can't be cloned
            else:
                if null < 0:
                    null = open_null(context, os.O_PATH)
                mask = clone(null)
            attach(mask, place)
            if mask != empty:
                os.close(mask)
            os.close(place)


def open_null(context: Context, flags: int) -> int:
    """/dev/null of the container, made sure that it is one."""
    if context.dev >= 0:
        return open_beneath(context.dev, "null", flags)
    null = open_inside(context.root, "/dev/null", flags)
    status = os.fstat(null)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(1, 3):
        raise ValueError("/dev/null of the container is not the null device")
    return null


class ProtectPaths(NamedTuple):
    """Makes *paths*, those that exist, read-only."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        return "make paths of /proc read-only"

    def execute(self, context: Context) -> None:
        for path in self.paths:
            try:
                place = _open_protected(context, path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            tree = clone(place, recursive=True)
            flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
            syscalls.mount_setattr(tree, "", flags, attr_set=syscalls.MOUNT_ATTR_RDONLY)
            attach(tree, place)
            os.close(tree)
            os.close(place)


class SetSysctls(NamedTuple):
    """Writes below /proc/sys, through the procfs's own descriptor.

    In a user namespace some belong to the machine's root by number, some to the root inside, and which do depends on the kernel: it
    is tried as the one first, with *refused* to take those that are left for the other.
    """

    values: tuple[tuple[str, str], ...]
    refused: list[tuple[str, str]] | None = None

    def describe(self) -> str:
        return "set sysctls"

    def execute(self, context: Context) -> None:
        for name, value in self.values:
            path = name if "/" in name else name.replace(".", "/")
            try:
                fd = open_beneath(context.proc, f"sys/{path}", os.O_WRONLY)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
            except OSError as error:
                if self.refused is None or error.errno not in (errno.EACCES, errno.EPERM):
                    raise OSError(error.errno, error.strerror, f"sysctl {name}") from None
                self.refused.append((name, value))


class SetRefusedSysctls(NamedTuple):
    """Those that ``SetSysctls`` has been refused."""

    refused: list[tuple[str, str]]

    def describe(self) -> str:
        return "set the other sysctls"

    def execute(self, context: Context) -> None:
        SetSysctls(tuple(self.refused)).execute(context)


class ProtectRoot(NamedTuple):
    """Makes the root mount read-only, and its *parts*; what else is mounted in it stays as it is."""

    parts: tuple[str, ...] = ()

    def describe(self) -> str:
        return "make the root read-only"

    def execute(self, context: Context) -> None:
        for part in self.parts:
            place = open_inside(context.root, part, os.O_PATH)
            syscalls.mount_setattr(place, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY)
            os.close(place)
        syscalls.mount_setattr(context.root, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY)
