"""What is made ahead of a start, and that nobody can tell a container that had it from one that had not."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import select
import signal
import time
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.confine.masks import MASKED, READ_ONLY
from pydock.runtime.monitor.ahead import READY_FOR
from pydock.runtime.monitor.zygote import TITLE

pytestmark = pytest.mark.skipif(not syscalls.HAS_VFORK, reason="zygotes are for x86_64")
CGROUPS = (("pids", "/sys/fs/cgroup/pids"),) if os.path.isdir("/sys/fs/cgroup/pids") else (("", "/sys/fs/cgroup"),)
USUAL = {"usual": True, "masked": MASKED, "read_only_paths": READ_ONLY, "cgroup_mounts": CGROUPS}


def zygotes(monitor: int) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == monitor and (process / "cmdline").read_bytes().startswith(TITLE.encode()):
                found.append(int(process.name))
    return found


def wait_for_zygotes(monitor: int, number: int) -> list[int]:
    """Until there are *number*, and all of them wait."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = zygotes(monitor)
        with contextlib.suppress(OSError):
            if len(found) == number and all(map(_waits, found)):
                return found
        time.sleep(0.005)
    raise AssertionError(f"{zygotes(monitor)}, not {number}")


def _waits(pid: int) -> bool:
    """On its socket, by the number of its system call: recvmsg."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == "47"


@pytest.fixture
def warm(containers) -> object:
    """``containers`` whose monitor has a zygote of each kind."""
    wait_for_zygotes(containers.monitor.pid, 1)
    containers.output("true", new=READY_FOR[0], **USUAL)
    containers.output("true")
    wait_for_zygotes(containers.monitor.pid, 3)
    return containers


LOOK = r"""
cat /proc/self/mountinfo
ls -la /dev /dev/pts /dev/shm /dev/mqueue
for path in /proc/* /sys/*; do ls -ld $path; done | grep -v '/proc/[0-9st]'
head -c 1 /proc/kcore | wc -c
touch /proc/sys/x /sys/x /dev/x /sys/fs/cgroup/x 2>&1
cat /proc/net/dev | grep -c lo:
ifconfig lo | grep -c UP
hostname; id; pwd; umask; echo $$; cat /proc/self/oom_score_adj
grep -E 'Cap|Seccomp|NoNewPrivs|Groups|^Sig' /proc/self/status
ls -l /proc/self/fd | wc -l
readlink /proc/1/cwd /proc/1/root
"""


def seen(text: str) -> list[str]:
    """Without what differs between any two: numbers of mounts and devices, times, the order of mounts."""
    text = re.sub(r"(?m)^\d+ \d+ \d+:\d+ ", "", text)
    return sorted(re.sub(r"[A-Z][a-z]{2} +\d+ +[\d:]+", "", text).splitlines())


@pytest.mark.parametrize("new", READY_FOR)
def test_a_container_sees_the_same_with_and_without(warm, new: tuple[str, ...]) -> None:
    fields = {**USUAL, "new": new, "hostname": "h", "workdir": "/tmp", "capabilities": 0xA80425FB}
    for pid in zygotes(warm.monitor.pid):
        os.kill(pid, signal.SIGKILL)
    wait_for_zygotes(warm.monitor.pid, 0)
    without = warm.output("sh", "-c", LOOK, **fields)
    wait_for_zygotes(warm.monitor.pid, 1)
    warm.output("true")
    warm.output("true", **fields)
    wait_for_zygotes(warm.monitor.pid, 2)
    bare = warm.output("sh", "-c", LOOK, **{**fields, "usual": False})
    wait_for_zygotes(warm.monitor.pid, 2)
    ready = warm.output("sh", "-c", LOOK, **fields)
    assert "\n".join(difflib.unified_diff(seen(without), seen(ready), lineterm="", n=0)) == ""
    assert "\n".join(difflib.unified_diff(seen(without), seen(bare), lineterm="", n=0)) == ""
    assert "Read-only file system" in ready


def test_namespaces_are_its_own(warm) -> None:
    kinds = ("mnt", "uts", "ipc", "pid", "cgroup", "net")
    _, first, _ = warm.start("sleep", "1000", new=READY_FOR[0], **USUAL)
    wait_for_zygotes(warm.monitor.pid, 3)
    _, second, _ = warm.start("sleep", "1000", new=READY_FOR[0], **USUAL)
    for kind in kinds:
        links = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (first, second, warm.monitor.pid)}
        assert len(links) == 3, kind


def test_zygotes_hold_no_mount_of_the_machine(warm) -> None:
    here = os.readlink(f"/proc/{warm.monitor.pid}/ns/mnt")
    for pid in wait_for_zygotes(warm.monitor.pid, 3):
        assert os.readlink(f"/proc/{pid}/ns/mnt") == here
        assert os.readlink(f"/proc/{pid}/root") == os.readlink(f"/proc/{pid}/cwd") == "/"


def test_what_was_ready_is_there_once(warm) -> None:
    _, pid, _ = warm.start("sleep", "1000", new=READY_FOR[0], **USUAL)
    places = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert places.count("/") == 1
    assert len(places) == len(set(places))


def test_a_zygote_that_is_killed_is_made_again(warm) -> None:
    for pid in wait_for_zygotes(warm.monitor.pid, 3):
        os.kill(pid, signal.SIGKILL)
    for _ in range(3):
        assert warm.status(warm.start("true", new=READY_FOR[0], **USUAL)[0]) == 0
    wait_for_zygotes(warm.monitor.pid, 1)


def test_zygotes_end_with_the_monitor(warm) -> None:
    pidfds = [syscalls.pidfd_open(pid) for pid in wait_for_zygotes(warm.monitor.pid, 3)]
    warm.monitor.kill()
    for pidfd in pidfds:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(60_000)
        os.close(pidfd)


def test_a_cgroup_that_is_not_there_is_told(warm) -> None:
    with pytest.raises(warm.Refused) as caught:
        warm.start("true", new=READY_FOR[0], clone_into="/sys/fs/cgroup/no/such", **USUAL)
    assert caught.value.errno == errno.ENOENT
    assert warm.status(warm.start("true", new=READY_FOR[0], **USUAL)[0]) == 0
