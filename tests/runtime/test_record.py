"""The record of a container on disk: what is there before it is seen, and what is kept later."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydock.runtime.record import Record, RecordFile, Run, new_record, record_of
from pydock.runtime.settler import Settler


@pytest.fixture
def record() -> Record:
    return new_record("i", "web")


@pytest.fixture
def settler(tmp_path: Path) -> Settler:
    return Settler(tmp_path, interval=0)


@pytest.fixture
def file(record: Record, settler: Settler, tmp_path: Path) -> RecordFile:
    (tmp_path / "c").mkdir()
    return RecordFile(record, tmp_path / "c", settler)


def kept(directory: Path) -> Record:
    """What another pydockd would find."""
    values = Settler(directory).read_json(directory / "c/state.json")
    assert values is not None
    return record_of(values)


async def test_what_is_coming_is_on_disk_and_not_to_be_seen_yet(
    record: Record, file: RecordFile, tmp_path: Path
) -> None:
    await file.save(health="healthy")
    assert (kept(tmp_path).health, record.health) == ("healthy", "")


async def test_a_run_is_on_disk_and_not_to_be_seen_yet(record: Record, file: RecordFile, tmp_path: Path) -> None:
    await file.save(Run(7, 8, "boot", 9))
    assert (kept(tmp_path).pid, record.pid) == (7, 0)
    assert (kept(tmp_path).state, record.state) == ("running", "created")


async def test_each_save_has_what_was_announced_until_the_record_takes_it(
    record: Record, file: RecordFile, tmp_path: Path
) -> None:
    file.announce({"state": "exited", "exit_code": 3})
    await file.save(by_hand=True)
    assert (kept(tmp_path).state, kept(tmp_path).exit_code, kept(tmp_path).by_hand) == ("exited", 3, True)
    assert (record.state, record.exit_code) == ("created", None)
    file.take_announced()
    assert (record.state, record.exit_code) == ("exited", 3)
    record.state = "running"
    await file.save()
    assert kept(tmp_path).state == "running"


async def test_what_can_t_be_kept_now_is_kept_later(
    record: Record, file: RecordFile, settler: Settler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(settler, "_note", lambda *_: False)  # as on a disk that is full
        (tmp_path / "c/state.json.new").mkdir()
        assert await file.keep(health="healthy") == "Is a directory"
        record.health = "healthy"
        await settler.settle()
        assert Settler(tmp_path).read_json(tmp_path / "c/state.json") is None
    (tmp_path / "c/state.json.new").rmdir()
    await settler.settle()
    assert kept(tmp_path).health == "healthy"


async def test_what_has_been_removed_is_kept_no_more(file: RecordFile, settler: Settler, tmp_path: Path) -> None:
    os.rmdir(tmp_path / "c")
    assert await file.keep() == ""
    await settler.settle()
    os.mkdir(tmp_path / "c")
    await settler.settle()
    assert os.listdir(tmp_path / "c") == []


def test_a_record_of_another_version_is_read_as_far_as_it_is_known() -> None:
    assert record_of({"id": "i", "name": "web", "created": 1, "of_tomorrow": 2}) == Record("i", "web", 1)
