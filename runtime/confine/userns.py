"""User namespaces: which numbers outside a container's users and groups are. See user_namespaces(7).

``auto`` gives each container a range of its own among those that systemd sets aside for containers (systemd.io/UIDS-GIDS),
passing over what subuid(5) and subgid(5) or another container have. Nothing is written with these numbers: on disk files
have the container's own (``pydock.overlay.composing``), so a range is a matter of the time in which it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pydock.runtime.errors import Busy, Invalid
from pydock.runtime.formats import quote

HOST: Final = "host"
AUTO: Final = "auto"
COUNT: Final = 1 << 16  # of a range given by auto
_FIRST, _END = 0x80000, 0x6FFF0000
_HIGHEST: Final = 0xFFFFFFFE
_EXPLICIT: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10})", re.ASCII)


class IdMap(NamedTuple):
    """The container's ids from 0 to *size* - 1 are those from *uid*, and *gid*, on outside."""

    uid: int
    gid: int
    size: int

    def __str__(self) -> str:
        return f"{self.uid}:{self.gid}:{self.size}"


def parse(text: str) -> str:
    """``host``, ``auto`` or ``UID:GID:COUNT`` in canonical form, or nothing; Invalid for anything else."""
    word = text.strip()
    return word if word in (HOST, AUTO, "") else str(explicit(word))


def explicit(text: str) -> IdMap:
    """The map of ``UID:GID:COUNT``."""
    match = _EXPLICIT.fullmatch(text)
    if match is None:
        raise Invalid(f"userns: {quote(text)} is none of host, auto, UID:GID:COUNT")
    found = IdMap(*(int(number) for number in match.groups()))
    if not found.size or max(found.uid, found.gid) + found.size - 1 > _HIGHEST:
        raise Invalid(f"userns: {quote(text)}: COUNT is at least 1, and no id is above {_HIGHEST}")
    return found


class Ranges:
    """The ranges that ``auto`` has given, by the id of the container; as long as that exists."""

    def __init__(self, etc: Path = Path("/etc")) -> None:
        self._given: dict[str, int] = {}
        self._etc = etc

    def note(self, identity: str, start: int) -> None:
        """*identity* has the range from *start* on already."""
        self._given[identity] = start

    def forget(self, identity: str) -> None:
        """Its range is free again."""
        self._given.pop(identity, None)

    def claim(self, identity: str, others: Iterable[IdMap]) -> int:
        """The beginning of its range; if it has none yet, of one that overlaps with none of *others*. Busy when all are taken."""
        if identity in self._given:
            return self._given[identity]
        taken = [(start, COUNT) for start in self._given.values()]
        taken += [(first, each.size) for each in others for first in (each.uid, each.gid)]
        taken += [*_ranges(self._etc / "subuid"), *_ranges(self._etc / "subgid")]
        for start in range(_FIRST, _END, COUNT):
            if not any(start < first + count and first < start + COUNT for first, count in taken):
                self._given[identity] = start
                return start
        raise Busy("userns: every range of ids is taken: write UID:GID:COUNT")


def _ranges(path: Path) -> Iterable[tuple[int, int]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            yield int(fields[1]), int(fields[2])


def in_force(
    setting: str | None, identity: str, ranges: Ranges, others: Callable[[], Mapping[str, str | None]]
) -> IdMap | None:
    """What *setting* means for the container *identity*; None without a user namespace. *others* gives those of all containers."""
    if not setting or setting == HOST:
        return None
    if setting != AUTO:
        return explicit(setting)
    fixed = [
        explicit(each) for name, each in others().items() if name != identity and each and each not in (HOST, AUTO)
    ]
    start = ranges.claim(identity, fixed)
    return IdMap(start, start, COUNT)
