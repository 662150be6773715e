"""Profiles of system call filters, as documents: docker's and OCI's JSON, and the built-in one (``seccomp_default``).

All words of one are checked when it is read, in its rules for other machines and capabilities as well. But names of system calls are
not: docker's own profile names some that this kernel or this libseccomp lacks.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from pydock.runtime.confine import seccomp_default
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.formats import quote
from pydock.runtime.paths import read_plain

ACTIONS: Final = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
COMPARISONS: Final = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_PREFIX: Final = "SCMP_ARCH_"
#: What OCI names. libseccomp may lack some of them.
_ARCHITECTURES: Final = frozenset(
    [
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32"),
        *(
            "PPC",
            "PPC64",
            "PPC64LE",
            "S390",
            "S390X",
            "PARISC",
            "PARISC64",
            "RISCV64",
            "LOONGARCH64",
            "M68K",
            "SH",
            "SHEB",
        ),
    ]
)
_GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_EPERM: Final = 1
_LONGEST: Final = 4 << 20  # bytes of a profile; docker's own has 20 KB


class Argument(msgspec.Struct, frozen=True, rename="camel"):
    """A condition on one argument; for MASKED_EQ *value* is the mask."""

    index: int
    value: int
    op: str
    value_two: int = 0


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """When a rule is for (or, as ``excludes``, not for) a container; each part that is given must hold."""

    caps: tuple[str, ...] | None = None
    arches: tuple[str, ...] | None = None
    min_kernel: str | None = None


class Rule(msgspec.Struct, frozen=True, rename="camel"):
    """What happens to some system calls."""

    action: str
    names: tuple[str, ...] | None = None
    name: str = ""
    errno_ret: int | None = None
    args: tuple[Argument, ...] | None = None
    includes: Condition | None = None
    excludes: Condition | None = None


class ArchitectureMap(msgspec.Struct, frozen=True, rename="camel"):
    """An architecture and those whose programs it also runs."""

    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel"):
    """A profile as docker's JSON has it; OCI's is the part without conditions."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] | None = None
    arch_map: tuple[ArchitectureMap, ...] | None = None
    syscalls: tuple[Rule, ...] | None = None


def default_profile() -> Profile:
    """The built-in profile."""
    allow = "SCMP_ACT_ALLOW"
    admin = Condition(caps=("CAP_SYS_ADMIN",))

    def when(names: str, condition: Condition) -> Rule:
        return Rule(allow, tuple(names.split()), includes=condition)

    def argument(name: str, value: int, op: str, excludes: Condition | None = None) -> Rule:
        return Rule(allow, (name,), args=(Argument(0, value, op),), excludes=excludes)

    return Profile(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=_EPERM,
        arch_map=tuple(ArchitectureMap(main, sub) for main, sub in seccomp_default.SUB_ARCHITECTURES.items()),
        syscalls=(
            Rule(allow, tuple(seccomp_default.ALLOWED.split())),
            *(when(names, Condition(min_kernel=kernel)) for kernel, names in seccomp_default.SINCE_KERNEL),
            *(when(names, Condition(arches=arches)) for arches, names in seccomp_default.BY_ARCHITECTURE),
            *(when(names, Condition(caps=(capability,))) for capability, names in seccomp_default.BY_CAPABILITY),
            *(argument("personality", value, "SCMP_CMP_EQ") for value in seccomp_default.PERSONALITIES),
            argument("socket", seccomp_default.AF_VSOCK, "SCMP_CMP_NE"),
            argument("clone", seccomp_default.NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ", admin),
            Rule("SCMP_ACT_ERRNO", ("clone3",), errno_ret=seccomp_default.ENOSYS, excludes=admin),
        ),
    )


def read_profile(path: Path) -> Profile:
    """A JSON file in docker's or OCI's format; Invalid for one that is not, or that has a word which means nothing."""
    try:
        profile = msgspec.json.decode(read_plain(str(path), _LONGEST), type=Profile)
        for words in _faults(profile):
            raise Invalid(f"{path}: {words}")
    except Invalid as error:
        raise Invalid(f"seccomp: {error}") from None
    except msgspec.MsgspecError as error:
        raise Invalid(f"seccomp: {path} is not a profile in docker's or OCI's format: {error}") from error
    except OSError as error:
        raise NotFound(f"seccomp: {path} can't be read: {error.strerror}") from error
    return profile


def _faults(profile: Profile) -> Iterator[str]:
    """What is wrong with it, in words."""
    for name in (profile.default_action, *(rule.action for rule in profile.syscalls or ())):
        if name not in ACTIONS:
            yield f"the action {quote(name)} is none of {', '.join(ACTIONS)}"
    for rule in profile.syscalls or ():
        for argument in rule.args or ():
            if argument.op not in COMPARISONS:
                yield f"the comparison {quote(argument.op)} is none of {', '.join(COMPARISONS)}"
            if not 0 <= argument.index <= 5:
                yield f"a system call has no argument {argument.index}: 0 to 5 are accepted"
        for condition in (rule.includes, rule.excludes):
            if condition is not None and condition.min_kernel is not None:
                try:
                    _kernel(condition.min_kernel)
                except Invalid as error:
                    yield str(error)
    names = list(profile.architectures or ())
    for entry in profile.arch_map or ():
        names += (entry.architecture, *(entry.sub_architectures or ()))
    for name in names:
        if name.removeprefix(_PREFIX).upper() not in _ARCHITECTURES:
            yield f"the architecture {quote(name)} is none of {', '.join(sorted(_PREFIX + each for each in _ARCHITECTURES))}"


def select(profile: Profile, capabilities: frozenset[str], release: str) -> Profile:
    """The profile without its conditions: what is left holds for this container on this machine."""
    machine = platform.machine()

    def holds(condition: Condition, *, default: bool) -> bool:
        tests = []
        if condition.caps is not None:
            wanted = set(condition.caps)
            tests.append(wanted <= capabilities if default else bool(wanted & capabilities))
        if condition.arches is not None:
            tests.append(_GO_ARCHITECTURES.get(machine, machine) in condition.arches)
        if condition.min_kernel is not None:
            tests.append(_kernel(release) >= _kernel(condition.min_kernel))
        if not tests:
            return default
        # Docker's reading: every include must hold, any exclude is enough.
        return all(tests) if default else any(tests)

    rules = tuple(
        Rule(rule.action, (rule.names or ()) + ((rule.name,) if rule.name else ()), "", rule.errno_ret, rule.args)
        for rule in profile.syscalls or ()
        if holds(rule.includes or Condition(), default=True) and not holds(rule.excludes or Condition(), default=False)
    )
    architectures = profile.architectures or ()
    native = f"SCMP_ARCH_{machine.upper()}"
    for entry in profile.arch_map or ():
        if entry.architecture == native:
            architectures += (entry.architecture, *(entry.sub_architectures or ()))
    return Profile(profile.default_action, profile.default_errno_ret, architectures, None, rules)


def _kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    if match is None:
        raise Invalid(f'"{release}" is not a kernel version such as 4.8')
    return int(match[1]), int(match[2])


def number_of(action: str, errno: int | None) -> int:
    """libseccomp's number of an action, which ``read_profile`` has let pass."""
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return ACTIONS[action] | (_EPERM if errno is None else errno & 0xFFFF)
    return ACTIONS[action]
