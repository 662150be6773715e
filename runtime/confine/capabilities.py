"""Capabilities by name and number, and the set a container has unless told otherwise. See capabilities(7).

A set is a ``frozenset`` of full names, ``CAP_NET_ADMIN``; a mask is what capset(2) and /proc/PID/status have. Only the
standard library is imported: this also runs between fork and exec.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydock.runtime.errors import Invalid

# In the order of their numbers, include/uapi/linux/capability.h.
_ORDER: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
    "PERFMON BPF CHECKPOINT_RESTORE"
)
NAMES: Final = tuple(f"CAP_{name}" for name in _ORDER.split())
NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}

# Docker's: enough for a distribution's packages to install and run, too little to touch the machine.
_DEFAULT: Final = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP "
    "SETUID SYS_CHROOT"
)
DEFAULT: Final = frozenset(f"CAP_{name}" for name in _DEFAULT.split())


def last_cap(proc: Path = Path("/proc")) -> int:
    """The highest number that this kernel knows; it may know some that we have no name for."""
    return int((proc / "sys/kernel/cap_last_cap").read_text())


def known(proc: Path = Path("/proc")) -> frozenset[str]:
    """Every capability of this kernel that has a name here."""
    return frozenset(NAMES[: last_cap(proc) + 1])


def parse(text: str) -> frozenset[str]:
    """``net_admin``, ``CAP_NET_ADMIN`` or ``ALL``, in either case of letters."""
    name = text.strip().upper()
    if name in ("ALL", "CAP_ALL"):
        return known()
    name = name if name.startswith("CAP_") else f"CAP_{name}"
    if name not in NUMBERS:
        raise Invalid(f'capabilities: "{text}" is none: a name from capabilities(7) such as NET_ADMIN, or ALL')
    return frozenset({name})


def mask(names: Iterable[str]) -> int:
    """The bit mask of full names."""
    return sum(1 << NUMBERS[name] for name in set(names))


def from_mask(bits: int) -> frozenset[str]:
    """The names in a bit mask; bits without a name are left out."""
    return frozenset(name for name, number in NUMBERS.items() if bits >> number & 1)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted by number, as everything that shows sets does it."""
    return tuple(sorted(names, key=NUMBERS.__getitem__))


def bounding(proc: Path = Path("/proc")) -> int:
    """The mask that this process could hand on: no child can have more, however privileged."""
    for line in (proc / "self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return int(line.split()[1], 16)
    return 0
