"""A container's links: made for its start, and changed while it runs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from pydock.runtime.names.client import Names
from pydock.runtime.network import links, nft
from pydock.runtime.network.links import End
from pydock.runtime.network.ports import Claims
from pydock.runtime.network.store import Lease, NetworkRecord, NetworkStore, link_name
from pydock.runtime.network.words import DEFAULT, Membership


async def _nothing() -> None:
    """There is nothing to wait for."""


class Attachments:
    """Connects containers (by their ids) to the networks of *store*."""

    def __init__(self, store: NetworkStore) -> None:
        self.store = store
        self.claims = Claims()
        self.names = Names(self._unnamed)
        self.addresses_of: Callable[[str], tuple[str, ...]] = (
            lambda container: ()
        )  # where a container's published ports lead to
        self.settled: Callable[[], Awaitable[None]] = _nothing  # what was written to networks' settings is stored
        self._filter = trio.Lock()
        self._filtered = ""  # the table that is in force

    def _unnamed(self, name: str, words: str) -> None:
        network = self.store.get(name)
        if network is not None:
            network.error = words

    async def filter(self) -> None:
        """Have the packet filter say what the networks' records say."""
        async with self._filter:
            text = nft.render(self.store, self.published())
            if text != self._filtered:
                await trio.to_thread.run_sync(nft.apply, text)
                self._filtered = text

    def published(self) -> list[nft.Published]:
        """Everybody's ports, for the packet filter."""
        return [nft.Published(self.addresses_of(container), ports) for container, ports in self.claims.all().items()]

    async def change(self, network: NetworkRecord, **values: object) -> None:
        """Change settings of a network that nobody names. Busy, Taken, OSError."""
        await self.store.change(network, **values)
        if self._filtered:
            await self.filter()

    async def remove(self, name: str) -> None:
        """Remove a network that nobody names. Busy, NotFound, Forbidden."""
        await self.store.remove(name)
        if self._filtered:
            await self.filter()

    async def namespace(self, container: str, wanted: tuple[Membership, ...]) -> int:
        """A network namespace with a link to each of the networks that are *wanted*; the caller's descriptor. NotFound, Taken,
        Invalid, OSError; then nothing is left."""
        namespace = await trio.to_thread.run_sync(links.new_namespace)
        try:
            await self.join(container, namespace, wanted, ())
        except BaseException:
            os.close(namespace)  # and with it all links
            raise
        await self.store.forget(container, frozenset(each.network for each in wanted))
        return namespace

    async def join(
        self, container: str, namespace: int, wanted: tuple[Membership, ...], present: tuple[Membership, ...]
    ) -> None:
        """Connect to those of *wanted* that are not *present*; undone when one of them can't be."""
        await self.settled()
        used = {f"eth{number}" for number in range(len(present))}
        if present:
            used = set((await trio.to_thread.run_sync(links.links_in, namespace)).values())
        done: list[str] = []
        try:
            for each in wanted:
                if each in present:
                    continue
                name = next(name for number in range(1000) if (name := f"eth{number}") not in used)
                used.add(name)
                routed = self._routed(wanted)
                await self._connect(container, namespace, each, name, routed=routed == each.network)
                done.append(name)
        except BaseException:
            with trio.CancelScope(shield=True):
                for name in done:
                    with suppress(OSError):
                        await trio.to_thread.run_sync(links.disconnect, namespace, name, (), "")
            raise

    async def leave(
        self, container: str, namespace: int, gone: tuple[Membership, ...], left: tuple[Membership, ...]
    ) -> None:
        """Disconnect from *gone*; *left* are those that remain."""
        names = await trio.to_thread.run_sync(links.links_in, namespace)
        following = self._routed(left)
        gateways, through = self._way_out(container, following, names)
        for each in gone:
            network = self.store.get(each.network)
            lease = None if network is None else network.leases.get(container)
            if lease is not None and (name := names.get(lease.mac)):
                await trio.to_thread.run_sync(links.disconnect, namespace, name, gateways, through)
        await self.store.forget(container, frozenset(each.network for each in left))

    def addresses(self, container: str, wanted: tuple[Membership, ...]) -> list[tuple[NetworkRecord, Lease]]:
        """What it has, in the order of its memberships."""
        found = []
        for each in wanted:
            network = self.store.get(each.network)
            if network is not None and (lease := network.leases.get(container)) is not None:
                found.append((network, lease))
        return found

    async def _connect(self, container: str, namespace: int, wanted: Membership, name: str, *, routed: bool) -> None:
        network = await self.store.default() if wanted.network == DEFAULT else self.store.find(wanted.network)
        await self.filter()
        async with network.lock:
            lease = await self.store.lease(network, container, wanted)
            gateways = tuple(str(each.ip) for each in network.gateways) if routed else ()
            end = End(name, lease.mac, network.interfaces(lease), gateways, network.mtu)

            def make() -> None:
                links.make_bridge(network.bridge, network.gateways, network.mtu)
                if not network.internal:
                    links.forward(ipv6=bool(network.subnet6))
                links.connect(network.bridge, link_name(network, container), namespace, end)

            await trio.to_thread.run_sync(make)

    def _routed(self, wanted: tuple[Membership, ...]) -> str:
        """The network of the default route: the first with a way out."""
        for each in wanted:
            network = self.store.get(each.network)
            if network is None or not network.internal:
                return each.network
        return ""

    def _way_out(self, container: str, name: str, names: dict[str, str]) -> tuple[tuple[str, ...], str]:
        network = self.store.get(name)
        lease = None if network is None else network.leases.get(container)
        if network is None or lease is None:
            return (), ""
        return tuple(str(each.ip) for each in network.gateways), names.get(lease.mac, "")


def shown(network: NetworkRecord, lease: Lease) -> list[str]:
    """``NETWORK ADDRESS/BITS MAC`` of each address."""
    return [f"{network.name} {each} {lease.mac}" for each in network.interfaces(lease)]
