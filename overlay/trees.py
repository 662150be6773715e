"""Removal of directory trees of any depth, for the store and for the confined unpacker.

``shutil.rmtree`` recurses once a level and fails on the thousands of levels that a hostile archive can make, and paths
that deep are longer than PATH_MAX. Only the standard library is imported, as little of it as will do.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import threading
import time
from pathlib import Path

_PATIENCE = 10.0  # seconds


def remove_tree(path: str | bytes | Path, *, aside: str | bytes | Path) -> None:
    """Remove whatever is at *path*; nothing there is fine. Symlinks are removed, never followed.

    Directories found inside are first renamed into *aside* (a directory on the same file system in which names
    beginning with ``.removed-`` are this function's), so that no path ever gets deeper than that. The names are the thread's own:
    many may work in the same directory. A process that was killed a moment ago may still write: what it adds is removed as well.
    """
    aside_bytes, deadline = os.fsencode(aside), time.monotonic() + _PATIENCE
    numbers = itertools.count()
    pending = [os.fsencode(path)]
    while pending:
        directory = pending.pop()
        try:
            if not stat.S_ISDIR(os.lstat(directory).st_mode):
                os.unlink(directory)
                continue
        except FileNotFoundError:
            continue
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                while True:
                    name = os.path.join(aside_bytes, b".removed-%d-%d" % (threading.get_native_id(), next(numbers)))
                    if not os.path.lexists(name):
                        break
                os.rename(entry.path, name)
                pending.append(name)
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise
            pending.append(directory)
