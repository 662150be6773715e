"""pydock.runtime.cgroup.v1 on directories that look like v1's hierarchies: the translation, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydock.runtime.cgroup import Cgroup, Hierarchy, Layout
from pydock.runtime.cgroup.formats import V1_UNLIMITED
from pydock.runtime.errors import Invalid, NotFound, Unsupported

UNLIMITED = str(V1_UNLIMITED)
FILES = {
    "cpu,cpuacct": {
        "cpu.cfs_quota_us": "-1",
        "cpu.cfs_period_us": "100000",
        "cpu.shares": "1024",
        "cpu.stat": "nr_periods 7\nnr_throttled 2\nthrottled_time 5000000",
        "cpuacct.usage": "123456789",
        "cpuacct.usage_user": "100000000",
        "cpuacct.usage_sys": "23456789",
        "cpuacct.stat": "user 10\nsystem 2",
    },
    "cpuset": {"cpuset.cpus": "0-3", "cpuset.mems": "0", "cpuset.effective_cpus": "0-3"},
    "memory": {
        "memory.limit_in_bytes": UNLIMITED,
        "memory.memsw.limit_in_bytes": UNLIMITED,
        "memory.soft_limit_in_bytes": UNLIMITED,
        "memory.usage_in_bytes": "8192",
        "memory.max_usage_in_bytes": "16384",
        "memory.failcnt": "3",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
        "memory.stat": "cache 1\nrss 2\ntotal_cache 4096\ntotal_rss 8192\ntotal_mapped_file 12",
        "memory.kmem.usage_in_bytes": "512",
    },
    "blkio": {
        "blkio.bfq.weight": "100",
        "blkio.bfq.weight_device": "",
        "blkio.throttle.read_bps_device": "8:0 1048576",
        "blkio.throttle.write_bps_device": "",
        "blkio.throttle.read_iops_device": "8:16 10",
        "blkio.throttle.write_iops_device": "8:0 20",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 10\n8:0 Write 20\n8:0 Sync 5\n8:0 Discard 1\nTotal 31",
        "blkio.throttle.io_serviced_recursive": "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3",
    },
    "pids": {"pids.max": "max", "pids.current": "4"},
    "freezer": {"freezer.state": "THAWED"},
}
CONTROLLERS = {"cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct"} | {
    name: name for name in ("cpuset", "memory", "blkio", "pids", "freezer")
}


def look_like_cgroupfs(root: Path, *, parent: str, names: tuple[str, ...]) -> Layout:
    for mount, files in FILES.items():
        for path in ("", parent, *(f"{parent}/{name}" for name in names)):
            directory = root / mount / path
            directory.mkdir(parents=True, exist_ok=True)
            for file, text in (files | {"cgroup.procs": "", "tasks": ""}).items():
                (directory / file).write_text(text)
    return Layout("v1", {name: root / mount for name, mount in CONTROLLERS.items()}, None)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return look_like_cgroupfs(tmp_path, parent="pydock", names=("web",))


@pytest.fixture
def web(layout: Layout) -> Cgroup:
    return Hierarchy(layout, "pydock").cgroup("web")


def raw(group: Cgroup, controller: str, file: str) -> str:
    return (group.layout.controllers[controller] / group.path / file).read_text().rstrip("\n")


def put(group: Cgroup, controller: str, file: str, text: str) -> None:
    (group.layout.controllers[controller] / group.path / file).write_text(text)


def test_names_are_v2s_and_lack_what_v1_lacks(web: Cgroup) -> None:
    assert set(web.names()) == {
        *("cgroup.procs", "cgroup.freeze", "cgroup.kill", "cgroup.events"),
        *("cpu.max", "cpu.weight", "cpu.stat", "cpuset.cpus", "cpuset.mems"),
        *("memory.max", "memory.low", "memory.swap.max", "memory.current", "memory.peak", "memory.stat"),
        *("memory.events", "io.max", "io.weight", "io.stat", "pids.max", "pids.current"),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cpu.max", "max 100000"),
        ("cpu.weight", "100"),
        (
            "cpu.stat",
            "usage_usec 123456\nuser_usec 100000\nsystem_usec 23456\nnr_periods 7\nnr_throttled 2\nthrottled_usec 5000",
        ),
        ("cpuset.cpus", ""),
        ("memory.max", "max"),
        ("memory.low", "0"),
        ("memory.swap.max", "max"),
        ("memory.current", "8192"),
        ("memory.peak", "16384"),
        ("memory.stat", "anon 8192\nfile 4096\nfile_mapped 12\nkernel 512"),
        ("memory.events", "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1"),
        ("io.max", "8:0 rbps=1048576 wbps=max riops=max wiops=20\n8:16 rbps=max wbps=max riops=10 wiops=max"),
        ("io.weight", "default 100"),
        ("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=1 dios=0"),
        ("pids.max", "max"),
        ("cgroup.freeze", "0"),
        ("cgroup.events", "populated 0\nfrozen 0"),
        # v1's own names
        ("memory.limit_in_bytes", UNLIMITED),
        ("memory.soft_limit_in_bytes", UNLIMITED),
        ("cpu.shares", "1024"),
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.cfs_period_us", "100000"),
        ("cpuacct.usage", "123456789"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.weight", "100"),
        ("freezer.state", "THAWED"),
        ("memory.failcnt", "3"),
        ("cpuset.effective_cpus", "0-3"),
    ],
)
def test_v1_files_read_as_v2_ones(web: Cgroup, name: str, text: str) -> None:
    assert web.read(name) == text


@pytest.mark.parametrize(
    ("name", "value", "controller", "file", "text"),
    [
        ("cpu.max", "50000", "cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu.max", "max", "cpu", "cpu.cfs_quota_us", "-1"),
        ("cpu.max", "20000 40000", "cpu", "cpu.cfs_period_us", "40000"),
        ("cpu.weight", "1", "cpu", "cpu.shares", "10"),
        ("cpu.weight", "10000", "cpu", "cpu.shares", "102400"),
        ("cpuset.cpus", "0,1", "cpuset", "cpuset.cpus", "0-1"),
        ("cpuset.cpus", "", "cpuset", "cpuset.cpus", "0-3"),
        ("memory.max", "64M", "memory", "memory.limit_in_bytes", "67108864"),
        ("memory.max", "max", "memory", "memory.limit_in_bytes", "-1"),
        ("memory.low", "1M", "memory", "memory.soft_limit_in_bytes", "1048576"),
        ("memory.low", "0", "memory", "memory.soft_limit_in_bytes", "-1"),
        ("io.max", "8:0 wbps=7", "blkio", "blkio.throttle.write_bps_device", "8:0 7"),
        ("io.max", "8:0 wbps=1K", "blkio", "blkio.throttle.write_bps_device", "8:0 1024"),
        ("blkio.throttle.read_bps_device", "8:0 1M", "blkio", "blkio.throttle.read_bps_device", "8:0 1048576"),
        ("io.max", "8:0 rbps=max", "blkio", "blkio.throttle.read_bps_device", "8:0 0"),
        ("io.weight", "500", "blkio", "blkio.bfq.weight", "500"),
        ("io.weight", "5000", "blkio", "blkio.bfq.weight", "1000"),
        ("io.weight", "8:0 50", "blkio", "blkio.bfq.weight_device", "8:0 50"),
        ("pids.max", "12", "pids", "pids.max", "12"),
        ("cgroup.freeze", "1", "freezer", "freezer.state", "FROZEN"),
        ("memory.limit_in_bytes", "1G", "memory", "memory.limit_in_bytes", "1073741824"),
        ("memory.limit_in_bytes", "-1", "memory", "memory.limit_in_bytes", "-1"),
        ("cpu.cfs_quota_us", "25000", "cpu", "cpu.cfs_quota_us", "25000"),
        ("cpu.shares", "512", "cpu", "cpu.shares", "512"),
        ("blkio.throttle.write_iops_device", "8:0 0", "blkio", "blkio.throttle.write_iops_device", "8:0 0"),
        ("freezer.state", "FROZEN", "freezer", "freezer.state", "FROZEN"),
    ],
)
def test_v2_values_are_written_to_v1_files(
    web: Cgroup, name: str, value: str, controller: str, file: str, text: str
) -> None:
    web.write(name, value + "\n")
    assert raw(web, controller, file) == text


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("cpu.max", "max 100000"),
        ("cpu.weight", "100"),
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("pids.max", "max"),
        ("io.weight", "default 100"),
        ("memory.low", "0"),
        ("cpuset.cpus", ""),
    ],
)
def test_setting_that_is_emptied_is_the_default(web: Cgroup, name: str, default: str) -> None:
    web.write(name, "")
    put(web, "memory", "memory.limit_in_bytes", UNLIMITED)  # a file system would show -1 this way
    put(web, "memory", "memory.memsw.limit_in_bytes", UNLIMITED)
    put(web, "memory", "memory.soft_limit_in_bytes", UNLIMITED)
    assert web.read(name) == default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory.max", "12Q"),
        ("memory.max", "-5"),
        ("cpu.weight", "0"),
        ("cpuset.cpus", "0-99"),
        ("pids.max", "many"),
        ("cgroup.freeze", "yes"),
        ("cgroup.kill", "0"),
        ("cgroup.procs", "init"),
        ("tasks", "-1"),
        ("cgroup.procs", "0"),
        ("cpu.stat", "1"),
        ("memory.current", "1"),
        ("freezer.state", "COLD"),
        ("cpu.cfs_quota_us", "x"),
        ("cpu.cfs_period_us", "1"),
        ("memory.limit_in_bytes", "lots"),
        ("memory.memsw.limit_in_bytes", "1G"),
        ("blkio.throttle.read_bps_device", "8:0 -1"),
        ("blkio.throttle.read_iops_device", "8:0 1K"),
    ],
)
def test_bad_value_is_invalid_and_named(web: Cgroup, name: str, value: str) -> None:
    with pytest.raises(Invalid, match=f"^{name.split('_')[0]}"):
        web.write(name, value)


@pytest.mark.parametrize("name", ["memory.high", "cpu.pressure", "nonsense", "rdma.max"])
def test_file_that_this_kernel_lacks_is_not_found(web: Cgroup, name: str) -> None:
    with pytest.raises(NotFound, match=f"^{name}: "):
        web.read(name)


def test_swap_limit_is_written_on_top_of_memory(web: Cgroup) -> None:
    put(web, "memory", "memory.limit_in_bytes", "1048576")
    web.write("memory.swap.max", "1M")
    assert raw(web, "memory", "memory.memsw.limit_in_bytes") == "2097152"
    assert web.read("memory.swap.max") == "1048576"
    web.write("memory.max", "4M")
    assert raw(web, "memory", "memory.memsw.limit_in_bytes") == "5242880"
    assert web.read("memory.swap.max") == "1048576"


def test_swap_limit_waits_for_a_memory_limit(web: Cgroup) -> None:
    web.write("memory.swap.max", "0")
    assert web.read("memory.swap.max") == "0"
    web.write("memory.max", "1M")
    assert raw(web, "memory", "memory.memsw.limit_in_bytes") == "1048576"
    assert web.limits()["memory.swap.max"] == "0"


def test_v1s_limit_of_both_is_memory_and_swap(web: Cgroup) -> None:
    web.write("memory.limit_in_bytes", "1M")
    web.write("memory.memsw.limit_in_bytes", "3M")
    assert web.read("memory.swap.max") == "2097152"
    assert web.read("memory.memsw.limit_in_bytes") == "3145728"


def test_processors_equal_to_the_parents_are_shown_if_somebody_wrote_them(layout: Layout) -> None:
    web = Hierarchy(layout, "pydock").cgroup("web")
    assert web.read("cpuset.cpus") == ""
    web.write("cpuset.cpus", "0-3")
    assert web.read("cpuset.cpus") == "0-3"
    again = Hierarchy(layout, "pydock").cgroup("web", written=web.limits())
    assert again.read("cpuset.cpus") == "0-3"


@pytest.mark.parametrize(
    ("name", "controller", "file", "limit", "more", "less"),
    [
        ("memory.max", "memory", "memory.limit_in_bytes", "1048576", "2M", "512K"),
        ("pids.max", "pids", "pids.max", "10", "11", "10"),
        ("cpu.max", "cpu", "cpu.cfs_quota_us", "50000", "60000", "max"),
        ("cpuset.cpus", "cpuset", "cpuset.cpus", "0-1", "1-2", "1"),
    ],
)
def test_limit_above_the_parents_is_invalid(
    web: Cgroup, name: str, controller: str, file: str, limit: str, more: str, less: str
) -> None:
    assert web.above is not None
    put(web.above, controller, file, limit)
    before = raw(web, controller, file)
    with pytest.raises(Invalid, match="that cgroup pydock above it allows"):
        web.write(name, more)
    assert raw(web, controller, file) == before
    web.write(name, less)


def test_limits_are_what_differs_from_the_defaults_and_can_be_applied(layout: Layout, web: Cgroup) -> None:
    put(web, "blkio", "blkio.throttle.read_bps_device", "")
    put(web, "blkio", "blkio.throttle.read_iops_device", "")
    put(web, "blkio", "blkio.throttle.write_iops_device", "")
    assert web.limits() == {}
    wanted = {"memory.swap.max": "0", "memory.max": "1048576", "cpu.weight": "77", "pids.max": "5", "cpuset.cpus": "1"}
    web.apply(wanted)
    assert web.limits() == wanted


def test_applying_what_the_kernel_lacks_changes_nothing(web: Cgroup) -> None:
    with pytest.raises(Unsupported, match=r"^memory\.high: "):
        web.apply({"pids.max": "5", "memory.high": "1M"})
    assert web.read("pids.max") == "max"


def test_file_is_absent_where_its_controller_is(layout: Layout) -> None:
    controllers = {name: root for name, root in layout.controllers.items() if name in ("memory", "freezer")}
    web = Hierarchy(Layout("v1", controllers, None), "pydock").cgroup("web")
    assert "cpu.max" not in web.names()
    assert "cpu.shares" not in web.aliases()
    assert "memory.limit_in_bytes" in web.aliases()


def test_children_join_by_tasks(web: Cgroup) -> None:
    assert all(path.endswith("/pydock/web/tasks") for path in web.join_files)
    assert len(web.join_files) == len(FILES)
    assert web.clone_into is None


@pytest.mark.parametrize(
    ("name", "mode"),
    [("cpu.max", "rw"), ("cpu.stat", "ro"), ("cgroup.kill", "wo"), ("tasks", "rw"), ("memory.usage_in_bytes", "ro")],
)
def test_modes(web: Cgroup, name: str, mode: str) -> None:
    assert web.mode(name) == mode


def test_processes_below_count_as_inside(web: Cgroup) -> None:
    below = web.layout.controllers["memory"] / "pydock/web/inner"
    below.mkdir()
    (below / "cgroup.procs").write_text("4194304\n")
    (below / "memory.oom_control").write_text("oom_kill 2\n")
    assert web.procs() == (4194304,)
    assert web.oom_kills() == 3
