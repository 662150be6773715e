"""What the kernel kills in a container for want of memory: known when it happens, and told once.

A cgroup counts such kills (``oom_kill`` of ``memory.events``), and the kernel's log, /dev/kmsg (Documentation/ABI/testing/dev-kmsg),
names the cgroup at each of them. One reader of that log serves all containers, whatever their number, and has nothing to do with a
start; what it reads only tells whose counter is to be looked at, so that what somebody else writes there does no harm. How many are
told is in the container's record: a pydockd that comes later tells what is new since. Where the log can't be read they are told at the
end of the run.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import trio
from pydock.runtime.errors import Failed, PydockError

if TYPE_CHECKING:
    from pydock.runtime.container import Container
    from pydock.runtime.containers import Containers

LOG: Final = "/dev/kmsg"
_RECORD: Final = 8192  # bytes: no record is longer
#: Seconds until what is new there is read: whatever fills it wakes nobody more often.
_TOGETHER: Final = 0.05
#: Records that name the cgroup, as each container's is called by its id: of one; of all in it (memory.oom.group); before 5.0.
_NAMING: Final = re.compile(rb"[^;]*;(?:oom-kill:|Tasks in |Task in )")
_KILLED: Final = re.compile(rb"[^;]*;[^\n]*\bKilled process ", re.IGNORECASE)
_ID: Final = re.compile(rb"[0-9a-f]{64}")


class Struck(Failed):
    """ENOMEM of a start whose process was killed for want of memory: with these limits it will be again."""


def note(container: Container) -> None:
    """A run is about to begin: what was killed before is not of that."""
    container.record.oom_kills = container.cgroup.oom_kills()


async def tell(container: Container) -> None:
    """Tell of what has been killed in it since that was told last."""
    record = container.record
    try:
        found, limit = container.cgroup.oom_kills(), _limit(container)
    except (PydockError, OSError):
        return  # it has gone with the container
    kills = found - record.oom_kills if record.oom_kills >= 0 else 0
    record.oom_kills = found  # which may be less: v1's cgroups below take their count along when they go
    if kills > 0:
        container.failed(f"oom: the kernel killed {kills} process{'es' * (kills > 1)}: {limit}")
        await container.keep()
        container.engine.events.publish("container", container.name, "oom", kills=str(kills))


@contextmanager
def told(container: Container) -> Iterator[None]:
    """Within, a process is started in *container*: that it is killed on the way for want of memory is ENOMEM, with the limit."""
    try:
        yield
    except Failed as error:
        if error.errno == errno.ECANCELED and (limit := _struck(container)):
            raise Struck(errno.ENOMEM, f"out of memory: the kernel killed it during the set-up: {limit}") from error
        raise


def _struck(container: Container) -> str:
    """The limit that a process has just been killed for in it; empty when none has.

    A process is counted where its memory belongs to, and until it runs its program that may be the zygote's that bore it.
    """
    engine = container.engine
    try:
        if container.cgroup.oom_kills() <= max(container.record.oom_kills, 0):
            if engine.hierarchy.helpers.oom_kills() <= engine.helpers_killed:
                return ""
            engine.helpers_killed += 1
        return _limit(container)
    except (PydockError, OSError):
        return ""


def _limit(container: Container) -> str:
    limit = container.cgroup.read("memory.max").strip()
    return f"memory.max is {limit}" + (", so that it is the machine that has no more" if limit == "max" else "")


class Kills:
    """What the kernel's log tells, record by record."""

    def __init__(self) -> None:
        self.ids: set[str] = set()  # of containers whose counters are to be looked at
        #: The kernel has not told where (it writes at most ten long reports in five seconds), or that is lost.
        self.somewhere = False
        self._named: set[str] = set()

    def take(self, record: bytes) -> None:
        """One record, as it is read. A kill is counted when its last record, which names only the process, is written."""
        if _NAMING.match(record):
            self._named = {each.decode() for each in _ID.findall(record)}
        elif _KILLED.match(record):
            self.ids |= self._named
            self.somewhere = self.somewhere or not self._named
            self._named = set()


def _read(fd: int) -> Kills | None:
    """What is new in the log *fd*; None when it is none."""
    kills = Kills()
    for _ in range(_RECORD):  # and then others are to have their turn
        try:
            record = os.read(fd, _RECORD)
        except BlockingIOError:
            break
        except BrokenPipeError:  # the next ones have been overwritten
            kills.somewhere = True
            continue
        if not record:
            return None
        kills.take(record)
    return kills


async def watch(containers: Containers) -> None:
    """Tell of each kill when it happens, until cancelled; nothing where the log can't be read."""
    engine = containers.engine
    engine.helpers_killed = engine.hierarchy.helpers.oom_kills()
    try:
        fd = os.open(LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with suppress(OSError):  # one that can't be waited for is somebody's /dev/null
            os.lseek(fd, 0, os.SEEK_END)
            await engine.adopted.wait()  # which tells what came before
            while True:
                await trio.lowlevel.wait_readable(fd)
                await trio.sleep(_TOGETHER)
                kills = _read(fd)
                if kills is None:
                    return
                for container in tuple(containers):
                    if container.record.pid and (kills.somewhere or container.id in kills.ids):
                        await tell(container)
    finally:
        os.close(fd)
