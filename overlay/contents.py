"""What has come out of an archive of images: its members by name, as files in a temporary directory.

Names of members are keys of a table and nothing else. A name that leads out of the archive is refused all the same, as is what no
archive of images has; links between members, by which docker's archives share a layer, are resolved in the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.overlay import tarformat
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid

MEMBERS_MAX: Final = 16384  # an image of 128 layers has 400 in docker's older layout
DOCUMENT_MAX: Final = 8 << 20  # bytes
_DOCUMENTS_MAX: Final = 64 << 20  # of all together
_LINKS_MAX: Final = 16
_SHOWN: Final = 200
_ROOT_DIRECTORIES: Final = frozenset(
    ("bin", "boot", "dev", "etc", "home", "lib", "lib64", "media", "mnt")
    + ("opt", "proc", "root", "run", "sbin", "srv", "sys", "tmp", "usr", "var")
)
#: Where what is no archive of images may belong.
IMPORT: Final = "a root file system is for images/ctl: import PATH REFERENCE"
_NODES: Final = frozenset((tarformat.CHARACTER, tarformat.BLOCK_DEVICE, tarformat.FIFO))
_BLOB: Final = re.compile(r"blobs/(sha256|sha512)/([0-9a-f]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """A member as the reader of the archive tells it; *kind* is tarformat's."""

    name: str
    kind: bytes
    link: str
    size: int


@dataclass(frozen=True, slots=True)
class Member:
    """The content of a regular file of the archive."""

    path: Path
    digest: Digest
    size: int


def shown(name: str) -> str:
    """A name for a message."""
    text = name.encode(errors="surrogateescape").decode(errors="replace")
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def clean(name: str, what: str) -> str:
    """*name* without what says nothing, "" for the archive's root; Invalid if it leads out of the archive."""
    if name.startswith("/"):
        raise Invalid(f"{what} {shown(name)} is absolute")
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise Invalid(f"{what} {shown(name)} leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def blob_digest(name: str) -> Digest | None:
    """The digest that a member of this (clean) name must have, as it is a blob of an OCI layout; None for others."""
    found = _BLOB.fullmatch(name)
    return Digest.parse(f"{found[1]}:{found[2]}") if found else None


class Contents:
    """The table."""

    def __init__(self) -> None:
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._count = 0
        self._read = 0

    def admit(self, header: Header) -> str | None:
        """Look at a member that comes: the clean name under which its content is wanted, None when it has none. Invalid."""
        self._count += 1
        if self._count > MEMBERS_MAX:
            raise Invalid(f"it has more than {MEMBERS_MAX} members, which no image archive has: {IMPORT}")
        if ".." in header.name.split("/"):
            raise Invalid(f"the member {shown(header.name)} leads out of the archive")
        name = clean(header.name, "the member")
        first, slash, _ = name.partition("/")
        if first in _ROOT_DIRECTORIES and (slash or header.kind != tarformat.REGULAR):
            raise Invalid(f"it has {shown(header.name)} in it: this is no image archive; {IMPORT}")
        if header.kind in _NODES:
            raise Invalid(f"the member {shown(header.name)} is a device or pipe, which no image archive has; {IMPORT}")
        if header.kind == tarformat.DIRECTORY:
            return None
        if not name:
            raise Invalid("a member has no name")
        if header.kind == tarformat.SYMLINK:
            self._link(
                name, clean(f"{name.rpartition('/')[0]}/{header.link}".lstrip("/"), "the target of a link,"), header
            )
            return None
        if header.kind == tarformat.HARDLINK:
            self._link(name, clean(header.link, "the target of a link,"), header)
            return None
        return name

    def _link(self, name: str, target: str, header: Header) -> None:
        if header.link.startswith("/"):
            raise Invalid(f"the link {shown(header.name)} leads out of the archive, to {shown(header.link)}")
        if name in self._files or self._links.get(name, target) != target:
            raise Invalid(f"the member {shown(name)} comes twice")
        self._links[name] = target

    def add(self, name: str, member: Member) -> None:
        """Its content has come. Invalid for a second one that is another."""
        known = self._files.setdefault(name, member)
        if known.digest != member.digest or name in self._links:
            raise Invalid(f"the member {shown(name)} comes twice, and not the same")

    def find(self, name: str) -> Member | None:
        """The content of that name, behind links; None when it is not there."""
        name = clean(name, "the name")
        for _ in range(_LINKS_MAX):
            if (member := self._files.get(name)) is not None:
                return member
            if (target := self._links.get(name)) is None:
                return None
            name = target
        raise Invalid(f"the links at {shown(name)} lead nowhere")

    def member(self, name: str, whose: str) -> Member:
        """The content of that name; Invalid, with *whose* document wants it, when it is not there."""
        member = self.find(name)
        if member is None:
            raise Invalid(f"{whose} names {shown(name)}, which is not in the archive")
        return member

    def document(self, name: str, whose: str) -> bytes:
        """The bytes of a small one."""
        member = self.member(name, whose)
        if member.size > DOCUMENT_MAX:
            raise Invalid(f"{shown(name)} has {member.size} bytes, more than the {DOCUMENT_MAX} of any document")
        self._read += member.size
        if self._read > _DOCUMENTS_MAX:
            raise Invalid(f"its documents have more than {_DOCUMENTS_MAX} bytes")
        return member.path.read_bytes()

    def start(self, member: Member) -> bytes:
        """The first bytes, enough to tell its compression by."""
        with member.path.open("rb") as file:
            return file.read(tarformat.BLOCK)
