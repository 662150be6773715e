"""Other packet filters on the machine, the real programs: told where they are in the way, and passed by the lines that are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host, Tenant

KINDS = ("iptables", "legacy", "nftables", "ufw", "firewalld", "docker")
#: How each of them has its rules made anew.
AGAIN = {
    "iptables": "iptables-save | iptables-restore; ip6tables-save | ip6tables-restore",
    "legacy": "iptables-legacy-save | iptables-legacy-restore; ip6tables-legacy-save | ip6tables-legacy-restore",
    "nftables": "nft list table inet filter > /run/filter.nft; nft delete table inet filter; nft -f /run/filter.nft",
    "ufw": "ufw reload",
    "firewalld": "firewall-cmd --complete-reload",
    "docker": "iptables -t nat -F; iptables -t nat -X",
}
IPTABLES = """
for program in iptables ip6tables; do
    $program -A INPUT -i lo -j ACCEPT
    $program -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $program -P INPUT DROP
    $program -P FORWARD DROP
done
ip6tables -A INPUT -p icmpv6 -j ACCEPT
"""
FORGOTTEN = """
for program in iptables-legacy ip6tables-legacy; do
    for chain in INPUT FORWARD; do
        $program -P $chain ACCEPT
        $program -F $chain
    done
done
"""
NFTABLES = """nft -f - <<'END'
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        meta l4proto icmpv6 accept
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
END
"""


@pytest.fixture
def filters(
    tenant: Callable[..., Tenant],
    machine: Host,
    servers: str,
    outside: Host,
    setting: Callable[[str, str], None],
) -> Iterator[Callable[[str], Callable[[str], str]]]:
    """``filters(KIND)``: that one is at work from then on; what runs commands as its owner does."""

    def as_owner(command: str) -> str:
        return machine.run("sh", "-c", command)

    def move_in(kind: str) -> Callable[[str], str]:
        if kind in ("iptables", "nftables"):
            as_owner(IPTABLES if kind == "iptables" else NFTABLES)
            return as_owner
        if kind == "legacy":
            as_owner(IPTABLES.replace("tables ", "tables-legacy ").replace("tables;", "tables-legacy;"))
            stack.callback(as_owner, FORGOTTEN)
            return as_owner
        found = tenant(servers)
        if kind == "ufw":
            found.run("ufw --force enable")
            return found.run
        if kind == "firewalld":
            found.start("dbus-daemon --system --nofork")
            found.start("firewalld --nofork --nopid")
            found.run("until firewall-cmd --state; do sleep 0.1; done")
            return found.run
        setting("net/ipv4/ip_forward", "0")  # docker has the policy DROP where it is the one to write 1
        found.start("dockerd --storage-driver=vfs --data-root=/run/data --ip6tables --experimental")
        found.await_line("API listen on")
        return as_owner

    with ExitStack() as stack:
        stack.callback(machine.run, "sh", "-c", "iptables -P INPUT ACCEPT; ip6tables -P INPUT ACCEPT")
        yield move_in


def told(network: Path, *, something: bool = True) -> str:
    """What stands in the network's ``error`` in the end."""
    deadline = time.monotonic() + 60
    while bool(words := (network / "error").read_text().strip()) != something:
        assert time.monotonic() < deadline, words
        time.sleep(0.05)
    return words


@pytest.mark.parametrize("kind", KINDS)
def test_the_lines_that_are_told_let_everything_pass(
    kind: str,
    filters: Callable[[str], Callable[[str], str]],
    serving: Callable[..., Path],
    inside: Callable[[Path], Host],
    outside: Host,
    machine: Host,
    front: Path,
    free: Callable[[], int],
) -> None:
    port = free()
    a = serving("a", f"{port}:80", f"{port}:80/udp")
    assert (front / "error").read_text() == ""
    as_owner = filters(kind)
    blocked = outside.asks("192.0.2.1", port, wait=1)
    assert blocked == ("a 192.0.2.2 80" if kind == "firewalld" else "TimeoutError")
    b = serving("b")
    chains, _, lines = told(front).partition(" may drop what containers send and get: ")
    assert chains
    as_owner(lines)
    for address, peer in (("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")):
        for protocol in ("tcp", "udp"):
            assert outside.asks(address, port, protocol) == f"a {peer} 80"
            assert machine.asks(address, port, protocol).startswith("a ")
            assert inside(b).asks(address, port, protocol).startswith("a ")
    with outside.serving(port):
        for address in ("192.0.2.2", "2001:db8::2"):
            assert inside(b).asks(address, port) == "outside"
    (b / "exec/x").mkdir()
    (b / "exec/x/command").write_text("getent hosts a")
    (b / "exec/x/ctl").write_text("start")
    assert (b / "exec/x/wait").read_text() == "0\n"
    with outside.connected("192.0.2.1", port) as peer:
        file = peer.makefile("rw")
        assert file.readline() == "a 192.0.2.2 80\n"
        as_owner(AGAIN[kind])
        file.write("still there\n")
        file.flush()
        assert file.readline() == "still there\n"
        assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"
    (a / "ctl").write_text("restart 0")
    assert told(front, something=False) == ""


def test_what_others_flush_is_their_own(
    filters: Callable[[str], Callable[[str], str]],
    serving: Callable[..., Path],
    outside: Host,
    machine: Host,
    free: Callable[[], int],
) -> None:
    port = free()
    serving("a", f"{port}:80")
    for program in ("iptables", "ip6tables"):
        for table in ("filter", "nat", "mangle", "raw"):
            machine.run(program, "-t", table, "-F")
            machine.run(program, "-t", table, "-X")
    assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"
    assert outside.asks("2001:db8::1", port) == "a 2001:db8::2 80"


def test_the_table_is_made_again_when_all_are_flushed(
    engine: Engine, serving: Callable[..., Path], outside: Host, machine: Host, free: Callable[[], int]
) -> None:
    port = free()
    serving("a", f"{port}:80")
    with outside.connected("192.0.2.1", port) as peer:
        file = peer.makefile("rw")
        assert file.readline() == "a 192.0.2.2 80\n"
        machine.run("nft", "flush", "ruleset")
        deadline = time.monotonic() + 60
        while not engine.table:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        file.write("still there\n")
        file.flush()
        assert file.readline() == "still there\n"
        assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"


@pytest.mark.parametrize("masquerade", ["0", "1"])
def test_who_routes_a_network_here_reaches_members_only_where_that_is_meant(
    serving: Callable[..., Path], outside: Host, front: Path, masquerade: str
) -> None:
    (front / "masquerade").write_text(masquerade)
    a = serving("a")
    for subnet, way in (("subnet", "192.0.2.1"), ("subnet6", "2001:db8::1")):
        outside.run("ip", "route", "add", (front / subnet).read_text().strip(), "via", way)
    for line, peer in zip((a / "address").read_text().splitlines(), ("192.0.2.2", "2001:db8::2"), strict=True):
        address = line.split()[1].partition("/")[0]
        for protocol in ("tcp", "udp"):
            said = outside.asks(address, 80, protocol, wait=60 if masquerade == "0" else 0.5)
            assert said == (f"a {peer} 80" if masquerade == "0" else "TimeoutError")
