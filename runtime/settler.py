"""What was acknowledged outlives any process at once, and a loss of power some time behind the reply.

A change of a small file is a line at the end of one file, ``unsettled``, which takes ten microseconds where replacing a file takes
hundreds and starts I/O. The files themselves are written, and fsync(2) done, in batches behind the replies: the lines first, then
the files, whole by rename(2), then the directory's entry, so that a loss of power may take seconds but nothing is ever half written.
After a death the lines tell what the files do not yet. While the disk is about to be full there are no lines: files are replaced at
once, so that who asks is told.

A line is a JSON array: the path below the root directory, and the text.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.state import read_json, replace

log = logging.getLogger(__name__)

#: Bytes that a file may take of a disk at most: less than that for each file that is to be written counts as full.
_ROOM: Final = 65536
#: Bytes of ``unsettled`` from which on lines that are settled are taken out though there are always others.
_LONG: Final = 1 << 20


class Settler:
    """The small files below *root*. What changes, reads or forgets them is for any thread, and blocks; all else is the loop's."""

    def __init__(self, root: Path, *, interval: float = 1.0) -> None:
        self._root = root
        self._prefix = len(f"{root}/")
        self._interval = interval
        self._paths: set[Path] = set()
        self._owed: set[Callable[[], Awaitable[None]]] = set()
        self._wake = trio.Event()
        self._file = root / "unsettled"
        self._fd = self._open()
        self._lines = threading.Lock()  # of what follows
        self._writing = threading.Lock()  # of the files; taken before the other
        self._settling = threading.Lock()  # taken before both
        self._unsettled: dict[Path, str] = {}
        self._loose: set[Path] = set()  # that were written at once
        self._size = 0
        self._failing = False
        self._load()

    def _load(self) -> None:
        """What a death has left. A loss of power may have torn the end of the file: that is cut off."""
        data = self._file.read_bytes()
        self._size = data.rfind(b"\n") + 1
        os.ftruncate(self._fd, self._size)
        for line in data[: self._size].splitlines():
            try:
                path, text = json.loads(line)
                if not isinstance(text, str):
                    raise TypeError("the text is none")
                self._unsettled[self._root / path] = text
            except (ValueError, TypeError) as error:
                log.error("%s: a line can't be read: %s", self._file, error)
        if self._size:
            self._wake.set()

    def close(self) -> None:
        """After the last change."""
        os.close(self._fd)

    # changes

    def replace(self, path: Path, text: str) -> None:
        """Make *path* hold *text*, atomically; OSError when it stays as it was. ``touched`` has to follow."""
        with self._lines:
            noted = self._note(path, text)
        if not noted:
            with self._writing, self._lines:
                self._write_all()
                replace(path, text)

    async def keep(self, path: Path, text: str) -> None:
        """``replace``, and all that has to follow. Without a thread as long as a line will do: that is a write to the page cache, as
        of each event."""
        noted = False
        if self._lines.acquire(blocking=False):
            try:
                noted = self._note(path, text)
            finally:
                self._lines.release()
        if not noted:
            await trio.to_thread.run_sync(self.replace, path, text)
        self.touched(path)

    def create(self, path: Path, text: str) -> None:
        """``replace`` of a file that is new: it is there at once, for who lists its directory. OSError when it is not."""
        with self._writing:
            self._tell_first(path, text, lambda: replace(path, text))

    def rename(self, path: Path, new: Path) -> None:
        """*path* is *new* from now on, with what it holds; OSError when it stays. ``touched`` has to follow."""
        with self._writing:
            self._tell_first(new, self.read(path), lambda: os.rename(path, new))
            self._drop(path)

    def remove(self, path: Path) -> None:
        """*path* is no more; OSError when it stays."""
        with self._writing:  # else it may be written once more
            path.unlink()
            self._drop(path)

    def forget_removed(self, directory: Path) -> None:
        """After a death: what lines tell of files in *directory* that are not there is of the past."""
        with self._lines:
            gone = [path for path in self._unsettled if path.parent == directory and not path.exists()]
        for path in gone:
            self._drop(path)

    def _tell_first(self, path: Path, text: str, make: Callable[[], None]) -> None:
        """*make* has a file at *path*, which will hold *text*. Of another that was called so there may be lines left: before it is
        there, a line comes after them, or all are taken out. One of a file that never came is dropped after a death."""
        with self._lines:
            if not self._note(path, text):
                self._write_all()
        try:
            make()
        except BaseException:
            self._drop(path)
            raise

    def _drop(self, path: Path) -> None:
        with self._lines:
            self._unsettled.pop(path, None)

    def forget(self, directory: Path) -> None:
        """*directory* is no more, nor what was to be written in it."""
        with self._lines:
            for path in [path for path in self._unsettled if directory in path.parents]:
                del self._unsettled[path]

    def read(self, path: Path) -> str:
        """What *path* holds; FileNotFoundError when there is no such file."""
        with self._lines:
            text = self._unsettled.get(path)
        return path.read_text() if text is None else text

    def read_json(self, path: Path) -> dict[str, object] | None:
        """The object that it holds; None when there is none or it is not an object."""
        return read_json(path, self.read)

    def _note(self, path: Path, text: str) -> bool:
        """A line more, with ``_lines``, if there is room for it, and for what it tells."""
        line = self._line(path, text)
        disk, files = os.fstatvfs(self._fd), len(self._unsettled) + 1
        if disk.f_bavail * disk.f_frsize < files * max(_ROOM, len(line)) or (disk.f_files and disk.f_favail <= files):
            return False
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return False
        if written < len(line):
            os.ftruncate(self._fd, self._size)
            return False
        self._size += written
        self._unsettled[path] = text
        return True

    def _line(self, path: Path, text: str) -> bytes:
        return json.dumps([os.fspath(path)[self._prefix :], text]).encode() + b"\n"

    def _write_all(self) -> None:
        """Have the files tell it all: no line is left."""
        for path, text in self._unsettled.items():
            _write(path, text)
        self._loose |= self._unsettled.keys()
        self._unsettled = {}
        self._cut()

    def _settle(self, paths: set[Path]) -> None:
        """Have the files tell what the lines do, and the disk both them and *paths*; then those lines go. Others may come in between.

        The lines are on the disk before the files change, and stay until those are: whatever a loss of power leaves of a file, a line
        tells it. That earlier lines have gone is on the disk by then, too.
        """
        with self._settling:
            with self._lines:
                batch = dict(self._unsettled)
                loose, self._loose = self._loose, set()
            done: dict[Path, str] = {}
            wrong: list[OSError] = []
            try:
                os.fsync(self._fd)
                for path, text in batch.items():
                    try:
                        with self._writing:
                            # Else it was forgotten meanwhile, or another line is newer.
                            if self._unsettled.get(path) is text:
                                _write(path, text)
                                done[path] = text
                    except OSError as error:
                        wrong.append(error)
                _sync(paths | loose | done.keys())
            except OSError:
                with self._lines:
                    self._loose |= loose
                raise
            with self._lines:
                for path, text in done.items():
                    if self._unsettled.get(path) is text:
                        del self._unsettled[path]
                if not self._unsettled:
                    self._cut()
                elif self._size > _LONG:
                    self._begin_anew()
        if wrong:
            raise wrong[0]

    def _cut(self) -> None:
        if self._size:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def _begin_anew(self) -> None:
        """There is always something unsettled: without the lines that are."""
        lines = b"".join(self._line(*item) for item in self._unsettled.items())
        replace(self._file, lines.decode())
        before, self._fd = self._fd, self._open()
        os.close(before)
        self._size = len(lines)

    def _open(self) -> int:
        return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def touched(self, path: Path) -> None:
        """*path* was changed: it is settled soon."""
        self._paths.add(path)
        self._wake.set()

    def owe(self, save: Callable[[], Awaitable[None]]) -> None:
        """*save* found no room on the disk: it is done again until there is some, or nothing left to be saved."""
        self._owed.add(save)
        self._wake.set()

    async def run(self) -> None:
        """Settle until cancelled, and once more at the end."""
        try:
            while True:
                await self._wake.wait()
                await trio.sleep(self._interval)
                self._wake = trio.Event()
                await self.settle()
        finally:
            with trio.CancelScope(shield=True):
                await self.settle()

    async def settle(self) -> None:
        """Settle what was touched until now, and save what is owed."""
        owed, self._owed = self._owed, set()
        for save in owed:
            try:
                await save()
            except FileNotFoundError:
                continue  # it has been removed
            except OSError:
                self.owe(save)
        paths, self._paths = self._paths, set()
        if not (paths or self._size):
            return
        try:
            await trio.to_thread.run_sync(self._settle, paths)
        except OSError as error:
            if not self._failing:
                log.error("what was changed can't be written yet: %s: %s", error.filename, error.strerror)
            self._failing = True
            self._paths |= paths
            self._wake.set()
        except BaseException:
            self._paths |= paths  # the last one does it
            raise
        else:
            self._failing = False


def _write(path: Path, text: str) -> None:
    with suppress(FileNotFoundError):  # the directory has been removed
        replace(path, text)


def _sync(paths: set[Path]) -> None:
    for path in sorted(paths | {path.parent for path in paths}, key=lambda path: -len(path.parts)):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # removed since
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
