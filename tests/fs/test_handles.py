"""Open files without a mount: what each kind makes of writes, closes, offsets and refusals."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
import trio
from pydock.fs.file import open_file, replace
from pydock.fs.handle import LONGEST, Handle, lines_of, truncate
from pydock.fs.metadata import Metadata
from pydock.fs.node import (
    Control,
    Directory,
    Document,
    Entry,
    File,
    List,
    Refused,
    Report,
    Scratch,
    Stream,
    Subject,
    Value,
    Verb,
)
from pydock.fs.scratch import ScratchHandle, resize
from pydock.runtime.errors import Busy, Invalid


@dataclass
class Thing:
    """A subject with one setting of each kind; *log* has what was stored, in order."""

    label: str = "things/x"
    metadata: Metadata = field(default_factory=lambda: Metadata(born=1))
    value: str | None = None
    items: tuple[str, ...] | None = None
    document: str = "old"
    log: list[object] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def failed(self, words: str) -> None:
        self.errors.append(words)

    def succeeded(self) -> None:
        self.errors.clear()


async def store_value(thing: Thing, text: str | None, caller: int) -> None:
    await trio.lowlevel.checkpoint()
    if text == "bad":
        raise Invalid("bad")
    thing.value = text
    thing.log.append(text)


def parse_item(thing: Thing, line: str) -> tuple[str, ...]:
    if line.startswith("bad"):
        raise Invalid(line)
    return tuple(line.split("+"))


async def store_items(thing: Thing, items: tuple[str, ...] | None) -> None:
    await trio.lowlevel.checkpoint()
    thing.items = items
    thing.log.append(items)


async def apply(thing: Thing, text: str) -> None:
    if text == "bad":
        raise Invalid("bad")
    thing.document = text
    thing.log.append(text)


async def render(thing: Thing) -> str:
    thing.log.append("rendered")
    return "report\n"


async def say(thing: Thing, words: tuple[str, ...]) -> str:
    if words == ("no",):
        raise Busy("not now")
    thing.log.append(words)
    return f"said {' '.join(words)}"


def count(thing: Thing) -> str:
    if thing.value == "gone":
        raise Busy("gone")
    thing.log.append("shown")
    return str(len(thing.log))


class Tap:
    """A stream: gives what is poured in."""

    def __init__(self) -> None:
        self.send_channel, self.receive_channel = trio.open_memory_channel[bytes](10)
        self.closed = False

    async def receive(self) -> bytes:
        return await self.receive_channel.receive()

    async def send(self, data: bytes) -> int:
        return len(data)

    def readable(self) -> bool:
        return self.receive_channel.statistics().current_buffer_used > 0

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        wake()

    def close(self) -> None:
        self.closed = True


TAP = Tap()
TABLE: tuple[Entry[Thing], ...] = (
    Value(name="value", doc="", show=lambda thing: thing.value, store=store_value),
    Value(name="status", doc="", show=lambda thing: "fine"),
    Value(name="counted", doc="", show=count, long=lambda thing: bool(thing.items)),
    List(
        name="list",
        doc="",
        show=lambda thing: ("default",) if thing.items is None else thing.items,
        own=lambda thing: thing.items,
        parse=parse_item,
        store=store_items,
        key=lambda item: item.partition("=")[0],
    ),
    Document(name="document", doc="", show=lambda thing: thing.document, apply=apply),
    Report(name="report", doc="", render=render),
    Control(name="ctl", doc="", verbs=(Verb(name="say", usage="say WORD…", doc="say it", run=say),)),
    Stream(name="stream", doc="", open=lambda thing: TAP),
)
WRITE, TRUNCATE = os.O_WRONLY, os.O_WRONLY | os.O_TRUNC


@pytest.fixture
def thing() -> Thing:
    return Thing()


@pytest.fixture
def directory(thing: Thing) -> Directory:
    return Directory("x", None, thing, TABLE)  # type: ignore[arg-type]


@pytest.fixture
async def open_(directory: Directory, nursery: trio.Nursery) -> AsyncIterator[Callable[..., object]]:
    """Opens a file of the directory by name."""

    async def opened(name: str, flags: int = os.O_RDONLY) -> Handle:
        file = directory.static(name)
        assert isinstance(file, File)
        return await open_file(file, flags, os.getpid(), 1, nursery)

    yield opened
    nursery.cancel_scope.cancel()


Open = Callable[..., "trio.abc.AsyncResource"]


async def refused(action: Callable[[], object]) -> int:
    """The errno that *action* is refused with."""
    with pytest.raises((Refused, Invalid, Busy)) as caught:
        await action()  # type: ignore[misc]
    return getattr(caught.value, "errno", 0)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b"\n"]),
        (b"a", [b"a"]),
        (b"a\nb", [b"a\n", b"b"]),
        (b"a\rb\x0bc\x85\n", [b"a\rb\x0bc\x85\n"]),
        (b"\n\n", [b"\n", b"\n"]),
    ],
)
def test_only_a_newline_ends_a_line(data: bytes, lines: list[bytes]) -> None:
    assert lines_of(data) == lines


# values


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"a", "a"), (b"a\n", "a"), (b"\n", ""), (b"a b\n", "a b"), ("ä\n".encode(), "ä"), (b"a\n\n", "a\n")],
)
async def test_one_write_is_one_value(thing: Thing, open_: Open, data: bytes, value: str) -> None:
    handle = await open_("value", WRITE)
    assert await handle.write(0, data) == len(data)
    assert thing.value == value
    await handle.flush()
    await handle.release()
    assert thing.log == [value]


async def test_a_truncating_open_that_is_closed_unwritten_unsets_a_value(thing: Thing, open_: Open) -> None:
    thing.value = "x"
    await (await open_("value", TRUNCATE)).release()
    assert thing.value is None


async def test_a_plain_open_that_is_closed_unwritten_changes_nothing(thing: Thing, open_: Open) -> None:
    thing.value = "x"
    await (await open_("value", WRITE)).release()
    assert (thing.value, thing.log) == ("x", [])


async def test_a_shell_s_flush_before_its_write_changes_nothing(thing: Thing, open_: Open) -> None:
    handle = await open_("value", TRUNCATE)
    await handle.flush()
    await handle.write(0, b"x\n")
    await handle.release()
    assert thing.log == ["x"]


async def test_a_refused_value_is_not_unset_at_the_close(thing: Thing, open_: Open) -> None:
    thing.value = "x"
    handle = await open_("value", TRUNCATE)
    await refused(lambda: handle.write(0, b"bad\n"))
    await handle.release()
    assert thing.value == "x"


@pytest.mark.parametrize(
    "pieces", [[b"a" * 4096, b"b" * 100], [b"a" * 4096, b"b" * 4096, b"\n"], [b"a" * 5000 + b"\n"], [b"a" * 5000]]
)
async def test_a_long_value_may_come_in_pieces(thing: Thing, open_: Open, pieces: list[bytes]) -> None:
    handle = await open_("value", TRUNCATE)
    for piece in pieces:
        assert await handle.write(0, piece) == len(piece)
    await handle.flush()
    assert thing.log == [b"".join(pieces).decode().removesuffix("\n")]


async def test_the_newline_of_a_value_that_came_in_pieces_ends_it_in_its_write(thing: Thing, open_: Open) -> None:
    handle = await open_("value", WRITE)
    await handle.write(0, b"a" * 4096)
    assert thing.log == []
    await handle.write(4096, b"\n")
    assert thing.log == ["a" * 4096]
    await handle.write(4097, b"\n")
    assert thing.log[1:] == [""]


async def test_a_newline_behind_a_refused_value_is_an_empty_one(thing: Thing, open_: Open) -> None:
    handle = await open_("value", WRITE)
    await refused(lambda: handle.write(0, b"a\0"))
    await handle.write(2, b"\n")
    assert thing.log == [""]


async def test_a_value_has_a_longest_length(thing: Thing, open_: Open) -> None:
    handle = await open_("value", WRITE)
    await refused(lambda: handle.write(0, b"x" * (LONGEST + 1)))
    await handle.release()
    assert thing.log == []


@pytest.mark.parametrize("data", [b"a\0", b"\xff", b"\xc3\n"])
async def test_what_is_no_text_is_refused(thing: Thing, open_: Open, data: bytes) -> None:
    handle = await open_("value", WRITE)
    await refused(lambda: handle.write(0, data))
    assert thing.log == []


async def test_a_write_reads_back(thing: Thing, open_: Open) -> None:
    handle = await open_("value", os.O_RDWR)
    assert await handle.read(0, 100) == b""
    await handle.write(0, b"new\n")
    assert await handle.read(0, 100) == b"new\n"
    assert await handle.read(1, 2) == b"ew"


@pytest.mark.parametrize("name", ["value", "list", "document"])
async def test_what_is_read_is_what_was_there_at_the_open(thing: Thing, open_: Open, name: str) -> None:
    thing.value, thing.items = "old", ("old",)
    handle = await open_(name)
    thing.value, thing.items, thing.document = "later", ("later",), "later"
    assert (await handle.read(0, 2) + await handle.read(2, 100)).strip() == b"old"
    assert (await handle.read(0, 100)).strip() == b"later"


@pytest.mark.parametrize("items", [None, ("long",)])
async def test_a_value_is_shown_once_for_an_open_and_a_read(
    thing: Thing, open_: Open, items: tuple[str, ...] | None
) -> None:
    thing.items = items
    handle = await open_("counted")
    assert await handle.read(0, 100) == b"1\n"
    assert await handle.read(2, 100) == b""
    await handle.release()
    assert thing.log == ["shown"]


async def test_a_value_that_can_t_be_shown_is_refused_to_who_reads_it(thing: Thing, open_: Open) -> None:
    thing.value = "gone"
    handle = await open_("counted")
    await refused(lambda: handle.read(0, 100))
    thing.value = None
    assert await handle.read(0, 100) == b"1\n"


async def test_a_snapshot_stays_until_a_read_at_0(thing: Thing, open_: Open) -> None:
    thing.value = "one"
    handle = await open_("value")
    assert await handle.read(0, 2) == b"on"
    thing.value = "two"
    assert await handle.read(2, 10) == b"e\n"
    assert await handle.read(0, 10) == b"two\n"


async def test_a_time_that_was_set_after_the_last_write_stands(thing: Thing, open_: Open) -> None:
    handle = await open_("value", TRUNCATE)
    await handle.write(0, b"x" * 5000)
    handle.file.attributes.mtime = 5
    await handle.flush()
    assert handle.file.mtime == 5


async def test_a_value_without_store_can_t_be_opened_for_writing(open_: Open) -> None:
    assert await refused(lambda: open_("status", WRITE)) == errno.EACCES


# lists


async def lines(handle: Handle, *texts: str) -> None:
    for text in texts:
        await handle.write(0, text.encode())
    await handle.release()


async def test_lines_are_added(thing: Thing, open_: Open) -> None:
    await lines(await open_("list", WRITE), "a\n", "b\nc\n", "d")
    assert thing.items == ("default", "a", "b", "c", "d")


async def test_a_line_may_give_several_items(thing: Thing, open_: Open) -> None:
    await lines(await open_("list", TRUNCATE), "a+b\n")
    assert thing.items == ("a", "b")


async def test_an_item_takes_the_place_of_the_one_with_its_key(thing: Thing, open_: Open) -> None:
    await lines(await open_("list", TRUNCATE), "a=1\nb=2\na=3\n")
    assert thing.items == ("a=3", "b=2")


@pytest.mark.parametrize("line", ["-a=1", "-a", "- a"])
async def test_an_item_goes_by_itself_or_its_key(thing: Thing, open_: Open, line: str) -> None:
    thing.items = ("a=1", "b=2")
    await lines(await open_("list", WRITE), line)
    assert thing.items == ("b=2",)


@pytest.mark.parametrize("texts", [["b\n"], ["a\n", "-a\n", "b\n"], ["", "b\n"], ["\n", "b"]])
async def test_a_transaction_leaves_what_was_repeated(thing: Thing, open_: Open, texts: list[str]) -> None:
    thing.items = ("old",)
    await lines(await open_("list", TRUNCATE), *texts)
    assert thing.items == ("b",)


async def test_the_lines_of_one_write_of_a_transaction_are_stored_in_one_go(thing: Thing, open_: Open) -> None:
    handle = await open_("list", TRUNCATE)
    await handle.write(0, b"".join(b"%d\n" % number for number in range(1000)))
    assert len(thing.log) == 1
    assert thing.items == ("default", *map(str, range(1000)))


@pytest.mark.parametrize(("texts", "items"), [([], None), (["\n"], ()), (["a\n", "-a\n"], ())])
async def test_a_transaction_without_items_unsets_or_empties(
    thing: Thing, open_: Open, texts: list[str], items: tuple[str, ...] | None
) -> None:
    thing.items = ("old",)
    await lines(await open_("list", TRUNCATE), *texts)
    assert thing.items == items


@pytest.mark.parametrize("line", [b"bad\n", b"x" * (LONGEST + 1)])
@pytest.mark.parametrize("before", [None, (), ("a",)])
async def test_a_refused_line_undoes_a_transaction_and_what_comes_later_fails_alike(
    thing: Thing, open_: Open, before: tuple[str, ...] | None, line: bytes
) -> None:
    thing.items = before
    handle = await open_("list", TRUNCATE)
    await handle.write(0, b"b\n")
    assert await refused(lambda: handle.write(0, line)) == errno.EINVAL
    assert thing.items == before
    assert await refused(lambda: handle.write(0, b"good\n")) == errno.EINVAL
    await handle.release()
    assert thing.items == before


async def test_appended_lines_stand_up_to_the_refused_one(thing: Thing, open_: Open) -> None:
    handle = await open_("list", WRITE)
    assert await handle.write(0, b"a\nb\nbad\nc\n") == 4
    await refused(lambda: handle.write(0, b"bad\nc\n"))
    assert thing.items == ("default", "a", "b")


async def test_nothing_is_glued_to_a_refused_line_whose_piece_was_cut_short(thing: Thing, open_: Open) -> None:
    handle = await open_("list", WRITE)
    piece = b"a\nbad\n" + b"b\n" * 2050 + b"lo"
    assert await handle.write(0, piece) == 2
    await refused(lambda: handle.write(2, piece[2:] + b"ng\n"))
    await handle.release()
    assert thing.items == ("default", "a")


@pytest.mark.parametrize("last", [b" and its end\n", b"\0\n", b"x" * LONGEST])
async def test_the_beginning_of_a_refused_line_is_no_item_at_the_close(thing: Thing, open_: Open, last: bytes) -> None:
    handle = await open_("list", WRITE)
    await handle.write(0, b"bad".ljust(5000, b"a"))
    await refused(lambda: handle.write(0, last))
    await handle.flush()
    await handle.release()
    assert thing.log == []


async def test_the_end_of_a_long_piece_waits_for_the_next(thing: Thing, open_: Open) -> None:
    handle = await open_("list", TRUNCATE)
    first = b"a\n" * 2047 + b"lo"
    assert len(first) == 4096
    assert await handle.write(0, first) == 4096
    assert thing.items == ("default", "a")
    await handle.write(0, b"ng\n")
    await handle.release()
    assert thing.items == ("a", "long")


async def test_a_scratch_file_replaces_a_list_in_one_go(thing: Thing, directory: Directory) -> None:
    file = directory.static("list")
    assert isinstance(file, File)
    thing.items = ("old",)
    await replace(file, b"a=1\n\nb+c\na=2\n", 0)
    assert thing.log == [("b", "c", "a=2")] or thing.log == [("a=2", "b", "c")]
    with pytest.raises(Invalid):
        await replace(file, b"x\nbad\n", 0)
    await replace(file, b"", 0)
    assert thing.items is None


# documents


async def test_a_document_is_applied_once_at_the_close(thing: Thing, open_: Open) -> None:
    handle = await open_("document", TRUNCATE)
    await handle.flush()
    await handle.write(0, b"ne")
    await handle.write(2, b"w")
    assert thing.document == "old"
    await handle.flush()
    await handle.flush()
    await handle.release()
    assert thing.log == ["new"]


async def test_a_document_can_be_written_anywhere(thing: Thing, open_: Open) -> None:
    handle = await open_("document", os.O_RDWR)
    await handle.write(1, b"n")
    await handle.write(4, b"!")
    assert await handle.read(0, 10) == b"ond\0!"
    await handle.truncate(3)
    await handle.flush()
    assert thing.document == "ond"


async def test_what_is_appended_to_a_document_stands_at_its_end(thing: Thing, open_: Open) -> None:
    """Wherever the kernel takes that to be."""
    handle = await open_("document", os.O_WRONLY | os.O_APPEND)
    await handle.write(40, b"er")
    await handle.write(2, b"!")
    await handle.flush()
    assert thing.document == "older!"


async def test_a_document_that_is_refused_is_refused_once(thing: Thing, open_: Open) -> None:
    handle = await open_("document", TRUNCATE)
    await handle.write(0, b"bad")
    await refused(handle.flush)
    await handle.release()
    assert (thing.document, thing.log) == ("old", [])


async def test_a_document_that_is_too_long_is_not_applied_as_far_as_it_came(thing: Thing, open_: Open) -> None:
    handle = await open_("document", TRUNCATE)
    await handle.write(0, b"new" * 5000)
    assert await refused(lambda: handle.write(15000, b"x" * LONGEST)) == errno.EFBIG
    await handle.flush()
    await handle.release()
    assert (thing.document, handle.file.draft) == ("old", None)


async def test_a_document_that_is_cut_and_closed_is_empty(thing: Thing, open_: Open) -> None:
    handle = await open_("document", TRUNCATE)
    await handle.flush()
    await handle.release()
    assert thing.document == ""


# reports, controls, streams


async def test_a_report_is_rendered_when_it_is_opened_and_its_size_kept(thing: Thing, open_: Open) -> None:
    handle = await open_("report")
    assert (thing.log, handle.file.reported) == (["rendered"], 7)
    assert await handle.read(0, 3) == b"rep"
    assert await handle.read(3, 30) == b"ort\n"
    assert thing.log == ["rendered"]


async def test_a_report_is_rendered_again_when_it_is_read_from_its_beginning_again(thing: Thing, open_: Open) -> None:
    handle = await open_("report")
    assert await handle.read(0, 30) == await handle.read(0, 30) == b"report\n"
    assert thing.log == ["rendered", "rendered"]


async def test_a_control_file_lists_its_verbs(open_: Open) -> None:
    assert await (await open_("ctl")).read(0, 100) == "say WORD…  say it\n".encode()


async def test_a_line_is_a_command_and_its_outcome_is_read_wherever_the_offset_is(thing: Thing, open_: Open) -> None:
    handle = await open_("ctl", os.O_RDWR)
    await handle.write(0, b"say a b\n\nsay c\n")
    assert thing.log == [("a", "b"), ("c",)]
    assert await handle.read(15, 4) == b"said"
    assert await handle.read(19, 40) == b" c\n"


async def test_a_command_that_fails_leaves_its_words_and_those_behind_it_undone(thing: Thing, open_: Open) -> None:
    handle = await open_("ctl", os.O_RDWR)
    assert await handle.write(0, b"say a\nsay no\nsay b\n") == 6
    await refused(lambda: handle.write(6, b"say no\nsay b\n"))
    assert thing.log == [("a",)]
    assert await handle.read(6, 40) == b"not now\n"


@pytest.mark.parametrize("first", [b"", b"say no".ljust(5000)])
async def test_the_end_of_a_piece_with_a_command_that_fails_is_not_run_at_the_close(
    thing: Thing, open_: Open, first: bytes
) -> None:
    handle = await open_("ctl", WRITE)
    await handle.write(0, first)
    await refused(lambda: handle.write(0, (b"" if first else b"say no") + b"\n" + b" " * 5000 + b"say b"))
    await handle.flush()
    await handle.release()
    assert thing.log == []


async def test_an_unknown_command_is_invalid_and_the_words_have_the_known_ones(open_: Open) -> None:
    handle = await open_("ctl", os.O_RDWR)
    with pytest.raises(Invalid, match="say"):
        await handle.write(0, b"shout\n")


async def test_a_stream_gives_again_what_was_taken_back(open_: Open) -> None:
    handle = await open_("stream")
    TAP.send_channel.send_nowait(b"one\ntwo\nthree\n")
    assert await handle.read(0, 6) == b"one\ntw"
    assert await handle.read(4, 3) == b"tw"
    assert await handle.read(6, 100) == b"o\nthree\n"
    assert await handle.read(4, 100) == b"two\nthree\n"
    TAP.send_channel.send_nowait(b"four\n")
    assert await handle.read(14, 100) == b"four\n"


async def test_a_nonblocking_stream_without_data_is_eagain(open_: Open) -> None:
    handle = await open_("stream", os.O_RDONLY | os.O_NONBLOCK)
    assert await refused(lambda: handle.read(0, 10)) == errno.EAGAIN
    await handle.release()
    assert TAP.closed


async def test_a_stream_that_takes_nothing_can_t_be_opened_for_writing(open_: Open) -> None:
    assert await refused(lambda: open_("stream", os.O_RDWR)) == errno.EACCES


# truncate(2) by name, scratch files


@pytest.mark.parametrize(
    ("name", "size", "number"), [("value", 1, errno.EINVAL), ("status", 0, errno.EACCES), ("report", 0, errno.EACCES)]
)
async def test_what_can_t_be_truncated(directory: Directory, name: str, size: int, number: int) -> None:
    file = directory.static(name)
    assert isinstance(file, File)
    assert await refused(lambda: truncate(file, size)) == number


@pytest.mark.parametrize("name", ["value", "list"])
async def test_truncate_to_0_unsets(thing: Thing, directory: Directory, name: str) -> None:
    file = directory.static(name)
    assert isinstance(file, File)
    thing.value, thing.items = "x", ("x",)
    await truncate(file, 0)
    assert thing.log == [None]


@pytest.fixture
def scratch(directory: Directory) -> Scratch:
    return Scratch(".x", directory, mode=0o600, uid=0, gid=0, mtime=0)


async def test_a_scratch_file_is_bytes(scratch: Scratch) -> None:
    handle = ScratchHandle(scratch, truncated=False)
    await handle.write(3, b"\0\xff")
    assert await handle.read(0, 10) == b"\0\0\0\0\xff"
    await handle.truncate(1)
    assert (bytes(scratch.content), scratch.mode) == (b"\0", stat.S_IFREG | 0o600)


@pytest.mark.parametrize("offset", [Scratch.LIMIT, Scratch.LIMIT - 1, 1 << 60])
async def test_a_scratch_file_has_a_limit(scratch: Scratch, offset: int) -> None:
    assert await refused(lambda: ScratchHandle(scratch, truncated=False).write(offset, b"xy")) == errno.EFBIG
    with pytest.raises(Refused):
        resize(scratch, Scratch.LIMIT + 1)
    assert scratch.content == b""


def test_the_subject_is_what_the_tables_want() -> None:
    subject: Subject = Thing()
    assert subject.label == "things/x"
