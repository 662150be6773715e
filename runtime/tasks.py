"""Several things at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def side_by_side(*calls: Callable[[], Awaitable[object]]) -> None:
    """Each of *calls* at the same time, to its end; then the first failure, if there was one, is raised."""
    if len(calls) == 1:
        await calls[0]()
        return
    failures: list[Exception] = []

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except Exception as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(one, call)
    if failures:
        raise failures[0]


async def nothing() -> None:
    """What is called where there is nothing to do or to wait for."""


async def shielded(call: Callable[[], Awaitable[object]]) -> None:
    """*call*, which nobody cancels."""
    with trio.CancelScope(shield=True):
        await call()
