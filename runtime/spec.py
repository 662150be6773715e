"""What a container is asked to be: every setting that was set, and nothing else.

A :class:`Spec` is a frozen value; None means unset, so that the image's configuration or the engine's default holds.
Fields hold canonical text, numbers and booleans only, which is why the form on disk, ``spec.toml`` (TOML 1.0), is the
same thing: one key a setting, lists as arrays, the cgroup's files in a table of that name. Where that has a number or a boolean, people
may write a text as well, which is read as the setting's file would read it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import tomli_w
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_boolean, parse_duration, parse_integer, parse_size, quote
from pydock.runtime.tomlplaces import line_of

EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A container's settings. Sizes in bytes, durations in seconds."""

    image: str | None = None
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    workdir: str | None = None
    user: str | None = None
    hostname: str | None = None
    labels: tuple[str, ...] | None = None
    tty: bool | None = None
    autoremove: bool | None = None
    restart: str | None = None
    stop_signal: str | None = None
    stop_timeout: float | None = None
    readonly: bool | None = None
    privileged: bool | None = None
    no_new_privileges: bool | None = None
    capabilities: tuple[str, ...] | None = None
    seccomp: str | None = None
    devices: tuple[str, ...] | None = None
    ulimits: tuple[str, ...] | None = None
    sysctls: tuple[str, ...] | None = None
    tmpfs: tuple[str, ...] | None = None
    shm_size: int | None = None
    volumes: tuple[str, ...] | None = None
    network: tuple[str, ...] | None = None
    ports: tuple[str, ...] | None = None
    dns: tuple[str, ...] | None = None
    hosts: tuple[str, ...] | None = None
    pid_mode: str | None = None
    ipc_mode: str | None = None
    uts_mode: str | None = None
    userns: str | None = None
    init: bool | None = None
    systemd: bool | None = None
    oom_score_adj: int | None = None
    log_max: str | None = None
    health_command: tuple[str, ...] | None = None
    health_interval: float | None = None
    health_timeout: float | None = None
    health_retries: int | None = None
    health_start_period: float | None = None
    cgroup: Mapping[str, str] = field(default_factory=lambda: EMPTY)

    def to_toml(self) -> str:
        """The document; an empty one when nothing is set."""
        values: dict[str, object] = {}
        health: dict[str, object] = {}
        for name, value in self.plain().items():
            *table, key = path_of(name)
            (health if table else values)[key] = value
        return tomli_w.dumps({**values, "health": health} if health else values)

    def plain(self) -> dict[str, object]:
        """What is set, as plain data: strings, numbers, booleans, lists, and a table for the cgroup."""
        values: dict[str, object] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or item.name == "cgroup":
                continue
            values[item.name] = list(value) if isinstance(value, tuple) else value
        if self.cgroup:
            values["cgroup"] = dict(self.cgroup)
        return values

    @classmethod
    def from_toml(cls, text: str) -> Spec:
        """The spec of a document that :meth:`to_toml` wrote; Invalid for anything else, with the line."""
        try:
            values = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            last = text.count("\n", 0, len(text.rstrip())) + 1
            words = str(error).replace("at end of document", f"at line {last}, the last")
            raise Invalid(f"not TOML: {words}") from None
        taken: dict[str, object] = {}
        for path, value in _leaves(values):
            try:
                taken |= _taken(path, value)
            except Invalid as error:
                raise Invalid(f"{place_in(text, *path)}{error}") from None
        return cls(**taken)  # type: ignore[arg-type]  # the types were checked one by one above


_DURATIONS: Final = frozenset({"stop_timeout", "health_interval", "health_timeout", "health_start_period"})
_BOOLEANS: Final = frozenset({"tty", "autoremove", "readonly", "privileged", "no_new_privileges", "init", "systemd"})
_NUMBERS: Final = {
    "shm_size": "a number of bytes",
    "oom_score_adj": "a whole number",
    "health_retries": "a whole number",
}


def _whole(text: str) -> int:
    return parse_integer(text, low=-(10**9), high=10**9, what="a whole number")


#: What is no text in the document, by how a text is read.
_FORMS: Final[Mapping[str, Callable[[str], object]]] = {
    **dict.fromkeys(_BOOLEANS, parse_boolean),
    **dict.fromkeys(_DURATIONS, parse_duration),
    **dict.fromkeys(_NUMBERS, _whole),
    "shm_size": parse_size,
}
_LISTS: Final = frozenset(
    [
        "command",
        "entrypoint",
        "env",
        "labels",
        "capabilities",
        "devices",
        "ulimits",
        "sysctls",
        "tmpfs",
        "volumes",
        "network",
        "ports",
        "dns",
        "hosts",
        "health_command",
    ]
)


def place_in(text: str, *path: str) -> str:
    """``line N: `` of the document *text* where the key at *path* begins; empty when that can't be told."""
    number = line_of(text, *path)
    return f"line {number}: " if number else ""


def path_of(name: str) -> tuple[str, ...]:
    """Where the field *name* stands in the document: those of the health check are in a table of their own."""
    return ("health", name.removeprefix("health_")) if name.startswith("health_") else (name,)


def _leaves(values: Mapping[str, object]) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in values.items():
        if name == "health" and isinstance(value, dict):
            yield from (((name, key), inner) for key, inner in value.items())
        else:
            yield (name,), value


def _taken(path: tuple[str, ...], value: object) -> dict[str, object]:
    known = {".".join(path_of(item.name)): item.name for item in dataclasses.fields(Spec)}
    name = ".".join(path)
    if name == "health":
        raise Invalid("health is not a table")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise Invalid(f"{quote(name)} is not a setting{f': did you mean {close[0]}?' if close else ''}")
    return {known[name]: _typed(known[name], value)}


def _typed(name: str, value: object) -> object:
    if name == "cgroup":
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return MappingProxyType(dict(value))
        raise Invalid('cgroup is not a table of texts, such as "memory.max" = "64M"')
    if name in _LISTS:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise Invalid(f"{name} is not a list of texts")
    if name in _FORMS and isinstance(value, str):  # as it would be written to the setting's file
        try:
            return _FORMS[name](value)
        except Invalid as error:
            raise Invalid(f"{name}: {error}") from None
    if name in _BOOLEANS:
        if isinstance(value, bool):
            return value
        raise Invalid(f"{name} is neither true nor false")
    if name in _DURATIONS:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return float(value)
        raise Invalid(f"{name} is not a number of seconds")
    if name in _NUMBERS:
        if isinstance(value, int) and not isinstance(value, bool) and (value >= 0 or name != "shm_size"):
            return value
        raise Invalid(f"{name} is not {_NUMBERS[name]}")
    if isinstance(value, str):
        return value
    raise Invalid(f"{name} is not a text")


_NUMBER: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_REAL_TIME: Final = re.compile(r"RT(MIN\+|MAX-)([0-9]{1,3})", re.ASCII)


def parse_signal(text: str) -> signal.Signals | int:
    """A signal by name, with or without SIG, or by number; RTMIN+N and RTMAX-N too (signal(7))."""
    name = text.strip().upper()
    if _NUMBER.fullmatch(name) and 1 <= int(name) <= signal.SIGRTMAX:
        number = int(name)
        return signal.Signals(number) if number in set(signal.Signals) else number
    short = name.removeprefix("SIG")
    if match := _REAL_TIME.fullmatch(short):
        offset = int(match[2])
        number = signal.SIGRTMIN + offset if match[1] == "MIN+" else signal.SIGRTMAX - offset
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return parse_signal(str(number))
    try:
        return signal.Signals["SIG" + short]
    except KeyError:
        raise Invalid(f"{quote(text)} is not a signal: a name such as TERM or SIGUSR1, or a number") from None


def print_signal(number: signal.Signals | int) -> str:
    """``SIGTERM``, or ``SIGRTMIN+3`` for the nameless ones."""
    if isinstance(number, signal.Signals):
        return number.name
    return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else str(int(number))
