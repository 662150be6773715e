"""A container's process comes into being by a fork of the monitor; the other way is a zygote's (``pydock.runtime.monitor.zygote``)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from pydock.runtime import syscalls
from pydock.runtime.monitor import userspace
from pydock.runtime.monitor.child import FAILED
from pydock.runtime.monitor.identity import flags_of
from pydock.runtime.monitor.launch import Launch


def fork(launch: Launch, fds: list[int], own_pids: int, run: Callable[[], None]) -> int:
    """A child in the launch's PID namespace and v2 cgroup, from birth. That of the caller, *own_pids*, stays its own."""
    flags = syscalls.CLONE_NEWPID if "pid" in launch.new else 0
    cgroup = 0
    entered = False
    try:
        if launch.clone_into is not None:
            cgroup = os.open(launch.clone_into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            flags |= syscalls.CLONE_INTO_CGROUP
        for join in launch.join:
            if "pid" in join.kinds:
                syscalls.setns(fds[join.source], flags_of(("pid",)))
                entered = True
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
        if cgroup:
            os.close(cgroup)
        if entered:
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
