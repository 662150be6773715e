"""Images made of what is there: of a container's writable layer on its image, and of an image's layers as a single one.

A new image takes the layers below as they are in the store. What is not there (a directory that serves as an image, layers
whose image has lost its last name) becomes layers of its own first, one for each directory. A writable layer that changes nothing
makes none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Literal

import msgspec
from pydock.overlay import manifest as documents
from pydock.overlay import mount, treetar
from pydock.overlay.digest import Digest
from pydock.overlay.errors import OverlayError
from pydock.overlay.image import ARCHITECTURE, Image
from pydock.overlay.intake import Intake
from pydock.overlay.manifest import ConfigFile, History, ImageConfig, RootFs
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store

Check = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Source:
    """A container's root: the *layers* of the image with the digest *image_id* (empty for a directory), bottom first, and its
    writable layer *upper*, None when there is none. What is new and empty at the places *made* has been made to mount on."""

    image_id: str
    layers: tuple[Path, ...]
    upper: Path | None
    made: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """What the history tells of a step; empty where there is nothing to tell."""

    created_by: str = ""
    comment: str = ""
    author: str = ""

    def step(self, created: str, *, empty: bool) -> History:
        """The entry."""
        return History(
            created=created,
            created_by=self.created_by or None,
            comment=self.comment or None,
            author=self.author or None,
            empty_layer=empty,
        )


def commit(
    store: Store,
    reference: Reference,
    source: Source,
    configure: Callable[[ImageConfig], ImageConfig],
    note: Note,
    check: Check,
    read: Check,
) -> Image:
    """Make the image *reference* of *source*; its configuration is what *configure* makes of that of the image below.

    *read* is called when nothing is read of *source* any more. *check* is called now and then, and may raise to end it: then, and
    after any other failure, nothing has changed. Invalid for what no layer can hold, OSError for the disk. Blocks.
    """
    created = _now()
    with store.intake() as intake:
        base = _base(store, source)
        if base is not None:
            intake.begin_with(base, len(source.layers))
            document = documents.decode(store.config_file(base), ConfigFile, f"config {base.id}")
            steps = _first_steps(document.history or (), len(source.layers))
        else:
            mode: Literal["layer", "flat"] = "layer" if source.image_id else "flat"
            for layer in source.layers:
                intake.add_tree(treetar.whole(layer, mode, check), check)
            document = ConfigFile(architecture=ARCHITECTURE, os="linux", rootfs=RootFs())
            steps = [History(created=created, comment=f"all of {layer}") for layer in source.layers]
        changed = False
        if source.upper is not None:
            changes = treetar.changes_of(source.upper, source.layers, source.made, check)
            changed = _add(intake, changes, check, read)
        check()
        config = configure(ImageConfig.from_document(document.config))
        made = msgspec.structs.replace(
            document,
            created=created,
            author=note.author or None,
            config=config.to_document(),
            rootfs=RootFs(diff_ids=intake.diff_ids),
            history=(*steps, note.step(created, empty=not changed)),
        )
        return intake.finish_with(reference, documents.encode(made))


def squash(store: Store, image: Image, reference: Reference, check: Check) -> Image:
    """Make the image *reference*: what is seen of *image*, as a single layer, with its configuration. Blocks; as :func:`commit`."""
    if len(image.layers) < 2:
        return store.tag(image.reference, str(reference))
    created = _now()
    with store.intake() as intake:
        intake.reserve((), [Digest.parse(layer.chain_id) for layer in image.layers])
        union = mount.union(store.layer_paths(image), None, None)
        try:
            intake.add_tree(treetar.whole(union, "flat", check), check)
        finally:
            os.close(union)
        check()
        document = documents.decode(store.config_file(image), ConfigFile, f"config {image.id}")
        before = tuple(msgspec.structs.replace(step, empty_layer=True) for step in document.history or ())
        words = f"{len(image.layers)} layers of {image.reference} as one"
        made = msgspec.structs.replace(
            document,
            created=created,
            rootfs=RootFs(diff_ids=intake.diff_ids),
            history=(*before, Note("squash", words).step(created, empty=False)),
        )
        return intake.finish_with(reference, documents.encode(made))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _add(intake: Intake, chunks: Iterator[bytes], check: Check, read: Check) -> bool:
    """A layer of *chunks*, if there are any."""
    first = next(chunks, None)
    if first is None:
        read()
        return False
    intake.add_tree(chain((first,), chunks), check, read)
    return True


def _base(store: Store, source: Source) -> Image | None:
    """The image that has the layers of *source* as its first ones: the very one, if it still has a name."""
    found = None
    for name in store.references() if source.image_id else ():
        try:
            image = store.image(name)
        except OverlayError:  # it has gone since, or is damaged
            continue
        if image.id == source.image_id:
            return image
        if found is None and _places(store, image)[: len(source.layers)] == source.layers:
            found = image
    return found


def _places(store: Store, image: Image) -> tuple[Path, ...]:
    return tuple(store.layers.path(Digest.parse(layer.chain_id)) for layer in image.layers)


def _first_steps(history: Iterable[History], layers: int) -> list[History]:
    """The steps that made the first *layers* layers; those of other engines may tell of fewer than there are."""
    steps: list[History] = []
    left = layers
    for step in history:
        if not step.empty_layer and not left:
            break
        left -= not step.empty_layer
        steps.append(step)
    return steps + [History()] * left
