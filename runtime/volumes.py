"""Volumes and tmpfs mounts of a container: what people write, and the values behind it.

A volume's source is an absolute path, or the name of one in ``volumes/`` (see :mod:`pydock.runtime.volumestore`).
``SOURCE:TARGET[:OPTION,…]`` is docker's ``--volume``, ``TARGET[:OPTION,…]`` its ``--tmpfs``. Sources are opened once, with
open_tree(2), and travel as descriptors from there on, so that nothing is resolved twice.
"""

from __future__ import annotations

import os
import posixpath
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.runtime import syscalls
from pydock.runtime.confine.masks import COVERABLE
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.formats import checked_name, parse_size, quote
from pydock.runtime.monitor.inside import set_attributes
from pydock.runtime.paths import checked_source

_PROPAGATIONS: Final = frozenset({"private", "rprivate", "slave", "rslave", "shared", "rshared"})
_TMPFS_FLAGS: Final = frozenset(
    [
        *("ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "atime", "noatime", "diratime", "nodiratime"),
        *("relatime", "norelatime", "strictatime", "nostrictatime"),
    ]
)
_SHARE: Final = re.compile(r"[1-9][0-9]{0,2}%", re.ASCII)
#: A policy of memory nodes as in tmpfs(5), of a range of nodes; the comma that a list of them would have divides options.
_POLICY: Final = re.compile(
    r"default|local|(?:prefer|bind|interleave)(?:=(?:static|relative))?:[0-9]{1,4}(?:-[0-9]{1,4})?", re.ASCII
)
_MOST: Final = 1 << 53  # inodes and blocks: what the kernel can multiply


@dataclass(frozen=True, slots=True)
class Volume:
    """A directory or file of the machine, or a named volume, seen at *target* in the container. *propagation* as in mount(2),
    ``rprivate`` unless said."""

    source: str
    target: str
    readonly: bool = False
    propagation: str = "rprivate"

    @property
    def named(self) -> bool:
        """Whether the source is one of ``volumes/``."""
        return not self.source.startswith("/")

    def __str__(self) -> str:
        options = [*(["ro"] if self.readonly else []), *([self.propagation] if self.propagation != "rprivate" else [])]
        return f"{self.source}:{self.target}" + (f":{','.join(options)}" if options else "")

    @classmethod
    def parse(cls, text: str) -> Volume:
        """The value of ``SOURCE:TARGET[:OPTION,…]``; Invalid otherwise."""
        parts = text.split(":")
        if len(parts) not in (2, 3) or not parts[0]:
            raise Invalid(f"{quote(text)} is not a volume: SOURCE:TARGET[:ro,rprivate,…]")
        if not parts[0].startswith("/"):
            try:
                checked_name(parts[0])
            except Invalid:
                raise Invalid(f"{quote(parts[0])} is neither an absolute path nor the name of a volume") from None
        volume = cls(parts[0], target_path(parts[1]))
        for option in parts[2].split(",") if len(parts) == 3 else ():
            match option:
                case "ro":
                    volume = cls(volume.source, volume.target, True, volume.propagation)
                case "rw":
                    volume = cls(volume.source, volume.target, False, volume.propagation)
                case _ if option in _PROPAGATIONS:
                    volume = cls(volume.source, volume.target, volume.readonly, option)
                case _:
                    raise Invalid(
                        f"{quote(option)} is not an option of a volume: ro, rw, or one of {', '.join(sorted(_PROPAGATIONS))}"
                    )
        return volume


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """A file system in memory at *target*. *size* in bytes, None for the kernel's default (half of the memory)."""

    target: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.target + (f":{','.join(self.options)}" if self.options else "")

    @classmethod
    def parse(cls, text: str) -> Tmpfs:
        """The value of ``TARGET[:OPTION,…]``; Invalid otherwise."""
        target, _, rest = text.partition(":")
        options: list[str] = []
        for option in filter(None, rest.split(",")):
            name, equals, value = option.partition("=")
            if not equals and name in _TMPFS_FLAGS:
                options.append(name)
            elif (name == "size" and _SHARE.fullmatch(value)) or (name == "mpol" and _POLICY.fullmatch(value)):
                options.append(option)
            elif name in ("nr_inodes", "nr_blocks") and value:
                options.append(f"{name}={_amount(option, value)}")
            elif name == "size" and value:
                options.append(f"size={parse_size(value)}")
            elif name == "mode" and 0 < len(value) <= 4 and all(digit in "01234567" for digit in value):
                options.append(f"mode={value}")
            elif name in ("uid", "gid") and value.isdecimal() and len(value) < 11:
                options.append(option)
            else:
                raise Invalid(
                    f"{quote(option)} is not an option of a tmpfs: size=BYTES or size=N%, nr_inodes=, nr_blocks=, mpol=, "
                    "mode=OCTAL, uid=, gid=, ro, exec, suid, dev, noatime, nodiratime, strictatime and their opposites"
                )
        return cls(target_path(target), tuple(options))


def _amount(option: str, text: str) -> int:
    amount = parse_size(text)
    if amount > _MOST:
        raise Invalid(f"{quote(option)} is too much: at most {_MOST}")
    return amount


def target_path(text: str) -> str:
    """An absolute path inside the container, normalised; Invalid for a relative one and for the root itself."""
    path = posixpath.normpath(text)
    if not text.startswith("/") or path in ("/", "//") or ".." in text.split("/"):
        raise Invalid(f"{quote(text)} is not a place in the container: an absolute path below / without ..")
    return "/" + path.lstrip("/")


def checked_target(target: str) -> str:
    """*target*, unless nothing may be mounted there by its name; Invalid then. Where its name leads is seen when it is mounted."""
    if target not in COVERABLE and (target == "/proc" or target.startswith("/proc/")):
        files = ", ".join(path.removeprefix("/proc/") for path in COVERABLE)
        raise Invalid(f"{quote(target)} is in /proc, where nothing may be mounted but on {files}")
    return target


def open_source(volume: Volume, *, outside: str, named: Path) -> tuple[int, bool]:
    """A detached clone of the mount at the volume's source, and whether it is a directory. Named ones are in *named*."""
    source = str(named / volume.source / "data") if volume.named else checked_source(volume.source, outside=outside)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
    try:
        fd = syscalls.open_tree(syscalls.AT_FDCWD, source, flags)
    except FileNotFoundError:
        raise NotFound(f"volume {quote(volume.source)} does not exist") from None
    return fd, stat.S_ISDIR(os.fstat(fd).st_mode)


def open_live(volume: Volume, *, outside: str, named: Path) -> tuple[int, bool]:
    """:func:`open_source`, with the volume's options in force: to be put into a container that runs."""
    fd, is_directory = open_source(volume, outside=outside, named=named)
    try:
        bits = syscalls.MOUNT_ATTR_RDONLY if volume.readonly else 0
        set_attributes(fd, volume.propagation, bits)
    except BaseException:
        os.close(fd)
        raise
    return fd, is_directory
