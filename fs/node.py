"""The vocabulary of the tree: nodes, and the entries of the tables that describe directories.

A directory of the mount is a :class:`Directory` with a *table*: a tuple of entries, one a file. An entry is a plain
value; it says name, mode, how to show, how to store, and carries the text of the reference. The machinery
(``fs.file`` for open files, ``fs.operations`` for the kernel's side) gives meaning to the kinds; no other module knows
about inodes, offsets or handles. Nothing here needs a mount: tests call it directly.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import trio
from pydock.fs.flows import Channel, Extent, Inflow
from pydock.fs.metadata import Attributes, Metadata
from pydock.runtime.errors import Forbidden, Invalid, PydockError
from pydock.runtime.formats import quote

S = TypeVar("S", bound="Subject")


class Subject(Protocol):
    """What a directory is about: whose settings these are, and where failures are reported."""

    @property
    def label(self) -> str:
        """The object's path below the mount point, for ``errors``: ``containers/web``; empty at the root."""

    @property
    def metadata(self) -> Metadata:
        """Modes, owners and times of the object's files."""

    def failed(self, words: str) -> None:
        """A command or setting was refused; *words* is one line."""

    def succeeded(self) -> None:
        """A command or setting was taken."""


# Entries: the rows of a table. ``show`` must be cheap: stat(2) calls it for the size.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[S]):
    """One file of a directory.

    *mode* are the permission bits; *listed* is false for an alias that opens but readdir does not show; *volatile* files
    change without pydock's doing, so that the kernel must not cache their attributes. *changed* gives the time of the last
    change where it is not that of the last successful write, in ns since the epoch. *ready* raises when nothing would be taken
    now: asked by O_TRUNC, as ``: > FILE`` writes nothing that could fail."""

    name: str
    doc: str
    mode: int = 0o600
    listed: bool = True
    volatile: bool = False
    changed: Callable[[S], int] | None = None
    ready: Callable[[S], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(Entry[S]):
    """One value. ``show`` gives it without the newline, None for nothing. ``store`` takes the text without its trailing newline,
    or None to unset; without ``store`` the file is read-only. *long* tells whether ``show`` takes its time just now: then it does so
    in a thread, and stat(2) has the size of the last time."""

    show: Callable[[S], str | None]
    store: Callable[[S, str | None, int], Awaitable[None]] | None = None
    long: Callable[[S], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class List(Entry[S]):
    """One item a line. ``parse`` validates a line and gives its items in canonical form (one, but for ``ALL`` and the like), ``key``
    what makes two items the same one; ``store`` takes the whole new list, None to unset. ``own`` is what was stored, where
    ``show`` gives what is in force. White space around an item counts only where the list is *verbatim*."""

    show: Callable[[S], Sequence[str]]
    own: Callable[[S], tuple[str, ...] | None]
    parse: Callable[[S, str], tuple[str, ...]]
    store: Callable[[S, tuple[str, ...] | None], Awaitable[None]]
    key: Callable[[str], str] = lambda item: item
    verbatim: bool = False

    def trimmed(self, line: str) -> str:
        """*line* as ``parse`` wants it; empty for a blank one."""
        stripped = line.strip()
        return line if self.verbatim and stripped else stripped


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb(Generic[S]):
    """A command of a control file. ``run`` takes the words behind the verb and gives the outcome in words. A verb that is
    *cancelled* ends with the signal that ends its caller; the others carry on. The words of a *quoted* one are shell words."""

    name: str
    usage: str
    doc: str
    run: Callable[[S, tuple[str, ...]], Awaitable[str]]
    cancelled: bool = False
    quoted: bool = False


def no_words(verb: str, words: tuple[str, ...]) -> None:
    """Invalid when a command that takes no arguments was given *words*."""
    if words:
        raise Invalid(f"{verb} takes no arguments, not {quote(' '.join(words))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control(Entry[S]):
    """A ``ctl`` file: one line, one command."""

    verbs: tuple[Verb[S], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Entry[S]):
    """A whole text, applied all or nothing when it is closed."""

    show: Callable[[S], str]
    apply: Callable[[S, str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob(Entry[S]):
    """Bytes, whatever they are, at most *largest* of them. ``store`` of None tells that a file which was only created has been given
    up."""

    largest: int
    show: Callable[[S], bytes]
    store: Callable[[S, bytes | None], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report(Entry[S]):
    """Rendered when opened; stat never renders it. A *slow* one may take long, as others have to be asked, and ends with the signal
    that ends its reader."""

    render: Callable[[S], Awaitable[str]]
    slow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Entry[S]):
    """Data as it comes; each open file is a channel of its own. *writable* is whether it takes data."""

    writable: bool = False
    open: Callable[[S], Channel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk(Entry[S]):
    """Many bytes to read, anywhere in them; ``size`` tells how many, and is cheap."""

    size: Callable[[S], int]
    open: Callable[[S], Awaitable[Extent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inlet(Entry[S]):
    """A file to be written from its beginning to its end, and that is something else when it is closed. ``open`` is told the opener's
    thread id."""

    open: Callable[[S, int], Inflow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link(Entry[S]):
    """A symlink to where the bytes really are; ``target`` is asked at each readlink(2)."""

    target: Callable[[S], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder(Entry[S]):
    """A directory within the object's directory."""

    make: Callable[[S], Directory]
    mode: int = 0o755


class Node:
    """Something with an inode number. *number* is given by the inode table at the first look-up; 0 before."""

    __slots__ = ("name", "number", "parent")

    def __init__(self, name: str, parent: Directory | None) -> None:
        self.name = name
        self.parent = parent
        self.number = 0


class File(Node):
    """An entry of a table, in one directory. *lock* orders writers, and openers behind a release that is still at work.
    *hidden* is the trio time until which an unlinked setting is out of sight, *draft* the size of a document that is being written."""

    __slots__ = ("directory", "draft", "entry", "hidden", "lock", "reported")

    def __init__(self, entry: Entry[Subject], directory: Directory) -> None:
        super().__init__(entry.name, directory)
        self.entry = entry
        self.directory = directory
        self.lock = trio.Lock()
        self.hidden = 0.0
        self.draft: int | None = None
        self.reported = 4096  # the size of a report's last rendering, or of a long value's

    @property
    def subject(self) -> Subject:
        return self.directory.subject

    @property
    def path(self) -> str:
        """Below the object's own directory: ``cgroup/memory.max``."""
        return self.directory.prefix + self.name

    @property
    def attributes(self) -> Attributes:
        return self.subject.metadata.of(self.path)

    @property
    def mtime(self) -> int | None:
        """The time of the last write, or what utimensat(2) made of it; None before the first."""
        own = self.subject.metadata.files.get(self.path)
        return None if own is None else own.mtime

    @property
    def mode(self) -> int:
        kind = stat.S_IFLNK if isinstance(self.entry, Link) else stat.S_IFREG
        if kind == stat.S_IFLNK:
            return kind | 0o777
        own = self.subject.metadata.files.get(self.path)
        return kind | (self.entry.mode if own is None or own.mode is None else own.mode)

    @property
    def is_long(self) -> bool:
        """Whether it takes long to show it now."""
        return isinstance(self.entry, Value) and self.entry.long is not None and self.entry.long(self.subject)

    @property
    def settable(self) -> bool:
        """Whether file tools may replace it by rename and unlink."""
        match self.entry:
            case Value(store=store):
                return store is not None
            case List() | Document() | Blob():
                return True
        return False


class Scratch(Node):
    """A file in memory that an editor or a copying tool makes beside a setting on the way."""

    __slots__ = ("content", "gid", "mode", "mtime", "uid")

    LIMIT = 1 << 20
    PER_DIRECTORY = 16

    def __init__(self, name: str, parent: Directory, *, mode: int, uid: int, gid: int, mtime: int) -> None:
        super().__init__(name, parent)
        self.content = bytearray()
        self.mode = stat.S_IFREG | mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime


class Directory(Node):
    """A directory whose files are its table's entries. Subclasses add children that come and go."""

    #: Whether scratch files may be made here.
    scratchable = False
    #: Whether it may go, or be had under another name, so that the kernel must ask for it by name each time.
    fleeting = False
    #: Whether files in it come and go without the kernel's doing.
    unsteady = False

    def __init__(
        self,
        name: str,
        parent: Directory | None,
        subject: Subject,
        table: Iterable[Entry[Subject]],
        *,
        prefix: str = "",
    ) -> None:
        super().__init__(name, parent)
        self.subject = subject
        self.prefix = prefix  # of the path below the object's own directory: "cgroup/"
        self.entries: Mapping[str, Entry[Subject]] = {entry.name: entry for entry in table}
        self.files: dict[str, File | Directory] = {}
        self.scratch: dict[str, Scratch] = {}
        self.mode_bits = 0o755

    # what the kernel asks

    def child(self, name: str) -> Node | None:
        """The child of that name; None when there is none (or it is hidden)."""
        if (scratch := self.scratch.get(name)) is not None:
            return scratch
        if (dynamic := self.dynamic(name)) is not None:
            return dynamic
        if isinstance(node := self.static(name), File) and node.hidden > trio.current_time():
            return None
        return node

    def static(self, name: str) -> File | Directory | None:
        """The table's node of that name, hidden or not."""
        node = self.files.get(name)
        if node is None and (entry := self.entries.get(name)) is not None:
            node = entry.make(self.subject) if isinstance(entry, Folder) else File(entry, self)
            node.parent = self
            self.files[name] = node
        return node

    def children(self) -> Sequence[tuple[str, Node]]:
        """What readdir shows."""
        now = trio.current_time()
        found: list[tuple[str, Node]] = []
        for name, entry in self.entries.items():
            if entry.listed and (node := self.static(name)) is not None:
                if isinstance(node, File) and node.hidden > now:
                    continue
                found.append((name, node))
        for name in self.dynamic_names():
            if (child := self.dynamic(name)) is not None:
                found.append((name, child))
        found.extend(self.scratch.items())
        return found

    @property
    def attributes(self) -> Attributes:
        return self.subject.metadata.of(self.prefix)

    # what subclasses give

    #: Whether a name that is created becomes a file, and one that is unlinked goes.
    growing = False

    async def create(self, name: str) -> None:
        """open(2) with O_CREAT, or mknod(2), in a growing directory."""
        raise Forbidden(f"{self.place(name)}: no file can be made here")

    async def unlink(self, name: str) -> None:
        """unlink(2) in a growing directory."""
        raise Forbidden(f"{self.place(name)} can't be removed")

    async def settled(self) -> None:
        """Return when what decides about the children has been stored; before they are looked at."""

    def dynamic(self, name: str) -> Node | None:
        """A child that is not in the table."""
        return None

    def dynamic_names(self) -> Sequence[str]:
        """The names of the children that are not in the table."""
        return ()

    async def make(self, name: str) -> None:
        """mkdir(2)."""
        raise Forbidden(f"{self.place(name)}: no directory can be made here")

    async def link(self, name: str, target: str) -> None:
        """symlink(2): a relation to the object that the last components of *target* name, as in configfs."""
        raise Forbidden(f"{self.place(name)}: no symlink can be made here")

    async def remove(self, name: str) -> None:
        """rmdir(2)."""
        raise Forbidden(f"{self.place(name)} is part of the tree and can't be removed")

    async def rename(self, name: str, new: str) -> None:
        """rename(2) within this directory."""
        raise Forbidden(f"{self.place(name)} can't be renamed")

    def place(self, name: str) -> str:
        """A path to show in an error."""
        return f"{self.subject.label}/{self.prefix}{name}".lstrip("/")


class Refused(PydockError):
    """The words and errno of an earlier refusal, given again on the same descriptor."""

    def __init__(self, errno: int, words: str) -> None:
        super().__init__(words)
        self.errno = errno
