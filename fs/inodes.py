"""Inode numbers and look-up counts, and what is remembered of processes that remove trees."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

import trio
from pydock.fs.node import Directory, File, Node, Refused

ROOT: Final = 1  # FUSE_ROOT_ID
_REMEMBERED: Final = 10.0
_ON_ITS_WAY: Final = 0.2  # seconds that an answer may be


@dataclass(slots=True)
class Known:
    """An inode number that the kernel may hold: its node, and how often it was looked up; the *size* that the kernel was told, as long
    as it has not made another of it itself, and until when it may disbelieve what it is told."""

    node: Node
    count: int = 0
    size: int | None = None
    disbelieves: float = 0.0


class Removal:
    """A process that lists directories and unlinks what it finds: ``rm -r``, or perhaps a file manager.

    Once it was refused one file it is refused the rest, and what it had unlinked is in sight again: nothing has changed.
    """

    __slots__ = ("begun", "emptying", "hidden", "listed", "refused")

    def __init__(self) -> None:
        self.begun = trio.current_time()
        self.listed: set[Directory] = set()
        self.emptying: set[Directory] = set()  # of these it has tried to remove directories
        self.hidden: list[File] = []
        self.refused = False

    def fresh(self) -> bool:
        """Whether it is worth remembering."""
        return trio.current_time() - self.begun < _REMEMBERED

    def comes_down_to(self, directory: Directory) -> bool:
        """Whether it has listed *directory* and the object that it belongs to: that can't go this way, so nothing in it does."""
        return directory.parent in self.listed and directory in self.listed

    def goes_on_to(self, directory: Directory) -> bool:
        """Whether it was refused all that is in *directory*, directories too, and comes for that all the same (find -delete); once, as
        who asks again means it."""
        if not (self.refused and self.fresh() and directory in self.emptying):
            return False
        self.emptying.discard(directory)
        return True

    def refuse(self) -> None:
        self.refused = bool(self.listed)
        for node in self.hidden:
            node.hidden = 0.0
        self.hidden.clear()


class Inodes:
    """Numbers and look-up counts. A number is never used again while mounted, so a generation is not needed."""

    def __init__(self, root: Directory) -> None:
        root.number = ROOT
        self.known: dict[int, Known] = {root.number: Known(root, 1)}
        self._next = 1 << 32  # clear of any other file system's small numbers, see fs.blocking

    def new(self, node: Node) -> int:
        """A number of its own for *node*, beside any that it has."""
        self._next += 1
        self.known[self._next] = Known(node)
        return self._next

    def number(self, node: Node) -> int:
        """The number of *node*."""
        if node.number == 0:
            node.number = self.new(node)
        self.known.setdefault(node.number, Known(node))  # forgotten by the kernel in between
        return node.number

    def __getitem__(self, number: int) -> Node:
        try:
            return self.known[number].node
        except KeyError:
            raise Refused(errno.ESTALE, "") from None

    def told(self, number: int, size: int | None) -> None:
        """The kernel takes the file for *size* bytes; None: it knows better, as somebody has written."""
        if (known := self.known.get(number)) is not None:
            known.size = None if trio.current_time() < known.disbelieves else size

    def invalidated(self, number: int) -> None:
        """The kernel was told to forget what it knows: it does not believe answers to what it had asked before, either."""
        if (known := self.known.get(number)) is not None:
            known.size, known.disbelieves = None, trio.current_time() + _ON_ITS_WAY

    def looked_up(self, number: int) -> None:
        self.known[number].count += 1

    def forget(self, number: int, count: int) -> None:
        known = self.known.get(number)
        if known is None:
            return
        known.count -= count
        if known.count <= 0 and number != ROOT:
            del self.known[number]

    def rebind(self, number: int, node: Node) -> None:
        """What the kernel knows by *number* is *node* from now on (a rename)."""
        if number in self.known:
            self.known[number].node = node
            node.number = number

    def kernel_knows(self, node: Node) -> bool:
        return node.number in self.known
