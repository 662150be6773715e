"""A full disk at each write of state: ENOSPC in words, nothing half-made, and all of it works again when there is room."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

WRITES = {"stop_timeout": "5", "restart": "always", "exec/x/command": "false"}


@pytest.fixture
def running(small_engine: Engine) -> Path:
    """A container that runs, with an exec ``x``."""
    c = small_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("sh -c 'head -n 1 > /dev/null; exit 3'")
    (c / "ctl").write_text("start")
    (c / "exec/x").mkdir()
    (c / "exec/x/command").write_text("true")
    return c


def outcome(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("kind", ["containers/d", "containers/c/exec/y", "volumes/v"])
def test_what_can_t_be_made_is_not_there(small_engine: Engine, running: Path, kind: str) -> None:
    path = small_engine.tree / kind
    with small_engine.filled():
        assert outcome(path.mkdir) == errno.ENOSPC
        assert path.name not in [each.name for each in path.parent.iterdir()]
    path.mkdir()
    path.rmdir()


@pytest.mark.parametrize("name", WRITES)
def test_a_setting_stays_what_it_was(small_engine: Engine, running: Path, name: str) -> None:
    value, before = WRITES[name], (running / name).read_text()
    with small_engine.filled():
        assert outcome(lambda: (running / name).write_text(value)) == errno.ENOSPC
        assert (running / name).read_text() == before
    (running / name).write_text(value)
    small_engine.kill()
    small_engine.start()
    assert (running / name).read_text() != before


@pytest.mark.parametrize("killed", [False, True], ids=["", "pydockd-dies"])
def test_an_exit_is_told_though_it_can_t_be_written_down(small_engine: Engine, running: Path, killed: bool) -> None:
    with small_engine.filled():
        (running / "stdin").write_text("end\n")
        assert (running / "wait").read_text() == "3\n"
        assert "could not be written down" in (running / "error").read_text()
    if killed:
        small_engine.kill()
        small_engine.start()
    assert ((running / "state").read_text(), (running / "exit_code").read_text()) == ("exited\n", "3\n")
    (running / "ctl").write_text("start")
    assert (running / "state").read_text() == "running\n"


@pytest.mark.parametrize(
    ("verbs", "state"),
    [
        (("pause",), "paused"),
        (("pause", "resume"), "running"),
        (("stop 0",), "exited"),
        (("kill",), "exited"),
        (("pause", "kill"), "exited"),
    ],
)
def test_what_has_filled_the_disk_can_be_held_and_ended(
    small_engine: Engine, running: Path, verbs: tuple[str, ...], state: str
) -> None:
    (running / "restart").write_text("always")
    with small_engine.filled():
        for verb in verbs:
            (running / "ctl").write_text(verb)
        assert (running / "state").read_text() == f"{state}\n"
    if state == "paused":
        small_engine.kill()
        small_engine.start()
        assert (running / "state").read_text() == "paused\n"


@pytest.mark.parametrize("crashes", [False, True], ids=["it-runs", "between-two-runs"])
def test_an_end_that_was_told_is_written_down_when_there_is_room(
    small_engine: Engine, running: Path, crashes: bool
) -> None:
    (running / "restart").write_text("unless-stopped")
    if crashes:
        (running / "stdin").write_text("end\n")
    with small_engine.filled():
        (running / "ctl").write_text("kill")
        assert (running / "state").read_text() == "exited\n"
    kept = small_engine.root / "containers" / (running / "id").read_text().strip() / "state.json"
    deadline = time.monotonic() + 20
    while json.loads(kept.read_text())["state"] != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    small_engine.kill()
    small_engine.start()
    assert (running / "state").read_text() == "exited\n"
