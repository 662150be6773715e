"""Archives of images that are put into ``images/``, and what becomes of their names there.

``cp app.tar images/`` loads while it copies: a name that is created there takes an archive, and is gone when it is closed, the
images in its place. Tools that set a mode or time by that name afterwards, or move it to its final one (install, rsync), find it
for as long as they live, two seconds at most, unlisted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio
from pydock.fs.imagefiles import Images, tidy
from pydock.fs.node import Directory, File, Inlet, Subject
from pydock.fs.scratch import is_scratch_name
from pydock.overlay.blobs import open_plain
from pydock.overlay.image import Image
from pydock.overlay.intake import Aborted
from pydock.overlay.loading import Loading
from pydock.overlay.unpackers import PIPE_SIZE
from pydock.runtime.errors import Failed, Forbidden, Invalid
from pydock.runtime.formats import quote

_LINGERS: Final = 2.0  # seconds
_RSYNC: Final = re.compile(r"\.(.+)\.[A-Za-z0-9]{6}", re.DOTALL)


async def load(images: Images, loading: Loading, source: int) -> tuple[Image, ...]:
    """Run *loading*; cancelled, it ends at once and leaves nothing."""
    outcome: list[tuple[Image, ...] | Exception] = []
    async with trio.open_nursery() as nursery:

        async def heed() -> None:
            try:
                await trio.sleep_forever()
            finally:
                loading.abort()

        nursery.start_soon(heed)
        try:
            # a thread of its own: writers may take their time, and everybody's threads are few
            thread = trio.CapacityLimiter(1)
            outcome.append(await trio.to_thread.run_sync(loading.run, source, limiter=thread))
        except Aborted:
            await trio.lowlevel.checkpoint_if_cancelled()
            outcome.append(Aborted())
        except Exception as error:  # kept out of the nursery, which would wrap it
            outcome.append(error)
        nursery.cancel_scope.cancel()
    result = outcome[0]
    if isinstance(result, Exception):
        raise result
    for image in result:
        images.engine.events.publish("image", image.reference, "load", id=image.id)
    images.engine.spawn(lambda: tidy(images))
    return result


async def load_file(images: Images, path: str) -> tuple[Image, ...]:
    """Load the archive at *path*."""

    def opened() -> int:
        try:
            with open_plain(Path(path)) as file:
                return os.dup(file.fileno())
        except IsADirectoryError:
            raise Invalid(f"{quote(path)} is not a file") from None

    return await load(images, Loading(images.store, path), await trio.to_thread.run_sync(opened))


class Load:
    """One archive on its way in (``pydock.fs.flows.Inflow``). *done* is called when it has ended, in any way."""

    def __init__(self, images: Images, name: str, done: Callable[[], None]) -> None:
        self._images = images
        self._name = name
        self._done = done
        self._loading = Loading(images.store, name)
        self._pipe = -1
        self._begun = False
        self._ended = trio.Event()
        self._failure: Exception | None = None

    def _begin(self) -> None:
        source, self._pipe = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # EPERM where the user's share of pipe pages is used up
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        os.set_blocking(self._pipe, False)
        self._begun = True
        self._images.engine.spawn(lambda: self._run(source))

    async def _run(self, source: int) -> None:
        try:
            await load(self._images, self._loading, source)
        except Aborted:
            self._failure = Failed(errno.EINTR, "")
        except Exception as error:
            self._failure = error
        finally:
            self._ended.set()

    def take(self, data: memoryview) -> int:
        if not self._begun:
            self._begin()
        return os.write(self._pipe, data)

    async def room(self) -> None:
        await trio.lowlevel.wait_writable(self._pipe)

    async def finish(self) -> None:
        if not self._begun:
            raise Invalid(f"{quote(self._name)} is empty: no archive of images")
        self._no_more()
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    async def abandon(self) -> None:
        self._loading.abort()
        self._no_more()
        if self._begun:
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    def _no_more(self) -> None:
        if self._pipe >= 0:
            trio.lowlevel.notify_closing(self._pipe)
            os.close(self._pipe)
            self._pipe = -1

    def close(self) -> None:
        self._no_more()
        self._done()


class _Name:
    """A name in ``images/`` that takes an archive."""

    def __init__(self, images: Images, name: str, directory: Directory) -> None:
        rsync = _RSYNC.fullmatch(name)
        file = rsync[1] if rsync else name

        def opened(subject: Subject, caller: int) -> Load:
            self.open += 1
            self.caller = caller
            return Load(images, file, self._done)

        entry = Inlet(name=name, volatile=True, open=opened, doc="An archive of images on its way in.")
        self.file = File(entry, directory)
        self.open = 0
        self.caller = 0
        self.since = trio.current_time()

    def _done(self) -> None:
        self.open -= 1
        self.since = trio.current_time()

    @property
    def there(self) -> bool:
        """Whether it can be found by whoever knows it."""
        if self.open:
            return True
        return trio.current_time() - self.since < _LINGERS and (
            not self.caller or os.path.exists(f"/proc/{self.caller}")
        )


class Names:
    """Those names, in *directory*."""

    def __init__(self, images: Images, directory: Directory) -> None:
        self._images = images
        self._directory = directory
        self._names: dict[str, _Name] = {}

    def create(self, name: str) -> None:
        """Somebody is about to write an archive of that name."""
        if is_scratch_name(name) and not _RSYNC.fullmatch(name):
            raise Forbidden(
                f"{self._directory.place(name)}: only archives of images can be put here, not scratch files"
            )
        self._names[name] = _Name(self._images, name, self._directory)

    def find(self, name: str) -> File | None:
        """The file of that name, while it is there."""
        entry = self._names.get(name)
        if entry is None:
            return None
        if not entry.there:
            self.forget(name)
            return None
        return entry.file

    def listed(self) -> Sequence[str]:
        """The names that are written at present."""
        return [name for name, entry in self._names.items() if entry.open]

    def forget(self, name: str) -> bool:
        """Let a name go; whether there was one."""
        self._directory.subject.metadata.files.pop(name, None)
        return self._names.pop(name, None) is not None
