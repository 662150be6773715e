"""OCI documents (descriptor, index, manifest, image configuration) as frozen values.

Documents come from registries and other tools, so fields that are unknown are ignored and fields that may be null are
allowed to be; but what is there must have the right type, or :func:`decode` raises Invalid. Stored documents are never
re-encoded: their digest is that of the bytes as they came. Outside this package the configuration is seen as
:class:`ImageConfig`, plain tuples and strings. See the OCI image-spec: descriptor.md, image-index.md, manifest.md,
config.md; and Docker's ``image/spec`` for Healthcheck and Shell, which OCI leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from pydock.overlay.errors import Invalid

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP: Final = LAYER + "+gzip"
LAYER_ZSTD: Final = LAYER + "+zstd"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
REF_NAME: Final = "org.opencontainers.image.ref.name"
#: The digest of the manifest that an image came with, where an index names its OCI form.
ORIGINAL: Final = "pydock.original.manifest"
_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
_OCI_FORMS: Final = {
    DOCKER_CONFIG: CONFIG,
    _DOCKER_LAYER: LAYER,
    _DOCKER_LAYER + ".gzip": LAYER_GZIP,
    _DOCKER_LAYER + ".zstd": LAYER_ZSTD,
}


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which machine a manifest of an index is for."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A reference to a blob; *size* in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    urls: tuple[str, ...] | None = None
    artifact_type: str | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """An image index; also what index.json of a layout is."""

    manifests: tuple[Descriptor, ...] = ()
    schema_version: int = 2
    media_type: str = INDEX


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image manifest: its configuration and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    schema_version: int = 2
    media_type: str = MANIFEST


class RootFs(msgspec.Struct, frozen=True):
    """The digests of the uncompressed layers, bottom first."""

    diff_ids: tuple[str, ...] = ()
    type: str = "layers"


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a layer (or, with *empty_layer*, only the configuration) came about."""

    created: str | None = None
    created_by: str | None = None
    comment: str | None = None
    author: str | None = None
    empty_layer: bool = False


class HealthcheckDocument(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Docker's health check; durations in nanoseconds."""

    test: tuple[str, ...] | None = None
    interval: int | None = None
    timeout: int | None = None
    start_period: int | None = None
    retries: int | None = None


class Execution(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The ``config`` object of an image configuration: defaults for running it. Null and absent mean the same."""

    user: str | None = None
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str | None = None
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    healthcheck: HealthcheckDocument | None = None
    shell: tuple[str, ...] | None = None
    on_build: tuple[str, ...] | None = None


class ConfigFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image configuration document."""

    architecture: str
    os: str
    rootfs: RootFs
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    config: Execution | None = None
    history: tuple[History, ...] | None = None


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """*test* begins with NONE, CMD or CMD-SHELL; durations in nanoseconds, 0 is the engine's default."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to run it, in plain types; what it does not say is empty.

    *env* are ``NAME=VALUE``, *ports* ``PORT[-END][/PROTOCOL]``, *labels* pairs; *stop_signal* is a name or a number.
    """

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    volumes: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    stop_signal: str | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None

    @classmethod
    def from_document(cls, document: Execution | None) -> ImageConfig:
        """The plain form of a document's ``config`` object."""
        if document is None:
            return cls()
        check = document.healthcheck
        return cls(
            entrypoint=document.entrypoint or (),
            command=document.cmd or (),
            env=document.env or (),
            workdir=document.working_dir or "",
            user=document.user or "",
            volumes=tuple(document.volumes or ()),
            ports=tuple(document.exposed_ports or ()),
            labels=tuple((document.labels or {}).items()),
            stop_signal=document.stop_signal or None,
            shell=document.shell or (),
            on_build=document.on_build or (),
            healthcheck=Healthcheck(
                test=check.test or (),
                interval=check.interval or 0,
                timeout=check.timeout or 0,
                start_period=check.start_period or 0,
                retries=check.retries or 0,
            )
            if check
            else None,
        )

    def to_document(self) -> Execution:
        """The ``config`` object that says the same."""
        check = self.healthcheck
        return Execution(
            user=self.user or None,
            exposed_ports={port: {} for port in self.ports} or None,
            env=self.env or None,
            entrypoint=self.entrypoint or None,
            cmd=self.command or None,
            volumes={volume: {} for volume in self.volumes} or None,
            working_dir=self.workdir or None,
            labels=dict(self.labels) or None,
            stop_signal=self.stop_signal,
            shell=self.shell or None,
            on_build=self.on_build or None,
            healthcheck=HealthcheckDocument(
                test=check.test or None,
                interval=check.interval or None,
                timeout=check.timeout or None,
                start_period=check.start_period or None,
                retries=check.retries or None,
            )
            if check
            else None,
        )


Document = TypeVar("Document", Descriptor, Index, Manifest, ConfigFile)


def decode(data: bytes, kind: type[Document], what: str) -> Document:
    """*data*, the JSON of *what* (words for the message), as a value; Invalid if it is not one."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"{what} is not a valid {kind.__name__.lower()}: {error}") from None


def encode(document: msgspec.Struct) -> bytes:
    """*document* as JSON, always the same bytes for equal values."""
    return msgspec.json.encode(document, order="deterministic")


def oci_form(manifest: Manifest) -> Manifest:
    """The OCI manifest that says what docker's *manifest* says, for tools that take no other in an image layout."""

    def translated(descriptor: Descriptor) -> Descriptor:
        kind = _OCI_FORMS.get(descriptor.media_type, descriptor.media_type)
        return msgspec.structs.replace(descriptor, media_type=kind)

    return Manifest(config=translated(manifest.config), layers=tuple(map(translated, manifest.layers)))


def manifest_digest(entry: Descriptor) -> str:
    """The digest of the manifest that the image of an index's *entry* came with."""
    return (entry.annotations or {}).get(ORIGINAL, entry.digest)
