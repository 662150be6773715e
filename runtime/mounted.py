"""The volumes that a container runs with: opened for its start, changed while it runs.

``record.mounts`` has the id of each one's mount: it is known before the mount is put into the container, so it is on disk before as
well. A change while it runs is: write down what may be mounted from now on; visit the container; keep the settings; write down
what is mounted. Whatever dies in between, :meth:`MountedVolumes.agree` then makes the container what its settings say.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

import trio
from pydock.runtime import syscalls
from pydock.runtime.companion import Lost
from pydock.runtime.confine.userns import IdMap
from pydock.runtime.engine import Engine, persistently
from pydock.runtime.errors import Busy, Failed, PydockError, Unsupported
from pydock.runtime.monitor.launch import Launch
from pydock.runtime.monitor.removal import MountId
from pydock.runtime.monitor.visit import Addition, Task
from pydock.runtime.procfs import mounts_of
from pydock.runtime.record import Record, RecordFile
from pydock.runtime.shifting import Shift, show_shifted
from pydock.runtime.volumes import Volume, open_live

_TRIES: Final = 4
_INSIDE: Final = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


class MountedVolumes:
    """Those of the container with *record*. *pidfd* gives its first process, -1 for none."""

    def __init__(
        self,
        engine: Engine,
        record: Record,
        file: RecordFile,
        pidfd: Callable[[], int],
        ids: Callable[[], IdMap | None],
    ) -> None:
        self._engine = engine
        self._record = record
        self._file = file
        self._pidfd = pidfd
        self._ids = ids
        self.lock = trio.Lock()  # of starts and changes

    async def claim(self, items: Sequence[str]) -> None:
        """The named ones among *items* are about to be used; they are filled from the image alone, with its own owners.

        Its layers are recorded by now: there is a writable one on top of them.
        """
        for volume in map(Volume.parse, items):
            if volume.named:
                await self._engine.volumes.claim(volume.source, self._record.id, self._image, volume.target)

    def _image(self) -> int:
        return self._engine.images.union(self._record.layers, None, None)

    def launched(self, items: Sequence[str], launch: Launch, fds: Sequence[int]) -> None:
        """It is about to be started with *items*, as *launch* has them."""
        places = {volume.target: fds[volume.source] for volume in launch.volumes}
        self._record.mounts = {item: _ids(places[Volume.parse(item).target]) for item in items}
        self._record.mount_at([*(Volume.parse(item).target for item in items), *(item.target for item in launch.tmpfs)])
        self._record.mounting = False

    def ended(self) -> None:
        """It does not run any more."""
        self._record.mounts, self._record.mounting = {}, False
        self._engine.volumes.release(self._record.id)

    async def change(self, before: Sequence[str], after: Sequence[str], keep: Callable[[], Awaitable[None]]) -> None:
        """From *before* to *after* in the container that runs, all or nothing; *keep* puts it into the settings."""
        gone = [item for item in before if item not in after]
        new = [item for item in after if item not in before]
        staying = [item for item in before if item in after]
        _check_cover([Volume.parse(item).target for item in new], [Volume.parse(item).target for item in staying])
        if not gone and not new:
            await keep()
            return
        with trio.CancelScope(shield=True):
            await self._apply(gone, new)
            try:
                await keep()
            except BaseException:
                await self._apply(new, gone)
                await self._settle(before)
                raise
            self._note(after)
            self._engine.spawn(
                self._file.keep
            )  # behind the reply: a death before it makes agree() look, and find all well

    async def _settle(self, items: Sequence[str]) -> None:
        """What is mounted is what *items* say, and that is kept."""
        self._note(items)
        await self._file.save()

    def _note(self, items: Sequence[str]) -> None:
        self._engine.volumes.release(self._record.id, keep={Volume.parse(item).source for item in items})
        self._record.mounts = {item: ids for item, ids in self._record.mounts.items() if item in items}
        self._record.mounting = False

    async def _apply(self, gone: Sequence[str], new: Sequence[str]) -> None:
        await self.claim(new)
        for attempt in range(_TRIES):
            with ExitStack() as stack:
                opened = await self._opened(new, stack)
                known = dict(self._record.mounts)
                self._record.mounts = known | {item: _ids(fd) for item, (fd, _) in opened.items()}
                self._record.mount_at(Volume.parse(item).target for item in opened)
                self._record.mounting = True
                await self._file.save()
                removed = [known[item] for item in gone if item in known]
                kept = [ids[0] for item, ids in known.items() if item not in gone]
                try:
                    await self._visit(removed, kept, opened)
                    return
                except Lost:  # what it has done can't be known: begin again from what there is
                    if attempt == _TRIES - 1:
                        raise
                    await self._await_others()
                    await self._look(set(known), lazily=set(opened))
                except BaseException:
                    await self._settle(tuple(known))
                    raise

    async def _opened(self, items: Sequence[str], stack: ExitStack) -> dict[str, tuple[int, bool]]:
        ids = self._ids()
        shift = None
        if ids is not None and items:
            shift = Shift(await self._engine.monitor.user_namespace(*ids), ids)
            stack.callback(os.close, shift.userns)
        return await trio.to_thread.run_sync(self._open, items, stack, shift)

    def _open(self, items: Sequence[str], stack: ExitStack, shift: Shift | None) -> dict[str, tuple[int, bool]]:
        opened = {}
        for item in items:
            volumes = self._engine.volumes.directory
            opened[item] = open_live(Volume.parse(item), outside=self._engine.mountpoint, named=volumes)
            stack.callback(os.close, opened[item][0])
            if shift is not None and (words := show_shifted(opened[item][0], Volume.parse(item).target, shift)):
                raise Unsupported(words)
        return opened

    async def _visit(
        self,
        removed: Sequence[Sequence[int]],
        kept: Sequence[int],
        opened: Mapping[str, tuple[int, bool]],
        *,
        lazily: bool = False,
    ) -> None:
        """Have the monitor do it; nothing to do when the container has just ended."""
        if self._pidfd() < 0:
            return
        targets = [(Volume.parse(item).target, fd, is_directory) for item, (fd, is_directory) in opened.items()]
        targets.sort(key=lambda each: each[0].count("/"))
        additions = tuple(Addition(index, target, kind) for index, (target, _, kind) in enumerate(targets, 1))
        task = Task(tuple(MountId(*ids) for ids in removed), tuple(kept), additions, lazily)
        pidfd = os.dup(self._pidfd())  # the container may end meanwhile
        try:
            moved, failure = await self._engine.monitor.visit(pidfd, task, [fd for _, fd, _ in targets])
        finally:
            os.close(pidfd)
        if moved:
            self._record.mounts = {item: _moved(ids, moved) for item, ids in self._record.mounts.items()}
        if failure is not None and failure[0] != errno.ESRCH:
            number, words = failure
            if number == errno.EBUSY:
                raise Busy(f"volumes: {words}: it can't be taken away while a process of {self._record.name} uses it")
            raise Failed(number, f"volumes: {words}")

    # after a death

    async def agree(self, items: Sequence[str], *, found: bool = False) -> None:
        """After pydockd's own restart: make the container that runs what its settings say. Of a run that was *found*, begun and not
        written down before the death, the record knows no mounts."""
        for volume in map(Volume.parse, items):
            if volume.named and (known := self._engine.volumes.get(volume.source)) is not None:
                known.claims.add(self._record.id)
        if found:
            self._record.mounts, self._record.mounting = {}, bool(items)
            for item in items:
                await self._find(item)
        if not self._record.mounting:
            return
        extra = {item for item in self._record.mounts if item not in items}
        await self._await_others()
        await self._look(set(items), lazily=extra)
        missing = [item for item in items if item not in self._record.mounts]
        with ExitStack() as stack:
            opened = await self._opened(missing, stack)
            self._record.mounts |= {item: _ids(fd) for item, (fd, _) in opened.items()}
            await self._file.save()
            await self._visit([], [], opened)
        await self._settle(items)

    async def _find(self, item: str) -> None:
        with suppress(OSError, PydockError), ExitStack() as stack:
            ((source, _),) = (await self._opened((item,), stack)).values()
            target = Volume.parse(item).target
            if ids := await trio.to_thread.run_sync(mounted_at, self._record.pid, target, source):
                self._record.mounts[item] = ids

    async def _await_others(self) -> None:
        """What was asked for before comes to its end: by a monitor that lives; that of a dead one has died with it by the time that the
        next one answers."""
        await persistently(lambda: self._visit([], [], {}))

    async def _look(self, wanted: set[str], *, lazily: set[str]) -> None:
        """Leave in the record what is mounted; what is not *wanted* but *lazily* there goes, in use or not: nobody was told of it."""
        there = await trio.to_thread.run_sync(mounts_of, self._record.pid)
        extra = [ids for item, ids in self._record.mounts.items() if item in lazily and item not in wanted]
        await self._visit([ids for ids in extra if ids[0] in there], [], {}, lazily=True)
        self._record.mounts = {
            item: ids for item, ids in self._record.mounts.items() if item in wanted and ids[0] in there
        }


def mounted_at(pid: int, target: str, source: int) -> list[int]:
    """The ids of the mount at *target* in the root of process *pid*, its links followed inside; none when what is there is not that
    which the descriptor *source* leads to."""
    with ExitStack() as stack:
        try:
            root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, root)
            there = syscalls.openat2(root, target, os.O_PATH, resolve=_INSIDE)
        except OSError:
            return []
        stack.callback(os.close, there)
        return _ids(there) if os.path.samestat(os.fstat(there), os.fstat(source)) else []


def _ids(fd: int) -> list[int]:
    return [syscalls.mount_id(fd), syscalls.mount_id(fd, unique=True)]


def _moved(ids: list[int], moved: Mapping[int, int]) -> list[int]:
    """A mount that was put back is another one; its unique id is not asked for."""
    return [moved[ids[0]], 0] if ids[0] in moved else ids


def _check_cover(new: Sequence[str], staying: Sequence[str]) -> None:
    for target in new:
        covered = next((other for other in staying if other.startswith(f"{target}/")), None)
        if covered is not None:
            raise Busy(f"volumes: a volume at {target} would cover the one at {covered}: take that away first")
