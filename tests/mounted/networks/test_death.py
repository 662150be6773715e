"""pydockd is killed: what is published stays so, and afterwards the packet filter has what the tree says, no more and no less."""

from __future__ import annotations

import os
import random
import re
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host

Serving = Callable[..., Path]


def in_force(engine: Engine) -> set[str]:
    """``HOST:PORT/PROTOCOL`` of each that the packet filter leads on, for each address that it leads to."""
    found = set()
    for name in ("any4", "any6"):
        text = subprocess.run(
            ["nft", "-n", "list", "map", "inet", engine.table, name], capture_output=True, text=True, check=True
        ).stdout
        for protocol, host, address, port in re.findall(r"(\d+) \. (\d+) : (\S+) \. (\d+)", text):
            found.add(f"{address} {host}:{port}/{ {'6': 'tcp', '17': 'udp'}[protocol] }")
    return found


def in_tree(tree: Path) -> set[str]:
    """The same, as the tree has it."""
    return {
        f"{address.split()[1].partition('/')[0]} {line}"
        for c in (tree / "containers").iterdir()
        for line in (c / "ports.bound").read_text().splitlines()
        for address in (c / "address").read_text().splitlines()
    }


def test_connections_go_on_and_what_ended_meanwhile_goes(
    mortal: Engine, serving_in: Serving, outside: Host, free: Callable[[], int]
) -> None:
    tree = mortal.tree
    one, two = free(), free()
    a = serving_in(tree, "a", f"{one}:80", f"{one}:80/udp", "0:80")
    b = serving_in(tree, "b", f"{two}:80", f"{two}:80/udp")
    before = {name: (a / name).read_text() for name in ("ports.bound", "address")}
    assert in_force(mortal) == in_tree(tree)
    assert len(in_force(mortal)) == 10
    pid = (b / "pid").read_text()
    with outside.connected("192.0.2.1", one) as peer, outside.datagrams("2001:db8::1", two) as asking:
        file = peer.makefile("rw")
        assert file.readline() == "a 192.0.2.2 80\n"
        asking.send(b"?")
        assert asking.recv(99) == b"b 2001:db8::2 80\n"
        pidfd = syscalls.pidfd_open(int(pid))
        mortal.kill()
        syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [])
        os.close(pidfd)
        file.write("without an engine\n")
        file.flush()
        assert file.readline() == "without an engine\n"
        assert outside.asks("2001:db8::1", one, "udp") == "a 2001:db8::2 80"
        mortal.start()
        assert {name: (a / name).read_text() for name in before} == before
        assert (b / "ports.bound").read_text() == ""
        assert in_force(mortal) == in_tree(tree)
        assert len(in_force(mortal)) == 6
        assert {path.name for path in (tree / "networks/ports").iterdir()} == {
            f"{line.split('/')[1]}:0.0.0.0:{line.split(':')[0]}" for line in before["ports.bound"].splitlines()
        }
        file.write("with another\n")
        file.flush()
        assert file.readline() == "with another\n"
    for protocol in ("tcp", "udp"):
        assert outside.asks("192.0.2.1", two, protocol) == "ConnectionRefusedError"
    serving_in(tree, "c", f"{two}:80")
    assert outside.asks("192.0.2.1", two) == "c 192.0.2.2 80"


@pytest.mark.parametrize("attempt", range(6))
def test_a_death_at_any_moment_of_a_change_leaves_the_filter_as_the_tree_has_it(
    mortal: Engine, serving_in: Serving, outside: Host, free: Callable[[], int], attempt: int
) -> None:
    tree, port = mortal.tree, free()
    a = serving_in(tree, "a", f"{port}:80")
    b = tree / "containers/b"
    b.mkdir()
    for name, value in (
        ("image", "busybox"),
        ("command", "sleep 1000"),
        ("network", "front"),
        ("ports", "0:80\n0:81/udp\n"),
    ):
        (b / name).write_text(value)

    def change() -> None:
        with suppress(OSError):
            while True:
                (b / "ctl").write_text("start")
                for sign in ("", "-"):
                    for number in range(3):
                        with open(a / "ports", "a") as file:
                            file.write(f"{sign}0:{90 + number}\n")
                (b / "ctl").write_text("kill")

    with outside.connected("192.0.2.1", port) as peer:
        file = peer.makefile("rw")
        assert file.readline() == "a 192.0.2.2 80\n"
        thread = threading.Thread(target=change)
        thread.start()
        thread.join(random.Random(attempt).uniform(0.05, 0.8))
        mortal.kill()
        thread.join()
        mortal.start()
        assert in_force(mortal) == in_tree(tree)
        assert f"{port}:80/tcp\n" in (a / "ports.bound").read_text()
        file.write("still there\n")
        file.flush()
        assert file.readline() == "still there\n"
        assert outside.asks("192.0.2.1", port) == "a 192.0.2.2 80"
    if (b / "state").read_text() == "running\n":
        (b / "ctl").write_text("kill")
    (a / "ctl").write_text("kill")
    assert (a / "ports.bound").read_text() == (b / "ports.bound").read_text() == ""


def test_what_was_changed_in_the_last_moment_is_there_after_a_death(own_engine: Engine) -> None:
    tree, networks = own_engine.tree, own_engine.tree / "networks"

    def die() -> None:
        own_engine.kill()
        syscalls.umount2(str(tree), syscalls.MNT_DETACH)
        own_engine.start()

    for name, subnet in (("one", "10.71.0.0/24"), ("two", "10.72.0.0/24")):
        (networks / name).mkdir()
        (networks / name / "subnet").write_text(subnet)
    c = tree / "containers/c"
    c.mkdir()
    for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "one"), ("ctl", "start")):
        (c / key).write_text(text)
    address = (c / "address").read_text()
    assert address.startswith("one 10.71.0.")
    die()
    assert (c / "address").read_text() == address
    (networks / "two").rmdir()
    (networks / "one").rename(networks / "two")  # of which lines were written, too
    address = address.replace("one ", "two ")
    for _ in range(2):
        assert (c / "address").read_text() == address
        assert (networks / "two/subnet").read_text() == "10.71.0.0/24\n"
        assert not (networks / "one").exists()
        die()
    (networks / "one").mkdir()
    (networks / "one/subnet").write_text("10.73.0.0/24")
    die()
    assert [(networks / name / "subnet").read_text() for name in ("one", "two")] == ["10.73.0.0/24\n", "10.71.0.0/24\n"]
    own_engine.clear()
    for name in ("one", "two"):
        (networks / name).rmdir()
    die()
    own_engine.settled()
    assert not [name for name in os.listdir(own_engine.root / "networks") if name != "bridge.json"]
