"""The steps that make of the forked child what the container's process shall be: where it counts, what it may do.

The order matters and is written down in ``pydock.runtime.monitor.plan``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import struct
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.confine.network import set_defaults
from pydock.runtime.confine.user import resolve
from pydock.runtime.monitor.inside import make_inside, open_inside, read_inside
from pydock.runtime.monitor.launch import Join, Rlimit
from pydock.runtime.monitor.protect import open_null
from pydock.runtime.monitor.step import Context

FLAGS = {
    "mnt": syscalls.CLONE_NEWNS,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "pid": syscalls.CLONE_NEWPID,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "net": syscalls.CLONE_NEWNET,
    "user": syscalls.CLONE_NEWUSER,
}
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_PASSWD_BYTES = 4 << 20


def flags_of(kinds: tuple[str, ...]) -> int:
    """CLONE_NEW* bits of namespaces by name; ValueError for an unknown one."""
    bits = 0
    for kind in kinds:
        if kind not in FLAGS:
            raise ValueError(f"namespace {kind!r} is unknown: {' '.join(FLAGS)} are known")
        bits |= FLAGS[kind]
    return bits


class JoinCgroups(NamedTuple):
    """Moves the child into its cgroups; before the cgroup namespace, whose root is where it is made."""

    files: tuple[str, ...]

    def describe(self) -> str:
        return "join the cgroups"

    def execute(self, context: Context) -> None:
        for path in self.files:
            _write(path, b"0")


class SetOomScore(NamedTuple):
    """How soon the OOM killer takes it; the monitor's own value must not be inherited."""

    value: int

    def describe(self) -> str:
        return f"set oom_score_adj to {self.value}"

    def execute(self, context: Context) -> None:
        try:
            _write("/proc/self/oom_score_adj", str(self.value).encode())
        except PermissionError:
            context.warn(f"oom_score_adj can't be lowered to {self.value} without CAP_SYS_RESOURCE")


class SetRlimits(NamedTuple):
    """setrlimit(2). What can't be raised is told and left as it is."""

    limits: tuple[Rlimit, ...]

    def describe(self) -> str:
        return "set the limits of resources"

    def execute(self, context: Context) -> None:
        for name, soft, hard in self.limits:
            number = getattr(resource, f"RLIMIT_{name.upper()}", None)
            if number is None:
                raise ValueError(f"ulimit {name!r} is unknown")
            try:
                resource.setrlimit(number, (soft, hard))
            except (ValueError, PermissionError):  # Python tells EPERM of this call as ValueError, too
                if 0 <= hard < soft or (soft == -1 and hard != -1):
                    raise ValueError(f"ulimit {name}: the soft limit is above the hard one") from None
                _, highest = resource.getrlimit(number)
                context.warn(f"ulimit {name}: raising it above {highest} needs CAP_SYS_RESOURCE")


class OpenStdio(NamedTuple):
    """Opens the named pipes by their paths on the host.

    Output is opened for reading and writing: so the pipe has a reader as long as the process lives, and it never gets
    SIGPIPE, whoever of pydock dies. Input is opened without waiting for a writer.
    """

    stdin: str | None
    stdout: str | None
    stderr: str | None

    def describe(self) -> str:
        return "open stdin, stdout, stderr"

    def execute(self, context: Context) -> None:
        if self.stdin is not None:
            fd = os.open(self.stdin, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(fd, True)
            context.stdio[0] = fd
        for number, path in ((1, self.stdout), (2, self.stderr)):
            if path is not None:
                context.stdio[number] = os.open(path, os.O_RDWR | os.O_CLOEXEC)


class UnshareNamespaces(NamedTuple):
    """New namespaces, but for the PID namespace: that one is made before the fork."""

    kinds: tuple[str, ...]

    def describe(self) -> str:
        return f"unshare {' '.join(self.kinds)}"

    def execute(self, context: Context) -> None:
        syscalls.unshare(flags_of(self.kinds))


class JoinNamespaces(NamedTuple):
    """Enters namespaces of others; the PID namespace is entered before the fork."""

    join: Join

    def describe(self) -> str:
        return f"join {' '.join(self.join.kinds)}"

    def execute(self, context: Context) -> None:
        # Whoever is in there already may not look into this process before it is one of theirs.
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        syscalls.setns(context.fds[self.join.source], flags_of(self.join.kinds))


class TakeRoot(NamedTuple):
    """The root of the joined mount namespace."""

    def describe(self) -> str:
        return "open the root"

    def execute(self, context: Context) -> None:
        context.open_root()


class BeginNetwork(NamedTuple):
    """Sets lo of the new network namespace up, whose addresses come by themselves, and the parameters that are not the kernel's."""

    own_users: bool = False

    def describe(self) -> str:
        return "begin the network"

    def execute(self, context: Context) -> None:
        set_defaults(own_users=self.own_users)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            request = struct.pack("=16sH22x", b"lo", 0)
            (flags,) = struct.unpack_from("=H", fcntl.ioctl(sock, _SIOCGIFFLAGS, request), 16)
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("=16sH22x", b"lo", flags | _IFF_UP))


class SetHostname(NamedTuple):
    """sethostname(2) in the new UTS namespace."""

    name: str

    def describe(self) -> str:
        return f"set the host name to {self.name}"

    def execute(self, context: Context) -> None:
        syscalls.sethostname(self.name)


class ResolveUser(NamedTuple):
    """Looks the user up in the container's own files, and gives it the pipes, so that /dev/stdout can be opened."""

    user: str
    groups: tuple[int, ...]
    ids: int | None = None  # how many the user namespace has

    def describe(self) -> str:
        return f"look up the user {self.user or 'root'}"

    def execute(self, context: Context) -> None:
        passwd = read_inside(context.root, "/etc/passwd", _PASSWD_BYTES)
        group = read_inside(context.root, "/etc/group", _PASSWD_BYTES)
        who = resolve(self.user, passwd, group)
        if self.ids is not None and max(who.uid, who.gid, *who.groups) >= self.ids:
            raise ValueError(f"the user has an id that userns does not map: it maps those from 0 to {self.ids - 1}")
        context.uid, context.gid, context.home = who.uid, who.gid, who.home
        context.groups = tuple(dict.fromkeys((*who.groups, *self.groups)))
        for fd in context.stdio:
            if fd >= 0:
                os.fchown(fd, context.uid, context.gid)
                os.fchmod(fd, 0o600)


class TakeStdio(NamedTuple):
    """Puts the pipes, or the container's /dev/null, into descriptors 0, 1 and 2; all others close at exec."""

    def describe(self) -> str:
        return "set up stdin, stdout, stderr"

    def execute(self, context: Context) -> None:
        if -1 in context.stdio:
            null = open_null(context, os.O_RDWR)
            context.stdio = [null if fd < 0 else fd for fd in context.stdio]
        for number, fd in enumerate(context.stdio):
            os.dup2(fd, number, inheritable=True)


class ChangeDirectory(NamedTuple):
    """Goes into the working directory, by a descriptor that was resolved inside the root. What a container begins in is made if need
    be; who comes later finds it, or has misspelt it."""

    path: str
    make: bool

    def describe(self) -> str:
        return f"change to the working directory {self.path}"

    def execute(self, context: Context) -> None:
        if self.make:
            directory = make_inside(context.root, self.path, directory=True)
        else:
            directory = open_inside(context.root, self.path, os.O_PATH | os.O_DIRECTORY)
        os.fchdir(directory)
        os.close(directory)


class JoinKeyring(NamedTuple):
    """A session keyring of its own, lest it sees the monitor's."""

    def describe(self) -> str:
        return "join a session keyring"

    def execute(self, context: Context) -> None:
        try:
            syscalls.keyctl_join_session_keyring()
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EDQUOT):
                raise


class LimitCapabilities(NamedTuple):
    """Drops all others from the bounding set: takes none of what there is, but execve(2) gives no others any more."""

    capabilities: int

    def describe(self) -> str:
        return "limit the capabilities"

    def execute(self, context: Context) -> None:
        for number in range(64):
            if not self.capabilities >> number & 1:
                try:
                    syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
                except OSError as error:
                    if error.errno == errno.EINVAL:  # beyond the kernel's last capability
                        return
                    raise


class DropPrivileges(NamedTuple):
    """Becomes the user, with the capabilities and the system call filter it shall have, for good.

    Loading a filter takes CAP_SYS_ADMIN unless no_new_privileges is set. So without that the filter comes while all
    capabilities are still there and has to let capset(2) and execve(2) pass, as docker's does; with it the filter comes
    last and has to let only execve(2) pass.
    """

    capabilities: int
    no_new_privileges: bool
    filter: int | None

    def describe(self) -> str:
        return "drop privileges"

    def execute(self, context: Context) -> None:
        program = None if self.filter is None else read_all(context.fds[self.filter])
        _, permitted, _ = syscalls.capget()
        syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        os.setgroups(context.groups)
        os.setresgid(context.gid, context.gid, context.gid)
        os.setresuid(context.uid, context.uid, context.uid)
        if self.no_new_privileges:
            syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        elif program is not None:
            syscalls.capset(permitted, permitted, 0)  # becoming another user has cleared the effective set
            syscalls.seccomp_load(program)
        kept = self.capabilities & permitted if context.uid == 0 else 0
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        syscalls.capset(kept, kept, 0)
        if self.no_new_privileges and program is not None:
            syscalls.seccomp_load(program)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def read_all(fd: int) -> bytes:
    """The whole of a file, wherever its offset stands (other starts share it)."""
    return os.pread(fd, os.fstat(fd).st_size, 0)
