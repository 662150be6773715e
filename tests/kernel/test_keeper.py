"""The keeper holds descriptors, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest


def same(one: int, other: int) -> bool:
    """Whether two descriptors are of one file."""
    return os.path.sameopenfile(one, other)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_what_was_kept_comes_back_by_its_name(small: Callable, pipe: tuple[int, int]) -> None:
    keeper = small("keeper")
    keeper.ask("keep", pipe, id="c", names=["reader", "writer"])
    keeper.disconnect()
    keeper.connect()
    answer, fds = keeper.ask("get", id="c")
    assert answer["names"] == ["reader", "writer"]
    assert same(fds[0], pipe[0])
    assert not os.get_inheritable(fds[0])
    for fd in fds:
        os.close(fd)


def test_a_kept_writer_keeps_a_reader_from_the_end_until_it_is_dropped(small: Callable) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    keeper = small("keeper")
    keeper.ask("keep", [writer], id="c", names=["stdin"])
    os.close(writer)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)
    keeper.ask("drop", id="c", name="stdin")
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert keeper.ask("list")[0] == {"kept": {}, "seq": 1}


def test_a_second_of_a_name_takes_the_place_of_the_first(small: Callable, pipe: tuple[int, int]) -> None:
    keeper = small("keeper")
    keeper.ask("keep", [pipe[0]], id="c", names=["x"])
    keeper.ask("keep", [pipe[1]], id="c", names=["x"])
    _, fds = keeper.ask("get", id="c")
    assert len(fds) == 1
    os.close(fds[0])


def test_hundreds_of_descriptors_come_back_in_order(small: Callable) -> None:
    made = [os.memfd_create(f"m{number}") for number in range(200)]
    names = [f"m{number}" for number in range(200)]
    keeper = small("keeper")
    keeper.ask("keep", made, id="c", names=names)
    answer, fds = keeper.ask("get", id="c")
    assert answer["names"] == names
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == [f"/memfd:{name} (deleted)" for name in names]
    for fd in (*made, *fds):
        os.close(fd)


def test_dropped_and_taken_descriptors_leave_nothing_open(small: Callable, pipe: tuple[int, int]) -> None:
    keeper = small("keeper")
    before = sorted(os.listdir(f"/proc/{keeper.pid}/fd"))
    keeper.ask("keep", pipe, id="c", names=["a", "b"])
    for fd in keeper.ask("get", id="c")[1]:
        os.close(fd)
    keeper.ask("drop", id="c")
    keeper.ask("drop", id="c")
    assert sorted(os.listdir(f"/proc/{keeper.pid}/fd")) == before


def test_names_that_do_not_match_the_descriptors_are_refused(small: Callable, pipe: tuple[int, int]) -> None:
    keeper = small("keeper")
    with pytest.raises(Exception, match="1 names for 2 descriptors"):
        keeper.ask("keep", pipe, id="c", names=["a"])
    assert keeper.ask("list")[0]["kept"] == {}


def test_a_keeper_without_clients_stays_while_it_keeps_something(small: Callable, pipe: tuple[int, int]) -> None:
    keeper = small("keeper")
    keeper.ask("keep", [pipe[0]], id="c", names=["a"])
    keeper.disconnect()
    keeper.connect()
    assert keeper.ask("who")[0]["pid"] == keeper.pid
    keeper.ask("drop", id="c")
    keeper.disconnect()
    keeper.wait_for_end()
