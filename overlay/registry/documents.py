"""Which manifest a reference means, and the documents that hang on it: what is asked of a registry before any layer.

Of an index the manifest for this machine is chosen, or for the platform that was asked for; a manifest that is in none has to be for
that platform. Everything is checked against the
digest and size by which it was named; what only has a tag, against the digest that the registry tells with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import httpx2
import msgspec
import trio
from pydock.overlay import manifest as documents
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.image import ARCHITECTURE
from pydock.overlay.manifest import ConfigFile, Descriptor, Index, Manifest, Platform
from pydock.overlay.reference import Reference
from pydock.overlay.registry.session import TRIES, Cut, Session

#: Bytes; registries refuse manifests beyond 4 MiB, and a configuration is no longer in any sane image.
MANIFEST_LIMIT: Final = 4 << 20
CONFIG_LIMIT: Final = 8 << 20
_INDEXES: Final = (documents.INDEX, documents.DOCKER_LIST)
_MANIFESTS: Final = (documents.MANIFEST, documents.DOCKER_MANIFEST)
_CONFIGS: Final = (documents.CONFIG, "application/vnd.docker.container.image.v1+json")
_ACCEPT: Final = ", ".join((*_MANIFESTS, *_INDEXES))
#: Older machines that these can stand in for, best first.
_VARIANTS: Final = {("arm64", ""): ("v8", ""), ("arm", ""): ("v7", "v6", "v5", "")}
#: What a configuration means that tells no variant.
_USUAL: Final = {"arm64": "v8", "arm": "v7"}


class _MediaType(msgspec.Struct, frozen=True, rename="camel"):
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A manifest as it came, and its parsed form. *platform* is what was asked for when no index told whether it is for that."""

    data: bytes
    manifest: Manifest
    platform: Platform | None = None

    @property
    def digest(self) -> Digest:
        """What it is known by."""
        return Digest.of(self.data)

    def check_platform(self, config: bytes, reference: Reference) -> None:
        """Whether *config*, its configuration, is for the platform that was asked for. NotFound, Invalid."""
        if self.platform is not None:
            file = documents.decode(config, ConfigFile, f"the config of {reference}")
            usual = _USUAL.get(file.architecture, "") if self.platform.variant else ""
            platform = Platform(os=file.os, architecture=file.architecture, variant=file.variant or usual)
            only = msgspec.structs.replace(self.manifest.config, media_type=documents.MANIFEST, platform=platform)
            choose((only,), self.platform, str(reference))


def parse_platform(text: str) -> Platform:
    """``OS/ARCHITECTURE[/VARIANT]`` or ``ARCHITECTURE``; Invalid."""
    parts = text.split("/")
    if not all(parts) or len(parts) > 3:
        raise Invalid(f"{text[:80]!r} is not a platform: want OS/ARCHITECTURE[/VARIANT]")
    if len(parts) == 1:
        parts.insert(0, "linux")
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) > 2 else "")


def pull_scope(path: str) -> str:
    """What a token has to allow for reading the repository *path*."""
    return f"repository:{path}:pull"


async def find_manifest(session: Session, reference: Reference, platform: Platform | None) -> Found:
    """The manifest that *reference* means for *platform*, or for this machine. NotFound, Invalid, OSError."""
    wanted, asked = reference.digest, platform
    data, kind = await _manifest(session, reference, str(wanted or reference.tag), wanted, None)
    if kind in _INDEXES:
        index = documents.decode(data, Index, f"the index {reference}")
        child = choose(index.manifests, platform or Platform(os="linux", architecture=ARCHITECTURE), str(reference))
        data, kind = await _manifest(session, reference, child.digest, Digest.parse(child.digest), child.size)
        asked = None
    if kind not in _MANIFESTS:
        raise Invalid(f"{reference} is no container image, but {kind or 'something without a type'}")
    manifest = documents.decode(data, Manifest, f"the manifest of {reference}")
    _check(manifest, reference)
    return Found(data, manifest, asked)


def choose(manifests: Iterable[Descriptor], platform: Platform, what: str) -> Descriptor:
    """The one for *platform*; NotFound, with those that there are."""
    candidates = [each for each in manifests if each.platform is not None and each.media_type in _MANIFESTS]
    variants = (platform.variant,) if platform.variant else _VARIANTS.get((platform.architecture, ""), ("",))
    for variant in variants:
        for each in candidates:
            if each.platform == Platform(os=platform.os, architecture=platform.architecture, variant=variant):
                return each
    for each in candidates:  # whatever its variant, when none was asked for
        found = each.platform or Platform()
        if (found.os, found.architecture, "") == (platform.os, platform.architecture, platform.variant):
            return each
    names = sorted({_name(each.platform) for each in candidates if each.platform and each.platform.os != "unknown"})
    raise NotFound(f"{what} is not there for {_name(platform)}, but for {', '.join(names) or 'no platform at all'}")


def _name(platform: Platform) -> str:
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


async def find_config(session: Session, reference: Reference, descriptor: Descriptor) -> bytes:
    """An image's configuration. NotFound, Invalid, OSError."""
    digest = Digest.parse(descriptor.digest)
    url = await session.url(f"/v2/{reference.path}/blobs/{digest}")
    what = f"the config of {reference}"
    if not 0 <= descriptor.size <= CONFIG_LIMIT:
        raise Invalid(f"{what} is larger than the {CONFIG_LIMIT} bytes that are sensible")
    data, _ = await _whole(session, url, pull_scope(reference.path), {}, descriptor.size, what)
    _verify(data, digest, descriptor.size, what)
    return data


async def _manifest(
    session: Session, reference: Reference, name: str, digest: Digest | None, size: int | None
) -> tuple[bytes, str]:
    """A manifest or index, by tag or digest, and its media type."""
    what = f"the manifest of {reference}"
    url = await session.url(f"/v2/{reference.path}/manifests/{name}")
    try:
        data, headers = await _whole(
            session, url, pull_scope(reference.path), {"Accept": _ACCEPT}, MANIFEST_LIMIT, what
        )
    except NotFound:
        raise NotFound(f"no such image at {reference.host}: {reference}") from None
    told = headers.get("docker-content-digest")
    _verify(data, digest or (Digest.parse(told) if told else None), size, what)
    kind = headers.get("content-type", "").partition(";")[0].strip()
    try:
        inside = msgspec.json.decode(data, type=_MediaType).media_type
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{what} is not valid JSON: {error}") from None
    if inside and kind in (*_INDEXES, *_MANIFESTS) and inside != kind:
        raise Invalid(f"{what} calls itself {inside}, but came as {kind}")
    return data, inside or kind


async def _whole(
    session: Session, url: httpx2.URL, scope: str, headers: dict[str, str], limit: int, what: str
) -> tuple[bytes, dict[str, str]]:
    for attempt in range(TRIES):
        try:
            async with session.request("GET", url, scope=scope, headers=headers) as response:
                return await session.read(response, limit, what), dict(response.headers)
        except Cut as error:
            if attempt == TRIES - 1:
                raise OSError(error.errno, error.strerror) from None
            await trio.sleep(0.25)
    raise AssertionError


def _verify(data: bytes, digest: Digest | None, size: int | None, what: str) -> None:
    if size is not None and len(data) != size:
        raise Invalid(f"{what} has {len(data)} bytes, not the {size} that were promised")
    if digest is not None and not digest.matches(data):
        raise Invalid(f"{what} is not what its digest {digest} says: it is damaged, or the registry lies")


def _check(manifest: Manifest, reference: Reference) -> None:
    """Whether *manifest* is that of a container image, and no other artifact that registries keep."""
    if manifest.config.media_type not in _CONFIGS:
        raise Invalid(f"{reference} is no container image: its config is {manifest.config.media_type}")
    for layer in manifest.layers:
        if ".tar" not in layer.media_type:
            raise Invalid(f"{reference} has a layer that is no tar: {layer.media_type}")
        if layer.size < 0:
            raise Invalid(f"{reference} has a layer of {layer.size} bytes")
        Digest.parse(layer.digest)
