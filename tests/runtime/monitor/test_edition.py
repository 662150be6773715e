"""A monitor that was there before, and runs perhaps the program of before."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest
from pydock.runtime.companion import Lost
from pydock.runtime.errors import Failed
from pydock.runtime.monitor.client import Monitor
from pydock.runtime.monitor.edition import edition
from pydock.runtime.wire import Message


class Before:
    """A monitor of *edition*; *outcome* is raised when it is to execute the new program."""

    def __init__(self, edition: str | None, outcome: Exception) -> None:
        self.edition = edition
        self.outcome = outcome
        self.asked: list[object] = []

    async def request(
        self, message: Message, fds: Sequence[int] = (), sent: Callable[[], None] | None = None
    ) -> tuple[Message, list[int]]:
        self.asked.append(message["do"])
        if message["do"] == "upgrade":
            raise self.outcome
        return ({"pid": 1} if self.edition is None else {"pid": 1, "edition": self.edition}), []


async def test_one_of_this_edition_is_left_alone() -> None:
    before = Before(edition(), Lost("monitor"))
    await Monitor(before).agree(before)
    assert before.asked == ["who"]


@pytest.mark.parametrize("other", [None, "another"])
async def test_one_of_another_edition_is_asked_once_and_lost(other: str | None) -> None:
    before = Before(other, Lost("monitor"))
    monitor = Monitor(before)
    with pytest.raises(Lost):
        await monitor.agree(before)
    await monitor.agree(before)  # whatever it is by now
    assert before.asked == ["who", "upgrade", "who"]


async def test_one_that_is_busy_goes_on_as_it_is() -> None:
    before = Before("another", Failed(errno.EBUSY, "something is under way"))
    await Monitor(before).agree(before)
    assert before.asked == ["who", "upgrade"]
