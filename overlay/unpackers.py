"""The process that starts confined unpackers (:mod:`pydock.overlay.unpack`): there for as long as somebody has layers to unpack."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import threading
from types import TracebackType
from typing import Final, Self

PIPE_SIZE: Final = 1 << 20  # bytes, the most an unprivileged process may have (fs.pipe-max-size)


class Unpackers:
    """A context manager, for any number of threads: the process starts with the first that enters and ends with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(self, directory: int) -> tuple[int, int]:
        """Have a tar unpacked into *directory* (a descriptor): where to write it, and where to read the report from. OSError."""
        with contextlib.ExitStack() as stack:
            stdin, tar = os.pipe()
            stack.callback(os.close, stdin)
            report, stdout = os.pipe()
            stack.callback(os.close, stdout)
            try:
                with contextlib.suppress(OSError):  # EPERM where the user's share of pipe pages is used up
                    fcntl.fcntl(tar, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
                with self._lock:
                    socket.send_fds(self._running(), [b"."], [directory, stdin, stdout])
            except BaseException:
                os.close(tar)
                os.close(report)
                raise
        return tar, report

    def _running(self) -> socket.socket:
        """The socket of the process, which is started if need be."""
        if self._channel is None or self._process is None or self._process.poll() is not None:
            self._end()
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-m", "pydock.overlay.unpack", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    cwd="/",
                    env={"LC_ALL": "C.UTF-8"},
                )
            self._channel = ours
        return self._channel

    def _end(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        with self._lock:
            self._users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._end()
