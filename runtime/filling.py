"""What an image has at a volume's target becomes the content of the volume, at its first use.

An image may have any symlink there; so the copying is done by a child in a mount namespace
of its own, from a mount in which no symlink is followed (nosymfollow): ``python -m pydock.runtime.filling FD PLACE TARGET DEST``.
*FD* is a detached union of the image's layers, *PLACE* an empty directory. cp(1) keeps owners, modes, times, links and xattrs.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from pydock.runtime import syscalls
from pydock.runtime.errors import Failed
from pydock.runtime.monitor.inside import attach, clone, open_inside
from pydock.runtime.trees import remove_tree

_NOTHING: Final = 9  # exit status: there is no such directory
_SAFE: Final = (
    syscalls.MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
    | syscalls.MOUNT_ATTR_NOSYMFOLLOW
)


def fill(data: Path, union: int, target: str, *, place: Path) -> None:
    """Make the empty directory *data* what *union*, which is used up, has at *target*; nothing when that is no directory.

    Blocks. All or nothing: the copy is made beside it and renamed.
    """
    copy = data.parent / "filling"
    remove_tree(copy)
    copy.mkdir(mode=0o755)
    arguments = [sys.executable, "-I", "-m", "pydock.runtime.filling", str(union), str(place), target, str(copy)]
    done = subprocess.run(
        arguments,
        pass_fds=[union],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    )
    if done.returncode == 0:
        try:
            os.rename(copy, data)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:  # somebody has put something there: that is its content then
                raise
    remove_tree(copy)
    if done.returncode not in (0, _NOTHING):
        number = errno.ENOSPC if os.strerror(errno.ENOSPC) in done.stderr else errno.EIO
        words = done.stderr.strip().splitlines() or ["killed"]
        raise Failed(number, f"the image's {target} can't be copied into the volume: {words[-1]}")


def main(arguments: list[str]) -> int:
    """The child; becomes cp(1)."""
    union, place, target, copy = int(arguments[0]), *arguments[1:]
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    empty = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    attach(union, empty)  # a clone of a part of it can be made, on older kernels, when it is somewhere
    try:
        inside = open_inside(union, target, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return _NOTHING
    tree = clone(inside)
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=_SAFE)
    attach(tree, empty)
    os.chdir(tree)
    os.execvp("cp", ["cp", "-a", "--", ".", copy])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
