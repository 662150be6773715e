"""Mounting and unmounting: pydockd by itself, and by mount(8) through mount.pydock."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime.cgroup import detect_layout

if TYPE_CHECKING:
    from conftest import Engine

HELPER = Path(__file__).parents[2] / "mount-helpers/mount.pydock"
PYDOCKD = Path(sys.executable).with_name("pydockd")
#: A machine on which pydock is installed, as far as mount(8) sees it: /etc and /sbin are writable copies for the script alone.
MACHINE = """
set -eu
mkdir copies
mount -t tmpfs none copies
for place in /etc "$(readlink -f /sbin)"; do
    mkdir -p "copies$place/new" "copies$place/work"
    mount -t overlay -o "lowerdir=$place,upperdir=copies$place/new,workdir=copies$place/work" none "$place"
done
install "$HELPER" /sbin/mount.pydock
"""

Machine = Callable[[str], "subprocess.CompletedProcess[str]"]


def pydockd(mountpoint: Path, options: str) -> tuple[int, str]:
    """Run pydockd, which has a reason to end: its status and its words."""
    done = subprocess.run(
        [PYDOCKD, mountpoint, "-o", options], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pydock-test-"))
    (path / "mnt").mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def machine(place: Path) -> Machine:
    """Runs a script on ``MACHINE`` in a mount namespace of its own; ``$OPTIONS`` are for the mount, ``ended`` waits for pydockd."""
    options = f"root={place}/root,run={place}/run,cgroup_parent={place.name}"
    ended = f"ended() {{ flock {place}/run/lock true; }}\n"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", f"{MACHINE}{ended}{script}"],
            cwd=place,
            env={**os.environ, "HELPER": str(HELPER), "PYDOCKD": str(PYDOCKD), "OPTIONS": options},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


# pydockd by itself


def test_systemd_is_told_when_it_is_ready_and_when_it_ends(
    own_engine: Engine, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_engine.umount()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(place / "notify"))
        told.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(place / "notify"))
        own_engine.start()
        assert told.recv(100) == b"READY=1"
        own_engine.umount()
        assert told.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("same", ["root", "run"])
def test_a_second_engine_on_the_same_directory_is_refused(own_engine: Engine, place: Path, same: str) -> None:
    directories = {"root": place / "root", "run": place / "run"} | {same: own_engine.directory / same}
    status, words = pydockd(place / "mnt", ",".join(f"{name}={path}" for name, path in directories.items()))
    assert status == 1
    assert f"another pydockd serves {own_engine.directory / same}" in words
    assert own_engine.sh("cat version").startswith("pydock ")


def test_a_second_engine_below_the_same_cgroup_is_refused_and_takes_nothing_away(
    own_engine: Engine, place: Path
) -> None:
    (own_engine.tree / "containers/idle").mkdir()
    options = f"root={place}/root,run={place}/run,cgroup_parent={own_engine.parent}"
    status, words = pydockd(place / "mnt", options)
    assert own_engine.process is not None
    assert status == 1
    assert f"another pydockd, process {own_engine.process.pid}, has its containers below" in words
    assert f"the cgroup {own_engine.parent}: choose another cgroup_parent" in words
    assert (own_engine.tree / "containers/idle/cgroup/pids.max").read_text() == "max\n"
    assert own_engine.groups() == {"engine", (own_engine.tree / "containers/idle/id").read_text().strip()}


def test_a_second_engine_on_the_same_mount_point_is_refused(own_engine: Engine, place: Path) -> None:
    status, words = pydockd(own_engine.tree, f"root={place}/root,run={place}/run,cgroup_parent={place.name}")
    assert status == 1
    assert f"{own_engine.tree} is mounted already" in words
    assert not any((root / place.name).exists() for root in detect_layout().roots)


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("the mount point {0}/mnt/containers", "root={1}/root,run={1}/run"),
        ("the directory {0}/mnt/containers/root", "root={0}/mnt/containers/root,run={1}/run"),
        ("the directory {0}/mnt/volumes/run", "root={1}/root,run={0}/mnt/volumes/run"),
    ],
)
def test_an_engine_in_another_s_tree_is_refused(own_engine: Engine, place: Path, what: str, options: str) -> None:
    own, other = own_engine.directory, place
    mountpoint = own_engine.tree / "containers" if what.startswith("the mount point") else place / "mnt"
    status, words = pydockd(mountpoint, f"{options.format(own, other)},cgroup_parent={place.name}")
    assert status == 1
    assert f"{what.format(own)} lies in the pydock mount at {own_engine.tree}: choose" in words
    assert not is_mounted(mountpoint)
    assert own_engine.sh("ls containers volumes").split() == ["containers:", "volumes:"]


def test_the_mount_of_a_dead_engine_is_taken_away(own_engine: Engine) -> None:
    own_engine.kill()
    with pytest.raises(OSError, match="not connected") as dead:
        os.statvfs(own_engine.tree)
    assert dead.value.errno == errno.ENOTCONN
    own_engine.start()
    assert own_engine.sh("cat version").startswith("pydock ")
    own_engine.umount()
    assert not is_mounted(own_engine.tree)


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "SIGHUP", "ctl", "umount"])
def test_the_end_unmounts_and_containers_go_on(own_engine: Engine, way: str) -> None:
    assert own_engine.process is not None
    c = own_engine.tree / "containers/c"
    own_engine.sh("cd containers; mkdir c; echo busybox > c/image; echo 'sleep 1000' > c/command; echo start > c/ctl")
    pid = (c / "pid").read_text()
    match way:
        case "ctl":
            (own_engine.tree / "ctl").write_text("shutdown")
        case "umount":
            subprocess.run(["umount", own_engine.tree], check=True)
        case name:
            own_engine.process.send_signal(signal.Signals[name])
    assert own_engine.process.wait(60) == 0
    assert not is_mounted(own_engine.tree)
    assert "Traceback" not in own_engine.log
    os.kill(int(pid), 0)
    own_engine.start()
    assert (c / "state").read_text() == "running\n"
    assert (c / "pid").read_text() == pid


def test_a_signal_ends_it_also_while_somebody_stands_in_the_tree(own_engine: Engine) -> None:
    assert own_engine.process is not None
    with subprocess.Popen(["sleep", "1000"], cwd=own_engine.tree / "containers") as inside:
        assert subprocess.run(["umount", own_engine.tree], capture_output=True, check=False).returncode == 32
        own_engine.process.terminate()
        assert own_engine.process.wait(60) == 0
        assert not is_mounted(own_engine.tree)
        inside.kill()


@pytest.mark.parametrize(
    ("way", "command"),
    [
        ("terminate", "cat wait"),
        ("shutdown", "cat stdout"),
        ("umount -l", "cat ../../events"),
        ("umount -l", "cat /dev/zero > stdin"),
        ("umount -f", "cat wait"),
    ],
)
def test_whoever_waits_for_something_does_not_keep_it_from_ending(own_engine: Engine, way: str, command: str) -> None:
    assert own_engine.process is not None
    own_engine.sh("cd containers; mkdir c; echo busybox > c/image; echo 'sleep 1000' > c/command; echo start > c/ctl")
    with subprocess.Popen(
        ["sh", "-c", command], cwd=own_engine.tree / "containers/c", stderr=subprocess.PIPE
    ) as waiting:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{waiting.pid}/wchan").read_text() != "request_wait_answer":
            children = Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text().split()
            if any(Path(f"/proc/{child}/wchan").read_text() == "request_wait_answer" for child in children):
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
        match way.split():
            case ["terminate"]:
                own_engine.process.terminate()
            case ["shutdown"]:
                (own_engine.tree / "ctl").write_text("shutdown")
            case ["umount", "-f"]:  # which ends the connection, and finds the mount busy in that moment
                subprocess.run(["umount", "-f", own_engine.tree], check=False)
                subprocess.run(["umount", "-l", own_engine.tree], check=False)
            case _:
                subprocess.run(["umount", "-l", own_engine.tree], check=True)
        assert own_engine.process.wait(60) == 0
        assert waiting.wait(60) != 0
    assert "Traceback" not in own_engine.log
    own_engine.start()
    assert (own_engine.tree / "containers/c/state").read_text() == "running\n"


def test_a_stop_that_is_under_way_is_carried_out_before_the_end(own_engine: Engine) -> None:
    assert own_engine.process is not None
    c = own_engine.tree / "containers/c"
    own_engine.sh(
        "cd containers; mkdir c; echo busybox > c/image; echo 'sleep 1000' > c/command; echo 4 > c/stop_timeout; echo start > c/ctl"
    )
    pid = int((c / "pid").read_text())
    with subprocess.Popen(["sh", "-c", "echo stop > ctl"], cwd=c, stderr=subprocess.DEVNULL) as stopping:
        deadline = time.monotonic() + 60
        while Path(f"/proc/{stopping.pid}/wchan").read_text() != "request_wait_answer":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        subprocess.run(["umount", "-l", own_engine.tree], check=True)
        assert own_engine.process.wait(60) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    own_engine.start()
    assert (c / "state").read_text() == "exited\n"
    assert (c / "exit_code").read_text() == "137\n"


def test_data_of_a_newer_layout_are_refused(place: Path) -> None:
    (place / "root").mkdir()
    (place / "root/format").write_text("2\n")
    status, words = pydockd(place / "mnt", f"root={place}/root,run={place}/run")
    assert status == 1
    assert f"{place}/root has layout 2, this pydock knows 1: use the version that wrote it" in words
    assert [path.name for path in (place / "root").iterdir()] == ["format"]


def test_a_mount_point_that_does_not_exist_is_refused(place: Path) -> None:
    status, words = pydockd(place / "none", f"root={place}/root,run={place}/run,cgroup_parent={place.name}")
    assert status == 1
    assert words == f"pydockd: ERROR: the mount point {place}/none does not exist: mkdir -p {place}/none\n"


def test_a_mount_point_that_is_a_file_is_refused(place: Path) -> None:
    (place / "file").touch()
    status, words = pydockd(place / "file", f"root={place}/root,run={place}/run,cgroup_parent={place.name}")
    assert status == 1
    assert words == f"pydockd: ERROR: {place}/file is not a directory\n"


@pytest.mark.parametrize("name", ["with a space", "größe", "back\\slash"])
def test_a_mount_point_of_any_name_is_served_until_it_is_unmounted(own_engine: Engine, name: str) -> None:
    own_engine.umount()
    own_engine.tree = own_engine.directory / name
    own_engine.tree.mkdir()
    own_engine.start()
    assert (own_engine.tree / "version").read_text().startswith("pydock ")


def test_a_mount_point_behind_a_symlink_is_served(own_engine: Engine) -> None:
    own_engine.umount()
    link, tree = own_engine.directory / "link", own_engine.tree
    link.symlink_to("mnt")
    own_engine.tree = link
    own_engine.start()
    assert (link / "version").read_text() == (tree / "version").read_text()


# By mount(8)


def test_mount_and_umount(machine: Machine) -> None:
    done = machine("mount -t pydock none mnt -o $OPTIONS; cat mnt/version; umount mnt; ended; ls mnt")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pydock ")
    assert len(done.stdout.splitlines()) == 1


def test_a_mount_at_once_after_an_unmount_waits_for_its_end(machine: Machine) -> None:
    mount = "mount -t pydock none mnt -o $OPTIONS; mkdir mnt/containers/c$N; umount mnt; "
    done = machine(
        f"for N in 1 2 3; do {mount} done; mount -t pydock none mnt -o $OPTIONS; ls mnt/containers; "
        "rmdir mnt/containers/*; umount mnt; ended"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["c1", "c2", "c3"]


def test_a_line_of_fstab_with_options_of_every_file_system(machine: Machine) -> None:
    done = machine(
        """
        echo "none $PWD/mnt pydock defaults,noauto,nofail,_netdev,noatime,x-systemd.automount,comment=mine,$OPTIONS 0 0" >> /etc/fstab
        mount mnt
        cat mnt/version
        umount mnt
        ended
        """
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("pydock ")


def test_the_configuration_is_read_and_the_mount_s_own_options_win(machine: Machine, place: Path) -> None:
    done = machine(
        """
        printf 'root = "/nowhere"\\nrun = "/nowhere"\\nlog_max = "64M"\\n' > /etc/pydock.toml
        mount -t pydock none mnt -o $OPTIONS
        grep root mnt/info
        mkdir mnt/containers/c
        cat mnt/containers/c/log_max
        rmdir mnt/containers/c
        umount mnt
        ended
        ls /nowhere
        """
    )
    assert done.stdout == f"root {place}/root\n67108864\n"
    assert "/nowhere" in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("mount -t pydock none mnt -o $OPTIONS,rot=/x", '"rot" is not an option: root, run, cgroup_parent, log_max'),
        ("mount -t pydock none mnt -o ro,$OPTIONS", '"ro" is not an option'),
        ("mount -t pydock none nowhere -o $OPTIONS", "nowhere does not exist"),
        (
            "echo 'rot = 1' > /etc/pydock.toml; mount -t pydock none mnt -o $OPTIONS",
            '/etc/pydock.toml: line 1: "rot" is not',
        ),
        (
            "printf 'log_max = 1\\nsubnet = \"10.0.0.1/8\"\\n' > /etc/pydock.toml; mount -t pydock none mnt -o $OPTIONS",
            '/etc/pydock.toml: line 2: "10.0.0.1/8" is not a subnet',
        ),
        ("mount -t pydock none mnt -o $OPTIONS,dns=x", 'dns: "x" is not an address'),
        ("mount -t pydock none mnt -o run=/proc/1", "mnt can't be mounted: nothing can be made in /proc/1"),
        ("mount -t pydock none mnt -o run=/dev/null/x", "mnt can't be mounted: nothing can be made in /dev/null/x"),
        ("mkdir run; PYDOCKD=/none mount -t pydock none mnt -o $OPTIONS", "none"),
    ],
)
def test_what_can_not_be_mounted_is_refused_in_words_and_with_32(machine: Machine, command: str, words: str) -> None:
    done = machine(f"set +e; {command}")
    assert done.returncode == 32
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_mount_of_the_same_data_is_refused_and_the_first_goes_on(machine: Machine, place: Path) -> None:
    done = machine(
        """
        mkdir other
        mount -t pydock none mnt -o $OPTIONS
        mount -t pydock none other -o $OPTIONS && exit 1
        cat mnt/version
        umount mnt
        ended
        """
    )
    assert done.returncode == 0
    assert done.stdout.startswith("pydock ")
    said = done.stderr.splitlines()
    assert said[0].endswith("other can't be mounted:")
    assert f"another pydockd serves {place}/run" in said[1]
    assert len(said) == 2


def test_mount_pydock_says_how_it_is_called(machine: Machine) -> None:
    done = machine("set +e; /sbin/mount.pydock none")
    assert done.returncode == 1
    assert done.stderr.startswith("usage: mount.pydock SOURCE DIRECTORY")


def test_a_pretended_mount_does_nothing(machine: Machine) -> None:
    done = machine("mount -f -t pydock none mnt -o $OPTIONS; ls mnt; ls")
    assert (done.returncode, done.stdout.split()) == (0, ["copies", "mnt"])


def test_the_shell_s_umask_is_nobody_s_business_in_a_container(own_engine: Engine) -> None:
    own_engine.umount()
    own_engine.umask = 0o077
    own_engine.start()
    script = """
        mkdir containers/c; cd containers/c; echo busybox > image; echo nobody > user
        echo "sh -c 'id -un; stat -c %a /'" > command; echo start > ctl; cat wait log
    """
    assert own_engine.sh(script).split() == ["0", "nobody", "755"]


def test_files_that_are_closed_right_before_the_unmount_are_no_errors(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    files = [os.open(c / "env", os.O_WRONLY | os.O_TRUNC) for _ in range(50)]
    for file in files:
        os.write(file, b"A=1\n")
    for file in files:
        os.close(file)
    own_engine.umount()
    assert "fuse_reply" not in own_engine.log
    own_engine.start()
    assert (c / "env").read_text() == "A=1\n"
