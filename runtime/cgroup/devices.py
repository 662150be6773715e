"""Which device nodes a cgroup's processes may make, read and write.

On v1 lines for devices.allow and devices.deny (Documentation/admin-guide/cgroup-v1/devices.rst); on v2, which has no
files for it, a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE attached to the directory, assembled here. The program
lives as long as it is attached, so nothing need be kept.

The default list is Docker's: any node may be made (opening it is another matter), and the harmless ones and terminals
may be used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydock.runtime import syscalls
from pydock.runtime.cgroup.kernelfile import read_text, write_lines, write_text
from pydock.runtime.errors import Busy, Failed


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """*kind* ``a`` is every device of both kinds; *major* and *minor* None are any; *access* is out of ``rwm``."""

    kind: Literal["a", "b", "c"]
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def __str__(self) -> str:
        """As v1's files have it."""
        access = "".join(letter for letter in "rwm" if letter in self.access)
        if self.kind == "a":
            return f"a *:* {access}"
        major, minor = ("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {major}:{minor} {access}"


ALL: Final = (DeviceRule("a"),)
DEFAULT: Final = (
    DeviceRule("c", access="m"),
    DeviceRule("b", access="m"),
    DeviceRule("c", 1, 3),  # null
    DeviceRule("c", 1, 5),  # zero
    DeviceRule("c", 1, 7),  # full
    DeviceRule("c", 1, 8),  # random
    DeviceRule("c", 1, 9),  # urandom
    DeviceRule("c", 5, 0),  # tty
    DeviceRule("c", 5, 1),  # console
    DeviceRule("c", 5, 2),  # ptmx
    DeviceRule("c", 136),  # pts/*
)

# v1


def allow_by_files(directory: Path, rules: tuple[DeviceRule, ...]) -> None:
    """Make *rules* the list of the v1 ``devices`` cgroup *directory*.

    A list that allows everything can be narrowed only while the cgroup has no children. Between two narrow lists the
    new lines come before the old ones go, so that a running process never lacks what both allow.
    """
    name = "devices.allow"
    wanted = [str(rule) for rule in rules]
    current = read_text(directory / "devices.list", "devices.list").splitlines()
    if wanted == [str(rule) for rule in ALL]:
        if current != wanted:
            write_text(directory / name, "a", name)
        return
    if "a *:* rwm" in current:
        try:
            write_text(directory / "devices.deny", "a")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise Failed(error.errno or errno.EIO, f"devices: {error.strerror}") from error
            raise Busy("devices can't be narrowed again while cgroups exist below: stop the container first") from error
        current = []
    write_lines(directory / name, [line for line in wanted if line not in current], name)
    if dropped := [line for line in current if line not in wanted]:
        # Denying the same device with other letters takes only those letters away, of the lines that stay as well.
        write_lines(directory / "devices.deny", dropped, "devices.deny")
        write_lines(directory / name, wanted, name)


# v2

_MKNOD, _READ, _WRITE = 1, 2, 4  # BPF_DEVCG_ACC_*
_ACCESS: Final = {"m": _MKNOD, "r": _READ, "w": _WRITE}
_KIND: Final = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*

# Opcodes of include/uapi/linux/bpf.h: class | operation | source
_LDX_W: Final = 0x61  # r = *(u32 *)(r + offset)
_MOV_REGISTER: Final = 0xBF
_MOV: Final = 0xB7
_AND: Final = 0x57
_RSH: Final = 0x77
_JNE: Final = 0x55
_EXIT: Final = 0x95


def _instruction(code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, destination | source << 4, offset, immediate)


def assemble(rules: Iterable[DeviceRule]) -> bytes:
    """The program: 1 (allow) if one rule covers the device and every access asked for, else 0."""
    # struct bpf_cgroup_dev_ctx at r1: access << 16 | type, major, minor
    code = [
        _instruction(_LDX_W, 2, 1, 0),
        _instruction(_MOV_REGISTER, 3, 2),
        _instruction(_AND, 2, immediate=0xFFFF),  # r2: type
        _instruction(_RSH, 3, immediate=16),  # r3: access
        _instruction(_LDX_W, 4, 1, 4),  # r4: major
        _instruction(_LDX_W, 5, 1, 8),  # r5: minor
    ]
    for rule in rules:
        refused = 7 & ~sum(_ACCESS[letter] for letter in set(rule.access))
        tests = [] if rule.kind == "a" else [(2, _KIND[rule.kind])]
        if rule.kind != "a":
            tests += [
                (register, number) for register, number in ((4, rule.major), (5, rule.minor)) if number is not None
            ]
        block = []
        # Each test jumps over what is left of the block: further tests, then the access test's three, then the verdict.
        rest = len(tests) + (3 if refused else 0) + 2
        for position, (register, number) in enumerate(tests):
            block.append(_instruction(_JNE, register, offset=rest - position - 1, immediate=number))
        if refused:
            block += [
                _instruction(_MOV_REGISTER, 0, 3),
                _instruction(_AND, 0, immediate=refused),
                _instruction(_JNE, 0, offset=2, immediate=0),
            ]
        block += [_instruction(_MOV, 0, immediate=1), _instruction(_EXIT)]
        code += block
        if not tests and not refused:
            return b"".join(code)  # it allows everything, and the kernel takes no program with dead code
    code += [_instruction(_MOV, 0, immediate=0), _instruction(_EXIT)]
    return b"".join(code)


def allow_by_program(directory: Path, rules: tuple[DeviceRule, ...]) -> None:
    """Attach *rules* as the program of the v2 cgroup *directory*, in place of the one there."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _attach(fd, assemble(rules))
    except OSError as error:
        raise Failed(error.errno or errno.EIO, f"devices: the filter of {directory}: {error.strerror}") from error
    finally:
        os.close(fd)


def _attach(cgroup: int, program: bytes) -> None:
    with contextlib.ExitStack() as stack:

        def opened(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        old = [
            opened(syscalls.bpf_prog_get_fd_by_id(number))
            for number in syscalls.bpf_prog_query(cgroup, syscalls.BPF_CGROUP_DEVICE)
        ]
        new = opened(syscalls.bpf_prog_load(syscalls.BPF_PROG_TYPE_CGROUP_DEVICE, program, "pydock_devices"))
        if len(old) == 1:
            flags = syscalls.BPF_F_ALLOW_MULTI | syscalls.BPF_F_REPLACE
            syscalls.bpf_prog_attach(cgroup, new, syscalls.BPF_CGROUP_DEVICE, flags, old[0])
            return
        # All of several programs must allow; ours joins first, so there is no moment without any.
        syscalls.bpf_prog_attach(cgroup, new, syscalls.BPF_CGROUP_DEVICE, syscalls.BPF_F_ALLOW_MULTI)
        for program_fd in old:
            syscalls.bpf_prog_detach(cgroup, program_fd, syscalls.BPF_CGROUP_DEVICE)
