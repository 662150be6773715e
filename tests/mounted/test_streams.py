"""What blocks: ends by data, by its caller's signals, by O_NONBLOCK; polls; and never keeps anybody else waiting."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

Make = Callable[..., Path]

WAITING = ("request_wait_answer", "poll_", "do_poll", "do_sys_poll")  # wchan: in a request, or in poll(2)
SOON = 30.0  # it is "within a second" where the machine is not busy; who is not told waits for ever
DEAF = "sh -c 'trap : TERM; while :; do sleep 0.2; done'"


def task_state(task: Path) -> str:
    """The one letter of proc_pid_stat(5); empty when the task is gone."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def waiting_tasks(group: int) -> list[Path]:
    """The tasks of the session *group* that wait for a FUSE file system."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if int((process / "stat").read_text().rpartition(")")[2].split()[3]) != group:
                    continue
                tasks = list((process / "task").iterdir())
                found += [task for task in tasks if (task / "wchan").read_text().startswith(WAITING)]
            except OSError:
                continue
    return found


@contextmanager
def blocked(command: list[str] | str, cwd: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run *command* in a process group of its own; within, it waits for the tree. Nothing of it is left afterwards."""
    process: subprocess.Popen[str] = subprocess.Popen(
        command if isinstance(command, list) else ["/bin/sh", "-c", command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )
    try:
        deadline = time.monotonic() + 60
        seen: list[list[Path]] = [[]]
        while not seen[-1] or seen.count(seen[-1]) < 10:  # not just on the way to where it will wait
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
            seen = [*seen[-9:], waiting_tasks(process.pid)]
        yield process
    finally:
        for task in waiting_tasks(process.pid):  # timeout(1) makes a group of its own
            with suppress(ProcessLookupError):
                os.kill(int(task.parents[1].name), signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def ends_soon(process: subprocess.Popen[str]) -> int:
    """Its status; an error when it, or anything that it started, does not go."""
    begun = time.monotonic()
    status = process.wait(SOON)
    while waiting_tasks(process.pid):
        assert time.monotonic() - begun < SOON
        time.sleep(0.005)
    return status


@pytest.fixture
def running(make: Make) -> Path:
    """A container that runs and does not read, as ``c``."""
    c = make("c", command=DEAF, stop_timeout="600")
    (c / "ctl").write_text("start")
    return c


READERS = {
    "cat": "cat c/wait",
    "dd": "dd if=c/wait",
    "redirect": "cat < c/wait",
    "opener-is-not-reader": "{ cat; } < c/wait",
    "subshell": "(cat; true) < c/wait",
    "inherited": "exec 3< c/wait; cat <&3",
    "inherited-twice": "exec 3< c/wait; sh -c 'sh -c \"cat <&3; true\"; true'",
    "pipeline": "cat c/wait | cat",
    "end-of-a-pipeline": "true | cat c/wait - | cat",
    "events": "head -1 ../events",
    "shell-read": "read x < c/wait",
    "busybox": "busybox head -n 1 c/wait",
    "writer": "cat /dev/zero > c/stdin",
    "writer-inherited": "exec 4> c/stdin; cat /dev/zero >&4",
    "command": "echo stop > c/ctl",
    "command-inherited": "exec 4> c/ctl; sh -c 'echo stop >&4; true'",
}
SIGNALS = [
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGKILL,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGRTMIN,
]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["cat c/wait", "cat /dev/zero > c/stdin", "{ cat; } < c/wait", "echo stop > c/ctl"])
def test_a_signal_ends(running: Path, command: str, number: signal.Signals) -> None:
    with blocked(command, running.parent) as process:
        os.killpg(process.pid, number)
        assert ends_soon(process) != 0
    assert (running / "state").read_text() == "running\n"


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT], ids=lambda number: number.name)
def test_news_do_not_end_a_command(running: Path, number: signal.Signals) -> None:
    """bash has handlers for these, so that they interrupt its calls, and takes EINTR of a write for a failure."""
    (running / "stop_timeout").write_text("2")
    script = f"trap : {number.name.removeprefix('SIG')}; echo stop > c/ctl; echo $?"
    with blocked(["bash", "-c", script], running.parent) as process:
        for _ in range(3):
            os.kill(process.pid, number)
        assert process.communicate(timeout=60)[0] == "0\n"
    assert (running / "state").read_text() == "exited\n"


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_ctrl_c_ends(running: Path, command: str) -> None:
    with blocked(command, running.parent) as process:
        os.killpg(process.pid, signal.SIGINT)
        ends_soon(process)


@pytest.mark.parametrize("command", READERS.values(), ids=READERS)
def test_kill_9_ends(running: Path, command: str) -> None:
    with blocked(command, running.parent) as process:
        os.killpg(process.pid, signal.SIGKILL)
        ends_soon(process)


def test_kill_9_of_the_reader_alone_ends_it(running: Path) -> None:
    with blocked("{ cat; echo $?; } < c/wait", running.parent) as process:
        (task,) = waiting_tasks(process.pid)
        os.kill(int(task.name), signal.SIGKILL)
        assert ends_soon(process) == 0
        assert process.communicate(timeout=60)[0] == "137\n"


THREAD = """
import os, threading
threading.Thread(target=lambda: open("c/wait").read()).start()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_thread_that_blocks_does_not_keep_its_process(running: Path, number: signal.Signals) -> None:
    with blocked([sys.executable, "-c", THREAD], running.parent) as process:
        process.send_signal(number)
        assert ends_soon(process) == -number


HANDLER = """
import signal
class Enough(Exception): pass
def handler(number, frame):
    print("handled", flush=True)
    if {raises}: raise Enough
signal.signal(signal.SIGALRM, handler)
signal.signal(signal.SIGUSR1, handler)
try:
    with open("c/wait") as file: print(file.read(), end="", flush=True)
except Enough:
    print("enough")
"""


def test_a_handler_runs_and_may_give_up(running: Path) -> None:
    with blocked([sys.executable, "-c", HANDLER.format(raises=True)], running.parent) as process:
        process.send_signal(signal.SIGALRM)
        assert ends_soon(process) == 0
        assert process.communicate(timeout=60)[0] == "handled\nenough\n"


def test_a_handler_runs_and_the_read_goes_on(running: Path) -> None:
    with blocked([sys.executable, "-c", HANDLER.format(raises=False)], running.parent) as process:
        process.send_signal(signal.SIGUSR1)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], SOON)[0]
        assert process.stdout.readline() == "handled\n"
        (running / "ctl").write_text("kill")
        assert process.stdout.readline() == "137\n"
        assert process.wait(60) == 0


def test_an_alarm_of_its_own_ends_a_read(running: Path) -> None:
    program = "import signal; signal.setitimer(signal.ITIMER_REAL, 1); open('c/wait').read()"
    done = subprocess.run([sys.executable, "-c", program], cwd=running.parent, timeout=SOON, check=False)
    assert done.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "trap '' INT TERM; cat c/wait"],
        [
            sys.executable,
            "-c",
            "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {2, 15}); print(open('c/wait').read(), end='')",
        ],
        ["nohup", "sh", "-c", "trap '' INT TERM; { cat; } < c/wait"],
    ],
    ids=["ignored", "masked", "nohup"],
)
def test_a_signal_that_is_ignored_or_masked_changes_nothing(running: Path, command: list[str]) -> None:
    with blocked(command, running.parent) as process:
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)  # longer than it takes where it is not ignored
        (running / "ctl").write_text("kill")
        output = process.communicate(timeout=60)
        assert output[0] == "137\n"


def test_who_waits_is_not_in_uninterruptible_sleep(running: Path) -> None:
    with blocked("cat c/wait & cat /dev/zero > c/stdin", running.parent) as process:
        assert {task_state(task) for task in waiting_tasks(process.pid)} == {"S"}


def test_a_command_that_was_given_up_carries_on(make: Make) -> None:
    c = make(
        "c",
        command="sh -c 'trap \"while [ ! -e /go ]; do sleep 0.05; done; exit 9\" TERM; echo ready; while :; do sleep 0.05; done'",
        stop_timeout="600",
    )
    (c / "ctl").write_text("start")
    while "ready" not in (c / "log").read_text():
        time.sleep(0.01)
    with blocked("echo stop > c/ctl", c.parent) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert ends_soon(process) != 0
    (c / "rootfs/go").touch()
    assert (c / "wait").read_text() == "9\n"


# O_NONBLOCK


@pytest.mark.parametrize("name", ["wait", "stdout", "stderr", "../../events"])
def test_a_descriptor_that_becomes_nonblocking_after_the_open_gives_eagain(running: Path, name: str) -> None:
    fd = os.open(running / name, os.O_RDONLY)
    try:
        os.set_blocking(fd, False)
        with pytest.raises(BlockingIOError):
            os.read(fd, 100)
    finally:
        os.close(fd)


def test_a_full_pipe_that_becomes_nonblocking_gives_eagain(running: Path) -> None:
    fd = os.open(running / "stdin", os.O_WRONLY)
    try:
        os.set_blocking(fd, False)
        assert 0 < fill(fd) < 10 << 20
    finally:
        os.close(fd)


def fill(fd: int) -> int:
    """Write until EAGAIN; the number of bytes that were taken."""
    taken = 0
    with suppress(BlockingIOError):
        while taken < 10 << 20:
            taken += os.write(fd, bytes(10_000))
    return taken


@pytest.mark.parametrize("name", ["c/wait", "../events"])
def test_a_nonblocking_read_is_eagain(running: Path, name: str) -> None:
    fd = os.open(running.parent / name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(BlockingIOError):
            os.read(fd, 100)
        (running / "ctl").write_text("kill")
        assert select.select([fd], [], [], 60)[0]
        assert os.read(fd, 100)
    finally:
        os.close(fd)


def test_a_nonblocking_write_is_eagain_when_the_pipe_is_full(running: Path) -> None:
    fd = os.open(running / "stdin", os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert 4096 <= fill(fd) <= 1 << 20
    finally:
        os.close(fd)


@pytest.mark.parametrize("name", ["wait", "../../events"])
def test_a_stream_that_is_read_only_can_t_be_opened_for_writing(running: Path, name: str) -> None:
    with pytest.raises(PermissionError):
        os.close(os.open(running / name, os.O_WRONLY))


# select, poll, epoll


def by_select(fd: int, events: int, seconds: float) -> bool:
    readers, writers = ([fd], []) if events == select.POLLIN else ([], [fd])
    return any(select.select(readers, writers, [], seconds))


def by_poll(fd: int, events: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(fd, events)
    return bool(poller.poll(seconds * 1000))


def by_epoll(fd: int, events: int, seconds: float) -> bool:
    with select.epoll() as poller:
        poller.register(fd, events)
        return bool(poller.poll(seconds))


POLLERS = pytest.mark.parametrize("ready", [by_select, by_poll, by_epoll])
Ready = Callable[[int, int, float], bool]


@POLLERS
@pytest.mark.parametrize("name", ["c/wait", "../events"])
def test_a_stream_becomes_readable(running: Path, name: str, ready: Ready) -> None:
    fd = os.open(running.parent / name, os.O_RDONLY)
    try:
        assert not ready(fd, select.POLLIN, 0)
        killer = subprocess.Popen(["sh", "-c", "sleep 0.2; echo kill > ctl"], cwd=running)
        assert ready(fd, select.POLLIN, 60)
        assert os.read(fd, 1000)
        assert killer.wait(60) == 0
    finally:
        os.close(fd)


@POLLERS
def test_stdin_is_writable_until_it_is_full_and_again_when_it_is_read(make: Make, ready: Ready) -> None:
    c = make("c", command="sh -c 'sleep 0.5; exec cat > /dev/null'")
    (c / "ctl").write_text("start")
    fd = os.open(c / "stdin", os.O_WRONLY | os.O_NONBLOCK)
    try:
        assert ready(fd, select.POLLOUT, 0)
        fill(fd)
        assert ready(fd, select.POLLOUT, 60)
        assert os.write(fd, b"more") == 4
    finally:
        os.close(fd)


@POLLERS
def test_wait_is_readable_at_once_after_the_end(make: Make, ready: Ready) -> None:
    c = make("c", command="true")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    with open(c / "wait", "rb", buffering=0) as file:
        assert ready(file.fileno(), select.POLLIN, 0)
        assert file.read(10) == b"0\n"
        assert file.read(10) == b""


# wait


@pytest.mark.parametrize(
    "script",
    [
        "cat c/wait",
        "bash -c 'read x < c/wait; echo $x'",
        "read x < c/wait; echo $x",
        "dd if=c/wait bs=1 2> /dev/null",
        "tail -1 c/wait",
        "head -1 c/wait",
    ],
)
def test_wait_gives_the_exit_code_to(make: Make, script: str) -> None:
    c = make("c", command="sh -c 'sleep 0.2; exit 42'")
    (c / "ctl").write_text("start")
    done = subprocess.run(["sh", "-c", script], cwd=c.parent, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_many_wait_at_once(make: Make) -> None:
    c = make("c", command="sh -c 'sleep 0.3; exit 6'")
    (c / "ctl").write_text("start")
    waiters = [subprocess.Popen(["cat", c / "wait"], stdout=subprocess.PIPE, text=True) for _ in range(30)]
    assert [waiter.communicate(timeout=60)[0] for waiter in waiters] == ["6\n"] * 30


def test_wait_ends_with_the_container(make: Make) -> None:
    c = make("c")
    with blocked("cat c/wait", c.parent) as process:
        c.rmdir()
        assert process.communicate(timeout=60)[0] == "\n"


def test_when_wait_returns_the_exit_code_is_there_and_the_log_complete(make: Make) -> None:
    c = make("c", command="sh -c 'seq 1 20000; exit 3'")
    (c / "ctl").write_text("start")
    script = "cat wait exit_code; tail -1 log; wc -l < log"
    done = subprocess.run(["sh", "-c", script], cwd=c, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["3", "3", "20000", "20000"]


# events

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z "
    r"(container|image|volume|network|exec|service|build) \S+ "
    r"(create|start|exit|pause|resume|stop|kill|oom|restart|rename|remove|pull|push|tag|untag|load|commit|connect|disconnect|health|set)"
    r"( [a-z_]+=\S*)*\n"
)


def test_events_tell_a_life_in_order(tree: Path) -> None:
    with open(tree / "events", "rb", buffering=0) as events:
        script = """mkdir c; echo busybox > c/image; echo 'sleep 1000' > c/command; echo start > c/ctl; echo pause > c/ctl
            echo resume > c/ctl; mv c d; echo kill > d/ctl; cat d/wait; rmdir d"""
        subprocess.run(["sh", "-c", script], cwd=tree / "containers", stdout=subprocess.DEVNULL, timeout=60, check=True)
        text = ""
        while " remove" not in text:
            assert select.select([events], [], [], 60)[0]
            text += events.read(65536).decode()
    lines = text.splitlines(keepends=True)
    assert [line for line in lines if not LINE.fullmatch(line)] == []
    assert [line.split()[3] for line in lines if " network bridge " in line if " create " not in line] == [
        *("connect", "disconnect"),
    ]
    lines = [line for line in lines if line.split()[1] == "container"]
    acts = [line.split()[2:4] for line in lines]
    assert acts == [
        ["c", "create"],
        ["c", "set"],
        ["c", "set"],
        ["c", "start"],
        ["c", "pause"],
        ["c", "resume"],
        ["d", "rename"],
        ["d", "kill"],
        ["d", "exit"],
        ["d", "remove"],
    ]
    assert "exit_code=137" in lines[8]
    journal = [line for line in (tree / "journal").read_text().splitlines() if '"remove"' in line]
    assert lines[-1].split()[0] in journal[-1]


def test_each_write_of_a_setting_is_an_event(make: Make, tree: Path, networks: Path) -> None:
    c = make()
    (c / "exec/x").mkdir()
    (networks / "n").mkdir()
    start = (tree / "journal").stat().st_size
    (c / "cgroup/pids.max").write_text("100")
    (c / "cgroup/memory.limit_in_bytes").write_text("64M")
    (c / "cgroup/cgroup.kill").write_text("1")  # is none
    (c / "exec/x/command").write_text("true")
    (c / "exec/x/workdir").write_text("/")
    (networks / "n/mtu").write_text("1400")
    (networks / "n/subnet").write_text("10.211.0.0/24")
    with open(tree / "journal", "rb") as file:
        file.seek(start)
        events = [json.loads(line) for line in file]
    assert [tuple(event[key] for key in ("kind", "name", "action", "setting")) for event in events] == [
        ("container", "c", "set", "cgroup/pids.max"),
        ("container", "c", "set", "cgroup/memory.max"),
        ("exec", "c/x", "set", "command"),
        ("exec", "c/x", "set", "workdir"),
        ("network", "n", "set", "mtu"),
        ("network", "n", "set", "subnet"),
    ]


def test_timeout_ends_a_wait_for_events(tree: Path) -> None:
    begun = time.monotonic()
    done = subprocess.run(
        ["timeout", "1", "head", "-1", "events"], cwd=tree, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (124, b"")
    assert time.monotonic() - begun < 1 + SOON


@pytest.mark.parametrize("shell", ["bash", "dash", "busybox"])
def test_a_shell_reads_every_event(tree: Path, shell: str) -> None:
    script = "while read time kind name action rest; do echo $action $name; [ $name = z ] && break; done < events"
    command = [shell, "sh", "-c", script] if shell == "busybox" else [shell, "-c", script]
    with blocked(command, tree) as process:
        names = [*"abcdefghij", "z"]
        subprocess.run(["mkdir", *names], cwd=tree / "containers", timeout=60, check=True)
        assert process.communicate(timeout=60)[0].splitlines() == [f"create {name}" for name in names]


def test_head_takes_one_event(tree: Path) -> None:
    with blocked("timeout 100 head -1 events", tree) as process:
        (tree / "containers/c").mkdir()
        assert LINE.fullmatch(process.communicate(timeout=60)[0])


# several at once


def test_a_second_command_does_not_wait_for_the_first(running: Path) -> None:
    with blocked("echo stop > c/ctl", running.parent) as process:
        subprocess.run(["sh", "-c", "echo kill > c/ctl"], cwd=running.parent, timeout=60, check=True)
        assert process.wait(60) == 0
    assert (running / "exit_code").read_text() == "137\n"


@pytest.mark.parametrize("redirect", [">", ">>"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_second_writer_to_stdin_can_be_ended_while_the_first_blocks(
    running: Path, redirect: str, number: signal.Signals
) -> None:
    with blocked("cat /dev/zero > c/stdin", running.parent):  # noqa: SIM117  # the second starts when the first blocks
        with blocked(f"cat /dev/zero {redirect} c/stdin", running.parent) as second:
            os.killpg(second.pid, number)
            ends_soon(second)


def test_others_work_while_somebody_waits(running: Path) -> None:
    with blocked("cat c/wait & cat ../events & echo stop > c/ctl & cat /dev/zero > c/stdin", running.parent):
        script = """mkdir d; echo x > d/hostname; cat d/hostname c/state; ls -l c d > /dev/null; mv d e; rmdir e
            cat c/inspect.json > /dev/null"""
        done = subprocess.run(
            ["sh", "-c", script], cwd=running.parent, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout == "x\nrunning\n"


# stdin


def test_a_mebibyte_and_more_goes_through_stdin(make: Make) -> None:
    c = make("c", command="md5sum")
    (c / "ctl").write_text("start")
    script = "seq 1 300000 | tee c/stdin | md5sum; echo eof > c/ctl; cat c/wait > /dev/null; cat c/log"
    done = subprocess.run(["sh", "-c", script], cwd=c.parent, capture_output=True, text=True, timeout=60, check=True)
    first, second = done.stdout.splitlines()
    assert first == second


def test_after_eof_stdin_is_epipe(running: Path) -> None:
    (running / "ctl").write_text("eof")
    with pytest.raises(BrokenPipeError), open(running / "stdin", "wb", buffering=0) as file:
        file.write(b"x")
    assert "closed" in (running / "error").read_text()


def test_eof_ends_stdin_whoever_has_it_open(make: Make) -> None:
    c = make("c", command="cat")
    (c / "ctl").write_text("start")
    with open(c / "stdin", "wb", buffering=0) as file:
        file.write(b"hello\n")
        (c / "ctl").write_text("eof")
        assert (c / "wait").read_text() == "0\n"
        assert (c / "log").read_text() == "hello\n"


def test_who_has_stdin_open_writes_nothing_after_eof(make: Make) -> None:
    c = make("c", command="sleep 100")
    (c / "ctl").write_text("start")
    with open(c / "stdin", "wb", buffering=0) as file:
        file.write(b"hello\n")
        (c / "ctl").write_text("eof")
        with pytest.raises(BrokenPipeError):
            file.write(b"after\n")


def test_a_blocked_writer_to_stdin_and_who_polls_it_are_told_of_eof(make: Make) -> None:
    c = make("c", command="sleep 100")
    (c / "ctl").write_text("start")
    with blocked("cat /dev/zero > c/stdin", c.parent) as process, open(c / "stdin", "wb", buffering=0) as file:
        poller = select.poll()
        poller.register(file, select.POLLOUT)
        assert poller.poll(0) == []
        (c / "ctl").write_text("eof")
        assert process.wait(60) != 0
        assert poller.poll(60_000)
        assert "closed" in (c / "error").read_text()


def test_stdin_of_what_does_not_run_is_ebusy(make: Make) -> None:
    c = make("c")
    with pytest.raises(OSError, match="busy") as caught, open(c / "stdin", "wb", buffering=0) as file:
        file.write(b"x")
    assert caught.value.errno == errno.EBUSY


def test_a_blocked_writer_to_stdin_is_told_when_the_container_ends(running: Path) -> None:
    with blocked("cat /dev/zero > c/stdin", running.parent) as process:
        (running / "ctl").write_text("kill")
        assert process.wait(60) != 0


def test_the_older_half_of_a_log_has_an_index_of_its_own(make: Make) -> None:
    c = make(
        command="sh -c 'i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo 0123456789012345678901234567890123456789; done'"
    )
    (c / "log_max").write_text("16K")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    for name in ("log", "log.1"):
        lines = (c / f"{name}.index").read_text().splitlines()
        assert sum(int(line.split()[3]) for line in lines) == (c / name).stat().st_size
