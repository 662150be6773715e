"""Datagrams of one client, from one port of its own, while the port that it sends to comes, goes and moves."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from networks.conftest import Host


def answers(peer: socket.socket) -> str:
    """Who answers a datagram: a container's name, or the error's."""
    try:
        peer.send(b"?")
        return peer.recv(100).decode().split()[0]
    except OSError as error:
        return type(error).__name__


def await_answer(peer: socket.socket, wanted: str) -> None:
    """Ask without a pause until it answers so: half a minute of silence is what the kernel takes to forget by itself.

    And it refuses no more than a few in a second, silently.
    """
    deadline = time.monotonic() + 20
    while (answer := answers(peer)) != wanted:
        assert time.monotonic() < deadline, answer


@pytest.mark.parametrize("where", ["outside", "machine"])
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_they_follow_the_port(
    serving: Callable[..., Path],
    outside: Host,
    machine: Host,
    free: Callable[[], int],
    address: str,
    where: str,
) -> None:
    port = free()
    a, b = serving("a"), serving("b")
    with {"outside": outside, "machine": machine}[where].datagrams(address, port, wait=0.5) as peer:
        await_answer(peer, "ConnectionRefusedError")
        for c in (a, b, a):
            with open(c / "ports", "a") as file:
                file.write(f"{port}:80/udp\n")
            await_answer(peer, c.name)
            with open(c / "ports", "a") as file:
                file.write(f"-{port}:80/udp\n")
            await_answer(peer, "ConnectionRefusedError")


def test_they_follow_a_restart_and_a_kill(
    serving: Callable[..., Path], outside: Host, free: Callable[..., int]
) -> None:
    port = free(2)
    a = serving("a", f"{port}-{port + 1}:80-81/udp", inner=(80, 81))
    with outside.datagrams("192.0.2.1", port + 1, wait=0.5) as peer:
        await_answer(peer, "a")
        (a / "ctl").write_text("restart 0")
        await_answer(peer, "a")
        (a / "ctl").write_text("kill")
        await_answer(peer, "ConnectionRefusedError")
        serving("b", f"{port + 1}:80/udp")
        await_answer(peer, "b")


def test_other_conversations_at_the_same_port_number_go_on(
    serving: Callable[..., Path], outside: Host, machine: Host, free: Callable[[], int]
) -> None:
    """Only what is for the machine itself, or was led on, is forgotten: not what the machine asks others."""
    port = free()
    a = serving("a")
    entries = f"udp .*dst=192.0.2.2 .*dport={port} "
    count = ("sh", "-c", f"conntrack -L -p udp 2> /dev/null | grep -c '{entries}'")
    with outside.inside():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, machine.datagrams("192.0.2.2", port) as peer:
        server.bind(("192.0.2.2", port))
        server.settimeout(60)
        peer.send(b"?")
        _, source = server.recvfrom(10)
        assert machine.run(*count) == "1\n"
        with outside.datagrams("192.0.2.1", port, wait=0.5) as other:
            await_answer(other, "ConnectionRefusedError")
            with open(a / "ports", "a") as file:
                file.write(f"{port}:80/udp\n")
            await_answer(other, "a")
        assert machine.run(*count) == "1\n"
        server.sendto(b"!", source)
        assert peer.recv(10) == b"!"
