"""The mounts that ``images/REFERENCE/rootfs`` leads to: read-only unions of an image's layers, at RUN/images/ID."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio
from pydock.overlay import mount
from pydock.overlay.image import Image
from pydock.overlay.store import Store
from pydock.runtime import syscalls
from pydock.runtime.errors import Busy
from pydock.runtime.procfs import by_those_in

_IDLE: Final = 60.0
_SAFE: Final = (
    syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOSYMFOLLOW
    | syscalls.MOUNT_ATTR_RDONLY
)


class ImageRoots:
    """Attached when somebody reads the link, detached when idle for a minute, and all of them at the start."""

    def __init__(self, store: Store, directory: Path, nursery: trio.Nursery) -> None:
        self._store = store
        self._directory = directory
        self._nursery = nursery
        self._used: dict[str, float] = {}
        self._lock = trio.Lock()

    def _place(self, image: Image) -> Path:
        return self._directory / image.id.replace(":", "-")

    async def attach(self, image: Image) -> Path:
        """The place where the image's root can be looked at."""
        async with self._lock:
            fresh = image.id not in self._used
            if fresh:
                await trio.to_thread.run_sync(self._attach, image)
            self._used[image.id] = trio.current_time()
            if fresh:
                self._nursery.start_soon(self._detach_when_idle, image)
        return self._place(image)

    def _attach(self, image: Image) -> None:
        place = self._place(image)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = mount.union(self._store.layer_paths(image), None, None)
        try:
            syscalls.mount_setattr(fd, "", syscalls.AT_EMPTY_PATH, attr_set=_SAFE)
            mount.attach(fd, place)
        finally:
            os.close(fd)

    async def _detach_when_idle(self, image: Image) -> None:
        while image.id in self._used:
            await trio.sleep_until(self._used[image.id] + _IDLE)
            if image.id in self._used and trio.current_time() - self._used[image.id] >= _IDLE:
                try:
                    await self.detach(image)
                except Busy:
                    self._used[image.id] = trio.current_time()

    async def detach(self, image: Image) -> None:
        """Take the mount away; Busy when somebody is in it, nothing when there is none."""
        async with self._lock:
            if image.id in self._used:
                await trio.to_thread.run_sync(release, self._place(image))
                del self._used[image.id]

    async def detach_all(self) -> None:
        """At the end: what is in use stays until the next start."""
        for identity in tuple(self._used):
            place = self._directory / identity.replace(":", "-")
            try:
                await trio.to_thread.run_sync(release, place)
            except Busy:
                continue
            del self._used[identity]


def release(place: Path) -> None:
    """Unmount *place*, if it is a mount, and remove it; Busy when somebody is in it."""
    try:
        mount.detach(place)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Busy(f"the image's rootfs is in use{by_those_in(str(place))}, at {place}") from None
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    if place.is_dir():
        place.rmdir()


def clear(directory: Path, unmount: Callable[[Path], None] = release) -> Sequence[Path]:
    """At the start: take away what an engine that died has left; the places that are still in use are detached lazily."""
    places = sorted(directory.iterdir()) if directory.is_dir() else []
    for place in places:
        try:
            unmount(place)
        except Busy:
            syscalls.umount2(str(place), syscalls.MNT_DETACH)
    return places
