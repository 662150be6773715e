"""System call filters: a profile and a set of capabilities to a BPF program for seccomp(2).

A profile is ``default``, ``unconfined``, or the absolute path of a JSON file (``seccomp_profile``). libseccomp compiles it, in
4 to 25 ms, without loading anything into this process; programs are kept on disk by a hash of all that goes into them.
Blocking: call it from a thread.

System calls that are newer than libseccomp get ENOSYS instead of the profile's EPERM, so that a C library which tries a
new call first goes on to the old one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from pydock.runtime.confine import seccomp_default
from pydock.runtime.confine.seccomp_profile import (
    ACTIONS,
    COMPARISONS,
    Argument,
    Profile,
    Rule,
    default_profile,
    number_of,
    read_profile,
    select,
)
from pydock.runtime.errors import Failed, Invalid, Unsupported

DEFAULT: Final = "default"
UNCONFINED: Final = "unconfined"

_CTL_OPTIMIZE: Final = (
    8  # SCMP_FLTATR_CTL_OPTIMIZE; 2 is a binary tree, which a system call walks in a tenth of the steps
)
_FORMAT: Final = b"pydock seccomp 1\n"


def parse(text: str) -> str:
    """The setting: ``default`` (also empty), ``unconfined`` or an absolute path."""
    value = text.strip() or DEFAULT
    if value not in (DEFAULT, UNCONFINED) and not value.startswith("/"):
        raise Invalid(f'seccomp: "{text}" is neither default, unconfined nor the absolute path of a profile')
    return value


def compile_filter(
    profile: str, capabilities: Iterable[str], cache: Path | None = None, *, release: str | None = None
) -> bytes:
    """The program for a container with *capabilities* (full names): an array of struct sock_filter; empty is no filter.

    *cache* is a directory, made if it is missing, that nobody else may write to. *release* is the kernel's, for
    conditions; this machine's if not given.
    """
    if profile == UNCONFINED:
        return b""
    source = default_profile() if profile == DEFAULT else read_profile(Path(profile))
    release = platform.release() if release is None else release
    selected = select(source, frozenset(capabilities), release)
    library = _Library()
    parts = (library.version, platform.machine().encode(), release.encode(), msgspec.json.encode(selected))
    path = None if cache is None else cache / (hashlib.sha256(_FORMAT + b"\n".join(parts)).hexdigest() + ".bpf")
    program = None if path is None else _cached(path)
    if program is None:
        program = library.compile(selected)
        if path is not None:
            _keep(path, program)
    return program


def _cached(path: Path) -> bytes | None:
    """A program that was kept; None if it is not there or not what was written."""
    try:
        raw = path.read_bytes()
    except OSError:
        return None
    digest, program = raw[:32], raw[32:]
    return program if program and hashlib.sha256(program).digest() == digest else None


def _keep(path: Path, program: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(fd, "wb") as file:
            file.write(hashlib.sha256(program).digest() + program)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


class _Compare(ctypes.Structure):  # struct scmp_arg_cmp
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


class _Library:
    """libseccomp.so.2; see seccomp_init(3) and its neighbours."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL("libseccomp.so.2")
        except OSError as error:
            raise Unsupported("seccomp: libseccomp.so.2 is missing: install libseccomp2") from error
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = (ctypes.c_uint32,)
        self._lib.seccomp_release.argtypes = (ctypes.c_void_p,)
        self._lib.seccomp_version.restype = ctypes.POINTER(_Version)
        self._lib.seccomp_arch_resolve_name.restype = ctypes.c_uint32
        self._lib.seccomp_arch_native.restype = ctypes.c_uint32
        self._lib.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        self._lib.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
        self._lib.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self._lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
        self._lib.seccomp_syscall_resolve_num_arch.argtypes = (ctypes.c_uint32, ctypes.c_int)
        self._lib.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Compare),
        )
        self._free = ctypes.CDLL(None).free
        self._free.argtypes = (ctypes.c_void_p,)
        self._free.restype = None

    @property
    def version(self) -> bytes:
        found = self._lib.seccomp_version().contents
        return f"{found.major}.{found.minor}.{found.micro}".encode()

    def compile(self, profile: Profile) -> bytes:
        default = number_of(profile.default_action, profile.default_errno_ret)
        context = self._lib.seccomp_init(default)
        if not context:
            raise Invalid(f"seccomp: {profile.default_action} can't be a profile's default action")
        try:
            architectures = self._add_architectures(context, profile.architectures or ())
            # Older libraries don't know it; the program is just slower then.
            self._lib.seccomp_attr_set(context, _CTL_OPTIMIZE, 2)
            for rule in profile.syscalls or ():
                action = number_of(rule.action, rule.errno_ret)
                if action != default:  # which the library takes for a mistake
                    self._add_rule(context, action, rule)
            program = self._export(context)
        finally:
            self._lib.seccomp_release(context)
        if profile.default_action == "SCMP_ACT_ERRNO":
            program = self._newer_is_enosys(architectures) + program
        return program

    def _add_architectures(self, context: int, names: tuple[str, ...]) -> list[int]:
        found = [self._lib.seccomp_arch_native()]  # the library has put it in by itself
        for name in names:
            token = self._lib.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            if token == 0:
                raise Invalid(f'seccomp: libseccomp knows no architecture "{name}"')
            if token not in found and self._lib.seccomp_arch_add(context, token) == 0:
                found.append(token)
        return found

    def _add_rule(self, context: int, action: int, rule: Rule) -> None:
        for name in rule.names or ():
            number = self._lib.seccomp_syscall_resolve_name(name.encode())
            if number == -1:  # newer than the library
                continue
            for arguments in _alternatives(rule.args or ()):
                compares = (_Compare * len(arguments))(*(_compare(argument) for argument in arguments))
                result = self._lib.seccomp_rule_add_array(context, action, number, len(arguments), compares)
                if result < 0:
                    raise Invalid(f"seccomp: the rule for {name} is refused: {os.strerror(-result)}")

    def _export(self, context: int) -> bytes:
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            result = self._lib.seccomp_export_bpf(context, fd)
            if result < 0:
                raise Failed(-result, f"seccomp: the filter can't be compiled: {os.strerror(-result)}")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)

    def _newer_is_enosys(self, architectures: list[int]) -> bytes:
        """Instructions to put in front: ENOSYS for numbers above the highest that the library knows."""
        code = []
        for token in architectures:
            x32 = 0x40000000 if token == _X32 else 0
            last = max(number for number in range(300, 1024) if self._knows(token, number + x32)) + x32
            # x32 has x86_64's token in the kernel and a bit in the number, so each is checked within its own range.
            audit, low = (_X86_64, 0x40000000) if token == _X32 else (token, 0)
            high = 0x3FFFFFFF if token == _X86_64 else 0x7FFFFFFF
            code += [
                _bpf(_LD, 4),  # seccomp_data.arch
                _bpf(_JEQ, audit, 0, 5),
                _bpf(_LD, 0),  # seccomp_data.nr
                _bpf(_JGT, last, 0, 3),
                _bpf(_JGT, high, 2, 0),
                _bpf(_JGE, low, 0, 1),
                _bpf(_RET, ACTIONS["SCMP_ACT_ERRNO"] | seccomp_default.ENOSYS),
            ]
        return b"".join(code)

    def _knows(self, token: int, number: int) -> bool:
        name = self._lib.seccomp_syscall_resolve_num_arch(token, number)
        self._free(name)
        return bool(name)


_X86_64: Final = 0xC000003E
_X32: Final = 0x4000003E  # libseccomp's own
_LD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JEQ: Final = 0x15
_JGT: Final = 0x25
_JGE: Final = 0x35
_RET: Final = 0x06


def _bpf(code: int, operand: int, true: int = 0, false: int = 0) -> bytes:
    """struct sock_filter; the jumps count instructions from the next one."""
    return struct.pack("=HBBI", code, true, false, operand)


def _compare(argument: Argument) -> _Compare:
    return _Compare(argument.index, COMPARISONS[argument.op], argument.value, argument.value_two)


def _alternatives(arguments: tuple[Argument, ...]) -> Iterator[tuple[Argument, ...]]:
    """Conditions on different arguments must all hold; several on one argument are alternatives, as in docker."""
    if len({argument.index for argument in arguments}) == len(arguments):
        yield arguments
    else:
        for argument in arguments:
            yield (argument,)
