"""The text forms of values: sizes, durations, times, booleans, numbers, argument vectors.

These are the formats of the kernel's cgroup-v2.rst ("Conventions") and of the mounted tree: what ``print_*`` gives is
canonical, ``parse_*`` takes it and the friendlier forms that people type. Every ``parse_*`` raises
:class:`~pydock.runtime.errors.Invalid` with one line that says what was wrong and what would be accepted.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from pydock.runtime.errors import Invalid

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE: Final = re.compile(r"([0-9]{1,20})([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|us|ns|s|m|h)?", re.ASCII)
_TIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8})(?:\.([0-9]+))?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)
_SECONDS: Final = {
    None: Decimal(1),
    "s": Decimal(1),
    "ms": Decimal("1e-3"),
    "us": Decimal("1e-6"),
    "ns": Decimal("1e-9"),
    "m": Decimal(60),
    "h": Decimal(3600),
}
#: Of a line of shell words: white space; what is in single quotes, in double quotes, behind a backslash, in neither; what does not end.
_PIECE: Final = re.compile(
    r"""([ \t\r\n]+)|'([^']*)'|"((?:[^"\\]|\\.)*)"|\\(.)|([^ \t\r\n'"\\]+)|(\\|"(?:[^"\\]|\\.)*\\\Z)|["']""", re.DOTALL
)
#: In double quotes; before anything else there a backslash stands for itself.
_ESCAPED: Final = re.compile(r"""\\(?:([$`"\\])|\n)""")
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}", re.ASCII)
_LARGEST: Final = (1 << 63) - 1
_LONGEST: Final = 365 * 24 * 3600


def quote(text: str, limit: int = 120) -> str:
    """*text* for an error's words: in quotes, printable, cut to *limit* characters."""
    shown = text if len(text) <= limit else text[:limit] + "…"
    return json.dumps(shown, ensure_ascii=False)


def checked_name(name: str) -> str:
    """*name*, when it may be an object's; Invalid otherwise."""
    if not _NAME.fullmatch(name):
        raise Invalid(f"{quote(name)} is not a name: 1 to 128 of a-z A-Z 0-9 _ . -, the first a letter or digit")
    return name


def parse_label(line: str) -> str:
    """``NAME=VALUE`` with a name without white space; the value may be empty, and left out."""
    name, _, value = line.partition("=")
    if not name or any(letter.isspace() for letter in name):
        raise Invalid(f"labels: {quote(line)} is not NAME=VALUE")
    return f"{name}={value}"


def parse_size(text: str) -> int:
    """Bytes; ``K M G T`` are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{quote(text)} is not a size: a number of bytes, or with K, M, G or T")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if size > _LARGEST:
        raise Invalid(f"{quote(text)} is too large for a size: at most {_LARGEST} bytes")
    return size


def parse_limit(text: str) -> int | None:
    """A size, or ``max`` for no limit (None)."""
    return None if text.strip() == "max" else parse_size(text)


def print_limit(limit: int | None) -> str:
    """The canonical form of a limit: bytes, or ``max``."""
    return "max" if limit is None else str(limit)


def parse_duration(text: str) -> float:
    """Seconds from ``10``, ``500ms``, ``1.5s``, ``5m``, ``1h``; at most a year."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise Invalid(f"{quote(text)} is not a duration: seconds, or a number with ms, s, m or h")
    seconds = Decimal(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST:
        raise Invalid(f"{quote(text)} is too long a duration: at most a year")
    return float(seconds)


def print_duration(seconds: float) -> str:
    """Seconds with decimals as needed: ``10``, ``0.5``."""
    return format(Decimal(repr(seconds)).normalize(), "f")


def parse_integer(text: str, *, low: int, high: int, what: str) -> int:
    """A decimal number between *low* and *high*, both included."""
    stripped = text.strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", stripped, re.ASCII) or not low <= int(stripped) <= high:
        raise Invalid(f"{quote(text)} is not {what}: a number from {low} to {high}")
    return int(stripped)


def parse_boolean(text: str) -> bool:
    """``0`` or ``1``."""
    match text.strip():
        case "0":
            return False
        case "1":
            return True
    raise Invalid(f"{quote(text)} is neither 0 nor 1")


def print_boolean(value: bool) -> str:
    """``0`` or ``1``."""
    return "1" if value else "0"


def parse_arguments(text: str) -> tuple[str, ...]:
    """An argument vector: shell words (quotes and backslashes, nothing expanded), or a JSON array of strings.

    A newline within quotes is part of the word. NUL can't be in an argument (execve(2)).
    """
    stripped = text.strip()
    if stripped.startswith("["):
        try:
            words = json.loads(stripped)
        except (ValueError, RecursionError):
            words = None
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            return _checked(tuple(words))
        # "[ -e /x ]" is a good command line too, whose first word is the test
        if words is not None or stripped.startswith('["'):
            raise Invalid(f"{quote(text)} is not a JSON array of strings")
    try:
        words, several = _shell_words(stripped)
    except ValueError as error:
        raise Invalid(f"{quote(text)} is not a line of shell words: {error}") from None
    if several:
        raise Invalid(f"{quote(text)} is more than one line: one line of shell words, or a JSON array")
    return _checked(words)


def _shell_words(text: str) -> tuple[tuple[str, ...], bool]:
    """The words of *text* as a POSIX shell has them ("Quoting" in its language), with nothing expanded, and whether they are on several
    lines. shlex.split() leaves the backslash of ``\\$`` in double quotes. ValueError."""
    words: list[str] = []
    word: list[str] = []
    several = False
    for piece in _PIECE.finditer(text):
        space, single, double, escaped, plain, torn = piece.groups()
        if torn:
            raise ValueError("no escaped character")
        if piece.lastindex is None:
            raise ValueError("no closing quotation")
        if not space:
            word.append(single or _ESCAPED.sub(r"\1", double or "") or escaped or plain or "")
            continue
        several = several or "\n" in space
        if word:
            words.append("".join(word))
            word = []
    if word:
        words.append("".join(word))
    return tuple(words), several


def _checked(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if "\0" in word:
            raise Invalid(f"{quote(word)} holds a NUL, which no argument can")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise Invalid(f"{quote(word)} is not text in UTF-8") from None
    return words


def print_arguments(words: tuple[str, ...]) -> str:
    """Shell words: what a POSIX shell, and :func:`parse_arguments`, splits into *words* again."""
    return shlex.join(words)


def print_time(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds, of a time(7) since the epoch."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def canonical_time(text: str) -> str:
    """An RFC 3339 time of somebody else's as :func:`print_time` writes it; what is none is left as it is."""
    match = _TIME.fullmatch(text)
    if match is None:
        return text
    head, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(head + zone).astimezone(UTC)
    except (ValueError, OverflowError):
        return text
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{fraction or '':0<9.9}Z"


def now() -> int:
    """CLOCK_REALTIME in nanoseconds."""
    return time.time_ns()
