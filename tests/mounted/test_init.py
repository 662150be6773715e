"""``init``: the reaper that is the first process, be it the one or the other that a machine may have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import reaper, syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
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
    (c / "ctl").write_text("stop 100")
    assert (c / "exit_code").read_text() == "5\n"


def test_a_shell_below_the_first_choice_has_job_control(make: Make) -> None:
    c = make(command="grep SigBlk /proc/self/status", init="1")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "SigBlk:\t0000000000000000\n"
