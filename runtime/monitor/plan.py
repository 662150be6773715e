"""The order in which a container is set up: ``steps_of`` turns a launch into a list of steps.

What may not be interleaved:

- The cgroups are joined before the cgroup namespace is made: its root is where the process is at that moment.
- Named pipes, cgroup directories and the host's devices are opened while the host's paths can be seen, and nothing of
  the host can be seen once the root has been changed; all mounts inside come after that.
- Volumes and tmpfs come in the order of their depth, so that none hides another; one that takes the place of a usual
  mount (a volume on /dev/shm) replaces it.
- In a user namespace of its own /proc and /sys are made before the root is changed, sysctls are written right then, and the
  process becomes root inside right after: the machine's files are opened before, all that is inside is made after.
- sysctls are written before /proc/sys becomes read-only, and paths are protected before they are masked.
- The root becomes read-only after the last mount point, device and working directory was made in it.
- Limits of resources come late, as they would hit the set-up itself, and privileges last.
"""

from __future__ import annotations

import posixpath

from pydock.runtime import syscalls
from pydock.runtime.monitor import ahead, identity, mounts, nodes, protect, terminal, userspace
from pydock.runtime.monitor.launch import Device, Launch
from pydock.runtime.monitor.step import NOTHING_READY, Ready, Step

_TTY = 5  # the group's number


def steps_of(launch: Launch) -> list[Step]:
    """The steps from fork to exec, the exec itself aside."""
    return first_steps(launch) + later_steps(launch)


def first_steps(launch: Launch, ready: Ready = NOTHING_READY) -> list[Step]:
    """Those that need no more than a launch with ``rest`` has, and that what is *ready* leaves to be done."""
    steps: list[Step] = []
    if launch.cgroups:
        steps.append(identity.JoinCgroups(launch.cgroups))
    if "user" not in launch.new:  # else the monitor has done it
        steps.append(identity.SetOomScore(launch.oom_score_adj))
    born = (*ready.namespaces, *(("pid", "user", "net") if "user" in launch.new else ("pid",)))
    new = tuple(kind for kind in launch.new if kind not in born)
    if new:
        steps.append(identity.UnshareNamespaces(new))
    if "net" in launch.new and "net" not in ready.namespaces:
        steps.append(identity.BeginNetwork("user" in launch.new))
    if launch.usual:
        steps.append(identity.LimitCapabilities(launch.capabilities))
    if "mnt" in ready.namespaces:
        in_proc = tuple(path for path in launch.masked if path.startswith("/proc/"))
        steps.append(ahead.Furnish(ready, launch.cgroup_mounts, launch.read_only_paths, in_proc))
    return steps


def later_steps(launch: Launch, ready: Ready = NOTHING_READY) -> list[Step]:
    """All others, for the whole launch."""
    steps: list[Step] = []
    sources: dict[str, int] = {}
    host_devices: list[Device] = []
    shm: list[int] = []
    early: dict[str, int] = {}
    refused: list[tuple[str, str]] = []
    mounted = launch.root is not None
    if launch.warnings:
        steps.append(userspace.Tell(launch.warnings))
    if not launch.terminal:
        steps.append(identity.OpenStdio(launch.stdin, launch.stdout, launch.stderr))
    if mounted and launch.cgroup_mounts and "mnt" not in ready.namespaces:
        steps.append(mounts.OpenCgroups(launch.cgroup_mounts, sources))
    if mounted and launch.privileged:
        steps.append(nodes.FindHostDevices(host_devices))
    if mounted and launch.shm_of is not None:
        steps.append(mounts.BorrowShm(launch.shm_of, shm))
    for join in launch.join:
        kinds = tuple(kind for kind in join.kinds if kind != "pid")
        if "user" in kinds:
            steps.append(userspace.RaiseLimits(launch.rlimits))
        if kinds:
            steps.append(identity.JoinNamespaces(join._replace(kinds=kinds)))
        if "user" in kinds:
            steps.append(userspace.BecomeRoot())
    if "uts" in launch.new and launch.hostname:
        steps.append(identity.SetHostname(launch.hostname))
    if launch.root is not None:
        usual = _usual(launch, sources, shm, early)
        if launch.made:
            steps.append(userspace.TakeMade(launch.made, early))
        if "user" in launch.new:
            steps += _early(launch, early, refused)
        left = launch
        if "mnt" in ready.namespaces:
            steps.append(ahead.MoveIn(ready, launch.root, bool(launch.cgroup_mounts)))
            usual = []
            left = launch._replace(masked=() if ready.sys else ahead.in_sys(launch.masked), read_only_paths=())
        else:
            steps.append(mounts.MountRoot(launch.root))
        if "user" in launch.new:
            steps.append(userspace.BecomeRoot())
            steps.append(protect.SetRefusedSysctls(refused))
        steps += _inside(left, usual, host_devices)
    else:
        steps.append(identity.TakeRoot())
    if launch.terminal:
        steps.append(terminal.OpenTerminal())
    steps.append(identity.ResolveUser(launch.user, launch.groups, None if launch.id_map is None else launch.id_map[2]))
    steps.append(terminal.TakeTerminal() if launch.terminal else identity.TakeStdio())
    steps.append(identity.ChangeDirectory(launch.workdir, make=mounted))
    if mounted and launch.read_only:
        steps.append(protect.ProtectRoot(tuple(part for part in launch.parts if f"/{part}" not in _taken(launch))))
    steps.append(identity.JoinKeyring())
    if launch.rlimits:
        steps.append(identity.SetRlimits(launch.rlimits))
    if not launch.usual:
        steps.append(identity.LimitCapabilities(launch.capabilities))
    steps.append(identity.DropPrivileges(launch.capabilities, launch.no_new_privileges, launch.seccomp))
    return steps


def _early(launch: Launch, early: dict[str, int], refused: list[tuple[str, str]]) -> list[Step]:
    """What has to be done before the machine's mounts are out of sight, and while the process still has the number of its root."""
    made = {item.target for item in launch.made}
    steps: list[Step] = []
    for target, kind, attributes in (
        ("/proc", "proc", mounts.PLAIN),
        ("/sys", "sysfs", mounts.PLAIN | syscalls.MOUNT_ATTR_RDONLY),
    ):
        if target not in made:
            steps.append(userspace.MakeEarly(target, kind, attributes, early))
    if launch.sysctls:
        steps.append(protect.SetSysctls(launch.sysctls, refused))
    return steps


def _usual(launch: Launch, sources: dict[str, int], shm: list[int], early: dict[str, int]) -> list[tuple[str, Step]]:
    """The mounts that every container has, and their places; those that pydockd has made are only attached."""
    if not launch.proc:
        return []
    usual: list[tuple[str, Step]] = [
        ("/proc", mounts.MountProc()),
        ("/dev", mounts.MountDev()),
        ("/dev/pts", mounts.MountPts(launch.id_map is None or launch.id_map[2] > _TTY)),
        ("/dev/mqueue", mounts.MountMqueue()),
        ("/sys", mounts.MountSys(not launch.privileged)),
    ]
    if launch.shm_of is not None:
        usual.insert(3, ("/dev/shm", mounts.AttachShm(shm)))
    elif launch.shm_size is not None:
        usual.insert(3, ("/dev/shm", mounts.MountShm(launch.shm_size)))
    if launch.cgroup_mounts:
        read_only = not (launch.privileged or launch.cgroups_writable)
        usual.append(("/sys/fs/cgroup", mounts.MountCgroups(launch.cgroup_mounts, sources, read_only)))
    made = {item.target for item in launch.made} | ({"/proc", "/sys"} if "user" in launch.new else set())
    return [(place, mounts.AttachMade(place, early) if place in made else step) for place, step in usual]


def _taken(launch: Launch) -> set[str]:
    """Places of mounts that were asked for."""
    return {
        posixpath.normpath(target) for target in [t.target for t in launch.tmpfs] + [v.target for v in launch.volumes]
    }


def _inside(launch: Launch, usual: list[tuple[str, Step]], host_devices: list[Device]) -> list[Step]:
    wanted: list[tuple[str, Step]] = [(item.target, mounts.MountTmpfs(item)) for item in launch.tmpfs]
    wanted += [(item.target, mounts.MountVolume(item)) for item in launch.volumes]
    taken = _taken(launch)
    # "/dev" taken by a volume takes what is in it along: a volume of the host's /dev has its own pts and shm.
    steps = [step for place, step in usual if not any(place == t or place.startswith(f"{t}/") for t in taken)]
    wanted.sort(key=lambda item: posixpath.normpath(item[0]).count("/"))
    steps += [step for _, step in wanted]
    if launch.places:
        steps.append(mounts.MakePlaces(launch.places))
    steps += [nodes.MakeDevice(device) for device in launch.devices]
    if launch.privileged:
        steps.append(nodes.MakeHostDevices(host_devices))
    if launch.sysctls and "user" not in launch.new:
        steps.append(protect.SetSysctls(launch.sysctls))
    if launch.read_only_paths:
        steps.append(protect.ProtectPaths(launch.read_only_paths))
    if launch.masked:
        steps.append(protect.Mask(launch.masked))
    return steps
