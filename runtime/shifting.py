"""What a container in a user namespace is given from outside, since it can't make it: device nodes, the machine's own file systems,
and volumes that show the container's ids (mount_setattr(2), MOUNT_ATTR_IDMAP)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydock.runtime import syscalls
from pydock.runtime.confine.userns import IdMap
from pydock.runtime.errors import Invalid, Unsupported
from pydock.runtime.monitor.inside import new_mount
from pydock.runtime.monitor.launch import Device
from pydock.runtime.monitor.mounts import PLAIN, fill_dev
from pydock.runtime.sharing import joined, own_namespace
from pydock.runtime.spec import Spec

_OWN_DEV = (("mode", "755"), ("size", "64m"))


@dataclass(frozen=True, slots=True)
class Shift:
    """*userns* is a descriptor of a namespace with the mapping *ids*."""

    userns: int
    ids: IdMap


def check(spec: Spec) -> None:
    """Invalid or Unsupported for settings that can't be together with a user namespace."""
    if spec.privileged:
        raise Invalid("userns: a privileged container is the machine's root, so it can't have a user namespace")
    for setting, mode in (("pid_mode", spec.pid_mode), ("ipc_mode", spec.ipc_mode)):
        if joined(mode) is not None:
            raise Unsupported(f"userns: {setting} can't join a container from a user namespace of its own")


def made(spec: Spec, devices: Sequence[Device], ids: IdMap) -> dict[str, int]:
    """The usual mounts that have to be made outside, by place; the descriptors are the caller's. Blocks."""
    found = {"/dev": _dev(devices, ids)}
    if spec.network == ("host",):
        found["/sys"] = new_mount("sysfs", PLAIN | syscalls.MOUNT_ATTR_RDONLY)
    if not own_namespace(spec.pid_mode):
        found["/proc"] = new_mount("proc", PLAIN)
    if not own_namespace(spec.ipc_mode):
        found["/dev/mqueue"] = new_mount("mqueue", PLAIN)
    return found


def _dev(devices: Sequence[Device], ids: IdMap) -> int:
    mount = new_mount("tmpfs", syscalls.MOUNT_ATTR_NOSUID, _OWN_DEV)
    try:
        fill_dev(mount)
        for device in devices:
            _make(mount, device)
        _own(mount, ids)
    except BaseException:
        os.close(mount)
        raise
    return mount


def _make(dev: int, device: Device) -> None:
    path = os.path.normpath(device.path)
    if not path.startswith("/dev/"):
        raise Unsupported(f"devices: {path} is not below /dev, the only place for one in a user namespace")
    *above, name = path.removeprefix("/dev/").split("/")
    for depth in range(1, len(above) + 1):
        try:
            os.mkdir("/".join(above[:depth]), 0o755, dir_fd=dev)
        except FileExistsError:
            continue
    place = "/".join([*above, name])
    with suppress(FileNotFoundError):
        os.unlink(place, dir_fd=dev)
    kind = stat.S_IFBLK if device.kind == "b" else stat.S_IFCHR
    os.mknod(place, kind | device.mode, os.makedev(device.major, device.minor), dir_fd=dev)
    os.chmod(place, device.mode, dir_fd=dev)  # whatever the umask is


def _own(dev: int, ids: IdMap) -> None:
    """All of it is the container's root's."""
    for _, directories, files, above in os.fwalk(".", dir_fd=dev):
        for name in (*directories, *files):
            os.chown(name, ids.uid, ids.gid, dir_fd=above, follow_symlinks=False)
    os.chown(".", ids.uid, ids.gid, dir_fd=dev)


def show_shifted(tree: int, place: str, shift: Shift) -> str | None:
    """Have the detached mount *tree* show the container's ids; what to tell when its file system can't. Blocks."""
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
    try:
        syscalls.mount_setattr(tree, "", flags, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=shift.userns)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        return f"volume {place}: its file system can't show the ids of a user namespace: its owners are nobody inside"
    return None
