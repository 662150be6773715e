"""The usual mounts made ahead: in a mount namespace that holds nothing of the machine, in a small tmpfs that stands for the root.

Where nothing is known of a container yet, a zygote makes the namespace with /dev, and with /sys, masked, if the network namespace
is made as well (``prepare``). When the process is born, its cgroups and its /proc come in and are protected (``Furnish``), while
the root is still being made. With the root all of them move there (``MoveIn``).
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.confine import masks
from pydock.runtime.monitor import identity, mounts
from pydock.runtime.monitor.inside import attach, make_plain, new_mount, open_beneath
from pydock.runtime.monitor.launch import DEFAULT_SHM, KINDS, CgroupMount, Launch
from pydock.runtime.monitor.protect import Mask, ProtectPaths
from pydock.runtime.monitor.step import Context, Ready, Step

#: The namespaces of launches that something can be made ahead for: with a network of one's own that has only lo, or with another.
READY_FOR = (KINDS, tuple(kind for kind in KINDS if kind != "net"))
#: What most launches are like, as far as anything can be made ahead.
MOST = Launch("", (), new=READY_FOR[1], usual=True, masked=masks.MASKED)
_CGROUPS = "cgroup"  # where they wait
_LATER = ("pid", "cgroup")  # namespaces whose making takes the process itself


def is_ready_for(launch: Launch) -> bool:
    """Whether the mounts of *launch* can be those that are made ahead."""
    return launch.usual and launch.new in READY_FOR and launch.shm_size == DEFAULT_SHM and launch.masked == masks.MASKED


def in_sys(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Those of *paths* that are in /sys."""
    return tuple(path for path in paths if path.startswith("/sys/"))


def prepare(new: tuple[str, ...], run_directory: str) -> Ready:
    """Makes what is the same for all launches with the namespaces *new*; the caller stays in the machine's mount namespace."""
    kinds = tuple(kind for kind in new if kind not in _LATER)
    outside = _mount_namespace()
    syscalls.unshare(identity.flags_of(kinds))
    context = Context(Launch("", ()), [], run_directory, lambda _: None)
    if "net" in kinds:
        identity.BeginNetwork().execute(context)  # while the machine's /proc is in sight
    inside = _mount_namespace()
    syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    root = new_mount("tmpfs", mounts.PLAIN, (("mode", "755"), ("size", "64k")))
    place = os.open(f"{run_directory}/empty", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    attach(root, place)
    os.close(place)
    mounts.take_as_root(root)
    for name in ("proc", "dev", "sys", _CGROUPS):
        os.mkdir(name, 0o755, dir_fd=root)
    context.root = root
    steps: list[Step] = [mounts.MountDev(), mounts.MountPts(), mounts.MountShm(DEFAULT_SHM), mounts.MountMqueue()]
    if "net" in kinds:
        steps += [mounts.MountSys(True), Mask(in_sys(masks.MASKED))]
    for step in steps:
        step.execute(context)
    syscalls.setns(outside, syscalls.CLONE_NEWNS)
    return Ready(kinds, inside, root, outside, "net" in kinds)


def _mount_namespace() -> int:
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


class Furnish(NamedTuple):
    """Mounts beside what is ready what is the process's own: its cgroups, and /proc, which is protected and masked at once."""

    ready: Ready
    cgroup_mounts: tuple[CgroupMount, ...]
    read_only_paths: tuple[str, ...]
    masked: tuple[str, ...]

    def describe(self) -> str:
        return "mount the cgroups and /proc, make paths of it read-only, mask others"

    def execute(self, context: Context) -> None:
        sources: dict[str, int] = {}
        mounts.OpenCgroups(self.cgroup_mounts, sources).execute(context)
        syscalls.setns(self.ready.inside, syscalls.CLONE_NEWNS)
        context.root = self.ready.root
        mounts.MountCgroups(self.cgroup_mounts, sources, read_only=True, target=_CGROUPS).execute(context)
        mounts.MountProc().execute(context)
        context.dev = open_beneath(context.root, "dev", os.O_PATH | os.O_DIRECTORY)
        ProtectPaths(self.read_only_paths).execute(context)
        Mask(self.masked).execute(context)
        syscalls.setns(self.ready.outside, syscalls.CLONE_NEWNS)


class MoveIn(NamedTuple):
    """The root comes as a detached mount, gets what is ready, and becomes / by being mounted over the tmpfs.

    That stays below, empty, and nobody gets to it: to unmount it as pivot_root(2) wants it takes a millisecond, in which the
    kernel waits for the other processors. As a mount namespace is entered where the uppermost mount is, that is how this goes on.
    """

    ready: Ready
    source: int
    cgroups: bool  # whether there are any

    def describe(self) -> str:
        return "change the root"

    def execute(self, context: Context) -> None:
        syscalls.setns(self.ready.inside, syscalls.CLONE_NEWNS)
        root = context.fds[self.source]
        attach(root, self.ready.root)
        context.root = root
        context.proc = self._move("proc", root, "proc")
        context.dev = self._move("dev", root, "dev")
        if self.ready.sys:
            os.close(self._move("sys", root, "sys"))
        else:
            mounts.MountSys(True).execute(context)
        if self.cgroups:
            os.close(self._move(_CGROUPS, root, mounts.CGROUPS))
        syscalls.setns(self.ready.inside, syscalls.CLONE_NEWNS)
        context.open_root()

    def _move(self, name: str, root: int, target: str) -> int:
        mount = open_beneath(self.ready.root, name, os.O_PATH | os.O_DIRECTORY)
        place = make_plain(root, target)
        attach(mount, place)
        os.close(place)
        return mount
