"""pydock.runtime.confine.seccomp: profiles, conditions, the cache; nothing is loaded here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydock.runtime.confine import capabilities, seccomp, seccomp_default
from pydock.runtime.confine.seccomp_profile import read_profile
from pydock.runtime.errors import Invalid, NotFound


def profile(path: Path, **changes: object) -> str:
    document: dict[str, object] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}],
    }
    path.write_text(json.dumps(document | changes))
    return str(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("", "default"), ("default\n", "default"), ("unconfined", "unconfined"), ("/etc/p.json", "/etc/p.json")],
)
def test_setting_is_a_word_or_an_absolute_path(text: str, value: str) -> None:
    assert seccomp.parse(text) == value


@pytest.mark.parametrize("text", ["none", "profile.json", "./p.json", "Default"])
def test_setting_that_is_neither_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^seccomp: "):
        seccomp.parse(text)


def test_unconfined_is_no_program() -> None:
    assert seccomp.compile_filter("unconfined", ()) == b""


def test_capabilities_change_the_program() -> None:
    plain = seccomp.compile_filter("default", capabilities.DEFAULT)
    admin = seccomp.compile_filter("default", capabilities.DEFAULT | {"CAP_SYS_ADMIN"})
    assert len(plain) % 8 == 0
    assert 100 < len(plain) // 8 <= 4096  # the kernel's limit
    assert plain != admin


def test_old_kernels_get_no_ptrace() -> None:
    old = seccomp.compile_filter("default", capabilities.DEFAULT, release="4.7.0")
    new = seccomp.compile_filter("default", capabilities.DEFAULT, release="4.8.0-rc1")
    assert old != new


def test_program_is_kept_and_found_again(tmp_path: Path) -> None:
    cache = tmp_path / "a/seccomp"
    first = seccomp.compile_filter("default", capabilities.DEFAULT, cache)
    (kept,) = cache.iterdir()
    before = kept.stat()
    assert seccomp.compile_filter("default", capabilities.DEFAULT, cache) == first
    assert kept.stat().st_ino == before.st_ino
    seccomp.compile_filter("default", frozenset(), cache)
    assert len(list(cache.iterdir())) == 2
    assert cache.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["empty", "short", "flipped"])
def test_damaged_program_is_compiled_anew(tmp_path: Path, damage: str) -> None:
    first = seccomp.compile_filter("default", capabilities.DEFAULT, tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes({"empty": b"", "short": whole[:-8], "flipped": whole[:-1] + bytes([whole[-1] ^ 1])}[damage])
    assert seccomp.compile_filter("default", capabilities.DEFAULT, tmp_path) == first
    assert kept.read_bytes() == whole


def test_changed_profile_is_compiled_anew(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = profile(tmp_path / "p.json")
    first = seccomp.compile_filter(path, (), cache)
    profile(tmp_path / "p.json", syscalls=[])
    assert seccomp.compile_filter(path, (), cache) != first


def rule(**changes: object) -> dict[str, object]:
    return {"syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_KILL"} | changes]}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"defaultAction": "SCMP_ACT_MAYBE"}, '"SCMP_ACT_MAYBE"'),
        ({"defaultAction": 7}, "defaultAction"),
        (rule(action="ALLOW"), '"ALLOW"'),
        (rule(action="SCMP_ACT_FOO", includes={"caps": ["CAP_NONE"]}), '"SCMP_ACT_FOO"'),
        ({"syscalls": [{"names": ["mkdir"]}]}, "action"),
        (rule(args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]), "argument 6"),
        (rule(args=[{"index": 0, "value": 0, "op": "SCMP_CMP_X"}], includes={"arches": ["pdp11"]}), '"SCMP_CMP_X"'),
        ({"architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_PDP11"]}, '"SCMP_ARCH_PDP11"'),
        ({"archMap": [{"architecture": "SCMP_ARCH_ARM", "subArchitectures": ["SCMP_ARCH_VAX"]}]}, '"SCMP_ARCH_VAX"'),
        (rule(includes={"minKernel": "new"}), '"new"'),
    ],
)
def test_profile_with_a_word_that_means_nothing_is_invalid(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(Invalid, match=f"^seccomp: .*{word}"):
        read_profile(Path(profile(tmp_path / "p.json", **changes)))


def test_profile_for_other_machines_is_read(tmp_path: Path) -> None:
    others = [{"architecture": "SCMP_ARCH_LOONGARCH64", "subArchitectures": ["SCMP_ARCH_SHEB"]}]
    assert seccomp.compile_filter(profile(tmp_path / "p.json", archMap=others), ())


def test_profile_that_is_no_json_is_invalid(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(Invalid, match="docker's or OCI's format"):
        seccomp.compile_filter(str(tmp_path / "p.json"), ())


def test_profile_that_is_missing_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="No such file"):
        seccomp.compile_filter(str(tmp_path / "p.json"), ())


def test_system_call_that_nobody_knows_is_passed_over(tmp_path: Path) -> None:
    rules = [{"names": ["no_such_call"], "action": "SCMP_ACT_KILL"}]
    with_it = seccomp.compile_filter(profile(tmp_path / "p.json", syscalls=rules), ())
    assert with_it == seccomp.compile_filter(profile(tmp_path / "p.json", syscalls=[]), ())


def test_default_lists_each_call_once() -> None:
    allowed = seccomp_default.ALLOWED.split()
    assert len(allowed) == len(set(allowed))


@pytest.mark.parametrize(
    "name",
    [
        *("mount", "umount2", "unshare", "setns", "bpf", "reboot", "init_module", "keyctl", "add_key", "request_key"),
        *("io_uring_setup", "userfaultfd", "kexec_load", "swapon", "open_by_handle_at", "clone", "clone3", "socket"),
    ],
)
def test_what_reaches_the_machine_is_not_simply_allowed(name: str) -> None:
    assert name not in seccomp_default.ALLOWED.split()
