"""A visit to the mount namespace of a running container: mounts go, mounts come, all of them or none.

Entering a mount namespace needs a process with a single thread, so the monitor forks a child for each visit; with it dies
whatever it had not done yet. The mounts to be added are made outside (open_tree(2), mount_setattr(2)) and come as
descriptors. A target is resolved by the kernel below the container's root, and the mount put onto that descriptor.

A mount to be removed is known by its id, as the container's own processes may rename what is above its place: where it is
now is read from mountinfo (proc(5)), the place's parent is opened through no symlink, and what is found there must be that
mount. It goes as by umount(8): EBUSY while somebody uses it or a mount below it that the container keeps. What is mounted
below it goes as well.

The answer is an object: ``moved`` maps ids of mounts that were taken away and had to be put back to their new ids, and a visit that
failed has ``refused``, an errno, and ``words``.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from pydock.runtime import syscalls, wire
from pydock.runtime.monitor.child import begin
from pydock.runtime.monitor.inside import attach, clone, make_inside
from pydock.runtime.monitor.userspace import become_root
from pydock.runtime.wire import Message

_PLAIN = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_ESCAPE = re.compile(rb"\\([0-7]{3})")


class MountId(NamedTuple):
    """*number* as in mountinfo, which may be used again; *unique* never is, 0 where the kernel has none (before Linux 6.8)."""

    number: int
    unique: int = 0


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


class Place(NamedTuple):
    """Where a mount was; *spare* is a clone of it. Not held open: that would keep the mount above busy."""

    mount: int
    spare: int
    path: bytes


class Line(NamedTuple):
    """A line of mountinfo."""

    number: int
    parent: int
    place: bytes


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
    gone: list[Place] = []
    added: list[Addition] = []
    try:
        for mount in task.remove:
            lines = mountinfo(host)
            if any(line.number == mount.number for line in lines):
                _take_away(root, lines, mount, task.keep, gone, lazily=task.lazily)
        for item in task.add:
            _put(root, fds[item.source], item)
            added.append(item)
    except BaseException:
        for item in reversed(added):  # lazily: whoever sent it has its descriptor yet
            number = MountId(syscalls.mount_id(fds[item.source]))
            with suppress(OSError):
                _take_away(root, mountinfo(host), number, (), [], lazily=True)
        for place in reversed(gone):
            back = syscalls.openat2(root, place.path, os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
            attach(place.spare, back)
            moved[str(place.mount)] = syscalls.mount_id(place.spare)
            os.close(back)
            os.close(place.spare)
        raise


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


def mountinfo(proc: int) -> list[Line]:
    """The mounts of this process's namespace; *proc* is the machine's /proc."""
    fd = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(fd, "rb") as file:
        return [parse_line(line) for line in file]


def parse_line(line: bytes) -> Line:
    """Fields 1, 2 and 5 of a line; space, tab, newline and backslash are octal there."""
    fields = line.split(b" ", 5)
    place = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
    return Line(int(fields[0]), int(fields[1]), place)


def below(lines: Iterable[Line], number: int) -> list[Line]:
    """The mount *number* and all that is mounted in it, each after what is in it."""
    children: dict[int, list[Line]] = {}
    for line in lines:
        children.setdefault(line.parent, []).append(line)
    found = [line for line in lines if line.number == number]
    for line in found:  # grows meanwhile
        found += children.get(line.number, [])
    return found[::-1]


def _take_away(
    root: int, lines: list[Line], mount: MountId, keep: Iterable[int], gone: list[Place], *, lazily: bool = False
) -> None:
    flags = syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazily else 0)
    tree = below(lines, mount.number)
    kept = next((line for line in tree if line.number in keep), None)
    if kept is not None:
        raise _busy(f"{os.fsdecode(kept.place)} is mounted in it")
    for line in tree:
        parent, _, name = line.place.rpartition(b"/")
        directory = syscalls.openat2(root, parent or b"/", os.O_PATH | os.O_DIRECTORY, resolve=_PLAIN)
        found = syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN & ~syscalls.RESOLVE_IN_ROOT)
        try:
            same = syscalls.mount_id(found) == line.number
            if same and line.number == mount.number and mount.unique:
                same = syscalls.mount_id(found, unique=True) == mount.unique
            if not same:
                raise _busy(f"something else is mounted over {os.fsdecode(line.place)}")
            spare = clone(found)
        finally:
            os.close(found)
        os.fchdir(directory)
        try:
            syscalls.umount2(os.fsdecode(name), flags)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(line.place)) from None
        finally:
            os.fchdir(root)
            os.close(directory)
        gone.append(Place(line.number, spare, line.place))


def _busy(words: str) -> OSError:
    return OSError(errno.EBUSY, words)


def _put(root: int, mount: int, item: Addition) -> None:
    try:
        place = make_inside(root, item.target, directory=item.is_directory)
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
