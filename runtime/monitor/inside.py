"""Paths inside a container's root, and mounting onto them.

An image may hold any symlink, to ``/proc/self/fd/3`` or to ``../../../etc``, and a volume may be shared with a
container that changes it meanwhile. So nothing here is ever looked up by string: each path is resolved by the kernel
below the root's descriptor (openat2(2), RESOLVE_IN_ROOT without magic links) and the descriptor is what is used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from pydock.runtime import syscalls
from pydock.runtime.confine.masks import COVERABLE, READ_ONLY

_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_BENEATH = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_MOST_LINKS = 40
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SHARED,
}

_ATTRIBUTES = {
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
    "noatime": syscalls.MOUNT_ATTR_NOATIME,
    "strictatime": syscalls.MOUNT_ATTR_STRICTATIME,
    "nodiratime": syscalls.MOUNT_ATTR_NODIRATIME,
}


def open_inside(root: int, path: str, flags: int) -> int:
    """openat(2) with *root* as the root directory: links lead nowhere else, magic links are ELOOP."""
    return syscalls.openat2(root, path, flags, resolve=_IN_ROOT)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """openat(2) below *directory*, through no symlink at all."""
    return syscalls.openat2(directory, path, flags, resolve=_BENEATH)


def read_inside(root: int, path: str, limit: int) -> str:
    """Up to *limit* bytes of a regular file; empty when there is none."""
    try:
        fd = open_inside(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return ""
    with open(fd, "rb") as file:
        return file.read(limit).decode(errors="surrogateescape")


def make_inside(root: int, path: str, *, directory: bool) -> int:
    """An O_PATH descriptor of *path*; what is missing of it is made: directories (0755), at the end perhaps a file.

    Dangling symlinks on the way are followed, inside, and what they point to is made. ENOTDIR or EISDIR when it is there and of the
    other kind: the kernel would just call such a mount invalid.
    """
    try:
        place = open_inside(root, path, os.O_PATH)
    except FileNotFoundError:
        _make(root, path, directory=directory)
        place = open_inside(root, path, os.O_PATH)
    if stat.S_ISDIR(os.fstat(place).st_mode) == directory:
        return place
    os.close(place)
    if directory:
        raise NotADirectoryError(errno.ENOTDIR, "it is a file, and a directory is to be there", path)
    raise IsADirectoryError(errno.EISDIR, "it is a directory, and a file is to be there", path)


def make_plain(root: int, path: str) -> int:
    """An O_PATH descriptor of the directory *path*, which is made when it is missing, and reached through no symlink at all.

    For what has to be where everybody looks for it: with an image's link in its place, what is masked there could be reached
    elsewhere. ELOOP when there is one.
    """
    resolve = _IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
    try:
        try:
            return syscalls.openat2(root, path, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
        except FileNotFoundError:
            os.close(make_inside(root, path, directory=True))
            return syscalls.openat2(root, path, os.O_PATH | os.O_DIRECTORY, resolve=resolve)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, f"{path} is a symlink in the image, where a directory is needed") from None


def refuse_proc(root: int, place: int) -> None:
    """EINVAL when *place*, where something is to be mounted, is in the container's /proc, but for what may be covered, by whatever
    links. Another procfs, the machine's in a volume, is the container's to cover."""
    if syscalls.fstatfs(place) != syscalls.PROC_SUPER_MAGIC:
        return
    own = set()
    for path in ("/proc", *READ_ONLY):  # mounts of it by themselves, mostly
        with suppress(OSError):
            found = open_inside(root, path, os.O_PATH)
            own.add(syscalls.mount_id(found))
            os.close(found)
    if syscalls.mount_id(place) not in own:
        return
    for path in COVERABLE:
        with suppress(OSError):  # not every kernel has all of them
            found = open_inside(root, path, os.O_PATH)
            same = os.path.samestat(os.fstat(found), os.fstat(place))
            os.close(found)
            if same:
                return
    raise OSError(errno.EINVAL, "it is in /proc, where nothing may be mounted")


def _make(root: int, path: str, *, directory: bool) -> None:
    walked = "/"
    pending = _components(path)
    links = 0
    while pending:
        name = pending.pop(0)
        here = f"{walked}{name}"
        parent = open_inside(root, walked, os.O_PATH | os.O_DIRECTORY)
        try:
            os.close(open_inside(root, here, os.O_PATH))
        except FileNotFoundError:
            try:
                link = os.readlink(name, dir_fd=parent)
            except FileNotFoundError:
                _create(parent, name, directory=directory or bool(pending))
            else:
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
                pending = _components(link) + pending
                walked = "/" if link.startswith("/") else walked
                continue
        finally:
            os.close(parent)
        walked = f"{here}/"


def _create(parent: int, name: str, *, directory: bool) -> None:
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
    except FileExistsError:
        pass  # another container was first; the look-up that follows tells what it is


def _components(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in ("", ".")]


def attributes(flags: Iterable[str], *, read_only: bool = False) -> int:
    """MOUNT_ATTR_* bits of mount options by name; ValueError for one that is unknown."""
    bits = syscalls.MOUNT_ATTR_RDONLY if read_only else 0
    for flag in flags:
        if flag not in _ATTRIBUTES:
            raise ValueError(f"mount option {flag!r} is unknown: {' '.join(_ATTRIBUTES)} are known")
        bits |= _ATTRIBUTES[flag]
    return bits


def set_attributes(tree: int, propagation: str, bits: int) -> None:
    """A volume's options onto the detached mount *tree*: *propagation* by name, MOUNT_ATTR_* *bits* with all that is mounted below.

    ValueError for a name that is none.
    """
    recursive = propagation.startswith("r")
    name = propagation[1:] if recursive else propagation
    if name not in _PROPAGATION:
        raise ValueError(f"propagation {propagation!r} is unknown: private, slave, shared, rprivate, …")
    flags = syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
    syscalls.mount_setattr(tree, "", flags, propagation=_PROPAGATION[name])
    if bits:
        clear = syscalls.MOUNT_ATTR__ATIME if bits & syscalls.MOUNT_ATTR_NOATIME else 0
        below = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
        syscalls.mount_setattr(tree, "", below, attr_set=bits, attr_clr=clear)


def new_mount(kind: str, bits: int, options: Iterable[tuple[str, str | None]] = ()) -> int:
    """A detached mount of a new file system of type *kind*; an option with None is a flag. Its type is also what df(1) calls it."""
    context = syscalls.fsopen(kind)
    try:
        for key, value in (("source", kind), *options):
            command = syscalls.FSCONFIG_SET_FLAG if value is None else syscalls.FSCONFIG_SET_STRING
            syscalls.fsconfig(context, command, key, value)
        syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
        return syscalls.fsmount(context, mount_attrs=bits)
    finally:
        os.close(context)


def clone(fd: int, *, recursive: bool = False) -> int:
    """A detached copy of the mount, or of the part of it, that *fd* stands for."""
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
    return syscalls.open_tree(fd, "", flags | (syscalls.AT_RECURSIVE if recursive else 0))


def attach(mount: int, target: int) -> None:
    """Puts the detached *mount* onto *target*, both descriptors."""
    syscalls.move_mount(mount, "", target, "", syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH)
