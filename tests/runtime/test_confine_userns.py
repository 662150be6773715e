"""The setting ``userns`` and the ranges that it gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydock.runtime.confine.userns import COUNT, IdMap, Ranges, explicit, in_force, parse
from pydock.runtime.errors import Invalid


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("auto\n", "auto"),
        (" host ", "host"),
        ("1:2:3", "1:2:3"),
        ("01:2:3", "1:2:3"),
        ("0:0:4294967295", "0:0:4294967295"),
    ],
)
def test_what_is_accepted(text: str, canonical: str) -> None:
    assert parse(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "private",
        "1:2",
        "1:2:3:4",
        "1:2:0",
        "-1:2:3",
        "1:2:4294967295",
        "4294967295:0:1",
        "0:4294967295:1",
        "1:2:٣",
        "99999999999:1:1",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse(text)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "subuid").write_text("somebody:524288:65536\nbroken\nx:y:z\n")
    (tmp_path / "subgid").write_text("somebody:589000:100\n")
    return tmp_path


def test_ranges_are_each_container_s_own_and_nobody_else_s(etc: Path) -> None:
    ranges = Ranges(etc)
    first = ranges.claim("a", [explicit("720000:1:10")])
    assert first == 589824
    assert ranges.claim("a", []) == first
    second = ranges.claim("b", [explicit("720000:1:10")])
    assert second == 720896
    ranges.forget("a")
    assert ranges.claim("c", []) == first


def test_a_range_that_is_kept_is_not_given_again(etc: Path) -> None:
    ranges = Ranges(etc)
    ranges.note("old", 589824)
    assert ranges.claim("new", []) == 589824 + COUNT


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, None), ("", None), ("host", None), ("7:8:9", IdMap(7, 8, 9)), ("auto", IdMap(589824, 589824, COUNT))],
)
def test_what_is_in_force(etc: Path, setting: str | None, expected: IdMap | None) -> None:
    assert in_force(setting, "a", Ranges(etc), lambda: {"a": setting, "b": "host"}) == expected
