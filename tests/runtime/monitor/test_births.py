"""pydockd's side of the monitor, without one."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing
from pydock.runtime.errors import Failed
from pydock.runtime.monitor.client import Monitor
from pydock.runtime.monitor.launch import Launch
from pydock.runtime.wire import Message


class Refuses:
    """A monitor that can't bear anybody."""

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        raise Failed(errno.EAGAIN, "set up: Resource temporarily unavailable")


async def test_who_waits_for_a_birth_hears_that_there_is_none() -> None:
    births: list[tuple[int, int]] = []
    heard = trio.Event()

    def born(pid: int, starttime: int) -> None:
        births.append((pid, starttime))
        heard.set()

    async def prepare() -> tuple[Launch, list[int]]:
        await heard.wait()
        raise ProcessLookupError(errno.ESRCH, "as there is none")

    with pytest.raises(Failed, match="temporarily unavailable"):
        await Monitor(Refuses()).start_with(Launch("i", ("true",)), prepare, born)
    assert births == [(0, 0)]


async def test_what_could_not_be_prepared_is_the_failure() -> None:
    class Answers(Refuses):
        async def request(
            self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
        ) -> tuple[Message, list[int]]:
            await trio.testing.wait_all_tasks_blocked()
            raise Failed(errno.ECANCELED, "there will be no launch")

    async def prepare() -> tuple[Launch, list[int]]:
        raise FileNotFoundError(errno.ENOENT, "no such image")

    with pytest.raises(FileNotFoundError):
        await Monitor(Answers()).start_with(Launch("i", ("true",)), prepare, lambda pid, starttime: None)
