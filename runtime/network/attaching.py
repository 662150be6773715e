"""A container's links: made for its start, and changed while it runs."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import nullcontext, suppress
from typing import Final

import trio
from pydock.runtime.errors import Taken
from pydock.runtime.names.client import Names
from pydock.runtime.network import flushes, links, nft
from pydock.runtime.network.addresses import Network, check_free
from pydock.runtime.network.claims import Claims
from pydock.runtime.network.links import End, Pair
from pydock.runtime.network.pool import Pool
from pydock.runtime.network.ports import Port
from pydock.runtime.network.record import BRIDGE, Lease, NetworkRecord, link_name
from pydock.runtime.network.store import NetworkStore
from pydock.runtime.network.tables import PATIENCE, Other, Tables, hold
from pydock.runtime.network.words import DEFAULT, Membership
from pydock.runtime.tasks import nothing

_MOST: Final = 1023  # BR_MAX_PORTS, one of which is its own
log = logging.getLogger(__name__)
Leases = dict[Membership, tuple[NetworkRecord, Lease]]


class Attachments:
    """Connects containers (by their ids) to the networks of *store*."""

    def __init__(self, store: NetworkStore) -> None:
        self.store = store
        self.claims = Claims()
        self.tables = Tables(store)
        store.elsewhere = self._subnets_elsewhere
        self.claims.elsewhere = self._ports_elsewhere
        self.names = Names(self._unnamed, self._named)
        self.addresses_of: Callable[[str], tuple[str, ...]] = (
            lambda container: ()
        )  # where a container's published ports lead to
        self.settled: Callable[[], Awaitable[None]] = nothing  # what was written to networks' settings is stored
        self.pool = Pool()
        self._bridges: dict[str, tuple[int, object]] = {}  # their indices, and what they were made with
        self._making = trio.Lock()
        self._filter = trio.Lock()
        self._filtered: nft.Table | None = None  # what is in force; None while that is not known
        self._ruled: list[tuple[object, ...]] | None = None  # what the rules in force were made of
        self._led = frozenset[Port]()  # what is published by it
        self._made = False  # whether there is a table by now
        self.held_back = set[str]()  # containers that have ports which packets are not to be led to yet

    def _unnamed(self, name: str, words: str) -> None:
        network = self.store.get(name)
        if network is not None:
            network.error = words

    def _named(self, name: str, before: str) -> None:
        network = self.store.get(name)
        if network is not None and network.error == before:
            network.error = ""

    def read(self) -> None:
        """Read what is on disk, and be known to serve, until :meth:`watch` ends. Blocks; before anything else."""
        self.store.read()
        self.tables.serve()

    async def filter(self, *, leading: str = "") -> None:
        """Have the packet filter say what the networks' records say, and the claims, that of the container *leading* among them from
        now on. OSError; Taken for a port that another engine got just now."""
        async with self._filter:
            self.held_back.discard(leading)
            ruled, published = self._rules(), self._published()
            table = nft.table(self.store, published, self.tables.owner, str(self.store.directory.parent))
            if table == self._filtered:
                self._ruled = ruled
                return
            led = frozenset(port for each in published for port in each.ports)
            before, self._filtered = self._filtered, None
            known, self._ruled = self._ruled, None
            fresh = led - self._led if before is not None else frozenset()
            if before is not None and before.rules == table.rules:
                self._ruled = known  # they stay in force meanwhile

            def change() -> None:
                with (hold("ports", PATIENCE) if fresh else None) or nullcontext():
                    self.claims.check_elsewhere(fresh)
                    self.tables.apply(table, before)

            try:
                await trio.to_thread.run_sync(change)
            except Taken:
                self._filtered, self._ruled = before, known
                raise
            except BaseException:
                self._ruled = None
                raise
            self._filtered, self._ruled, self._led, self._made = table, ruled, led, True

    def knows_networks(self) -> bool:
        """Whether the packet filter has the rules of all networks as they are now."""
        return self._ruled == self._rules()

    def _rules(self) -> list[tuple[object, ...]]:
        return [each.ruled() for each in self.store]

    async def watch(self) -> None:
        """Have the table again when somebody has taken it away, until cancelled."""
        try:
            async for _ in flushes.deletions():
                async with self._filter:
                    if not self._made or await trio.to_thread.run_sync(self.tables.is_there):
                        continue
                    self._filtered = self._ruled = None
                log.warning("the packet filter's table was taken away by somebody: it is made again")
                try:
                    await self.filter()
                except (OSError, Taken) as error:
                    log.warning("the packet filter's table can't be made again yet: %s", error)
        except OSError as error:
            log.warning("the packet filter is not watched any more: %s", error.strerror)
            await trio.sleep_forever()
        finally:
            self.tables.close()

    def take_down(self) -> None:
        """Nobody is in any network: the bridges go, and the packet filter's table. Blocks."""
        made, self._made = self._made, False  # nobody is to make it again
        self._filtered = self._ruled = None
        for network in self.store:
            with suppress(OSError):
                links.remove_link(network.bridge)
        if made:
            self.tables.remove()

    def _published(self) -> list[nft.Published]:
        """Everybody's ports, for the packet filter."""
        return [
            nft.Published(self.addresses_of(container), ports)
            for container, ports in self.claims.all().items()
            if container not in self.held_back
        ]

    # other engines

    def has_gateway(self, address: str) -> bool:
        """Whether a network has it for a gateway, an engine's own or another's. Blocks."""
        return self.store.has_gateway(address) or any(address in each.gateways() for each in self._others())

    def _ports_elsewhere(self) -> Iterator[tuple[Port, str]]:
        return ((port, str(each)) for each in self._others() for port in each.ports())

    def _subnets_elsewhere(self) -> Iterator[tuple[Network, str]]:
        return ((subnet, f"is that of {each}") for each in self._others() for subnet in each.subnets())

    def _others(self) -> list[Other]:
        try:
            return self.tables.others()
        except OSError:  # without nftables there are none
            return []

    # networks

    async def create(self, name: str) -> NetworkRecord:
        """mkdir: with the next subnets that are free, which other engines are told. Exists, Taken, OSError."""
        with await trio.to_thread.run_sync(hold, "subnets", PATIENCE) or nullcontext():
            network = await self.store.create(name)
            with suppress(OSError, Taken):  # a start tells
                await self.filter()
        return network

    async def default(self) -> NetworkRecord:
        """The one that is there from the start; made when it is first asked for."""
        async with self._making:
            return self.store.get(DEFAULT) or await self.create(DEFAULT)

    async def change(self, network: NetworkRecord, **values: object) -> None:
        """Change settings of a network that nobody names. Busy, Taken, OSError."""
        await self.store.change(network, **values)
        if self._made:
            await self.filter()

    async def remove(self, name: str) -> None:
        """Remove a network that nobody names. Busy, NotFound, Forbidden."""
        await self.store.remove(name)
        if self._made:
            await self.filter()

    async def lease(self, container: str, wanted: Iterable[Membership]) -> Leases:
        """The addresses that it has in these networks from now on, which are to be kept; their bridges are there by then. The default
        network is made when it is first asked for. NotFound, Busy, Taken, Invalid, OSError."""
        await self.settled()
        found: Leases = {}
        for each in wanted:
            network = await self.default() if each.network == DEFAULT else self.store.find(each.network)
            async with network.lock:
                self.store.check(network)
                found[each] = network, self.store.lease(network, container, each)
                await self._have_bridge(network)
        return found

    async def keep(self, leases: Leases) -> None:
        """Have them on disk. OSError."""
        for network, _ in leases.values():
            await self.store.save(network)

    async def connect(
        self, container: str, namespace: int, leases: Leases, wanted: tuple[Membership, ...], first: Pair | None = None
    ) -> None:
        """Make a link in *namespace* for each of *leases*, which are of those that are *wanted* in the end; *first* is one that is
        there for the first of them. OSError; then none is left."""
        used = set[str]()
        if first is None:  # what runs in it may have links of its own
            used = set((await trio.to_thread.run_sync(links.links_in, namespace)).values())
        routed = self._routed(wanted)
        done: list[str] = []
        try:
            for each, (network, lease) in leases.items():
                name = next(name for number in range(1000) if (name := f"eth{number}") not in used)
                used.add(name)
                if first is None:
                    first = await trio.to_thread.run_sync(links.pair_in, namespace, name)
                pair, first = first, None
                done.append(name)
                try:
                    await self._connect(container, pair, network, lease, routed=routed == each.network)
                finally:
                    pair.close()
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

    async def _connect(self, container: str, pair: Pair, network: NetworkRecord, lease: Lease, *, routed: bool) -> None:
        gateways = tuple(str(each.ip) for each in network.gateways) if routed else ()
        end = End(lease.mac, network.interfaces(lease), gateways, network.mtu)

        bridge, name = self._bridges[network.bridge][0], link_name(network, container)
        async with network.lock:
            try:
                await trio.to_thread.run_sync(links.connect, pair, bridge, name, end)
            except OSError as error:
                if error.errno != errno.EXFULL:
                    raise
                # the kernel's own errno for it means something else to everybody; ENOSPC is that of other limits, as of cgroups
                raise OSError(errno.ENOSPC, f"networks/{network.name} is full: a bridge takes {_MOST} links") from None

    async def _have_bridge(self, network: NetworkRecord) -> None:
        wanted = (network.gateways, network.mtu, network.internal)
        index, made = self._bridges.get(network.bridge, (0, None))
        if made == wanted and links.index_of(network.bridge) == index:
            return

        def make() -> int:
            if not links.index_of(network.bridge):
                _check_bridges(network, {each.bridge for each in self.store})
            if not network.internal:
                links.forward(ipv6=bool(network.subnet6))
            return links.make_bridge(network.bridge, network.gateways, network.mtu)

        self._bridges[network.bridge] = await trio.to_thread.run_sync(make), wanted

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


def _check_bridges(network: NetworkRecord, own: set[str]) -> None:
    """Taken when a bridge of another engine has the subnet: it was made while this one was away. Blocks."""
    theirs: list[tuple[Network, str]] = []
    for routed, words in links.routed():
        link = words.rpartition(" ")[2]
        if link.startswith(BRIDGE) and link not in own:
            theirs.append(
                (routed, f"{words}, a bridge of another pydock: write another to networks/{network.name}/subnet")
            )
    for subnet in network.subnets:
        check_free(subnet, theirs)


def shown(network: NetworkRecord, lease: Lease) -> list[str]:
    """``NETWORK ADDRESS/BITS MAC`` of each address."""
    return [f"{network.name} {each} {lease.mac}" for each in network.interfaces(lease)]
