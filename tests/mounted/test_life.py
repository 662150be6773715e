"""The life of a container, driven as a shell does it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydock.runtime.confine import capabilities
from pydock.runtime.formats import print_time

Make = Callable[..., Path]

STATUSES = ("state", "pid", "exit_code", "started", "finished", "created", "id", "address", "ports.bound")


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when *condition* holds; an error when it does not within *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def errno_of(path: Path, text: str) -> int:
    """The errno of writing *text* to *path*; 0 when it is taken."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


@pytest.mark.cgroup
def test_a_container_runs_and_its_output_and_exit_code_are_there(make: Make) -> None:
    c = make(command="sh -c 'echo hello; echo oops >&2; exit 7'")
    (c / "ctl").write_text("start\n")
    assert (c / "wait").read_text() == "7\n"
    assert (c / "exit_code").read_text() == "7\n"
    assert (c / "state").read_text() == "exited\n"
    assert sorted((c / "log").read_text().splitlines()) == ["hello", "oops"]


def test_an_entrypoint_drops_the_image_s_command(make: Make) -> None:
    c = make()
    assert (c / "command").read_text() == "sh\n"
    (c / "entrypoint").write_text("echo alone")
    assert (c / "command").read_text() == ""
    assert json.loads((c / "inspect.json").read_text())["settings"]["command"] is None
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert (c / "log").read_text() == "alone\n"
    os.truncate(c / "entrypoint", 0)
    assert (c / "command").read_text() == "sh\n"


def test_a_privileged_container_shows_the_capabilities_that_it_has(make: Make) -> None:
    c = make(command="grep CapEff /proc/self/status")
    usual = (c / "capabilities").read_text()
    (c / "privileged").write_text("1")
    shown = (c / "capabilities").read_text().split()
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert capabilities.mask(shown) == int((c / "log").read_text().split()[1], 16)
    (c / "privileged").write_text("0")
    assert (c / "capabilities").read_text() == usual


def test_what_is_taken_from_a_privileged_container_s_capabilities_leaves_the_others(make: Make) -> None:
    c = make(privileged="1")
    before = (c / "capabilities").read_text().split()
    with open(c / "capabilities", "a") as file:
        file.write("-SYS_ADMIN\n")
    after = [name for name in before if name != "CAP_SYS_ADMIN"]
    assert (c / "capabilities").read_text().split() == after != before
    (c / "privileged").write_text("0")
    assert (c / "capabilities").read_text().split() == after
    os.truncate(c / "capabilities", 0)
    (c / "privileged").write_text("1")
    assert (c / "capabilities").read_text().split() == before


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("size=1M,nr_inodes=50", "nosuid nodev noexec relatime nr_inodes=50 size=1024k"),
        ("nr_blocks=2,exec,noexec,exec", "nosuid nodev relatime size=8k"),
        ("strictatime,noatime", "nosuid nodev noexec noatime"),
        ("noatime,atime,nodiratime", "nosuid nodev noexec relatime nodiratime"),
        ("noatime,strictatime", "nosuid nodev noexec"),
    ],
)
def test_a_tmpfs_takes_docker_s_options(make: Make, options: str, shown: str) -> None:
    c = make(command="grep ' /t ' /proc/mounts", tmpfs=f"/t:{options}\n")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    found = (c / "log").read_text().split()[3].split(",")
    assert set(shown.split()) == {each for each in found if each not in ("rw", "inode64")}


@pytest.mark.parametrize("userns", ["", "auto"])
def test_a_tmpfs_has_the_mode_of_what_it_covers_unless_one_is_given(make: Make, userns: str) -> None:
    places = "/root /var/tmp /etc /new/place /dev/shm"
    tmpfs = "/root\n/var/tmp:size=1M\n/etc:mode=750\n/new/place\n/dev/shm\n"
    c = make(command=f"stat -c %a:%u {places} /new", tmpfs=tmpfs, userns=userns)
    for _ in range(2):  # the directory is there the second time
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "700:0\n1777:0\n750:0\n1777:0\n1777:0\n755:0\n" * 2
    assert (c / "changes").read_text() == ""


def test_a_tmpfs_may_have_a_share_of_the_memory(make: Make) -> None:
    c = make(command="sh -c 'df -k /all /half | tail -n 2'", tmpfs="/all:size=100%\n/half:size=50%\n")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    whole, half = (int(line.split()[1]) for line in (c / "log").read_text().splitlines())
    assert abs(whole - 2 * half) <= 8


def test_a_signal_s_exit_code_is_128_and_its_number(make: Make) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    (c / "ctl").write_text("kill")
    assert (c / "exit_code").read_text() == "137\n"


def test_it_can_be_started_again_on_the_same_writable_layer(make: Make) -> None:
    c = make(command="sh -c 'echo x >> /kept; wc -l < /kept'")
    for _ in range(2):
        (c / "ctl").write_text("start")
        (c / "wait").read_text()
    assert (c / "log").read_text().split() == ["1", "2"]


def test_reset_discards_the_writable_layer_and_frees_the_image(make: Make) -> None:
    c = make(command="touch /kept")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert errno_of(c / "image", "/") == errno.EBUSY
    (c / "ctl").write_text("reset")
    assert not (c / "rootfs" / "kept").exists()
    assert errno_of(c / "image", "busybox:latest") == 0


@pytest.mark.parametrize("image", ["busybox", "host"])
def test_a_rootfs_that_was_only_looked_at_does_not_hold_the_image(make: Make, image: str) -> None:
    c = make()
    for name in ("image", "spec.toml"):
        (c / "image").write_text(image)
        assert "usr" in os.listdir(c / "rootfs")
        (c / name).write_text("")
        assert (c / "image").read_text() == ""


@pytest.mark.parametrize("inside", ["", "usr"])
def test_who_stands_in_a_rootfs_is_named_to_who_wants_it_to_go(make: Make, inside: str) -> None:
    c = make()
    (c / "rootfs/put").touch()
    with subprocess.Popen(["sleep", "1000"], cwd=os.path.realpath(c / "rootfs" / inside)) as process:
        try:
            assert errno_of(c / "ctl", "reset") == errno.EBUSY
            assert f"is in use by sleep (pid {process.pid}), at " in (c / "error").read_text()
            with pytest.raises(OSError, match="Device or resource busy"):
                c.rmdir()
        finally:
            process.kill()
    assert errno_of(c / "ctl", "reset") == 0


@pytest.mark.parametrize("image", ["busybox", "host"])
@pytest.mark.parametrize("name", ["put", "usr/put"])
def test_what_was_put_into_rootfs_before_the_first_start_holds_the_image(make: Make, image: str, name: str) -> None:
    c = make()
    (c / "image").write_text(image)
    (c / "rootfs" / name).touch()
    assert errno_of(c / "image", "/") == errno.EBUSY
    with pytest.raises(OSError, match="Device or resource busy"):
        (c / "spec.toml").write_text('image = "/"\n')
    assert (c / "rootfs" / name).exists()
    assert (c / "image").read_text().startswith(image)


@pytest.mark.cgroup
def test_pause_freezes_and_resume_lets_go_on(make: Make) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    (c / "ctl").write_text("pause")
    assert (c / "state").read_text() == "paused\n"
    assert (c / "cgroup/cgroup.freeze").read_text() == "1\n"
    (c / "ctl").write_text("resume")
    assert (c / "state").read_text() == "running\n"


@pytest.mark.cgroup
def test_stop_of_a_paused_container_ends_it(make: Make) -> None:
    # It opens the pipe when its trap is set: before that a first process of a PID namespace does not feel SIGTERM.
    c = make(command="sh -c 'trap \"exit 3\" TERM; mkfifo /ready; echo > /ready; while :; do sleep 0.05; done'")
    (c / "ctl").write_text("start")
    deadline = time.monotonic() + 60
    while not (ready := c / "rootfs/ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    ready.read_text()
    (c / "ctl").write_text("pause")
    (c / "ctl").write_text("stop 100")
    assert (c / "exit_code").read_text() in ("3\n", "143\n")


@pytest.mark.cgroup
def test_of_two_stops_at_once_both_have_stopped_it(make: Make) -> None:
    c = make(command="sh -c 'trap : TERM; echo ready; while ! read line; do :; done; exit 3'")

    def stop() -> subprocess.Popen[bytes]:
        asker = subprocess.Popen(["sh", "-c", "exec /bin/echo stop 100 > ctl"], cwd=c)
        of = Path(f"/proc/{asker.pid}")
        until(lambda: (of / "comm").read_text() == "echo\n" and (of / "wchan").read_text() == "request_wait_answer")
        return asker

    (c / "ctl").write_text("start")
    until(lambda: (c / "log").read_text() == "ready\n")
    with stop() as first, stop() as second:
        (c / "stdin").write_text("\n")
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert (c / "exit_code").read_text() == "3\n"
    assert errno_of(c / "ctl", "stop") == errno.EBUSY


def test_restart_gives_a_new_process_and_waiters_go_on_waiting(make: Make) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    first = (c / "pid").read_text()
    waiter = subprocess.Popen(["cat", c / "wait"], stdout=subprocess.PIPE, text=True)
    (c / "ctl").write_text("restart 0")
    assert (c / "pid").read_text() not in ("", first)
    assert waiter.poll() is None
    (c / "ctl").write_text("kill")
    assert waiter.communicate(timeout=60)[0] == "137\n"


def test_wait_may_be_opened_before_the_start(make: Make) -> None:
    c = make(command="sh -c 'exit 5'")
    waiter = subprocess.Popen(["cat", c / "wait"], stdout=subprocess.PIPE, text=True)
    (c / "ctl").write_text("start")
    assert waiter.communicate(timeout=60)[0] == "5\n"


def test_rename_while_it_runs(make: Make, tree: Path) -> None:
    c = make("before", command="sleep 100")
    (c / "ctl").write_text("start")
    new = tree / "containers/after"
    c.rename(new)
    assert (new / "state").read_text() == "running\n"
    assert not c.exists()


def test_stdin_reaches_it_and_eof_ends_it(make: Make) -> None:
    c = make(command="cat")
    (c / "ctl").write_text("start")
    (c / "stdin").write_text("one\n")
    (c / "stdin").write_text("two\n")
    (c / "ctl").write_text("eof")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "one\ntwo\n"
    assert errno_of(c / "stdin", "late") == errno.EBUSY


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("stop", errno.EBUSY),
        ("kill", errno.EBUSY),
        ("pause", errno.EBUSY),
        ("resume", errno.EBUSY),
        ("eof", errno.EBUSY),
        ("stop abc", errno.EINVAL),
        ("kill NOSUCH", errno.EBUSY),
        ("frobnicate", errno.EINVAL),
        ("start now", errno.EINVAL),
        ("reset", 0),
        ("", 0),
    ],
)
def test_verbs_before_the_first_start(make: Make, verb: str, number: int) -> None:
    c = make(command="true")
    assert errno_of(c / "ctl", verb) == number
    assert bool((c / "error").read_text()) == bool(number)


@pytest.mark.parametrize(
    ("verb", "number"),
    [("start", errno.EBUSY), ("reset", errno.EBUSY), ("resume", errno.EBUSY), ("kill NOSUCH", errno.EINVAL)],
)
def test_verbs_while_it_runs(make: Make, verb: str, number: int) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    assert errno_of(c / "ctl", verb) == number
    assert (c / "state").read_text() == "running\n"


@pytest.mark.parametrize(
    ("command", "number"),
    [("no-such-command", errno.ENOENT), ("/etc", errno.EACCES), ("/etc/passwd", errno.EACCES)],
)
def test_a_command_that_can_t_be_run_fails_the_start(make: Make, command: str, number: int) -> None:
    c = make(command=command)
    assert errno_of(c / "ctl", "start") == number
    assert (c / "state").read_text() == "created\n"
    assert command in (c / "error").read_text()


def test_an_empty_first_word_is_no_program_but_may_be_an_argument(make: Make) -> None:
    c = make(command="''")
    assert errno_of(c / "ctl", "start") == errno.EINVAL
    assert (c / "error").read_text() == "nothing to run: the first word of the command, the program, is empty\n"
    (c / "entrypoint").write_text("echo x")
    assert errno_of(c / "ctl", "start") == 0
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "x \n"


def test_the_outcome_is_read_from_the_descriptor_that_wrote(make: Make) -> None:
    c = make(command="sleep 100")
    with open(c / "ctl", "r+b", buffering=0) as ctl:
        ctl.write(b"start\n")
        assert ctl.read(4096).startswith(b"started, pid ")
        with pytest.raises(OSError, match="busy"):
            ctl.write(b"resume\n")
        assert ctl.read(4096) == b"c is not paused: it is running\n"


@pytest.mark.cgroup
def test_a_memory_hog_is_ended_and_the_reason_given(make: Make) -> None:
    c = make(command="sh -c 'tail /dev/zero'")
    (c / "cgroup/memory.max").write_text("16M")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "137\n"
    assert "oom" in (c / "error").read_text()


@pytest.mark.cgroup
def test_a_fork_bomb_stays_below_pids_max(make: Make) -> None:
    c = make(command="sh -c 'b() { b | b & }; b; sleep 1; exit 4'")
    (c / "cgroup/pids.max").write_text("30")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert int((c / "cgroup/pids.peak").read_text()) <= 30


@pytest.mark.cgroup
def test_rmdir_of_a_running_container_is_busy(make: Make) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    with pytest.raises(OSError, match="busy"):
        c.rmdir()
    assert "running" in (c / "error").read_text()


def test_rm_minus_r_changes_nothing(make: Make) -> None:
    c = make(command="true")
    before = sorted(path.name for path in c.iterdir())
    assert subprocess.run(["rm", "-rf", c], capture_output=True, check=False).returncode == 1
    assert sorted(path.name for path in c.iterdir()) == before
    assert (c / "image").read_text() == "busybox:latest\n"


@pytest.mark.cgroup
@pytest.mark.parametrize("verb", ["kill", "stop 0"])
def test_a_freeze_by_hand_keeps_nobody_from_starting_again(make: Make, verb: str) -> None:
    c = make(command="sleep 1000")
    (c / "ctl").write_text("start")
    (c / "cgroup/cgroup.freeze").write_text("1")
    (c / "exec/x").mkdir()
    (c / "exec/x/command").write_text("true")
    with pytest.raises(OSError, match="busy"):
        (c / "exec/x/ctl").write_text("start")
    (c / "ctl").write_text(verb)
    (c / "cgroup/cgroup.freeze").write_text("1")
    (c / "ctl").write_text("start")
    assert (c / "cgroup/cgroup.freeze").read_text() == "0\n"
    (c / "exec/x/ctl").write_text("start")
    assert (c / "exec/x/wait").read_text() == "0\n"


def changed(before: dict[str, int], c: Path) -> list[str]:
    """The statuses that have another mtime than in *before*, which has that of each from now on."""
    after = {name: (c / name).stat().st_mtime_ns for name in STATUSES}
    names = [name for name in STATUSES if after[name] != before.get(name)]
    before.update(after)
    return names


@pytest.mark.cgroup
def test_a_status_has_the_mtime_of_its_own_last_change(make: Make) -> None:
    c = make(command="sleep 1000")
    before: dict[str, int] = {}
    changed(before, c)
    assert set(before.values()) == {c.stat().st_mtime_ns}
    (c / "ctl").write_text("start")
    assert {"state", "pid", "started", "address", "ports.bound"} <= set(changed(before, c))
    assert print_time(before["started"]) == (c / "started").read_text().strip()
    (c / "ctl").write_text("pause")
    assert changed(before, c) == ["state"]
    (c / "ctl").write_text("resume")
    assert changed(before, c) == ["state"]
    (c / "ctl").write_text("kill")
    assert changed(before, c) == ["state", "pid", "exit_code", "finished", "address", "ports.bound"]
    assert print_time(before["finished"]) == (c / "finished").read_text().strip()
    (c / "ctl").write_text("start")
    assert {"state", "pid", "exit_code", "started", "finished"} <= set(changed(before, c))
