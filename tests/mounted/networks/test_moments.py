"""What is changed in the moment in which a container begins or ends."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conftest import Engine

ROUNDS = 20


def made(engine: Engine, name: str, command: str) -> Path:
    c = engine.tree / "containers" / name
    c.mkdir()
    for key, value in (("image", "busybox"), ("command", command), ("network", "front"), ("ports", "0:80")):
        (c / key).write_text(value)
    return c


def is_led(engine: Engine) -> bool:
    """Whether the packet filter leads anything on to a port."""
    listed = subprocess.run(
        ["nft", "list", "map", "inet", engine.table, "any4"], capture_output=True, text=True, check=True
    )
    return "elements" in listed.stdout


def test_ports_that_change_while_it_ends_are_nobody_s_afterwards(mortal: Engine) -> None:
    dice, ports = random.Random(7), mortal.tree / "networks/ports"

    def change(c: Path) -> None:
        with suppress(OSError):  # its end is another matter
            for sign in ("", "-") * 20:
                with open(c / "ports", "a") as file:
                    file.write(f"{sign}0:81\n")

    for number in range(ROUNDS):
        c = made(mortal, f"c{number}", f"usleep {dice.randrange(30_000)}")
        (c / "ctl").write_text("start")
        changing = threading.Thread(target=change, args=(c,))
        changing.start()
        assert (c / "wait").read_text() == "0\n"
        changing.join()
        assert ((c / "ports.bound").read_text(), os.listdir(ports)) == ("", [])
        assert not is_led(mortal)
        c.rmdir()
    d = made(mortal, "d", "sleep 1000")
    (d / "ctl").write_text("start")
    assert is_led(mortal)
    assert len(os.listdir(ports)) == 1


def test_it_is_called_by_its_new_name_though_it_got_that_while_it_began(mortal: Engine) -> None:
    containers, names = mortal.tree / "containers", mortal.tree / "networks/front/names"
    dice, name = random.Random(8), "a"
    c = made(mortal, name, "sleep 1000")

    def start(c: Path) -> None:
        with suppress(OSError):
            (c / "ctl").write_text("start")

    for number in range(ROUNDS):
        starting = threading.Thread(target=start, args=(c,))
        starting.start()
        time.sleep(dice.uniform(0, 0.02))  # which moment that is does not matter
        name = f"b{number}"
        c = c.rename(containers / name)
        starting.join()
        start(c)  # if the name was not there any more
        deadline = time.monotonic() + 60
        while {line.split()[0] for line in names.read_text().splitlines()}.isdisjoint({name}):
            assert time.monotonic() < deadline, names.read_text()
            time.sleep(0.01)
        assert not {f"b{number - 1}", "a"} & set(names.read_text().split())
        (c / "ctl").write_text("kill")


def test_of_two_that_begin_at_once_with_the_same_port_one_is_refused(mortal: Engine, free: Callable[[], int]) -> None:
    for number in range(ROUNDS):
        port, outcomes = free(), dict[str, int]()

        def start(c: Path, outcomes: dict[str, int] = outcomes) -> None:
            try:
                (c / "ctl").write_text("start")
            except OSError as error:
                outcomes[c.name] = error.errno or 0
            else:
                outcomes[c.name] = 0

        both = [made(mortal, f"{name}{number}", "sleep 1000") for name in "ab"]
        for c in both:
            (c / "ports").write_text(f"{port}:80")
        threads = [threading.Thread(target=start, args=(c,)) for c in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes.values()) == [0, errno.EADDRINUSE]
        for c in both:
            assert (c / "state").read_text() == ("created\n" if outcomes[c.name] else "running\n")
            if not outcomes[c.name]:
                (c / "ctl").write_text("kill")
            c.rmdir()


def test_who_gets_another_name_while_it_ends_is_called_nothing(mortal: Engine) -> None:
    dice, containers = random.Random(9), mortal.tree / "containers"
    for number in range(ROUNDS):
        c = made(mortal, f"c{number}", f"usleep {dice.randrange(20_000)}")
        (c / "ctl").write_text("start")
        for turn in range(5):
            c = c.rename(containers / f"d{number}-{turn}")
        assert (c / "wait").read_text() == "0\n"
        assert (mortal.tree / "networks/front/names").read_text() == ""
        c.rmdir()
