"""Subnets, addresses, and what a container's network says: arithmetic and words, without a kernel."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.errors import Invalid, PydockError, Taken
from pydock.runtime.network import nft
from pydock.runtime.network.addresses import (
    POOLS,
    free_address,
    free_subnet,
    free_subnet6,
    mac_of,
    parse_address,
    parse_mac,
    parse_subnet,
    pool6,
)
from pydock.runtime.network.record import NetworkRecord
from pydock.runtime.network.words import Membership, joined, memberships, parse, settled
from pydock.runtime.sharing import Neighbour
from pydock.runtime.spec import Spec


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        ([], "10.213.0.0/24"),
        (["10.213.0.0/24"], "10.213.1.0/24"),
        (["10.213.0.128/32", "10.213.2.0/23"], "10.213.1.0/24"),
        (["10.0.0.0/8"], "172.24.0.0/24"),
        (["10.213.0.0/17"], "10.213.128.0/24"),
        (["0.0.0.0/0", "::/0", "fd00::/8"], "10.213.0.0/24"),
        (["10.0.0.0/8", "172.16.0.0/12"], "192.168.128.0/24"),
    ],
)
def test_the_next_subnet_that_is_free(taken: list[str], wanted: str) -> None:
    assert str(free_subnet(map(ip_network, taken))) == wanted


def test_when_all_is_routed_there_is_none() -> None:
    with pytest.raises(Taken, match="write one to subnet"):
        free_subnet(map(ip_network, ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]))


@given(st.lists(st.integers(0, 255).map(lambda n: IPv4Network((10 << 24 | 213 << 16 | n << 8, 24))), max_size=300))
def test_a_free_subnet_overlaps_nobody_s(taken: list[IPv4Network]) -> None:
    found = free_subnet(taken)
    assert not any(found.overlaps(each) for each in taken)
    assert any(found.subnet_of(pool) for pool in POOLS)


def test_the_unique_local_addresses_are_the_machine_s_own(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    machine.write_text("a\n")
    first = pool6(machine)
    assert first.prefixlen == 48
    assert first.subnet_of(IPv6Network("fd00::/8"))
    machine.write_text("b\n")
    assert pool6(machine) != first
    assert free_subnet6([], first).prefixlen == 64
    assert free_subnet6([free_subnet6([], first)], first) != free_subnet6([], first)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("", 4),
        ("10.0.0.1/24", 4),
        ("10.0.0.0/33", 4),
        ("10.0.0.0/31", 4),
        ("10.0.0.0", 4),
        ("fd00::/64", 4),
        ("10.0.0.0/24", 6),
        ("fd00::/127", 6),
        ("127.0.0.0/8", 4),
        ("224.0.0.0/8", 4),
        ("169.254.0.0/16", 4),
        ("fe80::/64", 6),
        ("::/64", 6),
        ("a/24", 4),
        ("0.0.0.0/0", 4),
        ("64.0.0.0/2", 4),
        ("240.0.0.0/24", 4),
        ("255.255.255.0/24", 4),
        ("ff02::/64", 6),
        ("::ffff:10.0.0.0/112", 6),
    ],
)
def test_what_is_no_subnet_is_invalid(text: str, version: int) -> None:
    with pytest.raises(Invalid):
        parse_subnet(text, version)


SUBNET = ip_network("10.1.2.0/29")


def test_addresses_are_given_out_one_after_another_and_not_at_once_again() -> None:
    used = [ip_address("10.1.2.1")]
    first = free_address(SUBNET, used)
    assert str(first) == "10.1.2.2"
    assert str(free_address(SUBNET, used, first)) == "10.1.2.3"
    assert str(free_address(SUBNET, used, ip_address("10.1.2.6"))) == "10.1.2.2"


def test_a_full_subnet_has_none() -> None:
    with pytest.raises(Taken, match="full"):
        free_address(SUBNET, [SUBNET.network_address + n for n in range(1, 7)])


@pytest.mark.parametrize("text", ["10.1.2.0", "10.1.2.7", "10.1.3.1", "fd00::1", "x", ""])
def test_what_no_host_can_have_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_address(text, SUBNET, "it")


def test_hardware_addresses() -> None:
    assert mac_of(ip_address("10.1.2.3")) == "02:42:0a:01:02:03"
    assert parse_mac("0A:1b:2c:3d:4e:5f") == "0a:1b:2c:3d:4e:5f"


@pytest.mark.parametrize(
    "text", ["", "0a:1b:2c:3d:4e", "0a:1b:2c:3d:4e:5g", "01:00:00:00:00:00", "00:00:00:00:00:00", "a:b:c:d:e:f"]
)
def test_what_is_no_hardware_address_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        parse_mac(text)


def neighbour(name: str) -> Neighbour:
    """That container; each joins the one behind it in the alphabet, but z."""
    network = None if name == "z" else (f"container:{chr(ord(name) + 1)}",)
    return Neighbour("", name, "running", Spec(network=network), -1)


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("front", "front"),
        ("  front   alias=WEB alias=web ", "front alias=web"),
        (
            "front alias=a ip=10.0.0.9 mac=0A:00:00:00:00:01 ip=FD00::9",
            "front ip=10.0.0.9 ip=fd00::9 mac=0a:00:00:00:00:01 alias=a",
        ),
        ("host", "host"),
        ("none", "none"),
        ("container:b", "container:b"),
    ],
)
def test_lines_have_a_canonical_form(line: str, wanted: str) -> None:
    assert parse(line, "a", neighbour) == wanted
    assert parse(wanted, "a", neighbour) == wanted


@pytest.mark.parametrize(
    "line",
    [
        *("front x", "front ip=", "front ip=1.2.3", "front mac=x", "front mac=0a:00:00:00:00:01 mac=0a:00:00:00:00:02"),
        *(
            "front alias=",
            "front alias=a_b.-c",
            "host ip=1.2.3.4",
            "none x",
            "container:a",
            "-x",
            "a/b",
            "front alias=" + "x" * 300,
        ),
    ],
)
def test_a_bad_line_is_invalid(line: str) -> None:
    with pytest.raises(Invalid):
        parse(line, "a", neighbour)


def test_who_would_join_itself_through_others_is_told() -> None:
    assert parse("container:b", "a", neighbour) == "container:b"
    with pytest.raises(Invalid, match="z can't join itself, through x, through y"):
        parse("container:x", "z", neighbour)


def test_a_container_that_is_not_there_is_not_joined() -> None:
    with pytest.raises(PydockError, match="no container"):
        parse("container:b", "a", lambda name: None)


@pytest.mark.parametrize(
    ("items", "wanted"),
    [
        (None, None),
        ((), ("none",)),
        (("a", "b"), ("a", "b")),
        (("a", "host"), ("host",)),
        (("host", "a", "b"), ("a", "b")),
        (("none", "container:x"), ("container:x",)),
    ],
)
def test_what_can_only_be_alone_gives_way_to_what_is_written_later(
    items: tuple[str, ...] | None, wanted: tuple[str, ...] | None
) -> None:
    assert settled(items) == wanted


def test_memberships() -> None:
    assert memberships(("none",)) == memberships(("host",)) == memberships(("container:x",)) == ()
    assert memberships(None) == (Membership("bridge"),)
    assert memberships(("a", "b alias=c")) == (Membership("a"), Membership("b", aliases=("c",)))
    assert (joined(("container:x",)), joined(("x",)), joined(None)) == ("x", None, None)


def record(name: str, **values: object) -> NetworkRecord:
    made = NetworkRecord(name, f"id{name}", 0, "10.1.2.0/24", "10.1.2.1", "fd00::/64", "fd00::1")
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    ("said", "comment"),
    [("/var/lib/pydock", ' {\n\tcomment "/var/lib/pydock"\n}'), ('/a"b', ""), ("/ä", ""), ("/" * 121, "")],
)
def test_a_table_is_made_where_there_is_none(said: str, comment: str) -> None:
    text = nft.table([], said=said).whole("pydock-0123abcd")
    assert text.startswith(f"create table inet pydock-0123abcd{comment}\ntable inet pydock-0123abcd {{\n")
    assert "elements" not in text


def test_rules_of_networks() -> None:
    text = nft.table(
        [record("b", internal=True), record("a", isolate=True), record("c", masquerade=False, isolate=False)]
    ).whole("pydock")
    assert 'ip saddr 10.1.2.0/24 oifname != "pd-ida" counter masquerade' in text
    assert 'ip6 saddr fd00::/64 oifname != "pd-ida" counter masquerade' in text
    assert 'iifname "pd-idb" oifname != "pd-idb" counter drop' in text
    assert 'oifname "pd-ida" iifname "pd-*" iifname != "pd-ida" counter drop' in text
    assert 'oifname != "pd-idc" counter masquerade' not in text
