"""Mounts that come to and go from a running container, by the monitor's visits."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from pydock.runtime import syscalls
from pydock.runtime.monitor.removal import MountId
from pydock.runtime.monitor.visit import Addition, Task, answered, to_message

CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
pytestmark = pytest.mark.mount


@pytest.fixture
def containers(shared_containers):
    return shared_containers


class Outcome(NamedTuple):
    ids: tuple[MountId, ...]  # of what was to be added
    moved: dict[int, int]
    refused: int
    words: str


class Box:
    """A container that sleeps, and what is done to its mounts."""

    def __init__(self, containers, script: str = "sleep 1000") -> None:
        self.monitor = containers.monitor
        _, self.pid, _ = containers.start("sh", "-c", script)
        self.root = Path(f"/proc/{self.pid}/root")

    def change(
        self, *, remove: Sequence[MountId] = (), keep: Sequence[int] = (), add: Sequence[tuple[Path, str]] = ()
    ) -> Outcome:
        """Each path of the machine's is cloned for its target."""
        with ExitStack() as stack:
            fds = [syscalls.pidfd_open(self.pid)]
            fds += [syscalls.open_tree(syscalls.AT_FDCWD, str(path), CLONE) for path, _ in add]
            for fd in fds:
                stack.callback(os.close, fd)
            ids = tuple(MountId(syscalls.mount_id(fd), syscalls.mount_id(fd, unique=True)) for fd in fds[1:])
            additions = tuple(Addition(index, target, path.is_dir()) for index, (path, target) in enumerate(add, 1))
            task = to_message(Task(tuple(remove), tuple(keep), additions))
            self.monitor.send("visit", fds, seq=7, **{key: task[key] for key in ("remove", "keep", "add")})
            moved, failure = answered(self.monitor.answer(seq=7)[0])
        return Outcome(ids, moved, *(failure or (0, "")))

    def add(self, path: Path, target: str) -> MountId:
        """One that is taken."""
        outcome = self.change(add=[(path, target)])
        assert outcome.refused == 0, outcome.words
        return outcome.ids[0]

    def places(self) -> list[str]:
        """Where something is mounted in it, each as often as that is."""
        return [line.split()[4] for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]

    def mounts(self) -> dict[str, int]:
        """The ids of its mounts by their places."""
        lines = Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()
        return {line.split()[4]: int(line.split()[0]) for line in lines}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    (path / "inner").mkdir(parents=True)
    (path / "file").write_text("of the machine\n")
    return path


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A mount of the machine's that is shared, as all are under systemd, with one in it."""
    path = tmp_path / "shared"
    path.mkdir()
    syscalls.mount("shared", str(path), "tmpfs", 0)
    syscalls.mount("", str(path), None, syscalls.MS_SHARED)
    (path / "inner").mkdir()
    syscalls.mount("inner", str(path / "inner"), "tmpfs", 0)
    (path / "inner/file").touch()
    yield path
    syscalls.mount("", str(path), None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.umount2(str(path), syscalls.MNT_DETACH)


def machine() -> list[str]:
    """The machine's mounts."""
    return Path("/proc/self/mountinfo").read_text().splitlines()


def machine_places() -> list[str]:
    """Where they are, each as often as that is."""
    return [line.split()[4] for line in machine()]


def test_a_mount_comes_and_goes(containers, source: Path) -> None:
    box = Box(containers)
    number = box.add(source, "/new/place")
    assert (box.root / "new/place/file").read_text() == "of the machine\n"
    assert box.mounts()["/new/place"] == number.number
    assert box.change(remove=[number]).refused == 0
    assert "/new/place" not in box.mounts()
    assert (source / "file").exists()


def test_a_single_file_can_be_mounted(containers, source: Path) -> None:
    box = Box(containers)
    number = box.add(source / "file", "/etc/motd")
    assert (box.root / "etc/motd").read_text() == "of the machine\n"
    assert box.change(remove=[number]).refused == 0
    assert (box.root / "etc/motd").read_text() == ""


@pytest.mark.parametrize(
    "link",
    ["/proc/1/root/etc", "/proc/self/fd/3", "../../../../../../../../tmp", "/proc/self/root/..", "loop", "/dev/fd/0"],
)
def test_a_target_never_leads_out_of_the_container(containers, source: Path, link: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    box = Box(containers)
    (containers.root / "trap").symlink_to(link)
    (containers.root / "loop").symlink_to("loop")
    outcome = box.change(add=[(source, "/trap/inside")])
    assert outcome.refused in (0, errno.ELOOP, errno.EACCES, errno.ENOENT, errno.EPERM, errno.ENOTDIR)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert (outcome.ids[0].number in box.mounts().values()) == (not outcome.refused)


def test_what_is_in_use_stays(containers, source: Path) -> None:
    box = Box(containers, "until [ -e /v/file ]; do sleep 0.01; done; cd /v; echo > /v/in; sleep 1000")
    number = box.add(source, "/v")
    while not (source / "in").exists():
        os.sched_yield()
    outcome = box.change(remove=[number])
    assert outcome.refused == errno.EBUSY
    assert "/v" in outcome.words
    assert box.mounts()["/v"] == number.number


def test_a_mount_is_found_where_it_has_been_moved_to(containers, source: Path) -> None:
    box = Box(containers)
    number = box.add(source, "/a/b/c")
    (containers.root / "a").rename(containers.root / "z")
    (containers.root / "a").symlink_to("/etc")
    assert "/z/b/c" in box.mounts()
    assert box.change(remove=[number]).refused == 0
    assert "/z/b/c" not in box.mounts()


def test_what_fails_has_changed_nothing(containers, source: Path) -> None:
    box = Box(containers)
    number = box.add(source, "/v")
    inner = source / "inner"
    outcome = box.change(remove=[number], add=[(inner, "/w"), (inner, "/etc/passwd/no")])
    assert outcome.refused == errno.ENOTDIR
    assert "/etc/passwd/no" in outcome.words
    mounts = box.mounts()
    assert "/w" not in mounts
    assert mounts["/v"] == outcome.moved[number.number]
    assert (box.root / "v/file").exists()


def test_what_is_mounted_below_goes_along_unless_it_is_kept(containers, source: Path) -> None:
    box = Box(containers)
    outer, inner = box.add(source, "/v"), box.add(source, "/v/inner")
    kept = box.change(remove=[outer], keep=[inner.number])
    assert (kept.refused, kept.words) == (errno.EBUSY, "/v/inner is mounted in it")
    assert box.change(remove=[outer]).refused == 0
    assert not {"/v", "/v/inner"} & set(box.mounts())


def test_what_the_machine_has_mounted_in_a_shared_one_stays_there(containers, shared: Path) -> None:
    box, before = Box(containers), machine()
    number = box.add(shared, "/v")
    assert "/v/inner" in box.mounts()
    with subprocess.Popen(
        ["sleep", "1000"], cwd=shared / "inner"
    ) as user:  # it is in use there, which is nothing to the container
        outcome = box.change(remove=[number])
        user.kill()
    assert (outcome.refused, outcome.words) == (0, "")
    assert not {"/v", "/v/inner"} & set(box.mounts())
    assert machine() == before


def test_what_covers_another_in_a_shared_one_stays_there(containers, shared: Path) -> None:
    syscalls.mount("upper", str(shared / "inner"), "tmpfs", 0)
    box, before = Box(containers), machine()
    assert box.change(remove=[box.add(shared, "/v")]).refused == 0
    assert machine() == before


def test_what_would_uncover_the_machine_s_own_is_busy(containers, shared: Path) -> None:
    box = Box(containers)
    number = box.add(shared, "/v")
    syscalls.mount("over", str(shared), "tmpfs", 0)
    before = machine()
    try:
        assert box.change(remove=[number]).refused == errno.EBUSY
        assert machine() == before
    finally:
        syscalls.umount2(str(shared), syscalls.MNT_DETACH)
    assert box.change(remove=[number]).refused == 0


@pytest.mark.parametrize("where", ["/v", "/v/inner", ""])
def test_a_shared_one_whose_removal_is_refused_is_shared_as_before(containers, shared: Path, where: str) -> None:
    box = Box(
        containers, f"until [ -e /v/inner/file ]; do sleep 0.01; done; cd {where or '/'}; echo > /tmp/in; sleep 1000"
    )
    (shared / "empty").mkdir()
    before = machine()
    number = box.add(shared, "/v")
    while where and not (box.root / "tmp/in").exists():
        os.sched_yield()
    outcome = box.change(remove=[number], add=[(shared / "empty", "/etc/passwd/no")])
    assert outcome.refused == (errno.EBUSY if where else errno.ENOTDIR)
    assert machine() == before
    assert len([place for place in box.places() if place.startswith("/v")]) == 2
    for place in ("empty", "inner"):
        syscalls.mount("late", str(shared / place), "tmpfs", 0)
        assert box.places().count(f"/v/{place}") == machine_places().count(str(shared / place))
        syscalls.umount2(str(shared / place), syscalls.MNT_DETACH)
    assert machine() == before
    assert len([place for place in box.places() if place.startswith("/v")]) == 2


def test_what_was_put_into_a_shared_one_goes_from_the_machine_as_well(containers, shared: Path, source: Path) -> None:
    (shared / "empty").mkdir()
    box, before = Box(containers), machine()
    outer, inner = box.add(shared, "/v"), box.add(source, "/v/empty")
    assert (shared / "empty/file").exists()
    assert box.change(remove=[outer, inner]).refused == 0
    assert machine() == before


def test_what_is_gone_already_is_no_failure(containers) -> None:
    assert Box(containers).change(remove=[MountId((1 << 31) - 1)]).refused == 0


def test_a_number_that_belongs_to_another_mount_now_is_busy(containers, source: Path) -> None:
    box = Box(containers)
    number, unique = box.add(source, "/v")
    assert unique == 0 or box.change(remove=[MountId(number, unique + 1)]).refused == errno.EBUSY


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"remove": 1, "keep": [], "add": []},
        {"remove": [], "keep": [], "add": [[1]]},
        {"remove": [], "keep": [], "add": []},  # of nobody
    ],
)
def test_a_request_that_makes_no_sense_is_refused(containers, fields: dict[str, object]) -> None:
    with pytest.raises(containers.Refused):
        containers.monitor.ask("visit", [], **fields)
    containers.monitor.ask("who")
