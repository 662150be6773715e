"""Terminals of containers and of processes in them: both ways, shared, resized, and not lost with any of the engine's processes."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


class Screen:
    """What one reader of a terminal has seen."""

    def __init__(self, console: Path) -> None:
        self.fd = os.open(console, os.O_RDONLY | os.O_NONBLOCK)
        self.seen = ""

    def await_text(self, pattern: str) -> re.Match[str]:
        """Returns when *pattern* has been shown."""
        deadline = time.monotonic() + 60
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, self.seen
            poller.poll(1000)
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except BlockingIOError:
                continue
        return found


@pytest.fixture
def screen() -> Iterator[Callable[[Path], Screen]]:
    """Makes readers of terminals."""
    made: list[Screen] = []

    def open_screen(directory: Path) -> Screen:
        made.append(Screen(directory / "console"))
        return made[-1]

    yield open_screen
    for each in made:
        os.close(each.fd)


@pytest.fixture(params=["container", "exec"])
def shell(make: Make, request: pytest.FixtureRequest) -> Path:
    """A shell on a terminal: a container's, or one that is executed in one."""
    if request.param == "container":
        directory = make(command="sh", tty="1")
    else:
        c = make(command="sleep 1000")
        (c / "ctl").write_text("start")
        directory = c / "exec/shell"
        directory.mkdir()
        (directory / "command").write_text("sh")
        (directory / "tty").write_text("1")
    (directory / "ctl").write_text("start")
    return directory


def type_in(directory: Path, text: str) -> None:
    (directory / "console").write_text(text)


def test_what_is_typed_is_run_and_shown(shell: Path, screen: Callable[[Path], Screen]) -> None:
    seen = screen(shell)
    type_in(shell, "echo $((6 * 7)); tty\n")
    seen.await_text(r"\n42\r\n/dev/pts/\d")


def test_it_has_job_control(shell: Path, screen: Callable[[Path], Screen]) -> None:
    seen = screen(shell)
    type_in(shell, "sh -c 'echo $((6 * 7)); sleep 1000'\n")
    seen.await_text(r"\n42\r\n")
    type_in(shell, "\x03")
    type_in(shell, "echo code $?\n")
    seen.await_text(r"\ncode 130\r\n")


def test_its_terminal_has_a_name(shell: Path, screen: Callable[[Path], Screen]) -> None:
    seen = screen(shell)
    (shell / "console").write_text("echo =$TERM=\n")
    seen.await_text("=xterm=")


@pytest.mark.parametrize(
    ("tty", "env", "shown"), [("0", "", "=="), ("1", "TERM=vt100\n", "=vt100="), ("1", "TERM=\n", "==")]
)
def test_a_name_that_is_given_and_none_without_a_terminal(make: Make, tty: str, env: str, shown: str) -> None:
    c = make(command="sh -c 'echo =$TERM='", tty=tty, env=env)
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert (c / "log").read_text().strip() == shown


def test_resize_reaches_it(shell: Path, screen: Callable[[Path], Screen]) -> None:
    seen = screen(shell)
    type_in(shell, "stty size\n")
    seen.await_text(r"\n24 80\r\n")
    (shell / "ctl").write_text("resize 40 132\n")
    type_in(shell, "stty size\n")
    seen.await_text(r"\n40 132\r\n")


@pytest.mark.parametrize("words", ["", "40", "40 0", "0 80", "40 80 1", "x y", "40 65536", "-1 80", "４0 80"])
def test_a_size_that_is_none_is_refused(shell: Path, errno_of: ErrnoOf, words: str) -> None:
    assert errno_of(shell / "ctl", f"resize {words}") == errno.EINVAL
    assert "resize takes ROWS and COLS" in (shell / "error").read_text()


def test_several_readers_see_the_same_and_a_new_one_the_last_screenful(
    shell: Path, screen: Callable[[Path], Screen]
) -> None:
    one, two = screen(shell), screen(shell)
    type_in(shell, "echo $((6 * 7))\n")
    one.await_text(r"\n42\r\n")
    two.await_text(r"\n42\r\n")
    screen(shell).await_text(r"\n42\r\n")


def test_end_of_file_ends_the_shell_and_the_reader(shell: Path, screen: Callable[[Path], Screen]) -> None:
    screen(shell).await_text("# ")  # before that it is a terminal whose line discipline the shell has not changed yet
    reader = subprocess.Popen(["cat", shell / "console"], stdout=subprocess.PIPE)
    (shell / "ctl").write_text("eof")
    assert (shell / "wait").read_text() == "0\n"
    reader.communicate(timeout=60)
    assert reader.returncode == 0


def test_the_log_has_what_the_terminal_showed(shell: Path) -> None:
    type_in(shell, "echo $((6 * 7)); exit 3\n")
    assert (shell / "wait").read_text() == "3\n"
    assert "\n42\r\n" in (shell / "log").read_bytes().decode()


def test_stdin_is_the_terminal_too(shell: Path) -> None:
    (shell / "stdin").write_text("exit 4\n")
    assert (shell / "wait").read_text() == "4\n"


def test_output_of_any_length_is_whole(shell: Path) -> None:
    type_in(shell, "seq 1 20000; exit\n")
    assert (shell / "wait").read_text() == "0\n"
    numbers = re.findall(r"^(\d+)\r$", (shell / "log").read_bytes().decode(), re.MULTILINE)
    assert numbers == [str(number) for number in range(1, 20_001)]


def test_socat_makes_it_one_s_own_terminal(shell: Path) -> None:
    command = ["socat", "-,raw,echo=0", shell / "console"]
    master, slave = os.openpty()
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=subprocess.PIPE) as socat:
        os.close(slave)
        os.write(master, b"echo $((6 * 7)); exit 5\n")
        assert (shell / "wait").read_text() == "5\n"
        assert socat.wait(60) == 0
        seen = b""
        while b"\n42\r\n" not in seen:
            seen += os.read(master, 4096)
    os.close(master)
    assert seen.count(b"\n42\r\n") == 1


def test_a_container_without_one_has_no_console(make: Make, errno_of: ErrnoOf) -> None:
    c = make(command="sleep 1000")
    (c / "ctl").write_text("start")
    assert (c / "console").read_bytes() == b""
    assert errno_of(c / "console", "x") == errno.ENOTTY
    assert errno_of(c / "ctl", "resize 24 80") == errno.EBUSY


def test_writing_to_the_console_of_one_that_does_not_run_is_busy(make: Make, errno_of: ErrnoOf) -> None:
    assert errno_of(make(command="sh", tty="1") / "console", "x") == errno.EBUSY


def test_the_container_has_a_console_of_its_own(make: Make) -> None:
    c = make(command="sh -c 'tty; echo x > /dev/console; stat -c %t:%T /dev/console; ls /proc/self/fd'", tty="1")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text().split() == ["/dev/pts/0", "x", "88:0", "0", "1", "2", "3"]


@pytest.mark.parametrize("victims", [("pydockd",), ("logger",), ("keeper",), ("monitor",), ("pydockd", "logger")])
def test_no_death_hangs_it_up_or_loses_a_line(own_engine: Engine, victims: tuple[str, ...]) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    for setting, value in {"image": "busybox", "command": "sh", "tty": "1"}.items():
        (c / setting).write_text(value)
    (c / "ctl").write_text("start")
    (c / "console").write_text("trap 'echo hung up' HUP; stty -echo; seq 1 30000; echo done\n")
    for victim in victims:
        if victim == "pydockd":
            own_engine.kill()
        else:
            own_engine.kill_helper(victim)
    if "pydockd" in victims:
        own_engine.start()
    (c / "console").write_text("exit 6\n")
    assert (c / "wait").read_text() == "6\n" or "monitor" in victims
    shown = (c / "log").read_bytes().decode()
    assert re.findall(r"^(\d+)\r$", shown, re.MULTILINE) == [str(number) for number in range(1, 30_001)]
    assert "hung up\r" not in shown


def test_a_vanished_terminal_costs_no_processor(make: Make, engine: Engine) -> None:
    """The program closes its terminal and goes on: its master is hung up, and readable for ever."""
    c = make(command="sh -c 'exec <&- >&- 2>&-; setsid sleep 1000'", tty="1")
    (c / "ctl").write_text("start")
    logger = Path(f"/proc/{engine.helper('logger')}/stat")

    def ticks() -> int:
        fields = logger.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, begun = ticks(), time.monotonic()
    while time.monotonic() - begun < 1:
        select.select([], [], [], 0.1)
    assert ticks() - before < 20


def test_who_is_killed_at_a_terminal_leaves_it_to_the_others(shell: Path, screen: Callable[[Path], Screen]) -> None:
    reader = subprocess.Popen(["cat", shell / "console"], stdout=subprocess.DEVNULL)
    other = screen(shell)
    type_in(shell, "mkfifo /f; stty raw -echo; echo $((1 + 1))raw; read line < /f; stty sane; echo $((1 + 1))ok\n")
    other.await_text("2raw")
    writer = subprocess.Popen(["dd", "if=/dev/zero", f"of={shell / 'console'}", "bs=65536"], stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(1)  # nobody reads what it types
    for each in (reader, writer):
        each.kill()
        assert each.wait(60) == -signal.SIGKILL
    container = shell if (shell / "rootfs").exists() else shell.parent.parent
    (container / "rootfs/f").write_text("go on\n")
    other.await_text("2ok")


def test_a_killed_shell_ends_its_terminal(shell: Path) -> None:
    reader = subprocess.Popen(["cat", shell / "console"], stdout=subprocess.DEVNULL)
    os.kill(int((shell / "pid").read_text()), signal.SIGKILL)
    assert (shell / "wait").read_text() == "137\n"
    assert reader.wait(60) == 0
