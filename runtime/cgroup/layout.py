"""Where this machine's cgroup hierarchies are mounted, and which kind of machine that makes it.

Read from /proc/self/mountinfo (proc(5)), never assumed: v1 controllers may be mounted anywhere, together
(``cpu,cpuacct``) or alone, and the v2 tree may be at the root of /sys/fs/cgroup, in ``unified`` below it, or missing.

- ``v1``: controllers in v1 hierarchies, no v2 tree.
- ``hybrid``: controllers in v1 hierarchies and a v2 tree without them. A cgroup there works all the same and has
  cgroup.kill, cgroup.freeze, cgroup.events and the pressure files, so it is used beside the v1 ones.
- ``v2``: the controllers that matter are in the v2 tree. v1 hierarchies, if any are left, are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydock.runtime.errors import Unsupported

Kind = Literal["v1", "hybrid", "v2"]

# The controllers that decide the kind, those that files of ours are about.
_DECISIVE = frozenset({"cpu", "cpuset", "memory", "pids", "blkio", "freezer", "devices"})


@dataclass(frozen=True, slots=True)
class Layout:
    """*controllers*: v1 controller (or ``name=systemd``) to its hierarchy's root; *unified*: the v2 tree's root."""

    kind: Kind
    controllers: Mapping[str, Path]
    unified: Path | None
    #: Each hierarchy's root once, v1 before v2; co-mounted controllers share one.
    roots: tuple[Path, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        unified = () if self.unified is None else (self.unified,)
        object.__setattr__(self, "roots", (*dict.fromkeys(self.controllers.values()), *unified))


@dataclass(frozen=True, slots=True)
class _Mount:
    kind: str
    root: str
    point: Path
    names: tuple[str, ...]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _mounts(mountinfo: str) -> list[_Mount]:
    mounts = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
            continue
        mounts.append(_Mount(tail[0], fields[3], Path(_unescaped(fields[4])), tuple(tail[2].split(","))))
    return mounts


def read_layout(mountinfo: str, mountpoint: Path, v1_controllers: frozenset[str]) -> Layout:
    """The layout that *mountinfo* tells of.

    A hierarchy may be mounted several times: whole ones are preferred to parts, those below *mountpoint* to others.
    *v1_controllers* are the names to look for among a v1 mount's options (the first column of /proc/cgroups).
    """
    ranked = sorted(
        _mounts(mountinfo),
        key=lambda mount: (mount.root != "/", not mount.point.is_relative_to(mountpoint), len(str(mount.point))),
    )
    controllers: dict[str, Path] = {}
    unified: Path | None = None
    for mount in ranked:
        if mount.kind == "cgroup2":
            unified = unified or mount.point
            continue
        for name in mount.names:
            if name in v1_controllers or name == "name=systemd":
                controllers.setdefault(name, mount.point)
    if _DECISIVE & controllers.keys():
        return Layout("v1" if unified is None else "hybrid", controllers, unified)
    if unified is not None:
        return Layout("v2", {}, unified)
    raise Unsupported(f"no cgroup file system is mounted: mount cgroup2 on {mountpoint}")


def detect_layout(mountpoint: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Layout:
    """The layout of the machine whose proc file system is *proc*."""
    try:
        table = (proc / "cgroups").read_text()
    except FileNotFoundError:  # a kernel without any v1 support
        table = ""
    known = frozenset(line.split()[0] for line in table.splitlines() if line and not line.startswith("#"))
    return read_layout((proc / "self/mountinfo").read_text(), mountpoint, known)


def default_parent(layout: Layout, cgroup: str | None = None) -> str:
    """The cgroup below which the engine's own are made, relative to the hierarchies' roots.

    On cgroup v2, where systemd has started this process in the subgroup ``daemon`` of a service (``DelegateSubgroup=daemon``;
    *cgroup* is the text of /proc/self/cgroup), it is ``containers`` beside it, in the subtree that ``Delegate=yes`` makes ours.
    Elsewhere it is ``pydock``. A systemd before 254, which has no subgroups, starts a service in the service's cgroup itself:
    v2 allows no process there once it hands controllers to its children, and with containers alive the next start would fail.
    """
    if layout.kind == "v2":
        text = Path("/proc/self/cgroup").read_text() if cgroup is None else cgroup
        own = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
        if match := re.fullmatch(r"/(.+\.service)/daemon", own):
            return f"{match[1]}/containers"
    return "pydock"
