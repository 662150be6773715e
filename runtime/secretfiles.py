"""A container's secrets: files in memory, seen at /run/secrets inside, that are in no layer, document or report.

They are in a tmpfs of the container's own which is in no mount table. Its descriptor is held by pydockd and by the keeper, so they are
there after pydockd's death, as long as the machine runs; a container that runs has a read-only view of it, and sees each change
at once. A file is replaced by rename(2): whoever reads sees the value before or the one after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio
from pydock.runtime import syscalls
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Failed
from pydock.runtime.formats import checked_name
from pydock.runtime.keeper import Keeper
from pydock.runtime.monitor.inside import new_mount
from pydock.runtime.monitor.launch import Launch, Volume
from pydock.runtime.monitor.visit import Addition, Task
from pydock.runtime.mounted import mounted_at
from pydock.runtime.record import Record

PLACE: Final = "/run/secrets"
#: The most bytes that one takes, and all of a container's.
LARGEST: Final = 1 << 20
_ROOM: Final = 16 << 20
_MODE: Final = 0o400
_KEPT: Final = "secrets"
_SAFE: Final = (
    syscalls.MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
    | syscalls.MOUNT_ATTR_NOSYMFOLLOW
)


class SecretFiles:
    """The secrets of the container with *record*.

    *pidfd* gives its first process, -1 for none, *owner* the user and group of that, who own them, as nobody else may read them.
    *lock* is that of the changes of its mounts.
    """

    def __init__(
        self,
        engine: Engine,
        record: Record,
        pidfd: Callable[[], int],
        owner: Callable[[], Awaitable[tuple[int, int]]],
        lock: trio.Lock,
    ) -> None:
        self._engine = engine
        self._record = record
        self._mount = -1  # of which views are made; to be held, or it is undone
        self._root = -1  # its directory
        self._pidfd = pidfd
        self._owner = owner
        self._lock = lock

    @property
    def key(self) -> str:
        """What the descriptor is kept under."""
        return f"secrets:{self._record.id}"

    @property
    def any(self) -> bool:
        """Whether there is something to be kept."""
        return self._root >= 0

    def names(self) -> tuple[str, ...]:
        """Sorted."""
        if self._root < 0:
            return ()
        return tuple(sorted(name for name in os.listdir(self._root) if not name.startswith(".")))

    def read(self, name: str) -> bytes:
        """The value; empty when there is none."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root)
        except OSError:
            return b""
        with open(fd, "rb") as file:
            return file.read()

    async def put(self, name: str, value: bytes) -> None:
        """Make it, or replace it; a container that runs sees it, or nothing has changed."""
        checked_name(name)
        async with self._lock:
            before = self.read(name) if name in self.names() else None
            await self._replace(name, value)
            try:
                await self._appear()
            except BaseException:
                with trio.CancelScope(shield=True):
                    if before is None:
                        os.unlink(name, dir_fd=self._root)
                    else:
                        await self._replace(name, before)
                raise
        self._engine.events.publish("container", self._record.name, "set", setting=f"secrets/{name}")

    async def take(self, name: str) -> None:
        """It is there no more."""
        async with self._lock:
            os.unlink(name, dir_fd=self._root)
        self._engine.events.publish("container", self._record.name, "set", setting=f"secrets/{name}")

    async def _replace(self, name: str, value: bytes) -> None:
        if len(value) > LARGEST:
            raise Failed(errno.EFBIG, f"secrets/{name}: a secret has at most {LARGEST} bytes")
        if self._root < 0:
            self._take(await trio.to_thread.run_sync(_make))
        # Each time: the keeper may have been started anew a moment ago, and what is acknowledged is there after pydockd's death.
        await self._engine.keeper.keep(self.key, {_KEPT: self._mount})
        await trio.to_thread.run_sync(self._write, name, value, await self._owner())

    def _take(self, mount: int) -> None:
        self._mount = mount
        self._root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)

    def _write(self, name: str, value: bytes, owner: tuple[int, int]) -> None:
        temporary = f".{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, _MODE, dir_fd=self._root)
            with open(fd, "wb") as file:
                file.write(value)
                os.fchown(fd, *owner)
            os.rename(temporary, name, src_dir_fd=self._root, dst_dir_fd=self._root)
        except OSError as error:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._root)
            raise OSError(error.errno, f"secrets/{name}: {error.strerror}") from None

    def launched(self, launch: Launch, fds: list[int], owner: tuple[int, int]) -> Launch:
        """*launch* with the view of them, when there are any; its descriptor is appended to *fds*, the caller's to close. Blocks."""
        if self._root < 0:
            return launch
        for name in os.listdir(self._root):
            os.chown(name, *owner, dir_fd=self._root, follow_symlinks=False)
        fds.append(self._engine.images.clone(self._mount, attributes=_SAFE))
        return launch._replace(volumes=(*launch.volumes, Volume(len(fds) - 1, PLACE, True)))

    async def _appear(self) -> None:
        """Have a container that runs see them, if it does not yet."""
        pidfd = self._pidfd()
        if pidfd < 0 or self._root < 0 or self._is_seen():
            return
        pidfd = os.dup(pidfd)  # the container may end meanwhile
        view = await trio.to_thread.run_sync(lambda: self._engine.images.clone(self._mount, attributes=_SAFE))
        try:
            task = Task((), (), (Addition(1, PLACE, True),))
            _, failure = await self._engine.monitor.visit(pidfd, task, [view])
        finally:
            os.close(view)
            os.close(pidfd)
        if failure is not None and failure[0] != errno.ESRCH:
            raise Failed(failure[0], f"secrets: {failure[1]}")

    def _is_seen(self) -> bool:
        return bool(mounted_at(self._record.pid, PLACE, self._root))

    async def recover(self) -> None:
        """After pydockd's own restart, when the keeper has some."""
        mount = (await self._engine.keeper.get(self.key)).get(_KEPT)
        if mount is not None:
            self._take(mount)
            for name in os.listdir(self._root):  # what a death has left half written, and the container sees
                if name.startswith("."):
                    os.unlink(name, dir_fd=self._root)

    async def agree(self) -> None:
        """After pydockd's own restart: have the container that runs see them, if the death came before that."""
        if not self.names() or self._pidfd() < 0 or self._is_seen():
            return
        async with self._lock:
            pidfd = os.dup(self._pidfd())
            try:
                await self._engine.monitor.visit(
                    pidfd, Task((), (), ()), []
                )  # one that was asked for before ends before it
            finally:
                os.close(pidfd)
            await self._appear()

    async def keep(self, keeper: Keeper) -> None:
        """Give the descriptor to a keeper that has been started anew."""
        if self._root >= 0:
            await keeper.keep(self.key, {_KEPT: self._mount})

    async def forget(self) -> None:
        """The container is gone."""
        if self._root >= 0:
            for name in os.listdir(self._root):
                os.unlink(name, dir_fd=self._root)
            await self._engine.keeper.drop(self.key)
            os.close(self._root)
            os.close(self._mount)
            self._root = self._mount = -1


def _make() -> int:
    options: tuple[tuple[str, str | None], ...] = (("mode", "755"), ("size", str(_ROOM)))
    bits = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
    try:
        return new_mount("tmpfs", bits, (*options, ("noswap", None)))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return new_mount("tmpfs", bits, options)  # before Linux 6.4 it may be swapped


def canonical(data: bytes) -> bytes:
    """The value that was written: one line of text loses its newline, all else is kept byte for byte."""
    line = data.removesuffix(b"\n")
    return line if is_line(line) else data


def is_line(data: bytes) -> bool:
    """Whether *data* is a line of text, without its newline."""
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False
