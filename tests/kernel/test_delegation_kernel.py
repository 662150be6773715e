"""A part of a container's cgroup in the hands of somebody inside, on the machine's own hierarchies."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydock.runtime.cgroup import Cgroup, Hierarchy
from pydock.runtime.cgroup.delegation import delegate, take_back

pytestmark = pytest.mark.cgroup
OWNER = 524288


@pytest.fixture
def group() -> Iterator[Cgroup]:
    """A cgroup below a parent of the test's own."""
    hierarchy = Hierarchy.detect(f"pydock-test-{secrets.token_hex(4)}")
    hierarchy.prepare()
    made = hierarchy.cgroup("web")
    made.create()
    yield made
    made.kill()
    made.remove()
    hierarchy.remove_parent()


@pytest.fixture
def given(group: Cgroup) -> Path:
    """The directory that is given away of it."""
    assert group.unified is not None
    return delegate(group.layout, group.unified, OWNER)


@pytest.fixture
def somebody() -> Iterator[subprocess.Popen[bytes]]:
    """A process, in no cgroup of ours yet."""
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        yield process
        process.kill()


def place_of(pid: int) -> str:
    """Its place in the v2 tree."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def test_the_owner_may_divide_what_is_given_and_the_limits_above_are_not_its_own(group: Cgroup, given: Path) -> None:
    group.write("pids.max", "100")
    pid = os.fork()
    if pid == 0:
        try:
            os.setresgid(OWNER, OWNER, OWNER)
            os.setresuid(OWNER, OWNER, OWNER)
            (given / "mine").mkdir()
            above = given.parent if group.layout.kind == "v2" else given
            for name in ("pids.max", "memory.max", "cpu.max"):
                assert not os.access(above / name, os.W_OK)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert group.read("pids.max").strip() == "100"


def test_whoever_is_in_it_counts_and_whoever_comes_from_outside_can_come(
    group: Cgroup, given: Path, somebody: subprocess.Popen[bytes]
) -> None:
    group.write("cgroup.procs", str(somebody.pid))
    assert group.read("cgroup.procs").split() == [str(somebody.pid)]
    assert somebody.pid in group.procs()
    if group.layout.kind == "v2":
        assert place_of(somebody.pid).endswith("/beside")
        assert int(group.read("pids.current")) == 1
        assert "memory" in (given / "cgroup.controllers").read_text()


def test_what_was_made_inside_goes_and_the_cgroup_is_as_before(
    group: Cgroup, given: Path, somebody: subprocess.Popen[bytes]
) -> None:
    (given / "system.slice/x.service").mkdir(parents=True)
    assert group.unified is not None
    take_back(group.layout, group.unified)
    assert [path for path in group.unified.iterdir() if path.is_dir()] == []
    group.write("cgroup.procs", str(somebody.pid))
    assert place_of(somebody.pid).endswith("/web")


def test_somebody_from_outside_stays_where_he_is(group: Cgroup, given: Path, somebody: subprocess.Popen[bytes]) -> None:
    group.write("cgroup.procs", str(somebody.pid))
    before = place_of(somebody.pid)
    assert group.unified is not None
    take_back(group.layout, group.unified)
    assert place_of(somebody.pid) == before
    assert group.clone_into is not None
    assert group.clone_into.endswith("/beside" if group.layout.kind == "v2" else "/web")
