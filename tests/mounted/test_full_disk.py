"""A full disk at each write of state: ENOSPC in words, nothing half-made, and all of it works again when there is room."""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

WRITES = {
    "stop_timeout": "5",
    "restart": "always",
    "exec/x/command": "false",
    "cgroup/pids.max": "500",
    "volumes": "/usr/share:/data",
    "spec.toml": 'image = "busybox:latest"\ncommand = ["sh", "-c", "head -n 1 > /dev/null; exit 3"]\nrestart = "always"\n',
}


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
    (small_engine.tree / "volumes/used").mkdir()
    return c


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def test_the_default_network_that_can_t_be_made_is_told_in_words(small_engine: Engine) -> None:
    with small_engine.filled():
        assert "bridge" not in small_engine.sh("ls networks").split()
        (line,) = {line.partition(" ")[2] for line in (small_engine.tree / "errors").read_text().splitlines()}
        assert line == "networks networks/bridge: bridge.json: No space left on device"
    assert "bridge" in small_engine.sh("ls networks").split()


def test_nobody_sees_what_could_not_be_mounted(small_engine: Engine, running: Path) -> None:
    mounts = Path(f"/proc/{(running / 'pid').read_text().strip()}/mountinfo")
    before = mounts.read_text()
    with small_engine.filled():
        assert outcome(lambda: (running / "volumes").write_text("/usr/share:/data")) == errno.ENOSPC
        assert mounts.read_text() == before


@pytest.mark.parametrize("kind", ["containers/c", "containers/c/exec/x", "volumes/used"])
def test_what_can_t_be_renamed_keeps_its_name(small_engine: Engine, running: Path, kind: str) -> None:
    path = small_engine.tree / kind
    new = path.with_name("new")
    with small_engine.filled():
        assert outcome(lambda: path.rename(new)) == errno.ENOSPC
        assert (path.exists(), new.exists()) == (True, False)
    path.rename(new)
    assert (path.exists(), new.exists()) == (False, True)


def test_secrets_are_in_memory_and_change_all_the_same(small_engine: Engine, running: Path) -> None:
    (running / "secrets/s").write_text("old")
    with small_engine.filled():
        (running / "secrets/s").write_text("new")
        assert (running / "secrets/s").read_text() == "new\n"


def test_output_waits_until_there_is_room(small_engine: Engine, running: Path) -> None:
    (running / "ctl").write_text("kill")
    (running / "command").write_text("sh -c 'head -n 1; head -c 3000000 /dev/zero; echo over'")
    (running / "ctl").write_text("start")
    with small_engine.filled():
        (running / "stdin").write_text("go\n")
        until(lambda: "No space left" in (running / "error").read_text())
        assert (running / "state").read_text() == "running\n"
    assert (running / "wait").read_text() == "0\n"
    assert (running / "log").read_bytes() == b"go\n" + bytes(3_000_000) + b"over\n"


def test_what_ends_by_itself_is_started_again_when_there_is_room(small_engine: Engine, running: Path) -> None:
    (running / "restart").write_text("always")
    with small_engine.filled():
        (running / "stdin").write_text("end\n")
        until(lambda: (running / "error").read_text() == "restart: No space left on device\n")
        assert (running / "state").read_text() == "restarting\n"
    until(lambda: (running / "state").read_text() == "running\n")


@pytest.mark.parametrize("killed", [False, True], ids=["", "pydockd-dies"])
def test_an_exit_is_told_though_it_can_t_be_written_down(small_engine: Engine, running: Path, killed: bool) -> None:
    inside = Path(f"/proc/{(running / 'pid').read_text().strip()}/root/etc")
    with contextlib.ExitStack() as held, small_engine.filled():
        for name in ("hosts", "hostname", "resolv.conf"):  # whose room its end would free
            held.enter_context(open(inside / name))
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
    until(lambda: kept.exists() and json.loads(kept.read_text())["state"] == "exited")
    small_engine.kill()
    small_engine.start()
    assert (running / "state").read_text() == "exited\n"
