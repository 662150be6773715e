"""A process in a user namespace (user_namespaces(7)): what is done for it from outside, and how it becomes root inside.

Inside it has every capability, but over nothing that belongs to the machine: it can't raise limits, nor lower its score for the OOM
killer below where it began. Until it has become root it is the machine's root by number alone, which opens the machine's files but owns
nothing inside.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.monitor.inside import new_mount
from pydock.runtime.monitor.launch import Made, Rlimit
from pydock.runtime.monitor.step import Context


def clone(flags: int, cgroup: int) -> int:
    """clone3(2) into a new user namespace; EOPNOTSUPP where the kernel is built or set so that there is none."""
    try:
        return syscalls.clone3(flags | syscalls.CLONE_NEWUSER, signal.SIGCHLD, cgroup)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSPC, errno.EUSERS):
            raise
        words = "userns: this kernel makes no user namespace: is user.max_user_namespaces 0?"
        raise OSError(errno.EOPNOTSUPP, words) from None


def write_maps(pid: int, id_map: tuple[int, int, int]) -> None:
    """uid_map and gid_map of the namespace that *pid* is in, once and for all."""
    for name, first in (("uid_map", id_map[0]), ("gid_map", id_map[1])):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write(f"0 {first} {id_map[2]}\n")


def empower(pid: int, oom_score_adj: int, rlimits: tuple[Rlimit, ...]) -> None:
    """Its score for the OOM killer, and hard limits that are high enough for those it sets by itself later. What can't be is left,
    as the child finds and tells it."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(oom_score_adj))
    except PermissionError:
        pass
    raise_limits(pid, rlimits)


def raise_limits(pid: int, rlimits: tuple[Rlimit, ...]) -> None:
    """Hard limits of *pid*, 0 for this process, to what is wanted, where they are lower."""
    for name, _, hard in rlimits:
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is not None:
            now, highest = resource.prlimit(pid, number)
            if highest != -1 and (hard == -1 or hard > highest):
                try:
                    resource.prlimit(pid, number, (now, hard))
                except (PermissionError, ValueError):
                    continue


def make(id_map: tuple[int, int, int]) -> int:
    """A descriptor of a new user namespace that nobody is in; the child in it ends with the pipe, and is reaped with the others."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        pid = clone(0, 0)
        if pid == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        write_maps(pid, id_map)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.close(writer)


class MakeEarly(NamedTuple):
    """Makes /proc or /sys while the machine's own can still be seen: without one that shows all, the kernel refuses another."""

    target: str
    kind: str
    attributes: int
    early: dict[str, int]

    def describe(self) -> str:
        return f"make {self.target}"

    def execute(self, context: Context) -> None:
        self.early[self.target] = new_mount(self.kind, self.attributes)
        if self.target == "/proc":
            context.proc = self.early[self.target]


class RaiseLimits(NamedTuple):
    """Hard limits that are high enough for those it sets by itself later, before it joins a user namespace."""

    limits: tuple[Rlimit, ...]

    def describe(self) -> str:
        return "raise the limits of resources"

    def execute(self, context: Context) -> None:
        raise_limits(0, self.limits)


class TakeMade(NamedTuple):
    """Those of the usual mounts that pydockd has made."""

    made: tuple[Made, ...]
    early: dict[str, int]

    def describe(self) -> str:
        return "take what is made"

    def execute(self, context: Context) -> None:
        for item in self.made:
            self.early[item.target] = context.fds[item.source]
            if item.target == "/proc":
                context.proc = context.fds[item.source]


def become_root() -> None:
    """In the user namespace that the process is in. As that changes who it is, the kernel forgets whose end is to end it."""
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


class BecomeRoot(NamedTuple):
    """``become_root`` on the way to exec."""

    def describe(self) -> str:
        return "become root of the user namespace"

    def execute(self, context: Context) -> None:
        become_root()


class Tell(NamedTuple):
    """Warnings that are known before."""

    warnings: tuple[str, ...]

    def describe(self) -> str:
        return "tell what is known"

    def execute(self, context: Context) -> None:
        for words in self.warnings:
            context.warn(words)
