"""The kernel's parameters that a container may have of its own: those that belong to a namespace. See sysctl(8).

Others would change the machine and are refused; so are those of a namespace that the container shares.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydock.runtime.errors import Invalid

_IPC: Final = frozenset(
    f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_UTS: Final = frozenset({"kernel/domainname"})


@dataclass(frozen=True, slots=True)
class Sysctl:
    """*path* below /proc/sys, with slashes, so that an interface named ``eth0.5`` is no riddle."""

    path: str
    value: str

    def __str__(self) -> str:
        """Canonical: ``net.ipv4.ip_forward=1``, with sysctl(8)'s exchange of dots and slashes."""
        return f"{_exchanged(self.path)}={self.value}"


def _exchanged(name: str) -> str:
    return name.translate({ord("/"): ".", ord("."): "/"})


def parse(text: str) -> Sysctl:
    """``NAME=VALUE``; NAME with dots or with slashes."""
    name, separator, value = text.strip().partition("=")
    name, value = name.strip(), value.strip()
    first = re.search(r"[./]", name)
    path = name if first is not None and first[0] == "/" else _exchanged(name)
    if (
        not separator
        or not re.fullmatch(r"[\w.@:-]+(/[\w.@:-]+)+", path, re.ASCII)
        or {".", ".."} & set(path.split("/"))
    ):
        raise Invalid(f'sysctls: "{text}" is not NAME=VALUE, as in net.core.somaxconn=1024')
    if not value or "\n" in value:
        raise Invalid(f'sysctls: "{text}" has no value')
    if not (path in _IPC or path in _UTS or path.startswith(("net/", "fs/mqueue/"))):
        raise Invalid(
            f'sysctls: "{_exchanged(path)}" belongs to the machine, not to a container: '
            "net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm* and kernel.domainname can be set"
        )
    return Sysctl(path, value)


def check(sysctl: Sysctl, *, own_network: bool, own_ipc: bool, own_uts: bool) -> None:
    """Invalid if the namespace that the parameter belongs to is not the container's own."""
    setting, own = "ipc_mode", own_ipc
    if sysctl.path.startswith("net/"):
        setting, own = "network", own_network
    elif sysctl.path in _UTS:
        setting, own = "uts_mode", own_uts
    if not own:
        raise Invalid(f'sysctls: "{sysctl}" would change another namespace than the container\'s own, see {setting}')
