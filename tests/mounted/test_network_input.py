"""What networks and members of them refuse: the errno, one line of words, and nothing changed. Whose addresses are whose."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


@pytest.fixture
def front(networks: Path) -> Path:
    """A network with addresses that are known, beside another one."""
    for name, subnet, subnet6 in (("other", "10.98.0.0/24", "fd00:98::/64"), ("front", "10.99.0.0/24", "fd00:99::/64")):
        (networks / name).mkdir()
        (networks / name / "subnet").write_text(subnet)
        (networks / name / "subnet6").write_text(subnet6)
    return networks / "front"


def started(make: Make, name: str, network: str) -> Path:
    c = make(name, command="sleep 1000", network=network)
    (c / "ctl").write_text("start")
    return c


def words(path: Path) -> str:
    text = (path / "error").read_text()
    assert text.count("\n") == 1
    return text


@pytest.mark.parametrize(
    ("name", "text", "number", "said"),
    [
        ("subnet", "10.98.0.0/24", errno.EADDRINUSE, "networks/other"),
        ("subnet", "10.98.0.128/25", errno.EADDRINUSE, "networks/other"),
        ("subnet", "10.96.0.0/14", errno.EADDRINUSE, "networks/other"),
        ("subnet6", "fd00:98::/64", errno.EADDRINUSE, "networks/other"),
        ("subnet6", "fd00:98::8:0/112", errno.EADDRINUSE, "networks/other"),
        ("subnet", "10.97.0.0/31", errno.EINVAL, "too small"),
        ("subnet6", "fd00:97::/127", errno.EINVAL, "too small"),
        ("subnet", "fd00:97::/64", errno.EINVAL, "not a subnet of IPv4"),
        ("subnet6", "10.97.0.0/24", errno.EINVAL, "not a subnet of IPv6"),
        ("subnet", "10.97.0.1/24", errno.EINVAL, "host bits"),
        ("subnet", "0.0.0.0/0", errno.EINVAL, "not for hosts"),
        ("subnet", "127.0.0.0/8", errno.EINVAL, "not for hosts"),
        ("subnet", "10.97.0.0/24 10.96.0.0/24", errno.EINVAL, "not a subnet"),
        ("subnet", "x" * 4000, errno.EINVAL, "not a subnet"),
        ("gateway", "10.99.0.255", errno.EINVAL, "not an address of a host"),
        ("gateway", "10.98.0.1", errno.EINVAL, "not an address of a host"),
        ("gateway", "fd00:99::1", errno.EINVAL, "not an address of a host"),
        ("gateway6", "fd00:99::", errno.EINVAL, "not an address of a host"),
        ("mtu", "1e3", errno.EINVAL, "not a number of bytes"),
        ("mtu", "65536", errno.EINVAL, "not a number of bytes"),
        ("internal", "2", errno.EINVAL, "2"),
    ],
)
def test_a_network_refuses(front: Path, errno_of: ErrnoOf, name: str, text: str, number: int, said: str) -> None:
    before = {
        each: (front / each).read_text() for each in ("subnet", "gateway", "subnet6", "gateway6", "mtu", "internal")
    }
    assert errno_of(front / name, f"{text}\n") == number
    assert said in words(front)
    assert {each: (front / each).read_text() for each in before} == before


@pytest.mark.parametrize(
    ("line", "number", "said"),
    [
        ("front ip=10.98.0.9", errno.EINVAL, "not an address of a host in 10.99.0.0/24"),
        ("front ip=10.99.0.0", errno.EINVAL, "not an address of a host"),
        ("front ip=10.99.0.255", errno.EINVAL, "not an address of a host"),
        ("front ip=fd00:98::9", errno.EINVAL, "not an address of a host in fd00:99::/64"),
        ("front ip=fd00:99::", errno.EINVAL, "not an address of a host"),
        ("front ip=10.99.0.1", errno.EBUSY, "gateway"),
        ("front ip=fd00:99::1", errno.EBUSY, "gateway"),
        ("front ip=10.99.0.8 ip=10.99.0.9", errno.EINVAL, "at most"),
        ("front ip=10.99.0", errno.EINVAL, "not an address"),
        ("front mac=01:00:00:00:00:01", errno.EINVAL, "not the address of one host"),
        ("front mac=02:00", errno.EINVAL, "XX:XX"),
        ("front alias=a..b", errno.EINVAL, "not a name of a host"),
        ("front alias=" + "x" * 64, errno.EINVAL, "not a name of a host"),
        ("front port=80", errno.EINVAL, "ip=ADDRESS"),
        ("front front", errno.EINVAL, "ip=ADDRESS"),
        ("nosuch", errno.ENOENT, "mkdir networks/nosuch"),
        ("nosuch ip=10.99.0.9", errno.ENOENT, "mkdir networks/nosuch"),
        ("container:nobody", errno.ENOENT, "no container"),
        ("container:", errno.ENOENT, "no container"),
        ("container:a", errno.EINVAL, "can't join itself"),
        ("container:b", errno.EINVAL, "can't join itself, through b, through c"),
        ("host ip=10.99.0.9", errno.EINVAL, "no options"),
        ("networks/front", errno.EINVAL, "not a name"),
    ],
)
@pytest.mark.parametrize("runs", [False, True])
def test_a_member_refuses(
    front: Path, make: Make, errno_of: ErrnoOf, runs: bool, line: str, number: int, said: str
) -> None:
    a = make("a", network="other", command="sleep 1000")
    make("c", network="container:a")
    make("b", network="container:c")
    if runs:
        (a / "ctl").write_text("start")
    before = (a / "address").read_text()
    assert errno_of(a / "network", f"{line}\n") == number
    assert said in words(a)
    assert ((a / "network").read_text(), (a / "address").read_text()) == ("other\n", before)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("front ip=10.99.0.9", "10.99.0.9 is in use in front"),
        ("front ip=fd00:99::9", "fd00:99::9 is in use in front"),
        ("front mac=02:00:00:00:00:09", "02:00:00:00:00:09 is in use in front"),
    ],
)
def test_what_another_member_has_is_busy(front: Path, make: Make, errno_of: ErrnoOf, line: str, said: str) -> None:
    a = started(make, "a", "front ip=10.99.0.9 ip=fd00:99::9 mac=02:00:00:00:00:09")
    b = make("b", command="sleep 1000", network=line)
    c = started(make, "c", "other")
    assert errno_of(b / "ctl", "start") == errno.EBUSY
    assert said in words(b)
    assert errno_of(c / "network", f"{line}\n") == errno.EBUSY
    assert said in words(c)
    (a / "ctl").write_text("stop 0")
    assert errno_of(b / "ctl", "start") == errno.EBUSY  # it is a's as long as a names the network
    (a / "network").write_text("none")
    (b / "ctl").write_text("start")
    assert line.partition("=")[2] in (b / "address").read_text()


def test_a_full_network_is_told_and_has_room_again(front: Path, make: Make, errno_of: ErrnoOf) -> None:
    (front / "subnet6").write_text("")
    (front / "subnet").write_text("10.99.0.0/30")
    started(make, "a", "front")
    b, c = make("b", command="sleep 1000", network="front"), started(make, "c", "other")
    assert errno_of(b / "ctl", "start") == errno.EADDRINUSE
    assert "10.99.0.0/30 is full" in words(b)
    assert errno_of(c / "network", "front\n") == errno.EADDRINUSE
    assert "10.99.0.0/30 is full" in words(c)
    assert ((b / "state").read_text(), (c / "network").read_text()) == ("created\n", "other\n")
    (front / "members/a").unlink()
    (b / "ctl").write_text("start")
    assert (b / "address").read_text().startswith("front 10.99.0.2/30 ")


def test_who_joins_one_that_does_not_run_is_told(front: Path, make: Make, errno_of: ErrnoOf) -> None:
    a = make("a", command="sleep 1000", network="front")
    b = make("b", command="sleep 1000", network="container:a")
    assert errno_of(b / "ctl", "start") == errno.EBUSY
    assert "a is not running: it is created" in words(b)
    (a / "ctl").write_text("start")
    (a / "ctl").write_text("pause")
    (b / "ctl").write_text("start")
    assert (b / "address").read_text() == ""
    (b / "ctl").write_text("kill")
    (a / "ctl").write_text("kill")
    a.rename(a.with_name("z"))
    assert errno_of(b / "ctl", "start") == errno.EBUSY
    assert "z is not running: it is exited" in words(b)
    b.with_name("z").rmdir()
    assert errno_of(b / "ctl", "start") == errno.ENOENT
    assert 'no container "z"' in words(b)
    assert (b / "state").read_text() == "exited\n"


def ping(c: Path, address: str) -> bool:
    x = c / "exec/x"
    x.mkdir()
    (x / "command").write_text(f"ping -c 1 -W 30 {address}")
    (x / "ctl").write_text("start")
    code = (x / "wait").read_text()
    x.rmdir()
    return code == "0\n"


def test_the_address_of_one_that_has_gone_is_another_s_though_its_network_is_still_joined(
    front: Path, make: Make
) -> None:
    a = started(make, "a", "front ip=10.99.0.9")
    b = started(make, "b", "container:a")
    c = started(make, "c", "front")
    assert ping(c, "10.99.0.9")
    (a / "ctl").write_text("kill")
    a.rmdir()
    d = started(make, "d", "front ip=10.99.0.9")
    mac = (d / "address").read_text().split()[2]
    (d / "ctl").write_text("restart 0")
    bridge = (front / "rules").read_text().partition('"pd-')[2].partition('"')[0]

    def ports() -> int:
        told = subprocess.run(["bridge", "-o", "link"], capture_output=True, text=True, check=True).stdout
        return sum(f"master pd-{bridge}" in line for line in told.splitlines())

    deadline = time.monotonic() + 60  # the kernel takes a namespace apart behind its end
    while ports() != 2:  # c's and d's
        assert time.monotonic() < deadline
    assert ping(c, "10.99.0.9")
    assert mac in (d / "address").read_text()
    assert (b / "state").read_text() == "running\n"


def test_addresses_stay_across_deaths_and_restarts_and_are_given_back_by_rmdir(own_engine: Engine) -> None:
    networks, containers = own_engine.tree / "networks", own_engine.tree / "containers"
    (networks / "n").mkdir()
    for name in ("a", "b", "c"):
        (containers / name).mkdir()
        for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "n"), ("ctl", "start")):
            (containers / name / key).write_text(text)
    before = {name: (containers / name / "address").read_text() for name in ("a", "b", "c")}
    (containers / "b/ctl").write_text("kill")
    own_engine.kill()
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    (containers / "b/ctl").write_text("start")
    assert {name: (containers / name / "address").read_text() for name in before} == before
    own_engine.reboot()
    own_engine.start()
    for name in ("c", "b", "a"):
        (containers / name / "ctl").write_text("start")
    assert {name: (containers / name / "address").read_text() for name in before} == before
    (containers / "b/ctl").write_text("kill")
    (containers / "b").rmdir()
    (containers / "d").mkdir()
    address = before["b"].split()[1].partition("/")[0]
    for key, text in (("image", "busybox"), ("command", "true"), ("network", f"n ip={address}"), ("ctl", "start")):
        (containers / "d" / key).write_text(text)
    kept = own_engine.root / "networks/n.json"
    own_engine.settled()
    own_engine.kill()
    record = json.loads(kept.read_text())
    record["leases"]["0" * 64] = {
        "addresses": ["10.0.0.9"],
        "mac": "02:00:00:00:00:09",
    }  # a death before it was given back
    kept.write_text(json.dumps(record))
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    own_engine.settled()
    assert "0" * 64 not in kept.read_text()
    own_engine.clear()
    (networks / "n").rmdir()
    assert not [name for name in os.listdir(own_engine.root / "networks") if name != "bridge.json"]
