"""Bringing blobs in: in parallel, each once however many want it, and from where an earlier try ended.

A blob is written to a :class:`Partial`, which survives whatever ends the transfer; whoever comes next goes on behind it.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio
from pydock.overlay.compression import CHUNK
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid
from pydock.overlay.manifest import Descriptor
from pydock.overlay.partials import Partial
from pydock.overlay.reference import Reference
from pydock.overlay.registry.documents import pull_scope
from pydock.overlay.registry.session import Cut, Session
from pydock.overlay.registry.transfers import Transfer, Transfers
from pydock.overlay.store import Store

_FRUITLESS: Final = 3  # tries, one after another, that bring nothing
_PAUSES: Final = (0.25, 0.5, 1.0)


@dataclass(slots=True)
class _Shared:
    """A partial blob, and who wants it; one at a time fetches."""

    partial: Partial
    users: int = 0
    lock: trio.Lock = field(default_factory=trio.Lock)
    ready: bool = False  # what an earlier transfer has left is taken in


class Fetcher:
    """Brings blobs into *store*. In the loop's thread only."""

    def __init__(self, store: Store, transfers: Transfers) -> None:
        self._store = store
        self._transfers = transfers
        self._shared: dict[Digest, _Shared] = {}

    @asynccontextmanager
    async def partial(self, descriptor: Descriptor) -> AsyncIterator[Partial]:
        """The blob, on its way or to be brought: one object for all who want it at this time."""
        digest = Digest.parse(descriptor.digest)
        shared = self._shared.get(digest)
        if shared is None:
            shared = self._shared[digest] = _Shared(self._store.partials.open(digest, descriptor.size))
        elif shared.partial.total != descriptor.size:
            raise Invalid(
                f"blob {digest} is of {shared.partial.total} bytes to one manifest and {descriptor.size} to another"
            )
        shared.users += 1
        try:
            yield shared.partial
        finally:
            shared.users -= 1
            if not shared.users:
                del self._shared[digest]
                shared.partial.close()

    async def fetch(self, session: Session, reference: Reference, descriptor: Descriptor) -> None:
        """Bring in a blob whose :meth:`partial` is held. Invalid, NotFound, OSError."""
        shared = self._shared[Digest.parse(descriptor.digest)]
        partial = shared.partial
        async with shared.lock:
            if partial.complete:
                return
            with self._transfers.begin("pull", str(reference), descriptor.digest, descriptor.size) as transfer:
                if not shared.ready:
                    await trio.to_thread.run_sync(partial.resume)
                    shared.ready = True
                transfer.done = partial.size
                doubtful = partial.doubtful
                try:
                    await self._bring(session, reference, partial, transfer)
                except Invalid:
                    if not doubtful:
                        raise
                    await trio.to_thread.run_sync(partial.clear)  # what was left may have been spoilt: once more
                    await self._bring(session, reference, partial, transfer)

    async def _bring(self, session: Session, reference: Reference, partial: Partial, transfer: Transfer) -> None:
        fruitless = 0
        while partial.size < partial.total:
            before = partial.size
            try:
                await self._some(session, reference, partial, transfer)
                if partial.size < partial.total:
                    raise Cut(errno.ECONNRESET, f"{session.endpoint.host} ends the connection early")
            except Cut as error:
                fruitless = 0 if partial.size > before else fruitless + 1
                if fruitless >= _FRUITLESS:
                    raise OSError(
                        error.errno, f"{error.strerror}: {partial.size} of {partial.total} bytes have come"
                    ) from None
                await trio.sleep(_PAUSES[fruitless - 1 if fruitless else 0])
        await trio.to_thread.run_sync(partial.finish)

    async def _some(self, session: Session, reference: Reference, partial: Partial, transfer: Transfer) -> None:
        """What one answer brings."""
        url = await session.url(f"/v2/{reference.path}/blobs/{partial.digest}")
        begin = partial.size
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        accept = frozenset((416,)) if begin else frozenset[int]()
        async with session.request(
            "GET", url, scope=pull_scope(reference.path), headers=headers, accept=accept
        ) as response:
            if response.status_code == 416:
                raise Invalid(f"{session.endpoint.host} has less of blob {partial.digest} than has come before")
            skip = 0
            if begin and not response.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
                skip = begin  # all of it comes again
            block = bytearray()
            try:
                async for chunk in session.chunks(response):
                    if skip:
                        skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
                    block += chunk
                    if len(block) >= CHUNK:
                        await self._write(partial, block, transfer)
                        block = bytearray()
            finally:
                # what has come before a cut is worth keeping, whatever ends the transfer
                with trio.CancelScope(shield=True):
                    await self._write(partial, block, transfer)

    @staticmethod
    async def _write(partial: Partial, block: bytearray, transfer: Transfer) -> None:
        if block:
            await trio.to_thread.run_sync(partial.write, bytes(block))
            transfer.done = partial.size
