"""Restart policies on a mounted tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
FAILS = "sh -c 'echo run >> /runs; exit 3'"


def has(path: Path, state: str) -> None:
    """Return when its state is *state*."""
    deadline = time.monotonic() + 60
    while (path / "state").read_text() != f"{state}\n":
        assert time.monotonic() < deadline, (path / "state").read_text() + (path / "error").read_text()
        time.sleep(0.005)


def ends(path: Path, before: str) -> None:
    """Return when it has another process than *before*."""
    deadline = time.monotonic() + 60
    while (path / "pid").read_text() in ("\n", "", before):
        assert time.monotonic() < deadline, (path / "state").read_text() + (path / "error").read_text()
        time.sleep(0.005)


def tell(path: Path, command: str) -> None:
    (path / "ctl").write_text(command)


def container_in(engine: Engine, **settings: str) -> Path:
    path = engine.tree / "containers" / "c"
    path.mkdir()
    for name, value in {"image": "busybox", **settings}.items():
        (path / name).write_text(value)
    return path


def test_a_failure_is_tried_again_so_often_and_then_its_code_is_told(make: Make, tree: Path) -> None:
    c = make(command=FAILS, restart="on-failure:2")
    with open(tree / "events") as events:
        tell(c, "start")
        assert (c / "wait").read_text() == "3\n"
        actions = []
        while len(actions) < 8:
            _, kind, name, action, *_ = events.readline().split()
            actions += [action] if (kind, name) == ("container", "c") else []
    assert actions == ["start", "exit", "start", "restart", "exit", "start", "restart", "exit"]
    assert (c / "state").read_text() == "exited\n"
    assert (c / "rootfs/runs").read_text() == "run\n" * 3


def test_a_success_is_no_failure(make: Make) -> None:
    c = make(command="true", restart="on-failure")
    tell(c, "start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "state").read_text() == "exited\n"


@pytest.mark.parametrize("policy", [pytest.param("always", marks=pytest.mark.cgroup), "unless-stopped", "on-failure"])
def test_what_is_killed_from_outside_is_started_again(make: Make, policy: str) -> None:
    c = make(command="sleep 1000", restart=policy)
    tell(c, "start")
    pid = (c / "pid").read_text()
    os.kill(int(pid), signal.SIGKILL)
    ends(c, pid)
    has(c, "running")


@pytest.mark.parametrize("command", ["stop 0", "kill", "kill TERM"])
def test_what_a_command_ends_stays_down(make: Make, command: str) -> None:
    c = make(command="sh -c 'trap \"exit 5\" TERM; echo ready; while :; do sleep 0.01; done'", restart="always")
    tell(c, "start")
    while (c / "log").read_text() != "ready\n":
        time.sleep(0.005)
    tell(c, command)
    assert (c / "wait").read_text() in ("5\n", "137\n")
    assert (c / "state").read_text() == "exited\n"


@pytest.fixture
def pausing(make: Make, tree: Path) -> Path:
    """A container that waits for its sixth try, for 3.2 seconds."""
    c = make(command=FAILS, restart="always")
    with open(tree / "journal") as journal:
        journal.seek(0, os.SEEK_END)
        tell(c, "start")
        deadline, exits = time.monotonic() + 60, 0
        while exits < 6:
            assert time.monotonic() < deadline
            exits += '"action": "exit"' in journal.readline()
    assert (c / "state").read_text() == "restarting\n"
    return c


@pytest.mark.parametrize("command", ["stop", "kill", "kill TERM"])
def test_a_command_ends_the_pause(pausing: Path, command: str) -> None:
    with open(pausing / "wait") as wait:
        tell(pausing, command)
        assert wait.read() == "3\n"
    assert (pausing / "state").read_text() == "exited\n"
    assert (pausing / "exit_code").read_text() == "3\n"
    pausing.rmdir()


def test_a_policy_that_is_lifted_ends_the_pause(pausing: Path) -> None:
    (pausing / "restart").write_text("no")
    assert (pausing / "state").read_text() == "exited\n"
    (pausing / "restart").write_text("always")
    assert (pausing / "state").read_text() == "exited\n"


@pytest.mark.parametrize("command", ["start", "pause", "kill HUP"])
def test_other_commands_are_busy_in_the_pause(pausing: Path, command: str) -> None:
    with pytest.raises(OSError, match="busy"):
        tell(pausing, command)
    assert "restarting" in (pausing / "error").read_text()


def test_a_restart_ends_the_pause_with_a_run(pausing: Path) -> None:
    with open(pausing / "ctl", "r+") as file:
        file.write("restart")
        file.flush()
        assert file.read().startswith("restarted, pid ")


def test_it_is_not_removed_and_not_changed_in_the_pause(pausing: Path) -> None:
    with pytest.raises(OSError, match="busy"):
        pausing.rmdir()
    assert (pausing / "error").read_text() == "c is restarting: stop it first\n"
    with pytest.raises(OSError, match="busy"):
        (pausing / "command").write_text("true")


def test_a_try_that_can_not_be_started_is_the_last(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    c = make(
        command="sh -c 'while [ -e /v/go ]; do sleep 0.01; done; exit 1'", restart="always", volumes=f"{source}:/v"
    )
    (source / "go").touch()
    tell(c, "start")
    moved = tmp_path / "moved"
    source.rename(moved)
    (moved / "go").unlink()
    assert (c / "wait").read_text() == "1\n"
    has(c, "exited")
    assert (c / "error").read_text().startswith("restart: ")


def test_the_setting_goes_along_with_the_document(make: Make) -> None:
    a, b = make("a", restart="on-failure:3"), make("b")
    (b / "spec.toml").write_text((a / "spec.toml").read_text())
    assert (b / "restart").read_text() == "on-failure:3\n"
    os.truncate(b / "restart", 0)
    assert (b / "restart").read_text() == "no\n"


@pytest.mark.parametrize("way", ["umount", "kill"])
def test_what_ends_while_nobody_serves_is_started_at_the_mount(own_engine: Engine, way: str) -> None:
    c = container_in(own_engine, command="sleep 1000", restart="unless-stopped")
    tell(c, "start")
    pid = (c / "pid").read_text()
    own_engine.umount() if way == "umount" else own_engine.kill()
    os.kill(int(pid), signal.SIGKILL)
    own_engine.start()
    ends(c, pid)
    has(c, "running")


@pytest.mark.parametrize("way", ["umount", "kill"])
def test_a_pause_ends_at_the_mount(own_engine: Engine, way: str) -> None:
    c = container_in(own_engine, command="sh -c '[ -e /v/go ] && exec sleep 1000; exit 1'", restart="on-failure")
    (c / "volumes").write_text(f"{own_engine.directory}:/v")
    tell(c, "start")
    has(c, "restarting")
    own_engine.umount() if way == "umount" else own_engine.kill()
    (own_engine.directory / "go").touch()
    own_engine.start()
    has(c, "running")


@pytest.mark.parametrize(
    ("policy", "state"),
    [("no", "exited"), ("on-failure", "exited"), ("unless-stopped", "exited"), ("always", "running")],
)
def test_what_was_stopped_by_hand_is_started_at_the_mount_only_with_always(
    own_engine: Engine, policy: str, state: str
) -> None:
    c = container_in(own_engine, command="sleep 1000", restart=policy)
    tell(c, "start")
    tell(c, "stop 0")
    own_engine.kill()
    own_engine.start()
    has(c, state)
    assert bool((c / "pid").read_text().strip()) == (state == "running")


@pytest.mark.parametrize(
    ("policy", "state"),
    [("no", "exited"), ("on-failure", "running"), ("unless-stopped", "running"), ("always", "running")],
)
def test_after_a_reboot_what_should_run_is_started(own_engine: Engine, policy: str, state: str) -> None:
    c = container_in(own_engine, command="sleep 1000", restart=policy)
    tell(c, "start")
    pid = (c / "pid").read_text()
    kept = own_engine.root / "containers" / (c / "id").read_text().strip() / "state.json"
    own_engine.settled()
    own_engine.reboot()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    text = kept.read_text()
    assert boot in text
    kept.write_text(text.replace(boot, "00000000-0000-0000-0000-000000000000"))
    own_engine.start()
    has(c, state)
    assert (c / "pid").read_text() != pid


def test_what_was_never_started_is_not_started_at_the_mount(own_engine: Engine) -> None:
    c = container_in(own_engine, command="sleep 1000", restart="always")
    own_engine.kill()
    own_engine.start()
    assert (c / "state").read_text() == "created\n"


def test_a_stop_that_was_cut_short_by_a_death_does_not_count(own_engine: Engine) -> None:
    c = container_in(own_engine, command="sleep 1000", restart="unless-stopped", stop_signal="WINCH")
    tell(c, "start")
    own_engine.settled()
    stop = subprocess.Popen(["sh", "-c", f"echo stop 100 > {c}/ctl"], stderr=subprocess.DEVNULL)
    kept = own_engine.root / "containers" / (c / "id").read_text().strip() / "state.json"
    deadline = time.monotonic() + 60
    while not json.loads(kept.read_text())["by_hand"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    own_engine.kill()
    stop.wait(60)
    own_engine.start()
    pid = (c / "pid").read_text()
    os.kill(int(pid), signal.SIGKILL)
    ends(c, pid)
    has(c, "running")


def test_documents_that_are_written_while_it_begins_again_hang_nothing(make: Make, tree: Path) -> None:
    c = make(command="false", restart="always", network="bridge")
    tell(c, "start")
    text = (c / "spec.toml").read_text()
    for number in range(60):
        (c / "spec.toml").write_text(f"stop_timeout = {number + 1}\n{text}")
        if number % 10 == 9:
            tell(c, "restart")
    tell(c, "stop")
    assert (c / "state").read_text() == "exited\n"
    assert (c / "stop_timeout").read_text() == "60\n"
