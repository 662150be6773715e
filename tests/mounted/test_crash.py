"""The engine is killed at any moment while it is used: nothing is lost track of, nothing half-made stays."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

#: Makes, starts, ends and removes containers without a pause, whatever the answers are.
WORKER = """\
import os, random, sys
tree, seed = sys.argv[1:]
random.seed(seed)
def write(path, text):
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError:
        pass
for turn in range(100_000):
    c = f"{tree}/containers/w{seed}-{turn % 3}"
    try:
        os.mkdir(c)
    except OSError:
        pass
    write(f"{c}/image", "busybox")
    write(f"{c}/command", random.choice(["sleep 1000", "true", "false"]))
    write(f"{c}/ctl", "start")
    write(f"{c}/cgroup/pids.max", "100")
    if random.random() < 0.5:
        write(f"{c}/ctl", "kill")
    try:
        os.rmdir(c)
    except OSError:
        pass
"""


def dead(engine: Engine) -> list[str]:
    """Containers that have a process by their files, and none by the kernel's."""
    paths = (engine.tree / "containers").iterdir()
    pids = {path.name: (path / "pid").read_text().strip() for path in paths}
    return [name for name, pid in pids.items() if pid and not Path(f"/proc/{pid}").exists()]


def lost(engine: Engine) -> set[int]:
    """Processes in containers' cgroups whose container does not know of them."""
    paths = (engine.tree / "containers").iterdir()
    return engine.strays() - {int(pid) for path in paths if (pid := (path / "pid").read_text().strip())}


@pytest.mark.parametrize(
    "victims",
    [
        ("pydockd",),
        ("monitor",),
        ("logger",),
        ("pydockd", "monitor"),
        ("pydockd", "monitor", "logger"),
        ("monitor", "logger"),
    ],
)
def test_nothing_is_lost_track_of(own_engine: Engine, victims: tuple[str, ...]) -> None:
    engine, chance = own_engine, random.Random("-".join(victims))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, engine.tree, str(seed)], stderr=subprocess.DEVNULL)
        for seed in range(3)
    ]
    try:
        time.sleep(chance.uniform(0.3, 0.8))  # any moment will do
        pids = [engine.helper(victim) for victim in victims if victim != "pydockd"]
        if "pydockd" in victims:
            engine.kill()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it had nothing to do without pydockd
                os.kill(pid, signal.SIGKILL)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if "pydockd" in victims:
        engine.start()
    deadline = time.monotonic() + 60
    while (dead(engine) or lost(engine)) and time.monotonic() < deadline:
        time.sleep(0.01)  # an end, or a start, that is being told of in this moment
    containers = {path.name: path for path in (engine.tree / "containers").iterdir()}
    states = {name: (path / "state").read_text().strip() for name, path in containers.items()}
    assert set(states.values()) <= {"created", "running", "exited"}
    assert dead(engine) == [], engine.log
    assert lost(engine) == set(), engine.log
    ids = {(path / "id").read_text().strip() for path in containers.values()}
    assert {path.name for path in (engine.root / "containers").iterdir() if not path.name.startswith(".")} == ids
    assert engine.groups() - {"engine"} == ids


def test_what_was_acknowledged_is_there_after_a_kill(own_engine: Engine) -> None:
    (own_engine.tree / "containers/c").mkdir()
    user = own_engine.tree / "containers/c/user"
    acknowledged = 0
    with contextlib.suppress(OSError):
        for number in range(1, 200):
            user.write_text(f"{number}\n")
            acknowledged = number
            if number == 150:
                own_engine.kill()
    own_engine.start()
    assert int(user.read_text()) in (acknowledged, acknowledged + 1)


def test_a_limit_that_is_not_among_the_settings_yet_is_not_in_force_after_a_death(small_engine: Engine) -> None:
    c = small_engine.tree / "containers/c"
    small_engine.sh("cd containers; mkdir c; echo 77 > c/cgroup/pids.max")
    spec = (c / "spec.toml").read_text()
    with small_engine.filled(room=32768):  # files are replaced at once
        kept = small_engine.root / "containers" / (c / "id").read_text().strip()
        os.mkfifo(kept / "spec.toml.new")  # nobody reads it
        writer = subprocess.Popen(["sh", "-c", f"echo 99 > {c}/cgroup/pids.max"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while (c / "cgroup/pids.max").read_text() != "99\n":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        small_engine.kill()
        writer.wait(60)
    small_engine.start()
    assert (c / "spec.toml").read_text() == spec
    assert (c / "cgroup/pids.max").read_text() == "77\n"
