"""Lists that are open for writing: a line is an item, ``-ITEM`` removes one.

Opened with O_TRUNC (``>``) all writes of the open file are one transaction: additions take effect at once, what was not
repeated goes when the file is released, and a line that is refused undoes the whole. Otherwise (``>>``) lines are atomic one
by one.
"""

from __future__ import annotations

from pydock.fs.errors import translate
from pydock.fs.handle import LONGEST, WHOLE, Handle, lines_of, text_of, too_long, written
from pydock.fs.node import (
    File,
    List,
    Refused,
    Subject,
)
from pydock.runtime.errors import NotFound
from pydock.runtime.formats import quote


class ListHandle(Handle):
    """A list: a line is an item; with O_TRUNC a transaction. Where the file is *fresh* what was there goes with the first
    line, so that the size is right before the close (git keeps that)."""

    def __init__(self, file: File, *, truncated: bool, fresh: bool = False) -> None:
        super().__init__(file)
        self.fresh = fresh
        assert isinstance(file.entry, List)
        self.entry: List[Subject] = file.entry
        self.transaction = False
        self.before: tuple[str, ...] | None = None
        self.kept: list[str] = []
        self.wrote = False
        self.touched = False
        self.pending = b""
        self.refusal: Refused | None = None
        if truncated:
            self._begin()

    def _begin(self) -> None:
        self.transaction = True
        self.before = self.entry.own(self.file.subject)
        self.kept = []

    async def write(self, offset: int, data: bytes) -> int:
        if self.refusal is not None:
            raise self.refusal
        self.wrote = True
        whole, already = self.pending + data, len(self.pending)
        self.pending = b""  # nothing is left to become an item at the close when a line is refused
        if len(whole) > LONGEST:
            async with self.file.lock:
                raise await self._refused(too_long(self.file.path))
        head, newline, rest = whole.rpartition(b"\n")
        if len(data) < WHOLE and rest:
            head, newline, rest = whole, b"", b""
        await self._take(head + newline, already=already, total=len(data))
        self.stamp = self.file.mtime
        if self._short is not None:
            return self._short  # the caller sends what was not taken again, the rest with it
        self.pending = rest
        return len(data)

    _short: int | None = None

    async def _take(self, block: bytes, *, already: int, total: int) -> None:
        """Each line of *block* in turn. Outside a transaction lines are atomic one by one: when a later one is refused the write
        is short, and the caller's next write, which begins with that line, gets the error."""
        self._short = None
        done = 0
        async with self.file.lock:
            for lines in (list(lines_of(block)),) if self.transaction else ([line] for line in lines_of(block)):
                try:
                    await self._lines(lines)
                except Exception as error:
                    if not self.transaction and done > already:
                        self._short = done - already
                        return
                    raise await self._refused(error) from error
                done += sum(map(len, lines))
        if block:
            written(self.file)
            self.snapshot = None

    async def _refused(self, error: Exception) -> Refused:
        """What to raise for *error*; a transaction is undone, and what comes later fails alike."""
        refusal = Refused(*translate(error))
        if self.transaction:
            self.refusal = refusal
            if self.touched:
                await self.entry.store(self.file.subject, self.before)
        return refusal

    async def _lines(self, lines: list[bytes]) -> None:
        """All of them at once: what is stored is the whole list, and there may be thousands."""
        items = list(self.kept if self.fresh else self.entry.show(self.file.subject))
        said = [
            self._edited(items, self.entry.trimmed(text_of(line.removesuffix(b"\n"), self.file.path))) for line in lines
        ]
        if any(said):
            await self.entry.store(self.file.subject, tuple(items))
            self.touched = True

    def _edited(self, items: list[str], line: str) -> bool:
        """*items* with what *line* says; whether it says anything."""
        if not line:
            return False
        if line.startswith("-"):
            for removed in self._find(items, line[1:].strip()):
                items.remove(removed)
                if removed in self.kept:
                    self.kept.remove(removed)
        else:
            parsed = self.entry.parse(self.file.subject, line)
            if not parsed:  # a comment
                return False
            for item in parsed:
                self._place(items, item)
                self._place(self.kept, item)
        return True

    def _find(self, items: list[str], wanted: str) -> list[str]:
        """The items that ``-wanted`` takes away: the item itself, in any form, or its key."""
        try:
            canonical = self.entry.parse(self.file.subject, wanted)
        except Exception:
            canonical = ()
        found = [item for item in items if item == wanted or item in canonical or self.entry.key(item) == wanted]
        if found:
            return found
        raise NotFound(f"{quote(wanted)} is not in {self.file.name}, so it can't be removed")

    def _place(self, items: list[str], item: str) -> None:
        key = self.entry.key(item)
        for index, other in enumerate(items):
            if self.entry.key(other) == key:
                items[index] = item
                return
        items.append(item)

    async def truncate(self, size: int) -> None:
        if size == 0 and not self.transaction:
            self._begin()

    @property
    def unfinished(self) -> bool:
        return bool(self.pending) and self.refusal is None

    async def flush(self) -> None:
        if self.unfinished:
            data, self.pending = self.pending, b""
            with self._closing():
                await self._take(data, already=0, total=len(data))

    async def release(self) -> None:
        if self.refusal is not None:
            return
        await self.flush()
        if self.transaction and self.refusal is None:
            async with self.file.lock:
                if not self.wrote:
                    await self.entry.store(self.file.subject, None)
                    written(self.file)
                elif tuple(self.entry.show(self.file.subject)) != tuple(self.kept):
                    with self._closing():
                        await self._keep_repeated()
                        written(self.file)

    async def _keep_repeated(self) -> None:
        """What was not repeated goes; where it can't (a volume that is in use) nothing has changed."""
        try:
            await self.entry.store(self.file.subject, tuple(self.kept))
        except Exception:
            if self.touched:
                await self.entry.store(self.file.subject, self.before)
            raise
