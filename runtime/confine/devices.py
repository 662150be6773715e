"""Devices that a container gets: the few that every one has, and those that it was given in docker's words.

``/dev/sda:/dev/disk:r`` gives the machine's /dev/sda by the name /dev/disk for reading. Type and numbers are looked
up at start, since devices come and go. What may be done with nodes is in ``pydock.runtime.cgroup.devices``.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from pydock.runtime.cgroup.devices import DeviceRule
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.paths import checked_source, places_of

_MOST: Final = 10000  # files are looked through for devices: about a third of a second


@dataclass(frozen=True, slots=True)
class Node:
    """A device node to make in a container; *mode* is the permission bits."""

    path: str
    kind: Literal["b", "c"]
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0

    @property
    def rdev(self) -> int:
        """For mknod(2)."""
        return os.makedev(self.major, self.minor)

    @property
    def file_type(self) -> int:
        return stat.S_IFBLK if self.kind == "b" else stat.S_IFCHR


@dataclass(frozen=True, slots=True)
class Device:
    """*source* on the machine, *target* inside, *access* out of ``rwm``."""

    source: str
    target: str
    access: str

    def __str__(self) -> str:
        """Canonical: all three parts."""
        return f"{self.source}:{self.target}:{self.access}"


DEFAULT_NODES: Final = (
    Node("/dev/null", "c", 1, 3),
    Node("/dev/zero", "c", 1, 5),
    Node("/dev/full", "c", 1, 7),
    Node("/dev/random", "c", 1, 8),
    Node("/dev/urandom", "c", 1, 9),
    Node("/dev/tty", "c", 5, 0),
)
DEFAULT_LINKS: Final = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/core", "/proc/kcore"),
    ("/dev/ptmx", "pts/ptmx"),
)


def parse(text: str) -> Device:
    """``SOURCE[:TARGET][:ACCESS]``; the same name and ``rwm`` where not said."""
    parts = text.strip().split(":")
    access = "rwm"
    if len(parts) > 1 and _is_access(parts[-1]):
        given = parts.pop()
        access = "".join(letter for letter in "rwm" if letter in given)
    source = parts[0]
    target = parts[1] if len(parts) == 2 else source
    if len(parts) > 2 or not _is_path(source) or not _is_path(target):
        raise Invalid(f'devices: "{text}" is not SOURCE[:TARGET][:ACCESS], as in /dev/fuse or /dev/sda:/dev/disk:r')
    return Device(posixpath.normpath(source), posixpath.normpath(target), access)


def _is_access(text: str) -> bool:
    return bool(re.fullmatch(r"[rwm]{1,3}", text)) and len(set(text)) == len(text)


def _is_path(text: str) -> bool:
    return text.startswith("/") and ".." not in text.split("/") and "\0" not in text and posixpath.normpath(text) != "/"


def look_up(device: Device, *, outside: str = "") -> tuple[tuple[Node, ...], tuple[DeviceRule, ...]]:
    """The nodes to make and the rules to allow; of a directory, every device in it and below. Nothing in what is mounted at *outside*
    is looked at."""
    try:
        checked_source(device.source, outside=outside)
        # Symbolic links in /dev are names that udev gives: the node behind is meant.
        found = os.stat(device.source)
    except (OSError, NotFound) as error:
        raise NotFound(f"devices: there is no {device.source} on this machine") from error
    if stat.S_ISDIR(found.st_mode):
        nodes = tuple(_below(device, places_of(outside) if outside else frozenset()))
        if not nodes:
            raise Invalid(f"devices: there is no device below {device.source}")
    else:
        node = _node(device.target, found)
        if node is None:
            raise Invalid(f"devices: {device.source} is neither a device nor a directory of some")
        nodes = (node,)
    return nodes, tuple(dict.fromkeys(DeviceRule(node.kind, node.major, node.minor, device.access) for node in nodes))


def _below(device: Device, closed: frozenset[str]) -> list[Node]:
    """No link is followed, not even to see what it is, and *closed* is not looked at: that may be for pydockd itself to answer."""
    nodes: list[Node] = []
    top, seen = os.path.realpath(device.source), 0
    pending = [top]
    while pending:
        found: list[os.DirEntry[str]] = []
        with suppress(OSError), os.scandir(pending.pop()) as entries:  # it may go in this moment
            for entry in entries:
                seen += 1
                if seen > _MOST:
                    words = f"there are more than {_MOST} files below {device.source}"
                    raise Invalid(f"devices: {words}" + ("" if nodes else ", and none of the first is a device"))
                if entry.path not in closed:
                    found.append(entry)
        for entry in sorted(found, key=lambda each: each.name):
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif (node := _node(device.target + entry.path[len(top) :], entry.stat(follow_symlinks=False))) is not None:
                nodes.append(node)
    return nodes


def _node(target: str, found: os.stat_result) -> Node | None:
    kind: Literal["b", "c"]
    if stat.S_ISBLK(found.st_mode):
        kind = "b"
    elif stat.S_ISCHR(found.st_mode):
        kind = "c"
    else:
        return None
    number = found.st_rdev
    mode = stat.S_IMODE(found.st_mode)
    return Node(target, kind, os.major(number), os.minor(number), mode, found.st_uid, found.st_gid)
