"""The way into the store for a new image: imported, pulled, loaded, committed or built."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from pydock.overlay import manifest as documents
from pydock.overlay.compression import Compression, ZstdWriter
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

    def begin_with(self, image: Image) -> None:
        """Take the layers of *image* as the first ones. NotFound if it is gone."""
        with self._store._lock:
            manifest = documents.decode(self._store.manifest(image), Manifest, f"manifest {image.digest}")
            self._diff_ids = [Digest.parse(layer.diff_id) for layer in image.layers]
            self._layers = list(manifest.layers)
            blobs = frozenset(Digest.parse(layer.digest) for layer in manifest.layers)
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
            rootfs=RootFs(diff_ids=tuple(map(str, self._diff_ids))),
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
        if parsed.rootfs.diff_ids != tuple(map(str, self._diff_ids)):
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
        with self._store._lock:
            for document in (config, manifest):
                self._bring(Digest.of(document))
                self._store.blobs.put(document)
            entry = Descriptor(media_type=described.media_type, digest=str(Digest.of(manifest)), size=len(manifest))
            self._store._set_tags({**self._store._tags(), reference: entry})
            self._brought = Needs()
            return self._store.image(str(reference))

    def _bring(self, blob: Digest, chain_id: Digest | None = None) -> None:
        """Note what is about to be stored, and whether it is new."""
        layers = self._store.layers
        self.needs |= Needs(frozenset((blob,)), frozenset((chain_id,)) if chain_id else frozenset())
        if not self._store.blobs.has(blob):
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
