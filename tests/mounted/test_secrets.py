"""Secrets: in memory, seen inside, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


def inside(container: Path) -> Path:
    """/run/secrets of a container that runs."""
    return Path(f"/proc/{(container / 'pid').read_text().strip()}/root/run/secrets")


@pytest.mark.parametrize(
    ("written", "value", "read"),
    [
        (b"hunter2\n", b"hunter2", b"hunter2\n"),
        (b"hunter2", b"hunter2", b"hunter2\n"),
        (b"two words\n", b"two words", b"two words\n"),
        (b"-----BEGIN\nabc\n-----END\n", b"-----BEGIN\nabc\n-----END\n", b"-----BEGIN\nabc\n-----END\n"),
        (b"\x00\xff\n", b"\x00\xff\n", b"\x00\xff\n"),
        (b"\x00\xff", b"\x00\xff", b"\x00\xff"),
        (b"", b"", b""),
        (b"x" * 300_000, b"x" * 300_000, b"x" * 300_000 + b"\n"),
    ],
    ids=["line", "no newline", "words", "lines", "bytes with newline", "bytes", "empty", "long"],
)
def test_what_is_written_is_the_value_and_is_read_back(make: Make, written: bytes, value: bytes, read: bytes) -> None:
    c = make(command="sleep 1000")
    (c / "secrets/s").write_bytes(written)
    (c / "ctl").write_text("start")
    assert (inside(c) / "s").read_bytes() == value
    assert (c / "secrets/s").read_bytes() == read
    assert (c / "secrets/s").stat().st_size == len(read)
    (c / "secrets/s").write_bytes(read)
    assert (inside(c) / "s").read_bytes() == value


@pytest.mark.parametrize(("user", "uid"), [("", 0), ("1000:1001", 1000), ("nobody", 65534)])
def test_only_the_container_s_user_may_read_it(make: Make, user: str, uid: int) -> None:
    c = make(command="sleep 1000", user=f"{user}\n")
    (c / "secrets/s").write_text("value")
    (c / "ctl").write_text("start")
    (c / "secrets/later").write_text("value")
    for name in ("s", "later"):
        status = (inside(c) / name).stat()
        assert status.st_uid == uid
        assert status.st_mode & 0o7777 == 0o400


@pytest.mark.mount
def test_a_container_that_runs_sees_each_change_at_once(make: Make) -> None:
    c = make(command="sleep 1000")
    (c / "ctl").write_text("start")
    assert not inside(c).exists()
    (c / "secrets/s").write_text("one")
    assert (inside(c) / "s").read_text() == "one"
    (c / "ctl").write_text("pause")
    (c / "secrets/s").write_text("two")
    assert (inside(c) / "s").read_text() == "two"
    (c / "secrets/s").unlink()
    assert os.listdir(inside(c)) == []
    with pytest.raises(OSError, match="Read-only"):
        (inside(c) / "own").touch()


def test_it_is_in_no_document_report_layer_or_file_of_the_engine(own_engine: Engine) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo hunter2 > secrets/s;"
        "echo start > ctl; echo hunter2 > secrets/later"
    )
    c = own_engine.tree / "containers/c"
    for name in ("spec.toml", "inspect.json", "changes", "error"):
        assert "hunter2" not in (c / name).read_text()
    assert own_engine.sh(f"grep -rl hunter2 {own_engine.directory}/root {own_engine.directory}/run || true") == ""
    assert "hunter2" not in own_engine.log


@pytest.mark.parametrize("running", [True, False])
def test_it_survives_a_kill_and_an_end_of_the_engine(own_engine: Engine, running: bool) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo one > secrets/s"
    )
    c = own_engine.tree / "containers/c"
    if running:
        (c / "ctl").write_text("start")
    own_engine.kill()
    own_engine.start()
    assert (c / "secrets/s").read_text() == "one\n"
    own_engine.umount()
    own_engine.start()
    own_engine.kill_helper("keeper")
    (c / "secrets/s").write_text("two")
    if not running:
        (c / "ctl").write_text("start")
    assert (inside(c) / "s").read_text() == "two"
    own_engine.kill()
    own_engine.start()
    (c / "ctl").write_text("restart 0")
    assert (inside(c) / "s").read_text() == "two"


def test_what_a_death_has_left_half_written_goes(own_engine: Engine) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo x > secrets/s; echo start > ctl"
    )
    c = own_engine.tree / "containers/c"
    assert own_engine.process is not None
    for fd in Path(f"/proc/{own_engine.process.pid}/fd").iterdir():
        if fd.is_dir() and os.listdir(fd) == ["s"]:
            (fd / ".t.new").write_text("half")
            break
    assert sorted(os.listdir(inside(c))) == [".t.new", "s"]
    own_engine.kill()
    own_engine.start()
    assert os.listdir(inside(c)) == ["s"]


def test_it_goes_with_the_container(make: Make) -> None:
    c = make()
    (c / "secrets/s").write_text("x")
    c.rmdir()
    assert os.listdir(make() / "secrets") == []


@pytest.mark.parametrize(
    "script",
    [
        "cp key {0}/s",
        "cat key > {0}/s",
        "install -m 600 key {0}/s",
        "cp key copy && mv copy {0}/s",
        "dd if=key of={0}/s bs=7 status=none",
        "echo x > {0}/s; cp key {0}/s",
        "rsync -a key {0}/s",
        "echo other > {0}/s; sed -i 's/.*/-----BEGIN/' {0}/s; echo 'a b c' >> {0}/s",
    ],
)
def test_tools_for_files_work_on_it(make: Make, tmp_path: Path, script: str) -> None:
    (tmp_path / "key").write_text("-----BEGIN\na b c\n")
    c = make()
    subprocess.run(["sh", "-e", "-c", script.format(c / "secrets")], check=True, cwd=tmp_path)
    assert (c / "secrets/s").read_text() == "-----BEGIN\na b c\n"
    assert os.listdir(c / "secrets") == ["s"]


@pytest.mark.parametrize(
    ("name", "data", "number"),
    [
        ("big", b"x" * ((1 << 20) + 2), errno.EFBIG),
        ("a b", b"x", errno.EINVAL),
        ("-x", b"x", errno.EINVAL),
        ("x" * 129, b"x", errno.EINVAL),
        ("a:b", b"x", errno.EINVAL),
        ("x/y", b"x", errno.ENOENT),
    ],
)
def test_what_is_refused_leaves_nothing(make: Make, name: str, data: bytes, number: int) -> None:
    c = make()
    with pytest.raises(OSError, match=".") as caught:
        (c / "secrets" / name).write_bytes(data)
    assert caught.value.errno == number
    assert os.listdir(c / "secrets") == []
    assert number == errno.ENOENT or (c / "error").read_text().count("\n") == 1


def test_more_than_there_is_room_for_is_enospc_and_the_value_before_stays(make: Make) -> None:
    c = make()
    (c / "secrets/s0").write_bytes(b"first")
    for number in range(16):
        (c / f"secrets/s{number}").write_bytes(bytes([number]) * (1 << 20))
    with pytest.raises(OSError, match="No space") as caught:
        (c / "secrets/s0").write_bytes(b"xy" * (1 << 19))
    assert caught.value.errno == errno.ENOSPC
    assert (c / "secrets/s0").read_bytes() == bytes(1 << 20)


def test_rm_minus_r_of_the_container_leaves_them(make: Make) -> None:
    c = make()
    (c / "secrets/s").write_text("x")
    subprocess.run(["rm", "-rf", c], capture_output=True, check=False)
    assert (c / "secrets/s").read_text() == "x\n"


@pytest.mark.parametrize("link", ["/etc", "/proc/self/fd", "../../../../../../../tmp"])
def test_a_link_in_its_place_leads_nowhere(make: Make, link: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    c = make(command=f"sh -c 'rm -rf /run/secrets; mkdir -p /run; ln -s {link} /run/secrets; touch /made; sleep 1000'")
    (c / "ctl").write_text("start")
    while not (c / "rootfs/made").exists():
        os.sched_yield()
    with contextlib.suppress(OSError):
        (c / "secrets/s").write_text("x")
    assert Path("/proc/self/mountinfo").read_text().count("secrets") == before.count("secrets")


def test_one_that_can_t_be_shown_is_not_there(make: Make) -> None:
    c = make(command="sleep 1000", readonly="1")
    (c / "ctl").write_text("start")
    with pytest.raises(OSError, match="Read-only") as caught:
        (c / "secrets/s").write_text("x")
    assert caught.value.errno == errno.EROFS
    assert os.listdir(c / "secrets") == []
    (c / "ctl").write_text("kill")
    (c / "secrets/s").write_text("x")
    (c / "ctl").write_text("start")
    assert (inside(c) / "s").read_text() == "x"


def test_one_that_was_half_put_into_the_container_is_seen_after_a_death(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    own_engine.sh("cd containers; mkdir c; echo busybox > c/image; echo sleep 1000 > c/command; echo start > c/ctl")
    os.kill(own_engine.helper("monitor"), signal.SIGSTOP)
    writer = subprocess.Popen(["sh", "-c", f"echo value > {c}/secrets/s"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (c / "secrets/s").exists() or (c / "secrets/s").read_text() != "value\n":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    own_engine.kill()
    own_engine.kill_helper("monitor")
    writer.wait(60)
    own_engine.start()
    assert (c / "state").read_text() == "running\n"
    assert (inside(c) / "s").read_text() == "value"
