"""Confinement of the small processes that look into what strangers made: layers on their way in, writable layers on their way out."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Collection
from typing import Final

from pydock.runtime import syscalls

_MEMORY: Final = 1 << 30  # bytes of address space; a layer of a million files takes a third of it


def confine(
    directory: int, *, capabilities: Collection[int], read_only: bool = False, keep: Collection[int] = ()
) -> None:
    """Make *directory* (a descriptor) the root of all this process will ever reach, and give up every other power.

    Nothing else is mounted there, and there is no network. Of descriptors it keeps stdin, stdout, stderr and *keep*; of
    privileges the *capabilities*, and those for ever.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    # cloned before unshare: afterwards the descriptor's mount belongs to a namespace that is not ours
    tree = _clone(directory)
    syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    # any directory will do for the moment until it is the root; /proc there must be, and we need it no more
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, "/proc", syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    if read_only:
        attributes |= syscalls.MOUNT_ATTR_RDONLY
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=attributes)
    os.fchdir(tree)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")
    first = 3
    for descriptor in sorted(keep):
        if first < descriptor:
            syscalls.close_range(first, descriptor - 1)
        first = descriptor + 1
    syscalls.close_range(first, (1 << 32) - 1)
    for limit, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_NPROC, 0)):
        hard = resource.getrlimit(limit)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (allowed, allowed))
    _drop(capabilities)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _clone(directory: int) -> int:
    """A mount of *directory*; itself where it is a mount in no namespace, which kernels before 6.15 don't clone."""
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
    try:
        return syscalls.open_tree(directory, "", flags)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return directory


def _drop(capabilities: Collection[int]) -> None:
    capability = 0
    while True:
        try:
            syscalls.prctl(syscalls.PR_CAPBSET_READ, capability)
        except OSError:
            break  # past the last one that the kernel knows
        if capability not in capabilities:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        capability += 1
    held = sum(1 << number for number in capabilities) & syscalls.capget()[1]
    syscalls.capset(held, held, 0)
