"""Options: ``/etc/pydock.toml``, and the mount's own, which win.

Both know the same names. A name that nobody knows is refused, so that a typo does not pass; the generic options of mount(8)
that mean nothing here are dropped.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final

from pydock.overlay.reference import is_host
from pydock.overlay.registry.endpoint import Proxies
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_limit, print_limit, quote

CONFIGURATION: Final = Path("/etc/pydock.toml")
#: mount(8), fstab(5) and systemd.mount(5) pass these on; they mean nothing to a file system of this kind.
_GENERIC: Final = frozenset(
    [
        "rw",
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "async",
        "sync",
        "atime",
        "noatime",
        "relatime",
        "strictatime",
        "nodiratime",
        "_netdev",
        "nofail",
        "silent",
        "loud",
    ]
)


@dataclass(frozen=True, slots=True)
class Options:
    """Where things are, and the defaults of containers."""

    root: Path = Path("/var/lib/pydock")
    run: Path = Path("/run/pydock")
    cgroup_parent: str = ""  # empty: the engine's choice
    log_max: str = "max"
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by registry
    proxies: Proxies | None = None  # None: the environment's

    def with_option(self, name: str, value: str) -> Options:
        """The options with *name* set; Invalid for an unknown name or a bad value."""
        match name:
            case "root" | "run":
                if not value.startswith("/"):
                    raise Invalid(f"{name}={quote(value)}: an absolute path is needed")
                return replace(self, **{name: Path(value)})  # type: ignore[arg-type]
            case "cgroup_parent":
                parts = value.strip("/").split("/")
                if not value or any(part in ("", ".", "..") for part in parts):
                    raise Invalid(f"cgroup_parent={quote(value)}: a path below the controllers' roots is needed")
                return replace(self, cgroup_parent="/".join(parts))
            case "log_max":
                return replace(self, log_max=print_limit(parse_limit(value)))
        known = ", ".join(item.name for item in fields(self) if item.name not in ("mirrors", "proxies"))
        raise Invalid(f"{quote(name)} is not an option: {known}")


def from_file(path: Path = CONFIGURATION) -> Options:
    """The options in *path*; the defaults when it does not exist. Invalid for a bad one."""
    options = Options()
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return options
    except (OSError, ValueError) as error:
        raise Invalid(f"{path}: {error}") from None
    try:
        options = replace(options, mirrors=_mirrors(values), proxies=_proxies(values))
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from None
    for name, value in values.items():
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise Invalid(f"{path}: {name} is not a text")
        try:
            options = options.with_option(name, str(value))
        except Invalid as error:
            raise Invalid(f"{path}: {error}") from None
    return options


def _table(values: dict[str, object], name: str) -> dict[str, object]:
    """Takes the table *name* out of *values*."""
    table = values.pop(name, {})
    if not isinstance(table, dict):
        raise Invalid(f"{name} is not a table: [{name}]")
    return table


def _mirrors(values: dict[str, object]) -> dict[str, tuple[str, ...]]:
    """``[registries."HOST"] mirrors = ["HOST", …]``."""
    found = {}
    for host, settings in _table(values, "registries").items():
        if not is_host(host) or not isinstance(settings, dict) or settings.keys() - {"mirrors"}:
            raise Invalid(f'registries: [registries."HOST"] with mirrors = ["HOST", …] is wanted, not {quote(host)}')
        mirrors = settings.get("mirrors", [])
        if not isinstance(mirrors, list) or not all(isinstance(each, str) and is_host(each) for each in mirrors):
            raise Invalid(f"registries: the mirrors of {host} are not a list of HOST or HOST:PORT")
        found[host] = tuple(mirrors)
    return found


def _proxies(values: dict[str, object]) -> Proxies | None:
    """``[proxies] http = "URL"``, ``https``, ``none = "HOST,…"``."""
    table = _table(values, "proxies")
    known = {item.name for item in fields(Proxies)}
    if table.keys() - known or not all(isinstance(value, str) for value in table.values()):
        raise Invalid(f"proxies: texts named {', '.join(sorted(known))} are wanted, not {', '.join(map(quote, table))}")
    return Proxies(**{name: str(value) for name, value in table.items()}) if table else None


def from_mount(options: Options, text: str) -> Options:
    """*options* with those of ``-o`` on top: ``NAME=VALUE,…``."""
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals and (name in _GENERIC or name.startswith("x-")):
            continue
        if name.startswith(("x-", "comment")):
            continue
        options = options.with_option(name, value)
    return options
