"""A bridge takes so many links and no more."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime.network import links, netlink

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host

MOST = 1023  # BR_MAX_PORTS, less one
AT_ONCE = 31


@pytest.fixture
def fill() -> Iterator[Callable[[str, int], None]]:
    """``fill(BRIDGE, COUNT)``: as many links of nobody's in it. They go with the namespace of their other ends, all at once."""
    namespace = links.new_namespace()

    def put(bridge: str, count: int) -> None:
        index = socket.if_nametoindex(bridge)
        names = [f"fill{number}" for number in range(count)]
        with netlink.Talk() as talk:
            for begin in range(0, count, AT_ONCE):
                some = names[begin : begin + AT_ONCE]
                talk.ask(*(netlink.pair(name, name, namespace) for name in some))
                talk.ask(*(netlink.up(socket.if_nametoindex(name), master=index) for name in some))

    yield put
    os.close(namespace)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_start_in_a_full_network_is_refused_and_leaves_nothing(
    engine: Engine,
    front: Path,
    make: Callable[..., Path],
    errno_of: Callable[[Path, str], int],
    machine: Host,
    fill: Callable[[str, int], None],
) -> None:
    kept = engine.root / "networks/front.json"
    (make("a", command="sleep 1000", network="front") / "ctl").write_text("start")
    bridge = f"pd-{json.loads(kept.read_text())['id']}"
    fill(bridge, MOST - 2)

    def named(prefix: str) -> set[str]:
        return set(re.findall(rf"^\d+: ({prefix}-\w+)@", machine.run("ip", "-o", "link"), re.MULTILINE))

    def namespaces() -> int:
        assert engine.process is not None
        found = 0
        for path in Path(f"/proc/{engine.process.pid}/fd").iterdir():
            with suppress(OSError):
                found += os.readlink(path).startswith("net:")
        return found

    (make("b", command="sleep 1000", network="front") / "ctl").write_text("start")
    there, leases = named("pv"), json.loads(kept.read_text())["leases"]
    assert len(there) == 2
    c = make("c", command="sleep 1000", network="front")
    d = make("d", command="sleep 1000", network="none")
    (d / "ctl").write_text("start")
    for file, text in ((c / "ctl", "start"), (d / "network", "front\n")):
        assert errno_of(file, text) == errno.ENOSPC
        assert (file.parent / "error").read_text() == f"networks/front is full: a bridge takes {MOST} links\n"
    assert (c / "state").read_text() == "created\n"
    assert (d / "network").read_text() == "none\n"
    assert (d / "address").read_text() == ""
    c.rmdir()
    assert named("pv") == there
    until(lambda: json.loads(kept.read_text())["leases"] == leases)  # they are given back behind the reply
    until(lambda: namespaces() == len(named("pp")))  # those with a pair of links are made ahead
    (engine.tree / "containers/b/ctl").write_text("kill")
    until(lambda: len(named("pv")) == 1)
    (d / "network").write_text("front\n")
    assert (d / "address").read_text().startswith("front ")
