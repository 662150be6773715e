"""``cgroup/``: the container's cgroup with cgroup v2's files on any kernel, and the v1 names as unlisted aliases.

The files are the kernel's, so the table is made from what this kernel has. What each means is in the kernel's
Documentation/admin-guide/cgroup-v2.rst; every write is the kernel's (or its v1 translation's) to accept or refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Directory, Entry, Value
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.errors import PydockError

C = ContainerSubject

CROWD: Final = 500
#: What each file is for, in a line; formats and meanings are those of the kernel's cgroup-v2.rst.
DOCS: Final[Mapping[str, str]] = {
    "path": "The cgroup's place below the controllers' roots, for cgexec and its like.",
    "cgroup.procs": "The processes in it, a number a line. Writing a number moves that process here, and so under the container's "
    "limits; 0 is the caller.",
    "cgroup.freeze": "1 freezes all processes, 0 lets them go on. A start makes it 0.",
    "cgroup.kill": "Writing 1 kills every process in it, foreign ones too.",
    "cgroup.events": "Flat keyed: populated, frozen.",
    "cpu.max": "``QUOTA PERIOD`` in microseconds: how much processor time a period; ``max 100000`` is no limit.",
    "cpu.weight": "The share of a busy processor, 1 to 10000. The default is 100.",
    "cpu.stat": "Flat keyed: usage_usec and others, in microseconds.",
    "cpuset.cpus": "The processors it may use, as in 0-3,6; empty is all.",
    "cpuset.mems": "The memory nodes it may use; empty is all.",
    "memory.max": "The hard limit in bytes, with K, M, G or T in 1024s, or max. Above it the kernel kills a process: ``error`` and the "
    "event oom tell when it happens. A start with too little for its set-up is ENOMEM.",
    "memory.high": "Above this many bytes processes are slowed and reclaimed from. "
    "Only where the kernel has cgroup v2's memory controller.",
    "memory.low": "Up to this many bytes are spared from reclaim while others have some.",
    "memory.swap.max": "The limit of swap in bytes, or max.",
    "memory.current": "Bytes in use.",
    "memory.peak": "The most bytes that were in use.",
    "memory.stat": "Flat keyed: where the bytes are.",
    "memory.events": "Flat keyed: low high max oom oom_kill, how often each happened.",
    "io.max": "``MAJ:MIN rbps=… wbps=… riops=… wiops=…`` a line: limits of a block device, in bytes (with "
    "K, M, G or T in 1024s) and operations a second.",
    "io.weight": "The share of a busy block device, 1 to 10000. The default is 100.",
    "io.stat": "``MAJ:MIN rbytes=… wbytes=… rios=… wios=…`` a line.",
    "pids.max": "The most processes and threads, or max. More is EAGAIN for fork(2).",
    "pids.current": "Processes and threads now.",
    "pids.peak": "The most processes and threads there were.",
    "cpu.pressure": "How long tasks waited for a processor (PSI).",
    "memory.pressure": "How long tasks waited for memory (PSI).",
    "io.pressure": "How long tasks waited for input and output (PSI).",
}


def _read(name: str, subject: C) -> str | None:
    return subject.container.cgroup.read(name) or None


def _is_crowded(subject: C) -> bool:
    """Whether the kernel, which sorts them in each v1 hierarchy, takes long to list the processes."""
    try:
        return int(subject.container.cgroup.read("pids.current")) > CROWD
    except (PydockError, OSError, ValueError):
        return False


def _entry(cgroup: Cgroup, name: str, *, listed: bool) -> Entry[C]:
    mode = cgroup.mode(name)

    async def store(subject: C, text: str | None, caller: int) -> None:
        await subject.container.configuration.write_cgroup(name, text or "", caller)

    return Value(
        name=name,
        listed=listed,
        volatile=True,
        show=(lambda subject: None) if mode == "wo" else (lambda subject: _read(name, subject)),
        store=None if mode == "ro" else store,
        long=_is_crowded if name in ("cgroup.procs", "tasks") else None,
        doc=DOCS.get(name, ""),
    )


_PATH: Final[Entry[C]] = Value(name="path", show=lambda c: c.container.cgroup.path, doc=DOCS["path"])
#: The table of cgroups with these names, in that order: a machine's have them all.
_known: dict[tuple[str, ...], tuple[Entry[C], ...]] = {}


def _table(cgroup: Cgroup) -> tuple[Entry[C], ...]:
    names = cgroup.names()
    found = _known.get(names)
    if found is None:
        aliases = [name for name in sorted(cgroup.aliases()) if name not in names]
        rows = [
            *(_entry(cgroup, name, listed=True) for name in names),
            *(_entry(cgroup, name, listed=False) for name in aliases),
        ]
        found = _known[names] = (_PATH, *rows)
    return found


def cgroup_directory(subject: C) -> Directory:
    """The directory of *subject*'s cgroup."""
    table = _table(subject.container.cgroup)
    directory = Directory("cgroup", None, subject, table, prefix="cgroup/")  # type: ignore[arg-type]
    directory.scratchable = True
    return directory
