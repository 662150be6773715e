"""Named volumes: directories that outlive containers. ``ROOT/volumes/NAME`` has ``data`` and ``volume.json``.

A volume exists from the rename that puts its directory there until the rename that takes it away; what a death left in between
has a name with a dot and is removed at the next start. Containers name volumes in their settings: who does, *users* tells.

An empty volume is filled by the first container that uses it. While a container runs with it, it is claimed, and nobody else
fills it: those who look at an empty directory must not get another one in its place.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Container, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.errors import Busy, Exists, NotFound
from pydock.runtime.events import Events
from pydock.runtime.filling import fill
from pydock.runtime.formats import checked_name, now, quote
from pydock.runtime.settler import Settler
from pydock.runtime.state import clear_halves, read_json, replace_json
from pydock.runtime.trees import remove_tree

_FILE: Final = "volume.json"
_RENAMING: Final = ".renaming"


@dataclass(slots=True)
class NamedVolume:
    """One volume. *files* are the modes, owners and times of its files in the tree."""

    name: str
    created: int
    labels: tuple[str, ...] | None = None
    files: dict[str, list[int | None]] = field(default_factory=dict)
    error: str = ""
    claims: set[str] = field(default_factory=set)  # containers that run with it, by id
    lock: trio.Lock = field(default_factory=trio.Lock)
    writing: trio.Lock = field(default_factory=trio.Lock)  # its file: two at once would take each other's temporary one

    def plain(self) -> dict[str, object]:
        """What is kept."""
        labels = None if self.labels is None else list(self.labels)
        return {"created": self.created, "labels": labels, "files": self.files}


class VolumeStore:
    """The volumes of one engine, in *directory*. *empty* is a directory in the run directory to mount on."""

    def __init__(self, directory: Path, empty: Path, events: Events, settler: Settler) -> None:
        self.directory = directory
        self.users: Callable[[str], tuple[str, ...]] = lambda name: ()
        self._empty = empty
        self._events = events
        self._settler = settler
        self._volumes: dict[str, NamedVolume] = {}

    def __iter__(self) -> Iterator[NamedVolume]:
        return iter(self._volumes.values())

    def __len__(self) -> int:
        return len(self._volumes)

    def get(self, name: str) -> NamedVolume | None:
        return self._volumes.get(name)

    def find(self, name: str) -> NamedVolume:
        """The volume of that name; NotFound."""
        volume = self._volumes.get(name)
        if volume is None:
            raise NotFound(f"volume {quote(name)} does not exist: mkdir volumes/{name} makes one")
        return volume

    def data(self, name: str) -> Path:
        """Where its files are."""
        return self.directory / name / "data"

    def read(self) -> None:
        """Read what is on disk, and undo or finish what was half done. Blocks; before anything else."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if (renaming := self.renaming()) is not None and (self.directory / renaming[0]).exists():
            os.rename(self.directory / renaming[0], self.directory / renaming[1])
        for path in sorted(self.directory.iterdir()):
            if path.name == _RENAMING:
                continue
            values = None if path.name.startswith(".") else read_json(path / _FILE)
            if values is None:
                remove_tree(path)
                continue
            remove_tree(path / "filling")
            clear_halves(path)
            volume = NamedVolume(path.name, 0)
            created, labels, files = (values.get(key) for key in ("created", "labels", "files"))
            if isinstance(created, int):
                volume.created = created
            if isinstance(labels, list):
                volume.labels = tuple(labels)
            if isinstance(files, dict):
                volume.files = files
            self._volumes[path.name] = volume

    async def create(self, name: str) -> NamedVolume:
        """mkdir."""
        checked_name(name)
        if name in self._volumes:
            raise Exists(f"volumes/{name} exists")
        volume = self._volumes[name] = NamedVolume(name, now())
        try:
            await trio.to_thread.run_sync(self._make, volume)
        except BaseException:
            del self._volumes[name]
            raise
        self._settler.touched(self.directory / name / _FILE)
        self._events.publish("volume", name, "create")
        return volume

    def _make(self, volume: NamedVolume) -> None:
        fresh = self.directory / f".new-{volume.name}"
        remove_tree(fresh)
        try:
            (fresh / "data").mkdir(parents=True, mode=0o755)
            (fresh / "data").chmod(0o755)
            replace_json(fresh / _FILE, volume.plain())
            os.rename(fresh, self.directory / volume.name)
        except OSError:
            remove_tree(fresh)
            raise

    async def remove(self, name: str) -> Path:
        """rmdir: Busy while a container's settings name it. What is left to be deleted is at the path that is given."""
        volume = self.find(name)
        if users := self.users(name):
            raise Busy(f"volume {name} is in use by {', '.join(users)}: take it from volumes there first")
        trash = self.directory / f".trash-{name}-{now()}"
        del self._volumes[name]
        try:
            await trio.to_thread.run_sync(os.rename, self.directory / name, trash)
        except OSError:
            self._volumes[name] = volume
            raise
        self._events.publish("volume", name, "remove")
        return trash

    async def rename(self, name: str, new: str) -> None:
        """mv of the directory. The settings that name it are the caller's to change, between this and :meth:`renamed`."""
        volume = self.find(name)
        checked_name(new)
        if new in self._volumes:
            raise Exists(f"volumes/{new} exists")

        def move() -> None:
            replace_json(self.directory / _RENAMING, {"from": name, "to": new})
            try:
                os.rename(self.directory / name, self.directory / new)
            except OSError:
                (self.directory / _RENAMING).unlink()
                raise

        self._volumes[new] = self._volumes.pop(name)
        volume.name = new
        try:
            await trio.to_thread.run_sync(move)
        except OSError:
            self._volumes[name] = self._volumes.pop(new)
            volume.name = name
            raise
        self._events.publish("volume", new, "rename", before=name)

    def renaming(self) -> tuple[str, str] | None:
        """The names before and after, when settings may have the one before yet."""
        values = read_json(self.directory / _RENAMING) or {}
        before, after = values.get("from"), values.get("to")
        return (before, after) if isinstance(before, str) and isinstance(after, str) else None

    def renamed(self) -> None:
        """All settings have the new name."""
        with suppress(FileNotFoundError):
            (self.directory / _RENAMING).unlink()

    async def change_labels(self, name: str, labels: tuple[str, ...] | None) -> None:
        """Keep other labels."""
        volume = self.find(name)
        async with volume.writing:
            await self._write(dataclasses.replace(volume, labels=labels))
            volume.labels = labels
        self._events.publish("volume", name, "set", setting="labels")

    async def save(self, volume: NamedVolume) -> None:
        """Keep it as it is now, if it is still there."""
        async with volume.writing:
            if self._volumes.get(volume.name) is volume:
                await self._write(volume)

    async def _write(self, volume: NamedVolume) -> None:
        path = self.directory / volume.name / _FILE
        await trio.to_thread.run_sync(replace_json, path, volume.plain())
        self._settler.touched(path)

    # use

    async def claim(self, name: str, user: str, union: Callable[[], int], target: str) -> None:
        """Container *user* is about to have it at *target*: fill it when it is empty and nobody else's. *union* gives a detached
        union of the image's layers, which is closed here."""
        volume = self.find(name)
        async with volume.lock:
            if not volume.claims - {user} and not any(self.data(name).iterdir()):
                await trio.to_thread.run_sync(self._fill, name, union, target)
            volume.claims.add(user)

    def _fill(self, name: str, union: Callable[[], int], target: str) -> None:
        fd = union()
        try:
            fill(self.data(name), fd, target, place=self._empty)
        finally:
            os.close(fd)

    def release(self, user: str, *, keep: Container[str] = ()) -> None:
        """Container *user* does not run any more, or only with the volumes named in *keep*."""
        for volume in self:
            if volume.name not in keep:
                volume.claims.discard(user)
