"""Containers that go when their run has ended."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


def test_whoever_waits_gets_the_exit_code_and_the_container_is_gone_by_then(
    make: Make, tree: Path, has_open: Callable[..., bool]
) -> None:
    c = make(command="sh -c 'read line; exit 7'", autoremove="1")
    waiters = [subprocess.Popen(["cat", c / "wait"], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    deadline = time.monotonic() + 60
    while not all(has_open(waiter, c / "wait") for waiter in waiters):
        assert time.monotonic() < deadline
    with open(c / "wait") as wait:
        (c / "ctl").write_text("start")
        (c / "stdin").write_text("go\n")
        assert wait.read() == "7\n"
        assert not c.exists()
        assert "c" not in os.listdir(tree / "containers")
    assert [waiter.communicate(timeout=60)[0] for waiter in waiters] == ["7\n"] * 3


@pytest.mark.parametrize("verb", ["stop 0", "kill"])
def test_it_is_gone_when_the_command_that_ended_it_returns(make: Make, verb: str) -> None:
    c = make(command="sleep 1000", autoremove="1")
    (c / "ctl").write_text("start")
    (c / "ctl").write_text(verb)
    assert not c.exists()
    assert make("c").exists()  # the name is free


def test_its_end_and_its_removal_are_told_in_this_order(make: Make, tree: Path) -> None:
    c = make(command="true", autoremove="1")
    with open(tree / "events", "rb", buffering=0) as events:
        (c / "ctl").write_text("start")
        text = b""
        while b" remove" not in text:
            text += events.read(4096)
    actions = [line.split()[3] for line in text.decode().splitlines()]
    assert actions[-2:] == ["exit", "remove"]


def test_a_restart_is_no_end(make: Make) -> None:
    c = make(command="sleep 1000", autoremove="1")
    (c / "ctl").write_text("start")
    (c / "ctl").write_text("restart 0")
    assert (c / "state").read_text() == "running\n"


def test_a_start_that_fails_is_no_end(make: Make) -> None:
    c = make(command="no-such-command", autoremove="1")
    with pytest.raises(FileNotFoundError):
        (c / "ctl").write_text("start")
    assert (c / "state").read_text() == "created\n"


def test_one_that_can_t_go_stays_and_says_why(make: Make) -> None:
    c = make(command="sh -c 'read line'", autoremove="1")
    (c / "ctl").write_text("start")
    with open(os.path.realpath(c / "rootfs") + "/etc/passwd"):
        (c / "stdin").write_text("go\n")
        assert (c / "wait").read_text() == "0\n"
        assert (c / "state").read_text() == "exited\n"
        assert "autoremove" in (c / "error").read_text()


def test_one_that_ended_while_pydockd_was_away_goes_at_the_next_mount(own_engine: Engine) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo 1 > autoremove; echo start > ctl"
    )
    pid = int(own_engine.sh("cat containers/c/pid"))
    own_engine.kill()
    os.kill(pid, 9)
    while not any(path.name[0] != "." for path in (own_engine.run / "exits").iterdir()):
        os.sched_yield()  # the monitor takes note of it
    own_engine.start()
    assert own_engine.sh("ls containers") == ""
    assert list((own_engine.root / "containers").glob("[0-9a-f]*")) == []


def test_one_that_runs_on_while_pydockd_was_away_goes_at_its_end(own_engine: Engine) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo 1 > autoremove; echo start > ctl"
    )
    own_engine.kill()
    own_engine.start()
    own_engine.sh("echo kill > containers/c/ctl")
    assert own_engine.sh("ls containers") == ""
