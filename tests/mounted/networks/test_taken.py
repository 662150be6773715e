"""Ports that somebody has already: who that is, and when nobody is in the way."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from networks.conftest import Host

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


def taking(address: str, port: int, protocol: str, *, only6: bool = True) -> socket.socket:
    """A socket that has it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found = socket.socket(family, socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only6))
    found.bind((address, port))
    if protocol == "tcp":
        found.listen()
    return found


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("listening", "place", "taken"),
    [
        ("0.0.0.0", "", True),
        ("127.0.0.1", "", True),
        ("192.0.2.1", "", True),
        ("::", "", True),
        ("::1", "", True),
        ("2001:db8::1", "", True),
        ("0.0.0.0", "192.0.2.1:", True),
        ("192.0.2.1", "192.0.2.1:", True),
        ("192.0.2.1", "192.0.2.10:", False),
        ("127.0.0.1", "192.0.2.10:", False),
        ("::", "192.0.2.1:", False),
        ("2001:db8::1", "192.0.2.1:", False),
        ("::", "[2001:db8::1]:", True),
        ("2001:db8::1", "[2001:db8::1]:", True),
        ("2001:db8::1", "[2001:db8::10]:", False),
        ("0.0.0.0", "[2001:db8::1]:", False),
    ],
)
def test_a_process_is_named_and_one_elsewhere_is_not_in_the_way(
    make: Make,
    front: Path,
    outside: Host,
    free: Callable[[], int],
    errno_of: ErrnoOf,
    listening: str,
    place: str,
    taken: bool,
    protocol: str,
) -> None:
    port = free()
    c = make(command="sleep 1000", network="front", ports=f"{place}{port}:80/{protocol}\n")
    with taking(listening, port, protocol):
        assert errno_of(c / "ctl", "start") == (errno.EADDRINUSE if taken else 0)
        words = (c / "error").read_text()
    if taken:
        assert f"{port}:80/{protocol} is taken by " in words
        assert f"(pid {os.getpid()})" in words
        (c / "ctl").write_text("start")
    assert (c / "ports.bound").read_text() == f"{place}{port}:80/{protocol}\n"


def test_who_listens_at_both_versions_at_once_is_named(
    make: Make, front: Path, free: Callable[[], int], errno_of: ErrnoOf
) -> None:
    port = free()
    c = make(command="sleep 1000", network="front", ports=f"127.0.0.1:{port}:80\n")
    with taking("::", port, "tcp", only6=False):
        assert errno_of(c / "ctl", "start") == errno.EADDRINUSE
        assert f"(pid {os.getpid()})" in (c / "error").read_text()


def test_the_right_one_of_two_is_named(
    make: Make, front: Path, outside: Host, machine: Host, free: Callable[[], int], errno_of: ErrnoOf
) -> None:
    port = free()
    h = make("h", image="host", network="host", command=f"socat TCP-LISTEN:{port},bind=192.0.2.10 -")
    (h / "ctl").write_text("start")
    deadline = time.monotonic() + 60
    while f"192.0.2.10:{port}" not in machine.run("ss", "-Hltn"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    c = make("c", command="sleep 1000", network="front", ports=f"192.0.2.10:{port}:80\n")
    with taking("192.0.2.1", port, "tcp"):
        assert errno_of(c / "ctl", "start") == errno.EADDRINUSE
    assert (c / "error").read_text().endswith(f"is taken by socat (pid {(h / 'pid').read_text().strip()})\n")


def test_a_connection_that_leaves_from_the_port_is_named(
    make: Make, front: Path, outside: Host, free: Callable[[], int], errno_of: ErrnoOf
) -> None:
    with outside.serving(port := free()), socket.create_connection(("192.0.2.2", port)) as leaving:
        c = make(command="true", network="front", ports=f"{leaving.getsockname()[1]}:80\n")
        assert errno_of(c / "ctl", "start") == errno.EADDRINUSE
        assert f"(pid {os.getpid()})" in (c / "error").read_text()


def test_a_container_is_named_by_each_kind_of_overlap(
    serving: Callable[..., Path], make: Make, free: Callable[..., int], errno_of: ErrnoOf
) -> None:
    port = free(406) + 5
    serving(
        "a",
        f"{port}-{port + 9}:80-89",
        f"127.0.0.1:{port}:53/udp",
        f"{port + 100}-{port + 299}:{port + 100}-{port + 299}",
    )
    for item in (
        *(f"{port + 9}:80", f"127.0.0.1:{port}:80", f"[::1]:{port}:80", f"{port - 5}-{port}:1-6"),
        *(f"{port}:80/udp", f"{port + 299}:80", f"{port + 250}-{port + 400}:{port + 250}-{port + 400}"),
    ):
        c = make("c", command="true", network="front", ports=f"{item}\n")
        if "::1" not in item:  # which can't be published at all where bridges ask the packet filter
            assert errno_of(c / "ctl", "start") == errno.EADDRINUSE, item
            assert "is taken by container a" in (c / "error").read_text()
        c.rmdir()


def test_all_ports_in_one_range(
    make: Make, front: Path, outside: Host, free: Callable[[], int], serving: Callable[..., Path]
) -> None:
    """Those behind 53, where the networks' DNS is: they are published in a moment, where one by one they would take minutes."""
    begun = time.monotonic()
    a = serving("a", "54-65535:54-65535", "54-65535:54-65535/udp", inner=(54, 80, 65535))
    assert time.monotonic() - begun < 40
    for port in (54, 80, 65535):
        for protocol in ("tcp", "udp"):
            assert outside.asks("192.0.2.1", port, protocol) == f"a 192.0.2.2 {port}"
            assert outside.asks("2001:db8::1", port, protocol) == f"a 2001:db8::2 {port}"
    begun = time.monotonic()
    (a / "ports").write_text("")
    (a / "ports").write_text("80:80\n")
    assert time.monotonic() - begun < 20
    assert outside.asks("192.0.2.1", 80) == "a 192.0.2.2 80"
    assert outside.asks("192.0.2.1", 65535) == "ConnectionRefusedError"


def test_port_53_is_published_beside_the_networks_own_dns(
    serving: Callable[..., Path], outside: Host, machine: Host, inside: Callable[[Path], Host], front: Path
) -> None:
    a = serving("a", "53:80/udp", "53:80")
    for protocol in ("tcp", "udp"):
        assert outside.asks("192.0.2.1", 53, protocol) == "a 192.0.2.2 80"
        assert machine.asks("127.0.0.1", 53, protocol).startswith("a ")
    b = serving("b")
    gateway = (front / "gateway").read_text().strip()
    for way in ((), ("+tcp",)):
        address = inside(b).run("dig", "+short", *way, f"@{gateway}", "-q", "a").strip()
        assert address == (a / "address").read_text().split()[1].partition("/")[0]
