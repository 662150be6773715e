"""How requests are taken in: one waits, whoever has answered goes on, and the rest of the loop has its turn."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.testing
from pydock.fs.intake import Intake, Reading, taking_in


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield reader, writer
    os.close(writer)
    os.close(reader)


def test_it_has_all_of_trio_that_pyfuse3_asks_for() -> None:
    sources = [path for path in Path(pyfuse3.__file__).parent.iterdir() if path.suffix in (".pyx", ".pxi")]
    text = "\n".join(path.read_text() for path in sources)
    asked = set(re.findall(r"(?<![\w.])trio\.(\w+(?:\.\w+)*)\(", text)) | set(re.findall(r"except trio\.(\w+)", text))
    assert {"Lock", "lowlevel.wait_readable", "ClosedResourceError"} <= asked
    given = taking_in()
    for name in asked - {"run_sync_in_worker_thread"}:  # of which a docstring tells
        assert callable(reduce(getattr, name.split("."), given)), name


async def test_one_has_it_at_a_time_and_each_in_the_end() -> None:
    reading, inside, done = Reading(), 0, 0

    async def work() -> None:
        nonlocal inside, done
        for _ in range(5):
            async with reading:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            await trio.lowlevel.checkpoint()
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(work)
    assert done == 7


async def test_who_gives_it_back_may_take_it_again_without_a_turn() -> None:
    reading, others = Reading(), 0

    async def wait() -> None:
        nonlocal others
        async with reading:
            others += 1

    async with trio.open_nursery() as nursery:
        async with reading:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            with trio.testing.assert_no_checkpoints():
                async with reading:
                    assert others == 0
    assert others == 1


async def test_who_is_cancelled_takes_it_from_nobody() -> None:
    reading, done = Reading(), False

    async def wait() -> None:
        nonlocal done
        async with reading:
            done = True

    async with trio.open_nursery() as nursery, reading:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as waiting:
                waiting.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert not done
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
    assert done


async def test_what_is_there_is_taken_at_once_until_others_have_a_turn(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")
    intake, turns = Intake(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with trio.testing.assert_no_checkpoints():
            await intake.wait_readable(reader)
        assert turns == 0
        for _ in range(100):
            await intake.wait_readable(reader)
        assert 2 <= turns <= 50
        nursery.cancel_scope.cancel()


async def test_what_is_not_there_is_waited_for(pipe: tuple[int, int], autojump_clock: trio.testing.MockClock) -> None:
    reader, writer = pipe
    intake = Intake()
    with trio.move_on_after(1) as waiting:
        await intake.wait_readable(reader)
    assert waiting.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.wait_readable, reader)
        await trio.testing.wait_all_tasks_blocked()
        os.write(writer, b"x")


async def test_the_end_wakes_who_waits(pipe: tuple[int, int]) -> None:
    intake, ended = Intake(), []

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await intake.wait_readable(pipe[0])
        ended.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        taking_in().lowlevel.notify_closing(pipe[0])
    assert ended
