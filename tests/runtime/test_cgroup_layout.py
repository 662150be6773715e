"""pydock.runtime.cgroup.layout: what is mounted where."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydock.runtime.cgroup import Hierarchy, Layout, default_parent, read_layout
from pydock.runtime.errors import Invalid, Unsupported

ROOT = Path("/sys/fs/cgroup")
KNOWN = frozenset({"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "net_cls", "net_prio"})

V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 25 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
    "32 31 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "35 31 0:31 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio\n"
)
UNIFIED = "36 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(("mountinfo", "kind"), [(V2, "v2"), (V1, "v1"), (V1 + UNIFIED, "hybrid")])
def test_kind_follows_from_what_is_mounted(mountinfo: str, kind: str) -> None:
    assert read_layout(mountinfo, ROOT, KNOWN).kind == kind


def test_co_mounted_controllers_share_a_directory() -> None:
    layout = read_layout(V1 + UNIFIED, ROOT, KNOWN)
    assert layout.controllers["cpu"] == layout.controllers["cpuacct"] == ROOT / "cpu,cpuacct"
    names = ("systemd", "cpu,cpuacct", "memory", "net_cls,net_prio", "unified")
    assert sorted(layout.roots) == sorted(ROOT / name for name in names)
    assert layout.roots[-1] == ROOT / "unified"


def test_v2_tree_beside_v1_hierarchies_without_our_controllers_is_v2() -> None:
    mountinfo = V2 + "40 30 0:40 / /mnt/net rw - cgroup cgroup rw,net_cls\n"
    assert read_layout(mountinfo, ROOT, KNOWN).kind == "v2"


def test_whole_hierarchy_below_the_mount_point_is_preferred() -> None:
    mountinfo = (
        "40 30 0:28 /docker/1 /sys/fs/cgroup/m rw - cgroup cgroup rw,memory\n"
        "41 30 0:28 / /else/memory rw - cgroup cgroup rw,memory\n"
        "42 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    )
    assert read_layout(mountinfo, ROOT, KNOWN).controllers == {"memory": ROOT / "memory"}


def test_escaped_spaces_and_optional_fields_are_read() -> None:
    mountinfo = "42 30 0:28 / /mnt/a\\040b rw shared:1 master:2 - cgroup2 none rw\n"
    assert read_layout(mountinfo, ROOT, KNOWN).unified == Path("/mnt/a b")


def test_machine_without_cgroups_says_what_to_mount() -> None:
    with pytest.raises(Unsupported, match="mount cgroup2 on /sys/fs/cgroup"):
        read_layout("22 27 0:21 / /proc rw - proc proc rw\n", ROOT, KNOWN)


@pytest.mark.parametrize(
    ("cgroup", "parent"),
    [
        ("0::/\n", "pydock"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "pydock"),
        ("0::/system.slice/pydock.service\n", "pydock"),  # a systemd that knows no subgroups
        ("0::/system.slice/cron.service\n", "pydock"),
        ("0::/system.slice/pydock.service/daemon\n", "system.slice/pydock.service/containers"),
    ],
)
def test_default_parent_lies_in_the_subtree_that_systemd_delegates(cgroup: str, parent: str) -> None:
    assert default_parent(Layout("v2", {}, ROOT), cgroup) == parent


def test_default_parent_on_v1_is_plain_also_under_systemd() -> None:
    assert default_parent(Layout("hybrid", {}, ROOT), "1:name=systemd:/system.slice/pydock.service\n0::/\n") == "pydock"


@pytest.mark.parametrize("parent", ["", "/", "a//b", "../a", "a/./b"])
def test_parent_that_is_no_relative_path_is_invalid(parent: str) -> None:
    with pytest.raises(Invalid, match="cgroup_parent"):
        Hierarchy(Layout("v2", {}, ROOT), parent)
