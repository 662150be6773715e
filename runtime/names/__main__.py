"""The names: answers what a network's members ask about each other at its gateway's addresses, and passes on the rest.

It answers while pydockd is away, with what it was told last, as long as somebody is in a network. It loses nothing by dying but its
table, which is told again to the next one. Who asks sees the names of the network at whose gateway it asks, and of the others that
it is a member of; strangers are refused.

Requests (``pydock.runtime.serving``); a zone is ``{name, bridge, gateways, subnets, internal}`` of a network, with addresses as texts:

- ``resolvers {addresses}``: who is asked what is nobody's here; without any, whom the machine asks
- ``table {zones: [{zone, members: {id: {names, addresses}}}, ...]}`` -> ``{failed: {name: words}}``: that is all there is from now on;
  failed are those at whose gateways it can't listen: that is tried again
- ``member {zone, id, names, addresses}`` -> the same about one; without addresses it is none. A zone without members is none
- ``list`` -> ``{zones: {name: members}}``
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from pydock.runtime import wire
from pydock.runtime.names import bridges, message
from pydock.runtime.names.forwarding import Forwarder
from pydock.runtime.names.listening import Gateway
from pydock.runtime.names.resolvers import Resolvers
from pydock.runtime.names.zone import Zone
from pydock.runtime.serving import Options, Peer, Server, begin
from pydock.runtime.wire import Message

_NOWHERE: Final[frozenset[str]] = frozenset()
_RETRY: Final = 2.0  # seconds until an address that was somebody else's is tried again
_ALONE: Final = 2.0  # seconds between looks at who is there, while nobody tells


class NamesProcess(Server):
    """The process: a zone for each network that has members."""

    def __init__(self, options: Options) -> None:
        super().__init__(begin("names", options, many_files=True))
        with open("/proc/self/comm", "w") as file:
            file.write("pydock-names")  # for those who look who has port 53
        self.zones: dict[str, Zone] = {}
        self.homes: dict[str, set[str]] = {}  # the zones of each member
        self.gateways: dict[tuple[str, IPv4Address | IPv6Address], Gateway] = {}
        self.failed: dict[str, str] = {}
        self._connections: Counter[str] = Counter()
        self._retrying = False
        self._looking = False
        self.resolvers = Resolvers()
        self.forwarder = Forwarder(self, self.resolvers, self._is_own)

    def idle(self) -> bool:
        return not self.zones

    def deserted(self) -> None:
        if not self._looking:
            self._looking = True
            self.later(_ALONE, self._look)

    def _look(self) -> None:
        """Whoever told may never come again: a network that nobody is in needs no answers."""
        self._looking = False
        if self.peers:
            return
        left = {name: zone for name, zone in self.zones.items() if bridges.is_used(zone.bridge)}
        if len(left) < len(self.zones):
            self.zones = left
            self._note_homes()
            self._listen()
        if self.zones:
            self.deserted()

    def handle(self, peer: Peer, message: Message, fds: list[int]) -> Message | tuple[Message, list[int]] | None:
        match message.get("do"):
            case "table":
                return self._table(message.get("zones"))
            case "member":
                return self._member(message)
            case "resolvers":
                self.resolvers.told = tuple(wire.texts(message, "addresses"))
                return {}
            case "list":
                return {"zones": {name: len(zone) for name, zone in self.zones.items()}}
            case _:
                return super().handle(peer, message, fds)

    def _table(self, plain: object) -> Message:
        if not isinstance(plain, list):
            raise ValueError("zones: a list is needed")
        zones: dict[str, Zone] = {}
        for each in plain:
            zone = zones[wire.text(each["zone"], "name")] = Zone(each["zone"])
            for identity, member in each["members"].items():
                zone.put(identity, wire.texts(member, "names"), wire.texts(member, "addresses"))
        self.zones = {name: zone for name, zone in zones.items() if len(zone)}
        self._note_homes()
        self._listen()
        return {"failed": dict(self.failed)}

    def _note_homes(self) -> None:
        self.homes = {}
        for name, zone in self.zones.items():
            for identity in zone.members():
                self.homes.setdefault(identity, set()).add(name)

    def _member(self, plain: Message) -> Message:
        described = plain.get("zone")
        if not isinstance(described, dict):
            raise ValueError("zone: an object is needed")
        fresh = Zone(described)
        zone = self.zones.get(fresh.name)
        if zone is None or (zone.gateways, zone.subnets) != (fresh.gateways, fresh.subnets):
            zone = fresh
        zone.internal = fresh.internal
        zone.put(wire.text(plain, "id"), wire.texts(plain, "names"), wire.texts(plain, "addresses"))
        identity = wire.text(plain, "id")
        homes = self.homes.setdefault(identity, set())
        (homes.add if identity in zone.members() else homes.discard)(zone.name)
        if not homes:
            del self.homes[identity]
        if len(zone):
            self.zones[zone.name] = zone
        else:
            self.zones.pop(zone.name, None)
        self._listen()
        return {"failed": dict(self.failed)}

    def _listen(self) -> None:
        """At the addresses of the zones that there are, and at no others."""
        wanted = {(zone.name, address) for zone in self.zones.values() for address in zone.gateways}
        for key in self.gateways.keys() - wanted:
            self.gateways.pop(key).close()
        self.failed = {}
        for name, address in wanted:
            what = "port 53"
            try:
                if (name, address) not in self.gateways:
                    self.gateways[name, address] = Gateway(
                        self, name, address, self._ask, self._member_of, self._connections
                    )
                what = "TCP port 53"
                self.gateways[name, address].listen()
            except OSError as error:
                self.failed[name] = f"names: {address} {what}: {error.strerror}"
        if self.failed and not self._retrying:
            self._retrying = True
            self.later(_RETRY, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self._listen()

    def _is_own(self, address: str) -> bool:
        return any(str(own) == address for _, own in self.gateways)

    def _ask(self, network: str, host: str, data: bytes, reply: Callable[[bytes], None], *, stream: bool) -> None:
        """One question of *host*'s; see :class:`pydock.runtime.names.listening.Answerer`."""
        zone = self.zones.get(network)
        if zone is None:
            return
        try:
            query = message.parse(data)
        except message.Malformed as error:
            if error.code is not None:
                reply(message.failure(data, error.code))
            return
        address = _address(host)
        if not zone.serves(address):
            reply(message.answer(query, message.REFUSED, own=False))
            return
        room = message.LONGEST if stream else query.room
        zones = [zone]
        own = zone.answer(query, room)
        if own is None and (others := self.homes.get(zone.member_at(address), _NOWHERE)):
            zones += [self.zones[name] for name in sorted(others & self.zones.keys()) if name != network]
            own = next(filter(None, (each.answer(query, room) for each in zones[1:])), None)
        if own is None and (all(each.internal for each in zones) or any(each.covers(query) for each in zones)):
            own = message.answer(query, message.NXDOMAIN)
        if own is not None:
            reply(own)
            return

        def passed_on(answer: bytes) -> None:
            reply(answer if len(answer) <= room else message.truncated(query))

        self.forwarder.ask(query, data, (network, host), passed_on, stream=stream)

    def _member_of(self, network: str, host: str) -> str:
        """The queue of *host*'s questions: each member has its own, strangers share one."""
        zone = self.zones.get(network)
        return "" if zone is None else zone.member_at(_address(host))


@functools.lru_cache(maxsize=4096)
def _address(host: str) -> IPv4Address | IPv6Address:
    return ip_address(host)


if __name__ == "__main__":
    NamesProcess(Options(sys.argv[1:])).run()
