"""``images/``: a directory an image, at the path that its reference is.

``busybox:latest`` is ``images/busybox:latest/``, ``registry.example/team/app:7`` is ``images/registry.example/team/app:7/``: the
parts before the last are plain directories.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

import trio
from pydock.fs.imagefiles import ImageDirectory, Images, ImageSubject, made_name, tag, tidy
from pydock.fs.loads import Names, load_file
from pydock.fs.node import Control, Directory, Entry, Node, Refused, Subject, Value, Verb, no_words
from pydock.fs.subject import Place
from pydock.overlay.errors import OverlayError
from pydock.overlay.image import Image
from pydock.overlay.reference import Reference, shortened
from pydock.overlay.registry.documents import parse_platform
from pydock.runtime.errors import Busy, Exists, Invalid, NotFound
from pydock.runtime.formats import now, quote
from pydock.runtime.paths import checked_source


async def _import(subject: TopSubject, words: tuple[str, ...]) -> str:
    if len(words) != 2:
        raise Invalid("import takes two words: PATH REFERENCE")
    path, reference = words
    checked_source(path, outside=subject.engine.mountpoint)
    canonical = str(made_name(reference))
    check = trio.from_thread.check_cancelled
    image = await trio.to_thread.run_sync(subject.images.store.import_tar, Path(path), canonical, check)
    subject.engine.events.publish("image", canonical, "load", id=image.id)
    subject.engine.spawn(lambda: tidy(subject.images))
    return f"imported {image.reference}, {image.size} bytes"


async def _load(subject: TopSubject, words: tuple[str, ...]) -> str:
    if len(words) != 1:
        raise Invalid("load takes one word: PATH")
    checked_source(words[0], outside=subject.engine.mountpoint)
    images = await load_file(subject.images, words[0])
    return f"loaded {' '.join(image.reference for image in images)}"


async def _prune(subject: TopSubject, words: tuple[str, ...]) -> str:
    no_words("prune", words)
    removed = await subject.images.prune()
    return f"removed {removed} image{'' if removed == 1 else 's'}"


async def _pull(subject: TopSubject, words: tuple[str, ...]) -> str:
    names = [word for word in words if not word.startswith("platform=")]
    platforms = [word.partition("=")[2] for word in words if word.startswith("platform=")]
    if len(names) != 1 or len(platforms) > 1:
        raise Invalid("pull takes REFERENCE [platform=OS/ARCHITECTURE[/VARIANT]]")
    images, reference = subject.images, Reference.parse(names[0])
    image = await images.registries.pull(reference, parse_platform(platforms[0]) if platforms else None)
    subject.engine.events.publish("image", image.reference, "pull", id=image.id, digest=image.digest)
    subject.engine.spawn(lambda: tidy(images))
    return f"pulled {image.reference} {image.digest}"


class TopSubject(Place):
    """``images/`` itself."""

    def __init__(self, images: Images) -> None:
        super().__init__("images", images.engine, images.store.made)
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
            Verb(
                name="load",
                usage="load PATH",
                doc="take in the images of an archive by docker save, podman save or skopeo, compressed or not, as cp into images "
                "does; an image without a name gets the file's",
                run=_load,
                cancelled=True,
            ),
            Verb(
                name="pull",
                usage="pull REFERENCE [platform=OS/ARCHITECTURE[/VARIANT]]",
                doc="bring an image in from its registry; what an interrupted pull has brought is not fetched again",
                run=_pull,
                cancelled=True,
            ),
            Verb(name="prune", usage="prune", doc="remove every image that no container uses", run=_prune),
        ),
    ),
    Value(
        name="progress",
        volatile=True,
        changed=lambda s: now(),
        show=lambda s: "\n".join(s.images.transfers.lines()) or None,
        doc="A line a blob on its way: ``KIND REFERENCE DIGEST DONE TOTAL``, in bytes.",
    ),
)


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
        # only in images/ itself, where archives are put
        self.growing = self.unsteady = not path
        self._archives = Names(images, self)

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
        elif (archive := self._archives.find(name)) is not None:
            return archive
        elif (reference := self._by_another_form(name)) is None and not self._leads_on(name):
            return None
        node = self._nodes.get(name)
        if node is None or isinstance(node, ImageDirectory) != (reference is not None):
            if reference is not None:
                node = ImageDirectory(self._images, reference, name, self)
            else:
                path = f"{self._path}{name}/"
                place = Place(f"images/{path[:-1]}", self._images.engine, self._images.store.made)
                node = PathDirectory(self._images, place, name, self, (), path)
            self._nodes[name] = node
        return node

    def _by_another_form(self, name: str) -> str | None:
        """The image here whose reference is written so as well: without latest, with docker.io or library. Found, but not listed."""
        with suppress(OverlayError):
            reference = str(Reference.parse(self._path + name))
            if reference in self._images.store.references():
                return reference
        return None

    def _leads_on(self, name: str) -> bool:
        """Whether longer forms of references go on behind *name*."""
        path = f"{self._path}{name}/"
        short = shortened(path)
        return short != path and any(each.startswith(short) for each in self._images.store.references())

    def dynamic_names(self) -> Sequence[str]:
        return sorted((*self._below(), *self._archives.listed()))

    async def create(self, name: str) -> None:
        """An archive is about to be put here."""
        self._archives.create(name)

    async def unlink(self, name: str) -> None:
        if not self._archives.forget(name):
            await super().unlink(name)

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

    async def link(self, name: str, target: str) -> None:
        """``ln -s OLD NEW`` tags: the last components of *target* name the image, as they stand or from here."""
        new = str(made_name(self._path + name))
        parts = [part for part in target.split("/") if part not in ("", ".", "..")]
        names = [posixpath.normpath(self._path + target), *("/".join(parts[index:]) for index in range(len(parts)))]
        for old in names:
            with suppress(OverlayError):
                image = self._images.store.image(old)
                break
        else:
            raise NotFound(f"{quote(target)} is no image")
        await tag(self._images, image.reference, new)

    async def rename(self, name: str, new: str) -> None:
        if self._archives.forget(name):  # rsync moves what it has written to its place: the images are there by now
            return
        node = self.dynamic(name)
        if not isinstance(node, ImageDirectory):
            raise Invalid(f"images/{self._path}{name} is a directory of images and can't be renamed")
        old = cast(ImageSubject, node.subject).reference
        target = str(made_name(self._path + new))
        if target in self._images.store.references():
            raise Exists(f"image {target} exists")
        await trio.to_thread.run_sync(self._images.store.rename, old, target)
        await self._images.renamed(old, target)
        self._nodes.pop(name, None)
        self._images.engine.events.publish("image", target, "tag", before=old)


async def remove_image(images: Images, image: Image) -> None:
    """Take the reference away, and with the last one the image; Busy when a container uses it, or asks for it by that name."""
    last = sum(images.store.image(other).id == image.id for other in images.store.references()) == 1
    if users := images.users(image) if last else images.asking(image.reference):
        raise Busy(f"image {image.reference} is in use by {', '.join(users)}")
    await images.roots.detach(image)
    await trio.to_thread.run_sync(lambda: images.store.untag(image.reference, keep=images.chains()))
    images.engine.events.publish("image", image.reference, "untag" if not last else "remove", id=image.id)
    images.engine.spawn(lambda: tidy(images))


async def prune_images(images: Images) -> tuple[str, ...]:
    """Remove every image that no container uses; their references."""
    removed = []
    for reference in images.store.references():
        image = images.store.image(reference)
        if images.users(image):
            continue
        try:
            await remove_image(images, image)
        except Busy:
            continue
        removed.append(reference)
    return tuple(removed)


async def collect(images: Images) -> int:
    """Delete blobs and layers that nothing needs; the bytes of blobs freed."""
    freed = await trio.to_thread.run_sync(lambda: images.store.collect(keep=images.chains(), partial=True))
    await trio.to_thread.run_sync(images.store.empty_trash)
    return freed


def images_directory(images: Images) -> PathDirectory:
    """``images/``."""
    subject = TopSubject(images)
    return PathDirectory(images, subject, "images", None, cast("tuple[Entry[Subject], ...]", TOP), "")
