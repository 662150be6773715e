"""The steps that build what a container sees of the file system.

They run inside the container's own mount namespace, with the container's root as the root, so nothing of the host can
be reached by path any more. All of them mount onto descriptors (``pydock.runtime.monitor.inside``).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.monitor.inside import (
    attach,
    attributes,
    clone,
    make_inside,
    make_plain,
    new_mount,
    open_beneath,
    open_inside,
    refuse_proc,
    set_attributes,
)
from pydock.runtime.monitor.launch import CgroupMount, Tmpfs, Volume
from pydock.runtime.monitor.step import Context

PLAIN = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_FOR_ALL = 0o1777
CGROUPS = "sys/fs/cgroup"
NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
)


def _mount_new(root: int, target: str, kind: str, bits: int, options: tuple[tuple[str, str | None], ...] = ()) -> int:
    """Mounts a new file system where nobody may have put a link; the descriptor of its root."""
    place = make_plain(root, target)
    mount = new_mount(kind, bits, options)
    attach(mount, place)
    os.close(place)
    return mount


class MountRoot(NamedTuple):
    """The root comes as a detached mount and becomes / of a mount namespace that holds nothing else."""

    source: int

    def describe(self) -> str:
        return "change the root"

    def execute(self, context: Context) -> None:
        root = context.fds[self.source]
        syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        place = os.open(f"{context.run}/empty", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        attach(root, place)
        os.close(place)
        take_as_root(root)
        context.open_root()


def take_as_root(mount: int) -> None:
    """Makes *mount*, which is attached somewhere, / of this mount namespace; all else in it goes."""
    os.fchdir(mount)
    # The new root is put over the old one and the old one slides below it: pivot_root(2), "pivot_root(".", ".")".
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


class MountProc(NamedTuple):
    """/proc of the process's own PID namespace."""

    def describe(self) -> str:
        return "mount /proc"

    def execute(self, context: Context) -> None:
        context.proc = _mount_new(context.root, "proc", "proc", PLAIN)


class MountSys(NamedTuple):
    """/sys of the process's own network namespace."""

    read_only: bool

    def describe(self) -> str:
        return f"mount /sys {'ro' if self.read_only else 'rw'}"

    def execute(self, context: Context) -> None:
        bits = PLAIN | (syscalls.MOUNT_ATTR_RDONLY if self.read_only else 0)
        os.close(_mount_new(context.root, "sys", "sysfs", bits))


class MountDev(NamedTuple):
    """A private /dev with the nodes that everybody needs."""

    def describe(self) -> str:
        return "mount /dev"

    def execute(self, context: Context) -> None:
        options = (("mode", "755"), ("size", "64m"))
        context.dev = _mount_new(context.root, "dev", "tmpfs", syscalls.MOUNT_ATTR_NOSUID, options)
        fill_dev(context.dev)


def fill_dev(dev: int) -> None:
    """What is in every /dev, into the empty directory *dev*."""
    for name, major, minor in NODES:
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        os.chmod(name, 0o666, dir_fd=dev)  # whatever the umask is
    for name, target in _LINKS:
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755, dir_fd=dev)


class MountPts(NamedTuple):
    """Terminals of its own. Group 5 is tty everywhere, where it is mapped."""

    tty: bool = True

    def describe(self) -> str:
        return "mount /dev/pts"

    def execute(self, context: Context) -> None:
        options: tuple[tuple[str, str | None], ...] = (("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620"))
        if self.tty:
            options += (("gid", "5"),)
        bits = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
        os.close(_mount_new(context.root, "dev/pts", "devpts", bits, options))


class MountShm(NamedTuple):
    """Shared memory of *size* bytes."""

    size: int

    def describe(self) -> str:
        return f"mount /dev/shm of {self.size} bytes"

    def execute(self, context: Context) -> None:
        options = (("mode", "1777"), ("size", str(self.size)))
        os.close(_mount_new(context.root, "dev/shm", "tmpfs", PLAIN, options))


class BorrowShm(NamedTuple):
    """Clones the /dev/shm of another process, in that one's mount namespace, for ``AttachShm``.

    A container can put there what it likes, but nothing is found through a link of its making.
    """

    source: int
    found: list[int]

    def describe(self) -> str:
        return "find the shared /dev/shm"

    def execute(self, context: Context) -> None:
        own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(context.fds[self.source], syscalls.CLONE_NEWNS)
        resolve = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
        place = syscalls.openat2(syscalls.AT_FDCWD, "/dev/shm", os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        self.found.append(clone(place))
        os.close(place)
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        os.close(own)


class AttachShm(NamedTuple):
    """The memory that is shared with another container."""

    found: list[int]

    def describe(self) -> str:
        return "attach the shared /dev/shm"

    def execute(self, context: Context) -> None:
        place = make_plain(context.root, "dev/shm")
        attach(self.found[0], place)
        os.close(self.found.pop())
        os.close(place)


class AttachMade(NamedTuple):
    """A usual mount that is made already."""

    target: str
    early: dict[str, int]

    def describe(self) -> str:
        return f"attach {self.target}"

    def execute(self, context: Context) -> None:
        place = make_plain(context.root, self.target)
        attach(self.early[self.target], place)
        os.close(place)
        if self.target == "/dev":
            context.dev = self.early[self.target]


class MountMqueue(NamedTuple):
    """POSIX message queues of the process's own IPC namespace."""

    def describe(self) -> str:
        return "mount /dev/mqueue"

    def execute(self, context: Context) -> None:
        os.close(_mount_new(context.root, "dev/mqueue", "mqueue", PLAIN))


class MountCgroups(NamedTuple):
    """The container's own cgroup of every hierarchy; opened on the host before its root goes away."""

    mounts: tuple[CgroupMount, ...]
    sources: dict[str, int]
    read_only: bool
    target: str = CGROUPS

    def describe(self) -> str:
        return "mount /sys/fs/cgroup"

    def execute(self, context: Context) -> None:
        bits = PLAIN | (syscalls.MOUNT_ATTR_RDONLY if self.read_only else 0)
        above = -1
        for mount in self.mounts:
            tree = self.sources[mount.name]
            syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=bits, propagation=syscalls.MS_PRIVATE)
            if not mount.name:
                place = make_plain(context.root, self.target)
            else:
                if above < 0:
                    above = _mount_new(context.root, self.target, "tmpfs", PLAIN, (("mode", "755"),))
                os.mkdir(mount.name, 0o755, dir_fd=above)
                place = open_beneath(above, mount.name, os.O_PATH)
                if "," in mount.name:
                    for part in mount.name.split(","):
                        os.symlink(mount.name, part, dir_fd=above)
            attach(tree, place)
            os.close(place)
            os.close(tree)
        if above >= 0 and self.read_only:
            syscalls.mount_setattr(above, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY)


class OpenCgroups(NamedTuple):
    """Clones the mounts of the container's cgroups while the host's paths can still be seen."""

    mounts: tuple[CgroupMount, ...]
    sources: dict[str, int]

    def describe(self) -> str:
        return "open the cgroups' directories"

    def execute(self, context: Context) -> None:
        flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        for mount in self.mounts:
            self.sources[mount.name] = syscalls.open_tree(syscalls.AT_FDCWD, mount.source, flags)


class MountTmpfs(NamedTuple):
    """A tmpfs that was asked for."""

    tmpfs: Tmpfs

    def describe(self) -> str:
        return f"mount a tmpfs on {self.tmpfs.target}"

    def execute(self, context: Context) -> None:
        wanted = self.tmpfs
        place, mode = _find_place(context.root, wanted.target)
        refuse_proc(context.root, place)
        if wanted.mode is not None:
            mode = wanted.mode
        options: tuple[tuple[str, str | None], ...] = (
            ("mode", f"{mode:o}"),
            ("uid", str(wanted.uid)),
            ("gid", str(wanted.gid)),
        )
        if wanted.size is not None:
            options += (("size", str(wanted.size)),)
        for option in wanted.options:
            name, _, value = option.partition("=")
            options += ((name, value),)
        mount = new_mount("tmpfs", attributes(wanted.flags, read_only=wanted.read_only), options)
        attach(mount, place)
        os.close(place)
        os.close(mount)


def _find_place(root: int, target: str) -> tuple[int, int]:
    """The directory that a tmpfs is to be mounted on, and its mode. One that is missing is made for everybody, as /tmp is.

    In the root it has that mode itself, for the next start finds it. In a volume, which may be the machine's, it has not.
    """
    try:
        place = open_inside(root, target, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        place = make_inside(root, target, directory=True)
        if syscalls.mount_id(place) == syscalls.mount_id(root):
            made = open_beneath(place, ".", os.O_RDONLY | os.O_DIRECTORY)
            os.fchmod(made, _FOR_ALL)
            os.close(made)
        return place, _FOR_ALL
    return place, stat.S_IMODE(os.fstat(place).st_mode)


class MakePlaces(NamedTuple):
    """What an image declares as a volume is a directory. One that can't be made is told, and is not there, as before."""

    places: tuple[str, ...]

    def describe(self) -> str:
        return "make the image's volumes"

    def execute(self, context: Context) -> None:
        for place in self.places:
            try:
                try:
                    found = open_inside(context.root, place, os.O_PATH)  # a file will do as well
                except FileNotFoundError:
                    found = make_inside(context.root, place, directory=True)
                os.close(found)
            except (OSError, ValueError) as error:  # ValueError: no path at all
                words = getattr(error, "strerror", None) or error
                context.warn(f"the image's volume {place!r} can't be made: {words}")


class MountVolume(NamedTuple):
    """A volume, or one of the files that pydock writes for the container (hosts, resolv.conf)."""

    volume: Volume

    def describe(self) -> str:
        return f"mount the volume {self.volume.target}"

    def execute(self, context: Context) -> None:
        volume = self.volume
        tree = context.fds[volume.source]
        set_attributes(tree, volume.propagation, attributes(volume.flags, read_only=volume.read_only))
        place = make_inside(context.root, volume.target, directory=volume.is_directory)
        refuse_proc(context.root, place)
        attach(tree, place)
        os.close(place)
