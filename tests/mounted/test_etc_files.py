"""/etc/hosts, /etc/hostname and /etc/resolv.conf: files on the disk, beside the container's others, as long as it runs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
FILES = ("hosts", "hostname", "resolv.conf")


def made(engine: Engine, command: str = "sleep 1000", **settings: str) -> Path:
    c = engine.tree / "containers/c"
    c.mkdir()
    for name, value in {"image": "busybox", "command": command, **settings}.items():
        (c / name).write_text(value)
    return c


def kept(engine: Engine) -> list[str]:
    """Those of the one container's files that are on the disk."""
    return [name for name in FILES if list((engine.root / "containers").glob(f"*/{name}"))]


def inside(c: Path, name: str) -> Path:
    return Path(f"/proc/{(c / 'pid').read_text().strip()}/root/etc", name)


def test_what_a_container_writes_into_them_is_room_of_the_disk_and_free_at_its_end(small_engine: Engine) -> None:
    c = made(small_engine, "sh -c 'head -c 16m /dev/zero > /etc/hosts; sleep 1000'", network="none")
    before = os.statvfs(small_engine.root).f_bfree
    (c / "ctl").write_text("start")
    until(lambda: inside(c, "hosts").stat().st_size == 16 << 20)
    assert {inside(c, name).stat().st_dev for name in FILES} == {small_engine.root.stat().st_dev}
    assert os.statvfs(small_engine.root).f_bfree < before - (15 << 20) // 4096
    (c / "ctl").write_text("kill")
    assert kept(small_engine) == []
    assert os.statvfs(small_engine.root).f_bfree > before - (1 << 20) // 4096


@pytest.mark.parametrize(("readonly", "options", "code"), [("0", "rw", "0\n"), ("1", "ro", "1\n")])
def test_they_are_as_read_only_as_the_root(make: Make, readonly: str, options: str, code: str) -> None:
    c = make(command="sh -c 'grep \" /etc/\" /proc/mounts; echo >> /etc/hosts'", readonly=readonly)
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == code
    lines = [line.split() for line in (c / "log").read_text().splitlines() if not line.startswith("sh: ")]
    assert [(line[1], line[3].split(",")[0]) for line in lines] == [
        (f"/etc/{name}", options) for name in ("hostname", "hosts", "resolv.conf")
    ]


def test_one_that_is_read_only_is_told_news(make: Make) -> None:
    c = make(command="sleep 1000", readonly="1")
    (c / "ctl").write_text("start")
    (c / "hosts").write_text("web 192.0.2.80\n")
    assert inside(c, "hosts").read_text().endswith("192.0.2.80\tweb\n")


def test_they_outlive_pydockd_and_are_told_news_by_the_next(own_engine: Engine) -> None:
    c = made(own_engine)
    (c / "ctl").write_text("start")
    own_engine.kill()
    own_engine.start()
    (c / "hosts").write_text("web 192.0.2.80\n")
    assert inside(c, "hosts").read_text().endswith("192.0.2.80\tweb\n")
    assert kept(own_engine) == list(FILES)


def test_after_an_end_that_nobody_saw_they_are_gone(own_engine: Engine) -> None:
    c = made(own_engine)
    (c / "ctl").write_text("start")
    pid = int((c / "pid").read_text())
    own_engine.kill()
    os.kill(pid, signal.SIGKILL)
    own_engine.start()
    until(lambda: (c / "state").read_text() == "exited\n")
    assert kept(own_engine) == []


def test_after_a_reboot_they_are_gone_and_made_anew(own_engine: Engine) -> None:
    c = made(own_engine)
    (c / "ctl").write_text("start")
    own_engine.reboot()
    assert kept(own_engine) == list(FILES)
    own_engine.start()
    assert kept(own_engine) == []
    (c / "ctl").write_text("start")
    assert inside(c, "hostname").read_text() == (c / "id").read_text()[:12] + "\n"


def test_those_of_a_start_that_a_death_has_cut_short_are_cleared(own_engine: Engine) -> None:
    c = made(own_engine)
    directory = own_engine.root / "containers" / (c / "id").read_text().strip()
    (directory / "hosts").write_text("left")
    own_engine.kill()
    own_engine.start()
    assert kept(own_engine) == []
    (directory / "hosts").write_text("left")
    was = (directory / "hosts").stat().st_ino
    with open(directory / "hosts") as held:  # else a new one may have its number
        (c / "ctl").write_text("start")
        assert inside(c, "hosts").stat().st_ino != was
        assert held.read() == "left"


def test_a_start_that_fails_leaves_none(make: Make, engine: Engine, errno_of: Callable[[Path, str], int]) -> None:
    c = make(command="not-there")
    assert errno_of(c / "ctl", "start")
    assert kept(engine) == []


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
