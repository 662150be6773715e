"""A container's root file system: the union of its image's layers and its writable layer.

One overlay superblock for the container's life: mounting an upper directory a second time succeeds silently and corrupts,
so the detached mount's descriptor is kept, by pydockd and (so that it outlives pydockd) by the keeper; each start and the
``rootfs`` link get a clone of it. ``rootfs`` leads to a clone at RUN/roots/ID that is nosuid, nodev and nosymfollow, attached
when somebody reads the link, detached when it has been idle for a minute.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import trio
from pydock.runtime import syscalls
from pydock.runtime.errors import Busy
from pydock.runtime.procfs import by_those_in
from pydock.runtime.record import kept
from pydock.runtime.shifting import Shift
from pydock.runtime.trees import remove_tree

if TYPE_CHECKING:
    from pydock.runtime.confine.userns import IdMap
    from pydock.runtime.engine import Engine, Source
    from pydock.runtime.keeper import Keeper
    from pydock.runtime.record import Record

_SAFE: Final = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOSYMFOLLOW
IDLE: Final = 60.0
T = TypeVar("T")


class RootFilesystem:
    """The union mount of the container with *record*, over ``upper`` and ``work`` in *directory*."""

    def __init__(self, engine: Engine, record: Record, directory: Path, ids: Callable[[], IdMap | None]) -> None:
        self._engine = engine
        self._record = record
        self.upper = directory / "upper"
        self._work = directory / "work"
        self._fd = -1
        self._ids = ids
        self._kept_mount = -1  # its id
        self._kept = ""  # under what
        self._lock = trio.Lock()
        self.place = engine.run / "roots" / record.id
        self._attached = False
        self._used = 0.0

    @property
    def key(self) -> str:
        """What the union's descriptor is kept under."""
        ids = self._ids()
        return f"root:{self._record.id}" + ("" if ids is None else f":{ids}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Where in it further unions are mounted: of a layer that is written ``PLACE:DIRECTORY``."""
        return tuple(layer.partition(":")[0] for layer in self._record.layers if not layer.startswith("/"))

    async def union(self, source: Source) -> int:
        """The detached union mount, made when there is none; the caller does not close it. Its layers are recorded."""
        await self._let_go_of_another()
        async with self._lock:
            if not await self._is_there(source):
                await self._in_thread(lambda fd: fd)
            await self.keep_clone()
            return self._fd

    async def used(self, source: Source, use: Callable[[int], T]) -> T:
        """What *use* gives, in a thread, of the union mount, which is made first, in the same one, when there is none. ``keep_used`` is
        to follow before anything runs on it."""
        await self._let_go_of_another()
        async with self._lock:
            await self._is_there(source)
            return await self._in_thread(use)

    async def keep_used(self, sent: Callable[[], None]) -> None:
        """Have the keeper hold what was ``used``; *sent* is called as soon as nobody's death but its own can lose it, or it fails."""
        try:
            if syscalls.mount_id(self._fd) != self._kept_mount:
                await self._keep(sent)
        finally:
            sent()

    async def _let_go_of_another(self) -> None:
        if self._fd >= 0 and self._kept != self.key:
            await self.close()  # userns has been changed: it is to show other ids

    async def _is_there(self, source: Source) -> bool:
        """Whether there is one already, with us or with the keeper; if not, it is recorded what it will be."""
        if self._fd < 0 and self._record.layers:
            await self._take_kept()
        if self._fd >= 0:
            return True
        if not self._record.layers:
            self._record.layers, self._record.image_id = source.layers, source.id
            self._record.defaults = kept(source.defaults)
        self._kept, self._kept_mount = self.key, -1
        return False

    @property
    def attached(self) -> bool:
        """Whether it is mounted at its ``place``, where anybody may be in it."""
        return self._attached

    async def recover(self) -> None:
        """After pydockd's own restart, when the keeper has the union: hold it here, too, before the keeper can die as well.

        A container may run on it, and a second union over the same directories would break it.
        """
        async with self._lock:
            with suppress(Busy):
                await self._take_kept()

    async def _take_kept(self) -> None:
        self._kept = self.key
        kept = await self._engine.keeper.get(self.key)
        if (fd := kept.get("root")) is not None and await self._can_be_used(fd):
            self._fd = fd

    async def _keep(self, sent: Callable[[], None] | None = None) -> None:
        mount = syscalls.mount_id(self._fd)
        await self._engine.keeper.keep(self._kept, {"root": self._fd}, sent)
        self._kept_mount = mount

    async def keep_clone(self) -> None:
        """To be called when a clone has been made: where that takes a child, the union's descriptor stands for another mount now,
        and the one that the keeper has is of no more use."""
        if self._fd >= 0 and syscalls.mount_id(self._fd) != self._kept_mount:
            await self._keep()

    async def _can_be_used(self, fd: int) -> bool:
        """Whether *fd*, which comes from the keeper, is still a mount: pydockd may have died just before ``keep_clone``. It is closed
        if not."""
        try:
            os.close(await trio.to_thread.run_sync(self._engine.images.clone, fd))
        except OSError:
            os.close(fd)
            if self._record.pid:
                raise Busy(f"the root of {self._record.name} can't be looked at before it is started again") from None
            await self._engine.keeper.drop(self._kept)
            return False
        self._fd = fd
        await self._keep()
        return True

    async def keep(self, keeper: Keeper) -> None:
        """Give the descriptor to a keeper that has been started anew."""
        if self._fd >= 0:
            await keeper.keep(self._kept, {"root": self._fd})

    async def _in_thread(self, use: Callable[[int], T]) -> T:
        ids = self._ids()
        if ids is None or self._fd >= 0:
            return await trio.to_thread.run_sync(self._mounted, use, None)
        userns = await self._engine.monitor.user_namespace(*ids)
        try:
            return await trio.to_thread.run_sync(self._mounted, use, Shift(userns, ids))
        finally:
            os.close(userns)

    def _mounted(self, use: Callable[[int], T], shift: Shift | None) -> T:
        if self._fd < 0:
            for directory, mode in ((self.upper, 0o755), (self._work, 0o700)):
                with suppress(FileExistsError):
                    os.mkdir(directory, mode)
            self._fd = self._engine.images.union(self._record.layers, self.upper, self._work, shift)
        return use(self._fd)

    async def attach(self, source: Source) -> Path:
        """Where the root can be looked at, safely for root."""
        fd = await self.union(source)
        async with self._lock:
            self._used = trio.current_time()
            if not self._attached:
                await trio.to_thread.run_sync(self._attach, fd)
                await self.keep_clone()
                self._attached = True
                self._engine.spawn(self._detach_when_idle)
        return self.place

    def _attach(self, fd: int) -> None:
        self.place.mkdir(parents=True, exist_ok=True, mode=0o700)
        clone = self._engine.images.clone(fd, attributes=_SAFE)
        try:
            syscalls.move_mount(clone, "", syscalls.AT_FDCWD, str(self.place), syscalls.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(clone)

    async def _detach_when_idle(self) -> None:
        while self._attached:
            await trio.sleep_until(self._used + IDLE)
            if trio.current_time() - self._used < IDLE:
                continue
            try:
                await self.detach()
            except Busy:
                self._used = trio.current_time()

    def read(self, path: str, limit: int = 1 << 20) -> str:
        """The beginning of the file *path* inside; empty when there is none. Resolved inside, whatever it is."""
        if self._fd < 0:
            return ""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        try:
            found = syscalls.openat2(self._fd, path, os.O_PATH, resolve=resolve)
        except OSError:
            return ""
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):
                return ""  # never opened: of a device of the machine even that may do something
            with open(f"/proc/self/fd/{found}", "rb") as file:
                return file.read(limit).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(found)

    async def detach(self) -> None:
        """Take the mount at ``rootfs`` away; Busy when somebody is in it."""
        async with self._lock:
            if self._attached:
                try:
                    await trio.to_thread.run_sync(self._detach)
                except OSError as error:
                    if error.errno != errno.EBUSY:
                        raise
                    who = await trio.to_thread.run_sync(by_those_in, str(self.place))
                    raise Busy(f"rootfs of {self._record.name} is in use{who}, at {self.place}") from None
                self._attached = False

    def _detach(self) -> None:
        """All or nothing: parts are mounts in it."""
        flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        with ExitStack() as stack:
            spares: list[tuple[str, int]] = []
            try:
                for part in [str(self.place / name) for name in self.parts]:
                    spare = syscalls.open_tree(syscalls.AT_FDCWD, part, flags)
                    stack.callback(os.close, spare)
                    syscalls.umount2(part, syscalls.UMOUNT_NOFOLLOW)
                    spares.append((part, spare))
                detach(self.place)
            except OSError:
                for part, spare in spares:
                    syscalls.move_mount(spare, "", syscalls.AT_FDCWD, part, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
                raise

    def touched(self) -> bool:
        """Whether there is anything in the writable layer; places of parts alone are nothing. Blocks."""
        return any(str(path.relative_to(self.upper)) not in self.parts for path in self.upper.rglob("*"))

    async def discard(self) -> None:
        """Forget the union and delete the writable layer."""
        await self.close()
        if self._record.layers:
            await trio.to_thread.run_sync(self._delete)
            self._record.layers, self._record.image_id, self._record.defaults = (), "", {}
            self._record.places = ()

    async def close(self) -> None:
        """Let go of the union; the writable layer stays."""
        await self.detach()
        async with self._lock:
            await self._engine.keeper.drop(self._kept)
            if self._fd >= 0:
                await trio.to_thread.run_sync(os.close, self._fd)
                self._fd = -1

    def _delete(self) -> None:
        for path in (
            self.upper,
            self._work,
            *(self._work.with_name(f"{self._work.name}.{part}") for part in self.parts),
        ):
            remove_tree(path)


def detach(place: Path) -> None:
    """umount2(2) of *place*, and the directory away; nothing when it is no mount."""
    try:
        syscalls.umount2(str(place), syscalls.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    with suppress(FileNotFoundError):
        place.rmdir()
