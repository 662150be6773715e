"""The DNS of networks: its wire format, whatever comes in; what a zone answers; whom the machine asks."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydock.runtime.errors import Invalid
from pydock.runtime.names import message, resolvers
from pydock.runtime.names.zone import Zone
from pydock.runtime.network import etc

HEADER = struct.Struct("!6H")
LABELS = st.lists(st.binary(min_size=1, max_size=63), max_size=4).map(tuple)


def question(
    name: tuple[bytes, ...], kind: int = message.A, group: int = 1, *, number: int = 7, flags: int = 0x100
) -> bytes:
    return HEADER.pack(number, flags, 1, 0, 0, 0) + message.encode(name) + struct.pack("!HH", kind, group)


def zone() -> Zone:
    made = Zone(
        {
            "name": "n",
            "bridge": "pd-0",
            "gateways": ["10.0.0.1", "fd00::1"],
            "subnets": ["10.0.0.0/24", "fd00::/64"],
        }
    )
    made.put("one", ["Web", "0123456789ab", "db"], ["10.0.0.2", "fd00::2"])
    made.put("two", ["other", "db"], ["10.0.0.3"])
    return made


def asked(made: Zone, name: str, kind: int = message.A) -> tuple[int, set[bytes]] | None:
    """The code and the data of the records."""
    found = message.name_of(name)
    assert found is not None
    data = made.answer(message.parse(question(found, kind)), message.LONGEST)
    return None if data is None else (message.code_of(data), records(data))


def records(data: bytes) -> set[bytes]:
    _, _, _, count, _, _ = HEADER.unpack_from(data)
    place = HEADER.size
    while data[place]:
        place += data[place] + 1
    place += 5
    found = set()
    for _ in range(count):
        (length,) = struct.unpack_from("!H", data, place + 10)
        found.add(data[place + 12 : place + 12 + length])
        place += 12 + length
    return found


@given(LABELS, st.integers(0, 0xFFFF), st.booleans())
def test_a_question_is_read_as_it_was_written(name: tuple[bytes, ...], number: int, wanted: bool) -> None:
    query = message.parse(question(name, message.AAAA, number=number, flags=wanted << 8))
    assert (query.number, query.kind, query.room, query.enhanced) == (number, message.AAAA, message.PLAIN, False)
    assert query.name == tuple(label.lower() for label in name)


@given(st.binary(max_size=600))
@example(HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1")
@example(HEADER.pack(1, 0, 1, 0, 0, 1) + b"\0\0\1\0\1\0\0\x29")
def test_whatever_comes_is_a_query_or_malformed(data: bytes) -> None:
    try:
        query = message.parse(data)
    except message.Malformed as error:
        code = error.code
    else:
        assert message.PLAIN <= query.room <= message.ENHANCED
        answer = message.answer(query, message.NOERROR)
        assert message.answers(answer, query, query.number)
        zone().answer(query, query.room)
        return
    if code is not None:
        answer = message.failure(data, code)
        assert answer[:2] == data[:2]
        assert message.code_of(answer) == code


@given(st.binary(max_size=600), st.integers(0, 0xFFFF))
def test_whatever_a_resolver_says_is_an_answer_or_none(data: bytes, number: int) -> None:
    query = message.parse(question((b"a",)))
    if message.answers(data, query, number):
        assert message.with_number(data, 7)[:2] == b"\0\7"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", None),
        (b"\0" * 11, None),
        (question((b"a",), flags=0x8000), None),
        (question((b"a",), flags=0x0800), message.NOTIMP),
        (question((b"a",), group=3), message.NOTIMP),
        (question((b"a",), kind=252), message.NOTIMP),
        (HEADER.pack(1, 0, 0, 0, 0, 0), message.FORMERR),
        (HEADER.pack(1, 0, 2, 0, 0, 0) + question((b"a",))[12:] * 2, message.FORMERR),
        (HEADER.pack(1, 0, 1, 1, 0, 0) + question((b"a",))[12:], message.FORMERR),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", message.FORMERR),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x05ab", message.FORMERR),
        (question((b"a",))[:-1], message.FORMERR),
        (question((b"a" * 63,) * 4), message.FORMERR),
    ],
)
def test_what_can_not_be_taken_has_its_code(data: bytes, code: int | None) -> None:
    with pytest.raises(message.Malformed) as raised:
        message.parse(data)
    assert raised.value.code == code


def test_an_answer_that_does_not_fit_says_so() -> None:
    query = message.parse(question((b"a",)))
    found = [(message.A, bytes((10, 0, 0, number))) for number in range(100)]
    assert len(records(message.answer(query, message.NOERROR, found))) == 100
    short = message.answer(query, message.NOERROR, found, room=query.room)
    assert len(short) < 512
    assert short[2] & 2
    assert message.truncated(query)[2] & 2


def test_an_answer_has_to_be_to_what_was_asked() -> None:
    query = message.parse(question((b"a",)))
    good = message.answer(query, message.NOERROR)
    assert message.answers(good, query, 7)
    for bad in (
        message.with_number(good, 8),
        question((b"a",)),
        message.answer(message.parse(question((b"b",))), message.NOERROR),
        message.answer(message.parse(question((b"a",), message.AAAA)), message.NOERROR),
    ):
        assert not message.answers(bad, query, 7)


@pytest.mark.parametrize(
    ("name", "kind", "found"),
    [
        ("web", message.A, (0, {bytes((10, 0, 0, 2))})),
        ("WEB", message.A, (0, {bytes((10, 0, 0, 2))})),
        ("0123456789ab", message.A, (0, {bytes((10, 0, 0, 2))})),
        ("web", message.AAAA, (0, {bytes.fromhex("fd00" + "0" * 27 + "2")})),
        ("db", message.A, (0, {bytes((10, 0, 0, 2)), bytes((10, 0, 0, 3))})),
        ("other", message.AAAA, (0, set())),
        ("web", 15, (0, set())),
        ("web.example.com", message.A, None),
        ("nobody", message.A, None),
        ("2.0.0.10.in-addr.arpa", message.PTR, (0, {b"\3web\0"})),
        ("3.0.0.10.in-addr.arpa", message.PTR, (0, {b"\5other\0"})),
        ("2." + "0." * 27 + "0.0.d.f.ip6.arpa", message.PTR, (0, {b"\3web\0"})),
        ("9.0.0.10.in-addr.arpa", message.PTR, None),
        ("9.1.0.10.in-addr.arpa", message.PTR, None),
        ("9.0.10.in-addr.arpa", message.PTR, None),
        ("x.0.0.10.in-addr.arpa", message.PTR, None),
    ],
)
def test_a_zone_answers_for_its_members(name: str, kind: int, found: tuple[int, set[bytes]] | None) -> None:
    assert asked(zone(), name, kind) == found


def test_a_member_that_has_gone_has_no_names() -> None:
    made = zone()
    made.put("one", [], [])
    assert asked(made, "web") is None
    assert asked(made, "db") == (0, {bytes((10, 0, 0, 3))})
    assert asked(made, "2.0.0.10.in-addr.arpa", message.PTR) is None
    assert (made.member_at(ip_address("10.0.0.2")), made.member_at(ip_address("10.0.0.3"))) == ("", "two")
    made.put("two", ["new"], ["10.0.0.4"])
    assert asked(made, "other") is None
    assert asked(made, "new") == (0, {bytes((10, 0, 0, 4))})


def test_a_zone_covers_the_addresses_of_its_subnets() -> None:
    for name, wanted in (
        ("9.0.0.10.in-addr.arpa", True),
        ("9.1.0.10.in-addr.arpa", False),
        ("0.0.10.in-addr.arpa", False),
        (f"{'9' + '.0' * 29}.d.f.ip6.arpa", True),
        ("nobody", False),
        ("arpa", False),
    ):
        found = message.name_of(name)
        assert found is not None
        assert zone().covers(message.parse(question(found, message.PTR))) is wanted


def test_resolvers_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    found = resolvers.Resolvers(str(path))
    assert found.now() == ()
    for text, wanted in (
        ("nameserver 127.0.0.53\n", ("127.0.0.53",)),
        (
            "# x\nnameserver 1.2.3.4\nnameserver  fd00::1 \nnameserver 1.2.3.4\nnameserver x\nsearch y\n",
            ("1.2.3.4", "fd00::1"),
        ),
        ("", ()),
    ):
        path.write_text(text)
        assert found.now() == wanted
    path.unlink()
    assert found.now() == ()


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("web 10.0.0.1", "web 10.0.0.1"),
        ("10.0.0.1\tWEB", "web 10.0.0.1"),
        ("a.b  fd00:0::1", "a.b fd00::1"),
        ("web", None),
        ("web x", None),
        ("we!b 10.0.0.1", None),
        ("a b 10.0.0.1", None),
    ],
)
def test_lines_about_hosts(line: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(Invalid):
            etc.parse_host(line)
    else:
        assert etc.parse_host(line) == kept
