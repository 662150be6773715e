"""Processes that the kernel kills for want of memory: told when it happens, and once."""

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

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]

HOG = "tail /dev/zero"
pytestmark = pytest.mark.cgroup


def told(engine: Engine) -> list[tuple[str, int]]:
    """The oom events since the installation: of whom, how many."""
    lines = map(json.loads, (engine.root / "journal").read_text().splitlines())
    return [(line["name"], int(line["kills"])) for line in lines if line["action"] == "oom"]


def until(condition: Callable[[], bool]) -> None:
    """Return when *condition* holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hog(engine: Engine, name: str, script: str, **settings: str) -> Path:
    """A container that runs *script*, with little memory."""
    c = engine.tree / "containers" / name
    c.mkdir()
    for setting, value in {"image": "busybox", "command": f"sh -c '{script}'", **settings}.items():
        (c / setting).write_text(value)
    (c / "cgroup/memory.max").write_text("16M")
    (c / "ctl").write_text("start")
    return c


def test_a_kill_is_told_while_the_container_goes_on_and_not_again(own_engine: Engine) -> None:
    c = hog(own_engine, "c", f"{HOG}; read go; {HOG}; read go; exit 3")
    other = hog(own_engine, "other", "sleep 1000")
    until(lambda: told(own_engine) == [("c", 1)])
    assert (c / "state").read_text() == "running\n"
    assert (c / "error").read_text() == "oom: the kernel killed 1 process: memory.max is 16777216\n"
    (c / "stdin").write_text("\n")
    until(lambda: told(own_engine) == [("c", 1)] * 2)
    (c / "stdin").write_text("\n")
    assert (c / "wait").read_text() == "3\n"
    assert told(own_engine) == [("c", 1)] * 2
    assert (other / "error").read_text() == ""


def test_more_kills_than_the_kernel_reports_are_all_told(own_engine: Engine) -> None:
    hog(own_engine, "c", f"for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do {HOG}; done; sleep 1000")
    until(lambda: sum(kills for _, kills in told(own_engine)) == 20)
    assert {name for name, _ in told(own_engine)} == {"c"}


def test_a_kill_that_ends_the_container_is_told_once(own_engine: Engine) -> None:
    c = hog(own_engine, "c", f"exec {HOG}")
    assert (c / "wait").read_text() == "137\n"
    assert told(own_engine) == [("c", 1)]
    (c / "command").write_text("true")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert told(own_engine) == [("c", 1)]
    assert (c / "error").read_text() == ""


def test_a_kill_is_told_once_though_pydockd_dies(own_engine: Engine) -> None:
    c = hog(own_engine, "c", f"{HOG}; read go; {HOG}; echo killed; read go; exit 3")
    until(lambda: told(own_engine) == [("c", 1)])
    stdin = own_engine.run / "io" / (c / "id").read_text().strip() / "stdin"
    log = own_engine.root / "containers" / (c / "id").read_text().strip() / "log"
    own_engine.kill()
    stdin.write_text("\n")
    until(lambda: "killed" in log.read_text())
    own_engine.start()
    until(lambda: told(own_engine) == [("c", 1)] * 2)
    assert (c / "error").read_text() == "oom: the kernel killed 1 process: memory.max is 16777216\n"
    own_engine.kill()
    own_engine.start()
    (c / "stdin").write_text("\n")
    assert (c / "wait").read_text() == "3\n"
    assert told(own_engine) == [("c", 1)] * 2


def test_what_is_killed_in_a_cgroup_below_counts(own_engine: Engine) -> None:
    c = hog(own_engine, "c", f"read go; {HOG}; sleep 1000")
    top = next(path for path in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")) if path.is_dir())
    below = top / (c / "cgroup/path").read_text().strip() / "below"
    below.mkdir()
    controllers = below.parent / "cgroup.subtree_control"
    if not controllers.exists() or "memory" in controllers.read_text():  # else v2 lets nobody in who shall have limits
        (below / "cgroup.procs").write_text((c / "pid").read_text())
    (c / "stdin").write_text("\n")
    until(lambda: told(own_engine) == [("c", 1)])
    assert (c / "state").read_text() == "running\n"


def test_too_little_memory_for_the_set_up_is_enomem_and_names_the_limit(make: Make, errno_of: ErrnoOf) -> None:
    c = make(network="none", command="true")
    (c / "cgroup/memory.max").write_text("64K")

    def start() -> tuple[int, str]:
        """The outcome. The kernel counts in batches: now and then so little is enough for the set-up, and the program is killed."""
        if (number := errno_of(c / "ctl", "start")) == 0:
            (c / "wait").read_text()
            return 0, ""
        return number, (c / "error").read_text()

    words = "out of memory: the kernel killed it during the set-up: memory.max is 65536\n"
    outcomes = {start() for _ in range(10)}
    assert (errno.ENOMEM, words) in outcomes
    assert outcomes <= {(errno.ENOMEM, words), (0, "")}
    (c / "cgroup/memory.max").write_text("64M")
    assert errno_of(c / "ctl", "start") == 0
    assert (c / "wait").read_text() == "0\n"
