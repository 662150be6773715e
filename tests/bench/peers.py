"""What the peers run: OCI bundles with the container's namespaces, mounts, limits, capabilities, masks and filter."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Final

from pydock.runtime.confine import capabilities, masks, seccomp_profile

MEMORY: Final = 64 << 20
PIDS: Final = 100


def oci_filter() -> dict[str, object]:
    """The same filter as the container's, as an OCI runtime wants it."""
    chosen = seccomp_profile.select(seccomp_profile.default_profile(), capabilities.DEFAULT, platform.release())
    rules = []
    for rule in chosen.syscalls or ():
        values: dict[str, object] = {"names": list(rule.names or ()), "action": rule.action}
        if rule.errno_ret is not None:
            values["errnoRet"] = rule.errno_ret
        if rule.args:
            values["args"] = [
                {"index": each.index, "value": each.value, "valueTwo": each.value_two, "op": each.op}
                for each in rule.args
            ]
        rules.append(values)
    return {
        "defaultAction": chosen.default_action,
        "defaultErrnoRet": chosen.default_errno_ret,
        "architectures": list(chosen.architectures or ()),
        "syscalls": rules,
    }


def bundle(path: Path, rootfs: Path, *command: str, parent: str) -> Path:
    """An OCI bundle of *command* on *rootfs*, made at *path*, with cgroups below *parent*."""
    path.mkdir()
    plain = ["nosuid", "noexec", "nodev"]
    names = sorted(capabilities.DEFAULT)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(command),
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=bench",
                "HOME=/root",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        },
        "root": {"path": str(rootfs)},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*plain, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*plain, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*plain, "relatime", "ro"],
            },
            *(
                {
                    "destination": f"/etc/{name}",
                    "type": "bind",
                    "source": f"/etc/{name}",
                    "options": ["rbind", "rprivate"],
                }
                for name in ("hostname", "hosts", "resolv.conf")
                if Path(f"/etc/{name}").exists()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "cgroupsPath": f"/{parent}/{path.name}",
            "resources": {
                "memory": {"limit": MEMORY},
                "pids": {"limit": PIDS},
                "devices": [{"allow": False, "access": "rwm"}],
            },
            "maskedPaths": list(masks.MASKED),
            "readonlyPaths": list(masks.READ_ONLY),
            "seccomp": oci_filter(),
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    return path
