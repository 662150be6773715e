"""Who is asked: the ``nameserver`` lines of the machine's resolv.conf(5), read again when the file has changed, or others."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Final

_PATH: Final = "/etc/resolv.conf"
_MOST: Final = 8
_BYTES: Final = 1 << 16


def parse(text: str) -> tuple[str, ...]:
    """The addresses of the resolvers that *text* names, in order."""
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])
        except ValueError:
            continue
        if words[1] not in found:
            found.append(words[1])
    return tuple(found[:_MOST])


class Resolvers:
    """Those of the machine, as it is now; *told* are others, in their place."""

    def __init__(self, path: str = _PATH) -> None:
        self.told: tuple[str, ...] = ()
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._found: tuple[str, ...] = ()

    def now(self) -> tuple[str, ...]:
        """Their addresses; none when there is no file, or no line about any."""
        if self.told:
            return self.told
        try:
            status = os.stat(self._path)
            seen = status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    self._found = parse(file.read(_BYTES))
                self._seen = seen
        except OSError:
            self._seen, self._found = None, ()
        return self._found
