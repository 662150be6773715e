"""Taking an image to a registry: what it lacks of the blobs, in parallel, and then the manifest.

A blob that another repository of the same registry has is mounted from there (distribution specification, "Mounting a blob
from another repository"); an upload that is cut goes on where the registry says it ended.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from typing import Final

import httpx2
import trio
from pydock.overlay.compression import CHUNK
from pydock.overlay.digest import Digest
from pydock.overlay.manifest import Descriptor
from pydock.overlay.reference import Reference
from pydock.overlay.registry.session import PATIENCE, Session
from pydock.overlay.registry.transfers import Transfer, Transfers
from pydock.overlay.store import Store

_FRUITLESS: Final = 3
_PAUSE: Final = 0.5


def push_scope(path: str, source: str | None = None) -> str:
    """What a token has to allow for writing to *path* and mounting from *source*."""
    return f"repository:{path}:pull,push" + (f" repository:{source}:pull" if source else "")


class Delivery:
    """One image on its way to *reference*."""

    def __init__(self, store: Store, transfers: Transfers, session: Session, reference: Reference) -> None:
        self._store = store
        self._transfers = transfers
        self._session = session
        self._reference = reference

    async def blob(self, descriptor: Descriptor, source: str | None) -> bool:
        """Have the registry have the blob; whether its bytes had to be sent. *source* is a repository there that may have it."""
        session, path, digest = self._session, self._reference.path, descriptor.digest
        url = await session.url(f"/v2/{path}/blobs/{digest}")
        async with session.request("HEAD", url, scope=push_scope(path), accept=frozenset((404,))) as response:
            if response.is_success:
                return False
        location = await self._begin(digest, source)
        if location is None:
            return False
        with self._transfers.begin("push", str(self._reference), digest, descriptor.size) as transfer:
            await self._upload(location, descriptor, transfer)
        return True

    async def manifest(self, data: bytes, media_type: str) -> None:
        """Store the manifest under the reference's tag, or its digest."""
        session, reference = self._session, self._reference
        name = reference.tag or str(Digest.of(data))
        url = await session.url(f"/v2/{reference.path}/manifests/{name}")
        async with session.request(
            "PUT", url, scope=push_scope(reference.path), headers={"Content-Type": media_type}, body=data
        ) as response:
            told = response.headers.get("Docker-Content-Digest", str(Digest.of(data)))
        if told != str(Digest.of(data)):
            raise OSError(errno.EREMOTEIO, f"{reference.host} took the manifest for {told}, which is another one")

    async def _begin(self, digest: str, source: str | None) -> httpx2.URL | None:
        """Begin an upload: where it goes; None when the blob was mounted from *source*."""
        query = {"mount": digest, "from": source} if source else {}
        scope = push_scope(self._reference.path, source)
        url = await self._session.url(f"/v2/{self._reference.path}/blobs/uploads/")
        async with self._session.request(
            "POST", url.copy_with(params=query), scope=scope, headers={"Content-Length": "0"}, body=b""
        ) as response:
            return None if response.status_code == 201 else self._location(response)

    async def _upload(self, location: httpx2.URL, descriptor: Descriptor, transfer: Transfer) -> None:
        """PATCH the bytes, then PUT the digest."""
        session, scope = self._session, push_scope(self._reference.path)
        fruitless = 0
        while transfer.done < descriptor.size:
            before = transfer.done
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Length": str(descriptor.size - before),
            }
            if before:
                headers["Content-Range"] = f"{before}-{descriptor.size - 1}"
            try:
                async with session.request(
                    "PATCH",
                    location,
                    scope=scope,
                    headers=headers,
                    body=lambda begin=before: self._bytes(descriptor, begin, transfer),  # type: ignore[misc]
                    patience=PATIENCE,
                ) as response:
                    location = self._location(response)
                    transfer.done = descriptor.size
            except OSError as error:
                if error.errno not in (errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE):
                    raise
                location, transfer.done = await self._where(location, scope, error)
                fruitless = 0 if transfer.done > before else fruitless + 1
                if fruitless >= _FRUITLESS:
                    raise
                await trio.sleep(_PAUSE)
        url = location.copy_merge_params({"digest": descriptor.digest})
        async with session.request(
            "PUT", url, scope=scope, headers={"Content-Length": "0"}, body=b"", patience=PATIENCE
        ):
            pass

    async def _where(self, location: httpx2.URL, scope: str, error: OSError) -> tuple[httpx2.URL, int]:
        """Where an upload that was cut goes on, and how many bytes have arrived."""
        async with self._session.request("GET", location, scope=scope, accept=frozenset((404,))) as response:
            if response.status_code == 404:
                raise OSError(error.errno, error.strerror)
            _, _, last = response.headers.get("Range", "").removeprefix("bytes=").partition("-")
            return self._location(response), int(last) + 1 if last.isdigit() and last != "0" else 0

    def _location(self, response: httpx2.Response) -> httpx2.URL:
        location = response.headers.get("Location")
        if not location:
            raise OSError(errno.EREMOTEIO, f"{self._reference.host} does not say where an upload goes")
        return response.url.join(location)

    async def _bytes(self, descriptor: Descriptor, begin: int, transfer: Transfer) -> AsyncIterator[bytes]:
        file = await trio.to_thread.run_sync(self._store.blobs.open, Digest.parse(descriptor.digest))
        try:
            offset = begin
            while data := await trio.to_thread.run_sync(os.pread, file.fileno(), CHUNK, offset):
                yield data
                offset += len(data)
                transfer.done = offset
        finally:
            file.close()
