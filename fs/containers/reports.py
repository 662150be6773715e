"""The reports ``changes`` and ``stats`` of a container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.changes import changes, mounted_on, report
from pydock.runtime.container import Container

#: The columns of /proc/PID/net/dev that are told (proc(5)): their places behind the colon.
_NETWORK: Final = {"net_rx_bytes": 0, "net_tx_bytes": 8, "net_rx_packets": 1, "net_tx_packets": 9}


async def render_changes(container: Container) -> str:
    """``A|C|D PATH`` a line; nothing when there is no writable layer yet."""
    return await trio.to_thread.run_sync(_changes, container)


def _changes(container: Container) -> str:
    layers, spec = container.record.layers, container.spec
    if not layers:
        return ""
    try:
        upper = os.open(container.root.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""  # it was reset meanwhile
    try:
        lower = container.engine.images.union(layers, None, None)
        try:
            return report(changes(upper, lower, mounted_on(spec, container.record)))
        finally:
            os.close(lower)
    finally:
        os.close(upper)


async def render_stats(container: Container) -> str:
    """Flat keyed. What this kernel does not count is left out."""
    return await trio.to_thread.run_sync(_stats, container)


def _stats(container: Container) -> str:
    values: dict[str, int] = {}
    values |= _number("cpu_usec", _keyed(container, "cpu.stat").get("usage_usec"))
    for key, file in (
        ("memory_bytes", "memory.current"),
        ("memory_peak_bytes", "memory.peak"),
        ("pids", "pids.current"),
    ):
        values |= _number(key, _read(container, file))
    disks = [line.split()[1:] for line in (_read(container, "io.stat") or "").splitlines()]
    pairs = [pair.partition("=") for disk in disks for pair in disk]
    for key, name in (("io_read_bytes", "rbytes"), ("io_write_bytes", "wbytes")):
        values[key] = sum(int(value) for each, _, value in pairs if each == name and value.isdecimal())
    values |= _network(container.record.pid)
    return "".join(f"{key} {value}\n" for key, value in values.items())


def _number(key: str, text: str | None) -> dict[str, int]:
    return {key: int(text)} if text is not None and text.strip().isdecimal() else {}


def _read(container: Container, file: str) -> str | None:
    try:
        return container.cgroup.read(file)
    except Exception:  # the kernel has no such file
        return None


def _keyed(container: Container, file: str) -> dict[str, str]:
    lines = (_read(container, file) or "").splitlines()
    return {key: value for key, _, value in (line.partition(" ") for line in lines)}


def _network(pid: int) -> dict[str, int]:
    """What went through the interfaces of the network that process *pid* is in, lo aside; zeros when it does not run."""
    totals = dict.fromkeys(_NETWORK, 0)
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:] if pid else []
    except OSError:
        lines = []
    for line in lines:
        name, _, columns = line.partition(":")
        if name.strip() != "lo":
            numbers = columns.split()
            for key, place in _NETWORK.items():
                totals[key] += int(numbers[place])
    return totals
