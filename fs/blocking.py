"""Callers that wait: woken by data or by their own signals, never left in uninterruptible sleep.

FUSE tells a file system that the caller of a request was interrupted (FUSE_INTERRUPT), but the binding does not pass it
on; a caller blocked in a handler would sleep in state D even after SIGKILL. So whoever blocks a caller looks at it
every :data:`PERIOD` seconds: a pending signal that is not blocked, or state D (a signal has already reached it), ends the
wait with EINTR (signal(7)).

A call that was interrupted can't be taken up again, as the kernel does with one on a pipe whose caller's handler was set with
SA_RESTART. Who reads asks again; but a shell that writes a command takes EINTR for its failure, and has handlers for the end
of its children and its terminal's new size. So these, which by default are nothing (``_NEWS``), end reads of streams alone.

A request names no caller beyond the open: the descriptor may have been inherited or passed on (``{ cat; } < file``). The
waiting task is known by its wait channel and by the descriptor it is blocked on: the second field of
``/proc/TID/syscall``, whose ``fdinfo`` shows the inode number; files that block have one of their own for each look-up.
See proc_pid_status(5), proc_pid_syscall(5), proc_pid_fdinfo(5).
"""

from __future__ import annotations

import enum
import errno
import os
import re
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final, TypeVar

import trio
from pydock.fs.node import Refused

T = TypeVar("T")

PERIOD: Final = 0.2
#: Seconds until a caller that may not wait is told so; data that come sooner cost no look at it.
_SOON: Final = 0.01
#: Signals that nobody sends to end anything, as bits of a mask in /proc.
_NEWS: Final = sum(1 << number - 1 for number in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))
_CHILDREN: Final = 1 << 20  # bytes of their numbers
#: Seconds between scans of all tasks, for a caller that is not the opener.
_SCAN_PERIOD: Final = 0.5


class Interrupted(Refused):
    """The caller has a signal to handle: EINTR, without words."""

    def __init__(self) -> None:
        super().__init__(errno.EINTR, "")


def _read(path: str, limit: int = 4096) -> str:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(limit).decode(errors="replace")
    except OSError:
        return ""


def _descriptor(task: str, number: int) -> str:
    """The fdinfo of what the task at *task* (a path in /proc) is blocked on, if that is the file with inode *number*; else empty."""
    if _read(f"{task}/wchan") != "request_wait_answer":
        return ""
    fields = _read(f"{task}/syscall").split()
    if len(fields) < 2 or fields[0] == "-1":
        return ""
    found = _read(f"{task}/fdinfo/{int(fields[1], 16) & 0xFFFFFFFF}")
    return found if f"ino:\t{number}\n" in found else ""


def waits_on(task: str, number: int) -> bool:
    """Whether the task at *task* is blocked in a request on the file with inode *number*."""
    return bool(_descriptor(task, number))


def nonblocking(task: str, number: int) -> bool:
    """Whether it is, on a descriptor that fcntl(2) has given O_NONBLOCK since the open."""
    return bool(_flags(_descriptor(task, number)) & os.O_NONBLOCK)


def _flags(fdinfo: str) -> int:
    """Those of a descriptor; 0 of none."""
    found = re.search(r"^flags:\t([0-7]+)$", fdinfo, re.MULTILINE)
    return 0 if found is None else int(found[1], 8)


def signalled(task: str, spared: int = 0) -> bool:
    """Whether a signal is about to be, or has been, delivered to the task, but for the *spared* ones (a mask as in /proc); also when
    the task is gone."""
    status = _read(f"{task}/status")
    if not status:
        return True
    values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    state = values.get("State", "")
    if state.startswith(("Z", "X")):
        return True
    pending = int(values.get("SigPnd", "0"), 16) | int(values.get("ShdPnd", "0"), 16)
    pending &= ~int(values.get("SigBlk", "0"), 16)
    if pending & spared == 0 and state.startswith("D"):
        return True  # another thread took it
    return bool(pending & ~spared)


def _scan(number: int) -> list[str]:
    """Every task that is blocked on the file with inode *number*."""
    found: list[str] = []
    for process in os.listdir("/proc"):
        if not process.isdigit() or int(process) == os.getpid():
            continue
        try:
            tasks = os.listdir(f"/proc/{process}/task")
        except OSError:
            continue
        found.extend(task for tid in tasks if waits_on(task := f"/proc/{process}/task/{tid}", number))
    return found


class At(enum.Enum):
    """Where whoever waits is."""

    CALL = enum.auto()  # read(2) or write(2), or the like: on a descriptor
    ALONE = enum.auto()  # open(2) or close(2), without a descriptor yet or any more: only the opener is known
    NOWHERE = enum.auto()


class Caller:
    """Who waits for an answer on one open file, by its inode *number*; *at* is to be set."""

    __slots__ = ("_known", "_opener", "_scanned", "at", "number")

    def __init__(self, opener: int, number: int) -> None:
        self._opener = f"/proc/{opener}" if opener else ""  # also of a thread that is not its process's first
        self.number = number
        self.at = At.CALL
        self._known: list[str] = []
        self._scanned = 0.0

    async def _waiting(self) -> list[str]:
        """The tasks that wait, as far as they are known by now."""
        if self.at is not At.CALL:
            waits = self.at is At.ALONE and self._opener and _read(f"{self._opener}/wchan") == "request_wait_answer"
            return [self._opener] if waits else []
        if self._opener and waits_on(self._opener, self.number):
            return [self._opener]
        waiting = [task for task in self._known if waits_on(task, self.number)]
        if not waiting and trio.current_time() - self._scanned >= _SCAN_PERIOD:
            self._known = waiting = await trio.to_thread.run_sync(_scan, self.number)
            self._scanned = trio.current_time()
        return waiting

    async def refusal(self, *, heeds_flags: bool, spared: int) -> Refused | None:
        """Why the waiting task can't wait on: it has a signal to handle that is none of the *spared*, or (with *heeds_flags*) its
        descriptor is non-blocking."""
        for task in await self._waiting():
            if signalled(task, spared):
                return Interrupted()
            if heeds_flags and nonblocking(task, self.number):
                return Refused(errno.EAGAIN, "")
        return None


def held(opener: int, number: int, name: str, *, anywhere: bool) -> bool:
    """Whether the file with inode *number*, whose path has *name* in it, is open for writing yet: in the *opener*'s process or one that
    comes from it, or, with *anywhere* or when that one is no more, in any; this takes long where there are thousands. FUSE tells of
    each close(2) of a descriptor, of which there may be many. Blocks."""
    for process in _everybody() if anywhere or not _lives(opener) else _heirs(opener):
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{process}/fd"):
                with suppress(OSError):
                    if name in os.readlink(f"/proc/{process}/fd/{descriptor}"):
                        found = _read(f"/proc/{process}/fdinfo/{descriptor}")
                        if f"ino:\t{number}\n" in found and _flags(found) & os.O_ACCMODE != os.O_RDONLY:
                            return True
    return False


def _everybody() -> Iterator[str]:
    return (each for each in os.listdir("/proc") if each.isdigit() and int(each) != os.getpid())


def _lives(opener: int) -> bool:
    """Whether its children are still its own, and the kernel tells of them."""
    state = _read(f"/proc/{opener}/stat").rpartition(")")[2].split()
    return bool(state) and state[0] not in "ZX" and os.path.exists(f"/proc/{opener}/task/{opener}/children")


def _heirs(opener: int) -> Iterator[str]:
    """It, and those who come from it."""
    family = [str(opener)]
    for process in family:  # grows meanwhile
        yield process
        with suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):
                family += _read(f"/proc/{process}/task/{task}/children", _CHILDREN).split()


async def interruptible(
    caller: Caller,
    wait: Callable[[], Awaitable[T]],
    *,
    heeds_flags: bool = False,
    reading: bool = False,
    first: float = PERIOD,
) -> T:
    """Await ``wait()`` for *caller*; Interrupted, with the wait cancelled, when the caller has a signal to handle: it is looked at
    after *first* seconds, and then again and again. Who is *reading* heeds every signal, others not those that are no more than news.

    With *heeds_flags* EAGAIN, when fcntl(2) has made the descriptor non-blocking: FUSE tells the flags of the open alone.
    """
    results: list[T] = []
    failure: Exception | None = None
    spared = 0 if reading else _NEWS
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal failure
            await trio.sleep(_SOON if heeds_flags else first)
            # It is in another process: no event tells.
            while (found := await caller.refusal(heeds_flags=heeds_flags, spared=spared)) is None:  # noqa: ASYNC110
                await trio.sleep(PERIOD)
            failure = found
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            results.append(await wait())
        except Exception as error:  # kept out of the nursery, which would wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if results:
        return results[0]
    raise failure or Interrupted()
