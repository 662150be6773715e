"""What is set for each registry, and where it is kept: ``ROOT/registries/HOST.json``, readable by root alone.

A password is kept on disk once a login has found it right; until then it is in the run directory, which a reboot clears.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import msgspec
from pydock.overlay.errors import Exists, Invalid, NotFound
from pydock.overlay.reference import DEFAULT_HOST, HUB_HOST, INDEX_HOST, is_host

_SUFFIX: Final = ".json"
_BAD: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(slots=True)
class Registry:
    """One registry's settings; what is None or empty is not set. *checked* tells that a login took the credentials, *files* are the
    modes, owners and times of its files in the tree. Times in ns since the epoch."""

    host: str
    created: int
    username: str = ""
    password: str = ""
    insecure: bool | None = None
    mirrors: tuple[str, ...] | None = None
    authorities: str = ""
    certificate: str = ""
    key: str = ""
    checked: bool = False
    changed: int = 0
    files: dict[str, list[int | None]] = field(default_factory=dict)
    error: str = ""


class Settings:
    """The registries that something is set for. *directory* is made if need be, as *volatile* is. All that writes blocks."""

    def __init__(self, directory: Path, volatile: Path) -> None:
        self._directory = directory
        self._volatile = volatile
        self._registries: dict[str, Registry] = {}

    def __iter__(self) -> Iterator[Registry]:
        return iter(self._registries.values())

    def get(self, host: str) -> Registry | None:
        """That of *host*, or None."""
        return self._registries.get(host)

    def read(self) -> None:
        """Read what is on disk; before anything else."""
        for directory in (self._directory, self._volatile):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in directory.glob("new-*"):
                path.unlink()
        for path in sorted(self._directory.glob(f"*{_SUFFIX}")):
            try:
                registry = msgspec.json.decode(path.read_bytes(), type=Registry)
            except msgspec.DecodeError:
                continue
            if not registry.checked:
                try:
                    registry.password = (self._volatile / registry.host).read_text()
                except OSError:
                    registry.password = ""
            registry.error = ""
            self._registries[registry.host] = registry

    def create(self, host: str) -> Registry:
        """Settings for *host*, with nothing set. Invalid when that is no registry's name, Exists."""
        if not is_host(host):
            raise Invalid(f"{host[:130]!r} is not a registry: want HOST or HOST:PORT")
        if host.lower() in (INDEX_HOST, HUB_HOST):
            raise Invalid(f"{host} is {DEFAULT_HOST}: make registries/{DEFAULT_HOST}")
        if host in self._registries:
            raise Exists(f"registries/{host} exists")
        registry = Registry(host, time.time_ns())
        self.save(registry)
        self._registries[host] = registry
        return registry

    def remove(self, host: str) -> None:
        """Forget all that is set for *host*. NotFound."""
        if host not in self._registries:
            raise NotFound(f"nothing is set for {host}")
        self._path(host).unlink(missing_ok=True)
        (self._volatile / host).unlink(missing_ok=True)
        del self._registries[host]

    def save(self, registry: Registry) -> None:
        """Keep it as it is now. OSError."""
        kept = registry
        if not registry.checked:
            kept = replace(registry, password="")
            _replace(self._volatile / registry.host, registry.password.encode())
        _replace(self._path(registry.host), msgspec.json.encode(kept))
        if registry.checked:
            (self._volatile / registry.host).unlink(missing_ok=True)

    def _path(self, host: str) -> Path:
        return self._directory / f"{host}{_SUFFIX}"


def checked_credential(text: str) -> str:
    """A user name or password as it may be sent. Invalid."""
    if _BAD.search(text):
        raise Invalid("control characters can't be part of it")
    return text


def _replace(path: Path, data: bytes) -> None:
    """Replace a file's content by rename; for root's eyes alone."""
    descriptor, name = tempfile.mkstemp(prefix="new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
