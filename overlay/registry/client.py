"""Registries, as the engine uses them: pull, push, login, and what they have."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import msgspec
import trio
from pydock.overlay import manifest as documents
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid, OverlayError
from pydock.overlay.image import Image
from pydock.overlay.intake import Aborted, Intake
from pydock.overlay.manifest import Descriptor, Manifest, Platform
from pydock.overlay.partials import Ended, Partial
from pydock.overlay.reference import Reference
from pydock.overlay.registry.delivering import Delivery
from pydock.overlay.registry.documents import Found, find_config, find_manifest
from pydock.overlay.registry.endpoint import Endpoint, Proxies, completed
from pydock.overlay.registry.fetching import Fetcher
from pydock.overlay.registry.session import SILENCE, Session
from pydock.overlay.registry.transfers import Transfers
from pydock.overlay.store import Store

_AT_ONCE: Final = 4  # blobs on their way, of one image
_PAGES: Final = 10_000
_PAGE_LIMIT: Final = 16 << 20  # bytes


class _Catalog(msgspec.Struct, frozen=True):
    repositories: tuple[str, ...] | None = None


class _Tags(msgspec.Struct, frozen=True):
    tags: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Turn:
    """Those who pull one manifest at a time: the second finds all done."""

    users: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)


class Registries:
    """*endpoint* tells what is set for a registry; *proxies* are asked for each session; *silence*: seconds.
    In the loop's thread only."""

    def __init__(
        self,
        store: Store,
        endpoint: Callable[[str], Endpoint],
        proxies: Callable[[], Proxies],
        transfers: Transfers,
        *,
        silence: float = SILENCE,
    ) -> None:
        self._store = store
        self._endpoint = endpoint
        self._proxies = proxies
        self._transfers = transfers
        self._silence = silence
        self._fetcher = Fetcher(store, transfers)
        self._turns: dict[Digest, _Turn] = {}

    # -- pull

    async def pull(self, reference: Reference, platform: Platform | None = None) -> Image:
        """Bring in the image and give it the name. NotFound, Invalid, OSError; whatever ends it, nothing is half made."""
        endpoint = await self._complete(reference.host)
        for mirror in endpoint.mirrors:
            try:
                return await self._pull_from(replace(await self._complete(mirror), mirrors=()), reference, platform)
            except (OverlayError, OSError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
        return await self._pull_from(endpoint, reference, platform)

    async def _pull_from(self, endpoint: Endpoint, reference: Reference, platform: Platform | None) -> Image:
        async with self._session(endpoint) as session:
            found = await find_manifest(session, reference, platform)
            async with self._turn(found.digest):
                return await self._bring(session, reference, found)

    async def _bring(self, session: Session, reference: Reference, found: Found) -> Image:
        store, descriptor = self._store, found.manifest.config
        layers = {layer.digest: layer for layer in found.manifest.layers}
        digests = [Digest.parse(digest) for digest in (descriptor.digest, *layers)]
        with store.intake() as intake:
            intake.reserve(digests)
            if store.blobs.has(digests[0]):
                config = await trio.to_thread.run_sync(store.blobs.read, digests[0])
            else:
                config = await find_config(session, reference, descriptor)
            found.check_platform(config, reference)
            missing = [layer for layer in layers.values() if not store.blobs.has(Digest.parse(layer.digest))]
            async with AsyncExitStack() as stack:
                partials: dict[str, Partial] = {}
                for layer in missing:
                    partials[layer.digest] = await stack.enter_async_context(self._fetcher.partial(layer))
                self._check_room(layer.size - partials[layer.digest].size for layer in missing)
                return await self._fetch_and_assemble(session, reference, found, config, intake, partials)

    async def _fetch_and_assemble(
        self,
        session: Session,
        reference: Reference,
        found: Found,
        config: bytes,
        intake: Intake,
        partials: dict[str, Partial],
    ) -> Image:
        """Layers are unpacked, in threads, as they come."""
        stop = threading.Event()
        failures: list[Exception] = []
        slots = trio.Semaphore(_AT_ONCE)

        def source(layer: Descriptor) -> Iterable[bytes]:
            partial = partials.get(layer.digest)
            return partial.chunks(stop) if partial else self._store.blobs.chunks(Digest.parse(layer.digest))

        async def fetch(layer: Descriptor) -> None:
            try:
                async with slots:
                    await self._fetcher.fetch(session, reference, layer)
            except Exception as error:
                failures.append(error)
                nursery.cancel_scope.cancel()

        async def watch() -> None:
            """A thread can't be cancelled: tell it."""
            try:
                await trio.sleep_forever()
            finally:
                stop.set()
                for partial in partials.values():
                    partial.wake()

        images: list[Image] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            for layer in {layer.digest: layer for layer in found.manifest.layers}.values():
                if layer.digest in partials:
                    nursery.start_soon(fetch, layer)
            try:
                images.append(
                    await trio.to_thread.run_sync(
                        lambda: intake.assemble(reference, found.data, config, source=source, aborted=stop)
                    )
                )
            except (Ended, Aborted):
                pass  # why is in failures, or it is a cancellation
            except Exception as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]
        await trio.lowlevel.checkpoint_if_cancelled()
        return images[0]

    @asynccontextmanager
    async def _turn(self, digest: Digest) -> AsyncIterator[None]:
        turn = self._turns.setdefault(digest, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[digest]

    def _check_room(self, sizes: Iterable[int]) -> None:
        """Whether blobs of these *sizes* have room at all: better now than after an hour. OSError ENOSPC."""
        wanted = sum(sizes)
        status = os.statvfs(self._store.directory)
        room = status.f_bavail * status.f_frsize
        if wanted > room:
            raise OSError(errno.ENOSPC, f"the layers take {wanted} bytes, and {room} are free")

    # -- push

    async def push(self, image: Image, reference: Reference) -> str:
        """Take *image* to where *reference* says; the digest of its manifest there. NotFound, Invalid, OSError."""
        store = self._store
        data = await trio.to_thread.run_sync(store.manifest, image)
        manifest = documents.decode(data, Manifest, f"the manifest of {image.reference}")
        blobs = {each.digest: each for each in (*manifest.layers, manifest.config) if not each.urls}
        sources = self._sources(reference)
        slots = trio.Semaphore(_AT_ONCE)
        with store.intake() as intake:  # which keeps them from being removed meanwhile
            intake.reserve(map(Digest.parse, [image.digest, *blobs]))
            async with self._session(await self._complete(reference.host)) as session:
                delivery = Delivery(store, self._transfers, session, reference)
                failures: list[Exception] = []

                async def deliver(descriptor: Descriptor) -> None:
                    try:
                        async with slots:
                            await delivery.blob(descriptor, sources.get(descriptor.digest))
                    except Exception as error:
                        failures.append(error)
                        nursery.cancel_scope.cancel()

                async with trio.open_nursery() as nursery:
                    for descriptor in blobs.values():
                        nursery.start_soon(deliver, descriptor)
                if failures:
                    raise failures[0]
                await delivery.manifest(data, manifest.media_type)
        return str(Digest.of(data))

    def _sources(self, reference: Reference) -> dict[str, str]:
        """By blob another repository of the same registry that should have it, as an image here comes from there."""
        found: dict[str, str] = {}
        for text in self._store.references():
            other = Reference.parse(text)
            if other.host == reference.host and other.path != reference.path:
                with suppress(OverlayError):
                    image = self._store.image(text)
                    found.update(dict.fromkeys((image.id, *(each.digest for each in image.layers)), other.path))
        return found

    # -- what a registry has, and whether it takes us

    async def login(self, host: str) -> None:
        """Whether the credentials are taken. OSError EACCES when not; Invalid when there are none."""
        endpoint = await self._complete(host)
        if not endpoint.username and not endpoint.token:
            raise Invalid(f"write username and password to registries/{host} first")
        async with self._session(endpoint) as session:
            await session.ping()

    async def catalog(self, host: str) -> tuple[str, ...]:
        """Its repositories, sorted. NotFound, Invalid, OSError."""
        names: list[str] = []
        async for data in self._pages(host, "/v2/_catalog?n=1000", "registry:catalog:*"):
            names += _decoded(data, _Catalog, f"the catalog of {host}").repositories or ()
        return tuple(sorted(set(names)))

    async def tags(self, host: str, path: str) -> tuple[str, ...]:
        """The tags of a repository, sorted. NotFound, Invalid, OSError."""
        names: list[str] = []
        async for data in self._pages(host, f"/v2/{path}/tags/list?n=1000", f"repository:{path}:pull"):
            names += _decoded(data, _Tags, f"the tags of {host}/{path}").tags or ()
        return tuple(sorted(set(names)))

    async def _pages(self, host: str, path: str, scope: str) -> AsyncIterator[bytes]:
        """Each page of a list (distribution specification, "Listing tags")."""
        async with self._session(await self._complete(host)) as session:
            url = await session.url(path)
            for _ in range(_PAGES):
                async with session.request("GET", url, scope=scope) as response:
                    yield await session.read(response, _PAGE_LIMIT, f"a page of {host}")
                    following = response.links.get("next", {}).get("url")
                if not following:
                    return
                url = url.join(following)

    def _session(self, endpoint: Endpoint) -> Session:
        return Session(endpoint, self._proxies(), silence=self._silence)

    async def _complete(self, host: str) -> Endpoint:
        return await trio.to_thread.run_sync(completed, self._endpoint(host))


_List = TypeVar("_List", _Catalog, _Tags)


def _decoded(data: bytes, kind: type[_List], what: str) -> _List:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{what} can't be read: {error}") from None
