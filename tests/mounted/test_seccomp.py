"""``seccomp``: which filter of system calls the processes of a container have, be they privileged or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., Path]
PROFILE = (
    """{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"""
)
COMMAND = "sh -c 'grep Seccomp: /proc/self/status; mkdir /x 2> /dev/null && echo made; mount -t tmpfs x /mnt && echo mounted; :'"
FREE, KEPT = "Seccomp:\t0\nmade\nmounted\n", "Seccomp:\t2\nmade\n"

#: Of the container: ``privileged`` and ``seccomp``; then what it may do itself, and what a process in exec/ that is privileged.
CASES = {
    "unset": ("0", "", KEPT, FREE),
    "unconfined": ("0", "unconfined", "Seccomp:\t0\nmade\n", FREE),
    "own": ("0", "PROFILE", "Seccomp:\t2\n", "Seccomp:\t2\nmounted\n"),
    "privileged": ("1", "", FREE, FREE),
    "privileged-unconfined": ("1", "unconfined", FREE, FREE),
    "privileged-own": ("1", "PROFILE", "Seccomp:\t2\nmounted\n", "Seccomp:\t2\nmounted\n"),
    "privileged-default": ("1", "default", "Seccomp:\t2\nmade\nmounted\n", "Seccomp:\t2\nmade\nmounted\n"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_profile_that_is_set_holds_and_privileged_lifts_only_the_default(
    make: Make, tmp_path: Path, name: str
) -> None:
    privileged, profile, own, executed = CASES[name]
    (tmp_path / "profile").write_text(PROFILE)
    settings = {"seccomp": profile.replace("PROFILE", str(tmp_path / "profile"))} if profile else {}
    c = make(command=COMMAND, tmpfs="/mnt\n", privileged=privileged, **settings)
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert (c / "log").read_text().replace("mount: permission denied (are you root?)\n", "") == own
    (c / "ctl").write_text("reset")
    (c / "command").write_text("sleep 1000")
    (c / "ctl").write_text("start")
    x = c / "exec/x"
    x.mkdir()
    (x / "command").write_text(COMMAND)
    (x / "privileged").write_text("1")
    (x / "ctl").write_text("start")
    (x / "wait").read_text()
    assert (x / "log").read_text().replace("mount: permission denied (are you root?)\n", "") == executed


def test_unset_it_shows_what_is_in_force(make: Make) -> None:
    c = make()
    assert (c / "seccomp").read_text() == "default\n"
    (c / "privileged").write_text("1")
    assert (c / "seccomp").read_text() == "unconfined\n"
