"""The words that docker's users know: capabilities, ulimits, sysctls, devices."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.cgroup.devices import DeviceRule
from pydock.runtime.confine import capabilities, devices, masks, rlimits, sysctls
from pydock.runtime.errors import Invalid, NotFound


@pytest.mark.parametrize("text", ["net_admin", "NET_ADMIN", "CAP_NET_ADMIN", "cap_net_admin", " Net_Admin\n"])
def test_capability_is_known_by_either_name(text: str) -> None:
    assert capabilities.parse(text) == {"CAP_NET_ADMIN"}


@pytest.mark.parametrize("text", ["ALL", "all", "CAP_ALL"])
def test_all_is_what_this_kernel_knows(text: str) -> None:
    assert capabilities.parse(text) == capabilities.known()
    assert "CAP_SYS_ADMIN" in capabilities.known()


@pytest.mark.parametrize("text", ["", "CAP_", "net-admin", "SYS_EVERYTHING", "CAP_CAP_KILL"])
def test_capability_that_is_none_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^capabilities: "):
        capabilities.parse(text)


@pytest.mark.parametrize(
    ("name", "number"),
    [("CAP_CHOWN", 0), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21), ("CAP_SETFCAP", 31), ("CAP_CHECKPOINT_RESTORE", 40)],
)
def test_numbers_are_the_kernels(name: str, number: int) -> None:
    assert capabilities.NUMBERS[name] == number


def test_default_is_dockers_fourteen() -> None:
    assert len(capabilities.DEFAULT) == 14
    assert capabilities.mask(capabilities.DEFAULT) == 0xA80425FB


def test_kernel_without_the_newest_is_told_by_the_last_number(tmp_path: Path) -> None:
    (tmp_path / "sys/kernel").mkdir(parents=True)
    (tmp_path / "sys/kernel/cap_last_cap").write_text("37\n")
    assert capabilities.last_cap(tmp_path) == 37
    assert "CAP_AUDIT_READ" in capabilities.known(tmp_path)
    assert "CAP_PERFMON" not in capabilities.known(tmp_path)


@given(st.frozensets(st.sampled_from(capabilities.NAMES)))
def test_mask_and_names_are_two_forms_of_one_set(names: frozenset[str]) -> None:
    assert capabilities.from_mask(capabilities.mask(names)) == names
    assert set(capabilities.in_order(names)) == names


def test_own_bounding_set_is_what_the_kernel_says() -> None:
    assert f"CapBnd:\t{capabilities.bounding():016x}\n" in Path("/proc/self/status").read_text()


@pytest.mark.parametrize(
    ("text", "canonical", "pair"),
    [
        ("nofile=1024", "nofile=1024:1024", (1024, 1024)),
        ("nofile=1024:2048", "nofile=1024:2048", (1024, 2048)),
        ("core=0", "core=0:0", (0, 0)),
        ("core=-1", "core=unlimited:unlimited", (resource.RLIM_INFINITY,) * 2),
        ("memlock=64:unlimited", "memlock=64:unlimited", (64, resource.RLIM_INFINITY)),
    ],
)
def test_ulimit_has_a_canonical_form(text: str, canonical: str, pair: tuple[int, int]) -> None:
    limit = rlimits.parse(text)
    assert str(limit) == canonical
    assert limit.pair == pair
    assert rlimits.parse(canonical) == limit


@pytest.mark.parametrize(
    "text",
    ["", "nofile", "nofile=", "nofile=x", "nofile=2:1", "nofile=unlimited:5", "as=1", "nofile=1:2:3", "NOFILE=1"],
)
def test_ulimit_that_is_none_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^ulimits: "):
        rlimits.parse(text)


@pytest.mark.parametrize("name", sorted(set(rlimits.NUMBERS) - {"locks", "rttime"}))  # which the library lacks
def test_limit_numbers_are_the_librarys(name: str) -> None:
    assert rlimits.NUMBERS[name] == getattr(resource, f"RLIMIT_{name.upper()}")


@pytest.mark.parametrize(
    ("text", "path", "canonical"),
    [
        ("net.core.somaxconn=1024", "net/core/somaxconn", "net.core.somaxconn=1024"),
        ("net/ipv4/ip_forward = 1", "net/ipv4/ip_forward", "net.ipv4.ip_forward=1"),
        ("net.ipv4.conf.eth0/5.forwarding=1", "net/ipv4/conf/eth0.5/forwarding", "net.ipv4.conf.eth0/5.forwarding=1"),
        ("net/ipv4/conf/eth0.5/forwarding=1", "net/ipv4/conf/eth0.5/forwarding", "net.ipv4.conf.eth0/5.forwarding=1"),
        ("kernel.sem=250 32000 32 128", "kernel/sem", "kernel.sem=250 32000 32 128"),
        ("fs.mqueue.msg_max=10", "fs/mqueue/msg_max", "fs.mqueue.msg_max=10"),
        ("kernel.domainname=example", "kernel/domainname", "kernel.domainname=example"),
    ],
)
def test_sysctl_has_a_canonical_form(text: str, path: str, canonical: str) -> None:
    found = sysctls.parse(text)
    assert (found.path, str(found)) == (path, canonical)
    assert sysctls.parse(canonical) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "net.core.somaxconn",
        "net.core.somaxconn=",
        "=1",
        "net=1",
        "vm.swappiness=1",
        "kernel.hostname=x",
        "kernel.core_pattern=|/x",
        "net/../kernel/core_pattern=x",
        "net..x=1",
        "fs.mqueue=1",
        "netx.a=1",
    ],
)
def test_sysctl_of_the_machine_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^sysctls: "):
        sysctls.parse(text)


@pytest.mark.parametrize(
    ("text", "setting"),
    [("net.core.somaxconn=1", "network"), ("kernel.msgmax=1", "ipc_mode"), ("kernel.domainname=a", "uts_mode")],
)
def test_sysctl_of_a_shared_namespace_is_invalid(text: str, setting: str) -> None:
    sysctl = sysctls.parse(text)
    sysctls.check(sysctl, own_network=True, own_ipc=True, own_uts=True)
    with pytest.raises(Invalid, match=f"see {setting}$"):
        sysctls.check(
            sysctl, own_network=setting != "network", own_ipc=setting != "ipc_mode", own_uts=setting != "uts_mode"
        )


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/dev/fuse", "/dev/fuse:/dev/fuse:rwm"),
        ("/dev/fuse:rw", "/dev/fuse:/dev/fuse:rw"),
        ("/dev/sda:/dev/disk", "/dev/sda:/dev/disk:rwm"),
        ("/dev/sda:/dev/disk:mr", "/dev/sda:/dev/disk:rm"),
        ("/dev//snd/", "/dev/snd:/dev/snd:rwm"),
    ],
)
def test_device_has_a_canonical_form(text: str, canonical: str) -> None:
    assert str(devices.parse(text)) == canonical
    assert devices.parse(canonical) == devices.parse(text)


@pytest.mark.parametrize(
    "text", ["", "fuse", "/dev/fuse:", "/dev/a:b", "/dev/a:/dev/b:x", "/dev/a:/b:r:w", "/", "/dev/../etc", "/dev/a:rr"]
)
def test_device_that_is_none_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match=r"^devices: "):
        devices.parse(text)


def test_device_is_looked_up_with_its_numbers() -> None:
    nodes, rules = devices.look_up(devices.parse("/dev/null:/dev/nothing:r"))
    assert [(node.path, node.kind, node.major, node.minor) for node in nodes] == [("/dev/nothing", "c", 1, 3)]
    assert rules == (DeviceRule("c", 1, 3, "r"),)
    assert nodes[0].rdev == os.stat("/dev/null").st_rdev
    assert nodes[0].file_type == stat.S_IFCHR


def test_link_to_a_device_gives_the_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    nodes, _ = devices.look_up(devices.parse(f"{tmp_path}/link:/dev/z"))
    assert [(node.path, node.minor) for node in nodes] == [("/dev/z", 5)]


def test_directory_gives_every_device_below() -> None:
    nodes, rules = devices.look_up(devices.parse("/dev:/machine"))
    assert "/machine/null" in [node.path for node in nodes]
    assert DeviceRule("c", 1, 3) in rules
    assert len(set(rules)) == len(rules)


@pytest.mark.parametrize(
    ("text", "error"), [("/dev/no-such-thing", NotFound), ("/proc/version", Invalid), ("/sys/kernel", Invalid)]
)
def test_what_is_no_device_is_refused_at_look_up(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^devices: "):
        devices.look_up(devices.parse(text))


def test_too_many_files_that_are_no_devices_are_called_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_MOST", 3)
    for number in range(3):
        (tmp_path / str(number)).touch()
    with pytest.raises(Invalid, match="there is no device below"):
        devices.look_up(devices.parse(str(tmp_path)))
    (tmp_path / "one too many").touch()
    with pytest.raises(Invalid, match=f"more than 3 files below {tmp_path}, and none of the first is a device$"):
        devices.look_up(devices.parse(str(tmp_path)))
    with pytest.raises(Invalid, match="more than 3 files below /dev"):
        devices.look_up(devices.parse("/dev"))


@pytest.mark.parametrize("node", devices.DEFAULT_NODES, ids=lambda node: node.path)
def test_default_nodes_are_the_machines(node: devices.Node) -> None:
    assert os.stat(node.path).st_rdev == node.rdev


@pytest.mark.parametrize("path", [*masks.MASKED, *masks.READ_ONLY])
def test_masked_paths_are_absolute_and_below_the_kernels_file_systems(path: str) -> None:
    assert path.startswith(("/proc/", "/sys/"))
    assert os.path.normpath(path) == path
