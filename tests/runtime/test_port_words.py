"""Published ports as words, and who has which."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from pydock.runtime.errors import Invalid, Taken
from pydock.runtime.network import nft, ports
from pydock.runtime.network.claims import Claims
from pydock.runtime.network.ports import Port, exposed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("8080:80", Port("", 8080, 80)),
        ("8080:80/tcp", Port("", 8080, 80)),
        ("53:53/udp", Port("", 53, 53, 1, "udp")),
        ("9:9/sctp", Port("", 9, 9, 1, "sctp")),
        ("127.0.0.1:8080:80", Port("127.0.0.1", 8080, 80)),
        ("0.0.0.0:8080:80", Port("", 8080, 80)),
        ("[::1]:8080:80", Port("::1", 8080, 80)),
        ("[::]:8080:80", Port("", 8080, 80, only6=True)),
        ("[FE80:0::1]:8080:80", Port("fe80::1", 8080, 80)),
        ("8000-8009:80-89", Port("", 8000, 80, 10)),
        ("0:80", Port("", 0, 80)),
        ("8000-8009:80/udp", Port("", 8000, 80, protocol="udp", choices=10)),
        ("0:80-82", Port("", 0, 80, 3)),
        ("1-65535:1-65535", Port("", 1, 1, 65535)),
        ("1-16384:2-16385", Port("", 1, 2, 16384)),
        ("0:1-1000", Port("", 0, 1, 1000)),
        (" 1:2 ", Port("", 1, 2)),
    ],
)
def test_items_are_understood(text: str, wanted: Port) -> None:
    assert Port.parse(text) == wanted
    assert Port.parse(str(wanted)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "80",
            ":80",
            "80:",
            "a:80",
            "80:a",
            "80:80/icmp",
            "80:80/",
            "80:80/TCP",
            "80:80:80:80",
            "-80:80",
            "80:-80",
        ),
        *(
            "65536:80",
            "80:65536",
            "80:0",
            "8000-8002:80-81",
            "8000:80-81",
            "8001-8000:81-80",
            "0-1:80-81",
            "1-16385:2-16386",
            "0:1-1001",
            "8000-:80",
            "8000--1:80",
        ),
        *(
            "1.2.3:80:80",
            "1.2.3.400:80:80",
            "::1:80:80",
            "[::1:80:80",
            "[1.2.3.4]x:80:80",
            "host:80:80",
            "[]:80:80",
            "80 :80",
            "80:80 tcp",
        ),
        *(
            "80:80/tcp/udp",
            "80,81:80,81",
            "0x50:80",
            "８０:80",
            "*:80",
            "80:80\t81:81",
            "1e3:80",
            "+80:80",
            "80:80/udp6",
        ),
    ],
)
def test_what_is_none_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="ports"):
        Port.parse(text)


def test_what_an_image_exposes() -> None:
    assert exposed(["80", "443/tcp", "53/udp", "7000-7001", "x", "1/icmp", "0"]) == [
        Port("", 0, 80),
        Port("", 0, 443),
        Port("", 0, 53, 1, "udp"),
        Port("", 0, 7000),
        Port("", 0, 7001),
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80:80", ["tcp:0.0.0.0:80"]),
        ("9-11:1-3/udp", ["udp:0.0.0.0:9", "udp:0.0.0.0:10", "udp:0.0.0.0:11"]),
        ("127.0.0.1:80-81:1-2", ["tcp:127.0.0.1:80", "tcp:127.0.0.1:81"]),
        ("[::]:80:80", ["tcp::::80"]),
        ("[::1]:80:80", ["tcp:::1:80"]),
    ],
)
def test_places_on_the_machine(text: str, wanted: list[str]) -> None:
    port = Port.parse(text)
    assert list(port.places()) == wanted
    assert all(map(port.has, wanted))


@pytest.mark.parametrize(
    "place",
    ["tcp:0.0.0.0:8", "tcp:0.0.0.0:11", "udp:0.0.0.0:9", "tcp:127.0.0.1:9", "tcp::::9", "tcp:0.0.0.0:9-10"]
    + ["tcp:0.0.0.0:09", "tcp:0.0.0.0:", "tcp:0.0.0.0:٩", "tcp:0.0.0.0:²", "9", ""],
)
def test_what_is_no_place_of_a_port(place: str) -> None:
    assert not Port.parse("9-10:9-10").has(place)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("80:80", "80:81", True),
        ("80:80", "81:80", False),
        ("80:80", "80:80/udp", False),
        ("127.0.0.1:80:80", "80:80", True),
        ("127.0.0.1:80:80", "127.0.0.2:80:80", False),
        ("80-90:80-90", "90-95:1-6", True),
        ("80-90:80-90", "91-95:1-5", False),
        ("[::]:80:80", "80:80", True),
        ("[::]:80:80", "[::1]:80:80", True),
        ("[::]:80:80", "127.0.0.1:80:80", False),
    ],
)
def test_what_overlaps(one: str, other: str, wanted: bool) -> None:
    assert Port.parse(one).overlaps(Port.parse(other)) is wanted
    assert Port.parse(other).overlaps(Port.parse(one)) is wanted


@pytest.fixture
def listener(free: Callable[..., int]) -> Iterator[int]:
    """A port where this process listens, and nobody at the 99 behind it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", free(100)))
        found.listen()
        yield found.getsockname()[1]


def test_who_listens_is_named(listener: int) -> None:
    with pytest.raises(Taken, match=r"is taken by .*\(pid \d+\)"):
        Claims().find([Port("", listener, 80)], [], "a")
    with pytest.raises(Taken, match=f"{listener}:"):
        Claims().find([Port("", listener, 1, 100)], [], "a")


def test_who_listens_for_ipv4_alone_is_not_in_the_way_of_ipv6(listener: int) -> None:
    assert Claims().find([Port.parse(f"[::]:{listener}:80")], [], "a")


def test_who_has_published_is_named_and_nobody_publishes_twice(free: Callable[[], int]) -> None:
    claims, port = Claims(), free()
    claims.name_of = {"a": "web"}.__getitem__
    claims.adopt("a", claims.find([Port("", port, 80)], [], "a"))
    with pytest.raises(Taken, match="taken by container web"):
        claims.find([Port("127.0.0.1", port, 80)], [], "b")
    with pytest.raises(Taken, match="published twice"):
        claims.find([Port("", port, 81)], claims.of("a"), "a")
    claims.release("a")
    assert claims.find([Port("127.0.0.1", port, 80)], [], "b") == (Port("127.0.0.1", port, 80),)


def test_what_is_given_up_is_nobody_s_until_it_is_sure(free: Callable[[], int]) -> None:
    claims, port = Claims(), free()
    wanted = [Port("", port, 80)]
    claims.adopt("a", wanted)
    with claims.held("a"):
        claims.adopt("a", ())
        with pytest.raises(Taken, match="taken by container a"):
            claims.find(wanted, [], "b")
        assert claims.find(wanted, [], "a") == tuple(wanted)
    assert claims.find(wanted, [], "b") == tuple(wanted)
    claims.adopt("a", wanted)
    with claims.held("a"):
        claims.release("a")  # it has ended meanwhile
        assert claims.find(wanted, [], "b") == tuple(wanted)


def test_any_port_is_one_that_nobody_has() -> None:
    found = Claims().find([Port("", 0, 80), Port("", 0, 81), Port("", 0, 53, 1, "udp")], [], "a")
    assert len({port.host for port in found if port.protocol == "tcp"}) == 2
    assert all(port.host and port.chosen for port in found)
    assert [ports.parse_kept(ports.print_kept(port)) for port in found] == list(found)
    assert Port("", 0, 80).is_had_by(found[0])
    assert not Port("", 0, 81).is_had_by(found[0])
    assert not Port("", found[0].host, 80).is_had_by(found[0])  # that one is asked for by its number


def test_of_a_range_the_first_that_is_free_is_had(free: Callable[..., int]) -> None:
    first, claims = free(4), Claims()
    wanted = Port.parse(f"{first}-{first + 3}:80")
    fixed = Port("", first, 443)
    with socket.socket() as other:
        other.bind(("127.0.0.1", first + 1))
        found = claims.find([wanted, fixed], [], "a")
        assert found == (Port("", first + 2, 80, chosen=True), fixed)
        claims.adopt("a", found)
        assert claims.find([wanted], [], "b") == (Port("", first + 3, 80, chosen=True),)
        with pytest.raises(Taken, match=f"{first}-{first + 1}:80/tcp is taken, each of them"):
            claims.find([Port.parse(f"{first}-{first + 1}:80")], [], "b")
    assert wanted.is_had_by(found[0])
    assert not wanted.is_had_by(fixed)
    assert not wanted.is_had_by(replace(found[0], host=first + 4))
    assert not Port.parse(f"{first}-{first + 3}:81").is_had_by(found[0])
    assert [ports.parse_kept(ports.print_kept(port)) for port in found] == list(found)


def test_of_sctp_a_listener_of_tcp_takes_none(listener: int) -> None:
    (found,) = Claims().find([Port.parse(f"{listener}-{listener + 1}:80/sctp")], [], "a")
    assert found.host == listener


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0:80", "0:80", True),
        ("0:80", "0:81", False),
        ("80-81:80-81", "80-81:90-91", True),
        ("80-81:80", "80-81:80/tcp", True),
        ("80-81:80", "80-81:90", False),
    ],
)
def test_what_takes_another_s_place(one: str, other: str, same: bool) -> None:
    assert (ports.key(one) == ports.key(other)) is same


def test_an_address_that_is_not_the_machine_s_is_invalid(free: Callable[[], int]) -> None:
    with pytest.raises(Invalid, match="not an address of this machine"):
        Claims().find([Port("203.0.113.9", free(), 80)], [], "a")


def test_an_image_that_exposes_thousands_is_not_published_by_itself() -> None:
    with pytest.raises(Invalid, match="exposes 65535 ports"):
        exposed(["1-65535/udp"])


def test_a_range_that_keeps_its_numbers_is_a_rule() -> None:
    text = nft.table(
        [], [nft.Published(("10.0.0.2", "fd00::2"), (Port("", 1, 1, 65535), Port("127.0.0.1", 20, 20, 17, "udp")))]
    ).whole("pydock")
    assert "fib daddr type local meta l4proto tcp th dport 1-65535 dnat ip to 10.0.0.2\n" in text
    assert "fib daddr type local meta l4proto tcp th dport 1-65535 dnat ip6 to fd00::2\n" in text
    assert "ip daddr 127.0.0.1 meta l4proto udp th dport 20-36 dnat ip to 10.0.0.2\n" in text
    assert len(text) < 3000


def test_what_changes_is_all_that_is_said() -> None:
    one, two = Port("", 8080, 80), Port("", 8081, 81)
    before, after = (
        nft.table([], [nft.Published(("10.0.0.2",), item)]) for item in ((one,), (replace(one, inner=82), two))
    )
    assert after.since(before, "pydock") == (
        "flush chain inet pydock engine\n"
        "delete element inet pydock any4 { tcp . 8080 }\n"
        "add element inet pydock any4 { tcp . 8080 : 10.0.0.2 . 82, tcp . 8081 : 10.0.0.2 . 81 }\n"
    )
    assert before.since(before, "pydock") == "flush chain inet pydock engine\n"


def test_published_ports_are_elements_of_maps() -> None:
    item = (Port("", 8080, 80), Port("127.0.0.1", 53, 53, 1, "udp"), Port("", 9000, 90, 2), Port.parse("[::]:8083:83"))
    text = nft.table([], [nft.Published(("10.0.0.2", "fd00::2"), item)]).whole("pydock")
    assert " tcp . 8083 : fd00::2 . 83" in text
    assert " :: . tcp" not in text
    assert "10.0.0.2 . 83" not in text
    assert "tcp . 8080 : 10.0.0.2 . 80, tcp . 9000 : 10.0.0.2 . 90, tcp . 9001 : 10.0.0.2 . 91" in text
    assert "127.0.0.1 . udp . 53 : 10.0.0.2 . 53" in text
    assert "tcp . 8080 : fd00::2 . 80" in text
