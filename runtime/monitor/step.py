"""What the steps between fork and exec share."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import NamedTuple, Protocol

from pydock.runtime.monitor.launch import Launch


class Ready(NamedTuple):
    """What was made ahead of a launch that is ``usual``."""

    namespaces: tuple[str, ...] = ()
    inside: int = -1  # descriptor of the mount namespace among them, which holds the usual mounts in a small tmpfs
    root: int = -1  # of that tmpfs's root
    outside: int = -1  # of the machine's own
    sys: bool = False  # whether /sys is among the mounts: it belongs to a network namespace

    @property
    def fds(self) -> list[int]:
        """What must stay open."""
        return [fd for fd in (self.inside, self.root, self.outside) if fd >= 0]


NOTHING_READY = Ready()


class Context:
    """The state of one set-up, in the child, from fork to exec."""

    __slots__ = ("dev", "fds", "gid", "groups", "home", "launch", "proc", "root", "run", "sock", "stdio", "uid", "warn")

    def __init__(self, launch: Launch, fds: list[int], run: str, warn: Callable[[str], None]) -> None:
        self.launch = launch
        self.fds = fds
        self.run = run
        self.warn = warn  # tells pydockd something that is no reason to fail
        self.root = -1  # O_PATH descriptor of the container's root, once that is the root
        self.proc = -1  # of its procfs, however it can be reached by path
        self.dev = -1  # of its tmpfs with the device nodes
        self.stdio = [-1, -1, -1]
        self.sock: socket.socket | None = None  # to pydockd, where the launch came from
        self.uid = 0
        self.gid = 0
        self.groups: tuple[int, ...] = ()
        self.home = "/"

    def open_root(self) -> None:
        """Takes what is the root now as the container's."""
        self.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Step(Protocol):
    """One thing to do. ``execute`` raises OSError (or ValueError) if it can't be done."""

    def describe(self) -> str:
        """What it does, in a line, as it stands in the words of a failure."""

    def execute(self, context: Context) -> None:
        """Does it."""
