"""The order of a set-up, without performing any of it."""

from __future__ import annotations

import json

import pytest
from pydock.runtime.monitor.launch import CgroupMount, Device, Join, Launch, Rlimit, Tmpfs, Volume, from_json, to_json
from pydock.runtime.monitor.plan import first_steps, later_steps, steps_of
from pydock.runtime.monitor.step import Ready

FULL = Launch(
    id="c1",
    argv=("true",),
    env=("A=1",),
    hostname="h",
    root=0,
    read_only=True,
    cgroups=("/sys/fs/cgroup/x/cgroup.procs",),
    tmpfs=(Tmpfs("/a/b", 4096),),
    volumes=(Volume(1, "/a/b/c", True, read_only=True, flags=("nosuid",)), Volume(2, "/a", True)),
    devices=(Device("/dev/fuse", "c", 10, 229),),
    cgroup_mounts=(CgroupMount("pids", "/sys/fs/cgroup/pids/x"),),
    masked=("/proc/kcore",),
    read_only_paths=("/proc/sys",),
    sysctls=(("net.ipv4.ip_forward", "1"),),
    rlimits=(Rlimit("nofile", 10, 20),),
    join=(Join(3, ("net",)),),
    new=("mnt", "uts", "ipc", "pid", "cgroup"),
    seccomp=4,
)


def described(launch: Launch) -> list[str]:
    return [step.describe() for step in steps_of(launch)]


def test_everything_has_its_place() -> None:
    assert described(FULL) == [
        "join the cgroups",
        "set oom_score_adj to 0",
        "unshare mnt uts ipc cgroup",
        "open stdin, stdout, stderr",
        "open the cgroups' directories",
        "join net",
        "set the host name to h",
        "change the root",
        "mount /proc",
        "mount /dev",
        "mount /dev/pts",
        "mount /dev/shm of 67108864 bytes",
        "mount /dev/mqueue",
        "mount /sys ro",
        "mount /sys/fs/cgroup",
        "mount the volume /a",
        "mount a tmpfs on /a/b",
        "mount the volume /a/b/c",
        "make the device /dev/fuse",
        "set sysctls",
        "make paths of /proc read-only",
        "mask paths of /proc and /sys",
        "look up the user root",
        "set up stdin, stdout, stderr",
        "change to the working directory /",
        "make the root read-only",
        "join a session keyring",
        "set the limits of resources",
        "limit the capabilities",
        "drop privileges",
    ]


def test_a_launch_survives_json() -> None:
    assert from_json(json.loads(json.dumps(to_json(FULL)))) == FULL


@pytest.mark.parametrize(
    "values", [{"id": "x", "argv": [], "wrong": 1}, {"id": "x"}, {"id": "x", "argv": [], "volumes": 1}]
)
def test_what_is_no_launch_is_refused(values: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_json(values)


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        ("/dev/shm", {"mount /dev/shm of 67108864 bytes"}),
        ("/dev/", {"mount /dev", "mount /dev/pts", "mount /dev/shm of 67108864 bytes", "mount /dev/mqueue"}),
        ("/sys/fs/cgroup", {"mount /sys/fs/cgroup"}),
        ("/devices", set()),
    ],
)
def test_a_volume_replaces_the_usual_mount(target: str, missing: set[str]) -> None:
    plain = FULL._replace(volumes=(), tmpfs=())
    replaced = plain._replace(volumes=(Volume(1, target, True),))
    assert set(described(plain)) - set(described(replaced)) == missing


def test_a_new_network_namespace_gets_its_loopback_and_parameters() -> None:
    assert "begin the network" in described(Launch("c", ("true",), root=0))


def test_a_process_in_a_container_that_exists_mounts_nothing() -> None:
    launch = Launch("c", ("true",), new=(), join=(Join(0, ("mnt", "pid", "net")),))
    assert described(launch) == [
        "set oom_score_adj to 0",
        "open stdin, stdout, stderr",
        "join mnt net",
        "open the root",
        "look up the user root",
        "set up stdin, stdout, stderr",
        "change to the working directory /",
        "join a session keyring",
        "limit the capabilities",
        "drop privileges",
    ]


def test_what_is_ready_leaves_what_only_the_process_can_do() -> None:
    launch = Launch(
        "c", ("true",), root=0, usual=True, masked=("/proc/kcore", "/sys/firmware"), read_only_paths=("/proc/sys",)
    )
    ready = Ready(("mnt", "uts", "ipc", "net"), 5, 6, 7, sys=True)
    assert [step.describe() for step in first_steps(launch, ready)] == [
        "set oom_score_adj to 0",
        "unshare cgroup",
        "limit the capabilities",
        "mount the cgroups and /proc, make paths of it read-only, mask others",
    ]
    later = [step.describe() for step in later_steps(launch, ready)]
    assert later[:3] == ["open stdin, stdout, stderr", "change the root", "look up the user root"]


def test_sys_is_mounted_and_masked_where_the_network_comes_later() -> None:
    launch = Launch(
        "c", ("true",), root=0, usual=True, masked=("/proc/kcore", "/sys/firmware"), read_only_paths=("/proc/sys",)
    )
    later = [step.describe() for step in later_steps(launch, Ready(("mnt", "uts", "ipc"), 5, 6, 7))]
    assert later[1:3] == ["change the root", "mask paths of /proc and /sys"]
