"""Two engines in one network namespace, which is a machine of their own here: each has a table of the packet filter, and both work."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime.network import links

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host

EngineAt = Callable[[Callable[[], AbstractContextManager[None]]], "Engine"]
Serving = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


@pytest.fixture
def machine(machine: Host) -> Iterator[Host]:
    """Where the two are, and no other engine."""
    found = type(machine)(links.new_namespace())
    yield found
    os.close(found.namespace)


@pytest.fixture
def two(machine: Host, outside: Host, engine_at: EngineAt) -> tuple[Engine, Engine]:
    """The engines; the first one has been there first."""
    return engine_at(machine.inside), engine_at(machine.inside)


@pytest.fixture
def serving(serving_in: Serving) -> Serving:
    """``serving(ENGINE, NAME, *PORTS, …)``: in the engine's default network unless told otherwise."""

    def start(engine: Engine, name: str, *ports: str, **settings: str) -> Path:
        return serving_in(engine.tree, name, *ports, **({"network": "bridge"} | settings))

    return start


def new(engine: Engine, name: str, **settings: str) -> Path:
    """A container that only is there."""
    c = engine.tree / "containers" / name
    c.mkdir()
    for setting, value in ({"image": "busybox", "command": "sleep 1000"} | settings).items():
        (c / setting).write_text(value)
    return c


def tables(machine: Host) -> list[str]:
    return sorted(line.split()[-1] for line in machine.run("nft", "list", "tables").splitlines())


def test_each_has_a_table_and_both_work_after_the_changes_of_each(
    two: tuple[Engine, Engine], machine: Host, outside: Host, serving: Serving, inside: Callable[[Path], Host]
) -> None:
    first, second = two
    a = serving(first, "a", "8001:80", "8001:80/udp")
    b = serving(second, "b", "8002:80", "8002:80/udp")
    assert first.table == "pydock"
    assert re.fullmatch("pydock-[0-9a-f]{8}", second.table)

    hosts = [inside(a), inside(b)]

    def work() -> None:
        for name, port in (("a", 8001), ("b", 8002)):
            for protocol in ("tcp", "udp"):
                assert outside.asks("192.0.2.1", port, protocol) == f"{name} 192.0.2.2 80"
                assert outside.asks("2001:db8::1", port, protocol) == f"{name} 2001:db8::2 80"
            assert machine.asks("127.0.0.1", port).startswith(f"{name} ")
            for host in hosts:
                assert host.asks("192.0.2.1", port).startswith(f"{name} ")
                with outside.serving(9000):
                    assert host.asks("192.0.2.2", 9000) == "outside"

    work()
    for engine in (*two, first):
        c = serving(engine, "c", "0:80")
        (engine.tree / "networks/front").mkdir()
        work()
        (c / "ctl").write_text("kill")
        c.rmdir()
        (engine.tree / "networks/front").rmdir()
        work()
    for engine in two:
        name = engine.table
        engine.kill()
        work()
        engine.start()
        work()
        assert engine.table == name
        assert (engine.tree / "networks/bridge/subnet").read_text().strip() in (
            engine.tree / "networks/bridge/rules"
        ).read_text()
    (a / "ctl").write_text("kill")
    first.umount()
    assert tables(machine) == [second.table]
    assert outside.asks("192.0.2.1", 8002) == "b 192.0.2.2 80"
    first.start()
    (a / "ctl").write_text("start")
    hosts[0] = inside(a)
    while outside.asks("192.0.2.1", 8001) != "a 192.0.2.2 80":  # it says so once it listens
        assert (a / "state").read_text() == "running\n"
    work()
    assert tables(machine) == sorted(["pydock", second.table])


def test_both_come_back_when_all_tables_are_flushed(
    two: tuple[Engine, Engine], machine: Host, outside: Host, serving: Serving
) -> None:
    for engine, name, port in zip(two, "ab", (8001, 8002), strict=True):
        serving(engine, name, f"{port}:80")
    for _ in range(5):
        machine.run("nft", "flush", "ruleset")
        deadline = time.monotonic() + 60
        while len(tables(machine)) < 2:
            assert time.monotonic() < deadline
        assert {"pydock"} < set(tables(machine))
        assert outside.asks("192.0.2.1", 8001) == "a 192.0.2.2 80"
        assert outside.asks("192.0.2.1", 8002) == "b 192.0.2.2 80"


def test_a_port_that_the_other_has_is_taken(two: tuple[Engine, Engine], errno_of: ErrnoOf) -> None:
    first, second = two
    had = (
        *("8080:80", "127.0.0.1:8081:80", "[2001:db8::1]:8082:80", "8100-8199:8100-8199", "192.0.2.1:8083:80"),
        *("127.0.0.1:8000-8099:8000-8099/udp", "8000-8009:80-89/sctp"),
    )
    a = new(first, "a", ports="".join(f"{item}\n" for item in had))
    (a / "ctl").write_text("start")
    first.kill()  # its container has them all the same
    for item, taken in (
        *(("8080:80", True), ("127.0.0.1:8080:80", True), ("8081:80", True), ("[2001:db8::1]:8082:80", True)),
        *(("8083:80", True), ("8150:80", True), ("8090-8110:90-110/udp", True), ("8009:80/sctp", True)),
        *(("8150:80/udp", False), ("192.0.2.10:8083:80", False), ("8200:80", False), ("8010:80/sctp", False)),
    ):
        b = new(second, "b", ports=f"{item}\n")
        assert errno_of(b / "ctl", "start") == (errno.EADDRINUSE if taken else 0), item
        if taken:
            assert (b / "error").read_text().endswith(f" is taken by the pydock of {first.root}\n")
        else:
            (b / "ctl").write_text("kill")
        b.rmdir()
    first.start()
    (a / "ctl").write_text("kill")
    b = new(second, "b", ports="8080:80\n")
    (b / "ctl").write_text("start")
    assert errno_of(a / "ctl", "start") == errno.EADDRINUSE
    assert (a / "error").read_text() == f"ports: 8080:80/tcp is taken by the pydock of {second.root}\n"


def test_of_two_that_want_a_port_at_once_one_has_it_at_most(two: tuple[Engine, Engine], machine: Host) -> None:
    pair = [new(engine, "c", ports="8080:80\n") for engine in two]

    def start(c: Path) -> None:
        subprocess.run(["sh", "-c", f"echo start > {c}/ctl"], stderr=subprocess.DEVNULL, check=False)

    had = 0
    for _ in range(20):
        threads = [threading.Thread(target=partial(start, c)) for c in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        running = [c for c in pair if (c / "state").read_text() == "running\n"]
        assert len(running) <= 1
        had += len(running)
        for c in running:
            (c / "ctl").write_text("kill")
    assert had > 10


def test_the_table_of_an_engine_that_is_gone_for_good_is_taken_away(
    two: tuple[Engine, Engine], machine: Host, serving: Serving, outside: Host
) -> None:
    first, second = two
    serving(first, "a", "8080:80")
    serving(second, "b", "8081:80")
    first.reboot()
    name = second.table
    assert tables(machine) == ["pydock", name]
    deadline = time.monotonic() + 60
    # The kernel takes its time over a namespace that nobody is in any more, and over what leads there.
    while machine.run("ip", "-o", "link", "show", "type", "veth").count(" master ") > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    serving(second, "c", "8080:80")
    assert tables(machine) == [name]
    assert outside.asks("192.0.2.1", 8080) == "c 192.0.2.2 80"
    second.kill()
    second.start()
    assert tables(machine) == ["pydock"]
    assert outside.asks("192.0.2.1", 8080) == "c 192.0.2.2 80"
    assert outside.asks("192.0.2.1", 8081) == "b 192.0.2.2 80"


def test_an_idle_network_s_subnets_are_not_the_other_s(two: tuple[Engine, Engine]) -> None:
    found = set()
    for engine in two:
        (engine.tree / "networks/front").mkdir()
        for name in ("bridge", "front"):
            for file in ("subnet", "subnet6"):
                found.add((engine.tree / "networks" / name / file).read_text())
    assert len(found) == 8
    taken = (two[0].tree / "networks/front/subnet").read_text()
    with pytest.raises(OSError, match=f"Errno {errno.EADDRINUSE}"):
        (two[1].tree / "networks/front/subnet").write_text(taken)
    said = (two[1].tree / "networks/front/error").read_text()
    assert f"which is that of the pydock of {two[0].root}" in said


def test_a_subnet_that_became_the_other_s_meanwhile_is_told(two: tuple[Engine, Engine], errno_of: ErrnoOf) -> None:
    first, second = two
    subnet = (first.tree / "networks/bridge/subnet").read_text()
    first.umount()
    assert (second.tree / "networks/bridge/subnet").read_text() == subnet
    (new(second, "b") / "ctl").write_text("start")
    first.start()
    a = new(first, "a")
    assert errno_of(a / "ctl", "start") == errno.EADDRINUSE
    assert "a bridge of another pydock: write another to networks/bridge/subnet" in (a / "error").read_text()
    (first.tree / "networks/bridge/subnet").write_text("10.1.0.0/24")
    (first.tree / "networks/bridge/subnet6").write_text("fd01::/64")
    (a / "ctl").write_text("start")
    assert "10.1.0.2/24" in (a / "address").read_text()


def test_port_53_is_published_beside_the_dns_of_the_other(
    two: tuple[Engine, Engine], serving: Serving, outside: Host, inside: Callable[[Path], Host]
) -> None:
    first, second = two
    b = serving(second, "b")
    serving(first, "a", "53:80/udp", "53:80")
    (second.tree / "networks/later").mkdir()
    c = serving(second, "c", network="later")
    for protocol in ("tcp", "udp"):
        assert outside.asks("192.0.2.1", 53, protocol) == "a 192.0.2.2 80"
        assert inside(b).asks("192.0.2.1", 53, protocol).startswith("a ")
    for member, name in ((b, "bridge"), (c, "later")):
        gateway = (second.tree / "networks" / name / "gateway").read_text().strip()
        for way in ((), ("+tcp",)):
            address = inside(member).run("dig", "+short", *way, f"@{gateway}", "-q", member.name).strip()
            assert address == (member / "address").read_text().split()[1].partition("/")[0]
