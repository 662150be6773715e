"""What a systemd that is a container's first process expects of it, with ``systemd 1``.

systemd.io/CONTAINER_INTERFACE: memory at /run, /run/lock and /tmp, a cgroup of its own that it may divide, ``container`` in its
environment, and an id from which it makes its machine-id. It needs no capability beyond the usual ones. Told to end by
SIGRTMIN+3 it stops its services first (systemd(1), "Signals").
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydock.runtime.cgroup import Cgroup, delegation
from pydock.runtime.errors import Unsupported
from pydock.runtime.monitor.launch import Tmpfs

STOP_SIGNAL: Final = "SIGRTMIN+3"
COMMAND: Final = ("/sbin/init",)
_MEMORY: Final = (("/run", 0o755), ("/run/lock", 0o755), ("/tmp", 0o1777), ("/var/log/journal", 0o755))


def tmpfs(taken: Iterable[str]) -> tuple[Tmpfs, ...]:
    """File systems in memory, but for places that are *taken* by settings."""
    others = set(taken)
    return tuple(Tmpfs(place, mode=mode, flags=("nosuid", "nodev")) for place, mode in _MEMORY if place not in others)


def env(identity: str) -> tuple[str, ...]:
    """Its variables, for the container with that id."""
    digits = identity[:32]
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return "container=pydock", f"container_uuid={uuid}"


def delegate(cgroup: Cgroup, owner: int) -> Path:
    """The directory of the v2 tree in which it begins, which is all that it sees as /sys/fs/cgroup, and *owner*'s. Blocks.

    v1's controllers beside it limit whatever is in the container all the same: nothing inside can leave them.
    """
    if cgroup.unified is None:
        raise Unsupported("systemd: this machine has no cgroup v2 tree, which a systemd inside needs")
    return delegation.delegate(cgroup.layout, cgroup.unified, owner)


def take_back(cgroup: Cgroup) -> None:
    """After its end. Blocks."""
    if cgroup.unified is not None:
        delegation.take_back(cgroup.layout, cgroup.unified)
