"""A container's process comes into being by a fork of the monitor; the other way is a zygote's (``pydock.runtime.monitor.zygote``)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.monitor import userspace
from pydock.runtime.monitor.child import FAILED
from pydock.runtime.monitor.launch import Launch


class Place(NamedTuple):
    """Where a child is born: *flags* of clone3(2), and descriptors, -1 for none."""

    flags: int
    cgroup: int  # of cgroup v2, for CLONE_INTO_CGROUP in the flags
    pids: int  # of whose PID namespace


@contextmanager
def place_of(launch: Launch, fds: list[int]) -> Iterator[Place]:
    """That of the child of *launch*, whose descriptors are *fds*."""
    flags = syscalls.CLONE_NEWPID if "pid" in launch.new else 0
    pids = next((fds[join.source] for join in launch.join if "pid" in join.kinds), -1)
    if launch.clone_into is None:
        yield Place(flags, -1, pids)
        return
    cgroup = os.open(launch.clone_into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Place(flags | syscalls.CLONE_INTO_CGROUP, cgroup, pids)
    finally:
        os.close(cgroup)


def fork(launch: Launch, fds: list[int], own_pids: int, run: Callable[[], None]) -> int:
    """A child in the launch's PID namespace and v2 cgroup, from birth. That of the caller, *own_pids*, stays its own."""
    with place_of(launch, fds) as place:
        flags, cgroup = place.flags, max(place.cgroup, 0)
        if place.pids >= 0:
            syscalls.setns(place.pids, syscalls.CLONE_NEWPID)
        try:
            if "user" in launch.new:
                if (
                    "net" in launch.new
                ):  # from birth, so that links can be put into it, and it belongs to the user namespace
                    flags |= syscalls.CLONE_NEWNET
                return _fork_into_user_namespace(launch, flags, cgroup, run)
            pid = syscalls.clone3(flags, signal.SIGCHLD, cgroup)
            if pid == 0:
                run()
            return pid
        finally:
            if place.pids >= 0:
                syscalls.setns(own_pids, syscalls.CLONE_NEWPID)


def _fork_into_user_namespace(launch: Launch, flags: int, cgroup: int, run: Callable[[], None]) -> int:
    """As a child in a user namespace has no power over itself, what takes some is done here, before it may go on."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = userspace.clone(flags, cgroup)
        if pid == 0:
            os.close(writer)
            if os.read(reader, 1):
                run()
            os._exit(FAILED)
        try:
            userspace.write_maps(pid, launch.id_map or (0, 0, 1))
            userspace.empower(pid, launch.oom_score_adj, launch.rlimits)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        os.write(writer, b"x")
        return pid
    finally:
        os.close(reader)
        os.close(writer)
