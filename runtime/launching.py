"""From settings to a launch: the plain description of one start, and the descriptors that go with it.

Blocking code, called in a thread. Everything that can be refused is refused here, before a process exists: a source that
is missing, a filter that does not compile, a device that is not there.
"""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.runtime import reaper, sharing, shifting, syscalls, systemd, tmpfs, volumes
from pydock.runtime.cgroup import ALL, DEFAULT, Cgroup, DeviceRule
from pydock.runtime.confine import capabilities, devices, masks, rlimits, seccomp, sysctls, userns
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Invalid
from pydock.runtime.monitor import launch as plain
from pydock.runtime.network.etc import HOSTNAME, HOSTS, RESOLVER, Etc, texts
from pydock.runtime.network.words import joined, memberships
from pydock.runtime.shifting import Shift
from pydock.runtime.spec import Spec

#: What a shell finds when nobody said otherwise: docker's PATH.
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM: Final = plain.DEFAULT_SHM


@dataclass(frozen=True, slots=True)
class Place:
    """Where one container lives on the machine."""

    id: str
    files: Path  # where its files of /etc are, while it runs
    mountpoint: str  # what no source may lead into
    seccomp_cache: Path
    volumes: Path  # the named ones


@dataclass(frozen=True, slots=True)
class Given:
    """What was looked up or made for one start: whom it joins, and the cgroup directory that a systemd may divide."""

    joined: sharing.Joined
    delegated: Path | None = None
    shift: Shift | None = None
    network: int | None = None  # a descriptor of the network namespace, or of a process in it, that is joined
    etc: Etc = Etc()  # what /etc says about names, besides the settings


def capability_names(spec: Spec) -> tuple[str, ...]:
    """The whole set that is in force, without privileged."""
    return capabilities.in_order(capabilities.DEFAULT) if spec.capabilities is None else spec.capabilities


def seccomp_profile(spec: Spec, *, privileged: bool) -> str:
    """What was set for the container; unset it is the default, which does not hold for a *privileged* process."""
    return spec.seccomp or (seccomp.UNCONFINED if privileged else seccomp.DEFAULT)


def entrypoint(spec: Spec, defaults: Defaults) -> tuple[str, ...]:
    """What was set, or the image's."""
    return defaults.entrypoint if spec.entrypoint is None else spec.entrypoint


def command(spec: Spec, defaults: Defaults) -> tuple[str, ...]:
    """What was set, or the image's, which an entrypoint that was set drops."""
    if spec.command is not None:
        return spec.command
    return defaults.command if spec.entrypoint is None else ()


def argv(spec: Spec, defaults: Defaults) -> tuple[str, ...]:
    """Entrypoint and command, as docker joins them."""
    words = entrypoint(spec, defaults) + command(spec, defaults)
    if not words and spec.systemd:
        return systemd.COMMAND
    if not words:
        raise Invalid("nothing to run: neither command nor entrypoint is set, nor does the image have one")
    return runnable(words)


def runnable(words: tuple[str, ...]) -> tuple[str, ...]:
    """*words*, when the first of them can be a program's name."""
    if words and not words[0]:
        raise Invalid("nothing to run: the first word of the command, the program, is empty")
    return words


def workdir(spec: Spec, defaults: Defaults, own: str | None = None) -> str:
    """Where a process begins, *own* being what was set of itself; one that is set empty is /, whatever the image says."""
    for text in (own, spec.workdir):
        if text is not None:
            return text or "/"
    return defaults.workdir or "/"


def stop_signal(spec: Spec, defaults: Defaults) -> str:
    """What ``stop`` sends first."""
    return spec.stop_signal or defaults.stop_signal or (systemd.STOP_SIGNAL if spec.systemd else "SIGTERM")


def hostname(spec: Spec, identity: str) -> str:
    """The setting, or as docker does the beginning of the id, or with the machine's network the machine's name."""
    machine = spec.network == ("host",) or not sharing.own_namespace(spec.uts_mode)
    return spec.hostname or (os.uname().nodename if machine else identity[:12])


def _etc(place: Place, spec: Spec, given: Given) -> list[tuple[str, str]]:
    """/etc/hostname, /etc/hosts and /etc/resolv.conf, which docker gives every container; new ones, whatever a death has left.

    They are on disk, as the container may write as much into them as into any other file of its own.
    """
    name = hostname(spec, place.id)
    made = []
    for target, text in {HOSTNAME: f"{name}\n", **texts(name, given.etc, spec.hosts, spec.dns)}.items():
        file = f"{place.files}/{target}"
        with suppress(FileNotFoundError):
            os.unlink(file)
        with open(file, "xb") as out:
            out.write(text.encode())
        made.append((file, f"/etc/{target}"))
    return made


def remove_files(files: Path) -> None:
    """What ``prepare`` has written for a container, in ``Place.files``. Blocks: a container may have made much of it."""
    for name in (HOSTNAME, HOSTS, RESOLVER):
        with suppress(OSError):  # the next start makes them anew
            os.unlink(f"{files}/{name}")


def namespaces(spec: Spec) -> tuple[str, ...]:
    """The namespaces that are made for it."""
    user = ("user",) if spec.userns and spec.userns != userns.HOST else ()
    own = {
        "net": not (spec.network == ("host",) or joined(spec.network) or (memberships(spec.network) and not user)),
        "pid": sharing.own_namespace(spec.pid_mode),
        "ipc": sharing.own_namespace(spec.ipc_mode),
        "uts": sharing.own_namespace(spec.uts_mode),
    }
    return (*user, *(kind for kind in plain.KINDS if own.get(kind, True)))


def own_namespaces(spec: Spec) -> tuple[str, ...]:
    """Those that are its own, or at least not the machine's: what is set there is nobody else's business."""
    made = namespaces(spec)
    return made if "net" in made or spec.network == ("host",) or joined(spec.network) else (*made, "net")


def first(identity: str, spec: Spec, cgroup: Cgroup, given: Given) -> tuple[plain.Launch, list[int]]:
    """How its process comes into being, while ``prepare`` makes the rest; and the descriptors of it that stay their owner's."""
    pid = given.joined.pid
    usual = is_usual(spec)
    launch = plain.Launch(
        id=identity,
        argv=(),
        new=namespaces(spec),
        join=() if pid is None else (plain.Join(0, ("pid",)),),
        clone_into=_clone_into(cgroup, given),
        cgroups=cgroup.join_files_after_clone,
        oom_score_adj=spec.oom_score_adj or 0,
        id_map=None if given.shift is None else given.shift.ids,
        rlimits=rlimits_of(spec),
        usual=usual,
        cgroup_mounts=_cgroup_mounts(cgroup, given) if usual else (),
        masked=masks.MASKED if usual else (),
        read_only_paths=masks.READ_ONLY if usual else (),
        capabilities=capabilities.mask(capability_names(spec)) if usual else 0,
    )
    return launch, [] if pid is None else [pid]


def is_usual(spec: Spec) -> bool:
    """Whether it has the usual mounts without a difference, so that they may be made before anything else of it is known."""
    own = not (spec.privileged or spec.sysctls or spec.userns or spec.systemd) and shm_size(spec) == DEFAULT_SHM
    private = sharing.own_namespace(spec.ipc_mode) and sharing.own_namespace(spec.pid_mode)
    texts = (*(spec.volumes or ()), *(spec.tmpfs or ()))
    return own and private and not any(place in text for text in texts for place in ("/dev", "/proc", "/sys"))


def _clone_into(cgroup: Cgroup, given: Given) -> str | None:
    return cgroup.clone_into if given.delegated is None else str(given.delegated)


def _filter(profile: str, names: tuple[str, ...], cache: Path) -> bytes:
    return (_default_filter if profile == seccomp.DEFAULT else seccomp.compile_filter)(profile, names, cache)


@functools.lru_cache(maxsize=8)
def _default_filter(profile: str, names: tuple[str, ...], cache: Path) -> bytes:
    """Nearly every container's, 12 KB: reading and checking what is kept on disk takes 0.4 ms of every start."""
    return seccomp.compile_filter(profile, names, cache)


def prepare(
    place: Place,
    spec: Spec,
    defaults: Defaults,
    cgroup: Cgroup,
    stack: ExitStack,
    stdio: tuple[str, str, str],
    given: Given,
) -> tuple[plain.Launch, list[int]]:
    """The launch of *spec*, without its root; the descriptors it names are closed by *stack*. Index 0 is left for the root."""
    fds: list[int] = [-1]

    def owned(fd: int) -> int:
        stack.callback(os.close, fd)
        fds.append(fd)
        return len(fds) - 1

    privileged = bool(spec.privileged)
    if spec.hostname and not sharing.own_namespace(spec.uts_mode):
        raise Invalid(f'hostname: "{spec.hostname}" would change the machine\'s: unset it, or uts_mode')
    mounts: list[plain.Volume] = []
    warnings: list[str] = []
    for path, target in _etc(place, spec, given):
        if given.shift is not None:
            os.chown(path, given.shift.ids.uid, given.shift.ids.gid)
        mounts.append(plain.Volume(owned(_cloned(path)), target, False, read_only=bool(spec.readonly)))
    for text in spec.volumes or ():
        volume = volumes.Volume.parse(text)
        volumes.checked_target(volume.target)
        fd, is_directory = volumes.open_source(volume, outside=place.mountpoint, named=place.volumes)
        mounts.append(plain.Volume(owned(fd), volume.target, is_directory, volume.readonly, volume.propagation))
        if given.shift is not None and (words := shifting.show_shifted(fd, volume.target, given.shift)):
            warnings.append(words)

    if spec.init:
        mounts.append(plain.Volume(owned(_cloned(reaper.find())), reaper.TARGET, False, read_only=True))
    made: list[plain.Made] = []
    if spec.ipc_mode == "host" and os.path.isdir("/dev/shm"):
        made.append(plain.Made("/dev/shm", owned(_cloned("/dev/shm"))))
    ipc = None if given.joined.ipc is None else owned(os.dup(given.joined.ipc))
    network = None if given.network is None else owned(os.dup(given.network))

    nodes: list[devices.Node] = []
    rules: list[DeviceRule] = []
    for text in spec.devices or ():
        found, allowed = devices.look_up(devices.parse(text), outside=place.mountpoint)
        nodes += found
        rules += allowed
    cgroup.allow_devices(ALL if privileged else (*DEFAULT, *rules))

    made_devices = [
        plain.Device(node.path, node.kind, node.major, node.minor, node.mode, node.uid, node.gid) for node in nodes
    ]
    if given.shift is not None:
        shifting.check(spec)
        for target, fd in shifting.made(spec, made_devices, given.shift.ids).items():
            made.append(plain.Made(target, owned(fd)))
        made_devices = []
    mask, program = confinement(spec, place, privileged=privileged)
    told = systemd.env(place.id) if spec.systemd else ()
    launch = plain.Launch(
        id=place.id,
        argv=(reaper.WORDS if spec.init else ()) + argv(spec, defaults),
        reaper=len(reaper.WORDS) if spec.init else 0,
        env=environment((*told, *(defaults.env if spec.env is None else spec.env)), hostname(spec, place.id)),
        workdir=workdir(spec, defaults),
        user=spec.user if spec.user is not None else defaults.user,
        hostname=hostname(spec, place.id),
        new=namespaces(spec),
        join=(
            *(() if ipc is None else (plain.Join(ipc, ("ipc",)),)),
            *(() if network is None else (plain.Join(network, ("net",)),)),
        ),
        root=0,
        read_only=bool(spec.readonly),
        privileged=privileged,
        shm_size=shm_size(spec),
        shm_of=ipc,
        made=tuple(made),
        tmpfs=tmpfs.of(spec, mounts),
        volumes=tuple(mounts),
        places=defaults.volumes,
        devices=tuple(made_devices),
        warnings=tuple(warnings),
        id_map=None if given.shift is None else given.shift.ids,
        usual=is_usual(spec),
        cgroup_mounts=_cgroup_mounts(cgroup, given),
        cgroups_writable=bool(spec.systemd),
        masked=() if privileged else masks.MASKED,
        read_only_paths=() if privileged else masks.READ_ONLY,
        sysctls=tuple(_sysctl(text, own_namespaces(spec)) for text in spec.sysctls or ()),
        rlimits=rlimits_of(spec),
        capabilities=mask,
        no_new_privileges=bool(spec.no_new_privileges),
        seccomp=None if program is None else owned(program),
        oom_score_adj=spec.oom_score_adj or 0,
        clone_into=_clone_into(cgroup, given),
        cgroups=cgroup.join_files_after_clone,
        terminal=bool(spec.tty),
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
    )
    return launch, fds


def shm_size(spec: Spec) -> int | None:
    """Bytes of /dev/shm; None when there is none of its own."""
    if spec.ipc_mode == "none":
        return None
    return DEFAULT_SHM if spec.shm_size is None else spec.shm_size


def _cloned(path: str) -> int:
    """A detached mount of a file or directory of the machine."""
    return syscalls.open_tree(syscalls.AT_FDCWD, path, syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC)


def confinement(spec: Spec, place: Place, *, privileged: bool) -> tuple[int, int | None]:
    """The mask of capabilities, all when the process is *privileged*; and a file with the filter of system calls (the caller's to
    close) if there is to be one."""
    everything = capabilities.bounding()
    names = capabilities.in_order(capabilities.from_mask(everything)) if spec.privileged else capability_names(spec)
    mask = everything if privileged else capabilities.mask(names)
    program = _filter(seccomp_profile(spec, privileged=privileged), names, place.seccomp_cache)
    if not program:
        return mask, None
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    os.write(fd, program)
    return mask, fd


def environment(env: tuple[str, ...], name: str) -> tuple[str, ...]:
    """*env*, and what is missing of PATH and HOSTNAME (*name*)."""
    given = {item.partition("=")[0] for item in env}
    extra = [PATH] if "PATH" not in given else []
    if "HOSTNAME" not in given:
        extra.append(f"HOSTNAME={name}")
    return (*extra, *env)


def rlimits_of(spec: Spec) -> tuple[plain.Rlimit, ...]:
    """The limits of resources that were set."""
    return tuple(plain.Rlimit(limit.name, *limit.pair) for limit in map(rlimits.parse, spec.ulimits or ()))


def _cgroup_mounts(cgroup: Cgroup, given: Given) -> tuple[plain.CgroupMount, ...]:
    """Each hierarchy as the container sees it, under the name that it has on the machine; to a systemd only the v2 tree."""
    if given.delegated is not None:
        return (plain.CgroupMount("", str(given.delegated)),)
    if cgroup.layout.kind == "v2":
        return (plain.CgroupMount("", str(cgroup.unified)),)
    return tuple(plain.CgroupMount(*each) for each in cgroup.mounts)


def _sysctl(text: str, new: tuple[str, ...]) -> tuple[str, str]:
    sysctl = sysctls.parse(text)
    sysctls.check(sysctl, own_network="net" in new, own_ipc="ipc" in new, own_uts="uts" in new)
    return sysctl.path, sysctl.value
