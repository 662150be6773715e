"""Unions that take more than one call: of several file systems, or with owners shifted for a user namespace.

:func:`compose` has a child put the mounts together in a mount namespace of its own, and gets the whole as one detached tree.

*Parts* are directories that a layer can't hold, as overlayfs does not look beyond the file system that a layer is on: each is a
union of its own, mounted at its place in the first. What is written to it goes to the same place in the same upper
directory, so that this has all changes; the first union's own view of that place is never seen.

A *shift* shows what belongs to 0 on disk as owned by another number, and the numbers after it likewise, by idmapped mounts of
all layers and of the upper directory (mount_setattr(2), MOUNT_ATTR_IDMAP): what is on disk has plain numbers. Overlayfs makes files
in the work directory as whoever mounted it, so that is a process whose file system ids are within the shift (setfsuid(2)).
Idmapped layers take Linux 5.19.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.overlay.mount import OPTIONS, in_a_child, serve
from pydock.runtime import syscalls

#: Where the child puts things: a directory that every machine has, covered in the child's own namespace.
_STAGE: Final = "/dev"
_CLONE: Final = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC


@dataclass(frozen=True, slots=True)
class Shift:
    """*userns* is a descriptor of a user namespace with the mapping; *uid* and *gid* are what its 0 is outside."""

    userns: int
    uid: int
    gid: int


def compose(
    lower: Sequence[Path],
    upper: Path | None,
    work: Path | None,
    *,
    parts: Mapping[str, Path] | None = None,
    shift: Shift | None = None,
) -> int:
    """A detached tree, as :func:`pydock.overlay.mount.union`; *upper* and *work* are in one directory. OSError, EOPNOTSUPP for what
    the kernel or a file system can't."""
    if not lower:
        raise OSError(errno.EINVAL, "a union needs a layer")
    plan = {
        "lower": [str(path) for path in lower],
        "upper": None if upper is None else str(upper),
        "work": None if work is None else str(work),
        "parts": {place: str(path) for place, path in (parts or {}).items()},
        "owner": None if shift is None else [shift.uid, shift.gid],
    }
    descriptors = [] if shift is None else [shift.userns]
    return in_a_child("pydock.overlay.composing", [json.dumps(plan).encode()], *descriptors)[0]


class _Stage:
    """The child's work."""

    def __init__(self, plan: dict[str, object], userns: int | None) -> None:
        self._lower: list[str] = _texts(plan["lower"])
        self._upper, self._work = plan["upper"], plan["work"]
        self._parts: dict[str, str] = plan["parts"]  # type: ignore[assignment]  # as compose wrote it
        self._owner: list[int] | None = plan["owner"]  # type: ignore[assignment]
        self._userns = userns
        self._shown = 0

    def build(self) -> int:
        """The whole."""
        writable = self._writable()
        layers = [self._open(path) for path in self._lower]
        parts = {place: self._open(path) for place, path in self._parts.items()}
        above = None if writable is None else self._open(os.path.dirname(str(self._upper)))
        syscalls.mount("tmpfs", _STAGE, "tmpfs", 0, "mode=700")
        shown = [self._show(fd) for fd in layers]
        shown_parts = {place: self._show(fd) for place, fd in parts.items()}
        names = None
        if above is not None and writable is not None:
            place = self._show(above)
            names = {key: (f"{place}/{up}", f"{place}/{work}") for key, (up, work) in writable.items()}
        self._become_owner()
        root = f"{_STAGE}/root"
        os.mkdir(root)
        self._mount(shown, None if names is None else names[""], root)
        for place, name in shown_parts.items():
            self._mount([name], None if names is None else names[place], f"{root}/{place}")
        return syscalls.open_tree(syscalls.AT_FDCWD, root, _CLONE | syscalls.AT_RECURSIVE)

    def _writable(self) -> dict[str, tuple[str, str]] | None:
        """Upper and work directory of the first union and of each part, below the directory that holds them; made if need be."""
        if self._upper is None:
            return None
        above = os.path.dirname(str(self._upper))
        upper, work = os.path.basename(str(self._upper)), os.path.basename(str(self._work))
        names = {"": (upper, work)}
        for place in self._parts:
            names[place] = (f"{upper}/{place}", f"{work}.{place}")
        for pair in names.values():
            for name in pair:
                os.makedirs(f"{above}/{name}", mode=0o755, exist_ok=True)
        return names

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _show(self, directory: int) -> str:
        """Mounts it, shifted, at a place of its own on the stage: that place."""
        place = f"{_STAGE}/{self._shown}"
        self._shown += 1
        tree = syscalls.open_tree(directory, "", _CLONE | syscalls.AT_EMPTY_PATH)
        if self._userns is not None:
            try:
                attribute = syscalls.MOUNT_ATTR_IDMAP
                syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=attribute, userns_fd=self._userns)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                path = os.readlink(f"/proc/self/fd/{directory}")
                raise OSError(
                    errno.EOPNOTSUPP, f"the file system of {path} can't show its files to a user namespace"
                ) from None
        os.mkdir(place)
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, place, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
        os.close(tree)
        return place

    def _become_owner(self) -> None:
        """All later files are made as the shift's 0, with every capability: setfsuid(2) has taken those about files."""
        if self._owner is not None:
            uid, gid = self._owner
            _, permitted, _ = syscalls.capget()
            syscalls.setfsgid(gid)
            syscalls.setfsuid(uid)
            syscalls.capset(permitted, permitted, 0)

    def _mount(self, layers: list[str], writable: tuple[str, str] | None, place: str) -> None:
        if writable is None and len(layers) == 1:  # overlayfs wants two at least
            syscalls.mount(layers[0], place, None, syscalls.MS_BIND)
            syscalls.mount_setattr(syscalls.AT_FDCWD, place, 0, attr_set=syscalls.MOUNT_ATTR_RDONLY)
            return
        options = [f"lowerdir={':'.join(reversed(layers))}", *(f"{key}={value}" for key, value in OPTIONS)]
        if writable is not None:
            options += [f"upperdir={writable[0]}", f"workdir={writable[1]}"]
        text = ",".join(options)
        if len(text) >= os.sysconf("SC_PAGE_SIZE"):
            raise OSError(errno.EINVAL, f"{len(layers)} layers are too many for mount(2)")
        try:
            syscalls.mount("pydock", place, "overlay", 0, text)
        except OSError as error:
            if error.errno == errno.EINVAL and self._userns is not None:
                words = "this kernel's overlayfs takes no idmapped layers: userns needs Linux 5.19"
                raise OSError(errno.EOPNOTSUPP, words) from None
            raise


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(item) for item in value]


def main() -> int:
    """The child: ``python -m pydock.overlay.composing SOCKET PLAN``."""
    return serve(lambda arguments, fds: [_Stage(json.loads(arguments[0]), fds[0] if fds else None).build()])


if __name__ == "__main__":
    sys.exit(main())
