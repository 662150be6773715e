"""Seccomp filters loaded for real, each in a child of its own."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.confine import capabilities, seccomp

# System call numbers of x86_64 and aarch64.
_COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
NUMBERS = {
    "getpid": (39, 172),
    "mount": (165, 40),
    "umount2": (166, 39),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "setns": (308, 268),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "personality": (135, 92),
    "bpf": (321, 280),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "reboot": (169, 142),
    "mkdirat": (258, 34),
    "ptrace": (101, 117),
}
CLONE_NEWUSER = syscalls.CLONE_NEWUSER
pytestmark = pytest.mark.device


def in_child(action: Callable[[], int]) -> int:
    """What *action* returns in a forked child, 0 to 254; or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(action())
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def attempt(program: bytes, number: int, *arguments: int) -> int:
    """The errno of a system call under *program*, 0 if it worked."""
    call = ctypes.CDLL(None, use_errno=True).syscall

    def action() -> int:
        syscalls.seccomp_load(program)
        ctypes.set_errno(0)
        result = call(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments))
        if result == 0 and number == NUMBERS["clone"][_COLUMN]:
            os._exit(0)
        return 0 if result >= 0 else ctypes.get_errno()

    return in_child(action)


def attempt_name(program: bytes, name: str, *arguments: int) -> int:
    return attempt(program, NUMBERS[name][_COLUMN], *arguments)


@pytest.fixture(scope="module")
def default() -> bytes:
    return seccomp.compile_filter("default", capabilities.DEFAULT)


@pytest.mark.parametrize(
    ("name", "arguments", "number"),
    [
        ("getpid", (), 0),
        ("mount", (0, 0, 0, 0, 0), errno.EPERM),
        ("umount2", (0, 0), errno.EPERM),
        ("keyctl", (0, 0), errno.EPERM),
        ("unshare", (CLONE_NEWUSER,), errno.EPERM),
        ("unshare", (0,), errno.EPERM),
        ("setns", (-1, 0), errno.EPERM),
        ("clone", (CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM),
        ("clone", (syscalls.CLONE_NEWNET | signal.SIGCHLD, 0, 0, 0, 0), errno.EPERM),
        ("clone", (signal.SIGCHLD, 0, 0, 0, 0), 0),
        ("clone3", (0, 0), errno.ENOSYS),
        ("socket", (1, 1, 0), 0),
        ("socket", (40, 1, 0), errno.EPERM),
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x8,), 0),
        ("personality", (0x0040000,), errno.EPERM),  # ADDR_NO_RANDOMIZE
        ("bpf", (0, 0, 0), errno.EPERM),
        ("io_uring_setup", (1, 0), errno.EPERM),
        ("userfaultfd", (0,), errno.EPERM),
        ("perf_event_open", (0, 0, 0, 0, 0), errno.EPERM),
        ("reboot", (0, 0, 0), errno.EPERM),
        ("ptrace", (0, 0, 0, 0), 0),
    ],
)
def test_default_filter(default: bytes, name: str, arguments: tuple[int, ...], number: int) -> None:
    assert attempt_name(default, name, *arguments) == number


def test_call_from_the_future_is_enosys(default: bytes) -> None:
    assert attempt(default, 1000) == errno.ENOSYS


def test_sys_admin_may_make_namespaces_and_mounts() -> None:
    program = seccomp.compile_filter("default", capabilities.DEFAULT | {"CAP_SYS_ADMIN"})
    assert attempt_name(program, "unshare", 0) == 0
    assert attempt_name(program, "mount", 0, 0, 0, 0, 0) == errno.EFAULT
    assert attempt_name(program, "clone3", 0, 0) == errno.EINVAL
    assert attempt_name(program, "keyctl", 0, 0) == errno.EPERM


def test_compiling_leaves_this_process_alone(default: bytes) -> None:
    assert len(default) > 0
    assert "Seccomp:\t0\n" in Path("/proc/self/status").read_text()


def test_compiled_and_cached_programs_are_the_same(tmp_path: Path, default: bytes) -> None:
    seccomp.compile_filter("default", capabilities.DEFAULT, tmp_path)
    assert seccomp.compile_filter("default", capabilities.DEFAULT, tmp_path) == default


def document(path: Path, **content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EXDEV}, errno.EXDEV),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}, errno.EPERM),
        ({"name": "mkdirat", "action": "SCMP_ACT_ERRNO"}, errno.EPERM),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}, -signal.SIGSYS),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_TRAP"}, -signal.SIGSYS),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_LOG"}, errno.EFAULT),
        (
            {
                "names": ["mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 2, "value": 0o777, "valueTwo": 0o700, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            errno.EPERM,
        ),
        (
            {
                "names": ["mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 2, "value": 0o755, "op": "SCMP_CMP_EQ"}],
            },
            errno.EFAULT,
        ),
        (
            {
                "names": ["mkdirat"],
                "action": "SCMP_ACT_ERRNO",
                "args": [
                    {"index": 2, "value": 0o755, "op": "SCMP_CMP_EQ"},
                    {"index": 2, "value": 0o700, "op": "SCMP_CMP_EQ"},
                ],
            },
            errno.EPERM,
        ),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "includes": {"caps": ["CAP_KILL"]}}, errno.EPERM),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_KILL"]}}, errno.EFAULT),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "includes": {"arches": ["s390x"]}}, errno.EFAULT),
        ({"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}}, errno.EFAULT),
    ],
)
def test_profile_of_ones_own_does_what_it_says(tmp_path: Path, rule: dict[str, object], outcome: int) -> None:
    path = document(tmp_path / "p.json", defaultAction="SCMP_ACT_ALLOW", syscalls=[rule])
    program = seccomp.compile_filter(path, {"CAP_KILL"})
    assert attempt_name(program, "mkdirat", -1, 0, 0o700) == outcome


def test_oci_profile_with_architectures_of_its_own(tmp_path: Path) -> None:
    path = document(
        tmp_path / "p.json",
        defaultAction="SCMP_ACT_ERRNO",
        defaultErrnoRet=errno.EXDEV,
        architectures=[f"SCMP_ARCH_{platform.machine().upper()}"],
        flags=["SECCOMP_FILTER_FLAG_LOG"],
        syscalls=[{"names": ["exit_group", "getpid"], "action": "SCMP_ACT_ALLOW"}],
    )
    program = seccomp.compile_filter(path, ())
    assert attempt_name(program, "getpid") == 0
    assert attempt_name(program, "mkdirat", -1, 0, 0) == errno.EXDEV


def test_mask_is_what_the_kernel_makes_of_it() -> None:
    mask = capabilities.mask(capabilities.DEFAULT)

    def action() -> int:
        syscalls.capset(mask, mask, 0)
        return 0 if syscalls.capget() == (mask, mask, 0) else 1

    assert in_child(action) == 0


def test_last_capability_is_the_kernels() -> None:
    assert syscalls.prctl(syscalls.PR_CAPBSET_READ, capabilities.last_cap()) in (0, 1)
    with pytest.raises(OSError, match="Invalid argument"):
        syscalls.prctl(syscalls.PR_CAPBSET_READ, capabilities.last_cap() + 1)
