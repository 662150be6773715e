"""The packet filter's table while much is published and little changes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from networks.conftest import Host

Serving = Callable[..., Path]


def test_counters_go_on_when_ports_and_containers_come_and_go(
    serving: Serving, outside: Host, inside: Callable[[Path], Host], front: Path, free: Callable[[], int]
) -> None:
    port = free()
    a = serving("a", f"{port}:80")
    with outside.serving(port):
        assert inside(a).asks("192.0.2.2", port) == "outside"

    def counted() -> list[int]:
        return [int(found) for found in re.findall(r"packets (\d+) .* masquerade", (front / "rules").read_text())]

    before = counted()
    assert any(before)
    with open(a / "ports", "a") as file:
        file.write("0:81\n")
    serving("b", "0:80")
    assert counted() == before


@pytest.mark.parametrize("there", [1000, 10000])
def test_a_change_costs_the_same_among_thousands(
    serving: Serving, outside: Host, free: Callable[[], int], there: int
) -> None:
    serving("a", f"10000-{9999 + there}:1-{there}", inner=(80, there))
    b = serving("b")
    assert outside.asks("192.0.2.1", 9999 + there) == f"a 192.0.2.2 {there}"
    took = []
    for number in range(10):
        begun = time.monotonic()
        with open(b / "ports", "a") as file:
            file.write(f"{30000 + number}:80\n")
        took.append(time.monotonic() - begun)
    assert min(took) < 0.05, took
    assert outside.asks("192.0.2.1", 30009) == "b 192.0.2.2 80"
    assert outside.asks("192.0.2.1", 10079) == "a 192.0.2.2 80"
