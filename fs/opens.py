"""The files that are open: what the kernel's numbers for them stand for, and who opened them."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

import trio
from pydock.fs.blocking import held
from pydock.fs.handle import Handle
from pydock.fs.inodes import Inodes
from pydock.fs.node import Node, Refused

_SOON: Final = 2.0  # seconds in which whoever was told to come again does


class Writer(NamedTuple):
    """Who opened a file to write it: a thread's id, and by which inode number."""

    thread: int
    inode: int


class Again(NamedTuple):
    """What was made for who was told to look once more, and when."""

    node: Node
    handle: Handle
    since: float


class Opens:
    """Handles by their numbers."""

    def __init__(self, inodes: Inodes) -> None:
        self._inodes = inodes
        self._handles: dict[int, Handle] = {}
        self._writers: dict[int, Writer] = {}  # of those that may write
        self._again: dict[int, Again] = {}  # for those who come again, by thread id
        self._last = 0

    def __getitem__(self, number: int) -> Handle:
        return self._handles[number]

    def get(self, number: int | None) -> Handle | None:
        """The handle; None when it is none's number."""
        return None if number is None else self._handles.get(number)

    def new(self) -> int:
        """A number that has never been used."""
        self._last += 1
        return self._last

    def add(self, handle: Handle, writer: Writer | None = None) -> int:
        """Its number."""
        number = self.new()
        self._handles[number] = handle
        if writer is not None:
            self._writers[number] = writer
        return number

    def pop(self, number: int) -> Handle:
        """It is closed."""
        self._writers.pop(number, None)
        return self._handles.pop(number)

    def writes(self, number: int) -> Handle:
        """The handle that is being written: the kernel knows its file's size better now."""
        self._inodes.told(self._writers[number].inode, None)
        return self._handles[number]

    async def is_held(self, number: int) -> bool:
        """Whether somebody has it open yet, while a descriptor of it is being closed."""
        handle, writer = self._handles[number], self._writers[number]
        look = partial(held, *writer, handle.file.name, anywhere=handle.anywhere)
        return await trio.to_thread.run_sync(look)

    async def to_read(self, node: Node, thread: int, inode: int, handle: Callable[[], Awaitable[Handle]]) -> Handle:
        """The handle, which *handle* makes, of who only reads *node*.

        sendfile(2) and splice(2) read no further than the size that the kernel knows, which an open does not renew (busybox cat). When
        it is another than that of what is read, the answer is ESTALE: the kernel then looks the path up once more, asking for each
        name, and with it for the size, and comes again.
        """
        before = self._again.pop(thread, None)
        soon = before is not None and trio.current_time() - before.since < _SOON
        if before is not None and soon and before.node is node:
            before.handle.moved(inode)
            return before.handle
        made = await handle()
        # Nobody is told so twice for one open: the caller would be.
        if not soon and made.length not in (None, self._inodes.known[inode].size):
            now = trio.current_time()
            self._again = {key: each for key, each in self._again.items() if now - each.since < _SOON}
            self._again[thread] = Again(node, made, now)
            raise Refused(errno.ESTALE, "")
        return made
