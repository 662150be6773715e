"""kill -9 of any of the engine's processes: no container dies, no byte of output is lost or doubled, exit codes are true."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import wire

if TYPE_CHECKING:
    from conftest import Engine

#: Whether the kernel tells the exit status of a process that is not one's child (PIDFD_GET_INFO, Linux 6.15).
TELLS = tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 15)
VICTIMS = [
    ("pydockd",),
    ("monitor",),
    ("logger",),
    ("keeper",),
    ("pydockd", "monitor"),
    ("pydockd", "logger"),
    ("monitor", "logger"),
    ("monitor", "keeper"),
    ("logger", "keeper"),
    ("pydockd", "monitor", "logger"),
]
LINES = 60_000
WRITER = f"sh -c 'seq 1 {LINES}; head -n 1 > /dev/null; seq {LINES + 1} {2 * LINES}; exit 7'"


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when *condition* holds; an error when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def start(engine: Engine, name: str, command: str) -> Path:
    c = engine.tree / "containers" / name
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text(command)
    (c / "ctl").write_text("start")
    return c


def kill(engine: Engine, victims: tuple[str, ...]) -> None:
    """kill -9 of *victims*, one right after the other; what has to be started by hand is."""
    for victim in victims:
        if victim == "pydockd":
            engine.kill()
        else:
            engine.kill_helper(victim)
    if "pydockd" in victims:
        engine.start()


def wait(c: Path) -> str:
    """What ``wait`` gives."""
    return subprocess.run(["cat", c / "wait"], capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize("victims", VICTIMS, ids="-".join)
def test_nothing_is_lost_when_they_die(own_engine: Engine, victims: tuple[str, ...]) -> None:
    writers = [start(own_engine, f"w{number}", WRITER) for number in range(2)]
    reader = start(own_engine, "reader", "cat")
    (reader / "stdin").write_text("before\n")
    pids = [(c / "pid").read_text() for c in (*writers, reader)]
    until(lambda: all((c / "log").stat().st_size > 0 for c in writers))
    kill(own_engine, victims)
    assert [(c / "pid").read_text() for c in (*writers, reader)] == pids
    assert [(c / "state").read_text() for c in (*writers, reader)] == ["running\n"] * 3
    (reader / "stdin").write_text("after\n")
    (reader / "ctl").write_text("eof")
    for c in writers:
        (c / "stdin").write_text("go on\n")
    known = "monitor" not in victims or TELLS
    assert [wait(c) for c in writers] == ["7\n" if known else "\n"] * 2
    assert wait(reader) == ("0\n" if known else "\n")
    expected = "".join(f"{number}\n" for number in range(1, 2 * LINES + 1))
    assert [(c / "log").read_text() == expected for c in writers] == [True, True]
    assert (reader / "log").read_text() == "before\nafter\n"


@pytest.mark.parametrize("victims", [("pydockd",), ("keeper",), ("keeper", "pydockd")], ids="-".join)
def test_an_eof_is_not_forgotten_when_they_die(own_engine: Engine, victims: tuple[str, ...]) -> None:
    c = start(own_engine, "c", "sleep 1000")
    (c / "ctl").write_text("eof")
    kill(own_engine, victims)
    assert (c / "state").read_text() == "running\n"
    with pytest.raises(BrokenPipeError), open(c / "stdin", "wb", buffering=0) as file:
        file.write(b"after\n")
    assert "closed" in (c / "error").read_text()


def test_the_logger_is_killed_again_and_again(own_engine: Engine) -> None:
    count = "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; done; echo end $i"
    c = start(own_engine, "c", f"sh -c '{count}'")
    for _ in range(5):
        size = (c / "log").stat().st_size
        until(lambda size=size: (c / "log").stat().st_size > size)  # type: ignore[misc]
        own_engine.kill_helper("logger")
    (c / "rootfs/stop").touch()
    assert wait(c) == "0\n"
    *numbers, end = (c / "log").read_text().splitlines()
    assert end == f"end {len(numbers)}"
    assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize(
    ("victims", "known"),
    [
        (("pydockd",), True),
        (("monitor",), TELLS),
        (("logger",), True),
        (("keeper",), True),
        (("pydockd", "monitor"), False),
    ],
    ids=str,
)
def test_the_exit_code_of_what_ends_while_they_are_dead(
    own_engine: Engine, victims: tuple[str, ...], known: bool
) -> None:
    c = start(own_engine, "c", "sh -c 'head -n 1 > /dev/null; exit 42'")
    pid = int((c / "pid").read_text())
    fifo = own_engine.run / "stdio"
    ends = [path for path in own_engine.run.rglob("*stdin*") if path.is_fifo()]
    assert len(ends) == 1, list(fifo.rglob("*"))
    for victim in victims:
        own_engine.kill() if victim == "pydockd" else own_engine.kill_helper(victim)
    fd = os.open(ends[0], os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"end\n")
    os.close(fd)
    until(lambda: not Path(f"/proc/{pid}").exists())
    if "pydockd" in victims:
        own_engine.start()
    assert wait(c) == ("42\n" if known else "\n")
    assert (c / "exit_code").read_text() == ("42\n" if known else "")
    assert (c / "state").read_text() == "exited\n"
    (c / "command").write_text("true")
    (c / "ctl").write_text("start")
    assert wait(c) == "0\n"


def test_a_paused_container_is_still_paused(own_engine: Engine) -> None:
    c = start(own_engine, "c", "sleep 1000")
    (c / "ctl").write_text("pause")
    kill(own_engine, ("pydockd",))
    assert (c / "state").read_text() == "paused\n"
    (c / "ctl").write_text("resume")
    assert (c / "state").read_text() == "running\n"


def test_settings_times_and_limits_are_there_again(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "env").write_text("A=1\nB=2\n")
    (c / "hostname").write_text("box")
    (c / "cgroup/pids.max").write_text("77")
    before = {
        path.name: path.read_text()
        for path in c.iterdir()
        if path.name in ("id", "created", "env", "spec.toml", "state")
    }
    kill(own_engine, ("pydockd",))
    assert {name: (c / name).read_text() for name in before} == before
    assert (c / "cgroup/pids.max").read_text() == "77\n"


def test_a_stop_that_was_under_way_can_be_given_again(own_engine: Engine, has_open: Callable[..., bool]) -> None:
    c = start(own_engine, "c", "sh -c 'trap : TERM; while :; do sleep 0.05; done'")
    stop = subprocess.Popen(["sh", "-c", "echo stop 100 > ctl"], cwd=c, stderr=subprocess.DEVNULL)
    until(lambda: has_open(stop, c / "ctl"))
    until(lambda: Path(f"/proc/{stop.pid}/wchan").read_text() == "request_wait_answer")
    kill(own_engine, ("pydockd",))
    assert stop.wait(60) != 0
    assert (c / "state").read_text() == "running\n"
    (c / "ctl").write_text("stop 0")
    assert (c / "exit_code").read_text() == "137\n"


def test_whoever_waits_is_told_that_the_engine_died(own_engine: Engine, has_open: Callable[..., bool]) -> None:
    c = start(own_engine, "c", "sleep 1000")
    waiter = subprocess.Popen(["cat", c / "wait"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: has_open(waiter, c / "wait"))
    until(lambda: Path(f"/proc/{waiter.pid}/wchan").read_text() == "request_wait_answer")
    own_engine.kill()
    waiter.communicate(timeout=60)
    assert waiter.returncode != 0
    own_engine.start()
    assert (c / "state").read_text() == "running\n"


def test_a_writable_layer_and_a_look_at_it_are_the_same_before_and_after(own_engine: Engine) -> None:
    c = start(own_engine, "c", "sh -c 'echo one > /kept; head -n 1; cat /kept'")
    until(lambda: (c / "rootfs/kept").exists())
    kill(own_engine, ("pydockd",))
    (c / "rootfs/kept").write_text("two\n")
    (c / "stdin").write_text("\n")
    assert wait(c) == "0\n"
    assert (c / "log").read_text() == "\ntwo\n"


@pytest.mark.parametrize("left", ["", "spec.toml", "log", "upper/x", "state.json.new"])
def test_what_was_half_made_is_removed_at_the_start(own_engine: Engine, left: str) -> None:
    own_engine.kill()
    half = own_engine.root / "containers" / ("ab" * 32)
    half.mkdir()
    if left:
        (half / left).parent.mkdir(exist_ok=True)
        (half / left).write_text("")
    trash = own_engine.root / "containers" / (".trash-" + "cd" * 32)
    (trash / "upper/deep").mkdir(parents=True)
    own_engine.start()
    assert os.listdir(own_engine.tree / "containers") == []
    assert os.listdir(own_engine.root / "containers") == []


def test_files_of_etc_that_an_earlier_version_keeps_elsewhere_are_those_until_the_end(own_engine: Engine) -> None:
    c = start(own_engine, "c", "sleep 1000")
    identity = (c / "id").read_text().strip()
    own_engine.kill()
    here, there = own_engine.root / "containers" / identity, own_engine.run / "etc" / identity
    there.mkdir(parents=True)
    for name in ("hosts", "hostname", "resolv.conf"):
        (here / name).rename(there / name)
    own_engine.start()
    (c / "hosts").write_text("x 10.9.9.9\n")
    assert "10.9.9.9" in (there / "hosts").read_text()
    assert "10.9.9.9" in Path(f"/proc/{(c / 'pid').read_text().strip()}/root/etc/hosts").read_text()
    c.rename(c.with_name("d"))
    d = c.with_name("d")
    (d / "ctl").write_text("kill")
    assert list(there.iterdir()) == []
    (d / "ctl").write_text("start")
    own_engine.kill()
    own_engine.start()
    (d / "hosts").write_text("y 10.8.8.8\n")
    assert "10.8.8.8" in (here / "hosts").read_text()
    (d / "ctl").write_text("kill")
    own_engine.kill()
    own_engine.start()
    assert not there.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"id": 1}), "\0" * 100], ids=repr)
def test_a_record_that_is_broken_keeps_nobody_from_starting(own_engine: Engine, text: str) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    own_engine.kill()
    broken = own_engine.root / "containers" / ("ab" * 32)
    broken.mkdir()
    (broken / "state.json").write_text(text)
    (broken / "spec.toml").write_text("")
    own_engine.start()
    assert os.listdir(own_engine.tree / "containers") == ["c"]


def test_an_exit_between_two_connections_to_the_monitor_is_taken_note_of(own_engine: Engine) -> None:
    c = start(own_engine, "c", "sleep 1000")
    pid = int((c / "pid").read_text())
    assert own_engine.process is not None
    own_engine.process.send_signal(signal.SIGSTOP)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as monitor:
            monitor.connect(f"{own_engine.run}/monitor.sock")
            wire.send(monitor, {"do": "upgrade", "seq": 1})
            with suppress(wire.Closed, ConnectionError):
                while True:
                    wire.receive(monitor)
        os.kill(pid, signal.SIGKILL)
        until(lambda: any((own_engine.run / "exits").iterdir()))
    finally:
        own_engine.process.send_signal(signal.SIGCONT)
    assert wait(c) == "137\n"
