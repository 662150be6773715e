"""``systemd 1``: Debian's systemd as the first process of an unprivileged container."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

Make = Callable[..., Path]


def inside(c: Path, *command: str) -> str:
    """The output of a command in all namespaces of the container."""
    pid = (c / "pid").read_text().strip()
    done = subprocess.run(["nsenter", "-t", pid, "-a", *command], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def boot(make: Make, debian: str, **settings: str) -> Path:
    c = make("s", systemd="1", **settings)
    (c / "image").write_text(debian)
    (c / "ctl").write_text("start")
    wait_for_boot(c)
    return c


def wait_for_boot(c: Path) -> None:
    deadline = time.monotonic() + 110
    while (said := inside(c, "systemctl", "is-system-running").strip()) != "running":
        assert time.monotonic() < deadline, said
        time.sleep(0.1)


def test_it_boots_answers_and_stops_cleanly_and_starts_again(make: Make, debian: str) -> None:
    c = boot(make, debian)
    for _ in range(2):
        status = inside(c, "systemctl", "status", "--no-pager")
        assert "State: running" in status
        assert "dbus.service" in status
        assert "Failed to" not in status
        assert "0 loaded units" in inside(c, "systemctl", "--failed", "--no-pager")
        (c / "ctl").write_text("stop 100")  # it ends by itself, or else it is killed, which its exit code tells
        assert (c / "exit_code").read_text() == "0\n"
        assert (c / "cgroup/cgroup.procs").read_text() == ""
        (c / "ctl").write_text("start")
        wait_for_boot(c)


def test_it_has_no_more_rights_than_others(make: Make, debian: str) -> None:
    c = boot(make, debian)
    status = Path(f"/proc/{(c / 'pid').read_text().strip()}/status").read_text().splitlines()
    assert "CapEff:\t00000000a80425fb" in status
    assert "Seccomp:\t2" in status


def test_what_it_is_told_of_its_surroundings(make: Make, debian: str) -> None:
    c = boot(make, debian)
    assert inside(c, "systemd-detect-virt").strip() == "container-other"
    assert inside(c, "cat", "/etc/machine-id").strip() == (c / "id").read_text()[:32]
    assert "container=pydock" in inside(c, "cat", "/proc/1/environ").split("\0")
    for place in ("/run", "/run/lock", "/tmp", "/var/log/journal"):
        assert inside(c, "stat", "-fc", "%T", place).strip() == "tmpfs"
    assert inside(c, "stat", "-fc", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs"
    assert (c / "stop_signal").read_text() == "SIGRTMIN+3\n"


def test_a_place_that_a_setting_has_taken_is_left_to_it(make: Make, debian: str) -> None:
    c = boot(make, debian, tmpfs="/tmp:size=1M\n")
    assert inside(c, "stat", "-fc", "%b %S", "/tmp").split() == ["256", "4096"]


def test_services_stay_within_the_container_and_its_limits(make: Make, debian: str) -> None:
    c = boot(make, debian)
    (c / "cgroup/memory.max").write_text("128M")
    (c / "cgroup/memory.swap.max").write_text("0")
    assert inside(c, "systemd-run", "--quiet", "--unit=long", "--property=Type=exec", "sleep", "1000") == ""
    lines = [line.split() for line in (c / "processes").read_text().splitlines()]
    (pid,) = [line[0] for line in lines if line[6:] == ["/usr/bin/sleep", "1000"] or line[6:] == ["/bin/sleep", "1000"]]
    place = (c / "cgroup/path").read_text().strip()
    assert all(
        place in line or line.startswith("1:name=") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    )
    said = inside(c, "systemd-run", "--quiet", "--wait", "--unit=greedy", "tail", "/dev/zero")
    assert "oom_kill 1" in (c / "cgroup/memory.events").read_text(), said
    assert "greedy.service" in inside(c, "systemctl", "--failed", "--no-pager")


def test_a_kill_leaves_no_cgroup_and_no_process(make: Make, debian: str) -> None:
    c = boot(make, debian)
    (c / "ctl").write_text("kill")
    place = (c / "cgroup/path").read_text().strip()
    (unified,) = {
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
    }
    assert [path for path in Path(f"{unified}/{place}").iterdir() if path.is_dir()] == []
