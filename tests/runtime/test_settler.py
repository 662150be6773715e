"""Small files that are settled behind the replies: what was acknowledged is there whatever dies."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from pydock.runtime import settler as settler_
from pydock.runtime.settler import Settler


@pytest.fixture
def settler(tmp_path: Path) -> Settler:
    (tmp_path / "d").mkdir()
    return Settler(tmp_path)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without the room that a line wants."""
    monkeypatch.setattr(settler_, "_ROOM", 1 << 60)


def lines(settler: Settler) -> int:
    return settler._file.read_bytes().count(b"\n")


def test_what_was_replaced_is_read_before_and_after_a_death(settler: Settler, tmp_path: Path) -> None:
    path = tmp_path / "d/x"
    for text in ("one\n", "two \udce9\n"):
        settler.replace(path, text)
        assert settler.read(path) == text
        assert Settler(tmp_path).read(path) == text
    assert not path.exists()


async def test_settling_writes_the_files_and_leaves_no_line(settler: Settler, tmp_path: Path) -> None:
    for number in range(3):
        settler.replace(tmp_path / "d/x", str(number))
    settler.replace(tmp_path / "d/y", '{"a": 1}')
    await settler.settle()
    assert (lines(settler), (tmp_path / "d/x").read_text()) == (0, "2")
    assert settler.read_json(tmp_path / "d/y") == Settler(tmp_path).read_json(tmp_path / "d/y") == {"a": 1}
    assert sorted(os.listdir(tmp_path / "d")) == ["x", "y"]


async def test_what_a_death_has_left_is_settled_by_the_next(settler: Settler, tmp_path: Path) -> None:
    settler.replace(tmp_path / "d/x", "one")
    after = Settler(tmp_path, interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(after.run)
        while not (tmp_path / "d/x").exists():
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert lines(after) == 0


@pytest.mark.parametrize("torn", [b'["d/x", "tw', b"\0\0\0", b"[", b"\xff"])
def test_a_line_that_a_loss_of_power_has_torn_is_none(settler: Settler, tmp_path: Path, torn: bytes) -> None:
    settler.replace(tmp_path / "d/x", "one")
    with open(settler._file, "ab") as file:
        file.write(torn)
    after = Settler(tmp_path)
    assert after.read(tmp_path / "d/x") == "one"
    after.replace(tmp_path / "d/x", "three")
    assert Settler(tmp_path).read(tmp_path / "d/x") == "three"


@pytest.mark.parametrize("line", [b"", b"[]", b"1", b"null", b'["d/x"]', b"[1, 2]", b'["d/x", 2]', b"\xff", b"{"])
def test_a_line_that_can_t_be_read_costs_no_other(settler: Settler, tmp_path: Path, line: bytes) -> None:
    settler.replace(tmp_path / "d/x", "one")
    with open(settler._file, "ab") as file:
        file.write(line + b"\n")
    settler.replace(tmp_path / "d/y", "two")
    after = Settler(tmp_path)
    assert (after.read(tmp_path / "d/x"), after.read(tmp_path / "d/y")) == ("one", "two")


async def test_what_is_of_a_directory_that_has_gone_is_dropped(settler: Settler, tmp_path: Path) -> None:
    settler.replace(tmp_path / "d/x", "one")
    os.rename(tmp_path / "d", tmp_path / "trash")
    after = Settler(tmp_path)
    await after.settle()
    assert (lines(after), os.listdir(tmp_path / "trash")) == (0, [])
    settler.forget(tmp_path / "d")
    (tmp_path / "d").mkdir()
    await settler.settle()
    assert os.listdir(tmp_path / "d") == []


@pytest.mark.usefixtures("full")
def test_on_a_full_disk_files_are_replaced_at_once(settler: Settler, tmp_path: Path) -> None:
    settler.replace(tmp_path / "d/x", "one")
    assert (lines(settler), (tmp_path / "d/x").read_text()) == (0, "one")
    with pytest.raises(FileNotFoundError):
        settler.replace(tmp_path / "e/x", "one")


def test_what_was_replaced_at_once_is_newer_than_each_line(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settler.replace(tmp_path / "d/x", "one")
    settler.replace(tmp_path / "d/y", "two")
    monkeypatch.setattr(settler_, "_ROOM", 1 << 60)
    settler.replace(tmp_path / "d/x", "three")
    after = Settler(tmp_path)
    assert (after.read(tmp_path / "d/x"), after.read(tmp_path / "d/y")) == ("three", "two")


async def test_what_can_t_be_written_keeps_its_line(settler: Settler, tmp_path: Path) -> None:
    (tmp_path / "d/x.new").mkdir()
    settler.replace(tmp_path / "d/x", "one")
    settler.replace(tmp_path / "d/y", "two")
    await settler.settle()
    assert Settler(tmp_path).read(tmp_path / "d/x") == "one"
    assert (tmp_path / "d/y").read_text() == "two"
    (tmp_path / "d/x.new").rmdir()
    await settler.settle()
    assert (lines(settler), (tmp_path / "d/x").read_text()) == (0, "one")


async def test_lines_do_not_grow_for_ever_beside_one_that_stays(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settler_, "_LONG", 1000)
    (tmp_path / "d/x.new").mkdir()
    settler.replace(tmp_path / "d/x", "one")
    for number in range(10):
        settler.replace(tmp_path / "d/y", f"{number}" * 200)
    await settler.settle()
    assert lines(settler) == 1
    settler.replace(tmp_path / "d/z", "two")
    after = Settler(tmp_path)
    assert (after.read(tmp_path / "d/x"), after.read(tmp_path / "d/y"), after.read(tmp_path / "d/z")) == (
        "one",
        "9" * 200,
        "two",
    )


def test_whenever_it_dies_the_last_acknowledged_text_is_there(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers in threads, and all ways of writing files out between them; copies of the directory are what a death leaves."""
    monkeypatch.setattr(settler_, "_LONG", 2000)
    acknowledged = [0] * 3
    over = threading.Event()

    def write(index: int) -> None:
        number = 0
        while not over.is_set():
            number += 1
            settler.replace(tmp_path / f"d/{index}", str(number))
            acknowledged[index] = number

    def settle() -> None:
        while not over.is_set():
            settler._settle(set())

    threads = [threading.Thread(target=write, args=(index,)) for index in range(3)] + [threading.Thread(target=settle)]
    for thread in threads:
        thread.start()
    try:
        for turn in range(40):
            monkeypatch.setattr(settler_, "_ROOM", 65536 if turn % 4 else 1 << 60)
            with settler._lines:  # a copy takes its time, a death does not
                before = tuple(acknowledged)
                copy = tmp_path / f"copy{turn}"
                copy.mkdir()
                shutil.copy(settler._file, copy / "unsettled")
                shutil.copytree(tmp_path / "d", copy / "d", ignore=shutil.ignore_patterns("*.new"))
            after = Settler(copy)
            for index, number in enumerate(before):
                if number:
                    assert int(after.read(copy / f"d/{index}")) >= number
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[set[Path]]:
    """What has been put on the disk, batch by batch."""
    batches: list[set[Path]] = []
    sync = settler_._sync

    def noted(paths: set[Path]) -> None:
        sync(paths)
        batches.append(set(paths))

    monkeypatch.setattr(settler_, "_sync", noted)
    return batches


async def test_what_was_touched_is_settled_once_and_together(tmp_path: Path, settled: list[set[Path]]) -> None:
    settler = Settler(tmp_path)
    (tmp_path / "a").touch()
    settler.touched(tmp_path / "a")
    settler.touched(tmp_path / "removed since")
    settler.touched(tmp_path / "a")
    await settler.settle()
    await settler.settle()
    assert settled == [{tmp_path / "a", tmp_path / "removed since"}]


async def test_the_end_settles_what_is_left(tmp_path: Path, settled: list[set[Path]]) -> None:
    settler = Settler(tmp_path, interval=1000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        settler.touched(tmp_path)
        await trio.testing.wait_all_tasks_blocked()
        assert settled == []
        nursery.cancel_scope.cancel()
    assert settled == [{tmp_path}]


async def test_lines_go_when_the_disk_has_them_and_then_the_files(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, int]] = []
    sync, write, settle = os.fsync, settler_._write, settler_._sync

    def note(what: str) -> None:
        seen.append((what, lines(settler)))

    monkeypatch.setattr(os, "fsync", lambda fd: (sync(fd), note("fsync"))[0])
    monkeypatch.setattr(settler_, "_write", lambda path, text: (write(path, text), note(f"write {path.name}"))[0])
    monkeypatch.setattr(settler_, "_sync", lambda paths: (settle(paths), note(f"sync {len(paths)}"))[0])
    settler.replace(tmp_path / "d/x", "one")
    settler.replace(tmp_path / "d/y", "two")
    await settler.settle()  # of what nobody has touched: a death has left it
    files = [("fsync", 2)] * 3  # those and their directory
    assert seen == [("fsync", 2), ("write x", 2), ("write y", 2), *files, ("sync 2", 2)]
    assert lines(settler) == 0


async def test_what_was_written_at_once_beside_another_is_settled(
    settler: Settler, tmp_path: Path, settled: list[set[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    settler.replace(tmp_path / "d/x", "one")
    monkeypatch.setattr(settler_, "_ROOM", 1 << 60)
    await settler.keep(tmp_path / "d/y", "two")
    await settler.settle()
    await settler.settle()
    assert settled == [{tmp_path / "d/x", tmp_path / "d/y"}]


async def test_lines_of_what_has_gone_go(settler: Settler, tmp_path: Path) -> None:
    settler.replace(tmp_path / "d/x", "secret")
    settler.forget(tmp_path / "d")
    await settler.settle()
    assert (lines(settler), os.listdir(tmp_path / "d")) == (0, [])


async def test_it_settles_by_itself(tmp_path: Path, settled: list[set[Path]]) -> None:
    settler = Settler(tmp_path, interval=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(settler.run)
        settler.touched(tmp_path)
        while not settled:
            await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert settled == [{tmp_path}]


# files that come, go and get other names by themselves


def test_what_is_created_is_there_at_once(settler: Settler, tmp_path: Path) -> None:
    settler.create(tmp_path / "d/x", "one")
    assert (tmp_path / "d/x").read_text() == "one"
    settler.replace(tmp_path / "d/x", "two")
    assert Settler(tmp_path).read(tmp_path / "d/x") == "two"


def test_what_is_created_after_another_was_removed_is_not_told_by_its_lines(settler: Settler, tmp_path: Path) -> None:
    x = tmp_path / "d/x"
    settler.create(x, "one")
    settler.replace(x, "one, changed")
    settler.remove(x)
    assert not x.exists()
    settler.create(x, "two")
    assert (settler.read(x), Settler(tmp_path).read(x)) == ("two", "two")


@pytest.mark.usefixtures("full")
def test_nor_where_there_is_no_room_for_a_line(settler: Settler, tmp_path: Path) -> None:
    settler.create(tmp_path / "d/x", "one")
    assert (lines(settler), Settler(tmp_path).read(tmp_path / "d/x")) == (0, "one")


async def test_what_was_removed_is_not_written_again(settler: Settler, tmp_path: Path) -> None:
    x = tmp_path / "d/x"
    settler.create(x, "one")
    settler.replace(x, "two")
    settler.remove(x)
    after = Settler(tmp_path)
    after.forget_removed(tmp_path / "d")
    for each in (settler, after):
        await each.settle()
        assert not x.exists()


def test_what_stays_when_it_was_to_be_removed_keeps_its_line(settler: Settler, tmp_path: Path) -> None:
    settler.replace(tmp_path / "d/x", "one")  # there is no file yet
    with pytest.raises(FileNotFoundError):
        settler.remove(tmp_path / "d/x")
    assert settler.read(tmp_path / "d/x") == "one"


async def test_what_is_renamed_takes_along_what_is_told_of_it(settler: Settler, tmp_path: Path) -> None:
    x, y = tmp_path / "d/x", tmp_path / "d/y"
    settler.create(y, "another")
    settler.remove(y)
    settler.create(x, "one")
    settler.replace(x, "two")
    settler.rename(x, y)
    assert settler.read(y) == Settler(tmp_path).read(y) == "two"
    settler.create(x, "a new one")
    await settler.settle()
    assert (x.read_text(), y.read_text()) == ("a new one", "two")


class Death(BaseException):
    """Of the process, in the midst of it."""


def dying(call: Callable[..., None], *wanted: object, before: bool) -> Callable[..., None]:
    """*call*, and who calls it with the *wanted* arguments dies *before* or after that."""

    def call_and_die(*arguments: object) -> None:
        dies = arguments[: len(wanted)] == wanted
        if not (dies and before):
            call(*arguments)
        if dies:
            raise Death

    return call_and_die


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_death_while_something_is_created_leaves_all_of_it_or_nothing(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, room: bool
) -> None:
    x = tmp_path / "d/x"
    settler.create(x, "one")
    settler.replace(x, "one, changed")
    settler.remove(x)
    if not room:
        monkeypatch.setattr(settler_, "_ROOM", 1 << 60)
    with monkeypatch.context() as patched:
        patched.setattr(settler_, "replace", dying(settler_.replace, tmp_path / "d/x", before=before))
        with pytest.raises(Death):
            settler.create(x, "two")
    after = Settler(tmp_path)
    after.forget_removed(tmp_path / "d")
    assert x.exists() != before
    if not before:
        assert after.read(x) == "two"
    after._settle(set())
    assert x.exists() != before


@pytest.mark.parametrize("room", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_death_while_something_is_renamed_leaves_it_under_one_name(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool, room: bool
) -> None:
    x, y = tmp_path / "d/x", tmp_path / "d/y"
    for path in (x, y):
        settler.create(path, path.name)
        settler.replace(path, f"{path.name}, changed")
    settler.remove(y)
    if not room:
        monkeypatch.setattr(settler_, "_ROOM", 1 << 60)
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", dying(os.rename, x, y, before=before))
        with pytest.raises(Death):
            settler.rename(x, y)
    after = Settler(tmp_path)
    after.forget_removed(tmp_path / "d")
    after._settle(set())
    assert {path.name: path.read_text() for path in (tmp_path / "d").iterdir()} == {
        "x" if before else "y": "x, changed"
    }


def test_what_can_t_be_created_is_told_by_no_line(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(settler_, "replace", dying(settler_.replace, tmp_path / "d/x", before=True))
        with pytest.raises(Death):
            settler.create(tmp_path / "d/x", "one")
    with pytest.raises(FileNotFoundError):
        settler.read(tmp_path / "d/x")


async def test_a_line_whose_text_comes_again_while_it_settles_is_not_cut_unwritten(
    settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, text, fsync, sync = tmp_path / "d/x", "one and the same", os.fsync, settler_._sync
    settler.replace(x, text)

    def other_line(fd: int) -> None:
        fsync(fd)
        monkeypatch.setattr(os, "fsync", fsync)
        settler.replace(x, "another")

    def same_line(paths: set[Path]) -> None:
        sync(paths)
        settler.replace(x, text)

    monkeypatch.setattr(os, "fsync", other_line)
    monkeypatch.setattr(settler_, "_sync", same_line)
    await settler.settle()
    assert (settler.read(x), Settler(tmp_path).read(x)) == (text, text)
    monkeypatch.setattr(settler_, "_sync", sync)
    await settler.settle()
    assert (lines(settler), x.read_text()) == (0, text)
