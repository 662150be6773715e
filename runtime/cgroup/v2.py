"""A cgroup on a machine whose controllers are in the v2 tree: nearly the identity.

Values are checked here before the kernel sees them, for the sake of the words, and a limit above what a parent allows
is refused, which the kernel would take and ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pydock.runtime.cgroup.devices import DEFAULT, DeviceRule, allow_by_program
from pydock.runtime.cgroup.entry import Entry
from pydock.runtime.cgroup.formats import (
    cpu_share,
    flat,
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
from pydock.runtime.errors import Invalid

_READ_ONLY = (
    "cpu.stat",
    "memory.current",
    "memory.peak",
    "memory.stat",
    "memory.events",
    "io.stat",
    "pids.current",
    "pids.peak",
)


class V2Cgroup(Cgroup):
    """See ``Cgroup``; its only directory is in the v2 tree."""

    def _controllers(self) -> dict[str, Entry]:
        settings: dict[str, tuple[Callable[[str], None], str]] = {
            "cpu.max": (self._set_cpu_max, "max 100000"),
            "cpu.weight": (lambda text: self._put("cpu.weight", str(parse_weight("cpu.weight", text))), "100"),
            "cpuset.cpus": (lambda text: self._set_cpuset("cpuset.cpus", text), ""),
            "cpuset.mems": (lambda text: self._set_cpuset("cpuset.mems", text), ""),
            "memory.max": (lambda text: self._set_limit("memory.max", text, parse_size), "max"),
            "memory.high": (
                lambda text: self._put("memory.high", format_limit(parse_size("memory.high", text))),
                "max",
            ),
            "memory.low": (lambda text: self._put("memory.low", format_limit(parse_size("memory.low", text))), "0"),
            "memory.swap.max": (
                lambda text: self._put("memory.swap.max", format_limit(parse_size("memory.swap.max", text))),
                "max",
            ),
            "io.max": (self._set_io_max, ""),
            "pids.max": (lambda text: self._set_limit("pids.max", text, parse_count), "max"),
        }
        entries = {
            name: Entry(self._reader(name), write, default)
            for name, (write, default) in settings.items()
            if self._has(name)
        }
        entries |= {name: Entry(self._reader(name)) for name in _READ_ONLY if self._has(name)}
        weight = "io.weight" if self._has("io.weight") else "io.bfq.weight"  # the latter's format is the same
        if self._has(weight):
            entries["io.weight"] = Entry(
                self._reader(weight), lambda text: self._set_io_weight(weight, text), "default 100"
            )
        return entries

    def _prepare(self, fresh: frozenset[str]) -> None:
        allow_by_program(self.directories[0], DEFAULT)

    def oom_kills(self) -> int:
        return flat(self._get("memory.events")).get("oom_kill", 0)

    def allow_devices(self, rules: Iterable[DeviceRule]) -> None:
        allow_by_program(self.directories[0], tuple(rules))

    def native_alias(self, name: str) -> Entry | None:
        match name:
            case "cpuset.effective_cpus" | "cpuset.effective_mems":
                v2 = f"cpuset.{name.rpartition('_')[2]}.effective"
                return Entry(self._reader(v2)) if self._has(v2) else None
            case "memory.memsw.usage_in_bytes" if self._has("memory.swap.current"):
                return Entry(lambda: str(int(self._get("memory.current")) + int(self._get("memory.swap.current"))))
        return None

    def _path(self, name: str) -> Path:
        return self.directories[0] / name

    def _has(self, name: str) -> bool:
        return self.knows(f"/{name}", lambda: (self.probe(self.directories[0]) / name).exists())

    def _get(self, name: str) -> str:
        return read_text(self._path(name), name)

    def _put(self, name: str, text: str) -> None:
        write_text(self._path(name), text, name)

    def _reader(self, name: str) -> Callable[[], str]:
        return lambda: self._get(name)

    def _set_cpu_max(self, text: str) -> None:
        quota, period = parse_cpu_max("cpu.max", text, int(self._get("cpu.max").split()[1]))
        refuse_cpu_max(self, quota, period)
        self._put("cpu.max", f"{format_limit(quota)} {period}")

    def _set_limit(self, name: str, text: str, parse: Callable[[str, str], int | None]) -> None:
        value = parse(name, text)
        refuse_amount(self, name, value)
        self._put(name, format_limit(value))

    def _set_cpuset(self, name: str, text: str) -> None:
        numbers = parse_list(name, text)
        root = self.directories[0].parents[self.path.count("/")]
        refuse_cpuset(self, name, numbers, root / f"{name}.effective")
        self._put(name, format_list(numbers))

    def _set_io_max(self, text: str) -> None:
        lines = [parse_io_max("io.max", line) for line in text.splitlines()]
        if not lines:  # unset: every limit that is there
            lines = [
                (line.split()[0], dict.fromkeys(("rbps", "wbps", "riops", "wiops")))
                for line in self._get("io.max").splitlines()
            ]
        for device, limits in lines:
            self._put("io.max", f"{device} " + " ".join(f"{key}={format_limit(v)}" for key, v in limits.items()))

    def _set_io_weight(self, file: str, text: str) -> None:
        for line in [parse_io_weight("io.weight", line) for line in text.splitlines()] or [("default", 100)]:
            device, weight = line
            write_text(self._path(file), f"{device} {'default' if weight is None else weight}", "io.weight")


def refuse_amount(group: Cgroup, name: str, value: int | None) -> None:
    """Invalid if *value* is more than a parent's."""
    if value is not None:
        group.refuse_above(name, str(value), lambda limit: limit != "max" and value > int(limit))


def refuse_cpu_max(group: Cgroup, quota: int | None, period: int) -> None:
    """Invalid if a parent has fewer processors' worth of time."""
    share = cpu_share(quota, period)
    if share is None:
        return

    def exceeds(limit: str) -> bool:
        allowed = cpu_share(*parse_cpu_max("cpu.max", limit, 100_000))
        return allowed is not None and share > allowed

    group.refuse_above("cpu.max", f"{format_limit(quota)} {period}", exceeds)


def refuse_cpuset(group: Cgroup, name: str, numbers: frozenset[int], machine: Path) -> None:
    """Invalid if a parent that has a set lacks one of them, or the machine does, by the root's file *machine*."""
    text = format_list(numbers)
    group.refuse_above(name, text, lambda limit: not numbers <= parse_list(name, limit))
    if machine.exists():
        there = read_text(machine, name)
        if not numbers <= parse_list(name, there):
            raise Invalid(f'{name}: "{text}": this machine has {there}')
