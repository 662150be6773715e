"""The statistics of v1's controllers as v2 has them: texts of the kernel's files in, v2's keys and units out."""

from __future__ import annotations

from pydock.runtime.cgroup.formats import flat

_IO_STAT = {"Read": "r", "Write": "w", "Discard": "d"}
# memory.stat: v2's key for v1's; the total_ ones of v1 count what is below, as v2's do.
_MEMORY_STAT = {
    "anon": "total_rss",
    "file": "total_cache",
    "shmem": "total_shmem",
    "file_mapped": "total_mapped_file",
    "file_dirty": "total_dirty",
    "file_writeback": "total_writeback",
    "swapcached": "total_swapcached",
    "anon_thp": "total_rss_huge",
    "inactive_anon": "total_inactive_anon",
    "active_anon": "total_active_anon",
    "inactive_file": "total_inactive_file",
    "active_file": "total_active_file",
    "unevictable": "total_unevictable",
    "workingset_refault_anon": "total_workingset_refault_anon",
    "workingset_refault_file": "total_workingset_refault_file",
    "pgfault": "total_pgfault",
    "pgmajfault": "total_pgmajfault",
}
# cpu.stat: v2's key, v1's, and how many of v1's unit (nanoseconds) make one of v2's (microseconds).
_THROTTLING = (
    ("nr_periods", "nr_periods", 1),
    ("nr_throttled", "nr_throttled", 1),
    ("throttled_usec", "throttled_time", 1000),
    ("nr_bursts", "nr_bursts", 1),
    ("burst_usec", "burst_time", 1000),
)
_IO_ORDER = ("rbytes", "wbytes", "rios", "wios", "dbytes", "dios")


def memory_stat(text: str) -> dict[str, int]:
    """memory.stat; keys that one of the versions lacks are left out."""
    stat = flat(text)
    return {v2: stat[v1] for v2, v1 in _MEMORY_STAT.items() if v1 in stat}


def throttling(text: str) -> dict[str, int]:
    """The part of cpu.stat that is about cpu.max."""
    stat = flat(text)
    return {v2: stat[v1] // unit for v2, v1, unit in _THROTTLING if v1 in stat}


def io_stat(service_bytes: str, serviced: str) -> str:
    """io.stat of blkio.throttle.io_service_bytes and io_serviced, ``8:0 Read 4096`` a line."""
    stats: dict[str, dict[str, int]] = {}
    for unit, text in (("bytes", service_bytes), ("ios", serviced)):
        for line in text.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[1] in _IO_STAT:
                stats.setdefault(fields[0], {})[_IO_STAT[fields[1]] + unit] = int(fields[2])
    lines = ([device, *(f"{key}={values.get(key, 0)}" for key in _IO_ORDER)] for device, values in stats.items())
    return "\n".join(" ".join(line) for line in lines)
