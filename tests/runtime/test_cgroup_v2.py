"""pydock.runtime.cgroup.v2 on a directory that looks like the v2 tree: checks, v1's names, the way to the parent."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydock.runtime.cgroup import Cgroup, Hierarchy, Layout
from pydock.runtime.cgroup.devices import ALL, DEFAULT, DeviceRule, assemble
from pydock.runtime.errors import Invalid, Unsupported

FILES = {
    "cgroup.procs": "",
    "cgroup.events": "populated 0\nfrozen 0",
    "cgroup.freeze": "0",
    "cgroup.kill": "",
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "cpu.stat": "usage_usec 3000000\nuser_usec 2000000\nsystem_usec 1000000",
    "cpuset.cpus": "",
    "cpuset.cpus.effective": "0-3",
    "cpuset.mems": "",
    "memory.max": "max",
    "memory.high": "max",
    "memory.low": "0",
    "memory.swap.max": "max",
    "memory.swap.current": "4096",
    "memory.current": "8192",
    "memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1",
    "io.max": "8:0 rbps=1048576 wbps=max riops=max wiops=20",
    "io.weight": "default 100",
    "io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0",
    "pids.max": "max",
    "cpu.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
}


@pytest.fixture
def web(tmp_path: Path) -> Cgroup:
    for path in ("", "pydock", "pydock/web"):
        directory = tmp_path / path
        directory.mkdir(exist_ok=True)
        for file, text in FILES.items():
            (directory / file).write_text(text)
    return Hierarchy(Layout("v2", {}, tmp_path), "pydock").cgroup("web")


def raw(group: Cgroup, file: str) -> str:
    return (group.directories[0] / file).read_text().rstrip("\n")


def test_names_are_those_the_kernel_has(web: Cgroup) -> None:
    assert {"memory.high", "io.weight", "cpu.pressure", "cpu.max"} <= set(web.names())
    assert not {"memory.peak", "memory.pressure", "pids.peak"} & set(web.names())


@pytest.mark.parametrize(
    ("name", "value", "file", "text"),
    [
        ("memory.max", "64M", "memory.max", "67108864"),
        ("memory.max", "max", "memory.max", "max"),
        ("memory.high", "1G", "memory.high", "1073741824"),
        ("cpu.max", "50000", "cpu.max", "50000 100000"),
        ("cpu.max", "", "cpu.max", "max 100000"),
        ("cpuset.cpus", "0,1", "cpuset.cpus", "0-1"),
        ("io.weight", "7", "io.weight", "default 7"),
        ("io.max", "8:0 wbps=max", "io.max", "8:0 wbps=max"),
        ("io.max", "", "io.max", "8:0 rbps=max wbps=max riops=max wiops=max"),
        # v1's names
        ("memory.limit_in_bytes", "64M", "memory.max", "67108864"),
        ("memory.limit_in_bytes", "-1", "memory.max", "max"),
        ("memory.soft_limit_in_bytes", "1M", "memory.low", "1048576"),
        ("memory.soft_limit_in_bytes", "-1", "memory.low", "0"),
        ("cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
        ("cpu.cfs_quota_us", "-1", "cpu.max", "max 100000"),
        ("cpu.cfs_period_us", "20000", "cpu.max", "max 20000"),
        ("cpu.shares", "512", "cpu.weight", "50"),
        ("cpu.shares", "0", "cpu.weight", "1"),
        ("blkio.weight", "300", "io.weight", "default 300"),
        ("blkio.throttle.read_bps_device", "8:0 4096", "io.max", "8:0 rbps=4096"),
        ("blkio.throttle.read_bps_device", "8:0 0", "io.max", "8:0 rbps=max"),
        ("blkio.throttle.write_bps_device", "8:0 2M", "io.max", "8:0 wbps=2097152"),
        ("freezer.state", "FROZEN", "cgroup.freeze", "1"),
        ("pids.max", "9", "pids.max", "9"),
    ],
)
def test_either_versions_names_write_the_v2_file(web: Cgroup, name: str, value: str, file: str, text: str) -> None:
    web.write(name, value)
    assert raw(web, file) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.limit_in_bytes", "9223372036854771712"),
        ("memory.memsw.limit_in_bytes", "9223372036854771712"),
        ("memory.memsw.usage_in_bytes", "12288"),
        ("memory.usage_in_bytes", "8192"),
        ("memory.failcnt", "4"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1"),
        ("cpu.shares", "1024"),
        ("cpu.cfs_quota_us", "-1"),
        ("cpu.cfs_period_us", "100000"),
        ("cpuacct.usage", "3000000000"),
        ("cpuacct.usage_user", "2000000000"),
        ("cpuacct.stat", "user 200\nsystem 100"),
        ("cpuset.effective_cpus", "0-3"),
        ("blkio.throttle.read_bps_device", "8:0 1048576"),
        ("blkio.throttle.write_bps_device", ""),
        ("blkio.throttle.io_service_bytes", "8:0 Read 10\n8:0 Write 20\n8:0 Discard 0\n8:0 Total 30\nTotal 30"),
        ("freezer.state", "THAWED"),
        ("tasks", ""),
    ],
)
def test_v1_names_read_from_v2_files(web: Cgroup, name: str, text: str) -> None:
    assert web.read(name) == text


def test_shares_that_share_a_weight_read_as_written(web: Cgroup) -> None:
    web.write("cpu.shares", "1000")
    assert web.read("cpu.shares") == "1000"
    web.write("cpu.weight", "200")
    assert web.read("cpu.shares") == "2048"


def test_limit_above_the_parents_is_invalid(web: Cgroup) -> None:
    assert web.above is not None
    (web.above.directories[0] / "memory.max").write_text("1048576\n")
    with pytest.raises(Invalid, match='^memory.max: "2097152" is more than the "1048576" that cgroup pydock above'):
        web.write("memory.limit_in_bytes", "2M")
    assert raw(web, "memory.max") == "max"


def test_processors_that_the_machine_lacks_are_invalid(web: Cgroup) -> None:
    with pytest.raises(Invalid, match='^cpuset.cpus: "0-9": this machine has 0-3$'):
        web.write("cpuset.cpus", "0-9")


def test_unlisted_names_are_not_listed(web: Cgroup) -> None:
    assert {"tasks", "memory.limit_in_bytes", "cpu.shares"} <= web.aliases()
    assert not web.aliases() & set(web.names())


def test_children_are_born_in_it(web: Cgroup) -> None:
    assert web.clone_into == str(web.directories[0])
    assert web.join_files_after_clone == ()
    assert web.join_files == (str(web.directories[0] / "cgroup.procs"),)


def test_freezer_is_unsupported_without_either_tree() -> None:
    group = Hierarchy(Layout("v2", {}, None), "pydock").cgroup("web")
    with pytest.raises(Unsupported, match=r"^cgroup\.freeze"):
        group.freeze()


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (DeviceRule("a"), "a *:* rwm"),
        (DeviceRule("c", 1, 3), "c 1:3 rwm"),
        (DeviceRule("b", 8, access="wr"), "b 8:* rw"),
        (DeviceRule("c", access="m"), "c *:* m"),
    ],
)
def test_device_rule_is_written_as_v1_has_it(rule: DeviceRule, text: str) -> None:
    assert str(rule) == text


@pytest.mark.parametrize("rules", [(), DEFAULT, ALL, (DeviceRule("b", 8, 0, "r"), *ALL, *DEFAULT)])
def test_program_ends_with_exit_and_has_no_dead_end(rules: tuple[DeviceRule, ...]) -> None:
    program = assemble(rules)
    assert len(program) % 8 == 0
    assert program[-8] == 0x95
