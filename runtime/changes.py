"""What a container has changed of its image: its writable layer, an overlay's upper directory, against the layers below.

Of each entry there: a character device 0:0 (a whiteout) is a deletion, what the image has too is a change, all else is new. Of a
directory with the xattr ``trusted.overlay.opaque`` nothing below is seen: what of the image is not in it has been deleted.
Directories are never redirected and data never left behind, as unions are mounted with ``redirect_dir=nofollow`` and
``metacopy=off`` (:mod:`pydock.overlay.mount`). See Documentation/filesystems/overlayfs.rst.

The container may change all of it meanwhile, and its names are its own: directories are opened below the upper one's
descriptor, through no symlink, and a name is printed so that it stays on its line.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final, Literal

from pydock.runtime import syscalls, systemd
from pydock.runtime.record import Record
from pydock.runtime.spec import Spec
from pydock.runtime.volumes import Tmpfs, Volume

Kind = Literal["A", "C", "D"]
#: Directories and files that are mounted on in every container.
DIRECTORIES: Final = ("/proc", "/sys", "/dev")
FILES: Final = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")
#: Where pydock itself makes an empty file or directory, to mount on it.
MOUNTED: Final = (*DIRECTORIES, *FILES, "/run/secrets", "/sbin/docker-init")
_BELOW: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_OPAQUE: Final = "trusted.overlay.opaque"
_CHUNK: Final = 2048  # bytes of a path that are resolved at once: all of it may be longer than PATH_MAX


@dataclass(frozen=True, slots=True)
class Change:
    """*path* begins with a slash. *plain* is a directory that differs in nothing itself, or an empty file or directory that is new."""

    path: bytes
    kind: Kind
    directory: bool
    plain: bool

    def __str__(self) -> str:
        return f"{self.kind} {printed(self.path)}"


def printed(path: bytes) -> str:
    """*path* on one line: backslashes, what is not UTF-8 and what is not printable as in mountinfo, ``\\012`` for a newline."""
    letters = []
    for letter in path.decode(errors="surrogateescape"):
        if letter.isprintable() and letter != "\\":
            letters.append(letter)
        else:
            letters += [f"\\{byte:03o}" for byte in letter.encode(errors="surrogateescape")]
    return "".join(letters)


def report(changes: Iterable[Change]) -> str:
    """A line each."""
    return "".join(f"{change}\n" for change in changes)


def mounted_on(spec: Spec, record: Record) -> tuple[str, ...]:
    """Where something is mounted in a container with these settings, or was on its writable layer."""
    targets = [Volume.parse(item).target for item in spec.volumes or ()]
    targets += [Tmpfs.parse(item).target for item in spec.tmpfs or ()]
    return (
        *MOUNTED,
        *record.places,
        *targets,
        *(item.target for item in (systemd.tmpfs(targets) if spec.systemd else ())),
    )


def changes(upper: int, lower: int, targets: Iterable[str]) -> list[Change]:
    """What the directory *upper* changes of the union *lower*, sorted; *targets* are mounted on. Blocks."""
    found = sorted(_walk(upper, lower), key=lambda change: change.path)
    ours = {target.encode(errors="surrogateescape") for target in (*MOUNTED, *targets)}
    above = {target[:end] for target in ours for end in range(1, len(target)) if target[end : end + 1] == b"/"}
    kept: list[Change] = []
    parents: set[bytes] = set()  # of those that are kept
    for change in reversed(found):  # what is in a directory comes before the directory
        if change.plain and change.path not in parents:
            made = change.path in ours or (change.directory and change.path in above)
            if change.kind == "C" or made:
                continue
        kept.append(change)
        parents.add(change.path.rpartition(b"/")[0])
    return kept[::-1]


def _walk(upper: int, lower: int) -> Iterator[Change]:
    pending: list[tuple[bytes, bool, bool]] = [(b"", True, False)]
    while pending:
        path, visible, opaque = pending.pop()
        with ExitStack() as stack:
            try:
                above = _open(upper, path, stack)
            except FileNotFoundError:
                continue  # removed meanwhile
            below = _open_lower(lower, path, stack) if visible else -1
            opaque = opaque or _is_opaque(above)
            names = [os.fsencode(name) for name in os.listdir(above)]
            for name in names:
                try:
                    status = os.stat(name, dir_fd=above, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                before = _status(below, name)
                change = _change(path + b"/" + name, status, before)
                if change is not None:
                    yield change
                if stat.S_ISDIR(status.st_mode):
                    inside = before is not None and stat.S_ISDIR(before.st_mode)
                    pending.append((path + b"/" + name, inside, opaque and inside))
            if opaque and below >= 0:
                for name in {os.fsencode(name) for name in os.listdir(below)} - set(names):
                    before = _status(below, name)
                    yield Change(path + b"/" + name, "D", before is not None and stat.S_ISDIR(before.st_mode), False)


def _change(path: bytes, status: os.stat_result, before: os.stat_result | None) -> Change | None:
    directory = stat.S_ISDIR(status.st_mode)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return None if before is None else Change(path, "D", stat.S_ISDIR(before.st_mode), False)
    if before is None:
        return Change(path, "A", directory, directory or (stat.S_ISREG(status.st_mode) and status.st_size == 0))
    same = (status.st_mode, status.st_uid, status.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    return Change(path, "C", directory, directory and same)


def _open(root: int, path: bytes, stack: ExitStack) -> int:
    """The directory *path* below *root*, to be listed, however deep it is."""
    here = root
    parts = path.strip(b"/").split(b"/") if path else []
    while True:
        piece = [b"."]
        while parts and sum(map(len, piece)) < _CHUNK:
            piece.append(parts.pop(0))
        following = syscalls.openat2(
            here, b"/".join(piece), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, resolve=_BELOW
        )
        if here != root:
            os.close(here)
        here = following
        if not parts:
            stack.callback(os.close, here)
            return here


def _open_lower(lower: int, path: bytes, stack: ExitStack) -> int:
    try:
        return _open(lower, path, stack)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise


def _is_opaque(directory: int) -> bool:
    with suppress(OSError):
        return os.getxattr(directory, _OPAQUE) == b"y"
    return False


def _status(directory: int, name: bytes) -> os.stat_result | None:
    if directory < 0:
        return None
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
