"""Measures things in turn, so that a noisy machine's noise hits all of them, and prints ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

WARMUP: Final = 3


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of *action*."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


def alternate(rounds: int, *, warmup: int = WARMUP, **actions: Callable[[], float]) -> dict[str, list[float]]:
    """Each action in turn, *rounds* times after a warm-up."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(rounds + warmup):
        for name, action in actions.items():
            value = action()
            if index >= warmup:
                took[name].append(value)
    return took


def rows(title: str, took: dict[str, list[float]], budget: str) -> None:
    """The table's lines: medians and minima, and the first's ratio to each peer: the median pair by pair, and of the minima."""
    first, *peers = took
    print(f"{title}\n  budget: {budget}")
    print(f"  {first:<22} {statistics.median(took[first]):8.3f} ms (least {min(took[first]):.3f})")
    for peer in peers:
        ratio = statistics.median(a / b for a, b in zip(took[first], took[peer], strict=True))
        least = min(took[first]) / min(took[peer])
        print(
            f"  {peer:<22} {statistics.median(took[peer]):8.3f} ms (least {min(took[peer]):.3f})   "
            f"{first} / {peer} = {ratio:.2f} (least {least:.2f})"
        )
