"""cgroup v1's file names over v2's files, so that a script written for v1 runs on any kernel.

Each alias reads and writes the files of a ``Cgroup`` by their v2 names; a v1 machine puts the kernel's own file in its
place where that says more (see ``v1.V1Cgroup.native_alias``). Units are v1's: nanoseconds of processor time, clock
ticks in cpuacct.stat, -1 to write and a huge number to read where v2 has ``max``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydock.runtime.cgroup.formats import (
    V1_UNLIMITED,
    flat,
    format_limit,
    parse_cpu_max,
    parse_device,
    parse_rate,
    parse_size,
)
from pydock.runtime.errors import Invalid

if TYPE_CHECKING:
    from pydock.runtime.cgroup.group import Cgroup

SHARES_MIN, SHARES_MAX = 2, 262144


@dataclass(frozen=True, slots=True)
class Alias:
    """*needs*: the v2 names without which there is nothing to translate. A write is one of the first of them, or of *sets*."""

    needs: tuple[str, ...]
    read: Callable[[Cgroup], str] | None
    write: Callable[[Cgroup, str], None] | None = None
    sets: str = ""


def shares_of_weight(weight: int) -> int:
    """The kernel itself keeps weights this way: 100 is 1024 shares."""
    return max(SHARES_MIN, min(SHARES_MAX, (weight * 1024 + 50) // 100))


def weight_of_shares(shares: int) -> int:
    """The nearest weight; exact for what ``shares_of_weight`` gave."""
    return max(1, min(10000, (shares * 100 + 512) // 1024))


def _number(name: str, text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"-?\d{1,19}", text, re.ASCII) or not low <= int(text) <= high:
        raise Invalid(f'{name}: "{text}" is not a whole number from {low} to {high}')
    return int(text)


def _same(name: str) -> Alias:
    return Alias((name,), lambda group: group.read(name))


# cpu


def _quota(group: Cgroup) -> str:
    return re.sub("^max", "-1", group.read("cpu.max")).split()[0]


def _set_quota(group: Cgroup, text: str) -> None:
    quota = _number("cpu.cfs_quota_us", text, -1, 2**44)
    group.write("cpu.max", "max" if quota < 0 else str(quota))


def _set_period(group: Cgroup, text: str) -> None:
    quota, period = parse_cpu_max("cpu.cfs_period_us", f"{group.read('cpu.max').split()[0]} {text}", 0)
    group.write("cpu.max", f"{format_limit(quota)} {period}")


def _shares(group: Cgroup) -> str:
    weight = int(group.read("cpu.weight"))
    written = group.written.get("cpu.shares", "")  # many shares make one weight: say the one that was meant
    return written if written and weight_of_shares(int(written)) == weight else str(shares_of_weight(weight))


def _set_shares(group: Cgroup, text: str) -> None:
    shares = max(SHARES_MIN, _number("cpu.shares", text, 0, SHARES_MAX))  # the kernel lifts 0 and 1 as well
    group.write("cpu.weight", str(weight_of_shares(shares)))
    group.written["cpu.shares"] = str(shares)


def _cpuacct_stat(group: Cgroup) -> str:
    used = flat(group.read("cpu.stat"))
    ticks = os.sysconf("SC_CLK_TCK")
    return "\n".join(f"{key} {used[f'{key}_usec'] * ticks // 1_000_000}" for key in ("user", "system"))


def _nanoseconds(key: str) -> Alias:
    return Alias(("cpu.stat",), lambda group: str(flat(group.read("cpu.stat"))[key] * 1000))


# memory


def _bytes(text: str) -> str:
    return str(V1_UNLIMITED) if text == "max" else text


def _size(name: str, text: str) -> str:
    return format_limit(None if text == "-1" else parse_size(name, text))


def _memory(v2: str, v1: str) -> Alias:
    return Alias((v2,), lambda group: _bytes(group.read(v2)), lambda group, text: group.write(v2, _size(v1, text)))


def _soft_limit(group: Cgroup) -> str:
    low = group.read("memory.low")
    return _bytes("max" if low == "0" else low)


def _set_soft_limit(group: Cgroup, text: str) -> None:
    size = _size("memory.soft_limit_in_bytes", text)
    group.write("memory.low", "0" if size == "max" else size)


def _memsw(group: Cgroup) -> str:
    memory, swap = group.read("memory.max"), group.read("memory.swap.max")
    return _bytes("max" if "max" in (memory, swap) else str(int(memory) + int(swap)))


def _set_memsw(group: Cgroup, text: str) -> None:
    both, memory = _size("memory.memsw.limit_in_bytes", text), group.read("memory.max")
    if both == "max":
        group.write("memory.swap.max", "max")
    elif memory == "max" or int(both) < int(memory):
        raise Invalid(f'memory.memsw.limit_in_bytes: "{text}" is less than memory.limit_in_bytes: set that first')
    else:
        group.write("memory.swap.max", str(int(both) - int(memory)))


def _failcnt(group: Cgroup) -> str:
    return str(flat(group.read("memory.events"))["max"])


def _oom_control(group: Cgroup) -> str:
    return f"oom_kill_disable 0\nunder_oom 0\noom_kill {flat(group.read('memory.events'))['oom_kill']}"


# blkio


def _throttle(name: str, key: str) -> Alias:
    def read(group: Cgroup) -> str:
        lines = (line.split() for line in group.read("io.max").splitlines())
        found = ((fields[0], dict(field.split("=") for field in fields[1:])[key]) for fields in lines)
        return "\n".join(f"{device} {value}" for device, value in found if value != "max")

    def write(group: Cgroup, text: str) -> None:
        device, _, value = (part.strip() for part in text.partition(" "))
        rate = None if value == "0" else parse_rate(name, key, value)  # 0 unsets on v1
        group.write("io.max", f"{parse_device(name, device)} {key}={format_limit(rate)}")

    return Alias(("io.max",), read, write)


def _blkio_weight(group: Cgroup) -> str:
    return group.read("io.weight").split()[1]


def _io_stat(keys: tuple[tuple[str, str], ...]) -> Alias:
    def read(group: Cgroup) -> str:
        lines, total = [], 0
        for line in group.read("io.stat").splitlines():
            device, *fields = line.split()
            values = dict(field.split("=") for field in fields)
            counts = [(word, int(values.get(key, "0"))) for word, key in keys]
            lines += [f"{device} {word} {count}" for word, count in counts]
            lines.append(f"{device} Total {sum(count for _, count in counts)}")
            total += sum(count for _, count in counts)
        return "\n".join([*lines, f"Total {total}"])

    return Alias(("io.stat",), read)


# freezer


def _freezer_state(group: Cgroup) -> str:
    if group.read("cgroup.freeze") == "0":
        return "THAWED"
    return "FROZEN" if flat(group.read("cgroup.events"))["frozen"] else "FREEZING"


def _set_freezer_state(group: Cgroup, text: str) -> None:
    if text not in ("FROZEN", "THAWED"):
        raise Invalid(f'freezer.state: "{text}" is neither FROZEN nor THAWED')
    group.write("cgroup.freeze", str(int(text == "FROZEN")))


ALIASES: dict[str, Alias] = {
    "tasks": Alias(
        ("cgroup.procs",), lambda group: group.read("cgroup.procs"), lambda group, text: group.write("tasks", text)
    ),
    "cpu.cfs_quota_us": Alias(("cpu.max",), _quota, _set_quota),
    "cpu.cfs_period_us": Alias(("cpu.max",), lambda group: group.read("cpu.max").split()[1], _set_period),
    "cpu.shares": Alias(("cpu.weight",), _shares, _set_shares),
    "cpuset.effective_cpus": _same("cpuset.cpus.effective"),
    "cpuset.effective_mems": _same("cpuset.mems.effective"),
    "cpuacct.usage": _nanoseconds("usage_usec"),
    "cpuacct.usage_user": _nanoseconds("user_usec"),
    "cpuacct.usage_sys": _nanoseconds("system_usec"),
    "cpuacct.stat": Alias(("cpu.stat",), _cpuacct_stat),
    "memory.limit_in_bytes": _memory("memory.max", "memory.limit_in_bytes"),
    "memory.usage_in_bytes": _same("memory.current"),
    "memory.max_usage_in_bytes": _same("memory.peak"),
    "memory.soft_limit_in_bytes": Alias(("memory.low",), _soft_limit, _set_soft_limit),
    "memory.memsw.limit_in_bytes": Alias(("memory.max", "memory.swap.max"), _memsw, _set_memsw, "memory.swap.max"),
    "memory.failcnt": Alias(("memory.events",), _failcnt),
    "memory.oom_control": Alias(("memory.events",), _oom_control),
    "blkio.weight": Alias(("io.weight",), _blkio_weight, lambda group, text: group.write("io.weight", text)),
    "blkio.throttle.read_bps_device": _throttle("blkio.throttle.read_bps_device", "rbps"),
    "blkio.throttle.write_bps_device": _throttle("blkio.throttle.write_bps_device", "wbps"),
    "blkio.throttle.read_iops_device": _throttle("blkio.throttle.read_iops_device", "riops"),
    "blkio.throttle.write_iops_device": _throttle("blkio.throttle.write_iops_device", "wiops"),
    "blkio.throttle.io_service_bytes": _io_stat((("Read", "rbytes"), ("Write", "wbytes"), ("Discard", "dbytes"))),
    "blkio.throttle.io_serviced": _io_stat((("Read", "rios"), ("Write", "wios"), ("Discard", "dios"))),
    "freezer.state": Alias(("cgroup.freeze", "cgroup.events"), _freezer_state, _set_freezer_state),
    # On v2 the sum of two files of which one is not in the tree; on v1 the kernel's own.
    "memory.memsw.usage_in_bytes": _same("memory.memsw.usage_in_bytes"),
}


def set_by(name: str) -> str:
    """The v2 name of what a write of *name* sets."""
    alias = ALIASES.get(name)
    return name if alias is None else alias.sets or alias.needs[0]
