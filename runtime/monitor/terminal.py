"""The steps that give a process a terminal: a pseudo terminal (pty(7)) of the container's own devpts.

The master goes to pydockd, which has it held before the program may run: a terminal hangs up when its last master closes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from typing import NamedTuple

from pydock.runtime import syscalls, wire
from pydock.runtime.monitor.inside import attach, open_beneath, open_inside
from pydock.runtime.monitor.step import Context

SIZE = (24, 80)  # rows and columns, until somebody says otherwise
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_PTMX = os.makedev(5, 2)


class OpenTerminal(NamedTuple):
    """Opens a new terminal inside and hands its master over. In a new container it is /dev/console, too."""

    def describe(self) -> str:
        return "open a terminal"

    def execute(self, context: Context) -> None:
        flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
        fresh = context.dev >= 0
        master = (
            open_beneath(context.dev, "pts/ptmx", flags) if fresh else open_inside(context.root, "/dev/pts/ptmx", flags)
        )
        status = os.fstat(master)
        if not stat.S_ISCHR(status.st_mode) or status.st_rdev != _PTMX:
            raise ValueError("/dev/pts/ptmx of the container is not the multiplexer of terminals")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        if fresh:
            _make_console(context.dev, slave)
        if context.sock is None:
            raise ValueError("nobody is there to take the terminal")
        wire.send(context.sock, {"terminal": True}, [master])
        try:
            wire.receive(context.sock)
        except wire.Closed:
            raise OSError(errno.ECANCELED, "nobody holds the terminal") from None
        os.close(master)
        context.stdio = [slave, slave, slave]


def _make_console(dev: int, slave: int) -> None:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
    tree = syscalls.open_tree(slave, "", flags)
    os.close(os.open("console", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=dev))
    place = open_beneath(dev, "console", os.O_PATH)
    attach(tree, place)
    os.close(place)
    os.close(tree)


class TakeTerminal(NamedTuple):
    """Makes it the controlling terminal of the session, and descriptors 0, 1 and 2."""

    def describe(self) -> str:
        return "take the terminal"

    def execute(self, context: Context) -> None:
        slave = context.stdio[0]
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        for number in range(3):
            os.dup2(slave, number, inheritable=True)
