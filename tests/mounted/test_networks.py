"""Networks: made, joined and left, also while a container runs; addresses that stay; a way out, and none. Real packets only."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]
#: Of the subnets that a test writes, by the IP version.
FIRST = {"": "10.99.0.1", "6": "fd00:99::1"}


def new(networks: Path, name: str, **settings: str) -> Path:
    path = networks / name
    path.mkdir()
    for key, value in settings.items():
        (path / key).write_text(value)
    return path


def started(make: Make, name: str, *lines: str, command: str = "sleep 1000") -> Path:
    c = make(name, command=command, network="".join(f"{line}\n" for line in lines))
    (c / "ctl").write_text("start")
    return c


def inside(c: Path, command: str) -> tuple[str, str]:
    """Exit code and output of a command in a container."""
    x = c / "exec/x"
    x.mkdir()
    (x / "command").write_text(command)
    (x / "ctl").write_text("start")
    code = (x / "wait").read_text().strip()
    said = (x / "log").read_text()
    x.rmdir()
    return code, said


def addresses(c: Path) -> list[tuple[str, str]]:
    """Network and address, without bits."""
    return [(line.split()[0], line.split()[1].partition("/")[0]) for line in (c / "address").read_text().splitlines()]


def reaches(c: Path, address: str) -> bool:
    return inside(c, f"ping {'-6' if ':' in address else '-4'} -c 1 -W 30 {address}")[0] == "0"


def test_a_network_has_a_subnet_that_nobody_has(networks: Path) -> None:
    one, two = new(networks, "one"), new(networks, "two")
    assert (one / "subnet").read_text() != (two / "subnet").read_text()
    for path in (one, two):
        assert (path / "gateway").read_text().strip() == (path / "subnet").read_text().partition("/")[0][:-1] + "1"
        assert (path / "subnet6").read_text().startswith("fd")
        assert [(path / name).read_text() for name in ("mtu", "internal", "isolate", "masquerade")] == [
            "1500\n",
            "0\n",
            "0\n",
            "1\n",
        ]


def test_a_subnet_that_the_machine_routes_is_not_taken(own_engine: Engine) -> None:
    subprocess.run(["ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.213.0.77/16", "dev", "up0"], check=True)
        subprocess.run(["ip", "link", "set", "up0", "up"], check=True)
        path = own_engine.tree / "networks/n"
        path.mkdir()
        assert IPv4Network((path / "subnet").read_text().strip()).subnet_of(IPv4Network("172.24.0.0/14"))
        with pytest.raises(OSError, match="ddress already in use"):
            (path / "subnet").write_text("10.213.7.0/24")
        assert "up0" in (path / "error").read_text()
        path.rmdir()
    finally:
        subprocess.run(["ip", "link", "del", "up0"], check=True)


@pytest.mark.parametrize("userns", ["", "auto"])
def test_members_reach_each_other_and_the_gateway(networks: Path, make: Make, userns: str) -> None:
    front = new(networks, "front")
    a = make("a", command="sleep 1000", network="front", hostname="inner", **({"userns": userns} if userns else {}))
    (a / "ctl").write_text("start")
    b = started(make, "b", "front")
    for _, address in addresses(b):
        assert reaches(a, address)
    for name in ("gateway", "gateway6"):
        assert reaches(a, (front / name).read_text().strip())
    assert sorted(path.name for path in (front / "members").iterdir()) == ["a", "b"]
    own = "".join(f"{address}\tinner a\n" for _, address in addresses(a))
    assert inside(a, "cat /etc/hosts")[1].endswith(own)
    assert inside(a, "hostname -i")[1].split()[0] in {address for _, address in addresses(a)}


def test_an_address_is_kept_across_restarts_and_given_back_in_the_end(networks: Path, make: Make) -> None:
    new(networks, "front")
    a, b = started(make, "a", "front"), started(make, "b", "front")
    before = (a / "address").read_text()
    (a / "ctl").write_text("stop 0")
    assert (a / "address").read_text() == ""
    c = started(make, "c", "front")
    (a / "ctl").write_text("start")
    assert (a / "address").read_text() == before
    assert len({address for each in (a, b, c) for _, address in addresses(each)}) == 6


def test_address_and_hardware_address_may_be_asked_for(networks: Path, make: Make) -> None:
    front = new(networks, "front", subnet="10.99.0.0/24")
    a = started(make, "a", "front ip=10.99.0.9 mac=0a:00:00:00:00:09")
    assert (a / "address").read_text().splitlines()[0] == "front 10.99.0.9/24 0a:00:00:00:00:09"
    assert "0a:00:00:00:00:09" in inside(a, "cat /sys/class/net/eth0/address")[1]
    assert (front / "gateway").read_text() == "10.99.0.1\n"


def test_networks_are_joined_and_left_while_it_runs(networks: Path, make: Make) -> None:
    front, back = new(networks, "front"), new(networks, "back")
    a, b = started(make, "a", "front"), started(make, "b", "back")
    (address,) = (each for network, each in addresses(b) if ":" not in each)
    with open(a / "network", "a") as file:
        file.write("back\n")
    assert (a / "network").read_text() == "front\nback\n"
    assert {network for network, _ in addresses(a)} == {"front", "back"}
    assert reaches(a, address)
    assert f"default via {(front / 'gateway').read_text().strip()} " in inside(a, "ip route")[1]
    with open(a / "network", "a") as file:
        file.write("-front\n")
    assert {network for network, _ in addresses(a)} == {"back"}
    assert f"default via {(back / 'gateway').read_text().strip()} " in inside(a, "ip route")[1]
    assert sorted(inside(a, "ls /sys/class/net")[1].split()) == ["eth1", "lo"]
    assert reaches(a, address)


def test_links_in_members_connect_and_disconnect(networks: Path, make: Make, engine: Engine) -> None:
    front, back = new(networks, "front"), new(networks, "back")
    a = started(make, "a", "front")
    os.symlink("../../../containers/a", back / "members/a")
    assert (a / "network").read_text() == "front\nback\n"
    assert os.path.samefile(back / "members/a", a)
    (front / "members/a").unlink()
    assert (a / "network").read_text() == "back\n"


def test_one_that_runs_changes_only_a_network_that_is_its_own(networks: Path, make: Make, errno_of: ErrnoOf) -> None:
    new(networks, "front")
    a, b, c = started(make, "a", "front"), started(make, "b", "host"), started(make, "c", "container:a")
    assert errno_of(a / "network", "host\n") == errno.EBUSY
    assert errno_of(a / "network", "container:b\n") == errno.EBUSY
    assert errno_of(b / "network", "front\n") == errno.EBUSY
    assert errno_of(c / "network", "none\n") == errno.EBUSY
    assert errno_of(a / "network", "nosuch\n") == errno.ENOENT
    assert [(each / "network").read_text() for each in (a, b, c)] == ["front\n", "host\n", "container:a\n"]


def test_the_last_network_is_left_and_the_first_joined_while_it_runs(networks: Path, make: Make) -> None:
    front = new(networks, "front")
    a = answering(make, "a", "front", ports="8080:80\n")
    assert said_at(8080) == "a"
    (front / "members/a").unlink()
    assert [(a / name).read_text() for name in ("network", "address", "ports.bound", "ports")] == [
        *("none\n", "", "", "8080:80\n"),
    ]
    assert inside(a, "ls /sys/class/net")[1].split() == ["lo"]
    assert inside(a, "cat /etc/resolv.conf")[1] == ""
    os.symlink("../../../containers/a", front / "members/a")
    assert (a / "network").read_text() == "front\n"
    assert "default via" in inside(a, "ip route")[1]
    assert said_at(8080) == "a"
    with open(a / "network", "a") as file:
        file.write("-front\n")
    assert ((a / "network").read_text(), (a / "address").read_text()) == ("none\n", "")
    front.rmdir()


def test_a_network_that_is_named_is_busy_and_says_by_whom(networks: Path, make: Make, errno_of: ErrnoOf) -> None:
    front = new(networks, "front")
    a = make("a", network="front")
    with pytest.raises(OSError, match="busy"):
        front.rmdir()
    assert (front / "error").read_text() == "networks/front is in use by a\n"
    assert errno_of(front / "subnet", "10.77.0.0/24") == errno.EBUSY
    a.rmdir()
    front.rmdir()


def test_an_internal_one_has_no_way_out(networks: Path, make: Make) -> None:
    front, inner = new(networks, "front"), new(networks, "inner", internal="1")
    a, b = started(make, "a", "inner"), started(make, "b", "inner", "front")
    assert "default" not in inside(a, "ip route")[1]
    assert f"default via {(front / 'gateway').read_text().strip()} " in inside(b, "ip route")[1]
    assert all(reaches(a, each) for network, each in addresses(b) if network == "inner")
    assert "drop" in (inner / "rules").read_text()


def test_who_has_joined_one_that_is_renamed_finds_it_by_its_new_name(networks: Path, make: Make) -> None:
    new(networks, "front")
    a = started(make, "a", "front")
    b = started(make, "b", "container:a", command="sleep 1000")
    a.rename(a.with_name("c"))
    assert (b / "network").read_text() == "container:c\n"
    lines = [line.split() for line in inside(b, "cat /etc/hosts")[1].splitlines()]
    assert {line[0] for line in lines if line[-1] == "c"} == {address for _, address in addresses(a.with_name("c"))}


def test_another_container_s_network_is_joined(networks: Path, make: Make, errno_of: ErrnoOf) -> None:
    new(networks, "front")
    a = started(make, "a", "front")
    b = started(make, "b", "container:a", command="sh -c 'cat /sys/class/net/eth0/address; grep -w a /etc/hosts'")
    assert (b / "wait").read_text() == "0\n"
    mac, own, _ = (b / "log").read_text().splitlines()
    assert mac in (a / "address").read_text()
    assert own.split()[0] in {address for _, address in addresses(a)}
    (a / "ctl").write_text("kill")
    assert errno_of(b / "ctl", "start") == errno.EBUSY
    assert "not running" in (b / "error").read_text()
    assert errno_of(b / "network", "container:b") == errno.EINVAL
    assert errno_of(b / "network", "container:nobody") == errno.ENOENT


def test_an_unmount_takes_down_what_nobody_is_in_any_more(own_engine: Engine, links: Callable[[], list[str]]) -> None:
    there = set(links())
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("sleep 1000")
    (c / "ctl").write_text("start")
    (bridge,) = [each for each in set(links()) - there if each.startswith("pd-")]
    own_engine.umount()
    assert bridge in links()
    assert own_engine.table
    own_engine.start()
    (c / "ctl").write_text("kill")
    own_engine.umount()
    assert bridge not in links()
    assert not own_engine.table
    own_engine.start()
    (c / "ctl").write_text("start")
    assert bridge in links()


def test_the_default_network_has_a_bridge_when_it_is_first_used(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("sleep 1000")
    assert (c / "network").read_text() == "bridge\n"
    bridge = own_engine.tree / "networks/bridge"
    (bridge / "subnet").write_text("10.199.0.0/24")
    (c / "ctl").write_text("start")
    assert [network for network, _ in addresses(c)] == ["bridge", "bridge"]
    assert "bridge 10.199.0.2/24 " in (c / "address").read_text()
    with pytest.raises(OSError, match="busy"):
        (bridge / "subnet").write_text("10.198.0.0/24")
    (c / "ctl").write_text("kill")
    c.rmdir()


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("subnet", "10.1.2.3/24", errno.EINVAL),
        ("subnet", "", errno.EINVAL),
        ("subnet6", "fe80::/64", errno.EINVAL),
        ("gateway", "10.99.0.0", errno.EINVAL),
        ("gateway", "x", errno.EINVAL),
        ("mtu", "67", errno.EINVAL),
        ("mtu", "big", errno.EINVAL),
        ("internal", "maybe", errno.EINVAL),
    ],
)
def test_a_bad_setting_is_refused(networks: Path, errno_of: ErrnoOf, name: str, text: str, number: int) -> None:
    path = new(networks, "n", subnet="10.99.0.0/24")
    before = (path / name).read_text()
    assert errno_of(path / name, text + "\n") == number
    assert (path / "error").read_text() != ""
    assert (path / name).read_text() == before


@pytest.mark.parametrize("version", ["", "6"])
@pytest.mark.parametrize("text", ["", "\n"])
def test_a_gateway_that_is_unset_is_the_first_address(
    networks: Path, errno_of: ErrnoOf, version: str, text: str
) -> None:
    path = new(networks, "n", subnet="10.99.0.0/24", gateway="10.99.0.9", subnet6="fd00:99::/64", gateway6="fd00:99::9")
    (path / f"gateway{version}").write_text(text)
    assert (path / f"gateway{version}").read_text() == f"{FIRST[version]}\n"
    assert (path / "subnet6").read_text() == "fd00:99::/64\n"
    (path / "subnet6").write_text(text)
    (path / "gateway6").write_text(text)  # as it is already
    assert [(path / name).read_text() for name in ("subnet6", "gateway6")] == ["", ""]
    assert errno_of(path / "gateway6", "fd00:99::9") == errno.EINVAL


def test_a_subnet_can_not_be_unset(networks: Path) -> None:
    path = new(networks, "n", subnet="10.99.0.0/24", gateway="10.99.0.9")
    with pytest.raises(OSError, match="nvalid"):
        os.truncate(path / "subnet", 0)
    assert "subnet is needed" in (path / "error").read_text()
    assert [(path / name).read_text() for name in ("subnet", "gateway")] == ["10.99.0.0/24\n", "10.99.0.9\n"]


def test_settings_of_a_network_hold(networks: Path, make: Make) -> None:
    path = new(networks, "n", subnet="10.99.0.0/24", gateway="10.99.0.254", subnet6="", mtu="1400")
    a = started(make, "a", "n")
    assert [network for network, _ in addresses(a)] == ["n"]
    assert inside(a, "cat /sys/class/net/eth0/mtu")[1] == "1400\n"
    assert "default via 10.99.0.254 " in inside(a, "ip route")[1]
    assert (path / "subnet6").read_text() == ""


def test_what_leaves_the_machine_has_the_machine_s_address(networks: Path, make: Make, outside: str) -> None:
    new(networks, "n")
    a = started(make, "a", "n")
    assert reaches(a, "198.51.100.2")
    code, said = inside(a, "sh -c 'echo | nc -w 60 198.51.100.2 7'")
    assert (code, said.strip()) == ("0", "198.51.100.1"), said


@pytest.fixture
def outside() -> Iterator[str]:
    """A host beyond the machine, which knows the machine's address and no other; its port 7 tells who asks."""
    host = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up; echo ready; exec sleep 1000"], stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    assert host.stdout.readline() == b"ready\n"
    there = ["nsenter", f"--net=/proc/{host.pid}/ns/net"]
    teller = None
    try:
        for command in (
            f"ip link add out0 type veth peer name eth0 netns {host.pid}",
            "ip addr add 198.51.100.1/24 dev out0",
            "ip link set out0 up",
        ):
            subprocess.run(command.split(), check=True)
        for command in ("ip addr add 198.51.100.2/24 dev eth0", "ip link set eth0 up"):
            subprocess.run([*there, *command.split()], check=True)
        teller = subprocess.Popen(
            [*there, "socat", "-t60", "TCP-LISTEN:7,reuseaddr,fork", "SYSTEM:read line; echo $SOCAT_PEERADDR"]
        )
        while subprocess.run([*there, "sh", "-c", "ss -ltn | grep -q :7"], check=False).returncode:
            pass
        yield "198.51.100.2"
    finally:
        for process in (teller, host):
            if process is not None:
                process.terminate()
                process.wait(60)
        host.stdout.close()


def neighbours(c: Path, address: str) -> str:
    """What the container has for the hardware address of *address*."""
    assert reaches(c, address)
    return next(line for line in inside(c, "cat /proc/net/arp")[1].splitlines() if line.split()[0] == address).split()[
        3
    ]


def test_the_gateway_stays_where_it_is_as_members_come_and_go(networks: Path, make: Make) -> None:
    front = new(networks, "front")
    gateway = (front / "gateway").read_text().strip()
    a = started(make, "a", "front mac=fe:ff:ff:ff:ff:ff")
    before = neighbours(a, gateway)
    for name in ("b", "c", "d", "e"):
        started(make, name, "front")
        assert neighbours(a, gateway) == before
    for name in ("b", "c", "d", "e"):
        (a.with_name(name) / "ctl").write_text("kill")
    assert neighbours(a, gateway) == before


def answering(make: Make, name: str, *lines: str, **settings: str) -> Path:
    """A container that says *name* at its port 80."""
    network = "".join(f"{line}\n" for line in lines)
    c = make(name, command=f"nc -ll -p 80 -e echo {name}", network=network, **settings)
    (c / "ctl").write_text("start")
    return c


def said_at(port: int) -> str:
    """What is said at a port of the machine, once somebody answers there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = subprocess.run(
            ["socat", "-u", f"TCP:127.0.0.1:{port}", "-"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and done.stdout:
            return done.stdout.strip()
    raise AssertionError(f"nobody answers at {port}")


def test_a_document_moves_one_that_runs(networks: Path, make: Make) -> None:
    new(networks, "front")
    back = new(networks, "back")
    a = answering(make, "a", "front", ports="8080:80\n", hosts="x 192.0.2.1\n")
    assert said_at(8080) == "a"
    text = (a / "spec.toml").read_text()
    text = (
        text.replace('"front"', '"back alias=db"').replace("8080:80", "8081:80").replace("x 192.0.2.1", "y 192.0.2.2")
    )
    (a / "spec.toml").write_text(f'dns = ["192.0.2.53"]\n{text}')
    assert {network for network, _ in addresses(a)} == {"back"}
    assert inside(a, "ls /sys/class/net")[1].split() == ["eth1", "lo"]
    assert f"default via {(back / 'gateway').read_text().strip()} " in inside(a, "ip route")[1]
    hosts, resolver = inside(a, "cat /etc/hosts")[1], inside(a, "cat /etc/resolv.conf")[1]
    own = "".join(f"{address}\t{(a / 'id').read_text()[:12]} a\n" for _, address in addresses(a))
    assert hosts.endswith(f"{own}192.0.2.2\ty\n")
    assert resolver.startswith(f"nameserver {(back / 'gateway').read_text()}")
    assert resolver.endswith("nameserver 192.0.2.53\n")
    assert said_at(8081) == "a"
    assert (a / "ports.bound").read_text() == "8081:80/tcp\n"
    assert f"db {addresses(a)[0][1]}" in (back / "names").read_text().splitlines()
    assert list((networks / "front/members").iterdir()) == []


def state_of(c: Path) -> list[str]:
    """All that a document may change, as it is."""
    files = ("network", "ports", "ports.bound", "dns", "hosts", "volumes", "address", "spec.toml")
    commands = ("cat /etc/hosts /etc/resolv.conf", "ls /sys/class/net", "ip route", "cat /proc/mounts")
    return [(c / name).read_text() for name in files] + [inside(c, command)[1] for command in commands]


@pytest.mark.parametrize(
    ("before", "after", "number"),
    [
        ('"8080:80"', '"8080:80", "8090:80"', errno.EADDRINUSE),
        ('"front"', '"front", "nosuch"', errno.ENOENT),
        ('"front"', '"front", "back ip=10.98.0.1"', errno.EBUSY),
        ('"front"', '"front ip=10.99.0.77"', errno.EBUSY),
        ('"front"', '"host"', errno.EBUSY),
        ('"x 192.0.2.1"', '"x"', errno.EINVAL),
        ('hosts = ["x', 'dns = ["nobody"]\nhosts = ["x', errno.EINVAL),
        ('"/usr:/u"', '"/usr:/u", "/usr:/dev/null/u"', errno.ENOTDIR),
        ("image = ", "tty = true\nimage = ", errno.EBUSY),
    ],
)
def test_a_document_that_is_refused_in_one_thing_changes_nothing(
    networks: Path, make: Make, before: str, after: str, number: int
) -> None:
    new(networks, "front", subnet="10.99.0.0/24")
    new(networks, "back", subnet="10.98.0.0/24")
    new(networks, "side", subnet="10.97.0.0/24")
    a = answering(make, "a", "front", ports="8080:80\n", hosts="x 192.0.2.1\n", volumes="/usr:/u\n")
    answering(make, "b", "front", ports="8090:80\n")
    text = re.sub(r"\[\n\s+(.*),\n\]", r"[\1]", (a / "spec.toml").read_text())
    (a / "spec.toml").write_text(text)
    state = state_of(a)
    assert before in text
    text = text.replace(before, after)
    for each, other in (
        ('network = ["', 'network = ["side", "' if number != errno.EBUSY or "front" in after else 'network = ["'),
        ('ports = ["', 'ports = ["8070:80", "'),
        ('hosts = ["', 'hosts = ["y 192.0.2.9", "'),
        ('volumes = ["', 'volumes = ["/etc:/e", "'),
    ):
        text = text.replace(each, other)
    with pytest.raises(OSError, match=".") as refused:
        (a / "spec.toml").write_text(text)
    assert refused.value.errno == number, (a / "error").read_text()
    assert (a / "error").read_text() != ""
    assert state_of(a) == state
    assert said_at(8080) == "a"


def test_published_ports_follow_to_another_network(networks: Path, make: Make) -> None:
    new(networks, "front")
    new(networks, "back")
    answering(make, "a", "front", ports="8080:80\n")
    assert said_at(8080) == "a"
    os.symlink("../../../containers/a", networks / "back/members/a")
    (networks / "front/members/a").unlink()
    assert said_at(8080) == "a"


def test_aliases_come_and_go_while_it_runs(networks: Path, make: Make) -> None:
    front = new(networks, "front")
    a = started(make, "a", "front")
    address = addresses(a)[0][1]
    with open(a / "network", "a") as file:
        file.write("front alias=db\n")
    assert f"db {address}" in (front / "names").read_text().splitlines()
    with open(a / "network", "a") as file:
        file.write("front\n")
    assert f"db {address}" not in (front / "names").read_text().splitlines()
    assert addresses(a)[0][1] == address


def test_on_a_full_disk_nothing_is_joined_or_left(small_engine: Engine) -> None:
    front, back = new(small_engine.tree / "networks", "front"), new(small_engine.tree / "networks", "back")
    a = small_engine.tree / "containers/a"
    a.mkdir()
    for name, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "front"), ("ctl", "start")):
        (a / name).write_text(text)
    before = (a / "address").read_text()
    with small_engine.filled():
        with pytest.raises(OSError, match="No space"):
            os.symlink("../../../containers/a", back / "members/a")
        with pytest.raises(OSError, match="No space"):
            (front / "members/a").unlink()
    assert ((a / "address").read_text(), (a / "network").read_text()) == (before, "front\n")
    assert inside(a, "ls /sys/class/net")[1].split() == ["eth0", "lo"]
    os.symlink("../../../containers/a", back / "members/a")
    assert inside(a, "ls /sys/class/net")[1].split() == ["eth0", "eth1", "lo"]


def test_a_change_that_a_death_has_cut_short_is_done_to_its_end(own_engine: Engine) -> None:
    for name in ("front", "back"):
        new(own_engine.tree / "networks", name)
    a = own_engine.tree / "containers/a"
    a.mkdir()
    for name, text in (
        *(("image", "busybox"), ("command", "sleep 1000"), ("network", "front\nback\n")),
        *(("ports", "8080:80\n"), ("ctl", "start")),
    ):
        (a / name).write_text(text)
    document = own_engine.root / "containers" / (a / "id").read_text().strip() / "spec.toml"
    own_engine.settled()
    own_engine.kill()
    text = document.read_text()
    document.write_text(text.replace('    "front",\n', "").replace("8080", "8081"))  # kept, and then it died
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    assert {network for network, _ in addresses(a)} == {"back"}
    assert inside(a, "ls /sys/class/net")[1].split() == ["eth1", "lo"]
    assert "default via" in inside(a, "ip route")[1]
    assert (a / "ports.bound").read_text() == "8081:80/tcp\n"
    assert list((own_engine.tree / "networks/front/members").iterdir()) == []
    (own_engine.tree / "networks/front").rmdir()


@pytest.mark.parametrize(
    ("network", "taken"),
    [("", True), ("bridge\n", True), ("none\n", True), ("host\n", False), ("container:x\n", False)],
)
def test_the_network_s_parameters_are_the_container_s_own_unless_it_shares_another_s(
    make: Make, errno_of: ErrnoOf, network: str, taken: bool
) -> None:
    make("x")
    c = make(command="cat /proc/sys/net/ipv4/ip_unprivileged_port_start", network=network)
    assert errno_of(c / "sysctls", "net.ipv4.ip_unprivileged_port_start=77") == (0 if taken else errno.EINVAL)
    if taken:
        (c / "ctl").write_text("start")
        (c / "wait").read_text()
        assert (c / "log").read_text() == "77\n"


def test_mtime_of_the_addresses_is_when_they_changed_while_it_runs(make: Make, networks: Path) -> None:
    new(networks, "one")
    new(networks, "two")
    c = started(make, "a", "one")
    others = [(c / name).stat().st_mtime_ns for name in ("pid", "ports.bound", "state")]
    before = (c / "address").stat().st_mtime_ns
    with (c / "network").open("a") as out:
        out.write("two\n")
    assert before < (before := (c / "address").stat().st_mtime_ns)
    (networks / "two").rename(networks / "three")
    assert before < (before := (c / "address").stat().st_mtime_ns)
    with (c / "network").open("a") as out:
        out.write("-three\n")
    assert before < (c / "address").stat().st_mtime_ns
    assert [(c / name).stat().st_mtime_ns for name in ("pid", "ports.bound", "state")] == others
