"""What is on its way between this machine and registries, and how much of it has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Transfer:
    """A blob on its way. *kind* is ``pull``, ``push`` and the like; *done* of *total* bytes."""

    kind: str
    reference: str
    digest: str
    total: int
    done: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.reference} {self.digest} {self.done} {self.total}"


class Transfers:
    """Those that are active, oldest first."""

    def __init__(self) -> None:
        self._active: dict[Transfer, None] = {}

    @contextmanager
    def begin(self, kind: str, reference: str, digest: str, total: int) -> Iterator[Transfer]:
        """One that is active until the block is left."""
        transfer = Transfer(kind, reference, digest, total)
        self._active[transfer] = None
        try:
            yield transfer
        finally:
            del self._active[transfer]

    def lines(self) -> tuple[str, ...]:
        """``KIND REFERENCE DIGEST DONE TOTAL`` of each."""
        return tuple(map(str, self._active))
