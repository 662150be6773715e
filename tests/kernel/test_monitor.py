"""The monitor as a parent: starts, exits, its own death and replacement."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from pydock.runtime import syscalls, wire
from pydock.runtime.monitor.ahead import READY_FOR
from pydock.runtime.monitor.protocol import read_exits


@pytest.mark.parametrize(
    ("script", "status"),
    [("exit 0", 0), ("exit 7", 7 << 8), ("exit 255", 255 << 8), ("sleep 0 & wait; exit 3", 3 << 8)],
)
def test_the_exit_status_arrives(containers, script: str, status: int) -> None:
    name, _, _ = containers.start("sh", "-c", script)
    assert containers.status(name) == status


def test_a_killed_container_has_the_signal_in_its_status(containers) -> None:
    name, pid, _ = containers.start("sleep", "1000")
    os.kill(pid, signal.SIGKILL)
    assert containers.status(name) == signal.SIGKILL


def test_the_answer_tells_pid_and_start_time_and_brings_a_pidfd(containers) -> None:
    containers.begin("sleep", "1000")
    answer, (pidfd,) = containers.monitor.answer()
    fdinfo = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    os.close(pidfd)
    assert f"Pid:\t{answer['pid']}\n" in fdinfo
    assert Path(f"/proc/{answer['pid']}/stat").read_text().split()[21] == str(answer["starttime"])


REFUSED = {
    "a command that is not there": ({"argv": ("nosuch",)}, errno.ENOENT, 'command "nosuch" not found in the image'),
    "a path that is not there": ({"argv": ("/no/such",)}, errno.ENOENT, 'command "/no/such" not found in the image'),
    "a directory": ({"argv": ("/etc",)}, errno.EACCES, "not an executable file"),
    "a file without x": ({"argv": ("/etc/passwd",)}, errno.EACCES, "not an executable file"),
    "a file that is no program": ({"argv": ("/bin/garbage",)}, errno.ENOEXEC, "neither a program"),
    "a script without its interpreter": ({"argv": ("script",)}, errno.ENOENT, "interpreter"),
    "arguments that are too long": ({"argv": ("true", "x" * 200_000)}, errno.E2BIG, "too long"),
    "an unknown user": ({"argv": ("true",), "user": "nobody-here"}, errno.ENOENT, "nobody-here"),
    "an unknown limit": ({"argv": ("true",), "rlimits": (("nosuch", 1, 1),)}, errno.EINVAL, "nosuch"),
    "a sysctl that is not there": (
        {"argv": ("true",), "sysctls": (("net.no.such", "1"),)},
        errno.ENOENT,
        "net.no.such",
    ),
    "an unknown namespace": ({"argv": ("true",), "new": ("mnt", "wrong")}, errno.EINVAL, "wrong"),
    "a cgroup that is not there": (
        {"argv": ("true",), "cgroups": ("/sys/fs/cgroup/no/such",)},
        errno.ENOENT,
        "no/such",
    ),
    "a working directory that is a file": ({"argv": ("true",), "workdir": "/etc/passwd"}, errno.ENOTDIR, "/etc/passwd"),
    "no command": ({"argv": ()}, errno.EINVAL, "no command"),
    "an id that is a path": ({"argv": ("true",), "id": "../x"}, errno.EINVAL, "../x"),
}


@pytest.mark.parametrize(("fields", "number", "words"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_started_is_refused_in_words(
    containers, fields: dict[str, object], number: int, words: str
) -> None:
    garbage = containers.root / "bin/garbage"
    garbage.write_bytes(b"\x01\x02\x03")
    garbage.chmod(0o755)
    script = containers.root / "bin/script"
    script.write_text("#!/bin/no-such-shell\n")
    script.chmod(0o755)
    with pytest.raises(containers.Refused, match=".") as caught:
        containers.start(*fields.get("argv", ()), **{key: value for key, value in fields.items() if key != "argv"})
    assert caught.value.errno == number
    assert words in f"{caught.value.step}: {caught.value.words}"
    assert read_exits(str(containers.monitor.run)) == []


def test_nothing_of_a_failed_start_is_left(containers) -> None:
    with pytest.raises(containers.Refused, match="not found"):
        containers.start("nosuch", id="twice")
    name, _, _ = containers.start("true", id="twice")
    assert containers.status(name) == 0
    assert containers.monitor.ask("list")[0]["alive"] == []


def test_an_id_that_runs_can_not_be_started_again(containers) -> None:
    containers.start("sleep", "1000", id="one")
    with pytest.raises(containers.Refused, match="one runs already"):
        containers.start("true", id="one")


def test_fifty_starts_leave_no_descriptor_in_the_monitor(containers) -> None:
    def start_one() -> None:
        name, _, _ = containers.start("true")
        containers.status(name)
        containers.monitor.ask("who")  # when it answers it is done with that end

    start_one()
    before = len(os.listdir(f"/proc/{containers.monitor.pid}/fd"))
    assert [start_one() for _ in range(50)]
    assert len(os.listdir(f"/proc/{containers.monitor.pid}/fd")) <= before + len(
        READY_FOR
    )  # with a zygote of each kind


def test_a_start_that_hangs_holds_up_no_other(containers, run: Path) -> None:
    fifo = run / "hangs"
    os.mkfifo(fifo)
    slow = containers.begin("true", cgroups=(str(fifo),), seq=7)
    quick, _, _ = containers.start("true")
    assert containers.status(quick) == 0
    with open(fifo, "rb") as reader:
        assert reader.read() == b"0"
    answer, fds = containers.monitor.answer(seq=7)
    wire.close_all(fds)
    assert answer["warnings"] == []
    assert containers.status(slow) == 0


def test_an_exit_is_told_though_another_has_its_pipe_open(containers, run: Path) -> None:
    """As a child has that was born in between, until it closes what is not its own."""
    began, hangs = _fifo(run / "began"), _fifo(run / "hangs")
    name = containers.begin("sh", "-c", "exit 3", cgroups=(str(began), str(hangs)))
    with open(began, "rb") as reader:
        assert reader.read() == b"0"
        pids = Path(f"/proc/{containers.monitor.pid}/task/{containers.monitor.pid}/children").read_text().split()
        held = []
        for pid in pids:
            with contextlib.suppress(FileNotFoundError):  # a zygote that has just served
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    if os.readlink(fd).startswith("pipe:"):
                        held.append(os.open(fd, os.O_WRONLY))
        assert held
    with open(hangs, "rb") as reader:
        assert reader.read() == b"0"
    try:
        assert os.waitstatus_to_exitcode(containers.status(name)) == 3
    finally:
        wire.close_all(held)


def test_fifty_starts_at_once_all_arrive(containers) -> None:
    names = [containers.begin("true", seq=100 + number) for number in range(50)]
    assert [containers.status(name) for name in names] == [0] * 50


def test_an_exit_that_nobody_was_there_to_hear_of_is_on_file(containers, run: Path) -> None:
    name, pid, _ = containers.start("sh", "-c", "read line; exit 5", stdin=str(_fifo(run / "in")))
    containers.start("sleep", "1000")  # without children the monitor would end
    writer = os.open(run / "in", os.O_RDWR)
    containers.monitor.disconnect()
    os.write(writer, b"go\n")
    os.close(writer)
    while not (run / "exits" / name).exists():
        os.sched_yield()
    containers.monitor.connect()
    (gone,) = read_exits(str(run))
    assert (gone.id, gone.pid, gone.status) == (name, pid, 5 << 8)
    containers.monitor.ask("forget", id=name, pid=pid + 1)
    assert read_exits(str(run)) == [gone]
    containers.monitor.ask("forget", id=name, pid=pid)
    assert read_exits(str(run)) == []


def test_the_exit_is_on_file_before_it_is_told(containers, run: Path) -> None:
    name, _, _ = containers.start("true")
    containers.status(name)
    assert json.loads((run / "exits" / name).read_text())["status"] == 0


def test_an_upgrade_keeps_children_and_their_exits(containers, run: Path) -> None:
    name, pid, _ = containers.start("sh", "-c", "read line; exit 9", stdin=str(_fifo(run / "in")))
    writer = os.open(run / "in", os.O_RDWR)
    monitor = containers.monitor
    monitor.send("upgrade")
    with pytest.raises(wire.Closed):
        wire.receive(monitor.sock)
    monitor.connect()
    assert monitor.ask("who")[0]["pid"] == monitor.pid
    alive, fds = monitor.ask("list")
    wire.close_all(fds)
    assert [item[:2] for item in alive["alive"]] == [[name, pid]]
    os.write(writer, b"go\n")
    os.close(writer)
    assert containers.status(name) == 9 << 8


def test_an_exit_during_an_upgrade_is_not_lost(containers, run: Path) -> None:
    name, pid, _ = containers.start("sleep", "1000")
    monitor = containers.monitor
    monitor.send("upgrade")
    os.kill(pid, signal.SIGKILL)
    while True:
        try:
            wire.receive(monitor.sock)
        except (wire.Closed, ConnectionResetError):
            break
    monitor.connect()
    assert monitor.ask("list")[0]["alive"] == []
    (gone,) = read_exits(str(run))
    assert (gone.id, gone.status) == (name, signal.SIGKILL)


def test_an_upgrade_is_refused_while_something_is_under_way(containers, run: Path) -> None:
    fifo = _fifo(run / "hangs")
    name = containers.begin("sleep", "1000", cgroups=(str(fifo),), seq=7)
    monitor = containers.monitor
    with pytest.raises(containers.Refused, match="something is under way"):
        monitor.ask("upgrade")
    with open(fifo, "rb") as reader:
        reader.read()
    answer, fds = monitor.answer(seq=7)
    wire.close_all(fds)
    monitor.send("upgrade")
    with pytest.raises((wire.Closed, ConnectionResetError)):
        wire.receive(monitor.sock)
    monitor.connect()
    alive, fds = monitor.ask("list")
    wire.close_all(fds)
    assert [item[:2] for item in alive["alive"]] == [[name, answer["pid"]]]


def test_sigterm_does_not_end_a_monitor_that_has_children(containers) -> None:
    name, pid, _ = containers.start("sleep", "1000")
    os.kill(containers.monitor.pid, signal.SIGTERM)
    assert containers.monitor.ask("who")[0]["pid"] == containers.monitor.pid
    os.kill(pid, signal.SIGKILL)
    assert containers.status(name) == signal.SIGKILL


def test_without_children_and_clients_the_monitor_ends(small: Callable) -> None:
    monitor = small("monitor")
    monitor.disconnect()
    monitor.wait_for_end()


def test_without_clients_the_monitor_stays_for_its_children_and_ends_with_them(containers, run: Path) -> None:
    name, pid, _ = containers.start("sleep", "1000")
    monitor = containers.monitor
    monitor.disconnect()
    os.kill(pid, signal.SIGKILL)
    monitor.wait_for_end()
    assert [gone.id for gone in read_exits(str(run))] == [name]
    monitor.kill()


def test_containers_outlive_the_monitor(containers) -> None:
    containers.begin("sleep", "1000")
    _, (pidfd,) = containers.monitor.answer()
    containers.monitor.kill()
    syscalls.pidfd_send_signal(pidfd, 0)
    syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def test_a_set_up_does_not_outlive_the_monitor(containers, run: Path) -> None:
    fifo = _fifo(run / "hangs")
    containers.begin("sleep", "1000", cgroups=(str(fifo),))
    pid = _only_child(containers.monitor)
    pidfd = syscalls.pidfd_open(pid)
    containers.monitor.kill()
    poll_end(pidfd)
    os.close(pidfd)


def test_rubbish_costs_the_sender_its_connection_and_nobody_else(containers) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.connect(f"{containers.monitor.run}/monitor.sock")
        other.send(b"rubbish")
        assert other.recv(10) == b""
    name, _, _ = containers.start("true")
    assert containers.status(name) == 0


def test_a_second_process_in_a_container_sees_what_the_first_does(containers) -> None:
    containers.begin("sleep", "1000", hostname="inside")
    _, (pidfd,) = containers.monitor.answer()
    kinds = ("mnt", "uts", "ipc", "net", "cgroup", "pid")
    told = containers.output(
        "sh",
        "-c",
        "hostname; cat /proc/1/comm; pwd",
        fds=[pidfd],
        root=None,
        new=(),
        join=((1, kinds),),
        workdir="/tmp",
    )
    os.close(pidfd)
    assert told == "inside\nsleep\n/tmp\n"


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _only_child(monitor) -> int:
    while True:
        text = Path(f"/proc/{monitor.pid}/task/{monitor.pid}/children").read_text().split()
        if text:
            return int(text[0])
        os.sched_yield()


def poll_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000)
