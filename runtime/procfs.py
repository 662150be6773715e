"""What /proc tells of a process, where the process itself chose a part of the text: see proc(5).

A command's name is any bytes, a mount's path as well. The kernel escapes newlines in them and hardly anything else: they need
not be UTF-8, and have carriage returns, brackets, and whatever looks like a line or a field.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime_ns, time_ns
from typing import Final, NamedTuple

_NAMED: Final = 4  # of many
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@functools.cache
def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def lines_of(pid: int | str, name: str) -> list[str]:
    """Those of ``/proc/PID/NAME``; bytes that are no UTF-8 are surrogates. OSError when it has ended."""
    return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="surrogateescape").split("\n")


def status_of(pid: int) -> dict[str, str]:
    """The values in ``/proc/PID/status`` by their keys."""
    return {
        key: value.strip() for key, colon, value in (line.partition(":") for line in lines_of(pid, "status")) if colon
    }


def stat_of(pid: int) -> tuple[str, list[str]]:
    """The command in ``/proc/PID/stat``, to be shown, and the fields from the third, the state, on."""
    head, _, tail = "\n".join(lines_of(pid, "stat")).rpartition(")")
    return shown(head.partition("(")[2]), tail.split()


def pid_of(pidfd: int) -> int:
    """The number of the process behind *pidfd*; -1 when it has been reaped (pidfd_open(2), "fdinfo")."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


def locker(fd: int) -> int:
    """The process that has the flock(2) of the open file *fd*, by proc_locks(5); 0 when that is none of this PID namespace."""
    found = os.fstat(fd)
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "FLOCK" in fields and place in fields:
            return max(0, int(fields[fields.index(place) - 1]))
    return 0


def shown(text: str) -> str:
    """*text* on one line and without commands for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class Mount(NamedTuple):
    """What is mounted at *place*: the number of its *device*, and the *kind* of its file system."""

    device: str
    place: str
    kind: str


def mounts() -> list[Mount]:
    """Those of this process's namespace, the older first."""
    found = []
    for fields in (line.split(" ") for line in lines_of("self", "mountinfo") if line):
        place = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        found.append(Mount(fields[2], place, fields[fields.index("-") + 1]))
    return found


def mounts_of(pid: int) -> set[int]:
    """The ids of the mounts that it sees; empty when it has ended."""
    try:
        return {int(line.split(" ", 1)[0]) for line in lines_of(pid, "mountinfo") if line}
    except OSError:
        return set()


def holders(is_wanted: Callable[[str], bool]) -> Iterator[str]:
    """The processes that stand in, run or have open what *is_wanted*, which is asked for each link in /proc/PID as this process reads
    it: ``nginx (pid 12)``. Nothing is opened or looked up. Blocks."""
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError):
            if any(map(is_wanted, _links_of(pid))):
                yield f"{stat_of(pid)[0]} (pid {pid})"


def by_those_in(place: str) -> str:
    """Who keeps what is mounted at *place* from going: ``" by sh (pid 12), vim (pid 13)"``; empty when nobody is seen. Blocks."""
    found = list(holders(lambda path: path == place or path.startswith(f"{place}/")))
    others = f" and {len(found) - _NAMED} others" if len(found) > _NAMED else ""
    return f" by {', '.join(found[:_NAMED])}{others}" if found else ""


def _links_of(pid: int) -> Iterator[str]:
    """Where it stands, and what it has open or runs."""
    directory = f"/proc/{pid}"
    for name in ("cwd", "root", "exe"):
        with suppress(OSError):
            yield os.readlink(f"{directory}/{name}")
    for name in os.listdir(f"{directory}/fd"):
        with suppress(OSError):
            yield os.readlink(f"{directory}/fd/{name}")


def born(starttime: int) -> int:
    """When a process came into being whose field 22 in /proc/PID/stat is *starttime*: in ns since the epoch, to the tick."""
    ticks = os.sysconf("SC_CLK_TCK")
    return time_ns() - clock_gettime_ns(CLOCK_BOOTTIME) + starttime * 1_000_000_000 // ticks
