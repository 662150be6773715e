"""What is written by several processes, in pieces, or with fsync(2), and read by sendfile(2) at once."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]

HEAD = 'image = "busybox:latest"\nworkdir = "/tmp"\n'
TAIL = 'hostname = "after"\n'


def sent(path: Path) -> bytes:
    """What sendfile(2) gives of a file, of which it takes no other look than the open."""
    reader, writer = os.pipe()
    fd = os.open(path, os.O_RDONLY)
    try:
        found = b""
        while count := os.sendfile(writer, fd, None, 1 << 16):
            found += os.read(reader, count)
        return found
    finally:
        for each in (fd, reader, writer):
            os.close(each)


@pytest.mark.parametrize(
    ("name", "written", "shown"),
    [
        ("shm_size", b"64K\n", b"65536\n"),
        ("stop_timeout", b"5", b"5\n"),
        ("cgroup/memory.max", b"64M\n", b"67108864\n"),
        ("env", b"A=1\nB=2", b"A=1\nB=2\n"),
        ("spec.toml", b"hostname='c'\n", b'hostname = "c"\n'),
    ],
)
def test_sendfile_reads_what_was_just_written(make: Make, name: str, written: bytes, shown: bytes) -> None:
    c = make()
    for _ in range(20):
        (c / name).write_bytes(b"")
        before = sent(c / name)
        assert before == (c / name).read_bytes()
        (c / name).write_bytes(written)
        assert sent(c / name) == shown


def test_sendfile_reads_what_a_truncating_reader_has_left(make: Make) -> None:
    c = make(hostname="abc")
    assert sent(c / "hostname") == b"abc\n"
    with suppress(OSError):
        os.close(os.open(c / "hostname", os.O_RDONLY | os.O_TRUNC))
    assert sent(c / "hostname") == (c / "hostname").read_bytes()


@pytest.mark.parametrize("name", ["processes", "stats", "inspect.json", "state", "pid"])
def test_sendfile_reads_the_whole_of_what_has_become_longer(make: Make, name: str) -> None:
    c = make(command="sleep 1000")
    for verb in ("start", "kill"):
        first = sent(c / name)
        (c / "ctl").write_text(verb)
        (c / "env").write_text(f"A={'x' * 5000}") if verb == "kill" else None
        found = sent(c / name)
        assert found.endswith(b"}\n" if name == "inspect.json" else b"\n") or not found
        assert found.count(b"\n") == (c / name).read_bytes().count(b"\n")
        assert first != found


def test_busybox_cat_reads_each_of_many_values_in_a_row(engine: Engine, make: Make) -> None:
    make("c")
    script = "cd containers/c; for i in $(seq 150); do echo 64K > shm_size; busybox cat shm_size; : > shm_size; done"
    assert engine.sh(script).split("\n") == [*["65536"] * 150, ""]


def test_busybox_cat_reads_settings_and_reports(engine: Engine, make: Make) -> None:
    make("c", command="sleep 1000")
    script = """
        cd containers/c; start=1
        for value in 64K 1M 8M 128K; do echo $value > shm_size; busybox cat shm_size; done
        busybox cat processes | wc -l; echo start > ctl; busybox cat processes | wc -l
    """
    assert engine.sh(script).split() == ["65536", "1048576", "8388608", "131072", "1", "2"]


def sets(engine: Engine, action: Callable[[], object]) -> int:
    """How often spec.toml is set by *action*."""
    journal = Path(os.path.realpath(engine.tree / "journal"))
    before = journal.stat().st_size
    action()
    return journal.read_bytes()[before:].count(b"spec.toml")


@pytest.mark.parametrize(
    "command",
    [
        "cat head tail > c/spec.toml",
        "{ cat head; cat tail; } > c/spec.toml",
        "(cat head; cat tail) > c/spec.toml",
        "exec 3> c/spec.toml; cat head >&3; sh -c 'cat tail >&3; true'; exec 3>&-",
        "sh -c '(cat head; cat tail) & wait' > c/spec.toml",
        "cat head tail | dd of=c/spec.toml bs=10 2> /dev/null",
        "cat head tail | tee c/spec.toml > /dev/null",
    ],
)
def test_a_document_that_several_write_is_applied_once(engine: Engine, make: Make, command: str) -> None:
    c = make("c")
    (c / "spec.toml").write_text("")
    assert (c / "spec.toml").read_text() == ""  # by now
    prepared = f"cd containers; export T=$(mktemp -d); printf '{HEAD}' > $T/head; printf '{TAIL}' > $T/tail\n"
    script = prepared + command.replace("head", "$T/head").replace("tail", "$T/tail")
    assert sets(engine, lambda: engine.sh(script + "\nrm -r $T")) == 1
    assert (c / "spec.toml").read_text() == HEAD + TAIL


def test_a_document_s_error_comes_at_the_close_with_fsync_before_it_too(make: Make) -> None:
    c = make()
    before = (c / "spec.toml").read_text()
    fd = os.open(c / "spec.toml", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"garbage\n")
    os.fsync(fd)
    assert (c / "error").read_text() == ""
    with pytest.raises(OSError, match="Invalid argument"):
        os.close(fd)
    assert "not TOML" in (c / "error").read_text()
    assert (c / "spec.toml").read_text() == before


@pytest.mark.parametrize("name", ["env", "command"])
def test_what_waits_for_its_end_is_not_taken_at_the_close_of_a_copy(make: Make, name: str) -> None:
    c = make()
    fd = os.open(c / name, os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"A=" + b"x" * 5000)
    os.close(os.dup(fd))
    subprocess.run(["true"], pass_fds=[fd], check=True)
    os.fsync(fd)
    os.write(fd, b"yyy\n")
    os.close(fd)
    assert (c / name).read_text() == f"A={'x' * 5000}yyy\n"


@pytest.mark.parametrize("pieces", [[b"sleep 9", b"\n"], [b"sleep 9"], [b"sleep 9\n"], [b"true", b"sleep 9", b"\n"]])
def test_the_newline_of_a_value_may_come_by_itself(make: Make, pieces: list[bytes]) -> None:
    c = make()
    fd = os.open(c / "command", os.O_WRONLY | os.O_TRUNC)
    for piece in pieces:
        assert os.write(fd, piece) == len(piece)
    os.close(fd)
    assert (c / "command").read_text() == "sleep 9\n"


def test_an_empty_line_sets_a_value_empty_all_the_same(make: Make) -> None:
    c = make()
    for pieces in ([b"\n"], [b"sleep 9\n", b"\n"]):
        fd = os.open(c / "workdir", os.O_WRONLY | os.O_TRUNC)
        for piece in pieces:
            os.write(fd, b"/tmp\n" if piece != b"\n" else piece)
        os.close(fd)
        assert "workdir" in (c / "spec.toml").read_text()
        assert (c / "workdir").read_text() == "\n"


def test_a_start_that_is_short_of_processes_says_so(
    make: Make, engine: Engine, errno_of: Callable[[Path, str], int]
) -> None:
    c = make(command="true")
    path = (c / "cgroup/path").read_text().strip()
    limit = Path("/sys/fs/cgroup/pids") / path.lstrip("/") / "../pids.max"
    if not limit.exists():
        limit = Path("/sys/fs/cgroup") / path.lstrip("/") / "../pids.max"
    before = limit.read_text()
    limit.write_text("1")
    try:
        assert errno_of(c / "ctl", "start") == errno.EAGAIN
        assert (c / "error").read_text().strip()
    finally:
        limit.write_text(before)
