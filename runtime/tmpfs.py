"""From ``tmpfs`` to what is mounted of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pydock.runtime import systemd, volumes
from pydock.runtime.monitor import launch as plain
from pydock.runtime.spec import Spec

_SHM: Final = "/dev/shm"


def of(spec: Spec, mounts: Iterable[plain.Volume]) -> tuple[plain.Tmpfs, ...]:
    """File systems in memory: those that *spec* has, and where neither they nor its other *mounts* are, what a systemd needs."""
    wanted = tuple(_tmpfs(volumes.Tmpfs.parse(text)) for text in spec.tmpfs or ())
    if not spec.systemd:
        return wanted
    taken = {item.target for item in wanted} | {item.target for item in mounts}
    return (*wanted, *systemd.tmpfs(taken))


def _tmpfs(mount: volumes.Tmpfs) -> plain.Tmpfs:
    """docker's defaults (noexec, nosuid, nodev) with the options on top."""
    flags = {"noexec": True, "nosuid": True, "nodev": True}
    mode = 0o1777 if mount.target == _SHM else None  # whose place is always there
    uid, gid, read_only = 0, 0, False
    room: dict[str, str] = {}  # by bytes or by blocks: the last counts
    others: dict[str, str] = {}
    for option in mount.options:
        name, _, value = option.partition("=")
        match name:
            case "size" | "nr_blocks":
                room = {name: value}
            case "nr_inodes" | "mpol":
                others[name] = value
            case "mode":
                mode = int(value, 8)
            case "uid":
                uid = int(value)
            case "gid":
                gid = int(value)
            case "ro" | "rw":
                read_only = name == "ro"
            case "exec" | "suid" | "dev" | "diratime":
                flags[f"no{name}"] = False
            case "noexec" | "nosuid" | "nodev" | "nodiratime":
                flags[name] = True
            case "noatime" | "strictatime" | "atime" | "relatime" | "norelatime" | "nostrictatime":
                # one of three: the kernel's own way is relatime, where the opposites lead back to
                flags |= {each: each == name for each in ("noatime", "strictatime")}
    size = int(room.pop("size")) or None if room.get("size", "").isdecimal() else None
    return plain.Tmpfs(
        volumes.checked_target(mount.target),
        size,
        mode,
        uid,
        gid,
        tuple(key for key, on in flags.items() if on),
        read_only,
        tuple(f"{key}={value}" for key, value in {**room, **others}.items()),
    )
