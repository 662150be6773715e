"""One file of a cgroup, as the tables of the kinds of machine describe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Mode = Literal["ro", "rw", "wo"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file: how to read and write it, and for a setting the value that is as good as unset."""

    read: Callable[[], str] | None
    write: Callable[[str], None] | None = None
    default: str | None = None

    @property
    def mode(self) -> Mode:
        if self.read is None:
            return "wo"
        return "ro" if self.write is None else "rw"
