"""Further processes in a running container, driven as a shell does it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


@pytest.fixture
def running(make: Make) -> Path:
    """A container that runs."""
    c = make(command="sleep 1000")
    start(c)
    return c


def new(container: Path, name: str = "x", **settings: str) -> Path:
    """A process in *container*, not started yet."""
    path = container / "exec" / name
    path.mkdir()
    for setting, value in settings.items():
        (path / setting).write_text(value)
    return path


def start(directory: Path) -> None:
    """Start a container or a process; the words if it is refused."""
    try:
        (directory / "ctl").write_text("start")
    except OSError as error:
        raise AssertionError((directory / "error").read_text()) from error


def run(container: Path, command: str, **settings: str) -> str:
    """The output of *command* in *container*, which must succeed."""
    x = new(container, f"run{len(os.listdir(container / 'exec'))}", command=command, **settings)
    start(x)
    assert (x / "wait").read_text() == "0\n", (x / "log").read_text()
    return (x / "log").read_bytes().decode()


def test_it_runs_and_its_output_and_exit_code_are_there(running: Path) -> None:
    x = new(running, command="sh -c 'echo hello; echo oops >&2; exit 7'")
    assert (x / "state").read_text() == "created\n"
    (x / "ctl").write_text("start\n")
    assert (x / "wait").read_text() == "7\n"
    assert (x / "exit_code").read_text() == "7\n"
    assert (x / "state").read_text() == "exited\n"
    assert (x / "pid").read_text() == ""
    assert sorted((x / "log").read_text().splitlines()) == ["hello", "oops"]


@pytest.mark.cgroup
def test_it_is_in_all_of_the_container_s_namespaces_and_in_its_cgroup(running: Path) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    first, pid = (running / "pid").read_text().strip(), (x / "pid").read_text().strip()
    for kind in ("mnt", "uts", "ipc", "pid", "cgroup", "net", "user"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{first}/ns/{kind}")
    assert Path(f"/proc/{pid}/cgroup").read_text() == Path(f"/proc/{first}/cgroup").read_text()
    assert pid in (running / "cgroup/cgroup.procs").read_text().split()


#: What systemd does with what it is given: it is in a part of it, and hands the controllers on to the parts.
DIVIDE = (
    "cd /sys/fs/cgroup; mkdir mine; echo $$ > mine/cgroup.procs;"
    "for each in $(cat cgroup.controllers); do echo +$each > cgroup.subtree_control; done; echo ready; exec sleep 1000"
)


@pytest.mark.cgroup
def test_it_runs_beside_one_that_has_divided_its_cgroup(make: Make) -> None:
    c = make(command=json.dumps(["sh", "-ec", DIVIDE]), systemd="1")
    (c / "health/command").write_text("true")
    (c / "health/interval").write_text("100ms")
    with open(c / "stdout") as output:
        start(c)
        assert output.readline() == "ready\n"
    assert run(c, "echo inside") == "inside\n"
    assert (c / "health/wait").read_text() == "healthy\n"
    x = new(c, command="sleep 1000")
    start(x)
    assert (x / "pid").read_text().strip() in (c / "cgroup/cgroup.procs").read_text().split()
    (c / "cgroup/pids.max").write_text("100")
    (c / "ctl").write_text("kill")
    assert (x / "wait").read_text() == "137\n"


@pytest.mark.parametrize("field", ["CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "Seccomp", "NoNewPrivs", "Groups"])
def test_it_is_confined_as_the_container_is(make: Make, field: str) -> None:
    c = make(command="sleep 1000", no_new_privileges="1", capabilities="CHOWN\nKILL\n")
    start(c)
    own = run(c, f"grep {field}: /proc/self/status")
    first = Path(f"/proc/{(c / 'pid').read_text().strip()}/status").read_text()
    assert own in first


@pytest.mark.parametrize("init", "01")
def test_a_program_with_capabilities_that_the_container_lacks_is_refused_in_words(
    make: Make, errno_of: ErrnoOf, tmp_path: Path, init: str
) -> None:
    tmp_path.chmod(0o755)
    shutil.copy("/bin/busybox", tmp_path / "ping")
    version, raw = 0x02000001, 1 << 13  # effective; CAP_NET_RAW: see linux/capability.h
    os.setxattr(tmp_path / "ping", "security.capability", struct.pack("<5I", version, raw, 0, 0, 0))
    c = make(command="sleep 1000", capabilities="CHOWN\n", volumes=f"{tmp_path}:/data\n", init=init)
    start(c)
    x = new(c, command="/data/ping")
    assert errno_of(x / "ctl", "start") == errno.EPERM
    assert '"/data/ping" is refused by the kernel: it has capabilities of its own' in (x / "error").read_text()


def test_privileged_gives_all_capabilities_and_no_filter(running: Path) -> None:
    status = run(running, "cat /proc/self/status", privileged="1")
    assert "Seccomp:\t0" in status
    own = re.findall(r"CapEff:\t(\w+)", Path("/proc/self/status").read_text())
    assert re.findall(r"CapEff:\t(\w+)", status) == own


@pytest.mark.cgroup
def test_no_descriptor_of_the_engine_leaks_into_it(running: Path) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    pid = (x / "pid").read_text().strip()
    names = {number: os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")}
    assert set(names) == {"0", "1", "2"}
    assert [os.path.basename(names[number]) for number in "012"] == ["stdin", "stdout", "stderr"]
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


@pytest.mark.parametrize(
    ("setting", "value", "command", "shown"),
    [
        ("user", "nobody", "id -un", "nobody\n"),
        ("user", "12:34", "sh -c 'id -u; id -g'", "12\n34\n"),
        ("workdir", "/proc", "pwd", "/proc\n"),
        ("env", "A=b c\n", "sh -c 'echo $A'", "b c\n"),
        ("tty", "1", "tty", "/dev/pts/0\r\n"),
    ],
)
def test_settings_of_its_own(running: Path, setting: str, value: str, command: str, shown: str) -> None:
    assert run(running, command, **{setting: value}) == shown


@pytest.mark.parametrize(
    ("place", "refused"), [("/not/there", errno.ENOENT), ("/etc/passwd", errno.ENOTDIR), ("/link", errno.ENOENT)]
)
def test_a_working_directory_that_is_not_there_is_refused(
    make: Make, errno_of: ErrnoOf, place: str, refused: int
) -> None:
    c = make(command="sh -c 'ln -s /nowhere /link; sleep 1000'", workdir="/made")
    start(c)
    assert run(c, "sh -c 'until [ -h /link ]; do sleep 0.01; done; pwd'") == "/made\n"
    x = new(c, command="true", workdir=place)
    assert errno_of(x / "ctl", "start") == refused
    assert place in (x / "error").read_text()
    assert (c / "changes").read_text() == "A /link\nA /made\n"


def test_unset_settings_are_the_container_s(make: Make) -> None:
    c = make(command="sleep 1000", env="A=1\nB=2\n", user="nobody", workdir="/proc")
    start(c)
    x = new(c)
    assert ((x / "env").read_text(), (x / "user").read_text(), (x / "workdir").read_text()) == (
        "A=1\nB=2\n",
        "nobody\n",
        "/proc\n",
    )
    assert run(c, "sh -c 'echo $A $B; id -un; pwd'") == "1 2\nnobody\n/proc\n"
    with open(x / "env", "a") as env:
        env.write("B=3\n")
    assert (x / "env").read_text() == "A=1\nB=3\n"
    (x / "user").write_text("0")
    os.truncate(x / "user", 0)
    assert (x / "user").read_text() == "nobody\n"


def test_inspect_shows_processes_by_name(running: Path) -> None:
    x, y = new(running, "x", command="sh -c 'exit 7'"), new(running, "y")
    start(x)
    assert (x / "wait").read_text() == "7\n"
    shown = json.loads((running / "inspect.json").read_text())["exec"]
    assert shown == {
        "x": {"state": "exited", "pid": None, "exit_code": 7, "command": "sh -c 'exit 7'"},
        "y": {"state": "created", "pid": None, "exit_code": None, "command": None},
    }
    (y / "command").write_text("sleep 1000")
    start(y)
    shown = json.loads((running / "inspect.json").read_text())["exec"]
    assert shown["y"]["pid"] == int((y / "pid").read_text())


def test_stdin_reaches_it_and_eof_ends_it(running: Path, errno_of: ErrnoOf) -> None:
    x = new(running, command="cat")
    assert errno_of(x / "stdin", "early") == errno.EBUSY
    start(x)
    with open(x / "stdin", "wb", buffering=0) as file:
        file.write(b"one\n")
        (x / "ctl").write_text("eof")
        assert (x / "wait").read_text() == "0\n"
    assert (x / "log").read_text() == "one\n"


def test_who_reads_along_gets_each_stream_for_itself(running: Path) -> None:
    x = new(running, command="sh -c 'echo out; echo err >&2'")
    with open(x / "stdout") as out, open(x / "stderr") as err, open(x / "stdout") as again:
        start(x)
        assert (out.read(), err.read(), again.read()) == ("out\n", "err\n", "out\n")


@pytest.mark.parametrize(("verb", "code"), [("kill", "137"), ("kill TERM", "143"), ("kill 1", "129")])
def test_signals_end_it_and_only_it(running: Path, verb: str, code: str) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    (x / "ctl").write_text(verb)
    assert (x / "wait").read_text() == f"{code}\n"
    assert (running / "state").read_text() == "running\n"


def test_it_can_be_started_again(running: Path) -> None:
    x = new(running, command="sh -c 'echo x'")
    for _ in range(2):
        start(x)
        assert (x / "wait").read_text() == "0\n"
    assert (x / "log").read_text() == "x\nx\n"


def test_any_number_at_once(running: Path) -> None:
    executed = [new(running, f"x{number}", command=f"sh -c 'read x; exit {number}'") for number in range(20)]
    for x in executed:
        start(x)
    for x in executed:
        (x / "stdin").write_text("go\n")
    assert [(x / "wait").read_text() for x in executed] == [f"{number}\n" for number in range(20)]


@pytest.mark.cgroup
def test_the_end_of_the_container_ends_it(running: Path) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    (running / "ctl").write_text("kill")
    assert (x / "wait").read_text() == "137\n"


def test_an_empty_first_word_is_no_program(running: Path, errno_of: ErrnoOf) -> None:
    x = new(running, command="'' x")
    assert errno_of(x / "ctl", "start") == errno.EINVAL
    assert (x / "error").read_text() == "nothing to run: the first word of the command, the program, is empty\n"


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("kill", errno.EBUSY),
        ("eof", errno.EBUSY),
        ("start", errno.EINVAL),
        ("start now", errno.EINVAL),
        ("stop", errno.EINVAL),
        ("resize 1", errno.EINVAL),
        ("resize 24 80", errno.EBUSY),
        ("", 0),
    ],
)
def test_verbs_before_the_first_start(running: Path, errno_of: ErrnoOf, verb: str, number: int) -> None:
    x = new(running)
    assert errno_of(x / "ctl", verb) == number
    assert bool((x / "error").read_text()) == bool(number)


@pytest.mark.parametrize(
    ("setting", "value", "number"),
    [
        ("command", "'unbalanced", errno.EINVAL),
        ("user", "a b", errno.EINVAL),
        ("user", "4294967295", errno.EINVAL),
        ("workdir", "relative", errno.EINVAL),
        ("env", "novalue", errno.EINVAL),
        ("tty", "2", errno.EINVAL),
        ("privileged", "yes!", errno.EINVAL),
        ("command", "a\0b", errno.EINVAL),
    ],
)
def test_bad_values_are_refused_in_words(
    running: Path, errno_of: ErrnoOf, setting: str, value: str, number: int
) -> None:
    x = new(running)
    before = (x / setting).read_text()
    assert errno_of(x / setting, value) == number
    assert len((x / "error").read_text().splitlines()) == 1
    assert (x / setting).read_text() == before


@pytest.mark.parametrize(
    ("command", "number"),
    [("no-such-command", errno.ENOENT), ("/etc", errno.EACCES), ("/etc/passwd", errno.EACCES)],
)
def test_a_command_that_can_t_be_run_fails_the_start(
    running: Path, errno_of: ErrnoOf, command: str, number: int
) -> None:
    x = new(running, command=command)
    assert errno_of(x / "ctl", "start") == number
    assert command in (x / "error").read_text()
    assert (x / "state").read_text() == "created\n"


@pytest.mark.parametrize("state", ["created", "paused", "exited"])
def test_only_in_a_container_that_runs(make: Make, errno_of: ErrnoOf, state: str) -> None:
    c = make(command="sleep 1000")
    for verb in {"created": (), "paused": ("start", "pause"), "exited": ("start", "kill")}[state]:
        (c / "ctl").write_text(verb)
    assert errno_of(new(c, command="true") / "ctl", "start") == errno.EBUSY


@pytest.mark.parametrize("name", ["a b", ".x", "-x", "ä", "x" * 129])
def test_names_are_those_of_objects(running: Path, name: str) -> None:
    with pytest.raises(OSError, match="Invalid") as caught:
        new(running, name)
    assert caught.value.errno == errno.EINVAL


def test_rmdir_forgets_it_and_not_while_it_runs(running: Path) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    with pytest.raises(OSError, match="busy"):
        x.rmdir()
    (x / "ctl").write_text("kill")
    x.rmdir()
    assert os.listdir(running / "exec") == []


def test_mv_renames_it(running: Path) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    x.rename(running / "exec/y")
    assert os.listdir(running / "exec") == ["y"]
    assert (running / "exec/y/state").read_text() == "running\n"


def test_settings_are_busy_while_it_runs(running: Path, errno_of: ErrnoOf) -> None:
    x = new(running, command="sleep 1000")
    start(x)
    assert errno_of(x / "command", "true") == errno.EBUSY
    assert errno_of(x / "ctl", "start") == errno.EBUSY


def test_settings_by_the_usual_tools(running: Path, tmp_path: Path) -> None:
    x, y = new(running, "x", command="sleep 1", env="A=1\n"), new(running, "y")
    script = (
        f"cp {x}/env {y}/env && cp {x}/command {y}/ && sed -i s/1/2/ {y}/env && tar cf {tmp_path}/x -C {y} env command"
    )
    subprocess.run(["sh", "-ec", script], check=True)
    assert ((y / "env").read_text(), (y / "command").read_text()) == ("A=2\n", "sleep 1\n")


def test_a_hostile_multiplexer_of_terminals_fails_the_start(make: Make, errno_of: ErrnoOf) -> None:
    c = make(command="sh -c 'mount -t tmpfs x /dev/pts; mknod /dev/pts/ptmx c 1 3; sleep 1000'", privileged="1")
    with open(c / "stderr") as errors:
        start(c)
        x = new(c, command="sh", tty="1")
        while not Path(f"/proc/{(c / 'pid').read_text().strip()}/root/dev/pts/ptmx").is_char_device() or (
            os.stat(f"/proc/{(c / 'pid').read_text().strip()}/root/dev/pts/ptmx").st_rdev != os.makedev(1, 3)
        ):
            os.sched_yield()
        assert errno_of(x / "ctl", "start") == errno.EINVAL
        (c / "ctl").write_text("kill")
        assert errors.read() == ""


@pytest.mark.parametrize("victims", [("pydockd",), ("monitor",), ("logger",), ("keeper",), ("pydockd", "logger")])
def test_it_goes_on_when_the_engine_is_killed(own_engine: Engine, victims: tuple[str, ...]) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("sleep 1000")
    start(c)
    x = new(c, command="sh -c 'while read x; do echo got $x; done; exit 3'", user="nobody")
    done = new(c, "done", command="sh -c 'exit 4'")
    for each in (x, done):
        start(each)
    assert (done / "wait").read_text() == "4\n"
    (x / "stdin").write_text("one\n")
    for victim in victims:
        if victim == "pydockd":
            own_engine.kill()
        else:
            own_engine.kill_helper(victim)
    if "pydockd" in victims:
        own_engine.start()
    assert ((done / "exit_code").read_text(), (done / "command").read_text()) == ("4\n", "sh -c 'exit 4'\n")
    assert (x / "user").read_text() == "nobody\n"
    (x / "stdin").write_text("two\n")
    (x / "ctl").write_text("eof")
    assert (x / "wait").read_text() in (("3\n",) if "monitor" not in victims else ("3\n", "\n"))
    assert (x / "log").read_text() == "got one\ngot two\n"
