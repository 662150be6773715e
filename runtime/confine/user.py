"""Who a container's process runs as: docker's ``USER`` against the container's own passwd and group files.

Pure functions of those files' texts; reading them, safely, is the caller's. See passwd(5), group(5). Only the standard
library is imported, and little of that (no dataclasses, no patterns to compile): this runs between fork and exec.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pydock.runtime.errors import Invalid, NotFound

_MAX_ID = 2**32 - 2  # (uid_t)-1 means "leave alone" to setresuid(2)


class Identity(NamedTuple):
    """What to set: *groups* are the supplementary ones; *home* is for HOME."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _User(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(user: str, passwd: str, group: str) -> Identity:
    """``[NAME|UID][:GROUP|GID]``; empty is root.

    A user that passwd has brings its group and home, and the groups that list it; a number that it lacks is taken as it
    is, with group 0 and home /. A group that is named replaces all of the user's. Names come before numbers: a user
    called 1000 is found before the one numbered so only if it is nearer to the top, as docker has it.
    """
    who, colon, which = user.strip().partition(":")
    if ":" in which or (colon and not which):
        raise Invalid(f'user: "{user}" is not USER[:GROUP], by name or number')
    number = _number(who) if who else 0
    found = next((entry for entry in _users(passwd) if entry.name == who or entry.uid == number), None)
    if found is None and number is None:
        raise NotFound(f'user: there is no user "{who}" in the container\'s /etc/passwd')
    uid = found.uid if found else number or 0
    home = (found.home if found else "") or "/"
    if which:
        return Identity(uid, _gid(which, group), (), home)
    name = found.name if found else ""
    gid = found.gid if found else 0
    members = dict.fromkeys(entry.gid for entry in _groups(group) if name and name in entry.members)
    return Identity(uid, gid, tuple(members), home)


def _gid(which: str, text: str) -> int:
    number = _number(which)
    for entry in _groups(text):
        if entry.name == which or entry.gid == number:
            return entry.gid
    if number is None:
        raise NotFound(f'user: there is no group "{which}" in the container\'s /etc/group')
    return number


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > _MAX_ID:
        raise Invalid(f'user: "{text}" is too large: numbers go from 0 to {_MAX_ID}')
    return int(text)


def _users(text: str) -> Iterator[_User]:
    for fields in _records(text, 4):
        if fields[2].isdecimal() and fields[3].isdecimal():
            yield _User(fields[0], int(fields[2]), int(fields[3]), fields[5] if len(fields) > 5 else "")


def _groups(text: str) -> Iterator[_Group]:
    for fields in _records(text, 3):
        if fields[2].isdecimal():
            members = tuple(filter(None, fields[3].split(","))) if len(fields) > 3 else ()
            yield _Group(fields[0], int(fields[2]), members)


def _records(text: str, least: int) -> Iterator[list[str]]:
    """The lines' fields; comments, blanks and lines that are too short are passed over, as the C library does it."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if not line.lstrip().startswith("#") and len(fields) >= least:
            yield fields
