"""Named volumes on disk: made, renamed, removed, and what a death in the midst of it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from pydock.runtime.errors import Busy, Exists, Failed, Invalid, NotFound
from pydock.runtime.events import Events
from pydock.runtime.settler import Settler
from pydock.runtime.volumestore import VolumeStore


class Stores:
    """Stores of one directory, one after another, as engines come and go."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.events = Events(top / "journal")

    def fresh(self) -> VolumeStore:
        store = VolumeStore(self.top / "volumes", self.top / "empty", self.events, Settler(self.top))
        store.read()
        return store

    def actions(self) -> list[tuple[str, str]]:
        lines = [json.loads(line) for line in (self.top / "journal").read_text().splitlines()]
        return [(line["name"], line["action"]) for line in lines]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    made = Stores(tmp_path)
    yield made
    made.events.close()


async def test_a_volume_is_there_for_the_next_engine(stores: Stores) -> None:
    store = stores.fresh()
    await store.create("v")
    await store.change_labels("v", ("a=1",))
    (store.data("v") / "file").write_text("x")
    again = stores.fresh()
    assert [volume.name for volume in again] == ["v"]
    assert again.find("v").labels == ("a=1",)
    assert (again.data("v") / "file").read_text() == "x"
    assert stores.actions() == [("v", "create"), ("v", "set")]


async def test_labels_and_times_may_be_kept_at_the_same_time(stores: Stores) -> None:
    store = stores.fresh()
    volume = await store.create("v")
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(store.save, volume)
            nursery.start_soon(store.change_labels, "v", (f"a={number}",))
    assert stores.fresh().find("v").labels == volume.labels


async def test_a_name_is_had_once_and_has_a_form(stores: Stores) -> None:
    store = stores.fresh()
    await store.create("v")
    with pytest.raises(Exists):
        await store.create("v")
    with pytest.raises(Invalid):
        await store.create(".v")
    with pytest.raises(NotFound):
        await store.remove("other")


async def test_one_that_is_named_by_a_container_stays(stores: Stores) -> None:
    store = stores.fresh()
    await store.create("v")
    store.users = lambda name: ("web", "db")
    with pytest.raises(Busy, match="web, db"):
        await store.remove("v")
    assert store.data("v").is_dir()


async def test_what_is_removed_is_gone_for_the_next_engine(stores: Stores) -> None:
    store = stores.fresh()
    await store.create("v")
    trash = await store.remove("v")
    assert trash.is_dir()
    assert list(stores.fresh()) == []
    assert os.listdir(stores.top / "volumes") == []


async def test_a_rename_is_finished_by_the_next_engine(stores: Stores) -> None:
    store = stores.fresh()
    await store.create("v")
    (stores.top / "volumes/.renaming").write_text('{"from": "v", "to": "w"}')
    again = stores.fresh()
    assert [volume.name for volume in again] == ["w"]
    assert again.renaming() == ("v", "w")  # settings may have the old name yet
    again.renamed()
    assert again.renaming() is None


async def test_a_rename_onto_another_is_refused(stores: Stores) -> None:
    store = stores.fresh()
    for name in ("v", "w"):
        await store.create(name)
    with pytest.raises(Exists):
        await store.rename("v", "w")
    with pytest.raises(Invalid):
        await store.rename("v", "a b")
    assert {volume.name for volume in store} == {"v", "w"}


@pytest.mark.parametrize("left", [".new-v", ".trash-v-1", "half"])
def test_what_is_half_made_is_removed(stores: Stores, left: str) -> None:
    (stores.top / "volumes" / left / "data").mkdir(parents=True)
    assert list(stores.fresh()) == []
    assert os.listdir(stores.top / "volumes") == []


async def test_a_full_disk_makes_no_volume(stores: Stores) -> None:
    store = stores.fresh()
    (stores.top / "volumes").rmdir()
    (stores.top / "volumes").touch()
    with pytest.raises(OSError, match="Not a directory"):
        await store.create("v")
    assert list(store) == []


async def test_only_an_empty_volume_that_nobody_has_is_filled(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[str] = []
    monkeypatch.setattr("pydock.runtime.volumestore.fill", lambda data, fd, target, place: filled.append(target))
    store = stores.fresh()
    await store.create("v")

    async def claim(user: str, target: str) -> None:
        await store.claim("v", user, lambda: os.open("/", os.O_RDONLY), target)

    await claim("a", "/1")
    await claim("b", "/2")
    store.release("a")
    store.release("b")
    await claim("b", "/3")
    (store.data("v") / "file").touch()
    store.release("b")
    await claim("b", "/4")
    assert filled == ["/1", "/3"]


async def test_a_filling_that_fails_claims_nothing(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Failed(28, "no room")

    monkeypatch.setattr("pydock.runtime.volumestore.fill", fail)
    store = stores.fresh()
    await store.create("v")
    with pytest.raises(Failed):
        await store.claim("v", "a", lambda: os.open("/", os.O_RDONLY), "/1")
    assert store.find("v").claims == set()
