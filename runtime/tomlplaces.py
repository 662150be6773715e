"""Where in a TOML document a key is, for the words of a refusal: tomllib tells it of bad syntax only."""

from __future__ import annotations

import tomllib


def line_of(text: str, *path: str) -> int:
    """The number of the line where the key at *path* begins; 0 when that can't be told.

    Such a line begins with the key or is its table's head, and what comes before it is a whole document that has not got it: so
    it is neither within a text of several lines nor in another table.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if _key(line) == path[-1]:
            try:
                before = tomllib.loads("\n".join(lines[:number]) + "\n")
            except (ValueError, RecursionError):
                continue
            if not _has(before, path) and _has(_loaded(lines, number), path):
                return number + 1
    return line_of(text, *path[:-1]) if len(path) > 1 else 0


def _loaded(lines: list[str], number: int) -> dict[str, object]:
    """The shortest whole document that has line *number*."""
    for end in range(number + 1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[:end]) + "\n")
        except (ValueError, RecursionError):
            continue
    return {}


def _key(line: str) -> str:
    """The first key of a line, of a dotted one its first part."""
    rest = line.lstrip(" \t[")
    if rest[:1] in ('"', "'"):
        return rest[1:].partition(rest[0])[0]
    for end, letter in enumerate(rest):
        if not (letter.isalnum() or letter in "_-"):
            return rest[:end]
    return rest


def _has(values: object, path: tuple[str, ...]) -> bool:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True
