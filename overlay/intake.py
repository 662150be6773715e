"""The way into the store for a new image: imported, pulled, loaded, committed or built."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pydock.overlay import manifest as documents
from pydock.overlay.compression import Compression, GzipWriter, ZstdWriter
from pydock.overlay.digest import Digest, chain_ids
from pydock.overlay.errors import Invalid
from pydock.overlay.image import ARCHITECTURE, Image, Needs
from pydock.overlay.layers import LayerStream
from pydock.overlay.manifest import ConfigFile, Descriptor, History, ImageConfig, Manifest, RootFs
from pydock.overlay.reference import Reference

if TYPE_CHECKING:
    from pydock.overlay.store import Store

_MEDIA_TYPES: Final = {
    Compression.NONE: documents.LAYER,
    Compression.GZIP: documents.LAYER_GZIP,
    Compression.ZSTD: documents.LAYER_ZSTD,
}
#: Layers that are unpacked at once: each keeps a thread busy with decompressing and a process with making files.
_WORKERS: Final = 2
_LOOK: Final = 0.2  # seconds, the most until it is seen that an image is not wanted any more


class Aborted(Exception):
    """Whoever wanted the image does not want it any more."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image whose layers are there, and that has no name yet: its documents, and the manifest's media type."""

    media_type: str
    manifest: bytes
    config: bytes


class Intake:
    """An image on its way in, layer by layer, bottom first; a context manager.

    Left without :meth:`finish`, whatever it brought in is removed again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layers: list[Descriptor] = []
        self._diff_ids: list[Digest] = []
        self._brought = Needs()
        self.needs = Needs()

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Of the layers so far."""
        return tuple(map(str, self._diff_ids))

    def begin_with(self, image: Image, count: int | None = None) -> None:
        """Take the layers of *image*, or *count* of them, as the first ones. NotFound if it is gone."""
        with self._store._lock:
            manifest = documents.decode(self._store.manifest(image), Manifest, f"manifest {image.digest}")
            self._diff_ids = [Digest.parse(layer.diff_id) for layer in image.layers][:count]
            self._layers = list(documents.oci_form(manifest).layers)[:count]
            blobs = frozenset(Digest.parse(layer.digest) for layer in self._layers)
            self.needs |= Needs(blobs, frozenset(chain_ids(self._diff_ids)))

    def add_layer(self, chunks: Iterable[bytes], *, expected: Digest | None = None) -> Descriptor:
        """The next layer: a tar, compressed or not, stored as it comes and unpacked.

        What is compressed in a way that OCI has no media type for (bzip2, xz) is stored with zstd instead. Invalid,
        also if the digest of what is stored is not *expected*; OSError.
        """
        with self._store.blobs.writer() as writer, self._store.layers.pending() as pending:
            stream = LayerStream(chunks)
            media_type = _MEDIA_TYPES.get(stream.compression)
            if media_type is not None:
                facts = pending.unpack(stream.shown_to(raw=writer.write))
            else:
                media_type, zstd = documents.LAYER_ZSTD, ZstdWriter()
                facts = pending.unpack(stream.shown_to(plain=lambda data: writer.write(zstd.feed(data))))
                writer.write(zstd.finish())
            diff_ids = [*self._diff_ids, stream.diff_id]
            chain_id = chain_ids(diff_ids)[-1]
            with self._store._lock:
                self._bring(writer.digest, chain_id)
                digest = writer.commit(expected)
                pending.commit(chain_id, facts)
        descriptor = Descriptor(media_type=media_type, digest=str(digest), size=writer.size)
        self._diff_ids = diff_ids
        self._layers.append(descriptor)
        return descriptor

    def add_tree(
        self, chunks: Iterable[bytes], check: Callable[[], object], read: Callable[[], object] = lambda: None
    ) -> Descriptor:
        """The next layer: a plain tar that is made while it is read. It is stored with gzip, and unpacked a little behind.

        *read* is called once all of *chunks* has been read, and *check* now and then, to raise when it is not wanted any more.
        What is there already is not unpacked to the end again. Invalid, OSError.
        """
        stop = threading.Event()
        with self._store.blobs.writer() as writer, self._store.layers.pending() as pending:
            plain, gzip = hashlib.sha256(), GzipWriter()
            with ThreadPoolExecutor(1, thread_name_prefix="unpack") as pool:
                unpacking = pool.submit(lambda: pending.unpack(LayerStream(writer.follow(stop))))
                try:
                    for chunk in chunks:
                        check()
                        plain.update(chunk)
                        writer.write(gzip.feed(chunk))
                        if unpacking.done():
                            unpacking.result()
                    writer.write(gzip.finish())
                    writer.end()
                    read()
                    diff_ids = [*self._diff_ids, Digest("sha256", plain.hexdigest())]
                    chain_id = chain_ids(diff_ids)[-1]
                    self.reserve((), (chain_id,))
                    if not self._store.layers.has(chain_id):
                        while not wait((unpacking,), _LOOK).done:
                            check()
                        facts = unpacking.result()
                finally:
                    stop.set()
            with self._store._lock:
                self._bring(writer.digest, chain_id)
                digest = writer.commit()
                if not self._store.layers.has(chain_id):
                    pending.commit(chain_id, facts)
        self._diff_ids = diff_ids
        self._layers.append(Descriptor(media_type=documents.LAYER_GZIP, digest=str(digest), size=writer.size))
        return self._layers[-1]

    def reserve(self, blobs: Iterable[Digest], layers: Iterable[Digest] = ()) -> None:
        """Keep these *blobs*, or what has come of them, and *layers* from being collected while this is at work."""
        with self._store._lock:
            self.needs |= Needs(frozenset(blobs), frozenset(layers))

    def assemble(
        self,
        reference: Reference,
        manifest: bytes,
        config: bytes,
        *,
        source: Callable[[Descriptor], Iterable[bytes]] | None = None,
        aborted: threading.Event | None = None,
    ) -> Image:
        """Make the image that the documents *manifest* and *config* describe: :meth:`prepare` and :meth:`publish`."""
        prepared = self.prepare(str(reference), manifest, config, source=source, aborted=aborted)
        return self.publish({reference: prepared})[0]

    def prepare(
        self,
        what: str,
        manifest: bytes,
        config: bytes,
        *,
        source: Callable[[Descriptor], Iterable[bytes]] | None = None,
        aborted: threading.Event | None = None,
    ) -> Prepared:
        """Unpack what layers of the image that these documents describe are not there, two at once; *what* are words for it.

        The layers' blobs are in the store or among its partial ones by the end of this; *source* gives the bytes of one until
        then, if they are not to be read from there. Invalid, NotFound for a blob that is missing, OSError; Aborted once *aborted*
        is set.
        """
        parsed = documents.decode(config, ConfigFile, f"the config of {what}")
        described = documents.decode(manifest, Manifest, f"the manifest of {what}")
        diff_ids = [Digest.parse(text) for text in parsed.rootfs.diff_ids]
        if len(diff_ids) != len(described.layers):
            raise Invalid(
                f"{what}: the manifest has {len(described.layers)} layers, but the config tells of {len(diff_ids)}"
            )
        if described.media_type not in (documents.MANIFEST, documents.DOCKER_MANIFEST):
            raise Invalid(f"the manifest of {what} is of type {described.media_type[:100]!r}, which is no image's")
        if described.config.digest != str(Digest.of(config)):
            raise Invalid(f"the manifest of {what} names another config than there is")
        chains = chain_ids(diff_ids)
        digests = [Digest.parse(layer.digest) for layer in described.layers]
        self.reserve(digests, chains)
        stop = aborted or threading.Event()

        known = self._store.known_layers()

        def unpack(descriptor: Descriptor, diff_id: Digest, chain_id: Digest) -> None:
            there = self._store.layers.has(chain_id)
            if there and (descriptor.digest, str(diff_id)) in known:
                return
            chunks = self._stored(Digest.parse(descriptor.digest)) if source is None else source(descriptor)
            stream = LayerStream(_until(stop, chunks))
            try:
                if there:  # unpacked from another blob: this one has yet to show that it is the same
                    for _ in stream:
                        pass
                    stream.check(diff_id)
                    return
                with self._store.layers.pending() as pending:
                    facts = pending.unpack(stream, expected=diff_id)
                    with self._store._lock:
                        self._bring(chain_id=chain_id)
                        pending.commit(chain_id, facts)
            except Invalid as error:
                raise Invalid(f"layer {descriptor.digest}: {error}") from None

        with self._store.layers.unpackers, ThreadPoolExecutor(_WORKERS, thread_name_prefix="unpack") as pool:
            tasks = [pool.submit(unpack, *each) for each in zip(described.layers, diff_ids, chains, strict=True)]
            failed = [task for task in wait(tasks, return_when=FIRST_EXCEPTION).done if task.exception()]
            if failed:
                stop.set()
                pool.shutdown(cancel_futures=True)
                failed[0].result()
        with self._store._lock:
            for digest in digests:
                self._move_in(digest)
        return Prepared(described.media_type, manifest, config)

    def finish(
        self,
        reference: Reference,
        config: ImageConfig,
        *,
        created: str | None = None,
        author: str | None = None,
        history: tuple[History, ...] | None = None,
    ) -> Image:
        """Make the image of the layers so far, for this machine's architecture. *created* is RFC 3339, now if None."""
        created = created or datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        document = ConfigFile(
            architecture=ARCHITECTURE,
            os="linux",
            rootfs=RootFs(diff_ids=self.diff_ids),
            created=created,
            author=author,
            config=config.to_document(),
            history=history or tuple(History(created=created, comment="imported") for _ in self._layers),
        )
        return self.finish_with(reference, documents.encode(document))

    def finish_with(self, reference: Reference, config: bytes, manifest: bytes | None = None) -> Image:
        """The same with documents that exist already, which are stored as they are. Invalid if they don't fit.

        An image that has the name loses it, and its files stay until :meth:`Store.collect`.
        """
        parsed = documents.decode(config, ConfigFile, f"the config of {reference}")
        if parsed.rootfs.diff_ids != self.diff_ids:
            raise Invalid(f"the config of {reference} lists other layers than there are")
        config_digest = Digest.of(config)
        if manifest is None:
            descriptor = Descriptor(media_type=documents.CONFIG, digest=str(config_digest), size=len(config))
            manifest = documents.encode(Manifest(config=descriptor, layers=tuple(self._layers)))
        described = documents.decode(manifest, Manifest, f"the manifest of {reference}")
        if described.config.digest != str(config_digest) or (
            [layer.digest for layer in described.layers] != [layer.digest for layer in self._layers]
        ):
            raise Invalid(f"the manifest of {reference} names another config or other layers than there are")
        return self.publish({reference: Prepared(described.media_type, manifest, config)})[0]

    def publish(self, prepared: Mapping[Reference, Prepared]) -> tuple[Image, ...]:
        """Give the prepared images their names, all at once. Images that have them lose them."""
        with self._store._lock:
            tags = self._store._tags()
            for reference, image in prepared.items():
                for document in (image.config, image.manifest):
                    self._bring(Digest.of(document))
                    self._store.blobs.put(document)
                tags[reference] = self._entry(image)
            self._store._set_tags(tags)
            self._brought = Needs()
            return tuple(self._store.image(str(reference)) for reference in prepared)

    def _entry(self, image: Prepared) -> Descriptor:
        """The index's entry for an image, which leads to an OCI manifest in any case: other tools read the store in place."""
        digest = str(Digest.of(image.manifest))
        if image.media_type == documents.MANIFEST:
            return Descriptor(media_type=image.media_type, digest=digest, size=len(image.manifest))
        form = documents.encode(documents.oci_form(documents.decode(image.manifest, Manifest, f"manifest {digest}")))
        self._bring(Digest.of(form))
        return Descriptor(
            media_type=documents.MANIFEST,
            digest=str(self._store.blobs.put(form)),
            size=len(form),
            annotations={documents.ORIGINAL: digest},
        )

    def take_blob(self, path: Path, digest: Digest) -> None:
        """Store the file at *path*, which is on the store's file system and has the content that *digest* says, as a blob."""
        with self._store._lock:
            self._bring(digest)
            if not self._store.blobs.has(digest):
                self._store.blobs.take(path, digest)

    def _stored(self, digest: Digest) -> Iterable[bytes]:
        """A blob in pieces, in the store or beside it."""
        if self._store.blobs.has(digest):
            return self._store.blobs.chunks(digest)
        return self._store.partials.chunks(digest)

    def _move_in(self, digest: Digest) -> None:
        """Give a blob that has come whole its place in the store; with the lock held."""
        if self._store.blobs.has(digest):
            return
        self._bring(digest)
        self._store.blobs.take(self._store.partials.path(digest), digest)

    def _bring(self, blob: Digest | None = None, chain_id: Digest | None = None) -> None:
        """Note what is about to be stored, and whether it is new."""
        layers = self._store.layers
        self.needs |= Needs(
            frozenset((blob,)) if blob else frozenset(), frozenset((chain_id,)) if chain_id else frozenset()
        )
        if blob and not self._store.blobs.has(blob):
            self._brought |= Needs(blobs=frozenset((blob,)))
            self._store._ledger.add(self._store._name(self._store.blobs.path(blob)))
        if chain_id and not layers.has(chain_id):
            self._brought |= Needs(chain_ids=frozenset((chain_id,)))
            self._store._ledger.add(self._store._name(layers.path(chain_id)))

    def __enter__(self) -> Self:
        with self._store._lock:
            self._store._intakes.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._store._lock:
            self._store._intakes.remove(self)
            self._store._remove(self._brought, frozenset())


def _until(stop: threading.Event, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """*chunks* for as long as they are wanted."""
    for chunk in chunks:
        if stop.is_set():
            raise Aborted
        yield chunk
