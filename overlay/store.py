"""The images of this machine: references, documents, blobs and unpacked layers.

``Store(ROOT/images)`` keeps a valid OCI image layout (image-layout.md: ``oci-layout``, ``index.json``, ``blobs/``),
so that other tools can read it in place, and beside it ``layers/`` by chain id, ``tmp/`` for what is being made and
``trash/`` for what is to be deleted, and ``partial/`` for
blobs that are still coming. An image is there when index.json names it, and index.json is replaced by rename
after everything it needs has its final name; so a kill at any instant leaves an image whole or absent, and
:meth:`Store.recover` clears away the rest.

All calls block and may come from any thread. One lock guards the index and the decision what is garbage; unpacking
happens outside it, protected by an :class:`Intake`, whose blobs and layers nobody collects before it is left.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydock.overlay import manifest as documents
from pydock.overlay.blobs import Blobs, chunks_of, open_plain
from pydock.overlay.digest import Digest, chain_ids
from pydock.overlay.errors import Exists, Invalid, NotFound
from pydock.overlay.image import Image, Layer, Needs
from pydock.overlay.intake import Intake
from pydock.overlay.layers import Layers, LayerStream
from pydock.overlay.manifest import ConfigFile, Descriptor, ImageConfig, Index, Manifest
from pydock.overlay.partials import Partials
from pydock.overlay.reference import Reference
from pydock.overlay.settling import Ledger
from pydock.overlay.tags import INDEXES, since, tags_of, with_tags
from pydock.overlay.trees import remove_tree


class Store:
    """The images below *directory*, which is made if need be."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._temporary = directory / "tmp"
        self._trash = directory / "trash"
        for path in (directory, self._temporary, self._trash):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.blobs = Blobs(directory / "blobs", self._temporary)
        self.layers = Layers(directory / "layers", self._temporary, self._trash)
        self.partials = Partials(directory / "partial")
        self._lock = threading.RLock()
        self._emptying = threading.Lock()  # not the other: a large layer takes seconds to delete
        self._images: dict[str, Image] = {}  # by manifest digest; reference is ""
        self._intakes: list[Intake] = []
        self._tagged: dict[str, int] = {}
        layout = directory / "oci-layout"
        if not layout.exists():
            self._replace(layout, b'{"imageLayoutVersion":"1.0.0"}')
        self.made = layout.stat().st_mtime_ns  # in ns since the epoch
        self._index_path = directory / "index.json"
        self._settled_index_path = directory / "index.settled.json"
        if not self._index_path.exists():
            self._replace(self._index_path, documents.encode(Index()))
        self._index = self._read_index()
        self._ledger = Ledger(directory / "unsettled.json", self._replace)

    # -- reading

    def references(self) -> tuple[str, ...]:
        """The short canonical form of every reference, sorted."""
        with self._lock:
            return tuple(sorted(str(reference) for reference in self._tags()))

    def image(self, ref: str) -> Image:
        """The image of that name, in any form. NotFound; Invalid if the name or a stored document is damaged."""
        reference = Reference.parse(ref)
        with self._lock:
            descriptor = self._descriptor(reference)
            return replace(self._load(documents.manifest_digest(descriptor)), reference=str(reference))

    def tagged(self, ref: str) -> int:
        """When that name came to be this image's, in ns since the epoch: all that is to be said of it is so since then. NotFound."""
        with self._lock:
            if (known := self._tagged.get(ref)) is None:
                descriptor = self._descriptor(Reference.parse(ref))
                told = since(descriptor)
                known = self._tagged[ref] = self._came(descriptor) if told is None else told
            return known

    def known_layers(self) -> frozenset[tuple[str, str]]:
        """The digests of all layers of all images, compressed as they came and not."""
        with self._lock:
            pairs: set[tuple[str, str]] = set()
            for descriptor in self._tags().values():
                with suppress(Invalid, NotFound):
                    layers = self._load(documents.manifest_digest(descriptor)).layers
                    pairs.update((layer.digest, layer.diff_id) for layer in layers)
            return frozenset(pairs)

    def manifest(self, image: Image) -> bytes:
        """The manifest as stored."""
        return self.blobs.read(Digest.parse(image.digest))

    def config_file(self, image: Image) -> bytes:
        """The configuration document as stored."""
        return self.blobs.read(Digest.parse(image.id))

    def layer_paths(self, image: Image) -> tuple[Path, ...]:
        """The directories of its layers, bottom first. NotFound if one is not unpacked."""
        if image.directory is not None:
            return (image.directory,)
        paths = []
        for layer in image.layers:
            chain_id = Digest.parse(layer.chain_id)
            if not self.layers.has(chain_id):
                raise NotFound(f"layer {layer.digest} of {image.reference} is not unpacked")
            paths.append(self.layers.path(chain_id))
        return tuple(paths)

    # -- changing

    def import_tar(self, path: Path, ref: str, check: Callable[[], object] = bool) -> Image:
        """Make an image of one layer of the root file system in the tar at *path*, compressed or not.

        An image that has the name loses it, and its files stay until :meth:`collect`. *check* is called now and then, and may
        raise to end it. Invalid for a damaged archive, OSError (ENOSPC) for the disk; then nothing has changed.
        """
        reference = Reference.parse(ref)
        with open_plain(path) as file, self.intake() as intake:
            intake.add_layer(chunks_of(file, check))
            check()
            return intake.finish(reference, ImageConfig())

    def tag(self, old: str, new: str) -> Image:
        """Give the image *old* the further name *new*, taking it from whoever has it. NotFound, Invalid."""
        reference = Reference.parse(new)
        with self._lock:
            descriptor = self._descriptor(Reference.parse(old))
            self._set_tags({**self._tags(), reference: descriptor})
            return self.image(new)

    def rename(self, old: str, new: str) -> Image:
        """Replace the name *old* by *new*. NotFound, Invalid; Exists if *new* names something else."""
        source, target = Reference.parse(old), Reference.parse(new)
        with self._lock:
            tags = self._tags()
            if target != source and target in tags:
                raise Exists(f"{target} is an image already")
            descriptor = self._taken(tags, source)
            self._set_tags({**tags, target: descriptor})
            return self.image(new)

    def untag(self, ref: str, *, keep: frozenset[str] = frozenset()) -> None:
        """Take the name away; with the last name of an image, the image.

        Layers whose chain ids are in *keep* stay on disk until :meth:`collect` is called without them. NotFound.
        """
        reference = Reference.parse(ref)
        with self._lock:
            tags = self._tags()
            descriptor = self._taken(tags, reference)
            self._set_tags(tags)
            self._remove(self._needs(descriptor), keep)

    def collect(self, *, keep: frozenset[str] = frozenset(), partial: bool = False) -> int:
        """Remove blobs and layers that no image, no intake and no chain id in *keep* needs; the bytes of blobs freed.

        With *partial* also what has come of blobs by transfers that ended early, which the next one would go on with. Call
        :meth:`empty_trash` to free those of layers.
        """
        with self._lock:
            needed = self._needed()
            self.layers.collect(needed.chain_ids | frozenset(map(Digest.parse, keep)))
            self._images.clear()
            freed = self.partials.collect(needed.blobs) if partial else 0
            return freed + self.blobs.collect(needed.blobs)

    def empty_trash(self) -> None:
        """Delete what was removed; may take seconds for large layers."""
        with self._emptying:
            for path in list(self._trash.iterdir()):
                remove_tree(path, aside=self._trash)

    def recover(self, *, keep: frozenset[str] = frozenset()) -> tuple[str, ...]:
        """Clear away what a killed process left half made; to be called at the start, before anything else.

        After a loss of power, check what had not settled, and unpack again what can be; the references of images that
        could not be saved are taken away, and returned.
        """
        for path in list(self._temporary.iterdir()):
            remove_tree(path, aside=self._temporary)
        self.layers.recover()
        lost = self._check(self._ledger.suspects) if self._ledger.suspects != frozenset() else ()
        self.collect(keep=keep)
        return lost

    def settle(self) -> None:
        """Wait until all that has been stored is on the disk; call it now and then, when nobody waits for it."""
        with self._lock:
            names = self._ledger.unsettled()
            index = documents.encode(self._index)
        self._ledger.wait()
        with self._lock:
            self._replace(self._settled_index_path, index)
            self._ledger.remove(names)

    def intake(self) -> Intake:
        """The way in for a new image; a context manager."""
        return Intake(self)

    def unpack_layers(self, image: Image) -> Image:
        """Unpack those layers that are not (another tool brought them, say) from their blobs; the image as it is then.

        Invalid, OSError, NotFound if a blob is missing.
        """
        for layer in image.layers:
            if self.layers.has(chain_id := Digest.parse(layer.chain_id)):
                continue
            with self.blobs.open(Digest.parse(layer.digest)) as file, self.layers.pending() as pending:
                facts = pending.unpack(LayerStream(chunks_of(file)), expected=Digest.parse(layer.diff_id))
                with self._lock:
                    self._ledger.add(self._name(self.layers.path(chain_id)))
                    pending.commit(chain_id, facts)
                    self._images.pop(image.digest, None)
        return self.image(image.reference)

    # -- inside; all with the lock held

    def _read_index(self) -> Index:
        """The index; the one that settled last, if a loss of power took the newer one's bytes."""
        try:
            return documents.decode(self._index_path.read_bytes(), Index, str(self._index_path))
        except Invalid:
            if not self._settled_index_path.exists():
                raise
            return documents.decode(self._settled_index_path.read_bytes(), Index, str(self._settled_index_path))

    def _name(self, path: Path) -> str:
        """A blob or layer in the ledger."""
        return str(path.relative_to(self.directory))

    def _check(self, suspects: frozenset[str] | None) -> tuple[str, ...]:
        """Remove blobs among *suspects* (None: of all) that are damaged, and make layers anew; the references lost."""
        for digest in self.blobs.digests():
            if suspects is None or self._name(self.blobs.path(digest)) in suspects:
                self.blobs.verify(digest)
        for chain_id in self.layers.chain_ids():
            if suspects is None or self._name(self.layers.path(chain_id)) in suspects:
                self.layers.remove(chain_id)
        self._images.clear()
        lost = []
        for reference, entry in self._tags().items():
            try:
                image = self.image(str(reference))
                wanted = (entry.digest, *(layer.digest for layer in image.layers))
                if not all(self.blobs.has(Digest.parse(digest)) for digest in wanted):
                    raise NotFound(f"{reference} lacks a blob")
                self.unpack_layers(image)
            except (Invalid, NotFound):
                lost.append(reference)
        self._set_tags({name: entry for name, entry in self._tags().items() if name not in lost})
        self.settle()
        return tuple(map(str, lost))

    def _tags(self) -> dict[Reference, Descriptor]:
        return tags_of(self._index)

    def _descriptor(self, reference: Reference) -> Descriptor:
        """By its name, or by a digest that a tag of that repository has."""
        tags = self._tags()
        if (found := tags.get(reference)) is not None:
            return found
        if reference.digest is not None:
            for tag, descriptor in tags.items():
                same = (tag.host, tag.path) == (reference.host, reference.path)
                if same and documents.manifest_digest(descriptor) == str(reference.digest):
                    return descriptor
        raise NotFound(f"no such image: {reference}")

    @staticmethod
    def _taken(tags: dict[Reference, Descriptor], reference: Reference) -> Descriptor:
        try:
            return tags.pop(reference)
        except KeyError:
            raise NotFound(f"no such image: {reference}") from None

    def _came(self, descriptor: Descriptor) -> int:
        """When the manifest was put here: of a tag that another tool, or an older version, has set."""
        try:
            return self.blobs.path(Digest.parse(documents.manifest_digest(descriptor))).stat().st_mtime_ns
        except OSError:
            return self.made

    def _set_tags(self, tags: dict[Reference, Descriptor]) -> None:
        index = with_tags(self._index, tags)
        self._replace(self._index_path, documents.encode(index))
        self._index = index
        self._tagged.clear()

    def _replace(self, path: Path, data: bytes) -> None:
        """Replace a file's content at once. The kernel has the data before the name points to it."""
        descriptor, name = tempfile.mkstemp(prefix="document-", dir=self._temporary)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.chmod(0o644)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _load(self, digest: str) -> Image:
        """The image of a manifest, without a reference."""
        if (known := self._images.get(digest)) is not None:
            return known
        manifest = documents.decode(self.blobs.read(Digest.parse(digest)), Manifest, f"manifest {digest}")
        config_digest = manifest.config.digest
        config = documents.decode(self.blobs.read(Digest.parse(config_digest)), ConfigFile, f"config {config_digest}")
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(manifest.layers):
            raise Invalid(f"manifest {digest} has {len(manifest.layers)} layers, its config {len(diff_ids)}")
        layers = []
        for blob, diff_id, chain_id in zip(
            manifest.layers, diff_ids, chain_ids(map(Digest.parse, diff_ids)), strict=True
        ):
            unpacked = self.layers.facts(chain_id).bytes if self.layers.has(chain_id) else 0
            layers.append(Layer(blob.digest, diff_id, str(chain_id), blob.size, unpacked))
        image = Image(
            reference="",
            id=config_digest,
            digest=digest,
            size=sum(layer.unpacked for layer in layers),
            created=config.created or "",
            architecture=config.architecture,
            os=config.os,
            author=config.author or "",
            config=ImageConfig.from_document(config.config),
            layers=tuple(layers),
        )
        self._images[digest] = image
        return image

    def _needs(self, descriptor: Descriptor) -> Needs:
        """Everything that hangs on an entry of an index; what is damaged or missing needs nothing further."""
        digest = Digest.parse(descriptor.digest)
        needs = Needs(frozenset((digest,)))
        try:
            if descriptor.media_type in INDEXES:
                index = documents.decode(self.blobs.read(digest), Index, f"index {digest}")
                for child in index.manifests:
                    needs |= self._needs(child)
                return needs
            image = self._load(documents.manifest_digest(descriptor))
        except (Invalid, NotFound):
            return needs
        blobs = {
            Digest.parse(image.id),
            Digest.parse(image.digest),
            *(Digest.parse(layer.digest) for layer in image.layers),
        }
        return needs | Needs(frozenset(blobs), frozenset(Digest.parse(layer.chain_id) for layer in image.layers))

    def _needed(self) -> Needs:
        needed = Needs()
        for descriptor in self._index.manifests:
            needed |= self._needs(descriptor)
        for intake in self._intakes:
            needed |= intake.needs
        return needed

    def _remove(self, candidates: Needs, keep: frozenset[str]) -> None:
        """Remove those of *candidates* that nobody needs."""
        garbage = candidates - self._needed() - Needs(chain_ids=frozenset(map(Digest.parse, keep)))
        for blob in garbage.blobs:
            self.blobs.path(blob).unlink(missing_ok=True)
            self._images.pop(str(blob), None)
        for chain_id in garbage.chain_ids:
            self.layers.remove(chain_id)
