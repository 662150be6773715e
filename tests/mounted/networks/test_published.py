"""Published ports, from outside and from everywhere else: who reaches what, and whom the container sees."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host

Serving = Callable[..., Path]
FAMILY = {False: socket.AF_INET, True: socket.AF_INET6}
BRIDGES = "net/bridge/bridge-nf-call-ip6tables"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.10", "2001:db8::1", "2001:db8::10"])
def test_who_comes_from_outside_keeps_its_address(
    serving: Serving, outside: Host, free: Callable[[], int], address: str, protocol: str
) -> None:
    port = free()
    serving("a", f"{port}:80/{protocol}")
    peer = "2001:db8::2" if ":" in address else "192.0.2.2"
    assert outside.asks(address, port, protocol) == f"a {peer} 80"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_range_leads_to_a_range(serving: Serving, outside: Host, free: Callable[..., int], protocol: str) -> None:
    port = free(6)
    serving("a", f"{port}-{port + 4}:81-85/{protocol}", inner=(81, 82, 83, 84, 85))
    for number in range(5):
        assert outside.asks("192.0.2.1", port + number, protocol) == f"a 192.0.2.2 {81 + number}"
    assert outside.asks("192.0.2.1", port + 5, protocol) == "ConnectionRefusedError"


@pytest.mark.parametrize(("address", "other"), [("192.0.2.10", "192.0.2.1"), ("2001:db8::10", "2001:db8::1")])
def test_one_address_of_the_machine_may_be_given(
    serving: Serving, outside: Host, machine: Host, free: Callable[[], int], address: str, other: str
) -> None:
    port = free()
    place = f"[{address}]" if ":" in address else address
    serving("a", f"{place}:{port}:80", f"{place}:{port}:80/udp")
    for host in (outside, machine):
        for protocol in ("tcp", "udp"):
            assert host.asks(address, port, protocol).startswith("a ")
            assert host.asks(other, port, protocol) == "ConnectionRefusedError"


def test_all_addresses_of_ipv6_may_be_given(
    serving: Serving, outside: Host, machine: Host, free: Callable[[], int]
) -> None:
    port = free()
    serving("a", f"[::]:{port}:80", f"[::]:{port}:80/udp")
    serving("b", f"127.0.0.1:{port}:80")
    for host in (outside, machine):
        for protocol in ("tcp", "udp"):
            assert host.asks("2001:db8::1", port, protocol).startswith("a ")
            assert host.asks("2001:db8::10", port, protocol).startswith("a ")
            assert host.asks("192.0.2.1", port, protocol) == "ConnectionRefusedError"


def test_two_containers_have_the_same_port_of_two_addresses(
    serving: Serving, outside: Host, free: Callable[[], int]
) -> None:
    port = free()
    serving("a", f"192.0.2.1:{port}:80")
    serving("b", f"192.0.2.10:{port}:80")
    assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"
    assert outside.asks("192.0.2.10", port) == "b 192.0.2.2 80"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_containers_reach_it_by_the_machine_s_address(
    serving: Serving,
    outside: Host,
    free: Callable[[], int],
    engine: Engine,
    inside: Callable[[Path], Host],
    address: str,
    protocol: str,
) -> None:
    port = free()
    a, b = serving("a", f"{port}:80/{protocol}"), serving("b")
    back = engine.tree / "networks/back"
    back.mkdir()
    try:
        c = serving("c", network="back")
        for each in (a, b, c):
            assert inside(each).asks(address, port, protocol).startswith("a ")
    finally:
        engine.clear()
        back.rmdir()


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "192.0.2.1", "2001:db8::1"])
def test_the_machine_reaches_it_by_its_loopback_and_addresses(
    serving: Serving,
    outside: Host,
    machine: Host,
    free: Callable[[], int],
    setting: Callable[[str, str], None],
    address: str,
    protocol: str,
) -> None:
    setting(BRIDGES, "0")
    port = free()
    serving("a", f"{port}:80/{protocol}")
    assert machine.asks(address, port, protocol).startswith("a ")


def test_the_loopback_of_ipv6_may_be_given(
    serving: Serving, outside: Host, machine: Host, free: Callable[[], int], setting: Callable[[str, str], None]
) -> None:
    setting(BRIDGES, "0")
    port = free()
    serving("a", f"[::1]:{port}:80")
    assert machine.asks("::1", port).startswith("a ")
    assert machine.asks("2001:db8::1", port) == "ConnectionRefusedError"
    assert outside.asks("2001:db8::1", port) == "ConnectionRefusedError"


def test_where_bridges_ask_the_filter_the_loopback_of_ipv6_refuses_at_once(
    serving: Serving,
    machine: Host,
    free: Callable[[], int],
    setting: Callable[[str, str], None],
    errno_of: Callable[[Path, str], int],
) -> None:
    setting(BRIDGES, "1")
    port = free()
    a = serving("a", f"{port}:80")
    assert machine.asks("::1", port) == "ConnectionRefusedError"
    assert machine.asks("127.0.0.1", port).startswith("a ")
    (a / "ctl").write_text("kill")
    (a / "ports").write_text(f"[::1]:{port}:80\n")
    assert errno_of(a / "ctl", "start") == errno.EOPNOTSUPP
    assert "bridge-nf-call-ip6tables" in (a / "error").read_text()


@pytest.mark.parametrize("asking", ["0", "1"])
@pytest.mark.parametrize("who", ["outside", "container"])
@pytest.mark.parametrize(("address", "gateway"), [("127.0.0.1", "gateway"), ("::1", "gateway6")])
def test_nobody_else_reaches_what_the_loopback_has(
    serving: Serving,
    outside: Host,
    free: Callable[[], int],
    setting: Callable[[str, str], None],
    inside: Callable[[Path], Host],
    front: Path,
    address: str,
    gateway: str,
    who: str,
    asking: str,
) -> None:
    """One that routes the loopback's address to the machine hears nothing, of a published port or of who listens there."""
    setting(BRIDGES, "0")
    port, other = free(), free()
    serving("a", f"{'[::1]' if ':' in address else address}:{port}:80", f"{free()}:80")
    setting(BRIDGES, asking)
    host, link, way = outside, "eth0", "2001:db8::1" if ":" in address else "192.0.2.1"
    with socket.create_server((address, other), family=FAMILY[":" in address]) as listener:
        if who == "container":
            host, way = inside(serving("b")), (front / gateway).read_text().strip()
        listener.settimeout(0)
        host.run("sysctl", "-qw", f"net.ipv4.conf.{link}.route_localnet=1")
        for place in ("127.0.0.0/8", "127.0.0.1", "::1"):
            host.run("ip", "route", "del", "local", place, "dev", "lo", "table", "local", check=False)
        host.run("ip", "route", "add", address, "via", way)
        for number in (port, other):
            assert host.asks(address, number, wait=0.5) in ("TimeoutError", "OSError")
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_port_follows_the_container_to_another_network(
    serving: Serving, outside: Host, engine: Engine, free: Callable[[], int]
) -> None:
    port = free()
    a = serving("a", f"{port}:80", f"{port}:80/udp")
    back = engine.tree / "networks/back"
    back.mkdir()
    try:
        with open(a / "network", "a") as file:
            file.write("back\n")
        assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"
        with open(a / "network", "a") as file:
            file.write("-front\n")
        for protocol in ("tcp", "udp"):
            for address in ("192.0.2.1", "2001:db8::1"):
                assert outside.asks(address, port, protocol).startswith("a ")
    finally:
        engine.clear()
        back.rmdir()
