"""Which of the processes in a container's cgroup are the container's own.

Anybody's process may be moved into the cgroup, to be under its limits, and is to be left alone when the container ends. A
container's own processes are told by their namespaces: its mount and cgroup namespaces are made for each run, whatever else
it shares, and everything that it starts is born in them. Only a process with CAP_SYS_ADMIN can leave one of them; it still
counts as long as it has not left both. Where the run has its PID namespace to itself nothing has to be looked for at its end:
all end with its first process (pid_namespaces(7)).
"""

from __future__ import annotations

import errno
import os
import select
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from pydock.runtime import syscalls
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.errors import Busy, Failed
from pydock.runtime.procfs import status_of
from pydock.runtime.record import Record

_KINDS: Final = ("mnt", "cgroup")
_ROUNDS: Final = 100
_MILLISECONDS: Final = 1000  # of waiting for the killed ones, a round


def namespaces_of(pid: int | str) -> tuple[str, ...]:
    """The process's mount and cgroup namespaces, as readlink(2) has them; empty when it has ended."""
    try:
        return tuple(os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _KINDS)
    except OSError:
        return ()


class Members:
    """The processes of the container with *record* and *cgroup*. Everything blocks but for ``note``."""

    def __init__(self, record: Record, cgroup: Cgroup) -> None:
        self._record = record
        self._cgroup = cgroup

    def note(self) -> None:
        """Keep in the record by what they are told, for the time when the first process has gone."""
        self._record.namespaces = namespaces_of(self._record.pid)

    def own(self) -> tuple[int, ...]:
        """Their numbers."""
        known = self._known()
        return tuple(pid for pid in self._cgroup.procs() if pid and _belongs(pid, known))

    def _known(self) -> tuple[str, ...]:
        return self._record.namespaces or (namespaces_of(self._record.pid) if self._record.pid else ())

    def kill(self) -> None:
        """SIGKILL to all of them until none is left; Busy when they multiply faster than that."""
        known = self._known()
        for _ in range(_ROUNDS):
            left = self.own()
            if not left:
                return
            with ExitStack() as stack:
                poller = select.poll()
                for pid in left:
                    with suppress(ProcessLookupError):
                        pidfd = syscalls.pidfd_open(pid)
                        stack.callback(os.close, pidfd)
                        if _belongs(pid, known):  # and is not another of that number
                            syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
                            poller.register(pidfd, select.POLLIN)
                poller.poll(_MILLISECONDS)
        raise Busy(f"processes in cgroup {self._cgroup.path} multiply faster than they can be killed")

    def kill_strays(self) -> None:
        """End the first process of a start that nobody was told of: the monitor, perhaps pydockd too, died in the midst of it.
        Processes that somebody moved into the cgroup are not the first of a PID namespace, and are left alone."""
        for pid in self._cgroup.procs():
            with suppress(OSError):
                numbers = status_of(pid).get("NSpid", "").split()
                if len(numbers) > 1 and numbers[-1] == "1":
                    os.kill(pid, signal.SIGKILL)

    def set_oom_score(self, value: int) -> None:
        """``oom_score_adj`` (proc(5)) of each of them; Failed when it can't be lowered so far."""
        for pid in self.own():
            try:
                Path(f"/proc/{pid}/oom_score_adj").write_text(str(value))
            except PermissionError:
                words = f"oom_score_adj can't be lowered to {value} while it runs: the engine lacks CAP_SYS_RESOURCE"
                raise Failed(errno.EPERM, words) from None
            except OSError:
                continue  # it has just ended


def _belongs(pid: int, known: tuple[str, ...]) -> bool:
    """By the namespaces *known*; when a run ended before they were asked for, whoever is outside the engine's own is its."""
    found = namespaces_of(pid)
    if known:
        return any(each in known for each in found)
    return bool(found) and not set(found) & set(namespaces_of("self"))
