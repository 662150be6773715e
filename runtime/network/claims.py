"""Who has which published port of the machine.

Nobody listens for one, the packet filter sends its packets on: whether it is free has to be asked of ``listening``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import trio
from pydock.runtime.errors import Taken
from pydock.runtime.network.listening import can_be_bound, check_free, check_led_on
from pydock.runtime.network.ports import Port

_FEW: Final = 64  # as many are kept one by one


class Claims:
    """Who has which ports of the machine. In the loop's thread, but for what is said to block."""

    def __init__(self) -> None:
        self._bound: dict[str, tuple[Port, ...]] = {}  # by the container's id
        self._held: dict[str, tuple[Port, ...]] = {}  # what they had before a change that may be undone yet
        self.lock = trio.Lock()  # from looking for what is free until it is had
        self._moved: set[Port] = set()
        self.is_gateway: Callable[[str], bool] = lambda address: False  # of a network, where its DNS listens
        self.name_of: Callable[[str], str] = lambda container: container[:12]
        self.elsewhere: Callable[[], Iterable[tuple[Port, str]]] = (
            tuple  # what other engines have published, and who; blocks
        )

    def of(self, container: str) -> tuple[Port, ...]:
        """What it has."""
        return self._bound.get(container, ())

    def all(self) -> dict[str, tuple[Port, ...]]:
        """Everybody's."""
        return dict(self._bound)

    def adopt(self, container: str, ports: Iterable[Port]) -> None:
        """It has these and no others."""
        bound = tuple(ports)
        self._moved |= set(self.of(container)) ^ set(bound)
        if bound:
            self._bound[container] = bound
        else:
            self._bound.pop(container, None)

    def release(self, container: str) -> None:
        """It has none any more."""
        self._held.pop(container, None)
        self.adopt(container, ())

    @contextmanager
    def held(self, container: str) -> Iterator[None]:
        """What it has now nobody else gets within, even if it gives it up: it may be given back to it."""
        self._held[container] = self.of(container)
        try:
            yield
        finally:
            self._held.pop(container, None)

    def lead_elsewhere(self, container: str) -> None:
        """It has what it had, at other addresses of its own."""
        self._moved |= set(self.of(container))

    def take_moved(self) -> set[Port]:
        """Those that lead elsewhere than when this was asked last."""
        moved, self._moved = self._moved, set()
        return moved

    def find(self, wanted: Iterable[Port], kept: Iterable[Port], container: str) -> tuple[Port, ...]:
        """*wanted*, with a free port where any will do; *kept* are the container's own already. Taken, with who has it. Blocks."""
        had, fresh = tuple(kept), list(wanted)
        own, others = _Index(), _Index()
        for port in had:
            own.add(port, container)
        for owner, theirs in (*self._bound.items(), *self._held.items()):
            if owner != container:
                name = f"container {self.name_of(owner)}"
                for port in theirs:
                    others.add(port, name)
        for port, name in self.elsewhere() if fresh else ():
            others.add(port, name)
        # Who takes any leaves the others theirs.
        for index in sorted(range(len(fresh)), key=lambda each: fresh[each].is_open):
            port = fresh[index]
            chosen = _any(port, own, others) if port.is_open else port
            if own.find(chosen) is not None:
                raise Taken(f"ports: {chosen} is published twice")
            if (having := others.find(chosen)) is not None:
                raise Taken(f"ports: {chosen} is taken by {having}")
            if not port.is_open:
                check_free(chosen, self.is_gateway)
            own.add(chosen, container)
            fresh[index] = chosen
        return (*had, *fresh)

    def check_elsewhere(self, fresh: Collection[Port]) -> None:
        """Taken when one of *fresh* has become another engine's since it was found free. Blocks."""
        others = _Index()
        for port, name in self.elsewhere() if fresh else ():
            others.add(port, name)
        for port in fresh:
            if (having := others.find(port)) is not None:
                raise Taken(f"ports: {port} is taken by {having}")


class _Index:
    """Ports by their numbers: there may be thousands."""

    def __init__(self) -> None:
        self._single: dict[tuple[str, int], list[tuple[Port, str]]] = {}
        self._long: list[tuple[Port, str]] = []

    def add(self, port: Port, owner: str) -> None:
        if port.count > _FEW:
            self._long.append((port, owner))
            return
        for number in range(port.host, port.host + port.count):
            self._single.setdefault((port.protocol, number), []).append((port, owner))

    def find(self, port: Port) -> str | None:
        """Who has what overlaps it."""
        numbers = range(port.host, port.host + port.count)
        near = [each for number in numbers for each in self._single.get((port.protocol, number), ())]
        return next((owner for each, owner in (*near, *self._long) if each.overlaps(port)), None)


def _any(port: Port, *taken: _Index) -> Port:
    """*port* at one of the machine's that is free. Taken when there is none; Invalid and Unsupported as ``check_free``."""
    check_led_on(port)
    for host in range(port.host, port.host + port.choices) if port.host else _some(port):
        chosen = port.at(host)
        if all(index.find(chosen) is None for index in taken) and all(
            can_be_bound(chosen, version) for version in chosen.versions
        ):
            return chosen
    raise Taken(f"ports: {port} is taken, each of them" if port.host else "ports: there is no port left that is free")


def _some(port: Port) -> Iterator[int]:
    """Numbers that the kernel thinks are free."""
    kind = socket.SOCK_DGRAM if port.protocol == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in port.written else socket.AF_INET
    for _ in range(200):
        with socket.socket(family, kind) as probe:
            probe.bind((port.written, 0))
            number = probe.getsockname()[1]
        yield number
