"""Health checks on a mounted tree."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


def checked(make: Make, check: str, **settings: str) -> Path:
    """A container that sleeps and is checked every 20 ms."""
    c = make(command="sleep 1000")
    for name, value in {"command": check, "interval": "20ms", "retries": "2", **settings}.items():
        (c / "health" / name).write_text(value)
    return c


def tell(path: Path, command: str) -> None:
    (path / "ctl").write_text(command)


def is_healthy_at_last(c: Path) -> None:
    assert (c / "health/wait").read_text() == "healthy\n"


def becomes(c: Path, status: str) -> None:
    """Return when that is its status."""
    deadline = time.monotonic() + 60
    while (c / "health/status").read_text() != f"{status}\n":
        assert time.monotonic() < deadline, (c / "health/status").read_text() + (c / "error").read_text()
        time.sleep(0.005)


def test_the_defaults_are_dockers(make: Make) -> None:
    c = make()
    shown = {path.name: path.read_text() for path in (c / "health").iterdir() if path.name != "wait"}
    assert shown == {
        "command": "",
        "interval": "30\n",
        "timeout": "30\n",
        "retries": "3\n",
        "start_period": "0\n",
        "status": "none\n",
    }


@pytest.mark.parametrize(
    ("check", "user"),
    [
        pytest.param("test -e /ok", None, marks=pytest.mark.cgroup),
        ("CMD test -e /ok", None),
        ('["CMD-SHELL", "cd / && [ -e ok ]"]', "1000"),
    ],
)
def test_it_becomes_healthy_and_unhealthy_and_healthy_again(make: Make, check: str, user: str | None) -> None:
    c = checked(make, check)
    if user:
        (c / "user").write_text(user)
    assert (c / "health/status").read_text() == "none\n"
    with subprocess.Popen(["cat", c / "health/wait"], stdout=subprocess.PIPE, text=True) as waiter:
        tell(c, "start")
        becomes(c, "unhealthy")
        assert (c / "error").read_text() == "health: exit code 1\n"
        (c / "rootfs/ok").touch()
        assert waiter.communicate(timeout=60)[0] == "healthy\n"
    assert (c / "health/status").read_text() == "healthy\n"
    (c / "rootfs/ok").unlink()
    becomes(c, "unhealthy")
    tell(c, "kill")
    assert (c / "health/status").read_text() == "none\n"
    assert (c / "health/wait").read_text() == "none\n"


def test_each_change_is_an_event_and_its_runs_are_none(make: Make, tree: Path) -> None:
    with open(tree / "events") as events:
        c = checked(make, "true")
        tell(c, "start")
        is_healthy_at_last(c)
        seen = []
        while not seen or " health " not in seen[-1]:
            seen.append(events.readline())
    assert seen[-1].split()[1:] == ["container", "c", "health", "status=healthy"]
    assert any(line.endswith("set setting=health/interval\n") for line in seen)
    assert not any(" exec " in line for line in seen)
    assert list((c / "exec").iterdir()) == []


def test_the_last_words_of_a_check_are_told(make: Make) -> None:
    c = checked(make, "CMD-SHELL echo first; echo no luck >&2; exit 7", retries="1")
    tell(c, "start")
    becomes(c, "unhealthy")
    assert (c / "error").read_text() == "health: exit code 7: no luck\n"


@pytest.mark.parametrize(
    ("check", "words"), [("sleep 1000", "no end within 0.1 seconds"), ("no-such-program", "no-such-program")]
)
def test_what_does_not_end_or_begin_has_failed(make: Make, check: str, words: str) -> None:
    c = checked(make, check, retries="1", timeout="100ms")
    tell(c, "start")
    becomes(c, "unhealthy")
    assert words in (c / "error").read_text()


def test_failures_in_the_start_period_do_not_count(make: Make) -> None:
    c = checked(make, "CMD-SHELL echo x >> /runs; [ -e /ok ]", retries="1", start_period="1h")
    tell(c, "start")
    deadline = time.monotonic() + 60
    while not (c / "rootfs/runs").exists() or (c / "rootfs/runs").stat().st_size < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (c / "health/status").read_text() == "starting\n"
    (c / "rootfs/ok").touch()
    is_healthy_at_last(c)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('CMD-SHELL [ -n "$NO" ]', """CMD-SHELL '[ -n "$NO" ]'"""),
        ("""CMD-SHELL '[ -n "$NO" ]'""", """CMD-SHELL '[ -n "$NO" ]'"""),
        ("CMD-SHELL  echo don't ", """CMD-SHELL 'echo don'"'"'t'"""),
        ("CMD-SHELL true", "CMD-SHELL true"),
        ("CMD-SHELL a\\ b", "CMD-SHELL 'a b'"),
        ("""["CMD-SHELL", "a  'b'", "c"]""", """CMD-SHELL 'a  '"'"'b'"'"' c'"""),
        ("CMD a 'b c'", "CMD a 'b c'"),
    ],
)
def test_the_text_for_a_shell_stays_as_it_was_written(make: Make, written: str, read: str) -> None:
    c = make()
    (c / "health/command").write_text(f"{written}\n")
    assert (c / "health/command").read_text() == f"{read}\n"
    (c / "health/command").write_text(f"{read}\n")
    assert (c / "health/command").read_text() == f"{read}\n"


def test_a_text_for_a_shell_that_a_document_has_in_pieces_is_one(make: Make) -> None:
    c = make()
    (c / "spec.toml").write_text("""[health]\ncommand = ["CMD-SHELL", "a 'b'", "c"]\n""")
    assert (c / "health/command").read_text() == """CMD-SHELL 'a '"'"'b'"'"' c'\n"""


def test_a_shell_sees_the_quotes_of_its_text(make: Make) -> None:
    c = checked(make, 'CMD-SHELL [ -n "$NO" ]', retries="1")
    tell(c, "start")
    becomes(c, "unhealthy")


@pytest.mark.parametrize("check", ["NONE", ""])
def test_no_check_is_none(make: Make, check: str) -> None:
    c = checked(make, check + "\n")
    tell(c, "start")
    assert (c / "health/status").read_text() == "none\n"
    assert (c / "health/wait").read_text() == "none\n"


def test_the_setting_is_busy_while_it_runs(make: Make) -> None:
    c = checked(make, "true")
    tell(c, "start")
    with pytest.raises(OSError, match="busy"):
        (c / "health/command").write_text("false")


def test_the_settings_go_along_with_the_document(make: Make) -> None:
    a = checked(make, "CMD-SHELL 'exit 0'", timeout="1m")
    b = make("b")
    text = (a / "spec.toml").read_text()
    assert '[health]\ncommand = [\n    "CMD-SHELL",\n    "exit 0",\n]\n' in text
    (b / "spec.toml").write_text(text)
    assert (b / "spec.toml").read_text() == text
    assert [(b / "health" / name).read_text() for name in ("command", "timeout", "retries")] == [
        "CMD-SHELL 'exit 0'\n",
        "60\n",
        "2\n",
    ]


@pytest.mark.parametrize("way", ["umount", "kill"])
def test_it_goes_on_after_pydockd_was_away(own_engine: Engine, way: str) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("sleep 1000")
    (c / "health/command").write_text("CMD-SHELL [ -e /ok ] || sleep 1000")
    (c / "health/interval").write_text("20ms")
    (c / "health/timeout").write_text("1s")
    (c / "health/retries").write_text("2")
    (c / "rootfs/ok").touch()
    tell(c, "start")
    is_healthy_at_last(c)
    own_engine.umount() if way == "umount" else own_engine.kill()
    own_engine.start()
    assert (c / "health/status").read_text() == "healthy\n"
    (c / "rootfs/ok").unlink()
    becomes(c, "unhealthy")
    own_engine.kill()
    own_engine.start()
    assert (c / "health/status").read_text() == "unhealthy\n"
    (c / "rootfs/ok").touch()
    is_healthy_at_last(c)


def test_it_begins_anew_with_each_run(make: Make) -> None:
    c = checked(make, "test -e /ok", retries="1")
    (c / "rootfs/ok").touch()
    tell(c, "start")
    is_healthy_at_last(c)
    (c / "rootfs/ok").unlink()
    becomes(c, "unhealthy")
    (c / "rootfs/ok").touch()
    tell(c, "restart 0")
    is_healthy_at_last(c)


def test_who_waits_is_told_when_the_container_goes(
    make: Make, has_open: Callable[[subprocess.Popen[str], Path], bool]
) -> None:
    c = checked(make, "true")
    with subprocess.Popen(["cat", str(c / "health/wait")], stdout=subprocess.PIPE, text=True) as reader:
        while not has_open(reader, c / "health/wait"):
            time.sleep(0.01)
        c.rmdir()
        assert reader.communicate(timeout=10)[0] == "none\n"
