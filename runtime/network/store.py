"""The networks of one engine: ``ROOT/networks/NAME.json``, the default one among them, and who has which address.

A network has a bridge from its first use on, until it is removed. Its subnet can be changed as long as nobody names it. Leases are
of containers that name it, and stay theirs until they name it no more: an address outlives a restart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import trio
from pydock.runtime.errors import Busy, Exists, Forbidden, NotFound
from pydock.runtime.events import Events
from pydock.runtime.formats import checked_name, now, quote
from pydock.runtime.network import links
from pydock.runtime.network.addresses import (
    Address,
    Network,
    check_free,
    first_address,
    free_address,
    free_subnet,
    free_subnet6,
    ip_address,
    ip_network,
    large_subnet,
    mac_of,
)
from pydock.runtime.network.record import Addressing, Lease, NetworkRecord
from pydock.runtime.network.versions import has_ipv6
from pydock.runtime.network.words import DEFAULT, HOST, NONE, Membership
from pydock.runtime.settler import Settler
from pydock.runtime.state import clear_halves, printed, read_json, replace_json

_SUFFIX: Final = ".json"
_RENAMING: Final = ".renaming"


class NetworkStore:
    """Those in *directory*. *users* are the containers that name a network, *runners* those that run; *joining* tells of
    one, by its id, whether its links may be changing. What blocks is in threads."""

    def __init__(self, directory: Path, events: Events, settler: Settler, default: Addressing | None = None) -> None:
        self.addressing = default or Addressing()
        self.users: Callable[[str], tuple[str, ...]] = lambda name: ()
        self.runners: Callable[[str], tuple[str, ...]] = lambda name: ()
        self.joining: Callable[[str], bool] = lambda container: False
        self.elsewhere: Callable[[], Iterable[tuple[Network, str]]] = (
            tuple  # what other engines' networks have, and whose it is
        )
        self.directory = directory
        self._events = events
        self._settler = settler
        self._networks: dict[str, NetworkRecord] = {}
        self._before: dict[str, NetworkRecord] = {}  # by the names that settings may still have
        self._lock = trio.Lock()

    def __iter__(self) -> Iterator[NetworkRecord]:
        return iter(self._networks.values())

    def __len__(self) -> int:
        return len(self._networks)

    def get(self, name: str) -> NetworkRecord | None:
        return self._networks.get(name) or self._before.get(name)

    def has_gateway(self, address: str) -> bool:
        """Whether it is the gateway of one of them."""
        return any(address in (each.gateway, each.gateway6) for each in self._networks.values())

    def find(self, name: str) -> NetworkRecord:
        """The network of that name; NotFound."""
        network = self.get(name)
        if network is None:
            raise NotFound(f"network {quote(name)} does not exist: mkdir networks/{name} makes one")
        return network

    def check(self, network: NetworkRecord) -> None:
        """NotFound when *network* has been removed."""
        if not any(each is network for each in self):
            raise NotFound(f"network {quote(network.name)} has been removed")

    def _refuse_joining(self, network: NetworkRecord) -> None:
        """Busy while somebody is about to join *network*, whose settings do not name it yet."""
        if any(map(self.joining, network.leases)):
            raise Busy(f"networks/{network.name} is in use: a container is connecting to it, or leaving it")

    def read(self) -> None:
        """Read what is on disk; before anything else."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        clear_halves(self.directory)
        self._settler.forget_removed(self.directory)
        if (renaming := self.renaming()) is not None and self._path(renaming[0]).exists():
            self._settler.rename(*map(self._path, renaming))
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            values = self._settler.read_json(path)
            if values is None:
                continue
            network = NetworkRecord.from_plain(values, path.name.removesuffix(_SUFFIX))  # it may have been renamed
            self._networks[network.name] = network

    async def create(self, name: str) -> NetworkRecord:
        """mkdir: with the next subnets that are free."""
        checked_name(name)
        async with self._lock:
            if name in self._networks or name in self._before or name in (HOST, NONE, "ports"):
                raise Exists(f"networks/{name} exists")
            network = await trio.to_thread.run_sync(self._new, name)
            network.saved = printed(network.plain())
            await trio.to_thread.run_sync(self._settler.create, self._path(name), network.saved)
            self._networks[name] = network
        self._settler.touched(self._path(name))
        self._events.publish("network", name, "create", subnet=network.subnet)
        return network

    def _new(self, name: str) -> NetworkRecord:
        said = self.addressing.settings() if name == DEFAULT else {}
        taken = self.taken()
        for key in ("subnet", "subnet6"):
            if text := said.get(key):
                check_free(ip_network(str(text)), taken)
        others = [network for network, _ in taken]
        subnet = "" if "subnet" in said else str((large_subnet if name == DEFAULT else free_subnet)(others))
        subnet6 = str(free_subnet6(others)) if "subnet6" not in said and has_ipv6() else ""
        gateways = (str(first_address(ip_network(text))) if text else "" for text in (subnet, subnet6))
        network = NetworkRecord(name, os.urandom(4).hex(), now(), subnet, next(gateways), subnet6, next(gateways))
        for key, value in said.items():
            setattr(network, key, value)
        return network

    def taken(self, but: NetworkRecord | None = None) -> list[tuple[Network, str]]:
        """What is in use: by the machine's routes, by other networks than *but*. Blocks."""
        own = {each.bridge for each in self._networks.values()}
        found = [each for each in links.routed() if each[1].rpartition(" ")[2] not in own]
        found += self.elsewhere()
        for network in tuple(self._networks.values()):
            if network is not but:
                found += [(subnet, f"is that of networks/{network.name}") for subnet in network.subnets]
        return found

    async def agree(self) -> None:
        """After a start: have the default network be as was said since, or Busy when it can't be, as some run in it."""
        network = self._networks.get(DEFAULT)
        wanted = {} if network is None else self.addressing.settings()
        if network is not None and any(getattr(network, key) != value for key, value in wanted.items()):
            await self.change(network, **wanted)

    async def change(self, network: NetworkRecord, /, **values: object) -> None:
        """Change settings, while nobody names it, or nobody runs in the default one; Busy else. *subnet* takes along the gateway."""
        async with network.lock:
            if users := (self.runners if network.name == DEFAULT else self.users)(network.name):
                raise Busy(f"networks/{network.name} is in use by {', '.join(users)}: its settings can't be changed")
            for key in ("subnet", "subnet6"):
                if text := values.get(key):
                    subnet = ip_network(str(text))
                    check_free(subnet, await trio.to_thread.run_sync(self.taken, network))
                    values.setdefault(key.replace("subnet", "gateway"), str(first_address(subnet)))
            self._refuse_joining(network)
            before = {key: getattr(network, key) for key in values}
            leases = network.leases
            try:
                for key, value in values.items():
                    setattr(network, key, value)
                network.leases, network.last = {}, ""
                await self.save(network)
                await trio.to_thread.run_sync(links.remove_link, network.bridge)
            except BaseException:
                for key, value in before.items():
                    setattr(network, key, value)
                network.leases = leases
                raise
        self._events.publish("network", network.name, "set", setting=next(iter(values)))

    async def remove(self, name: str) -> None:
        """rmdir: Busy while a container names it; the default one is Forbidden."""
        async with self._lock:
            network = self.find(name)
            if name == DEFAULT:
                raise Forbidden(f"networks/{DEFAULT} is there from the start and can't be removed")
            async with network.lock, network.saving:
                if users := self.users(name):
                    raise Busy(f"networks/{name} is in use by {', '.join(users)}")
                self._refuse_joining(network)
                if network in self._before.values():
                    raise Busy(f"networks/{name} is being renamed")
                del self._networks[name]
                try:
                    await trio.to_thread.run_sync(self._settler.remove, self._path(name))
                except OSError:
                    self._networks[name] = network
                    raise
                await trio.to_thread.run_sync(links.remove_link, network.bridge)
        self._events.publish("network", name, "remove")

    async def rename(self, name: str, new: str) -> None:
        """mv. The settings that name it are the caller's to change, between this and :meth:`renamed`; it has both names until then."""
        network = self.find(name)
        checked_name(new)
        if name == DEFAULT:
            raise Forbidden(f"networks/{DEFAULT} is there from the start and can't be renamed")

        def move() -> None:
            replace_json(self.directory / _RENAMING, {"from": name, "to": new})
            try:
                self._settler.rename(self._path(name), self._path(new))
            except OSError:
                (self.directory / _RENAMING).unlink()
                raise

        async with self._lock, network.saving:
            if self.get(new) is not None or new in (DEFAULT, HOST, NONE, "ports"):
                raise Exists(f"networks/{new} exists")
            if self._before:
                raise Busy(f"networks/{next(iter(self._before.values())).name} is being renamed")
            await trio.to_thread.run_sync(move)
            self._settler.touched(self._path(new))
            self._before[name] = self._networks[new] = self._networks.pop(name)
            network.name = new
        self._events.publish("network", new, "rename", before=name)

    def renaming(self) -> tuple[str, str] | None:
        """The names before and after, when settings may have the one before yet."""
        values = read_json(self.directory / _RENAMING) or {}
        before, after = values.get("from"), values.get("to")
        return (before, after) if isinstance(before, str) and isinstance(after, str) else None

    async def renamed(self, before: str) -> None:
        """All settings have the new name."""
        self._before.pop(before, None)
        await trio.to_thread.run_sync(partial((self.directory / _RENAMING).unlink, missing_ok=True))

    async def save(self, network: NetworkRecord) -> None:
        """Keep it on disk, as it is by then, unless it is; nothing when it has been removed."""
        async with network.saving:
            text = printed(network.plain())
            if self._networks.get(network.name) is not network or text == network.saved:
                return
            network.saved = ""
            await self._settler.keep(self._path(network.name), text)
            network.saved = text

    def _path(self, name: str) -> Path:
        return self.directory / f"{name}{_SUFFIX}"

    def lease(self, network: NetworkRecord, container: str, wanted: Membership) -> Lease:
        """The addresses of *container* (its id) in the network: its own from before, what it asks for, or the next that are free.

        With the network's lock; to be saved before anybody may rely on it. Taken when an address is another's or there is none left,
        Invalid for one that can't be had.
        """
        others = {
            ip_address(text) for key, each in network.leases.items() if key != container for text in each.addresses
        }
        others |= {gateway.ip for gateway in network.gateways}
        asked = network.asked(wanted)
        kept = getattr(network.leases.get(container), "addresses", ())
        had: dict[int, Address] = {address.version: address for address in map(ip_address, kept)}
        found = []
        for subnet in network.subnets:
            address = asked.get(subnet.version) or had.get(subnet.version)
            if address is None:
                after = ip_address(network.last) if network.last and subnet.version == 4 else None
                address = free_address(subnet, others, after)
                if subnet.version == 4:
                    network.last = str(address)
            elif address in others:
                raise Busy(f"network: {address} is in use in {network.name}")
            found.append(str(address))
        lease = Lease(found, wanted.mac or mac_of(ip_address(found[0])))
        if any(lease.mac == each.mac for key, each in network.leases.items() if key != container):
            raise Busy(f"network: {lease.mac} is in use in {network.name}")
        if network.leases.get(container) != lease:
            network.leases[container] = lease
        return lease

    def give_back(self, container: str, but: frozenset[str] = frozenset()) -> list[NetworkRecord]:
        """*container* has no leases any more in all networks but these; those where it had one are to be saved."""
        found = [network for network in self if network.name not in but and container in network.leases]
        for network in found:
            del network.leases[container]
        return found

    async def forget(self, container: str, but: frozenset[str] = frozenset()) -> None:
        """``give_back``, and save them."""
        for network in self.give_back(container, but):
            await self.save(network)

    async def forget_all_but(self, containers: Container[str]) -> None:
        """After a death: nobody else is there."""
        for network in tuple(self):
            for stale in [each for each in network.leases if each not in containers]:
                await self.forget(stale)
