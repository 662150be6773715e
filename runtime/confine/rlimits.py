"""Resource limits in docker's words: ``nofile=1024:2048`` is soft and hard. See getrlimit(2).

Only the standard library is imported: this also runs between fork and exec.
"""

from __future__ import annotations

import re
import resource
from dataclasses import dataclass
from typing import Final

from pydock.runtime.errors import Invalid

# RLIMIT_ numbers of include/uapi/asm-generic/resource.h, which x86 and arm share. RLIMIT_AS is not among docker's.
NUMBERS: Final = {
    "core": 4,
    "cpu": 0,
    "data": 2,
    "fsize": 1,
    "locks": 10,
    "memlock": 8,
    "msgqueue": 12,
    "nice": 13,
    "nofile": 7,
    "nproc": 6,
    "rss": 5,
    "rtprio": 14,
    "rttime": 15,
    "sigpending": 11,
    "stack": 3,
}


@dataclass(frozen=True, slots=True)
class Rlimit:
    """*soft* and *hard* in the limit's own unit; None is unlimited."""

    name: str
    soft: int | None
    hard: int | None

    def __str__(self) -> str:
        """Canonical: ``nofile=1024:2048``."""
        return f"{self.name}={_text(self.soft)}:{_text(self.hard)}"

    @property
    def number(self) -> int:
        return NUMBERS[self.name]

    @property
    def pair(self) -> tuple[int, int]:
        """For ``resource.prlimit`` and ``resource.setrlimit``."""
        infinity = resource.RLIM_INFINITY
        return infinity if self.soft is None else self.soft, infinity if self.hard is None else self.hard


def parse(text: str) -> Rlimit:
    """``NAME=SOFT[:HARD]``; without a hard limit it is the soft one; ``unlimited`` and -1 are no limit."""
    name, separator, values = text.strip().partition("=")
    if name not in NUMBERS:
        raise Invalid(f'ulimits: "{name}" is not a limit: one of {" ".join(NUMBERS)}')
    parts = values.split(":")
    if not separator or len(parts) > 2:
        raise Invalid(f'ulimits: "{text}" is not NAME=SOFT[:HARD], as in nofile=1024:2048')
    soft = _number(text, parts[0])
    hard = _number(text, parts[-1])
    if hard is not None and (soft is None or soft > hard):
        raise Invalid(f'ulimits: "{text}": the soft limit {_text(soft)} is above the hard limit {_text(hard)}')
    return Rlimit(name, soft, hard)


def _number(text: str, part: str) -> int | None:
    if part in ("unlimited", "-1"):
        return None
    if not re.fullmatch(r"\d{1,19}", part, re.ASCII) or int(part) >= 2**63:
        raise Invalid(f'ulimits: "{text}": "{part}" is neither a whole number nor unlimited')
    return int(part)


def _text(value: int | None) -> str:
    return "unlimited" if value is None else str(value)
