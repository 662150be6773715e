"""Trees of files that strangers made: removed and measured, however deep they are."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from pydock.runtime.errors import Failed

_ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}


def remove_tree(path: Path) -> None:
    """Delete what is at *path*, as far as that can be done; nothing there is fine. Blocks.

    ``shutil.rmtree`` is quick and recurses once a level; what is too deep for it is left to rm(1), which does not.
    """
    try:
        shutil.rmtree(path, ignore_errors=True)
    except RecursionError:
        arguments = ["rm", "-rf", "--one-file-system", "--", str(path)]
        subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False, env=_ENVIRONMENT)


def size_of(path: Path) -> int:
    """Bytes on the disk that the files below *path* take, by du(1): which is not led astray by who changes them meanwhile. Blocks."""
    done = subprocess.run(
        ["du", "-sx", "--block-size=1", "--", str(path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=_ENVIRONMENT,
    )
    words = done.stdout.split(maxsplit=1)
    if not words:
        raise Failed(errno.EIO, f"size: {done.stderr.strip() or 'du was killed'}")
    return int(words[0])
