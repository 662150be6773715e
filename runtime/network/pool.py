"""Network namespaces made ahead, each with a pair of links that is nowhere connected: what a start would wait longest for.

There are as many as starts have asked for at once lately, and none before the first one. A namespace that a container has had is not
used again: sockets, settings and rules of its own may be left in it; the kernel takes it apart, with its links, behind the end.
"""

from __future__ import annotations

import os
from typing import Final

import trio
from pydock.runtime.network import links, netlink
from pydock.runtime.network.links import Pair

_MOST: Final = 16
_MOMENT: Final = 0.02  # seconds
_IDLE: Final = 30.0  # seconds after which fewer are kept


class Pool:
    """Of one engine. In the loop's thread only."""

    def __init__(self) -> None:
        self._spare: list[Pair] = []
        self._wanted = 0
        self._taken = trio.Event()

    async def take(self) -> Pair:
        """One of them, or one made now; the namespace is the caller's, who closes the pair when it is connected. OSError."""
        self._taken.set()
        while self._spare:
            pair = self._spare.pop()
            if pair.is_there():
                return pair
            _drop(pair)
        self._wanted = min(2 * self._wanted or 1, _MOST)
        return await trio.to_thread.run_sync(links.new_pair)

    async def run(self) -> None:
        """Fill it as it is used, until cancelled; then all that is left goes."""
        try:
            await trio.to_thread.run_sync(netlink.load)
            while True:
                await self._taken.wait()
                await self._calm()
                while len(self._spare) < self._wanted:
                    try:
                        self._spare.append(await trio.to_thread.run_sync(links.new_pair))
                    except OSError:
                        break  # whoever needs one is told why
                with trio.move_on_after(_IDLE) as waiting:
                    await self._taken.wait()
                if waiting.cancelled_caught:
                    self._shrink(self._wanted // 2 or 1)
        finally:
            self._shrink(0)

    async def _calm(self) -> None:
        """Return when there has been no start for a moment: it is not to wait for what later ones need."""
        calm = False
        while not calm:
            self._taken = trio.Event()
            with trio.move_on_after(_MOMENT) as moment:
                await self._taken.wait()
            calm = moment.cancelled_caught

    def _shrink(self, wanted: int) -> None:
        self._wanted = wanted
        while len(self._spare) > wanted:
            _drop(self._spare.pop())


def _drop(pair: Pair) -> None:
    pair.close()
    os.close(pair.namespace)
