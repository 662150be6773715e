"""Containers that write, fork and hang up as they like: the engine stays small and quick, and whoever waits is told."""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
FLOOD = 300 << 20


def start(c: Path) -> Path:
    (c / "ctl").write_text("start")
    return c


def new(c: Path, name: str, **settings: str) -> Path:
    x = c / "exec" / name
    x.mkdir()
    for setting, value in settings.items():
        (x / setting).write_text(value)
    return x


def test_output_without_a_newline_is_bounded_and_keeps_nobody_waiting(make: Make) -> None:
    c = make(command=f"sh -c 'head -c {FLOOD} /dev/zero; read line; exit 4'", log_max="1M")
    with open(c / "stdout", "rb", buffering=0) as reader:
        start(c)
        assert select.select([reader], [], [], 60)[0]
        assert set(reader.read(4096)) == {0}
        assert (c / "state").read_text() == "running\n"
    (c / "stdin").write_text("go\n")
    assert (c / "wait").read_text() == "4\n"
    assert (c / "log").stat().st_size + (c / "log.1").stat().st_size <= 1 << 20


def test_a_flood_is_stopped_at_once(make: Make) -> None:
    c = start(make(command="cat /dev/zero", log_max="64K"))
    reader = subprocess.Popen(["cat", c / "stdout"], stdout=subprocess.DEVNULL)
    (c / "ctl").write_text("stop 0")
    assert reader.wait(60) in (0, 1)  # so small a log is more than once over before it has read: then it is told
    assert (c / "wait").read_text() == "137\n"


def test_thousands_of_processes(make: Make) -> None:
    other = start(make("other", command="sleep 1000"))
    c = make(command="sh -c 'i=0; while [ $i -lt 2000 ]; do sleep 1000 & i=$((i+1)); done; echo all; wait'")
    with open(c / "stdout") as reader:
        start(c)
        assert reader.readline() == "all\n"
    slowest = 0.0
    for report in ("processes", "stats", "inspect.json", "cgroup/cgroup.procs", "cgroup/tasks"):
        with subprocess.Popen(["cat", c / report], stdout=subprocess.PIPE, text=True) as cat:
            while cat.stdout and not select.select([cat.stdout], [], [], 0)[0]:
                begun = time.monotonic()
                assert (other / "state").read_text() == "running\n"
                slowest = max(slowest, time.monotonic() - begun)
            lines = cat.communicate()[0].splitlines()
        assert len(lines) == {"processes": 2002, "cgroup/cgroup.procs": 2001, "cgroup/tasks": 2001}.get(
            report, len(lines)
        )
    assert slowest < 10
    assert (c / "cgroup/cgroup.procs").stat().st_size == len((c / "cgroup/cgroup.procs").read_bytes())
    x = new(c, "x", command="true")
    for command in ("pause", "resume"):
        (c / "ctl").write_text(command)
    start(x)
    assert (x / "wait").read_text() == "0\n"
    (c / "ctl").write_text("kill")
    assert (c / "wait").read_text() == "137\n"
    assert (c / "cgroup/cgroup.procs").read_text() == ""


def test_titles_and_names_of_files_are_one_line_each(make: Make) -> None:
    script = r'printf 1 > "$(printf "/x\ny\033")"; echo ready; read line'
    c = make(command=json.dumps(["sh", "-c", script, "evil\n9 9 root 0 0 S fake\x1b[2J"]))
    with open(c / "stdout") as output:
        start(c)
        assert output.readline() == "ready\n"
    header, *lines = (c / "processes").read_text().splitlines()
    assert len(lines) == 1
    assert lines[0].isprintable()
    assert [line for line in (c / "changes").read_text().splitlines() if "/x" in line] == ["A /x\\012y\\033"]


#: That of a file is its process's, up to 15 bytes of it (proc(5), ``comm``). That busybox obeys it begins like that.
ODD_NAMES = [r"busybox\377\376", r"busybox) R 1\rx", r"busybox\rNSpid:\t", r"busybox\033[2J"]


def test_processes_are_called_as_they_like(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    go = 'go() { cp /bin/busybox "$1"; "$1" sleep 1000 & }'
    odd = [f"go \"$(printf '/{name}')\"" for name in ODD_NAMES]
    last = f"echo ready; exec \"$(printf '/{ODD_NAMES[0]}')\" sleep 1000"
    (c / "command").write_text(json.dumps(["sh", "-c", "; ".join([go, *odd, last])]))
    with open(c / "stdout") as output:
        start(c)
        assert output.readline() == "ready\n"
    own_engine.kill()
    own_engine.start()
    assert (c / "state").read_text() == "running\n"
    lines = (c / "processes").read_text().splitlines()
    assert len(lines) == 1 + len(ODD_NAMES) + 1
    assert all(line.isprintable() for line in lines)
    (c / "cgroup/cgroup.kill").write_text("1")
    assert (c / "wait").read_text() == "137\n"


@pytest.mark.parametrize("tty", ["0", "1"])
def test_what_an_exec_leaves_in_the_background_keeps_nobody_waiting(make: Make, tty: str) -> None:
    c = start(make(command="sleep 1000"))
    command = "sh -c 'trap \"\" HUP; (while :; do sleep 1; done) & seq 1 1000; exit 6'"
    x = start(new(c, "x", command=command, tty=tty))
    assert (x / "wait").read_text() == "6\n"
    assert (x / "exit_code").read_text() == "6\n"
    assert (x / "log").read_text().split() == [str(number) for number in range(1, 1001)]
    x.rmdir()


def test_a_terminal_that_nobody_reads_does_not_stop_its_program(make: Make) -> None:
    c = start(make(command="sh -c 'seq 1 30000; exit 5'", tty="1"))
    assert (c / "wait").read_text() == "5\n"
    assert (c / "log").read_text().split()[-1] == "30000"


@pytest.mark.parametrize("tty", ["0", "1"])
def test_who_reads_and_who_writes_is_told_of_the_end(make: Make, tty: str) -> None:
    c = start(make(command="sleep 1000", tty=tty))
    out = "console" if tty == "1" else "stdout"
    reader = subprocess.Popen(["cat", c / out], stdout=subprocess.DEVNULL)
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={c / 'stdin'}"], stderr=subprocess.DEVNULL)
    (c / "ctl").write_text("kill")
    assert reader.wait(60) == 0
    assert writer.wait(60) == 1


def test_a_closed_terminal_leaves_the_container_as_it_is(make: Make) -> None:
    c = start(make(command="sh -c 'exec 0<&- 1>&- 2>&-; sleep 1000'", tty="1"))
    reader = subprocess.Popen(["cat", c / "console"], stdout=subprocess.DEVNULL)
    (c / "console").write_text("typed for nobody\n")
    assert (c / "state").read_text() == "running\n"
    reader.kill()
    reader.wait(60)
    (c / "ctl").write_text("stop 0")
    assert (c / "wait").read_text() == "137\n"


def test_stdin_that_is_never_read_can_be_given_up_and_closed(make: Make) -> None:
    c = start(make(command="sleep 1000"))
    fd = os.open(c / "stdin", os.O_WRONLY | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(fd, bytes(65536)):
            pass
    os.close(fd)
    writer = subprocess.Popen(["sh", "-c", f"echo more > {c / 'stdin'}"], stderr=subprocess.DEVNULL)
    other = threading.Thread(target=(c / "ctl").write_text, args=("eof",))
    other.start()
    other.join(60)
    assert not other.is_alive()
    writer.terminate()
    writer.wait(60)
    with pytest.raises(OSError, match="Broken pipe") as caught:
        (c / "stdin").write_text("late")
    assert caught.value.errno == errno.EPIPE
