"""``images/``: a directory an image, at the path that its reference is.

``busybox:latest`` is ``images/busybox:latest/``, ``registry.example/team/app:7`` is ``images/registry.example/team/app:7/``: the
parts before the last are plain directories.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import trio
from pydock.fs.imageroots import ImageRoots
from pydock.fs.node import Control, Directory, Entry, Link, Node, Refused, Subject, Value, Verb
from pydock.fs.subject import Place
from pydock.overlay import composing, host, mount
from pydock.overlay.host import HostImage
from pydock.overlay.image import Image
from pydock.overlay.manifest import Healthcheck
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store
from pydock.runtime.engine import Defaults, Engine, Source
from pydock.runtime.errors import Busy, Exists, Invalid
from pydock.runtime.formats import canonical_time, quote
from pydock.runtime.shifting import Shift
from pydock.runtime.volumes import checked_source


@dataclass(slots=True)
class Images:
    """The store, as the tree and the runtime see it. *users* names the containers that an image's reference, or one of the
    layers of a writable layer, is in use by."""

    store: Store
    engine: Engine
    roots: ImageRoots
    users: Callable[[Image], tuple[str, ...]]
    chains: Callable[[], frozenset[str]]


class ImageSubject(Place):
    """One image, as the subject of its directory. Images have no ``error``: failures are in the root's ``errors``."""

    def __init__(self, images: Images, reference: str) -> None:
        super().__init__(f"images/{reference}", images.engine)
        self.images = images
        self.reference = reference

    @property
    def image(self) -> Image:
        return self.images.store.image(self.reference)


async def _rootfs(subject: ImageSubject) -> str:
    return str(await subject.images.roots.attach(subject.image))


IMAGE: tuple[Entry[ImageSubject], ...] = (
    Value(
        name="id",
        mode=0o644,
        volatile=True,
        show=lambda s: s.image.id,
        doc="The digest of its configuration: what makes two images the same.",
    ),
    Value(
        name="size",
        volatile=True,
        show=lambda s: str(s.image.size),
        doc="Bytes unpacked, all layers together.",
    ),
    Value(
        name="created",
        mode=0o644,
        volatile=True,
        show=lambda s: canonical_time(s.image.created) or None,
        doc="When it was built, RFC 3339 in UTC, as its configuration says.",
    ),
    Link(
        name="rootfs",
        target=_rootfs,
        doc="The read-only union of its layers; a mount that is nosuid, nodev and nosymfollow.",
    ),
)


async def _import(subject: TopSubject, words: tuple[str, ...]) -> str:
    if len(words) != 2:
        raise Invalid("import takes two words: PATH REFERENCE")
    path, reference = words
    checked_source(path, outside=subject.engine.mountpoint)
    canonical = str(Reference.parse(reference))
    image = await trio.to_thread.run_sync(subject.images.store.import_tar, Path(path), canonical)
    subject.engine.events.publish("image", canonical, "load", id=image.id)
    subject.engine.spawn(lambda: _tidy(subject.images))
    return f"imported {image.reference}, {image.size} bytes"


class TopSubject(Place):
    """``images/`` itself."""

    def __init__(self, images: Images) -> None:
        super().__init__("images", images.engine)
        self.images = images


TOP: tuple[Entry[TopSubject], ...] = (
    Control(
        name="ctl",
        doc="Commands on images, one a line.",
        verbs=(
            Verb(
                name="import",
                usage="import PATH REFERENCE",
                doc="make an image of the root file system in a tar archive, compressed or not",
                run=_import,
                cancelled=True,
            ),
        ),
    ),
)


class ImageDirectory(Directory):
    """``images/REFERENCE/``."""

    fleeting = True

    def __init__(self, images: Images, reference: str, name: str, parent: Directory) -> None:
        subject = ImageSubject(images, reference)
        super().__init__(name, parent, subject, cast("tuple[Entry[Subject], ...]", IMAGE))


class PathDirectory(Directory):
    """A directory on the way to images: ``images/`` and ``images/registry.example/team/``."""

    def __init__(
        self,
        images: Images,
        subject: Subject,
        name: str,
        parent: Directory | None,
        table: Sequence[Entry[Subject]],
        path: str,
    ) -> None:
        super().__init__(name, parent, subject, table)
        self._images = images
        self._path = path  # with a slash at its end, but for images/ itself
        self._made: set[str] = set()  # by mkdir, empty yet
        self._nodes: dict[str, Directory] = {}

    def _below(self) -> dict[str, str | None]:
        """The names here: of an image its reference, of a directory None."""
        found: dict[str, str | None] = dict.fromkeys(self._made)
        for reference in self._images.store.references():
            if reference.startswith(self._path):
                name, slash, _ = reference[len(self._path) :].partition("/")
                found[name] = None if slash else reference
        return found

    def dynamic(self, name: str) -> Node | None:
        below = self._below()
        if name in below:
            reference = below[name]
        elif (reference := below.get(f"{name}:latest")) is None:  # no tag is latest; found so, but not listed
            return None
        node = self._nodes.get(name)
        if node is None or isinstance(node, ImageDirectory) != (reference is not None):
            if reference is not None:
                node = ImageDirectory(self._images, reference, name, self)
            else:
                path = f"{self._path}{name}/"
                node = PathDirectory(
                    self._images, Place(f"images/{path[:-1]}", self._images.engine), name, self, (), path
                )
            self._nodes[name] = node
        return node

    def dynamic_names(self) -> Sequence[str]:
        return sorted(self._below())

    async def make(self, name: str) -> None:
        try:
            Reference.parse(f"{self._path}{name}/x")
        except Exception:
            raise Invalid(f"{quote(name)} can't be part of a reference") from None
        self._made.add(name)

    async def remove(self, name: str) -> None:
        node = self.dynamic(name)
        if isinstance(node, ImageDirectory):
            await self._remove_image(node)
        elif isinstance(node, PathDirectory):
            if node.dynamic_names():
                raise Refused(errno.ENOTEMPTY, f"images/{self._path}{name} is not empty")
            self._made.discard(name)
        self._nodes.pop(name, None)

    async def _remove_image(self, node: ImageDirectory) -> None:
        images = self._images
        subject = cast(ImageSubject, node.subject)
        await remove_image(images, subject.image)
        # The directories above are plain ones: they stay until they are removed themselves.
        place: Node = self
        while isinstance(above := place.parent, PathDirectory):
            above._made.add(place.name)
            place = above

    async def rename(self, name: str, new: str) -> None:
        node = self.dynamic(name)
        if not isinstance(node, ImageDirectory):
            raise Invalid(f"images/{self._path}{name} is a directory of images and can't be renamed")
        old = cast(ImageSubject, node.subject).reference
        target = str(Reference.parse(self._path + new))
        if target != self._path + new:
            raise Invalid(f"{quote(self._path + new)} is not in canonical form: {target}")
        if target in self._images.store.references():
            raise Exists(f"image {target} exists")
        await trio.to_thread.run_sync(self._images.store.rename, old, target)
        self._nodes.pop(name, None)
        self._images.engine.events.publish("image", target, "tag", before=old)


async def remove_image(images: Images, image: Image) -> None:
    """Take the reference away, and with the last one the image; Busy when a container uses it."""
    last = sum(images.store.image(other).id == image.id for other in images.store.references()) == 1
    if last and (users := images.users(image)):
        raise Busy(f"image {image.reference} is in use by {', '.join(users)}")
    await images.roots.detach(image)
    await trio.to_thread.run_sync(lambda: images.store.untag(image.reference, keep=images.chains()))
    images.engine.events.publish("image", image.reference, "untag" if not last else "remove", id=image.id)
    images.engine.spawn(lambda: _tidy(images))


async def prune_images(images: Images) -> tuple[str, ...]:
    """Remove every image that no container uses; their references."""
    removed = []
    for reference in images.store.references():
        try:
            await remove_image(images, images.store.image(reference))
        except Busy:
            continue
        removed.append(reference)
    return tuple(removed)


async def collect(images: Images) -> int:
    """Delete blobs and layers that nothing needs; the bytes of blobs freed."""
    freed = await trio.to_thread.run_sync(lambda: images.store.collect(keep=images.chains()))
    await trio.to_thread.run_sync(images.store.empty_trash)
    return freed


async def _tidy(images: Images) -> None:
    """Behind the reply: what no image needs any more goes, what is new is put on the disk."""

    def tidy() -> None:
        images.store.collect(keep=images.chains())
        images.store.empty_trash()
        images.store.settle()

    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(tidy)


def images_directory(images: Images) -> PathDirectory:
    """``images/``."""
    subject = TopSubject(images)
    return PathDirectory(images, subject, "images", None, cast("tuple[Entry[Subject], ...]", TOP), "")


class Library:
    """The store as the runtime's source of root file systems (``pydock.runtime.engine.Images``)."""

    def __init__(self, store: Store, host: HostImage) -> None:
        self._store = store
        self._host = host

    def find(self, reference: str) -> Source:
        if reference == host.NAME:
            return Source(reference, host.NAME, self._host.layers(), Defaults(command=("sh",)))
        if reference.startswith("/"):
            image = self._store.directory_image(Path(os.path.normpath(reference)))
        else:
            image = self._store.image(reference)
        config = image.config
        check = config.healthcheck or Healthcheck()
        return Source(
            reference=image.reference,
            id=image.id,
            layers=tuple(str(path) for path in self._store.layer_paths(image)),
            defaults=Defaults(
                entrypoint=config.entrypoint,
                command=config.command,
                env=config.env,
                workdir=config.workdir,
                user=config.user,
                stop_signal=config.stop_signal or "",
                labels=tuple(f"{key}={value}" for key, value in config.labels),
                health_command=check.test,
                health_interval=check.interval / 1e9,
                health_timeout=check.timeout / 1e9,
                health_retries=check.retries,
                health_start_period=check.start_period / 1e9,
            ),
        )

    def union(self, layers: tuple[str, ...], upper: Path | None, work: Path | None, shift: Shift | None = None) -> int:
        lower = [Path(layer) for layer in layers if layer.startswith("/")]
        parts = dict(layer.split(":", 1) for layer in layers if not layer.startswith("/"))
        if not parts and shift is None:
            return mount.union(lower, upper, work)
        if parts and not lower[0].is_dir():
            self._host.make()
        shown = None if shift is None else composing.Shift(shift.userns, shift.ids.uid, shift.ids.gid)
        return composing.compose(
            lower, upper, work, parts={key: Path(path) for key, path in parts.items()}, shift=shown
        )

    def clone(self, fd: int, *, attributes: int = 0) -> int:
        return mount.clone(fd, attributes=attributes)
