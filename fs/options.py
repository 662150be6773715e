"""Options: ``/etc/pydock.toml``, and the mount's own, which win.

Both know the same names. A name that nobody knows is refused, so that a typo does not pass; the generic options of mount(8)
that mean nothing here are dropped.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from pydock.overlay.reference import is_host
from pydock.overlay.registry.endpoint import Proxies
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_limit, print_limit, quote
from pydock.runtime.network.addresses import parse_address, parse_mtu, parse_subnet
from pydock.runtime.network.etc import parse_server
from pydock.runtime.network.record import Addressing
from pydock.runtime.spec import place_in

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
    subnet: str = ""  # of the default network, as the next four; empty: the next that is free
    gateway: str = ""
    subnet6: str | None = None  # empty: it has no IPv6
    gateway6: str = ""
    mtu: int = 0
    dns: tuple[str, ...] = ()  # who is asked for names that are no container's; empty: whom the machine asks
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
            case "subnet" | "subnet6":
                subnet = value and str(parse_subnet(value, 6 if name == "subnet6" else 4))
                return replace(self, **{name: subnet})  # type: ignore[arg-type]
            case "gateway" | "gateway6":
                return replace(self, **{name: value and parse_server(value, name)})  # type: ignore[arg-type]
            case "mtu":
                return replace(self, mtu=parse_mtu(value) if value else 0)
            case "dns":
                return replace(self, dns=(*self.dns, parse_server(value)) if value else ())
        known = ", ".join(item.name for item in fields(self) if item.name not in ("mirrors", "proxies"))
        raise Invalid(f"{quote(name)} is not an option: {known}")

    def check(self) -> None:
        """Invalid for options that do not go together."""
        for name, gateway, subnet in (
            ("gateway", self.gateway, self.subnet),
            ("gateway6", self.gateway6, self.subnet6),
        ):
            if gateway and not subnet:
                raise Invalid(f"{name}={quote(gateway)}: there is no {name.replace('gateway', 'subnet')} that it is in")
            if gateway and subnet:
                parse_address(gateway, ip_network(subnet), name)

    @property
    def addressing(self) -> Addressing:
        """The default network's."""
        return Addressing(self.subnet, self.gateway, self.subnet6, self.gateway6, self.mtu)


def from_file(path: Path = CONFIGURATION) -> Options:
    """The options in *path*; the defaults when it does not exist. Invalid for a bad one."""
    options = Options()
    try:
        text = path.read_text()
        values = tomllib.loads(text)
    except FileNotFoundError:
        return options
    except (OSError, ValueError) as error:
        raise Invalid(f"{path}: {error}") from None
    try:
        options = replace(options, mirrors=_mirrors(values), proxies=_proxies(values))
    except Invalid as error:
        raise Invalid(f"{path}: {error}") from None
    for name, value in values.items():
        try:
            for each in value if name == "dns" and isinstance(value, list) else (value,):
                if not isinstance(each, str | int) or isinstance(each, bool):
                    raise Invalid(f"{name} is not a text")
                options = options.with_option(name, str(each))
        except Invalid as error:
            raise Invalid(f"{path}: {place_in(text, name)}{error}") from None
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
    """*options* with those of ``-o`` on top: ``NAME=VALUE,…``; ``dns`` may be there more than once. Invalid."""
    pairs = [part.partition("=") for part in text.split(",") if part]
    for name, stale in (("subnet", {"gateway": ""}), ("subnet6", {"gateway6": ""}), ("dns", {"dns": ()})):
        if any(each == name for each, *_ in pairs):
            options = replace(options, **stale)
    for name, equals, value in pairs:
        if not equals and (name in _GENERIC or name.startswith("x-")):
            continue
        if name.startswith(("x-", "comment")):
            continue
        options = options.with_option(name, value)
    options.check()
    return options
