"""pydockd's hold on its small processes: starting, finding, losing and restarting them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from pydock.runtime import syscalls, wire
from pydock.runtime.companion import Companion, Link, Lost
from pydock.runtime.errors import Failed, Invalid
from pydock.runtime.keeper import Keeper
from pydock.runtime.logger.client import Logger
from pydock.runtime.monitor.client import Monitor
from pydock.runtime.monitor.launch import Launch
from pydock.runtime.serving import listen
from pydock.runtime.stdio import Stdio


@asynccontextmanager
async def running(companion: Companion) -> AsyncIterator[Companion]:
    """The companion at work; its process is ended afterwards."""
    async with trio.open_nursery() as nursery:
        await nursery.start(companion.run)
        try:
            yield companion
        finally:
            with trio.CancelScope(shield=True):
                pidfd = syscalls.pidfd_open(await pid_of(companion))
                nursery.cancel_scope.cancel()
                with contextlib.suppress(ProcessLookupError):
                    syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
                await trio.lowlevel.wait_readable(pidfd)
                os.close(pidfd)


async def pid_of(companion: Companion) -> int:
    answer, _ = await companion.request({"do": "who"})
    return wire.number(answer, "pid")


async def test_it_is_started_once_and_found_again(run: Path) -> None:
    seen: list[bool] = []

    async def connected(link: Link, fresh: bool) -> None:
        seen.append(fresh)

    reader, writer = os.pipe()
    async with trio.open_nursery() as nursery:
        first = Companion("keeper", str(run), on_connect=connected)
        await nursery.start(first.run)
        pid = await pid_of(first)
        await Keeper(first).keep("c", {"writer": writer})
        nursery.cancel_scope.cancel()
    async with running(Companion("keeper", str(run), on_connect=connected)) as second:
        assert await pid_of(second) == pid
        assert await Keeper(second).list() == {"c": ("writer",)}
    assert seen == [True, False]
    os.close(reader)
    os.close(writer)


async def test_it_is_nobodys_child_and_has_a_session_of_its_own(run: Path) -> None:
    async with running(Companion("logger", str(run))) as companion:
        pid = await pid_of(companion)
        fields = (await trio.Path(f"/proc/{pid}/stat").read_text()).rpartition(")")[2].split()
        assert int(fields[1]) != os.getpid()
        assert int(fields[3]) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.readlink(f"/proc/{pid}/fd/1") == "/dev/null"


async def test_it_joins_the_cgroups_that_it_is_told(run: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        file.touch()
    async with running(Companion("keeper", str(run), join=[str(file) for file in files])):
        assert [file.read_text() for file in files] == ["0", "0"]


async def test_a_dead_socket_confuses_nobody(run: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(run / "keeper.sock"))
        dead.listen()
    async with running(Companion("keeper", str(run))) as companion:
        assert await Keeper(companion).list() == {}


async def test_a_dead_process_is_started_again_and_told_before_anybody_asks(run: Path) -> None:
    told: list[bool] = []

    async def connected(link: Link, fresh: bool) -> None:
        told.append(fresh)
        await Keeper(link).keep("c", {"null": null})

    null = os.open("/dev/null", os.O_RDONLY)
    async with running(Companion("keeper", str(run), on_connect=connected)) as companion:
        before = await pid_of(companion)
        pidfd = syscalls.pidfd_open(before)
        os.kill(before, signal.SIGKILL)
        await trio.lowlevel.wait_readable(pidfd)
        os.close(pidfd)
        with trio.fail_after(60):
            while True:
                with contextlib.suppress(Lost):
                    assert await Keeper(companion).list() == {"c": ("null",)}
                    break
        assert await pid_of(companion) != before
        assert told == [True, True]
    os.close(null)


async def test_a_request_whose_process_dies_is_lost_and_says_so(run: Path) -> None:
    async with running(Companion("keeper", str(run))) as companion:
        pid = await pid_of(companion)
        os.kill(pid, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(Lost, match="the keeper ended"):
                    await Keeper(companion).list()

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)


async def test_errors_arrive_with_their_errno(run: Path) -> None:
    async with running(Companion("logger", str(run))) as companion:
        with pytest.raises(Failed, match="nobody is not followed") as caught:
            await Logger(companion).drain("nobody")
        assert caught.value.errno == 2


async def test_a_cancelled_request_leaves_nothing_behind(run: Path) -> None:
    async with running(Companion("keeper", str(run))) as companion:
        keeper = Keeper(companion)
        null = os.open("/dev/null", os.O_RDONLY)
        await keeper.keep("c", {"null": null})
        pid = await pid_of(companion)
        before = len(os.listdir("/proc/self/fd"))
        os.kill(pid, signal.SIGSTOP)
        with trio.move_on_after(0.05):
            await keeper.get("c")
        os.kill(pid, signal.SIGCONT)
        await keeper.list()
        assert len(os.listdir("/proc/self/fd")) == before
        os.close(null)


async def test_many_requests_at_once_get_each_its_own_answer(run: Path) -> None:
    async with running(Companion("keeper", str(run))) as companion:
        keeper = Keeper(companion)

        async def one(number: int) -> None:
            fds = {f"m{each}": os.memfd_create(f"m{number}") for each in range(70)}
            await keeper.keep(str(number), fds)
            got = await keeper.get(str(number))
            assert {os.readlink(f"/proc/self/fd/{fd}") for fd in got.values()} == {f"/memfd:m{number} (deleted)"}
            wire.close_all([*fds.values(), *got.values()])

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)


async def test_a_container_from_start_to_log(run: Path, root: Path, tmp_path: Path) -> None:
    """All three processes together, as pydockd uses them."""
    async with (
        running(Companion("monitor", str(run))) as first,
        running(Companion("logger", str(run))) as second,
        running(Companion("keeper", str(run))) as third,
    ):
        monitor, logger, keeper = Monitor(first), Logger(second), Keeper(third)
        first.subscribe(monitor.event)
        stdio = Stdio(run, "c")
        stdio.make()
        with stdio.open() as ends:
            await keeper.keep(stdio.key, ends)
        await logger.follow("c", stdout=stdio.stdout, stderr=stdio.stderr, directory=tmp_path, log_max=None)
        tree = syscalls.open_tree(syscalls.AT_FDCWD, str(root), syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC)
        launch = Launch("c", ("sh", "-c", "echo begun; cat; echo ended"), root=0, stdin=stdio.stdin,
                        stdout=stdio.stdout, stderr=stdio.stderr)  # fmt: skip
        started = await monitor.start(launch, [tree])
        os.close(tree)
        alive = await monitor.alive()
        assert list(alive) == ["c"]
        with contextlib.suppress(Lost):
            await first.request({"do": "upgrade"})
        async with await trio.open_file(stdio.stdin, "w") as stdin:
            await stdin.write("typed\n")
        await keeper.drop(stdio.key, "stdin")
        await trio.lowlevel.wait_readable(started.pidfd)
        with trio.fail_after(60):
            gone = await monitor.exits.receive()
        assert (gone.id, gone.pid, gone.status) == ("c", started.pid, 0)
        assert await logger.drain("c") == 18
        assert (tmp_path / "log").read_text() == "begun\ntyped\nended\n"
        await keeper.drop(stdio.key)
        await logger.unfollow("c")
        await monitor.forget("c", started.pid)
        wire.close_all([started.pidfd, *alive.values()])


async def test_a_start_that_fails_raises_what_the_monitor_says(run: Path, root: Path) -> None:
    async with running(Companion("monitor", str(run))) as companion:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, str(root), syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC)
        with pytest.raises(Failed, match='exec nosuch: command "nosuch" not found in the image'):
            await Monitor(companion).start(Launch("c", ("nosuch",), root=0), [tree])
        os.close(tree)


@pytest.fixture
def tree(root: Path) -> Iterator[int]:
    """The root as a detached mount."""
    fd = syscalls.open_tree(syscalls.AT_FDCWD, str(root), syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC)
    yield fd
    os.close(fd)


async def test_a_launch_may_be_prepared_while_its_process_is_born(run: Path, tree: int) -> None:
    async with running(Companion("monitor", str(run))) as companion:
        monitor = Monitor(companion)
        companion.subscribe(monitor.event)
        born = trio.Event()
        told: list[tuple[int, int]] = []

        async def prepare() -> tuple[Launch, list[int]]:
            await born.wait()
            return Launch("c", ("sh", "-c", "exit 3"), root=0), [tree]

        def on_birth(pid: int, starttime: int) -> None:
            told.append((pid, starttime))
            born.set()

        with trio.fail_after(60):
            started = await monitor.start_with(Launch("c", ()), prepare, on_birth)
            gone = await monitor.exits.receive()
        os.close(started.pidfd)
        assert told == [(started.pid, started.starttime)]
        assert (gone.pid, gone.status) == (started.pid, 3 << 8)


async def test_a_preparation_that_fails_starts_nothing(run: Path, tree: int) -> None:
    async with running(Companion("monitor", str(run))) as companion:
        monitor = Monitor(companion)

        async def refuse() -> tuple[Launch, list[int]]:
            raise Invalid("not like this")

        async def prepare() -> tuple[Launch, list[int]]:
            return Launch("c", ("true",), root=0), [tree]

        with pytest.raises(Invalid, match="not like this"):
            await monitor.start_with(Launch("c", ()), refuse, lambda pid, starttime: None)
        assert await monitor.alive() == {}
        started = await monitor.start_with(Launch("c", ()), prepare, lambda pid, starttime: None)
        os.close(started.pidfd)


async def test_a_child_that_can_not_begin_fails_the_start(run: Path, tree: int) -> None:
    async with running(Companion("monitor", str(run))) as companion:

        async def prepare() -> tuple[Launch, list[int]]:
            return Launch("c", ("true",), root=0), [tree]

        first = Launch("c", (), cgroups=("/sys/fs/cgroup/no/such",))
        with pytest.raises(Failed, match="join the cgroups"):
            await Monitor(companion).start_with(first, prepare, lambda pid, starttime: None)


async def test_a_child_that_is_killed_on_the_way_fails_the_start_and_that_is_said(run: Path, tree: int) -> None:
    async with running(Companion("monitor", str(run))) as companion:
        monitor = Monitor(companion)
        companion.subscribe(monitor.event)
        killed = trio.Event()

        async def prepare() -> tuple[Launch, list[int]]:
            await killed.wait()
            return Launch("c", ("true",), root=0), [tree]

        def on_birth(pid: int, starttime: int) -> None:
            os.kill(pid, signal.SIGKILL)
            killed.set()

        with (
            pytest.raises(Failed, match="^set up: killed by SIGKILL during the set-up$") as caught,
            trio.fail_after(60),
        ):
            await monitor.start_with(Launch("c", ()), prepare, on_birth)
        assert caught.value.errno == errno.ECANCELED


def test_a_socket_is_only_root_s_whatever_the_umask_which_stays(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with listen(str(tmp_path), "x"):
            assert (tmp_path / "x.sock").stat().st_mode & 0o777 == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)
