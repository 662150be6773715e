"""pid_mode, ipc_mode, uts_mode, init, oom_score_adj: what a container shares, and how it is started."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
#: What may say container:NAME.
JOINED = ("network", "pid_mode", "ipc_mode")


def errno_of(path: Path, text: str) -> int:
    """The errno of writing *text* to *path*; 0 when it is taken."""
    try:
        path.write_text(text)
    except OSError as error:
        return error.errno or -1
    return 0


def output(c: Path) -> str:
    """What a run of it prints."""
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    return (c / "log").read_text()


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts"])
def test_a_namespace_of_the_machine_is_the_machine_s(make: Make, kind: str) -> None:
    c = make(command=f"readlink /proc/self/ns/{kind}", **{f"{kind}_mode": "host"})
    assert output(c).strip() == os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize("kind", ["pid", "ipc"])
def test_a_namespace_of_another_container_is_joined(make: Make, kind: str) -> None:
    other = make("other", command="sleep 1000", ipc_mode="shareable")
    (other / "ctl").write_text("start")
    c = make("c", command=f"readlink /proc/self/ns/{kind}", **{f"{kind}_mode": "container:other"})
    pid = (other / "pid").read_text().strip()
    assert output(c).strip() == os.readlink(f"/proc/{pid}/ns/{kind}")


def joining(make: Make, name: str) -> Path:
    """A container that joins all that there is to join of the one called *name*."""
    mode = f"container:{name}"
    return make(f"of-{name}", command="sleep 1000", network=mode, pid_mode=mode, ipc_mode=mode)


def joined(c: Path) -> list[str]:
    """Whom it says that it joins."""
    return [(c / name).read_text() for name in JOINED]


@pytest.mark.parametrize("running", [False, True], ids=["", "running"])
def test_who_joins_a_container_that_is_renamed_joins_it_by_its_new_name(make: Make, running: bool) -> None:
    a, b = make("a", command="sleep 1000", ipc_mode="shareable"), make("b")
    c, d = joining(make, "a"), joining(make, "b")
    for each in (a, c) if running else ():
        (each / "ctl").write_text("start")
    a.rename(a.with_name("e"))
    assert joined(c) == ["container:e\n"] * len(JOINED)
    assert joined(d) == ["container:b\n"] * len(JOINED)
    assert (c / "spec.toml").read_text().count("container:e") == len(JOINED)
    b.rename(a)
    a.with_name("e").rename(b)
    assert joined(c) == ["container:b\n"] * len(JOINED)
    assert joined(d) == ["container:a\n"] * len(JOINED)
    (b / "ctl").write_text("restart 0")
    (c / "ctl").write_text("restart 0")
    assert (c / "state").read_text() == "running\n"


def test_a_new_name_that_a_death_has_kept_from_who_joins_is_told_then(
    own_engine: Engine,
) -> None:
    def make(name: str, **settings: str) -> Path:
        path = own_engine.tree / "containers" / name
        path.mkdir()
        for setting, value in settings.items():
            (path / setting).write_text(value)
        return path

    a, c = make("a"), joining(make, "a")
    kept = own_engine.root / "containers" / (a / "id").read_text().strip() / "state.json"
    own_engine.settled()
    own_engine.kill()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"name": "b", "before": "a"}))
    own_engine.start()
    assert joined(c) == ["container:b\n"] * len(JOINED)
    make("a")
    d = make("d", network="container:a")
    own_engine.kill()
    own_engine.start()
    assert joined(c) == ["container:b\n"] * len(JOINED)
    assert (d / "network").read_text() == "container:a\n"


def test_shared_memory_of_another_container_is_shared(make: Make) -> None:
    other = make("other", command="sh -c 'echo shared > /dev/shm/x; echo > /ready; sleep 1000'", ipc_mode="shareable")
    (other / "ctl").write_text("start")
    c = make("c", command="sh -c 'until cat /dev/shm/x; do sleep 0.01; done 2> /dev/null'", ipc_mode="container:other")
    assert output(c) == "shared\n"


def test_ipc_none_has_no_shared_memory(make: Make) -> None:
    assert output(make(command="sh -c 'mount | grep -c /dev/shm; ls /dev/shm'", ipc_mode="none")) == "0\n"


def test_ipc_host_shows_the_machine_s_shared_memory(make: Make) -> None:
    c = make(command="stat -c %d /dev/shm", ipc_mode="host")
    assert output(c).strip() == str(os.stat("/dev/shm").st_dev)


def test_uts_host_has_the_machine_s_name_and_refuses_another(make: Make) -> None:
    c = make(command="hostname", uts_mode="host")
    assert output(c).strip() == os.uname().nodename
    (c / "hostname").write_text("other")
    assert errno_of(c / "ctl", "start") == errno.EINVAL
    assert "uts_mode" in (c / "error").read_text()


@pytest.mark.parametrize(
    ("setting", "text", "number", "word"),
    [
        ("pid_mode", "container:c", errno.EINVAL, "itself"),
        ("pid_mode", "container:nobody", errno.ENOENT, "nobody"),
        ("pid_mode", "container:", errno.EINVAL, "container:NAME"),
        ("pid_mode", "shareable", errno.EINVAL, "private"),
        ("ipc_mode", "container:c", errno.EINVAL, "itself"),
        ("ipc_mode", "container:nobody", errno.ENOENT, "nobody"),
        ("ipc_mode", "x" * 65536, errno.EINVAL, "shareable"),
        ("uts_mode", "container:c", errno.EINVAL, "private"),
        ("uts_mode", "none", errno.EINVAL, "private"),
        ("oom_score_adj", "1001", errno.EINVAL, "-1000 to 1000"),
        ("oom_score_adj", "-1001", errno.EINVAL, "-1000 to 1000"),
        ("oom_score_adj", "1.5", errno.EINVAL, "-1000 to 1000"),
        ("oom_score_adj", "1_0", errno.EINVAL, "-1000 to 1000"),
        ("oom_score_adj", "٣", errno.EINVAL, "-1000 to 1000"),
        ("init", "2", errno.EINVAL, "neither 0 nor 1"),
    ],
)
def test_what_can_t_be_is_refused_in_words(make: Make, setting: str, text: str, number: int, word: str) -> None:
    c = make()
    before = (c / setting).read_text()
    assert errno_of(c / setting, text) == number
    assert word in (c / "error").read_text()
    assert len((c / "error").read_text().splitlines()) == 1
    assert (c / setting).read_text() == before


@pytest.mark.parametrize("setting", ["pid_mode", "ipc_mode"])
def test_a_container_that_does_not_run_can_t_be_joined(make: Make, setting: str) -> None:
    other = make("other")
    c = make("c", command="true", **{setting: "container:other"})
    assert errno_of(c / "ctl", "start") == errno.EBUSY
    assert "other is not running" in (c / "error").read_text()
    other.rmdir()
    assert errno_of(c / "ctl", "start") == errno.ENOENT


def test_memory_that_is_private_can_t_be_joined(make: Make) -> None:
    other = make("other", command="sleep 1000")
    (other / "ctl").write_text("start")
    c = make("c", command="true", ipc_mode="container:other")
    assert errno_of(c / "ctl", "start") == errno.EINVAL
    assert "shareable" in (c / "error").read_text()


def test_who_joins_a_pid_namespace_ends_with_it(make: Make) -> None:
    other = make("other", command="sleep 1000")
    (other / "ctl").write_text("start")
    c = make("c", command="sleep 1000", pid_mode="container:other")
    (c / "ctl").write_text("start")
    (other / "ctl").write_text("kill")
    assert (c / "wait").read_text() == "137\n"


@pytest.mark.parametrize("mode", ["host", "container:other"])
def test_no_process_is_left_where_the_pid_namespace_is_shared_and_no_other_s_is_ended(make: Make, mode: str) -> None:
    other = make("other", command="sleep 1000")
    (other / "ctl").write_text("start")
    script = "(setsid sleep 1000 &); (trap : TERM; while :; do sleep 1000 & wait; done) & echo; exit 3"
    c = make("c", command=f'sh -c "{script}"', pid_mode=mode)
    with subprocess.Popen(["/bin/sleep", "1000"]) as foreign:
        (c / "cgroup/cgroup.procs").write_text(str(foreign.pid))
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "3\n"
        assert (c / "cgroup/cgroup.procs").read_text() == f"{foreign.pid}\n"
        assert foreign.poll() is None
        assert (other / "state").read_text() == "running\n"
        foreign.kill()


@pytest.mark.parametrize("verb", ["kill", "stop 0"])
def test_kill_and_stop_leave_no_process_behind(make: Make, verb: str) -> None:
    c = make(command='sh -c "(setsid sleep 1000 &); sleep 1000"', pid_mode="host")
    (c / "ctl").write_text("start")
    (c / "ctl").write_text("pause")
    (c / "ctl").write_text(verb)
    assert (c / "cgroup/cgroup.procs").read_text() == ""


def test_the_report_of_processes_shows_the_container_s_own(make: Make) -> None:
    c = make(command="sleep 1000", pid_mode="host")
    (c / "ctl").write_text("start")
    with subprocess.Popen(["/bin/sleep", "999"]) as foreign:
        (c / "cgroup/cgroup.procs").write_text(str(foreign.pid))
        lines = (c / "processes").read_text().splitlines()[1:]
        foreign.kill()
    assert [line.split()[0] for line in lines] == [(c / "pid").read_text().strip()]


def test_oom_score_adj_is_live_and_the_container_s_own(make: Make) -> None:
    c = make(command="sh -c 'sleep 1000 & wait'", oom_score_adj="300")
    (c / "ctl").write_text("start")

    def scores() -> set[str]:
        return {
            Path(f"/proc/{line.split()[0]}/oom_score_adj").read_text().strip()
            for line in (c / "processes").read_text().splitlines()[1:]
        }

    assert scores() == {"300"}
    (c / "oom_score_adj").write_text("500")
    assert scores() == {"500"}
    assert (c / "oom_score_adj").read_text() == "500\n"
    spec = (c / "spec.toml").read_text()
    (c / "spec.toml").write_text(spec.replace("500", "711"))
    assert scores() == {"711"}
