"""Messages and descriptors over a socket pair."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from pydock.runtime import wire


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("size", [0, 1, 10_000, wire.INLINE_BYTES, 3_000_000])
def test_a_message_of_any_size_arrives(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    before = open_files()
    message: wire.Message = {"text": "ä" * size, "number": 7}
    wire.send(pair[0], message)
    assert wire.receive(pair[1]) == (message, [])
    assert open_files() == before


@pytest.mark.parametrize("count", [0, 1, 62, 63, 64, 65, 200])
@pytest.mark.parametrize("size", [1, 100_000])
def test_any_number_of_descriptors_arrives_in_order(
    pair: tuple[socket.socket, socket.socket], count: int, size: int
) -> None:
    before = open_files()
    sent = [os.memfd_create(f"n{number}") for number in range(count)]
    wire.send(pair[0], {"text": "x" * size}, sent)
    _, received = wire.receive(pair[1])
    assert [os.readlink(f"/proc/self/fd/{fd}") for fd in received] == [
        f"/memfd:n{number} (deleted)" for number in range(count)
    ]
    assert not any(os.get_inheritable(fd) for fd in received)
    wire.close_all([*sent, *received])
    assert open_files() == before


def test_the_end_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])


@pytest.mark.parametrize("packet", [b"x", b".[1]", b".{", b".", b"@", b".\xff"])
def test_rubbish_is_told_and_its_descriptors_are_closed(
    pair: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    before = open_files()
    fd = os.memfd_create("rubbish")
    socket.send_fds(pair[0], [packet], [fd])
    os.close(fd)
    with pytest.raises(wire.Malformed):
        wire.receive(pair[1])
    assert open_files() == before


def test_a_message_that_is_cut_off_leaves_no_descriptor(pair: tuple[socket.socket, socket.socket]) -> None:
    before = open_files()
    fd = os.memfd_create("part")
    socket.send_fds(pair[0], [b"+"], [fd])
    os.close(fd)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])
    assert open_files() == before


def test_given_descriptors_are_closed_with_their_packets() -> None:
    before = open_files()
    for packet in wire.packets({"text": "x" * 100_000}, [os.memfd_create("a") for _ in range(100)], give=True):
        packet.close()
    assert open_files() == before


@pytest.mark.parametrize(
    ("read", "value"), [(wire.text, 1), (wire.number, "1"), (wire.texts, "a"), (wire.texts, [1]), (wire.text, None)]
)
def test_a_field_of_the_wrong_kind_is_a_value_error(read, value: object) -> None:
    with pytest.raises(ValueError, match="field"):
        read({"field": value}, "field")
