"""The named pipes that are a process's stdin, stdout and stderr: ``RUN/io/ID/{stdin,stdout,stderr}``.

See fifo(7). Each end that must not vanish is opened once (``Stdio.open``) and given to the keeper: the write end of
stdin, without which the container would read the end of file, and stdout and stderr for reading and writing, so that
what a container wrote last is still there after it has gone, until the logger has taken it. Dropping the kept stdin is
the end of file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress


class Stdio:
    """The pipes of the process *id* in the run directory *run*."""

    def __init__(self, run: str | os.PathLike[str], id: str) -> None:
        self.directory = f"{os.fspath(run)}/io/{id}"
        self.key = f"io/{id}"  # what they are kept under
        self.stdin = f"{self.directory}/stdin"
        self.stdout = f"{self.directory}/stdout"
        self.stderr = f"{self.directory}/stderr"

    @property
    def paths(self) -> tuple[str, str, str]:
        """All three, in the order of their numbers."""
        return self.stdin, self.stdout, self.stderr

    def make(self, owner: tuple[int, int] | None = None) -> None:
        """Makes the pipes, in the place of any that are left from before.

        A process in a user namespace, whose root is *owner*, opens them before it is that, and with no other right than anybody's;
        nobody else gets as far as the directory.
        """
        try:
            os.mkdir(self.directory, 0o700)
        except OSError:  # there is one from before, or this is the first of all
            self.remove()
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
        for path in self.paths:
            os.mkfifo(path, 0o600)
            if owner is not None:
                os.chown(path, *owner)
                os.chmod(path, 0o666)

    @contextmanager
    def open(self) -> Iterator[dict[str, int]]:
        """The ends to be kept, by name; closed at the end of the block, when the keeper has got them.

        Linux lets a FIFO be opened for reading and writing without anybody on the other side. stdin's write end is
        opened with a reader at hand for a moment, as opening for writing alone waits for one (or is ENXIO).
        """
        fds: dict[str, int] = {}
        with ExitStack() as stack:
            for name, path, flags in (
                ("stdin", self.stdin, os.O_WRONLY),
                ("stdout", self.stdout, os.O_RDWR),
                ("stderr", self.stderr, os.O_RDWR),
            ):
                reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                try:
                    fds[name] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
                finally:
                    os.close(reader)
                stack.callback(os.close, fds[name])
            yield fds

    def remove(self) -> None:
        """Removes the pipes from the file system; whoever has them open keeps them."""
        for path in self.paths:  # shutil.rmtree, which need not know what is there, takes 0.4 ms
            with suppress(FileNotFoundError):
                os.unlink(path)
        with suppress(OSError):  # not there, or something else is in it
            os.rmdir(self.directory)
