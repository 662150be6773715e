"""A mount that goes from a container which runs, with all that is mounted in it, and comes back when the whole can't be done.

It is known by its id, as the container's own processes may rename what is above its place: where it is now is read from
mountinfo (proc(5)), the place's parent is opened through no symlink, and what is found there must be that mount. It goes as by
umount(8): EBUSY while somebody uses it or a mount below it that the container keeps. What is mounted below it goes as well.

Of a mount that is ``shared`` the machine has peers (mount_namespaces(7), "Shared subtrees"): what is unmounted in it is unmounted in
those too, where it may be in use, and nobody has asked for that. So what has others mounted in it is made private before. Where the
removal is refused it becomes a peer again, by a clone of it that was made before and has stayed one.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from pydock.runtime import syscalls
from pydock.runtime.monitor.inside import attach, clone

_PLAIN = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_SET_GROUP = syscalls.MOVE_MOUNT_SET_GROUP | syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH


class MountId(NamedTuple):
    """*number* as in mountinfo, which may be used again; *unique* never is, 0 where the kernel has none (before Linux 6.8)."""

    number: int
    unique: int = 0


class Line(NamedTuple):
    """A line of mountinfo."""

    number: int
    parent: int
    place: bytes
    shared: bool  # has peers, or may get some
    slave: bool


class Place(NamedTuple):
    """Where a mount was; *spare* is a clone of it. Not held open: that would keep the mount above busy."""

    mount: int
    spare: int
    path: bytes


def mountinfo(proc: int) -> list[Line]:
    """The mounts of this process's namespace; *proc* is the machine's /proc."""
    fd = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(fd, "rb") as file:
        return [parse_line(line) for line in file]


def parse_line(line: bytes) -> Line:
    """Fields 1, 2, 5 and the optional ones from 7 on; space, tab, newline and backslash are octal in a path."""
    fields = line.split(b" ")
    place = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
    tags = {field.partition(b":")[0] for field in fields[6 : fields.index(b"-", 6)]}
    return Line(int(fields[0]), int(fields[1]), place, b"shared" in tags, b"master" in tags)


def below(lines: Iterable[Line], number: int) -> list[Line]:
    """The mount *number* and all that is mounted in it, each after what is in it."""
    children: dict[int, list[Line]] = {}
    for line in lines:
        children.setdefault(line.parent, []).append(line)
    found = [line for line in lines if line.number == number]
    for line in found:  # grows meanwhile
        found += children.get(line.number, [])
    return found[::-1]


class Removal:
    """That of *mount* from the namespace which this process has entered, where *root* is /; *proc* is the machine's /proc."""

    def __init__(self, root: int, proc: int, mount: MountId) -> None:
        self._root = root
        self._proc = proc
        self._mount = mount
        self._gone: list[Place] = []
        self._peers: dict[int, int] = {}  # clones that are still what the mounts of these numbers were to others

    def perform(self, keep: Iterable[int], *, lazily: bool) -> None:
        """Takes it away; nothing to do when it is gone already. OSError in the midst of it: then ``undo`` is due.

        *keep* are the numbers of mounts that nothing may be taken away from beneath; *lazily* what goes may be in use.
        """
        tree = below(mountinfo(self._proc), self._mount.number)
        kept = next((line for line in tree if line.number in keep), None)
        if kept is not None:
            raise OSError(errno.EBUSY, f"{os.fsdecode(kept.place)} is mounted in it")
        above = {line.parent for line in tree}
        if any(line.shared and line.number in above for line in tree):
            self._part(tree)
        for line in tree:
            self._unmount(line, syscalls.UMOUNT_NOFOLLOW | (syscalls.MNT_DETACH if lazily else 0))

    def undo(self) -> dict[int, int]:
        """Puts back what was taken away: the new numbers of these mounts by the old ones.

        What is put back into a mount is so before that is shared again: the machine has it all along.
        """
        spares: dict[int, int] = {}
        for place in reversed(self._gone):
            target = syscalls.openat2(self._root, place.path, os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
            attach(place.spare, target)
            os.close(target)
            spares[place.mount] = place.spare
        places = {line.number: line for line in mountinfo(self._proc)} if self._peers else {}
        for number, peer in self._peers.items():
            # Before Linux 5.15 there is no such call (EINVAL): there a volume whose removal was refused goes on without its peers,
            # and what is mounted in it from then on is seen on this side alone, until the next start.
            line = places.get(number)
            target = spares.get(number, -1)
            if target < 0 and line is not None:
                target = self._find(line, self._root, line.place)
            with suppress(OSError):
                syscalls.move_mount(peer, "", target, "", _SET_GROUP)
        return {number: syscalls.mount_id(spare) for number, spare in spares.items()}

    def _part(self, tree: list[Line]) -> None:
        """Makes *tree* private, the slaves as well, as that is done to all of it at once.

        A mount that another covers can't be opened, but is part of it. It gets no peers again, of little use to what nobody sees.
        """
        for line in tree:
            if line.shared or line.slave:
                found = self._find(line, self._root, line.place)
                if found >= 0:
                    self._peers[line.number] = clone(found)
                    os.close(found)
        top = self._open(tree[-1], self._root, tree[-1].place)
        flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
        syscalls.mount_setattr(top, "", flags, propagation=syscalls.MS_PRIVATE)
        os.close(top)

    def _unmount(self, line: Line, flags: int) -> None:
        parent, _, name = line.place.rpartition(b"/")
        directory = syscalls.openat2(self._root, parent or b"/", os.O_PATH | os.O_DIRECTORY, resolve=_PLAIN)
        os.fchdir(directory)
        try:
            found = self._open(line, directory, name)
            spare = clone(found)
            os.close(found)
            syscalls.umount2(os.fsdecode(name), flags)
        except OSError as error:
            raise OSError(error.errno, error.strerror, os.fsdecode(line.place)) from None
        finally:
            os.fchdir(self._root)
            os.close(directory)
        self._gone.append(Place(line.number, spare, line.place))

    def _open(self, line: Line, directory: int, name: bytes) -> int:
        found = self._find(line, directory, name)
        if found < 0:
            raise OSError(errno.EBUSY, "something else is mounted over it")
        return found

    def _find(self, line: Line, directory: int, name: bytes) -> int:
        """An O_PATH descriptor of *name* in *directory*, if it is the mount of *line*; else -1."""
        try:
            found = syscalls.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, resolve=_PLAIN)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        same = syscalls.mount_id(found) == line.number
        if same and line.number == self._mount.number and self._mount.unique:
            same = syscalls.mount_id(found, unique=True) == self._mount.unique
        if not same:
            os.close(found)
        return found if same else -1
