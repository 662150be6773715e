"""What monitor and pydockd tell each other about processes, and the files in which exits are kept.

``RUN/exits/ID`` holds the last exit of the process ID, from the moment it was reaped until ``forget``: also one that
happened while nobody was connected. The run directory is in memory, so that writing it waits for no disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import NamedTuple

from pydock.runtime.wire import Message

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:+-]{0,200}")


class Exit(NamedTuple):
    """The end of a process: *status* as wait(2) has it, *time* in ns since 1970, *user* and *system* in seconds."""

    id: str
    pid: int
    status: int
    time: int
    user: float = 0.0
    system: float = 0.0
    max_rss: int = 0  # KiB


class Alive(NamedTuple):
    """A process that runs: *starttime* is field 22 of /proc/PID/stat, which tells it from a later one of that pid."""

    id: str
    pid: int
    starttime: int


def check_id(name: str) -> str:
    """*name*, if it can be a process's id (and a file's name); else ValueError."""
    if not _ID.fullmatch(name):
        raise ValueError(f"{name!r} can't be the id of a process")
    return name


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat, in clock ticks since boot."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def exit_from(values: Message) -> Exit:
    """An exit from its JSON; unknown keys are left out (a newer monitor's), ValueError if it is none."""
    try:
        known = {name: values[name] for name in Exit._fields if name in values}
        return Exit(**known)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(str(error)) from None


def write_exit(run: str, gone: Exit) -> None:
    """Keeps *gone* in ``RUN/exits``, all or nothing."""
    path = f"{run}/exits/{gone.id}"
    temporary = f"{run}/exits/.{gone.id}"
    with open(temporary, "w") as file:
        json.dump(gone._asdict(), file)
    os.rename(temporary, path)


def forget_exit(run: str, name: str, pid: int | None = None) -> None:
    """Removes what is kept of the process *name*, if there is anything, and if it is of *pid* where that is given."""
    path = f"{run}/exits/{check_id(name)}"
    with contextlib.suppress(FileNotFoundError):
        if pid is not None:
            with open(path) as file:
                if json.load(file).get("pid") != pid:
                    return
        os.unlink(path)


def read_exits(run: str) -> list[Exit]:
    """All that are kept."""
    result = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"{run}/exits"):
            if not name.startswith("."):
                with contextlib.suppress(FileNotFoundError, ValueError), open(f"{run}/exits/{name}") as file:
                    result.append(exit_from(json.load(file)))
    return result
