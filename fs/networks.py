"""``networks/``: mkdir makes a network with a subnet that is free, rmdir removes one that no container names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol, cast
from weakref import WeakValueDictionary

import trio
from pydock.fs.links import ContainerLinks
from pydock.fs.metadata import Attributes, Metadata
from pydock.fs.node import Directory, Entry, File, Folder, Link, Node, Report, Subject, Value
from pydock.fs.subject import Place, Telling
from pydock.runtime.container import Container
from pydock.runtime.containers import Containers
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Busy, Forbidden, Invalid, NotFound, PydockError, words_of
from pydock.runtime.formats import now, parse_boolean, print_boolean, quote
from pydock.runtime.network.addresses import first_address, parse_address, parse_mtu, parse_subnet
from pydock.runtime.network.ports import Port
from pydock.runtime.network.record import NetworkRecord
from pydock.runtime.network.words import DEFAULT, HOST, NONE, settled


class NetworkSubject:
    """One network, as the subject of its directory."""

    def __init__(self, network: NetworkRecord, containers: Containers, settled: Callable[[], Awaitable[None]]) -> None:
        self.network = network
        self.containers = containers
        self.settled = settled
        self.error_changed = network.created
        kept = {path: Attributes(*values) for path, values in network.files.items()}
        self.metadata = Metadata(born=network.created, files=kept, changed=self._keep)

    @property
    def engine(self) -> Engine:
        return self.containers.engine

    def _keep(self) -> None:
        self.network.files = self.metadata.plain()
        self.engine.spawn(lambda: self.engine.attachments.store.save(self.network))

    @property
    def label(self) -> str:
        return f"networks/{self.network.name}"

    def failed(self, words: str) -> None:
        self.network.error = words
        self.error_changed = now()
        self.engine.failures.add(self.label, words)

    def succeeded(self) -> None:
        if self.network.error:
            self.network.error = ""
            self.error_changed = now()


N = NetworkSubject


async def _change(subject: N, **values: object) -> None:
    await subject.engine.attachments.change(subject.network, **values)


def _subnet(version: int, name: str, gateway: str) -> Callable[[N, str | None, int], Awaitable[None]]:
    async def store(subject: N, text: str | None, caller: int) -> None:
        if not text:
            if version == 4:
                raise Invalid(f"{name} is needed: write the one that is wanted")
            await _change(subject, **{name: "", gateway: ""})
            return
        await _change(subject, **{name: str(parse_subnet(text, version))})

    return store


def _gateway(name: str, subnet: str) -> Callable[[N, str | None, int], Awaitable[None]]:
    async def store(subject: N, text: str | None, caller: int) -> None:
        where = {str(each): each for each in subject.network.subnets}.get(str(getattr(subject.network, subnet)))
        if where is not None:
            await _change(subject, **{name: str(parse_address(text, where, name) if text else first_address(where))})
        elif text:
            raise Invalid(f"{name}: there is no {subnet}")

    return store


def _boolean(name: str, doc: str) -> Value[N]:
    async def store(subject: N, text: str | None, caller: int) -> None:
        default = name == "masquerade"
        await _change(subject, **{name: default if text is None else parse_boolean(text)})

    return Value(name=name, show=lambda s: print_boolean(bool(getattr(s.network, name))), store=store, doc=doc)


async def _store_mtu(subject: N, text: str | None, caller: int) -> None:
    await _change(subject, mtu=parse_mtu(text) if text else 0)


class Named(Protocol):
    """What has members: a network, or what ``network`` may say instead."""

    @property
    def name(self) -> str: ...


class Members(ContainerLinks):
    """``members/``: ``ln -s`` connects a container, rm disconnects it."""

    growing = True

    def __init__(
        self, subject: Subject, what: Named, containers: Containers, settled: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__("members", subject, lambda: containers.network_users(what.name), settled)
        self._what = what
        self._containers = containers

    async def link(self, name: str, target: str) -> None:
        *before, last = [part for part in target.split("/") if part] or [""]
        container = self._containers.get(last)
        if before and before[-1] != "containers":
            raise Invalid(
                f"members/{name}: {quote(target)} does not lead to a container: ../../../containers/NAME does"
            )
        if container is None:
            raise NotFound(f"members/{name}: there is no container {quote(last)}")
        if last != name:
            raise Invalid(f"members/{name}: the link has to have the name of the container that it leads to")
        await self._change(container, (*(container.spec.network or (DEFAULT,)), self._what.name))

    async def unlink(self, name: str) -> None:
        container, own = self._containers.get(name), self._what.name
        if container is None or name not in self.dynamic_names():
            return
        if own == NONE:
            raise Forbidden(f"members/{name}: who is in no network leaves that by joining one")
        await self._change(
            container, tuple(item for item in container.spec.network or (DEFAULT,) if item.partition(" ")[0] != own)
        )

    async def _change(self, container: Container, items: tuple[str, ...]) -> None:
        await container.configuration.change_network("network", settled(items))
        container.engine.on_set(container, ("network",))


def _members(subject: N) -> Members:
    return Members(subject, subject.network, subject.containers, subject.settled)


async def _names(subject: N) -> str:
    return "".join(f"{line}\n" for line in subject.engine.attachments.names.lines(subject.network.name))


async def _rules(subject: N) -> str:
    text = await trio.to_thread.run_sync(subject.engine.attachments.tables.listed)
    bridge, subnets = subject.network.bridge, [f" {subnet} " for subnet in subject.network.subnets]
    return "".join(
        f"{line.strip()}\n"
        for line in text.splitlines()
        if f'"{bridge}"' in line or any(subnet in line for subnet in subnets)
    )


NETWORK: tuple[Entry[N], ...] = (
    Value(
        name="subnet",
        show=lambda s: s.network.subnet,
        store=_subnet(4, "subnet", "gateway"),
        doc="Its addresses, ADDRESS/BITS. mkdir takes the next that this machine does not route; EINVAL when it is unset. EADDRINUSE "
        "for one that overlaps another network or a route; EBUSY, as for all settings here, while a container names it (or runs in it, "
        "for ``bridge``).",
    ),
    Value(
        name="gateway",
        show=lambda s: s.network.gateway,
        store=_gateway("gateway", "subnet"),
        doc="The machine's own address in it. The default is the first of the subnet.",
    ),
    Value(
        name="subnet6",
        show=lambda s: s.network.subnet6 or None,
        store=_subnet(6, "subnet6", "gateway6"),
        doc="The same for IPv6; unset it has none.",
    ),
    Value(
        name="gateway6",
        show=lambda s: s.network.gateway6 or None,
        store=_gateway("gateway6", "subnet6"),
        doc="The same for IPv6.",
    ),
    Value(
        name="mtu",
        show=lambda s: str(s.network.mtu or 1500),
        store=_store_mtu,
        doc="Bytes of the largest packet. The default is 1500.",
    ),
    _boolean(
        "internal",
        "1 leaves it without a way out: its members reach each other and this machine, and nothing beyond. The default is 0.",
    ),
    _boolean(
        "isolate", "1 keeps packets of other networks out, and its own in, but for the way out. The default is 0."
    ),
    _boolean(
        "masquerade",
        "1 gives what leaves the machine the machine's address, and lets nothing come from there but answers and what is for published "
        "ports. 0 is for networks that others route to. The default is 1.",
    ),
    Folder(
        name="members",
        make=_members,
        doc="A link to each container that names it. ``ln -s ../../../containers/NAME`` connects one, rm disconnects it: also "
        "while it runs. ENOSPC for one more than 1023 that run: a bridge takes no more links.",
    ),
    Report(
        name="names",
        render=_names,
        doc="What DNS answers at its gateway, ``NAME ADDRESS`` a line: the names, short ids and aliases of its members that run. "
        "Addresses have names as well. Members see these names, and those of the other networks that they are in; other questions are "
        "passed on to the machine's resolvers (or those of the option ``dns``), but for members of internal networks only. It has port "
        "53 of the gateways, so a container that publishes port 53 says at which of the machine's addresses: ``192.0.2.1:53:53/udp``.",
    ),
    Report(
        name="rules",
        render=_rules,
        doc="What the packet filter has about it, in nft(8)'s own text, with counters. The engine's table there is ``inet pydock``, or "
        "``inet pydock-XXXXXXXX`` where that is another engine's.",
    ),
    Value(
        name="error",
        volatile=True,
        changed=lambda s: s.error_changed,
        show=lambda s: s.network.error or None,
        doc="One line on what failed last, as why it can't be removed. Empty after the next success. It also tells, after a start "
        "of one of its members, when another packet filter of the machine's (iptables as docker leaves it, ufw, firewalld) is in the "
        "way of their packets, with the lines that let them pass: pydock leaves those filters alone.",
    ),
)


class NetworkDirectory(Directory):
    """``networks/NAME/``."""

    scratchable = True

    def __init__(self, subject: NetworkSubject, parent: Directory) -> None:
        super().__init__(subject.network.name, parent, subject, cast("tuple[Entry[Subject], ...]", NETWORK))


class FixedSubject(Telling):
    """``host`` or ``none``: no network, but something that containers name."""

    def __init__(self, name: str, containers: Containers, settled: Callable[[], Awaitable[None]]) -> None:
        super().__init__(f"networks/{name}", containers.engine)
        self.name = name
        self.containers = containers
        self.settled = settled


FIXED: tuple[Entry[FixedSubject], ...] = (
    Folder(
        name="members",
        make=lambda s: Members(s, s, s.containers, s.settled),
        doc="A link to each container whose ``network`` says so. ``ln -s ../../../containers/NAME`` makes it say so, EBUSY where one "
        "that runs can't; rm in ``host`` makes it say ``none``.",
    ),
    Value(
        name="error",
        volatile=True,
        changed=lambda s: s.error_changed,
        show=lambda s: s.error or None,
        doc="One line on what failed last. Empty after the next success.",
    ),
)


class PortLink(File):
    """In memory as long as the kernel knows it: there may be thousands."""

    __slots__ = ("__weakref__",)


class PortsDirectory(Directory):
    """``networks/ports/``: a link for each port of the machine that is published, to the container that has it."""

    unsteady = True

    def __init__(self, containers: Containers, parent: Directory) -> None:
        super().__init__("ports", parent, Place("networks/ports", containers.engine), ())
        self._containers = containers
        self._links: WeakValueDictionary[str, PortLink] = WeakValueDictionary()

    def _owned(self) -> Iterator[tuple[Port, str]]:
        """What is published, and the names of the containers that have it."""
        for identity, ports in self._containers.engine.attachments.claims.all().items():
            if (container := self._containers.by_id(identity)) is not None:
                for port in ports:
                    yield port, container.name

    def _owner(self, place: str) -> str | None:
        return next((name for port, name in self._owned() if port.has(place)), None)

    def dynamic(self, name: str) -> Node | None:
        return None if self._owner(name) is None else self._link(name)

    def _link(self, name: str) -> PortLink:
        node = self._links.get(name)
        if node is None:

            async def target(subject: Subject) -> str:
                return f"../../containers/{self._owner(name) or ''}"

            node = self._links[name] = PortLink(Link(name=name, target=target, doc="The container that has it."), self)
        return node

    def children(self) -> Sequence[tuple[str, Node]]:
        """All at once: a range has up to 65535, and to look for each would take minutes."""
        return [(name, self._link(name)) for name in sorted(self.dynamic_names())]

    def dynamic_names(self) -> Sequence[str]:
        return [place for port, _ in self._owned() for place in port.places()]


class NetworksDirectory(Directory):
    """``networks/``."""

    def __init__(self, containers: Containers, settled: Callable[[], Awaitable[None]], parent: Directory) -> None:
        super().__init__("networks", parent, Place("networks", containers.engine), ())
        self._containers = containers
        self._settled = settled
        self._nodes: dict[str, NetworkDirectory] = {}
        self._fixed: dict[str, Directory] = {"ports": PortsDirectory(containers, self)}
        for name in (HOST, NONE):
            subject = FixedSubject(name, containers, settled)
            self._fixed[name] = Directory(name, self, subject, cast("tuple[Entry[Subject], ...]", FIXED))
        containers.engine.attachments.settled = self._settle

    async def _settle(self) -> None:
        """Return when what was closed of networks' settings is stored."""
        for node in tuple(self._nodes.values()):
            await node.subject.metadata.settled()

    def dynamic(self, name: str) -> Node | None:
        if name in self._fixed:
            return self._fixed[name]
        network = self._containers.engine.attachments.store.get(name)
        if network is None or network.name != name:
            return None
        node = self._nodes.get(name)
        if node is None or cast(NetworkSubject, node.subject).network is not network:
            node = self._nodes[name] = NetworkDirectory(NetworkSubject(network, self._containers, self._settled), self)
        return node

    def dynamic_names(self) -> Sequence[str]:
        return [*(network.name for network in self._containers.engine.attachments.store), *self._fixed]

    async def settled(self) -> None:
        """The default network is there for whoever looks first."""
        attachments = self._containers.engine.attachments
        if attachments.store.get(DEFAULT) is None:
            try:
                await attachments.default()
            except (PydockError, OSError) as error:  # no subnet is free, or the disk is full
                self.subject.failed(f"networks/{DEFAULT}: {words_of(error)}")

    async def make(self, name: str) -> None:
        await self._containers.engine.attachments.create(name)

    async def remove(self, name: str) -> None:
        if name in self._fixed:
            raise Forbidden(f"networks/{name} is part of the tree and can't be removed")
        await self._settled()
        await self._containers.engine.attachments.remove(name)
        self._nodes.pop(name, None)

    async def rename(self, name: str, new: str) -> None:
        if name in self._fixed:
            raise Forbidden(f"networks/{name} is part of the tree and can't be renamed")
        await self._settled()
        await self._containers.renaming.network(name, new)
        if name != new and (node := self._nodes.pop(name, None)) is not None:
            node.name = new
            self._nodes[new] = node

    async def prune(self) -> tuple[str, ...]:
        """Remove every network that no container names; their names."""
        removed = []
        for network in tuple(self._containers.engine.attachments.store):
            with suppress(Busy, Forbidden):
                await self.remove(network.name)
                removed.append(network.name)
        return tuple(removed)
