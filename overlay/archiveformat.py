"""What the documents of an archive say: which images there are, of which blobs, by which names.

Two layouts are understood, and docker's since version 25 is both at once: an OCI image layout (``index.json`` and ``blobs/``, the
image-spec's image-layout.md; indexes may be nested, and of one for several machines this machine's image is taken), and docker's
own (``manifest.json``, which names a configuration and layers by their paths; docker's image/spec, v1.2). Of the latter an OCI
manifest is made, with the configuration as it is, so that the image keeps its id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
from pydock.overlay import manifest as documents
from pydock.overlay.compression import Compression, detect
from pydock.overlay.contents import IMPORT, Contents, Member, shown
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid
from pydock.overlay.image import ARCHITECTURE
from pydock.overlay.manifest import Descriptor, Index, Manifest
from pydock.overlay.reference import DEFAULT_TAG, Reference

CONTAINERD_NAME: Final = "io.containerd.image.name"
_LAYERS_MAX: Final = 512
_IMAGES_MAX: Final = 1024
_NESTED_MAX: Final = 4
_SHOWN_MAX: Final = 300
_INDEXES: Final = (documents.INDEX, documents.DOCKER_LIST)
_MANIFESTS: Final = (documents.MANIFEST, documents.DOCKER_MANIFEST)
_CONFIGS: Final = (documents.CONFIG, documents.DOCKER_CONFIG)
_SUFFIXES: Final = (".gz", ".zst", ".zstd", ".xz", ".bz2", ".tgz", ".tzst", ".txz", ".tbz2", ".tar", ".oci", ".docker")
_MEDIA_TYPES: Final = {
    Compression.NONE: documents.LAYER,
    Compression.GZIP: documents.LAYER_GZIP,
    Compression.ZSTD: documents.LAYER_ZSTD,
}


@dataclass(frozen=True, slots=True)
class Found:
    """An image of an archive. *manifest* is None where one is to be made of the *layers*, which may be compressed in any way."""

    references: tuple[Reference, ...]
    config: bytes
    layers: tuple[Member, ...]
    manifest: bytes | None = None


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """An element of docker's manifest.json."""

    config: str
    repo_tags: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None


def name_of(file: str) -> Reference | None:
    """The name that an image without one gets from the archive's: ``app.tar.gz`` is ``app:latest``; None when that is none."""
    stem = file.rpartition("/")[2]
    while stem.endswith(_SUFFIXES):
        stem = stem.rpartition(".")[0]
    try:
        return Reference.parse(stem)
    except Invalid:
        return None


def images_in(contents: Contents, file: str) -> tuple[Found, ...]:
    """The images of an archive; one without a name gets that of the *file*. Invalid if there is none, or a document is bad."""
    if contents.find("index.json") is not None:
        images = list(_Layout(contents).images())
    elif contents.find("manifest.json") is not None:
        images = list(_docker_images(contents))
    elif contents.find("repositories") is not None:
        raise Invalid("this archive was saved by a docker before 1.10, without a manifest.json: save it by a newer one")
    else:
        raise Invalid(f"this is no image archive: it has neither index.json nor manifest.json; {IMPORT}")
    if len(images) > _IMAGES_MAX:
        raise Invalid(f"it has more than {_IMAGES_MAX} images")
    return tuple(_named(images, file))


def _named(images: Iterable[Found], file: str) -> Iterator[Found]:
    """*images*, the one without a name by that of the *file*."""
    given = False
    for image in images:
        if image.references:
            yield image
            continue
        name = name_of(file)
        if given or name is None:
            which = "more than one image" if given else "the image"
            raise Invalid(
                f"{which} in it has no name, and {shown(file)} is none to give it: call the file REFERENCE.tar, or save by name"
            )
        given = True
        yield Found((name,), image.config, image.layers, image.manifest)


def _docker_images(contents: Contents) -> Iterator[Found]:
    data = contents.document("manifest.json", "")
    try:
        saved = msgspec.json.decode(data, type=tuple[_Saved, ...])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"manifest.json is damaged: {error}") from None
    if not saved:
        raise Invalid("manifest.json names no image")
    for image in saved:
        layers = image.layers or ()
        if len(layers) > _LAYERS_MAX:
            raise Invalid(f"an image of manifest.json has {len(layers)} layers, more than {_LAYERS_MAX}")
        yield Found(
            references=tuple(map(Reference.parse, image.repo_tags or ())),
            config=contents.document(image.config, "manifest.json"),
            layers=tuple(contents.member(layer, "manifest.json") for layer in layers),
        )


def made_manifest(config: bytes, layers: Iterable[tuple[Member, Compression]]) -> bytes:
    """The OCI manifest of an image that came without one."""
    descriptors = tuple(
        Descriptor(media_type=_MEDIA_TYPES[compression], digest=str(layer.digest), size=layer.size)
        for layer, compression in layers
    )
    described = Descriptor(media_type=documents.CONFIG, digest=str(Digest.of(config)), size=len(config))
    return documents.encode(Manifest(config=described, layers=descriptors))


def compression_of(contents: Contents, layer: Member) -> Compression:
    """How a layer is compressed."""
    return detect(contents.start(layer))


class _Layout:
    """An OCI image layout in an archive."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents

    def images(self) -> Iterator[Found]:
        """This machine's images, each once with all its names."""
        index = documents.decode(self._contents.document("index.json", ""), Index, "index.json")
        names: dict[Descriptor, dict[Reference, None]] = {}
        others: list[str] = []
        for entry in index.manifests:
            chosen = self._chosen(entry, others, _NESTED_MAX)
            if chosen is not None:
                bare = Descriptor(media_type=chosen.media_type, digest=chosen.digest, size=chosen.size)
                names.setdefault(bare, {}).update(dict.fromkeys(_names(entry)))
        if not names:
            there = f": it is for {', '.join(dict.fromkeys(others))}"[:_SHOWN_MAX] if others else ""
            raise Invalid(f"index.json names no image for linux/{ARCHITECTURE}{there}")
        for descriptor, references in names.items():
            yield self._image(descriptor, tuple(references))

    def _chosen(self, entry: Descriptor, others: list[str], depth: int) -> Descriptor | None:
        """The manifest that *entry* leads to on this machine, None if there is none; *others* gets the platforms that are not it."""
        if entry.platform is not None and (entry.platform.os, entry.platform.architecture) != ("linux", ARCHITECTURE):
            if entry.platform.os != "unknown":  # as attestations have it
                others.append(f"{entry.platform.os}/{entry.platform.architecture}")
            return None
        if entry.media_type in _MANIFESTS:
            return self._original(entry) if entry.artifact_type is None else None
        if entry.media_type not in _INDEXES:
            return None
        if depth == 0:
            raise Invalid(f"index.json has indexes in indexes, more than {_NESTED_MAX} deep")
        inner = documents.decode(self._blob(entry, "index.json"), Index, f"index {entry.digest}")
        found = [chosen for child in inner.manifests if (chosen := self._chosen(child, others, depth - 1)) is not None]
        return found[0] if found else None

    def _original(self, entry: Descriptor) -> Descriptor:
        """The manifest that the image came with, where our own archive has it beside its OCI form."""
        digest = documents.manifest_digest(entry)
        if digest == entry.digest or (member := self._contents.find(_path(digest))) is None:
            return entry
        return Descriptor(media_type=documents.DOCKER_MANIFEST, digest=digest, size=member.size)

    def _blob(self, descriptor: Descriptor, whose: str) -> bytes:
        """A document that a descriptor leads to; its digest was checked when it came in, and its name tells it."""
        self._checked(descriptor, whose)
        return self._contents.document(_path(descriptor.digest), whose)

    def _checked(self, descriptor: Descriptor, whose: str) -> Member:
        member = self._contents.member(_path(descriptor.digest), whose)
        if member.size != descriptor.size:
            raise Invalid(
                f"{whose} says that {descriptor.digest} has {descriptor.size} bytes, but it has {member.size}"
            )
        return member

    def _image(self, descriptor: Descriptor, references: tuple[Reference, ...]) -> Found:
        data = self._blob(descriptor, "index.json")
        whose = f"manifest {descriptor.digest}"
        manifest = documents.decode(data, Manifest, whose)
        if manifest.config.media_type not in _CONFIGS:
            raise Invalid(f"{whose} is not an image's, but of a {manifest.config.media_type[:100]!r}")
        if len(manifest.layers) > _LAYERS_MAX:
            raise Invalid(f"{whose} has {len(manifest.layers)} layers, more than {_LAYERS_MAX}")
        layers = tuple(self._checked(layer, whose) for layer in manifest.layers)
        return Found(references, self._blob(manifest.config, whose), layers, data)


def _path(digest: str) -> str:
    parsed = Digest.parse(digest)
    return f"blobs/{parsed.algorithm}/{parsed.hex}"


def _names(entry: Descriptor) -> tuple[Reference, ...]:
    """The names that an entry of index.json gives: containerd's is whole, the image-spec's may be only a tag, which names nothing
    when it is a number or ``latest``."""
    annotations = entry.annotations or {}
    name = annotations.get(CONTAINERD_NAME)
    if name is None:
        name = annotations.get(documents.REF_NAME)
        if name is None or name == DEFAULT_TAG or name[:1].isdigit():
            return ()
    return (Reference.parse(name),)
