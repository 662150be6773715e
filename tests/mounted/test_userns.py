"""``userns``: root inside is nobody outside, and files on disk have the container's own numbers."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


def output(c: Path) -> str:
    """What a run of it prints."""
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    return (c / "log").read_text()


def upper(engine: Engine, c: Path) -> Path:
    """Its writable layer."""
    return engine.root / "containers" / (c / "id").read_text().strip() / "upper"


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A volume with a file of somebody's."""
    (tmp_path / "file").write_text("x")
    os.chown(tmp_path / "file", 33, 34)
    return tmp_path


@pytest.mark.parametrize(
    ("userns", "first"), [pytest.param("auto", None, marks=pytest.mark.mount), ("1000:2000:70000", 1000)]
)
def test_root_inside_is_another_outside(make: Make, userns: str, first: int | None) -> None:
    c = make(command="sleep 1000", userns=userns)
    (c / "ctl").write_text("start")
    pid = (c / "pid").read_text().strip()
    inside, outside, count = (int(word) for word in Path(f"/proc/{pid}/uid_map").read_text().split())
    assert inside == 0
    assert outside >= 65536 if first is None else outside == first
    assert count == (65536 if first is None else 70000)
    assert Path(f"/proc/{pid}").stat().st_uid == outside
    assert (c / "processes").read_text().splitlines()[1].split()[2] == "root"


def test_files_on_disk_have_plain_numbers(make: Make, engine: Engine) -> None:
    c = make(command="sh -c 'touch /r; mkdir /d; touch /d/u; chown 5:6 /d/u; echo >> /etc/passwd'", userns="auto")
    output(c)
    place = upper(engine, c)
    assert [owner(place / name) for name in ("r", "d", "d/u", "etc/passwd")] == [(0, 0), (0, 0), (5, 6), (0, 0)]
    assert set((c / "changes").read_text().splitlines()) >= {"A /r", "A /d", "A /d/u", "C /etc/passwd"}


def test_the_same_layer_serves_with_and_without(make: Make) -> None:
    c = make(command="sh -c 'touch /mine; stat -c %u:%g /mine /bin/busybox'")
    for userns in ("auto", "host", "3000:3000:65536", ""):
        (c / "userns").write_text(f"{userns}\n")
        (c / "log").write_text("")
        assert output(c).split() == ["0:0", "0:0"], userns


def test_ranges_of_two_containers_do_not_overlap_and_stay_over_a_restart(own_engine: Engine) -> None:
    own_engine.sh(
        "for c in a b; do mkdir containers/$c; cd containers/$c; echo busybox > image; echo auto > userns; "
        "echo 'cat /proc/self/uid_map' > command; echo start > ctl; cat wait; cd ../..; done"
    )
    before = own_engine.sh("cat containers/*/log").split()
    assert abs(int(before[1]) - int(before[4])) >= 65536
    own_engine.kill()
    own_engine.start()
    assert (
        own_engine.sh(
            ": > containers/a/log; echo start > containers/a/ctl; cat containers/a/wait > /dev/null; cat containers/a/log"
        ).split()
        == before[:3]
    )


def test_it_goes_on_when_the_engine_is_killed_and_can_be_started_again(own_engine: Engine) -> None:
    own_engine.sh(
        "mkdir containers/a; cd containers/a; echo busybox > image; echo auto > userns; "
        "echo 'sh -c \"echo x >> /kept; cat /kept; sleep 1000\"' > command; echo start > ctl"
    )
    own_engine.kill()
    own_engine.start()
    own_engine.sh("cd containers/a; echo kill > ctl; echo start > ctl; until [ $(cat log | wc -l) = 3 ]; do :; done")


def test_a_volume_shows_its_owners_and_keeps_them(make: Make, directory: Path) -> None:
    c = make(
        command="sh -c 'stat -c %u:%g /v/file; touch /v/new; chown 7:8 /v/new'",
        userns="auto",
        volumes=f"{directory}:/v\n",
    )
    assert output(c) == "33:34\n"
    assert owner(directory / "new") == (7, 8)


@pytest.mark.mount
def test_a_volume_that_comes_while_it_runs_does_too(make: Make, directory: Path) -> None:
    c = make(command="sleep 1000", userns="auto")
    (c / "ctl").write_text("start")
    with (c / "volumes").open("a") as volumes:
        volumes.write(f"{directory}:/deep/v\n")
    (c / "exec/x").mkdir()
    (c / "exec/x/command").write_text("sh -c 'stat -c %u:%g /deep /deep/v/file'")
    (c / "exec/x/ctl").write_text("start")
    assert (c / "exec/x/wait").read_text() == "0\n"
    assert (c / "exec/x/log").read_text().split() == ["0:0", "33:34"]


def test_a_volume_that_can_t_be_shown_is_told_of(make: Make) -> None:
    c = make(command="stat -c %u /v", userns="auto", volumes="/sys/class:/v:ro\n")
    assert output(c) == "65534\n"
    assert "its owners are nobody" in (c / "error").read_text()


def test_a_named_volume_is_filled_with_plain_numbers(make: Make, engine: Engine) -> None:
    (engine.tree / "volumes/v").mkdir()
    c = make(command="stat -c %u /var/lib", userns="auto", volumes="v:/var\n")
    assert output(c) == "0\n"
    data = Path(os.readlink(engine.tree / "volumes/v/data"))
    assert owner(data / "lib") == (0, 0)
    c.rmdir()
    (engine.tree / "volumes/v").rmdir()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'hostname'", ""),
        ("sh -c 'echo out > /dev/stdout; echo err > /dev/stderr'", "out\nerr\n"),
        ("sh -c 'head -c 2 /dev/zero | wc -c; echo > /dev/null; ls /dev/pts'", "2\nptmx\n"),
        (
            "sh -c 'cat /sys/class/net/lo/operstate; stat -c %u:%g /etc/hosts /dev/null /dev/shm'",
            "unknown\n0:0\n0:0\n0:0\n",
        ),
        (
            "sh -c 'cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/domainname'",
            "1234\n1\ndom\n",
        ),
        ("sh -c 'ulimit -n; ulimit -Hn'", "100\n200\n"),
        ("sh -c 'chown 65535:65535 /tmp && chown 65536 /tmp 2>&1 | grep -o Invalid'", "Invalid\n"),
        ("sh -c 'cat /proc/1/oom_score_adj; echo -999 > /proc/1/oom_score_adj'", None),
        ("sh -c 'mknod /x c 1 3; mount -t tmpfs x /mnt; cat /proc/kcore'", None),
    ],
)
def test_nothing_is_amiss_inside(make: Make, command: str, said: str | None) -> None:
    c = make(
        command=command,
        userns="auto",
        hostname="h",
        sysctls="kernel.msgmax=1234\nnet.ipv4.ip_forward=1\nkernel.domainname=dom\n",
        ulimits="nofile=100:200\n",
    )
    found = output(c)
    if said is None:
        assert (c / "exit_code").read_text() != "0\n"
    else:
        assert found == (said or "h\n")
    assert (c / "error").read_text() == ""


@pytest.mark.parametrize("kind", ["pid", "ipc", "uts"])
def test_namespaces_of_the_machine_can_be_shared(make: Make, kind: str) -> None:
    c = make(
        command=f"sh -c 'readlink /proc/self/ns/{kind}; ls /sys/class/net'",
        userns="auto",
        network="host",
        **{f"{kind}_mode": "host"},
    )
    lines = output(c).splitlines()
    assert lines[0] == os.readlink(f"/proc/self/ns/{kind}")
    assert set(lines[1:]) == {name for _, name in socket.if_nameindex()}


@pytest.mark.mount
def test_exec_terminal_and_user_work(make: Make) -> None:
    c = make(command="sleep 1000", userns="auto", user="1000")
    (c / "ctl").write_text("start")
    (c / "exec/x").mkdir()
    (c / "exec/x/tty").write_text("1")
    (c / "exec/x/command").write_text("sh -c 'id -u; tty; echo here > /dev/tty'")
    (c / "exec/x/ctl").write_text("start")
    assert (c / "exec/x/wait").read_text() == "0\n"
    assert (c / "exec/x/log").read_text().split() == ["1000", "/dev/pts/0", "here"]


def test_a_device_and_a_secret_are_the_container_s(make: Make) -> None:
    c = make(
        command="sh -c 'stat -c %u:%a /dev/sub/full /run/secrets/s; cat /run/secrets/s'",
        userns="auto",
        user="5",
        devices="/dev/full:/dev/sub/full\n",
    )
    (c / "secrets/s").write_text("hush")
    assert output(c) == "0:666\n5:400\nhush"


@pytest.mark.mount
def test_systemd_s_cgroup_is_the_container_s(make: Make) -> None:
    c = make(
        command="sh -c 'mkdir /sys/fs/cgroup/mine && echo $$ > /sys/fs/cgroup/mine/cgroup.procs && cat /proc/self/cgroup | grep ^0'",
        userns="auto",
        systemd="1",
    )
    assert output(c) == "0::/mine\n"


@pytest.mark.parametrize(
    ("settings", "number", "word"),
    [
        ({"privileged": "1"}, errno.EINVAL, "privileged"),
        ({"pid_mode": "container:other"}, errno.EOPNOTSUPP, "pid_mode"),
        ({"ipc_mode": "container:other"}, errno.EOPNOTSUPP, "ipc_mode"),
        ({"devices": "/dev/full:/full\n"}, errno.EOPNOTSUPP, "/full"),
        ({"user": "70000"}, errno.EINVAL, "65535"),
    ],
)
def test_what_can_t_be_together_is_refused_at_the_start(
    make: Make, settings: dict[str, str], number: int, word: str
) -> None:
    other = make("other", command="sleep 1000", ipc_mode="shareable")
    (other / "ctl").write_text("start")
    c = make("c", command="true", userns="auto", **settings)
    with pytest.raises(OSError, match=".") as refused:
        (c / "ctl").write_text("start")
    assert refused.value.errno == number
    assert word in (c / "error").read_text()


@pytest.mark.parametrize("text", ["private", "1:2", "0:0:0", "1:1:4294967295", "x" * 65536, "1:2:3:4", "-1:1:1"])
def test_what_is_no_user_namespace_is_einval(make: Make, text: str) -> None:
    c = make()
    with pytest.raises(OSError, match=".") as refused:
        (c / "userns").write_text(text)
    assert refused.value.errno == errno.EINVAL
    assert "UID:GID:COUNT" in (c / "error").read_text() or "COUNT" in (c / "error").read_text()
    assert (c / "userns").read_text() == "host\n"


def test_rootfs_shows_the_machine_s_numbers(make: Make) -> None:
    c = make(command="sh -c 'touch /r; chown 3:4 /r'", userns="200000:300000:65536")
    output(c)
    assert owner(Path(os.readlink(c / "rootfs")) / "r") == (200003, 300004)
    said = subprocess.run(["touch", f"{os.readlink(c / 'rootfs')}/new"], capture_output=True, text=True)
    assert "Value too large" in said.stderr
