"""What one container is called in its networks, and what it finds in /etc about names; both follow its settings while it runs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from pydock.runtime import launching
from pydock.runtime.names.client import Called, Described, Names
from pydock.runtime.network.etc import Etc, texts
from pydock.runtime.network.record import NetworkRecord
from pydock.runtime.network.words import HOST, Membership, joined, memberships

if TYPE_CHECKING:
    from pydock.runtime.container import Container
    from pydock.runtime.network.attaching import Attachments
    from pydock.runtime.spec import Spec

_SHORT: Final = 12  # digits of an id
_DEEPEST: Final = 16  # of container: of container: …


class Naming:
    """That of *container*."""

    def __init__(self, container: Container) -> None:
        self._container = container

    @property
    def _attachments(self) -> Attachments:
        return self._container.engine.attachments

    @property
    def _names(self) -> Names:
        return self._attachments.names

    # DNS

    def note(self) -> list[Described]:
        """It is called by its names where it is a member, and nowhere else; the networks where that is news."""
        container, found = self._container, {each.name: each for each in self._names.networks_of(self._container.id)}
        wanted = memberships(container.spec.network)
        aliases = {each.network: each.aliases for each in wanted}
        called: dict[str, Called] = dict.fromkeys(found, Called())
        for network, lease in self._attachments.addresses(container.id, wanted):
            names = (container.name, container.id[:_SHORT], *aliases[network.name])
            called[network.name] = Called(tuple(dict.fromkeys(names)), tuple(lease.addresses))
            found[network.name] = described(network)
        return [found[name] for name, each in called.items() if self._names.note(found[name], container.id, each)]

    async def tell(self, *, joining: bool = True) -> None:
        """``note``, and return when it is so; with *joining* who comes to a network, or leaves it, is an event."""
        identity = self._container.id
        before = {each.name for each in self._names.networks_of(identity)}
        news = self.note()
        after = {each.name for each in self._names.networks_of(identity)}
        for name in sorted(after ^ before) if joining else ():
            self._happened(name, "connect" if name in after else "disconnect")
        for network in news:
            await self._names.tell(network, identity)

    def forget(self) -> None:
        """It runs no more, and is nobody in any network."""
        identity = self._container.id
        for network in self._names.networks_of(identity):
            self._names.note(network, identity, Called())
            self._happened(network.name, "disconnect")
            self._container.engine.spawn(partial(self._names.tell, network, identity))

    def _happened(self, network: str, action: str) -> None:
        self._container.engine.events.publish("network", network, action, container=self._container.name)

    # /etc

    def etc(self, spec: Spec | None = None) -> Etc:
        """What its files say besides its settings; with *spec*, those that are about to hold."""
        container = self._container
        items, identity, own = (spec or container.spec).network, container.id, container.name
        for _ in range(_DEEPEST):
            if (name := joined(items)) is None or (found := container.engine.find(name)) is None:
                break
            items, identity, own = found.spec.network, found.id, found.name
        return Etc(
            machine=items == (HOST,),
            own=tuple(
                (text, own)
                for _, lease in self._attachments.addresses(identity, memberships(items))
                for text in lease.addresses
            ),
            gateway=self._gateway(memberships(items)),
        )

    def _gateway(self, wanted: tuple[Membership, ...]) -> str:
        """The address that answers for all of its networks: one, as a libc asks three servers at most, and ``dns`` come behind it."""
        networks = [network for each in wanted if (network := self._attachments.store.get(each.network)) is not None]
        chosen = next((network for network in networks if not network.internal), networks[0] if networks else None)
        return "" if chosen is None or not chosen.gateways else str(chosen.gateways[0].ip)

    async def refresh(self, spec: Spec | None = None) -> None:
        """Have the files of the running container say what holds now; with *spec*, what is about to hold. OSError."""
        container = self._container
        if not container.record.pid:
            return
        found = spec or container.spec
        name, etc, place = launching.hostname(found, container.id), self.etc(found), container.runs.place.files

        def write() -> None:
            for file, text in texts(name, etc, found.hosts, found.dns).items():
                _rewrite(place / file, text)

        await trio.to_thread.run_sync(write)


def _rewrite(path: Path, text: str) -> None:
    """In place: the container has this very file mounted."""
    with open(path, "r+", encoding="utf-8") as file:
        file.write(text)
        file.truncate()


def described(network: NetworkRecord) -> Described:
    """A network as the names know it."""
    return Described(
        network.name,
        network.bridge,
        tuple(str(each.ip) for each in network.gateways),
        tuple(map(str, network.subnets)),
        network.internal,
    )
