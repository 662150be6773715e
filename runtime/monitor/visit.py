"""A visit to the mount namespace of a running container: mounts go, mounts come, all of them or none.

Entering a mount namespace needs a process with a single thread, so the monitor forks a child for each visit; with it dies
whatever it had not done yet. The mounts to be added are made outside (open_tree(2), mount_setattr(2)) and come as
descriptors. A target is resolved by the kernel below the container's root, and the mount put onto that descriptor.

How one is taken away, and put back, is told in ``pydock.runtime.monitor.removal``.

The answer is an object: ``moved`` maps ids of mounts that were taken away and had to be put back to their new ids, and a visit that
failed has ``refused``, an errno, and ``words``.
"""

from __future__ import annotations

import errno
import gc
import json
import os
from contextlib import suppress
from typing import NamedTuple, NoReturn

from pydock.runtime import syscalls, wire
from pydock.runtime.monitor.child import begin
from pydock.runtime.monitor.inside import attach, make_inside, refuse_proc
from pydock.runtime.monitor.removal import MountId, Removal, below, mountinfo
from pydock.runtime.monitor.userspace import become_root
from pydock.runtime.wire import Message


class Addition(NamedTuple):
    """*source* is the index of a detached mount, *target* an absolute path inside."""

    source: int
    target: str
    is_directory: bool


class Task(NamedTuple):
    """What is to be done. Descriptor 0 of the message is a pidfd of the container's first process."""

    remove: tuple[MountId, ...]
    keep: tuple[int, ...]  # numbers of mounts that nothing may be taken away from beneath
    add: tuple[Addition, ...]
    lazily: bool = False  # what goes may be in use


def to_message(task: Task) -> Message:
    """The request."""
    return {"do": "visit", "remove": task.remove, "keep": task.keep, "add": task.add, "lazily": task.lazily}


def from_message(message: Message) -> Task:
    """The task of a request. ValueError or TypeError if it has none."""
    remove, keep, add = message.get("remove"), message.get("keep"), message.get("add")
    if not isinstance(remove, list) or not isinstance(keep, list) or not isinstance(add, list):
        raise ValueError("remove, keep, add: lists are needed")
    removals, additions = (MountId(*item) for item in remove), (Addition(*item) for item in add)
    return Task(tuple(removals), tuple(keep), tuple(additions), bool(message.get("lazily")))


def run(task: Task, fds: list[int], pipe: int) -> NoReturn:
    """The whole life of the child."""
    gc.disable()
    moved: dict[str, int] = {}
    answer: dict[str, object] = {"moved": moved}
    try:
        begin(fds, pipe)
        _perform(task, fds, moved)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or b"")
        words = error.strerror or os.strerror(error.errno or errno.EIO)
        answer |= {"refused": error.errno or errno.EIO, "words": f"{name}: {words}" if name else words}
    except (
        BaseException
    ) as error:  # a fault of ours; a traceback would look for sources, and those are the container's here
        answer |= {"refused": errno.EIO, "words": f"{type(error).__name__}: {error}"}
    finally:
        with suppress(OSError):
            os.write(pipe, json.dumps(answer).encode())
        os._exit(0)


def _perform(task: Task, fds: list[int], moved: dict[str, int]) -> None:
    host = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _enter(fds[0])
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    removals: list[Removal] = []
    added: list[Addition] = []
    try:
        for mount in _inner_first(task.remove, host):
            removals.append(Removal(root, host, mount))
            removals[-1].perform(task.keep, lazily=task.lazily)
        for item in task.add:
            _put(root, fds[item.source], item)
            added.append(item)
    except BaseException:
        for item in reversed(added):  # lazily: whoever sent it has its descriptor yet
            with suppress(OSError):
                Removal(root, host, MountId(syscalls.mount_id(fds[item.source]))).perform((), lazily=True)
        for removal in reversed(removals):
            moved |= {str(old): new for old, new in removal.undo().items()}
        raise


def _inner_first(mounts: tuple[MountId, ...], proc: int) -> list[MountId]:
    """What was put into one that is shared with the machine is there as well, and goes from there only with what it was put into."""
    lines = mountinfo(proc)
    return sorted(mounts, key=lambda mount: len(below(lines, mount.number)))


def pid_of(pidfd: int) -> str:
    """Its process's number: -1 when that has been reaped."""
    with open(f"/proc/self/fdinfo/{pidfd}") as file:
        return next(line.split()[1] for line in file if line.startswith("Pid:"))


def _enter(pidfd: int) -> None:
    """Into the mount namespace of that process, and into its user namespace if that is another: what is made there as a place to mount
    on then belongs to the container's root, and where the container's ids are shown others can make nothing (EOVERFLOW)."""
    pid = pid_of(pidfd)
    try:
        own = os.stat(f"/proc/{pid}/ns/user").st_ino == os.stat("/proc/self/ns/user").st_ino
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    if own:
        syscalls.setns(pidfd, syscalls.CLONE_NEWNS)
        return
    syscalls.setns(pidfd, syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUSER)
    become_root()


def _put(root: int, mount: int, item: Addition) -> None:
    try:
        place = make_inside(root, item.target, directory=item.is_directory)
        refuse_proc(root, place)
    except OSError as error:
        raise OSError(error.errno, error.strerror, item.target) from None
    attach(mount, place)
    os.close(place)


def answered(answer: Message) -> tuple[dict[int, int], tuple[int, str] | None]:
    """What an answer says: ids that changed, and the errno and words of a visit that failed."""
    moved = answer.get("moved")
    if not isinstance(moved, dict):
        raise ValueError("moved: an object is needed")
    failure = (wire.number(answer, "refused"), wire.text(answer, "words")) if "refused" in answer else None
    return {int(old): int(new) for old, new in moved.items()}, failure
