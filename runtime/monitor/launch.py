"""What the monitor is told about one process to start: plain data, made by pydockd, carried as JSON.

Descriptors travel beside it in the same message; where a field says *index* it is a position in that list. Tuples
that are named are used instead of dataclasses because the monitor lives in little memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

DEFAULT_SHM = 64 << 20
KINDS = ("mnt", "uts", "ipc", "pid", "cgroup", "net")


class Join(NamedTuple):
    """Namespaces to enter: *source* is the index of a namespace's descriptor, or of a pidfd for several *kinds*."""

    source: int
    kinds: tuple[str, ...]


class Volume(NamedTuple):
    """A mount that pydockd has cloned with open_tree(2): *source* is its index, *target* the path inside.

    *propagation* is one of ``private slave shared`` with or without a leading ``r`` (then all of what is mounted below
    is meant as well), *flags* any of ``nosuid nodev noexec noatime``.
    """

    source: int
    target: str
    is_directory: bool
    read_only: bool = False
    propagation: str = "rprivate"
    flags: tuple[str, ...] = ()


class Made(NamedTuple):
    """One of the usual mounts that pydockd has made: *source* is its index, *target* the usual place, such as ``/dev/shm``."""

    target: str
    source: int


class Tmpfs(NamedTuple):
    """A new tmpfs(5). *size* in bytes, None leaves it to the kernel (half of the memory); *mode* None is that of the directory it is
    mounted on; *options* are further ones of the file system, NAME=VALUE."""

    target: str
    size: int | None = None
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    flags: tuple[str, ...] = ("noexec", "nosuid", "nodev")
    read_only: bool = False
    options: tuple[str, ...] = ()


class Device(NamedTuple):
    """A node to make: *kind* is ``c`` or ``b``, *mode* its permission bits."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class CgroupMount(NamedTuple):
    """One hierarchy as the container sees it.

    *source* is the container's own cgroup directory on the host. *name* is the directory's name below
    /sys/fs/cgroup; the empty name is /sys/fs/cgroup itself (a machine with cgroup v2 alone). A name of several
    controllers (``cpu,cpuacct``) gets a link for each.
    """

    name: str
    source: str


class Rlimit(NamedTuple):
    """A limit of setrlimit(2): *name* without RLIMIT_ and in lower case (``nofile``); -1 is no limit."""

    name: str
    soft: int
    hard: int


class Launch(NamedTuple):
    """One process and everything around it.

    Without *root* nothing is mounted: the process goes into namespaces that exist (an exec into a container), which
    *join* names.

    With *rest* this is only how the process comes into being: id, new, cgroups, clone_into, oom_score_adj, of join the
    PID namespace, and if it is *usual* also cgroup_mounts, masked, read_only_paths, capabilities. The whole, with these unchanged
    and with its own descriptors, comes as a message (``pydock.runtime.wire``) over that socket; its end without one means that
    there is nothing to be started. Of a *terminal* the master comes back the same way, and the child waits until it is told that
    somebody holds it.
    """

    id: str
    argv: tuple[str, ...]
    reaper: int = 0  # how many words of argv are a reaper's, before the command, which is looked for as well
    env: tuple[str, ...] = ()  # NAME=VALUE; of several with one name the last counts
    workdir: str = "/"  # inside; with *root* it is made if it is missing
    user: str = ""  # USER[:GROUP], names or numbers, by the container's own /etc/passwd and /etc/group
    groups: tuple[int, ...] = ()  # supplementary, besides those of /etc/group
    hostname: str = ""
    new: tuple[str, ...] = KINDS  # namespaces to make; a new net has only lo, which is up; ``user`` takes id_map
    id_map: tuple[int, int, int] | None = None  # uid and gid outside of the container's 0, and how many are mapped
    join: tuple[Join, ...] = ()  # namespaces to enter
    cgroups: tuple[str, ...] = ()  # cgroup.procs or tasks files to write 0 into, before everything else
    clone_into: str | None = None  # a directory of cgroup v2 to be born in: writing to its cgroup.procs may take 10 ms
    rest: int | None = None  # index of a socket that brings the whole launch, while the child already begins with this
    root: int | None = None  # index of a detached mount; it is used up
    warnings: tuple[str, ...] = ()  # what went wrong before, to be told with the rest
    parts: tuple[str, ...] = ()  # places in *root* where mounts belong to it
    read_only: bool = False  # the root mount and its parts, not what else is mounted in it
    usual: bool = False  # all of proc, no privileges or sysctls, nothing in the place of the usual mounts or in them
    proc: bool = True  # mount the usual: /proc /sys /dev /dev/pts /dev/shm /dev/mqueue
    privileged: bool = False  # /sys and cgroups writable, all device nodes of the host
    shm_size: int | None = DEFAULT_SHM  # bytes; None leaves /dev/shm empty
    shm_of: int | None = None  # index of a pidfd: /dev/shm is the one that this process sees
    made: tuple[Made, ...] = ()  # these are attached; the other usual ones are made inside
    tmpfs: tuple[Tmpfs, ...] = ()
    volumes: tuple[Volume, ...] = ()
    places: tuple[str, ...] = ()  # directories that are made where there is nothing
    devices: tuple[Device, ...] = ()  # besides null zero full random urandom tty
    cgroup_mounts: tuple[CgroupMount, ...] = ()
    cgroups_writable: bool = False  # as they are for a privileged one
    masked: tuple[str, ...] = ()  # paths that are hidden: files by /dev/null, directories by an empty tmpfs
    read_only_paths: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()  # (name with dots, value)
    rlimits: tuple[Rlimit, ...] = ()
    capabilities: int = 0  # bit mask: the bounding set, and of root also the effective and permitted
    no_new_privileges: bool = False
    seccomp: int | None = None  # index of a file with the compiled filter, struct sock_filter after struct sock_filter
    oom_score_adj: int = 0
    umask: int = 0o022
    terminal: bool = False  # a pseudo terminal of the container's own devpts in the place of the pipes; needs *rest*
    stdin: str | None = None  # host paths of named pipes; None is /dev/null
    stdout: str | None = None
    stderr: str | None = None


_NESTED: dict[str, Callable[..., tuple[object, ...]]] = {
    "join": Join,
    "tmpfs": Tmpfs,
    "volumes": Volume,
    "made": Made,
    "devices": Device,
    "cgroup_mounts": CgroupMount,
    "rlimits": Rlimit,
}


def to_json(launch: Launch) -> dict[str, object]:
    """*launch* for json.dumps, without what is as usual; nested values become lists by position."""
    usual = Launch._field_defaults
    return {name: value for name, value in launch._asdict().items() if name not in usual or value != usual[name]}


def _tuples(value: object) -> object:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def from_json(values: Mapping[str, object]) -> Launch:
    """The inverse of ``to_json`` after a round trip through JSON. ValueError or TypeError if it isn't one."""
    known: dict[str, object] = {}
    for name, value in values.items():
        if name not in Launch._fields:
            raise ValueError(f"unknown field {name}")
        plain = _tuples(value)
        if name in _NESTED:
            if not isinstance(plain, tuple):
                raise ValueError(f"{name}: a list is needed")
            plain = tuple(_NESTED[name](*item) for item in plain)
        known[name] = plain
    return cast("Callable[..., Launch]", Launch)(**known)
