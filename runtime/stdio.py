"""The named pipes that are a container's stdin, stdout and stderr: ``RUN/io/ID/{stdin,stdout,stderr}``.

See fifo(7). Each end that must not vanish is opened once by ``open_ends`` and given to the keeper: the write end of
stdin, without which the container would read the end of file, and stdout and stderr for reading and writing, so that
what a container wrote last is still there after it has gone, until the logger has taken it. Dropping the kept stdin is
the end of file.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import NamedTuple

STREAMS = ("stdin", "stdout", "stderr")


class Pipes(NamedTuple):
    """The paths of one process's pipes."""

    stdin: str
    stdout: str
    stderr: str


def paths(run: str, id: str) -> Pipes:
    """Where the pipes of *id* are."""
    return Pipes(*(f"{run}/io/{id}/{name}" for name in STREAMS))


def make(run: str, id: str) -> Pipes:
    """Makes the pipes of *id*, in the place of any that are left from before."""
    directory = f"{run}/io/{id}"
    remove(run, id)
    os.makedirs(directory, mode=0o700)
    pipes = paths(run, id)
    for path in pipes:
        os.mkfifo(path, 0o600)
    return pipes


def open_ends(pipes: Pipes) -> dict[str, int]:
    """The ends to be kept, by name; the caller closes them when the keeper has got them.

    Linux lets a FIFO be opened for reading and writing without anybody on the other side. stdin's write end is opened
    with a reader at hand for a moment, as opening for writing alone waits for one (or is ENXIO).
    """
    fds: dict[str, int] = {}
    try:
        reader = os.open(pipes.stdin, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fds["stdin"] = os.open(pipes.stdin, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(reader)
        for name, path in (("stdout", pipes.stdout), ("stderr", pipes.stderr)):
            fds[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except BaseException:
        for fd in fds.values():
            os.close(fd)
        raise
    return fds


def remove(run: str, id: str) -> None:
    """Removes the pipes of *id* from the file system; whoever has them open keeps them."""
    with suppress(FileNotFoundError):
        shutil.rmtree(f"{run}/io/{id}")
