"""pydock.runtime.cgroup on the machine's own hierarchies, whatever they are, below a parent of the test's own."""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.cgroup import ALL, DEFAULT, Cgroup, DeviceRule, Hierarchy
from pydock.runtime.cgroup.devices import allow_by_program
from pydock.runtime.errors import Busy, Failed, Invalid

Spawn = Callable[..., "subprocess.Popen[bytes]"]
pytestmark = pytest.mark.cgroup


@pytest.fixture
def hierarchy() -> Iterator[Hierarchy]:
    hierarchy = Hierarchy.detect(f"pydock-test-{secrets.token_hex(4)}")
    hierarchy.prepare()
    yield hierarchy
    hierarchy.remove_parent()


@pytest.fixture
def web(hierarchy: Hierarchy) -> Iterator[Cgroup]:
    group = hierarchy.cgroup("web")
    group.create()
    yield group
    if any(directory.exists() for directory in group.directories):
        group.kill()
        group.remove()


@pytest.fixture
def spawn(web: Cgroup) -> Iterator[Spawn]:
    """Start processes that are ended with the test, before their cgroup is removed."""
    with contextlib.ExitStack() as stack:

        def start(*command: str, preexec: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=preexec, start_new_session=True
            )

            def end() -> None:
                process.kill()
                process.communicate()

            stack.callback(end)
            return process

        yield start


def join(group: Cgroup) -> None:
    for file in group.join_files:
        fd = os.open(file, os.O_WRONLY)
        os.write(fd, b"0")
        os.close(fd)


def python(spawn: Spawn, group: Cgroup, code: str) -> int:
    """The exit status of Python code run inside *group*."""
    process = spawn(sys.executable, "-S", "-c", code, preexec=lambda: join(group))
    process.communicate()
    return process.returncode


def places(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_files_that_are_there_on_every_machine(web: Cgroup) -> None:
    assert {"memory.max", "cpu.max", "pids.max", "cgroup.procs", "cgroup.freeze"} <= set(web.names())
    assert {"tasks", "memory.limit_in_bytes", "cpu.shares", "cpu.cfs_quota_us"} <= web.aliases()


def test_every_file_reads_as_its_mode_says(web: Cgroup) -> None:
    names = [*web.names(), *web.aliases()]
    texts = {name: web.read(name) for name in names if web.mode(name) != "wo"}
    assert texts["cgroup.procs"] == texts["tasks"] == ""
    assert all(not text.endswith("\n") for text in texts.values())


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("memory.max", "64M", "67108864"),
        ("memory.max", "5000", "4096"),
        ("memory.low", "1M", "1048576"),
        ("memory.low", "max", "max"),
        ("cpu.max", "50000", "50000 100000"),
        ("cpu.max", "20000 40000", "20000 40000"),
        ("cpu.max", "max 50000", "max 50000"),
        ("cpu.weight", "1", "1"),
        ("cpu.weight", "39", "39"),
        ("cpu.weight", "10000", "10000"),
        ("cpuset.cpus", "0", "0"),
        ("cpuset.mems", "0", "0"),
        ("pids.max", "20", "20"),
        ("cgroup.freeze", "1", "1"),
        ("cpu.shares", "512", "512"),
        ("cpu.cfs_quota_us", "30000", "30000"),
        ("cpu.cfs_period_us", "30000", "30000"),
        ("memory.limit_in_bytes", "1M", "1048576"),
        ("memory.soft_limit_in_bytes", "1M", "1048576"),
    ],
)
def test_value_written_is_the_value_read_and_is_kept(web: Cgroup, name: str, value: str, text: str) -> None:
    web.write(name, value)
    assert web.read(name) == text
    kept = web.limits()
    web.write("cgroup.freeze", "0")
    web.remove()
    web.create()
    assert web.limits() == {}
    web.apply(kept)
    assert name == "cgroup.freeze" or web.read(name) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory.max", "12Q"), ("cpu.max", "1"), ("cpuset.cpus", "0-4000"), ("cpu.weight", "0"), ("pids.max", "-1")],
)
def test_bad_value_is_invalid_and_changes_nothing(web: Cgroup, name: str, value: str) -> None:
    before = web.read(name)
    with pytest.raises(Invalid, match=f"^{name}: "):
        web.write(name, value)
    assert web.read(name) == before


@pytest.mark.parametrize(
    ("name", "above", "more"), [("memory.max", "64M", "65M"), ("pids.max", "9", "10"), ("cpu.max", "50000", "60000")]
)
def test_limit_above_the_parents_is_invalid(web: Cgroup, name: str, above: str, more: str) -> None:
    assert web.above is not None
    web.above.write(name, above)
    with pytest.raises(Invalid, match="above it allows"):
        web.write(name, more)


def test_swap_limit_may_come_before_the_memory_limit(web: Cgroup) -> None:
    web.apply({"memory.swap.max": "1M", "memory.max": "64M"})
    assert web.limits() == {"memory.swap.max": "1048576", "memory.max": "67108864"}
    web.write("memory.max", "128M")
    assert web.read("memory.swap.max") == "1048576"
    web.write("memory.max", "32M")
    assert web.limits() == {"memory.swap.max": "1048576", "memory.max": "33554432"}
    web.write("memory.max", "max")
    assert web.limits() == {"memory.swap.max": "1048576"}


def test_io_limit_of_no_device_is_refused(web: Cgroup) -> None:
    with pytest.raises(Failed, match=r'^io.max: "4095:9 rbps=4096"'):
        web.write("io.max", "4095:9 rbps=4096")


def a_disk() -> str:
    """MAJOR:MINOR of a whole disk of this machine."""
    return next(
        path.read_text().strip()
        for path in sorted(Path("/sys/block").glob("*/dev"))
        if int((path.parent / "size").read_text())
    )


def test_io_limits_of_a_disk_are_set_one_by_one_and_unset_together(web: Cgroup) -> None:
    disk = a_disk()
    web.write("io.max", f"{disk} rbps=1048576 wiops=10")
    web.write("io.max", f"{disk} wiops=max")
    assert web.read("io.max") == f"{disk} rbps=1048576 wbps=max riops=max wiops=max"
    assert web.read("blkio.throttle.read_bps_device") == f"{disk} 1048576"
    web.write("io.max", "")
    assert web.read("io.max") == ""


def test_joining_moves_into_every_hierarchy(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("sleep", "60", preexec=lambda: join(web))
    assert web.procs() == (process.pid,)
    assert all((directory / "cgroup.procs").read_text() == f"{process.pid}\n" for directory in web.directories)
    assert web.read("cgroup.procs") == web.read("tasks") == str(process.pid)


def test_child_can_be_born_in_the_v2_directory(web: Cgroup) -> None:
    assert web.clone_into is not None
    reader, writer = os.pipe()
    directory = os.open(web.clone_into, os.O_RDONLY | os.O_DIRECTORY)
    pid = syscalls.clone3(syscalls.CLONE_INTO_CGROUP, signal.SIGCHLD, directory)
    if pid == 0:
        os.write(writer, Path("/proc/self/cgroup").read_bytes())
        os._exit(0)
    os.close(directory)
    os.close(writer)
    assert os.waitpid(pid, 0)[1] == 0
    with open(reader) as text:
        assert f"0::/{web.path}\n" in text.read()


@pytest.mark.parametrize("name", ["cgroup.procs", "tasks"])
def test_foreign_process_is_moved_everywhere(web: Cgroup, spawn: Spawn, name: str) -> None:
    process = spawn("sleep", "60")
    web.write(name, str(process.pid))
    assert places(process.pid).count(f":/{web.path}\n") == len(web.directories)


def test_zero_is_the_caller(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("sleep", "60")
    web.write("cgroup.procs", "0", caller=process.pid)
    assert web.procs() == (process.pid,)


def test_no_process_is_moved_by_a_number_that_is_none(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("true")
    process.wait()
    with pytest.raises(Failed, match=f"^cgroup.procs: there is no process {process.pid}$") as error:
        web.write("cgroup.procs", str(process.pid))
    assert error.value.errno == 3


def test_failed_move_leaves_the_process_where_it_was(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("sleep", "60")
    before = places(process.pid)
    last = web.directories[-1]
    web.directories = (*web.directories[:-1], last.parent / "missing")
    with pytest.raises(Failed):
        web.move(process.pid)
    web.directories = (*web.directories[:-1], last)
    assert places(process.pid) == before
    assert web.procs() == ()


def test_removal_names_the_process_inside(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("sleep", "60", preexec=lambda: join(web))
    with pytest.raises(Busy, match=rf"in use by process {process.pid} \(sleep\)"):
        web.remove()
    assert web.exists()


def test_removal_waits_for_the_dying(web: Cgroup, spawn: Spawn) -> None:
    process = spawn("sleep", "60", preexec=lambda: join(web))
    process.send_signal(signal.SIGKILL)
    web.remove()
    assert not any(directory.exists() for directory in web.directories)


def test_removal_takes_cgroups_that_the_container_made(web: Cgroup) -> None:
    for directory in web.directories:
        (directory / "a/b").mkdir(parents=True)
    web.remove()
    assert not any(directory.exists() for directory in web.directories)


def test_making_and_removing_twice_is_as_good_as_once(web: Cgroup) -> None:
    web.create()
    assert web.exists()
    web.remove()
    assert not web.exists()
    web.remove()


def test_parent_that_is_not_empty_stays(hierarchy: Hierarchy, web: Cgroup) -> None:
    with pytest.raises(Busy, match=f"^cgroup {hierarchy.parent} can't be removed"):
        hierarchy.remove_parent()
    assert web.exists()


def ticks(pid: int) -> int:
    """Processor time used, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_frozen_processes_stand_and_go_on(web: Cgroup, spawn: Spawn) -> None:
    process = spawn(sys.executable, "-S", "-c", "while True: pass", preexec=lambda: join(web))
    web.freeze()
    assert "frozen 1" in web.read("cgroup.events").splitlines()
    assert web.read("freezer.state") == "FROZEN"
    before = ticks(process.pid)
    select.select([], [], [], 0.1)  # the time in which it would have run
    assert ticks(process.pid) == before
    web.thaw()
    assert "frozen 0" in web.read("cgroup.events").splitlines()
    while ticks(process.pid) == before:
        os.sched_yield()


def test_kill_ends_all_of_them(web: Cgroup, spawn: Spawn) -> None:
    processes = [spawn("sleep", "60", preexec=lambda: join(web)) for _ in range(5)]
    web.write("cgroup.kill", "1")
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 5


def test_what_was_killed_can_be_started_in_again(web: Cgroup, spawn: Spawn) -> None:
    spawn("sleep", "60", preexec=lambda: join(web))
    web.write("cgroup.kill", "1")
    assert web.clone_into is not None
    cgroup = os.open(web.clone_into, os.O_RDONLY | os.O_DIRECTORY)
    pid = syscalls.clone3(syscalls.CLONE_INTO_CGROUP, signal.SIGCHLD, cgroup)
    if pid == 0:
        os._exit(7)
    os.close(cgroup)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_events_tell_whether_somebody_is_inside(web: Cgroup, spawn: Spawn) -> None:
    assert "populated 0" in web.read("cgroup.events")
    spawn("sleep", "60", preexec=lambda: join(web))
    assert "populated 1" in web.read("cgroup.events")


def test_number_of_processes_is_limited(web: Cgroup, spawn: Spawn) -> None:
    web.write("pids.max", "1")
    assert python(spawn, web, "import os\ntry: os.fork()\nexcept BlockingIOError: os._exit(7)") == 7


def test_memory_limit_kills_and_is_counted(web: Cgroup, spawn: Spawn) -> None:
    web.write("memory.swap.max", "0")
    web.write("memory.max", "32M")
    assert web.oom_kills() == 0
    assert python(spawn, web, "a = bytearray(128 << 20)\nfor i in range(0, len(a), 4096): a[i] = 1") == -signal.SIGKILL
    assert web.oom_kills() == 1
    assert "oom_kill 1" in web.read("memory.events").splitlines()


def test_memory_in_use_is_told(web: Cgroup, spawn: Spawn) -> None:
    code = "a = b'x' * (20 << 20)\nprint(flush=True)\ninput()"
    process = spawn(sys.executable, "-S", "-c", code, preexec=lambda: join(web))
    assert process.stdout is not None
    process.stdout.readline()
    assert int(web.read("memory.current")) >= 20 << 20
    assert int(dict(line.split() for line in web.read("memory.stat").splitlines())["anon"]) >= 20 << 20
    assert int(web.read("memory.usage_in_bytes")) % mmap.PAGESIZE == 0


def test_processor_time_is_limited_and_told(web: Cgroup, spawn: Spawn) -> None:
    web.write("cpu.max", "10000 100000")
    begin = time.monotonic()
    assert python(spawn, web, "import time\nwhile time.process_time() < 0.1: pass") == 0
    assert time.monotonic() - begin > 0.5
    stat = {key: int(value) for key, value in (line.split() for line in web.read("cpu.stat").splitlines())}
    assert stat["usage_usec"] >= 100_000
    assert stat["nr_throttled"] > 0
    assert int(web.read("cpuacct.usage")) >= 100_000_000


def test_processors_are_limited(web: Cgroup, spawn: Spawn) -> None:
    web.write("cpuset.cpus", "0")
    assert python(spawn, web, "import os\nos._exit(os.sched_getaffinity(0) != {0})") == 0


OPEN = "import os, sys\ntry: os.open({!r}, os.O_{})\nexcept PermissionError: os._exit(1)\nexcept OSError: os._exit(2)"


@pytest.mark.parametrize(
    ("path", "flag", "status"),
    [("/dev/null", "RDWR", 0), ("/dev/urandom", "RDONLY", 0), ("/dev/kmsg", "RDONLY", 1), ("/dev/fuse", "RDWR", 1)],
)
def test_devices_are_dockers_from_the_first(web: Cgroup, spawn: Spawn, path: str, flag: str, status: int) -> None:
    assert python(spawn, web, OPEN.format(path, flag)) == status


def test_device_list_is_replaced_and_lifted(web: Cgroup, spawn: Spawn) -> None:
    kmsg = OPEN.format("/dev/kmsg", "RDONLY")
    web.allow_devices((*DEFAULT, DeviceRule("c", 1, 11, "r")))
    assert python(spawn, web, kmsg) == 0
    assert python(spawn, web, OPEN.format("/dev/kmsg", "RDWR")) == 1
    assert python(spawn, web, OPEN.format("/dev/fuse", "RDWR")) == 1
    web.allow_devices(ALL)
    assert python(spawn, web, OPEN.format("/dev/fuse", "RDWR")) == 0
    web.allow_devices(DEFAULT)
    assert python(spawn, web, kmsg) == 1
    assert python(spawn, web, OPEN.format("/dev/null", "RDWR")) == 0


def test_narrow_device_list_can_be_changed_with_cgroups_below(web: Cgroup, spawn: Spawn) -> None:
    for directory in web.directories:
        (directory / "inner").mkdir()
    web.allow_devices((*DEFAULT, DeviceRule("c", 1, 11, "r")))
    if web.layout.kind == "v2":  # no processes beside children that were handed controllers; none were
        assert (web.directories[0] / "cgroup.subtree_control").read_text().strip() == ""
    assert python(spawn, web, OPEN.format("/dev/kmsg", "RDONLY")) == 0
    web.allow_devices(DEFAULT)
    assert python(spawn, web, OPEN.format("/dev/kmsg", "RDONLY")) == 1


@pytest.mark.parametrize(
    ("rules", "path", "flag", "status"),
    [
        ((), "/dev/null", "RDONLY", 1),
        (DEFAULT, "/dev/null", "RDWR", 0),
        (DEFAULT, "/dev/kmsg", "RDONLY", 1),
        ((DeviceRule("c", 1, 3, "r"),), "/dev/null", "RDONLY", 0),
        ((DeviceRule("c", 1, 3, "r"),), "/dev/null", "RDWR", 1),
        ((DeviceRule("c", 1, None, "rw"),), "/dev/null", "RDWR", 0),
        ((DeviceRule("b", 1, 3),), "/dev/null", "RDONLY", 1),
        ((DeviceRule("c", 1, 3, "w"), DeviceRule("c", 1, 3, "rw")), "/dev/null", "RDWR", 0),
        ((DeviceRule("a", access="r"),), "/dev/null", "RDONLY", 0),
        ((DeviceRule("a", access="r"),), "/dev/null", "RDWR", 1),
        ((DeviceRule("b"), *ALL), "/dev/null", "RDWR", 0),
    ],
)
def test_program_decides_as_the_rules_say(
    web: Cgroup, spawn: Spawn, rules: tuple[DeviceRule, ...], path: str, flag: str, status: int
) -> None:
    """The BPF filter, in the v2 tree of a hybrid machine too."""
    web.allow_devices(ALL)
    assert web.unified is not None
    code = f"import os\nos.read(0, 1)\n{OPEN.format(path, flag)}"
    process = spawn(sys.executable, "-S", "-c", code, preexec=lambda: join(web))
    allow_by_program(web.unified, rules)
    process.communicate(b"x")
    assert process.returncode == status


def test_engines_own_cgroup_may_use_every_device(hierarchy: Hierarchy, web: Cgroup, spawn: Spawn) -> None:
    engine = hierarchy.create("engine")
    try:
        assert python(spawn, engine, OPEN.format("/dev/kmsg", "RDWR")) == 0
    finally:
        engine.remove()


def test_two_generations_find_the_same_limits(hierarchy: Hierarchy, web: Cgroup) -> None:
    web.apply({"memory.max": "64M", "cpu.weight": "77"})
    again = Hierarchy.detect(hierarchy.parent)
    again.prepare()
    assert again.cgroup("web").limits() == {"memory.max": "67108864", "cpu.weight": "77"}


def test_a_parent_has_one_owner_who_is_named_to_the_others(hierarchy: Hierarchy) -> None:
    other = Hierarchy.detect(hierarchy.parent)
    with hierarchy.owned(0):
        with (
            pytest.raises(Busy, match=f"another pydockd, process {os.getpid()}, has .* {hierarchy.parent}:"),
            other.owned(0),
        ):
            pass
        assert (other.layout.roots[-1] / other.parent).exists()
    with other.owned(0):
        pass


def test_who_waits_for_a_parent_that_its_owner_removes_makes_it_again(hierarchy: Hierarchy) -> None:
    other = Hierarchy.detect(hierarchy.parent)
    waits, has = threading.Event(), threading.Event()

    def own() -> None:
        waits.set()
        with other.owned(60):
            has.set()
            assert all((root / other.parent).is_dir() for root in other.layout.roots)

    thread = threading.Thread(target=own)
    with hierarchy.owned(0):
        thread.start()
        assert waits.wait(60)
        assert not has.wait(0.1)
        hierarchy.remove_parent()
    thread.join(60)
    assert has.is_set()
    hierarchy.prepare()  # for the fixture


def test_parent_may_lie_deeper(hierarchy: Hierarchy) -> None:
    deep = Hierarchy.detect(f"{hierarchy.parent}/a/containers")
    deep.prepare()
    group = deep.cgroup("web")
    try:
        group.create()
        group.write("pids.max", "5")
        assert {"memory.max", "cpu.max"} <= set(group.names())
    finally:
        group.remove()
        deep.remove_parent()
        Hierarchy(deep.layout, f"{hierarchy.parent}/a").remove_parent()


def test_making_and_removing_is_quick(hierarchy: Hierarchy) -> None:
    """Generous: it is 1 ms on a quiet machine."""

    def once(number: int) -> float:
        group = hierarchy.cgroup(f"quick{number}")
        begin = time.perf_counter()
        group.create()
        group.remove()
        return time.perf_counter() - begin

    assert min(once(number) for number in range(5)) < 0.5
