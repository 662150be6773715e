"""``init``: the reaper that is the first process, be it the one or the other that a machine may have."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import reaper, syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]
REAPERS = {"tini": "/usr/bin/tini-static", "catatonit": "/usr/bin/catatonit"}


@pytest.fixture(params=REAPERS)
def only(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    """The one reaper that the machine has."""
    wanted = REAPERS[request.param]
    with ExitStack() as stack:
        while (found := reaper.find()) != wanted:
            syscalls.mount("/dev/null", found, "", syscalls.MS_BIND, "")
            stack.callback(syscalls.umount2, found, syscalls.MNT_DETACH)
        yield request.param


def test_it_reaps_and_hands_on_signals_and_the_exit_code(make: Make, only: str) -> None:
    c = make(command="sh -c 'trap \"exit 5\" TERM; echo $$; (sleep 0 &); while :; do sleep 0.01; done'", init="1")
    (c / "ctl").write_text("start")
    pid = (c / "pid").read_text().strip()
    assert Path(f"/proc/{pid}/cmdline").read_text().startswith("/sbin/docker-init\0--\0sh\0")
    assert Path(f"/proc/{pid}/comm").read_text() == "docker-init\n"
    while (c / "log").read_text() != "2\n":
        assert (c / "state").read_text() == "running\n"
    assert reaper.takes_signals(int(pid))  # so that nobody waits for that
    (c / "ctl").write_text("stop 100")
    assert (c / "exit_code").read_text() == "5\n"


@pytest.mark.parametrize("signal", ["kill TERM", "kill USR1", "stop 100"])
def test_a_signal_right_after_the_start_is_not_lost(make: Make, only: str, signal: str) -> None:
    c = make(command="sleep 1000", init="1")
    codes = []
    for _ in range(20):
        (c / "ctl").write_text("start")
        (c / "ctl").write_text(signal)
        codes.append((c / "wait").read_text())
    assert set(codes) == {"138\n" if signal == "kill USR1" else "143\n"}


@pytest.mark.parametrize(
    ("command", "user", "number", "words"),
    [
        ("missing", "", errno.ENOENT, 'command "missing" not found in the image'),
        ("/bin/missing/x", "", errno.ENOENT, 'command "/bin/missing/x" not found in the image'),
        ("/etc", "", errno.EACCES, 'command "/etc" is not an executable file, or the user may not execute it'),
        ("/etc/passwd", "", errno.EACCES, 'command "/etc/passwd" is not an executable file'),
        ("/root/mine", "1000", errno.EACCES, 'command "/root/mine" is not an executable file, or the user may not'),
    ],
)
def test_a_command_that_can_t_be_executed_fails_the_start_as_without_it(
    make: Make, errno_of: ErrnoOf, tmp_path: Path, only: str, command: str, user: str, number: int, words: str
) -> None:
    (tmp_path / "mine").touch(0o700)
    c = make(command=command, user=user, volumes=f"{tmp_path}:/root\n")
    told = []
    for init in "01":
        (c / "init").write_text(init)
        assert errno_of(c / "ctl", "start") == number
        told.append((c / "error").read_text())
    assert told[0] == told[1]
    assert words in told[1]
    assert (c / "state").read_text() == "created\n"


def test_what_root_and_another_user_may_execute_begins(make: Make, only: str, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\nid -u\n")
    (tmp_path / "mine").chmod(0o700)
    c = make(command="/root/mine", init="1", volumes=f"{tmp_path}:/root\n")
    for user, owner in (("0", 0), ("1000:1000", 1000)):
        os.chown(tmp_path / "mine", owner, owner)
        (tmp_path).chmod(0o755)
        (c / "user").write_text(user)
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n", (c / "log").read_text()
    assert (c / "log").read_text() == "0\n1000\n"


def test_a_shell_below_the_first_choice_has_job_control(make: Make) -> None:
    c = make(command="grep SigBlk /proc/self/status", init="1")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "SigBlk:\t0000000000000000\n"
