"""The small program that is a container's first process with ``init 1``: it starts the command, hands signals on to it, reaps
what is orphaned, and ends with the command's exit code.

It is the machine's tini, docker's build of it first, or catatonit, bind-mounted into the container as docker does it; all take
``-- COMMAND``. Only those builds are looked for that need no library, as the container has its own libraries or none. catatonit is
the last as its command begins with the terminal's signals blocked, so that a shell has no job control.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from typing import Final

import trio
from pydock.runtime.errors import Unsupported

TARGET: Final = "/sbin/docker-init"
WORDS: Final = (TARGET, "--")  # before the command
_PLACES: Final = (
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/tini-static",
    "/usr/sbin/tini-static",
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
    "/usr/libexec/podman/catatonit",
)


_MASK: Final = re.compile(r"^(Sig\w+):\t([0-9a-f]+)$", re.MULTILINE)
_SIGNS: Final = (("SigBlk", signal.SIGTERM), ("SigIgn", signal.SIGTTIN))
_LOOKS: Final = 1000  # until it takes signals, or never will
_PAUSE: Final = 0.001  # seconds


def find() -> str:
    """Its path on the machine; Unsupported when there is none."""
    for path in _PLACES:
        if os.access(path, os.X_OK):
            return path
    raise Unsupported("init: this machine has no program for it: install the package tini, or catatonit")


async def taking_signals(pid: int) -> None:
    """Return when the one with *pid* takes signals, which is soon after its start: those that come before, and have no handler, the
    kernel drops, as it is process 1 of its namespace."""
    with suppress(OSError):  # it has ended
        for _ in range(_LOOKS):
            if takes_signals(pid):
                return
            await trio.sleep(_PAUSE)


def takes_signals(pid: int) -> bool:
    """Whether it has blocked the signals, to wait for them. Those that are just being waited for sigtimedwait(2) hides, but tini, which
    does that, ignores the terminal's right after it has blocked the others. OSError."""
    with open(f"/proc/{pid}/status") as file:
        found = {name: int(mask, 16) for name, mask in _MASK.findall(file.read())}
    return any(found.get(name, 0) >> (number - 1) & 1 for name, number in _SIGNS)
