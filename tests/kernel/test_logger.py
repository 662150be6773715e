"""The logger: no byte is lost or doubled, whoever dies, and logs keep their limits."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.stdio import Stdio

WRITER = """
import os, sys
number = 0
while number < int(sys.argv[1]):
    some = b"".join(b"%09d\\n" % each for each in range(number, number + 7))
    os.write(1, some)
    number += 7
"""


class Pipes:
    """A container's pipes, held as container and keeper hold them."""

    def __init__(self, run: Path, name: str = "c") -> None:
        self.stdio = Stdio(run, name)
        self.stdio.make()
        self.held = self.stdio.open()
        self.fds = self.held.__enter__()
        for fd in self.fds.values():
            os.set_blocking(fd, True)

    def close(self) -> None:
        self.held.__exit__(None, None, None)


@pytest.fixture
def pipes(run: Path) -> Iterator[Pipes]:
    made = Pipes(run)
    yield made
    made.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "logs"
    path.mkdir()
    return path


def follow(logger, pipes: Pipes, directory: Path, log_max: int | None = None, name: str = "c") -> None:
    logger.ask(
        "follow",
        id=name,
        stdout=pipes.stdio.stdout,
        stderr=pipes.stdio.stderr,
        directory=str(directory),
        log_max=log_max,
    )


def pieces(directory: Path, suffix: str = "") -> list[tuple[str, int, int]]:
    """The index: stream, offset, length."""
    lines = (directory / f"log{suffix}.index").read_text().splitlines()
    return [(stream, int(offset), int(length)) for _, stream, offset, length in (line.split() for line in lines)]


def covered(directory: Path, suffix: str = "") -> int:
    """Checks that the index names each byte once, in order; how many."""
    end = 0
    for _, offset, length in pieces(directory, suffix):
        assert offset == end
        end += length
    return end


def test_output_arrives_as_it_was_written(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"one\n")
    logger.ask("drain", id="c")
    os.write(pipes.fds["stderr"], b"two, no newline")
    answer, _ = logger.ask("drain", id="c")
    assert answer["offset"] == 19
    assert (directory / "log").read_bytes() == b"one\ntwo, no newline"
    assert pieces(directory) == [("stdout", 0, 4), ("stderr", 4, 15)]


def test_the_time_in_the_index_is_utc_with_nanoseconds(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"x")
    logger.ask("drain", id="c")
    time = (directory / "log.index").read_text().split()[0]
    assert len(time) == len("2026-01-02T03:04:05.123456789Z")
    assert time.endswith("Z")


def test_what_was_written_before_anybody_followed_is_there(small: Callable, pipes: Pipes, directory: Path) -> None:
    os.write(pipes.fds["stdout"], b"early\n")
    logger = small("logger")
    follow(logger, pipes, directory)
    logger.ask("drain", id="c")
    assert (directory / "log").read_bytes() == b"early\n"


def test_unfollowed_pipes_keep_their_bytes(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    logger.ask("unfollow", id="c")
    os.write(pipes.fds["stdout"], b"late\n")
    assert logger.ask("list")[0]["followed"] == []
    assert (directory / "log").read_bytes() == b""
    follow(logger, pipes, directory)
    logger.ask("drain", id="c")
    assert (directory / "log").read_bytes() == b"late\n"


def test_finishing_takes_what_is_there_and_lets_go(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stderr"], b"last\n")
    logger.ask("finish", id="c")
    assert (directory / "log").read_bytes() == b"last\n"
    assert logger.ask("list")[0]["followed"] == []
    logger.ask("finish", id="c")


def test_a_truncated_log_starts_anew(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"old " * 1000)
    logger.ask("drain", id="c")
    os.truncate(directory / "log", 0)
    os.write(pipes.fds["stdout"], b"new\n")
    logger.ask("drain", id="c")
    assert (directory / "log").read_bytes() == b"new\n"
    assert pieces(directory) == [("stdout", 0, 4)]


def test_a_log_truncated_while_no_logger_ran_starts_anew(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"old " * 1000)
    logger.ask("drain", id="c")
    logger.kill()
    os.truncate(directory / "log", 0)
    logger.start()
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"new\n")
    logger.ask("drain", id="c")
    assert (directory / "log").read_bytes() == b"new\n"
    assert pieces(directory) == [("stdout", 0, 4)]


def test_a_rotated_log_loses_only_what_is_older(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory, log_max=20_000)
    for number in range(100):
        os.write(pipes.fds["stdout"], b"%0999d\n" % number)
        logger.ask("drain", id="c")
    everything = b"".join(b"%0999d\n" % number for number in range(100))
    both = (directory / "log.1").read_bytes() + (directory / "log").read_bytes()
    assert everything.endswith(both)
    assert (directory / "log.1").stat().st_size == 10_000
    assert 0 < (directory / "log").stat().st_size <= 10_000
    assert covered(directory) == (directory / "log").stat().st_size
    assert covered(directory, ".1") == 10_000


def test_nobody_but_root_reads_a_log_before_and_after_a_rotation(
    small: Callable, pipes: Pipes, directory: Path
) -> None:
    logger = small("logger")
    follow(logger, pipes, directory, log_max=20_000)
    os.write(pipes.fds["stdout"], b"x" * 10_001)
    logger.ask("drain", id="c")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.glob("log*")}
    assert modes == dict.fromkeys(["log", "log.index", "log.1", "log.1.index"], 0o600)


def test_a_new_limit_holds_from_now_on(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"x" * 30_000)
    logger.ask("drain", id="c")
    logger.ask("limit", id="c", log_max=2000)
    os.write(pipes.fds["stdout"], b"y" * 500)
    logger.ask("drain", id="c")
    assert (directory / "log.1").stat().st_size == 30_000
    assert (directory / "log").read_bytes() == b"y" * 500


CUT_SHORT = {
    "as older loggers began it": "mv log log.1",
    "log has its other name": "ln log log.1",
    "the new log is made": "ln log log.1; : > log.next",
    "the index is renamed": "ln log log.1; : > log.next; mv log.index log.1.index",
    "the new log is lost": "ln log log.1; mv log.index log.1.index",
    "the new log is there": "mv log log.1; mv log.index log.1.index; : > log",
}


@pytest.mark.parametrize("case", CUT_SHORT)
def test_a_rotation_cut_short_is_finished(small: Callable, pipes: Pipes, directory: Path, case: str) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"old\n")
    logger.ask("drain", id="c")
    logger.kill()
    subprocess.run(["sh", "-c", CUT_SHORT[case]], cwd=directory, check=True)
    logger.start()
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"newer\n")
    logger.ask("drain", id="c")
    assert (directory / "log.1").read_bytes() == b"old\n"
    assert (directory / "log").read_bytes() == b"newer\n"
    assert (covered(directory), covered(directory, ".1")) == (6, 4)
    assert len(list(directory.iterdir())) == 4


def test_a_rotation_that_has_hardly_begun_is_begun_again(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"old\n")
    logger.ask("drain", id="c")
    logger.kill()
    (directory / "log.next").hardlink_to(directory / "log")
    logger.start()
    follow(logger, pipes, directory, log_max=8)
    os.write(pipes.fds["stdout"], b"new\n")
    logger.ask("drain", id="c")
    assert ((directory / "log.1").read_bytes(), (directory / "log").read_bytes()) == (b"old\n", b"new\n")
    assert (covered(directory), covered(directory, ".1")) == (4, 4)


WATCHER = """
import os, sys
print(flush=True)
while not os.path.exists(sys.argv[1] + ".end"):
    os.stat(sys.argv[1])
"""


def test_the_log_is_there_at_any_moment(small: Callable, pipes: Pipes, directory: Path) -> None:
    log = directory / "log"
    logger = small("logger")
    follow(logger, pipes, directory, log_max=2)
    with subprocess.Popen([sys.executable, "-c", WATCHER, log], stdout=subprocess.PIPE) as watcher:
        assert watcher.stdout is not None
        watcher.stdout.readline()
        os.write(pipes.fds["stdout"], b"x" * 1000)
        logger.ask("drain", id="c")
        (directory / "log.end").touch()
    assert watcher.returncode == 0


@pytest.mark.parametrize("index", ["", "2026-01-01T00:00:00.000000000Z stdout 0 2\n2026-01-01T00:0", "rubbish\n"])
def test_a_damaged_index_is_mended(small: Callable, pipes: Pipes, directory: Path, index: str) -> None:
    (directory / "log").write_bytes(b"before\n")
    (directory / "log.index").write_text(index)
    logger = small("logger")
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"after\n")
    logger.ask("drain", id="c")
    assert (directory / "log").read_bytes() == b"before\nafter\n"
    assert covered(directory) == 13


def test_two_hundred_deaths_of_the_logger_lose_no_byte(small: Callable, pipes: Pipes, directory: Path) -> None:
    """The logger is killed at random moments while a writer writes numbered lines without a pause."""
    lines = 7 * 100_000
    logger = small("logger")
    choose = random.Random(1)
    with subprocess.Popen([sys.executable, "-c", WRITER, str(lines)], stdout=pipes.fds["stdout"]) as writer:
        for _ in range(200):
            follow(logger, pipes, directory, log_max=None)
            # so many round trips are a time that differs, while the logger works
            for _ in range(choose.randrange(20)):
                logger.ask("who")
            logger.kill()
            logger.start()
        follow(logger, pipes, directory)
        assert writer.wait() == 0
    logger.ask("drain", id="c")
    expected = b"".join(b"%09d\n" % number for number in range(lines))
    assert (directory / "log").read_bytes() == expected
    assert covered(directory) == len(expected)


def test_deaths_during_rotation_lose_only_what_is_older(small: Callable, pipes: Pipes, directory: Path) -> None:
    lines = 7 * 30_000
    logger = small("logger")
    with subprocess.Popen([sys.executable, "-c", WRITER, str(lines)], stdout=pipes.fds["stdout"]) as writer:
        for _ in range(40):
            follow(logger, pipes, directory, log_max=8192)
            logger.ask("who")
            logger.kill()
            logger.start()
        follow(logger, pipes, directory, log_max=8192)
        assert writer.wait() == 0
    logger.ask("drain", id="c")
    both = (directory / "log.1").read_bytes() + (directory / "log").read_bytes()
    assert b"".join(b"%09d\n" % number for number in range(lines)).endswith(both)
    assert covered(directory) == (directory / "log").stat().st_size
    assert covered(directory, ".1") == (directory / "log.1").stat().st_size


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, in a mount namespace that this process and what it starts are in for the test."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    path = tmp_path / "disk"
    path.mkdir()
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        syscalls.mount("", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("tmpfs", str(path), "tmpfs", 0, "size=64k")
        yield path
    finally:
        syscalls.setns(own, syscalls.CLONE_NEWNS)
        os.close(own)


def test_a_full_disk_loses_nothing_and_is_told(
    small: Callable, pipes: Pipes, small_disk: Path, directory: Path
) -> None:
    logger = small("logger")
    other = Pipes(logger.run, "other")
    follow(logger, pipes, small_disk)
    follow(logger, other, directory, name="other")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 40_000)
    data = bytes(random.Random(2).randbytes(48_000))
    os.write(pipes.fds["stdout"], data)
    event = logger.event(event="full", id="c")
    assert event["error"] == errno.ENOSPC
    with pytest.raises(Exception, match="No space left"):
        logger.ask("drain", id="c")
    os.write(other.fds["stdout"], b"goes on\n")
    logger.ask("drain", id="other")
    assert (directory / "log").read_bytes() == b"goes on\n"
    used = cpu(logger.pid)
    filler.unlink()
    logger.event(event="relieved", id="c")
    assert cpu(logger.pid) - used < 30  # hundredths of a second: it has waited, not turned in circles
    logger.ask("drain", id="c")
    assert (small_disk / "log").read_bytes() == data
    assert covered(small_disk) == len(data)
    other.close()


def cpu(pid: int) -> int:
    """User and system time of a process in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_one_that_writes_without_end_holds_up_no_other(small: Callable, run: Path, tmp_path: Path) -> None:
    logger = small("logger")
    loud, quiet = Pipes(run, "loud"), Pipes(run, "quiet")
    for pipes, name in ((loud, "loud"), (quiet, "quiet")):
        (tmp_path / name).mkdir()
        follow(logger, pipes, tmp_path / name, log_max=1 << 20, name=name)
    writer = subprocess.Popen(["busybox", "yes"], stdout=loud.fds["stdout"])
    try:
        logger_output = tmp_path / "loud" / "log.1"
        while not logger_output.exists():
            os.sched_yield()
        os.write(quiet.fds["stdout"], b"heard\n")
        while (tmp_path / "quiet" / "log").stat().st_size < 6:
            os.sched_yield()
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        loud.close()
        quiet.close()


def test_draining_one_that_is_not_followed_is_enoent(small: Callable) -> None:
    with pytest.raises(Exception, match="nobody is not followed") as caught:
        small("logger").ask("drain", id="nobody")
    assert caught.value.errno == errno.ENOENT


def test_unfollowing_leaves_no_descriptor(small: Callable, pipes: Pipes, directory: Path) -> None:
    logger = small("logger")
    before = os.listdir(f"/proc/{logger.pid}/fd")
    follow(logger, pipes, directory)
    follow(logger, pipes, directory)
    os.write(pipes.fds["stdout"], b"x")
    logger.ask("drain", id="c")
    logger.ask("unfollow", id="c")
    assert sorted(os.listdir(f"/proc/{logger.pid}/fd")) == sorted(before)


def test_a_logger_that_follows_nothing_ends_with_its_last_client(small: Callable) -> None:
    logger = small("logger")
    logger.disconnect()
    logger.wait_for_end()
