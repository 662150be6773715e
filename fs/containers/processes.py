"""The report ``processes``: who runs in a container, from /proc (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

import trio
from pydock.runtime.confine.userns import IdMap
from pydock.runtime.container import Container
from pydock.runtime.procfs import shown, stat_of, status_of

HEADER = "PID NSPID USER CPU_SECONDS RSS_BYTES STATE COMMAND"


async def processes(container: Container) -> str:
    """The report, a process a line, in the order of their numbers."""
    return await trio.to_thread.run_sync(_render, container)


def _render(container: Container) -> str:
    names = _users(container)
    ids = container.runs.ids()
    lines = [HEADER]
    for pid in container.members.own() if container.record.pid else ():
        if (line := _line(pid, names, ids)) is not None:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _users(container: Container) -> dict[str, str]:
    """Names by number, from the container's own passwd."""
    names: dict[str, str] = {}
    for line in container.root.read("etc/passwd").splitlines():
        fields = line.split(":")
        if len(fields) > 2:
            names.setdefault(fields[2], fields[0])
    return names


def _line(pid: int, names: dict[str, str], ids: IdMap | None) -> str | None:
    """One process; None when it has just gone. USER is a number where the container has no name for it."""
    try:
        status = status_of(pid)
        _, fields = stat_of(pid)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[11]) + int(fields[12])) / ticks
    rss = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    command = shown(" ".join(word.decode(errors="replace") for word in words) or f"[{status['Name']}]")
    number = status["Uid"].split()[1]
    if ids is not None and 0 <= int(number) - ids.uid < ids.size:
        number = str(int(number) - ids.uid)  # as it is inside
    user = names.get(number, number)
    return f"{pid} {status['NSpid'].split()[-1]} {user} {cpu:.2f} {rss} {fields[0]} {command}"
