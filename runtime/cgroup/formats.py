"""The values of cgroup v2's files as numbers, and the words for what is none.

The formats are those of the kernel's Documentation/admin-guide/cgroup-v2.rst: single values, flat keyed
(``key value``) and nested keyed (``8:0 rbps=max …``) lines; ``max`` is no limit, here ``None``. Each parser takes the
file's name only to put it into the error, an ``Invalid`` that says what would have been accepted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

from pydock.runtime.errors import Invalid

PAGE = os.sysconf("SC_PAGE_SIZE")
# What a v1 kernel shows for "no limit": the largest signed 64-bit number, rounded down to a page.
V1_UNLIMITED = (2**63 - 1) // PAGE * PAGE

_SUFFIX = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
IO_KEYS = ("rbps", "wbps", "riops", "wiops")
_IO_BYTES = frozenset({"rbps", "wbps"})


def parse_size(name: str, text: str) -> int | None:
    """Bytes, rounded down to a page as the kernel does it; None for ``max``."""
    match = re.fullmatch(r"(\d{1,20})([kmgt]?)", text.lower(), re.ASCII)
    if text == "max":
        return None
    if match is None:
        raise Invalid(f'{name}: "{text}" is not a size: bytes, or with K, M, G, T, or max')
    size = int(match[1]) * _SUFFIX[match[2]] // PAGE * PAGE
    if size >= 2**64:
        raise Invalid(f'{name}: "{text}" is too large for a size: for no limit write max')
    return size if size < V1_UNLIMITED else None


def parse_count(name: str, text: str) -> int | None:
    """A whole number from 0; None for ``max``."""
    if text == "max":
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise Invalid(f'{name}: "{text}" is not a number: a whole number from 0, or max')
    return int(text)


def parse_weight(name: str, text: str) -> int:
    """1 to 10000."""
    if not re.fullmatch(r"\d{1,5}", text, re.ASCII) or not 1 <= int(text) <= 10000:
        raise Invalid(f'{name}: "{text}" is not a weight: a whole number from 1 to 10000, the default is 100')
    return int(text)


def parse_flag(name: str, text: str) -> bool:
    """``0`` or ``1``."""
    if text not in ("0", "1"):
        raise Invalid(f'{name}: "{text}" is neither 0 nor 1')
    return text == "1"


def parse_cpu_max(name: str, text: str, period: int) -> tuple[int | None, int]:
    """``QUOTA|max [PERIOD]`` in microseconds; without a period *period*, the one in force, stays."""
    fields = text.split()
    if len(fields) not in (1, 2) or not re.fullmatch(r"max|\d{1,18}", fields[0], re.ASCII):
        raise Invalid(f'{name}: "{text}" is not QUOTA [PERIOD]: microseconds, QUOTA may be max, as in "50000 100000"')
    quota = None if fields[0] == "max" else int(fields[0])
    if len(fields) == 2:
        if not re.fullmatch(r"\d{1,9}", fields[1], re.ASCII) or not 1000 <= int(fields[1]) <= 1_000_000:
            raise Invalid(f'{name}: the period "{fields[1]}" is not from 1000 to 1000000 microseconds')
        period = int(fields[1])
    if quota is not None and quota < 1000:
        raise Invalid(f'{name}: the quota "{quota}" is less than 1000 microseconds, the least the kernel takes')
    return quota, period


def cpu_share(quota: int | None, period: int) -> Fraction | None:
    """Processors' worth of time; None is no limit."""
    return None if quota is None else Fraction(quota, period)


def parse_list(name: str, text: str) -> frozenset[int]:
    """A list of numbers as of cpuset(7), ``0-3,8``; empty text is the empty set."""
    numbers: set[int] = set()
    for part in filter(None, re.split(r"[,\s]+", text.strip())):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part, re.ASCII)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise Invalid(f'{name}: "{part}" is not a number or a range, as in 0-3,8')
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(numbers)


def format_list(numbers: Iterable[int]) -> str:
    """The shortest ``0-3,8``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse_device(name: str, text: str) -> str:
    """``MAJOR:MINOR``, without leading zeros."""
    match = re.fullmatch(r"(\d{1,8}):(\d{1,8})", text, re.ASCII)
    if match is None:
        raise Invalid(f'{name}: "{text}" is not a device: MAJOR:MINOR, as lsblk shows them')
    return f"{int(match[1])}:{int(match[2])}"


def parse_rate(name: str, key: str, text: str) -> int | None:
    """What *key* of io.max may be a second: bytes, with K, M, G, T too, or operations; None for ``max``."""
    if text == "max":
        return None
    form, words = (r"[kmgt]?", ", or with K, M, G, T") if key in _IO_BYTES else ("", "")
    match = re.fullmatch(rf"(\d{{1,19}})({form})", text.lower(), re.ASCII)
    rate = int(match[1]) * _SUFFIX[match[2]] if match else 0
    if not 1 <= rate < 2**64:
        raise Invalid(f'{name}: "{text}" of {key} is neither max nor a whole number from 1{words}')
    return rate


def parse_io_max(name: str, text: str) -> tuple[str, dict[str, int | None]]:
    """One line of io.max: the device and those of rbps, wbps, riops, wiops that it names."""
    fields = text.split()
    if len(fields) < 2:
        raise Invalid(f'{name}: "{text}" is not MAJOR:MINOR KEY=VALUE…: keys are {", ".join(IO_KEYS)}, max is no limit')
    device = parse_device(name, fields[0])
    limits: dict[str, int | None] = {}
    for field in fields[1:]:
        key, _, value = field.partition("=")
        if key not in IO_KEYS:
            raise Invalid(f'{name}: "{field}" is none of {", ".join(f"{key}=VALUE" for key in IO_KEYS)}')
        limits[key] = parse_rate(name, key, value)
    return device, limits


def format_io_max(limits: Mapping[str, Mapping[str, int]]) -> str:
    """io.max of devices' limits; a device without any has no line."""
    lines = []
    for device, values in limits.items():
        if values:
            lines.append(f"{device} " + " ".join(f"{key}={values.get(key, 'max')}" for key in IO_KEYS))
    return "\n".join(lines)


def parse_io_weight(name: str, text: str) -> tuple[str, int | None]:
    """``[default] WEIGHT`` or ``MAJOR:MINOR WEIGHT|default``: the device (or ``default``), and None for the default."""
    fields = text.split()
    if len(fields) == 1:
        fields.insert(0, "default")
    if len(fields) != 2:
        raise Invalid(f'{name}: "{text}" is neither [default] WEIGHT nor MAJOR:MINOR WEIGHT')
    if fields[0] == "default":
        return "default", parse_weight(name, fields[1])
    device = parse_device(name, fields[0])
    return device, None if fields[1] == "default" else parse_weight(name, fields[1])


def flat(text: str) -> dict[str, int]:
    """A flat keyed file; lines whose value is no number are left out."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and re.fullmatch(r"-?\d+", pair[1], re.ASCII)}


def format_flat(values: Mapping[str, int]) -> str:
    """A flat keyed file's text, without the last newline."""
    return "\n".join(f"{key} {value}" for key, value in values.items())


def format_limit(value: int | None) -> str:
    """The number, or ``max``."""
    return "max" if value is None else str(value)
