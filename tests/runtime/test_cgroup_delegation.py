"""What of a container's cgroup is given to a systemd inside, on directories that look like cgroupfs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydock.runtime.cgroup import Layout
from pydock.runtime.cgroup.delegation import delegate, entrance, take_back

FILES = ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control")


def kernel(directory: Path) -> Path:
    """*directory* with the kernel's files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (directory / name).touch()
    (directory / "cgroup.controllers").write_text("cpu memory pids\n")
    return directory


@pytest.fixture
def cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup in which the kernel's files appear when a directory is made."""
    plain = Path.mkdir

    def mkdir(path: Path, *arguments: object, exist_ok: bool = False) -> None:
        plain(path, exist_ok=exist_ok)
        for name in FILES:
            (path / name).touch()

    made = kernel(tmp_path / "c")
    monkeypatch.setattr(Path, "mkdir", mkdir)
    return made


def test_beside_v1_the_whole_directory_is_given(cgroup: Path) -> None:
    layout = Layout("hybrid", {"memory": Path("/x")}, cgroup.parent)
    assert delegate(layout, cgroup, 4242) == cgroup
    assert {(cgroup / name).stat().st_uid for name in FILES} == {4242}
    assert (cgroup / "cgroup.controllers").stat().st_uid == os.getuid()
    assert entrance(cgroup) == cgroup


def test_on_v2_a_directory_below_the_limits_is_given(cgroup: Path) -> None:
    layout = Layout("v2", {}, cgroup.parent)
    (cgroup / "cgroup.procs").write_text("17\n")
    given = delegate(layout, cgroup, 4242)
    assert given == cgroup / "payload"
    assert given.stat().st_uid == 4242
    assert cgroup.stat().st_uid == os.getuid()
    assert entrance(cgroup) == cgroup / "beside"
    assert (cgroup / "beside/cgroup.procs").read_text().strip() == "17"
    assert (cgroup / "cgroup.subtree_control").read_text().strip() == "+pids"  # the last of those written


def test_what_is_in_use_by_others_stays(tmp_path: Path) -> None:
    layout = Layout("hybrid", {}, tmp_path)
    (tmp_path / "system.slice/x.service").mkdir(parents=True)
    (tmp_path / "held").mkdir()
    (tmp_path / "held/file").touch()  # rmdir: ENOTEMPTY, as EBUSY of the kernel
    take_back(layout, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["held"]
