"""pydockd's side of the names: what is to be answered, kept here so that it can be told again to a process that is new."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio
from pydock.runtime.companion import Companion, Link
from pydock.runtime.errors import Failed
from pydock.runtime.wire import Message, Requester

_log = logging.getLogger(__name__)
_PATIENCE: Final = 5.0  # seconds that a start waits for its names; they are told later then


@dataclass(frozen=True, slots=True)
class Described:
    """A network as the names know it."""

    name: str
    bridge: str
    gateways: tuple[str, ...]
    subnets: tuple[str, ...]
    internal: bool

    def plain(self) -> Message:
        """As it is sent."""
        lists = {"gateways": list(self.gateways), "subnets": list(self.subnets)}
        return {"name": self.name, "bridge": self.bridge, "internal": self.internal, **lists}


@dataclass(frozen=True, slots=True)
class Called:
    """A member: what it is called, and where it is."""

    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    def plain(self) -> dict[str, object]:
        """As it is sent."""
        return {"names": list(self.names), "addresses": list(self.addresses)}


class Names:
    """All members' names. The process is started when there is the first, or found again."""

    def __init__(self, failed: Callable[[str, str], None], mended: Callable[[str, str], None]) -> None:
        self._resolvers: tuple[str, ...] = ()
        self._failed = failed  # called with a network's name, and why it has no names
        self._mended = mended  # and with the same, when that holds no more
        self._words: dict[str, str] = {}
        self._described: dict[str, Described] = {}
        self._members: dict[str, dict[str, Called]] = {}
        self._companion: Companion | None = None
        self._nursery: trio.Nursery | None = None
        self._begun = False
        self._sending = trio.Lock()

    async def begin(self, companion: Companion, nursery: trio.Nursery) -> None:
        """From now on what is noted is told: all that ran before is. The process is *companion*, kept going in *nursery*."""
        self._companion, self._nursery = companion, nursery
        if self._members or await trio.Path(companion.directory, "names.sock").exists():
            self._start()

    def _start(self) -> None:
        if not self._begun and self._companion is not None and self._nursery is not None:
            self._begun = True
            self._nursery.start_soon(self._companion.run)

    async def connected(self, link: Link, fresh: bool) -> None:
        """The companion's ``on_connect``: whatever the process knew, this is all there is."""
        await self._request(link, {"do": "resolvers", "addresses": list(self._resolvers)})
        await self._tell_all(link)

    async def let_go(self) -> None:
        """What was noted last may not have been told: without members the process ends by itself."""
        if self._companion is not None and self._begun:
            await self._tell_all(self._companion)

    async def _tell_all(self, requester: Requester) -> None:
        zones = [
            {
                "zone": self._described[name].plain(),
                "members": {identity: called.plain() for identity, called in members.items()},
            }
            for name, members in self._members.items()
        ]
        await self._request(requester, {"do": "table", "zones": zones})

    async def ask(self, resolvers: tuple[str, ...]) -> None:
        """Who is asked from now on what is nobody's here; without any, whom the machine asks."""
        self._resolvers = resolvers
        if self._companion is not None and self._begun:
            await self._request(self._companion, {"do": "resolvers", "addresses": list(resolvers)})

    def note(self, network: Described, identity: str, called: Called) -> bool:
        """A member has these names; without addresses it is none. Whether that is news."""
        members = self._members.setdefault(network.name, {})
        before = members.get(identity, Called())
        changed = called != before or self._described.get(network.name, network) != network
        self._described[network.name] = network
        if called.addresses:
            members[identity] = called
        else:
            members.pop(identity, None)
        if not members:
            del self._members[network.name]
        return changed

    async def tell(self, network: Described, identity: str) -> None:
        """Have the process know what was noted about a member. What can't be told now is when it can be."""
        if self._companion is None:
            return
        if self._members:
            self._start()
        if not self._begun:
            return
        with trio.move_on_after(_PATIENCE):
            async with self._sending:
                called = self._members.get(network.name, {}).get(identity, Called())
                message: Message = {"do": "member", "zone": network.plain(), "id": identity, **called.plain()}
                await self._request(self._companion, message)

    async def _request(self, requester: Requester, message: Message) -> None:
        try:
            answer, _ = await requester.request(message)
        except Failed as error:  # if it has died, the next one is told all
            _log.debug("names: %s", error)
            return
        failed = answer.get("failed", self._words)
        words = {str(name): str(said) for name, said in failed.items()} if isinstance(failed, dict) else {}
        for name, said in words.items():
            if self._words.get(name) != said:
                _log.warning("networks/%s: %s", name, said)
                self._failed(name, said)
        for name in self._words.keys() - words.keys():
            self._mended(name, self._words[name])
        self._words = words

    def networks_of(self, identity: str) -> list[Described]:
        """Those in which it has names."""
        return [self._described[name] for name, members in self._members.items() if identity in members]

    def lines(self, network: str) -> Iterable[str]:
        """``NAME ADDRESS``, sorted."""
        members = self._members.get(network, {}).values()
        return sorted({f"{name} {each}" for called in members for name in called.names for each in called.addresses})
