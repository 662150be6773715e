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
    serving: Serving, outside: Host, free: Callable[..., int], there: int
) -> None:
    port, other = free(there), free(10)
    b = serving("b")

    def quickest() -> float:
        took = []
        for number in range(10):
            begun = time.monotonic()
            with open(b / "ports", "a") as file:
                file.write(f"{other + number}:80\n")
            took.append(time.monotonic() - begun)
        return min(took)

    alone = quickest()
    (b / "ports").write_text("")
    serving("a", f"{port}-{port + there - 1}:1-{there}", inner=(80, there))
    assert outside.asks("192.0.2.1", port + there - 1) == f"a 192.0.2.2 {there}"
    assert quickest() < 3 * alone + 0.05
    assert outside.asks("192.0.2.1", other + 9) == "b 192.0.2.2 80"
    assert outside.asks("192.0.2.1", port + 79) == "a 192.0.2.2 80"
