"""Trees as the tars of layers: the store's side of the confined reader (:mod:`pydock.overlay.diff`)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

import msgspec
from pydock.overlay import mount
from pydock.overlay.errors import Invalid
from pydock.overlay.unpackers import PIPE_SIZE

#: What of a tree: its changes of what is below, a whole layer as it is unpacked, or all that is seen of it.
Mode = Literal["changes", "layer", "flat"]
_CHUNK: Final = 1 << 20
_LOOK: Final = 200  # milliseconds, the most until it is seen that the tar is not wanted any more


class _Report(msgspec.Struct, frozen=True):
    """The child's last line."""

    entries: int = 0
    error: str | None = None
    errno: int | None = None


def changes_of(upper: Path, lower: Iterable[Path], made: Iterable[str], check: Callable[[], object]) -> Iterator[bytes]:
    """The tar of what the upper directory changes of the layers *lower*, bottom first; nothing at all when it changes nothing.

    What is at the places *made*, new and empty, is left out. *check* is called now and then, and may raise to end it. Invalid for
    what no layer can hold; OSError.
    """
    union = mount.union(list(lower), None, None)
    try:
        yield from _tar(upper, "changes", union, made, check)
    finally:
        os.close(union)


def whole(tree: Path | int, mode: Mode, check: Callable[[], object]) -> Iterator[bytes]:
    """The tar of the whole *tree*, a directory or a detached mount; otherwise as :func:`changes_of`."""
    return _tar(tree, mode, -1, (), check)


def _tar(tree: Path | int, mode: Mode, lower: int, made: Iterable[str], check: Callable[[], object]) -> Iterator[bytes]:
    with contextlib.ExitStack() as stack:
        directory = tree
        if isinstance(directory, Path):
            directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
        child = subprocess.Popen(
            [sys.executable, "-I", "-m", "pydock.overlay.diff", str(directory), str(lower), mode],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[descriptor for descriptor in (directory, lower) if descriptor >= 0],
            cwd="/",
            env={"LC_ALL": "C.UTF-8"},
        )
        stack.enter_context(child)
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(b"".join(os.fsencode(place) + b"\0" for place in made))
            child.stdin.close()
            with contextlib.suppress(OSError):  # EPERM where the user's share of pipe pages is used up
                fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
            poller = select.poll()
            poller.register(child.stdout, select.POLLIN)
            while True:
                check()
                if poller.poll(_LOOK):
                    chunk = child.stdout.read(_CHUNK)
                    if not chunk:
                        break
                    yield chunk
            output = child.stderr.read()
            child.wait()
        except BaseException:
            child.kill()
            raise
    _judge(output, child.returncode)


def _judge(output: bytes, status: int) -> None:
    """Raise what the child has found."""
    try:
        report = msgspec.convert(json.loads(output.splitlines()[-1]), _Report)
    except (IndexError, ValueError, msgspec.ValidationError):
        words = output.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"the reader of a tree died with {status}: {words}") from None
    if report.error is not None:
        if report.errno is None:
            raise Invalid(report.error)
        raise OSError(report.errno, report.error)
