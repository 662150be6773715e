"""A cgroup on a machine whose controllers are in v1 hierarchies, translated to v2's files.

What v1 lacks is absent: ``memory.high`` has no like (v1's soft limit is what reclaim leaves alone, which is
``memory.low``), and a file is there only if the controller is. Differences that remain: swap is limited together
with memory, so a swap limit takes effect once there is a memory limit; and ``cpuset.cpus`` is never empty, so unset is
the parent's set. ``memory.events`` counts in ``oom`` what was killed, the only thing v1 counts.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydock.runtime.cgroup.aliases import shares_of_weight, weight_of_shares
from pydock.runtime.cgroup.devices import DEFAULT, DeviceRule, allow_by_files, allow_by_program
from pydock.runtime.cgroup.entry import Entry
from pydock.runtime.cgroup.formats import (
    IO_KEYS,
    PAGE,
    V1_UNLIMITED,
    cpu_share,
    flat,
    format_flat,
    format_io_max,
    format_limit,
    format_list,
    parse_count,
    parse_cpu_max,
    parse_io_max,
    parse_io_weight,
    parse_list,
    parse_size,
    parse_weight,
)
from pydock.runtime.cgroup.group import Cgroup
from pydock.runtime.cgroup.kernelfile import read_text, write_text
from pydock.runtime.cgroup.processes import bottom_up
from pydock.runtime.cgroup.v1stat import io_stat, memory_stat, throttling
from pydock.runtime.cgroup.v2 import refuse_amount, refuse_cpu_max, refuse_cpuset
from pydock.runtime.errors import Busy, Failed

_SWAP = "memory.swap.max"
_LIMIT, _MEMSW = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
_THROTTLE = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}
# v1 names whose own file says more than a translation there and back.
_NATIVE = {
    "cpu.shares": "cpu",
    "cpuset.effective_cpus": "cpuset",
    "cpuset.effective_mems": "cpuset",
    "cpuacct.usage": "cpuacct",
    "cpuacct.usage_user": "cpuacct",
    "cpuacct.usage_sys": "cpuacct",
    "cpuacct.stat": "cpuacct",
    "memory.max_usage_in_bytes": "memory",
    "memory.soft_limit_in_bytes": "memory",
    "memory.memsw.usage_in_bytes": "memory",
    "memory.failcnt": "memory",
    "memory.oom_control": "memory",
    "blkio.throttle.io_service_bytes": "blkio",
    "blkio.throttle.io_serviced": "blkio",
}
_NATIVE_WRITABLE = {"cpu.shares", "memory.max_usage_in_bytes", "memory.soft_limit_in_bytes", "memory.failcnt"}


class V1Cgroup(Cgroup):
    """See ``Cgroup``; on a hybrid machine one of its directories is in the v2 tree."""

    def _controllers(self) -> dict[str, Entry]:
        table = {
            "cpu.max": ("cpu", "cpu.cfs_quota_us", Entry(self._cpu_max, self._set_cpu_max, "max 100000")),
            "cpu.weight": ("cpu", "cpu.shares", Entry(self._cpu_weight, self._set_cpu_weight, "100")),
            "cpu.stat": ("cpuacct", "cpuacct.usage", Entry(self._cpu_stat)),
            "cpuset.mems": ("cpuset", "cpuset.mems", self._cpuset_entry("cpuset.mems")),
            "cpuset.cpus": ("cpuset", "cpuset.cpus", self._cpuset_entry("cpuset.cpus")),
            "memory.max": ("memory", _LIMIT, Entry(self._memory_max, self._set_memory_max, "max")),
            "memory.low": (
                "memory",
                "memory.soft_limit_in_bytes",
                Entry(self._memory_low, self._set_memory_low, "0"),
            ),
            _SWAP: ("memory", _MEMSW, Entry(self._swap_max, self._set_swap_max, "max")),
            "memory.current": ("memory", "memory.usage_in_bytes", self._same("memory.usage_in_bytes")),
            "memory.peak": ("memory", "memory.max_usage_in_bytes", self._same("memory.max_usage_in_bytes")),
            "memory.stat": ("memory", "memory.stat", Entry(self._memory_stat)),
            "memory.events": ("memory", "memory.oom_control", Entry(self._memory_events)),
            "io.max": ("blkio", _THROTTLE["rbps"], Entry(self._io_max, self._set_io_max, "")),
            "io.weight": ("blkio", "blkio.bfq.weight", Entry(self._io_weight, self._set_io_weight, "default 100")),
            "io.stat": ("blkio", "blkio.throttle.io_service_bytes_recursive", Entry(self._io_stat)),
            "pids.max": ("pids", "pids.max", Entry(lambda: self._get("pids", "pids.max"), self._set_pids_max, "max")),
            "pids.current": ("pids", "pids.current", Entry(lambda: self._get("pids", "pids.current"))),
            "pids.peak": ("pids", "pids.peak", Entry(lambda: self._get("pids", "pids.peak"))),
        }
        return {name: entry for name, (controller, file, entry) in table.items() if self._has(controller, file)}

    def _prepare(self, fresh: frozenset[str]) -> None:
        cpuset = self.layout.controllers.get("cpuset")
        if cpuset is not None and f"{cpuset}/{self.path}" in fresh:
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty at first, and nothing can run there until they are not
                if not self._get("cpuset", file):  # the parent has no cgroup.clone_children
                    self._put("cpuset", file, self._parent_cpuset(file))
        devices = self.layout.controllers.get("devices", self.layout.unified)
        if f"{devices}/{self.path}" in fresh:
            self.allow_devices(DEFAULT)

    def oom_kills(self) -> int:
        # v1 counts a kill only in the process's own cgroup
        found = 0
        for directory in bottom_up(self._path("memory", ".")):
            found += flat(read_text(os.path.join(directory, "memory.oom_control"), "memory.oom_control")).get(
                "oom_kill", 0
            )
        return found

    def allow_devices(self, rules: Iterable[DeviceRule]) -> None:
        if "devices" in self.layout.controllers:
            allow_by_files(self._path("devices", "."), tuple(rules))
        elif self.unified is not None:
            allow_by_program(self.unified, tuple(rules))

    def native_alias(self, name: str) -> Entry | None:
        controller = _NATIVE.get(name)
        if controller is None or not self._has(controller, name):
            return None
        write = (lambda text: self._put(controller, name, text)) if name in _NATIVE_WRITABLE else None
        return Entry(lambda: self._get(controller, name), write)

    # The kernel's files

    def _path(self, controller: str, file: str) -> Path:
        return self.layout.controllers[controller] / self.path / file

    def _has(self, controller: str, file: str) -> bool:
        root = self.layout.controllers.get(controller)
        if root is None:
            return False
        return self.knows(f"{controller}/{file}", lambda: (self.probe(root / self.path) / file).exists())

    def _get(self, controller: str, file: str) -> str:
        return read_text(self._path(controller, file), file)

    def _put(self, controller: str, file: str, text: str, name: str | None = None, tried: str | None = None) -> None:
        write_text(self._path(controller, file), text, name or file, tried)

    def _same(self, file: str) -> Entry:
        return Entry(lambda: self._get("memory", file))

    # cpu, cpuacct

    def _cpu_max(self) -> str:
        quota, period = self._get("cpu", "cpu.cfs_quota_us"), self._get("cpu", "cpu.cfs_period_us")
        return f"{'max' if int(quota) < 0 else quota} {period}"

    def _set_cpu_max(self, text: str) -> None:
        before = parse_cpu_max("cpu.max", self._cpu_max(), 0)
        quota, period = parse_cpu_max("cpu.max", text, before[1])
        refuse_cpu_max(self, quota, period)

        def put(file: str, number: int | None) -> None:
            self._put("cpu", f"cpu.cfs_{file}_us", "-1" if number is None else str(number), "cpu.max")

        if period == before[1]:
            put("quota", quota)
            return
        # Between two writes the share must not exceed the parent's: with the smaller share of both first.
        shares = cpu_share(quota, before[1]), cpu_share(before[0], period)
        quota_first = shares[1] is not None and (shares[0] is None or shares[0] > shares[1])
        steps: list[tuple[str, int | None]] = [("period", period), ("quota", quota)]
        for file, number in reversed(steps) if not quota_first else steps:
            put(file, number)

    def _cpu_weight(self) -> str:
        return str(weight_of_shares(int(self._get("cpu", "cpu.shares"))))

    def _set_cpu_weight(self, text: str) -> None:
        self._put("cpu", "cpu.shares", str(shares_of_weight(parse_weight("cpu.weight", text))), "cpu.weight")

    def _cpu_stat(self) -> str:
        values = {"usage_usec": int(self._get("cpuacct", "cpuacct.usage")) // 1000}
        for key, file in (("user_usec", "cpuacct.usage_user"), ("system_usec", "cpuacct.usage_sys")):
            if self._has("cpuacct", file):
                values[key] = int(self._get("cpuacct", file)) // 1000
        if self._has("cpu", "cpu.stat"):
            values |= throttling(self._get("cpu", "cpu.stat"))
        return format_flat(values)

    # cpuset

    def _cpuset_entry(self, name: str) -> Entry:
        return Entry(lambda: self._cpuset(name), lambda text: self._set_cpuset(name, text), "")

    def _parent_cpuset(self, file: str) -> str:
        return read_text(self._path("cpuset", ".").parent / file, file)

    def _cpuset(self, name: str) -> str:
        value = self._get("cpuset", name)
        # The parent's own set is what an unset one has, unless somebody wrote just that.
        return "" if value == self._parent_cpuset(name) != self.written.get(name) else value

    def _set_cpuset(self, name: str, text: str) -> None:
        numbers = parse_list(name, text)
        refuse_cpuset(self, name, numbers, self.layout.controllers["cpuset"] / name)
        value = format_list(numbers)
        self._put("cpuset", name, value or self._parent_cpuset(name), name)
        self.written[name] = value

    # memory

    def _size(self, file: str) -> int | None:
        size = int(self._get("memory", file))
        return size if size < V1_UNLIMITED else None

    def _put_size(self, file: str, size: int | None, name: str) -> None:
        self._put("memory", file, "-1" if size is None else str(size), name)

    def _memory_max(self) -> str:
        return format_limit(self._size(_LIMIT))

    def _set_memory_max(self, text: str) -> None:
        memory = parse_size("memory.max", text)
        refuse_amount(self, "memory.max", memory)
        if not self._has("memory", _MEMSW):
            self._put_limit(_LIMIT, memory)
            return
        swap, before = self._swap(), self._size(_MEMSW)
        both = None if memory is None or swap is None else memory + swap
        # memory+swap may never be below memory, so it goes first when it rises and last when it falls.
        rises = both is None or (before is not None and both > before)
        if rises:
            self._put_limit(_MEMSW, both)
        try:
            self._put_limit(_LIMIT, memory)
        except (Busy, Failed):
            if rises:
                self._put_size(_MEMSW, before, "memory.max")
            raise
        if not rises:
            self._put_limit(_MEMSW, both)
        if swap is not None:
            self.written[_SWAP] = str(swap)  # where memory is without a limit, only we know

    def _put_limit(self, file: str, size: int | None) -> None:
        try:
            self._put_size(file, size, "memory.max")
        except Busy as error:
            usage = self._get("memory", "memory.usage_in_bytes")
            raise Busy(f"memory.max: {usage} bytes are in use and can't be reclaimed down to {size}") from error

    def _swap(self) -> int | None:
        memory, both = self._size(_LIMIT), self._size(_MEMSW)
        if memory is not None:
            return None if both is None else both - memory
        written = self.written.get(_SWAP, "max")
        return None if written == "max" else int(written)

    def _swap_max(self) -> str:
        return format_limit(self._swap())

    def _set_swap_max(self, text: str) -> None:
        swap = parse_size(_SWAP, text)
        memory = self._size(_LIMIT)
        if memory is not None:
            self._put_size(_MEMSW, None if swap is None else memory + swap, _SWAP)
        self.written[_SWAP] = format_limit(swap)

    def _memory_low(self) -> str:
        size = int(self._get("memory", "memory.soft_limit_in_bytes"))
        if size >= V1_UNLIMITED:
            return "0"  # v1's default: nobody is favoured
        return "max" if size >= V1_UNLIMITED - PAGE else str(size)

    def _set_memory_low(self, text: str) -> None:
        size = parse_size("memory.low", text)
        raw = V1_UNLIMITED - PAGE if size is None else size or -1
        self._put("memory", "memory.soft_limit_in_bytes", str(raw), "memory.low")

    def _memory_stat(self) -> str:
        values = memory_stat(self._get("memory", "memory.stat"))
        if self._has("memory", "memory.kmem.usage_in_bytes"):
            values["kernel"] = int(self._get("memory", "memory.kmem.usage_in_bytes"))
        return format_flat(values)

    def _memory_events(self) -> str:
        kills = self.oom_kills()
        failures = int(self._get("memory", "memory.failcnt"))
        return format_flat({"low": 0, "high": 0, "max": failures, "oom": kills, "oom_kill": kills})

    # blkio

    def _io_limits(self) -> dict[str, dict[str, int]]:
        limits: dict[str, dict[str, int]] = {}
        for key in IO_KEYS:
            for line in self._get("blkio", _THROTTLE[key]).splitlines():
                device, value = line.split()
                limits.setdefault(device, {})[key] = int(value)
        return limits

    def _io_max(self) -> str:
        return format_io_max(self._io_limits())

    def _set_io_max(self, text: str) -> None:
        lines: list[tuple[str, Mapping[str, int | None]]] = [
            parse_io_max("io.max", line) for line in text.splitlines()
        ] or [(device, dict.fromkeys(values)) for device, values in self._io_limits().items()]
        for device, limits in lines:
            for key, value in limits.items():  # 0 unsets
                self._put(
                    "blkio", _THROTTLE[key], f"{device} {value or 0}", "io.max", f"{device} {key}={format_limit(value)}"
                )

    def _io_weight(self) -> str:
        weight = re.sub(r"^default ", "", self._get("blkio", "blkio.bfq.weight"))
        devices = self._get("blkio", "blkio.bfq.weight_device") if self._has("blkio", "blkio.bfq.weight_device") else ""
        lines = [line for line in devices.splitlines() if not line.startswith("default")]
        return "\n".join([f"default {self._meant('default', weight)}", *lines])

    def _meant(self, device: str, weight: str) -> str:
        written = self.written.get("io.weight", "")
        return written if written and _bfq_weight(int(written)) == int(weight) else weight

    def _set_io_weight(self, text: str) -> None:
        for line in text.splitlines():
            device, weight = parse_io_weight("io.weight", line)
            if device == "default":
                value = weight or 100
                self._put("blkio", "blkio.bfq.weight", str(_bfq_weight(value)), "io.weight")
                self.written["io.weight"] = str(value)
            else:
                raw = "default" if weight is None else str(_bfq_weight(weight))
                self._put("blkio", "blkio.bfq.weight_device", f"{device} {raw}", "io.weight")

    def _io_stat(self) -> str:
        return io_stat(
            self._get("blkio", "blkio.throttle.io_service_bytes_recursive"),
            self._get("blkio", "blkio.throttle.io_serviced_recursive"),
        )

    # pids

    def _set_pids_max(self, text: str) -> None:
        count = parse_count("pids.max", text)
        refuse_amount(self, "pids.max", count)
        self._put("pids", "pids.max", format_limit(count))

    # Freezing where there is no v2 tree

    def _set_frozen(self, frozen: bool) -> None:
        if self.unified is not None:
            super()._set_frozen(frozen)
        else:
            self._put("freezer", "freezer.state", "FROZEN" if frozen else "THAWED", "cgroup.freeze")

    def _read_freeze(self) -> str:
        if self.unified is not None:
            return super()._read_freeze()
        return "0" if self._get("freezer", "freezer.state") == "THAWED" else "1"

    def _read_events(self) -> str:
        if self.unified is not None:
            return super()._read_events()
        frozen = "freezer" in self.layout.controllers and self._get("freezer", "freezer.state") == "FROZEN"
        return format_flat({"populated": int(bool(self.procs())), "frozen": int(frozen)})

    def _wait_frozen(self, frozen: bool) -> bool:
        if self.unified is not None:
            return super()._wait_frozen(frozen)
        wanted = "FROZEN" if frozen else "THAWED"
        deadline = time.monotonic() + 5
        while self._get("freezer", "freezer.state") != wanted:  # v1 tells nobody; reading it also makes it try again
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True


def _bfq_weight(weight: int) -> int:
    """BFQ takes 1 to 1000 with the same default, 100."""
    return min(weight, 1000)
