"""Paths that are written into settings: pydockd never looks at its own mount, wherever that is bound to, nor at what makes it wait."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]

#: A setting, and what is written to it.
SETTINGS = {
    "seccomp": "{path}",
    "devices": "{path}:/dev/x",
    "volumes": "{path}:/x",
    "image": "{path}",
    "spec.toml": "seccomp = '{path}'",
}


@pytest.fixture
def bound(engine: Engine, tmp_path: Path) -> Iterator[Path]:
    """Another place where the tree is."""
    place = tmp_path / "bound"
    place.mkdir()
    syscalls.mount(str(engine.tree), str(place), "", syscalls.MS_BIND, "")
    yield place
    syscalls.umount2(str(place), 0)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("inside", ["", "/README", "/images", "/containers/c/ctl"])
def test_what_is_inside_the_mount_is_refused(
    make: Make, engine: Engine, bound: Path, errno_of: ErrnoOf, setting: str, inside: str
) -> None:
    c = make()
    for top in (engine.tree, bound, Path(f"/proc/self/root{bound}")):
        assert errno_of(c / setting, SETTINGS[setting].format(path=f"{top}{inside}")) == errno.EINVAL
    assert "leads into the mount itself" in (c / "error").read_text()
    (c / "ctl").write_text("start")
    (c / "ctl").write_text("kill")


def test_a_directory_of_devices_is_not_looked_through_where_the_mount_is(
    make: Make, engine: Engine, bound: Path, errno_of: ErrnoOf
) -> None:
    c = make()
    assert errno_of(c / "devices", f"{engine.directory}:/dev/x") == errno.EINVAL
    assert errno_of(c / "devices", f"{bound.parent}:/dev/x") == errno.EINVAL
    (bound.parent / "link").symlink_to(engine.tree / "containers/c/state")
    os.mknod(bound.parent / "null", 0o600 | 0o020000, os.makedev(1, 3))
    assert errno_of(c / "devices", f"{bound.parent}:/dev/x") == 0
    (c / "command").write_text("ls /dev/x")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "null\n"


def test_a_directory_of_a_hundred_thousand_files_is_no_directory_of_devices(make: Make, errno_of: ErrnoOf) -> None:
    c = make()
    assert errno_of(c / "devices", "/usr:/dev/x") == errno.EINVAL
    assert "more than" in (c / "error").read_text()


@pytest.mark.parametrize(("setting", "text"), [("seccomp", "{}"), ("spec.toml", "seccomp = '{}'\n")])
def test_a_profile_that_can_t_be_compiled_is_refused_when_it_is_named(
    make: Make, tmp_path: Path, errno_of: ErrnoOf, setting: str, text: str
) -> None:
    path = tmp_path / "profile.json"
    rule = '{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_%s"}'
    c = make()
    for action, number in (("FOO", errno.EINVAL), ("LOG", 0)):
        path.write_text(f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule % action}]}}')
        assert errno_of(c / setting, text.format(path)) == number
        assert ("SCMP_ACT_FOO" in (c / "error").read_text()) == bool(number)


@pytest.mark.parametrize("kind", ["fifo", "directory", "endless"])
def test_a_profile_is_a_plain_file(make: Make, tmp_path: Path, errno_of: ErrnoOf, kind: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    path = {"fifo": tmp_path / "fifo", "directory": tmp_path, "endless": Path("/dev/zero")}[kind]
    c = make()
    assert errno_of(c / "seccomp", str(path)) == errno.EINVAL
    assert "is not a file" in (c / "error").read_text()
