"""The DNS's wire format (RFC 1035 section 4, RFC 6891), as far as a server needs it that answers or passes on one question.

Only the header, the question and an OPT record right behind it are read. A question comes first in a message, so a pointer in it
(section 4.1.4) leads nowhere: none is taken, and there is no loop to follow. What comes back from a resolver is passed on as bytes,
once its question is the one that was asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Name = tuple[bytes, ...]

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16

A: Final = 1
PTR: Final = 12
AAAA: Final = 28
ANY: Final = 255
_OPT: Final = 41
_TRANSFERS: Final = range(249, 255)  # TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: nothing for a stub
_IN: Final = 1

#: Bytes of a message over UDP where nobody has said more; what is offered, and used, where somebody has.
PLAIN: Final = 512
ENHANCED: Final = 1232
LONGEST: Final = 65535

_HEADER: Final = struct.Struct("!6H")
_RESPONSE: Final = 0x8000
_AUTHORITATIVE: Final = 0x0400
_TRUNCATED: Final = 0x0200
_WANTED: Final = 0x0100  # recursion desired
_AVAILABLE: Final = 0x0080
_OPCODE: Final = 0x7800
_TO_THE_QUESTION: Final = 0xC000 | _HEADER.size  # a pointer to its name


class Malformed(Exception):
    """It is no query that can be taken; *code* is the answer's, None for none at all."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Query:
    """One question. *name* is in lower case, *question* its bytes as they came; *room* the bytes that an answer over UDP may have."""

    number: int
    flags: int
    name: Name
    kind: int
    question: bytes
    room: int = PLAIN
    enhanced: bool = False  # it has an OPT record, and so has the answer


def parse(data: bytes) -> Query:
    """The query in *data*; Malformed."""
    if len(data) < _HEADER.size:
        raise Malformed(None)
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _RESPONSE:
        raise Malformed(None)  # whoever answers answers makes two servers talk forever
    if flags & _OPCODE:
        raise Malformed(NOTIMP)
    if questions != 1 or answers or authorities:
        raise Malformed(FORMERR)
    name, end = _name(data, _HEADER.size)
    if len(data) < end + 4:
        raise Malformed(FORMERR)
    kind, group = struct.unpack_from("!HH", data, end)
    question = data[_HEADER.size : end + 4]
    if group != _IN or kind in _TRANSFERS:
        raise Malformed(NOTIMP)
    room = _enhanced(data, end + 4) if additional else None
    if room is None:
        return Query(number, flags, name, kind, question)
    return Query(number, flags, name, kind, question, max(PLAIN, min(room, ENHANCED)), True)


def _name(data: bytes, place: int) -> tuple[Name, int]:
    labels: list[bytes] = []
    begin = place
    while True:
        if place >= len(data):
            raise Malformed(FORMERR)
        length = data[place]
        place += 1
        if not length:
            return tuple(labels), place
        if length > 63 or place + length > len(data) or place + length - begin > 254:
            raise Malformed(FORMERR)
        labels.append(data[place : place + length].lower())
        place += length


def _enhanced(data: bytes, place: int) -> int | None:
    """The bytes that an OPT record at *place* offers; None when there is another record. Malformed for one of a later version."""
    if len(data) < place + 11 or data[place] != 0:
        return None
    kind, size, _, version = struct.unpack_from("!HHBB", data, place + 1)
    if kind == _OPT and version:
        raise Malformed(BADVERS)
    return size if kind == _OPT else None


def failure(data: bytes, code: int) -> bytes:
    """An answer to what can't be parsed: its number and an error."""
    number, flags = struct.unpack_from("!HH", data)
    extra = b"\0" + struct.pack("!HHBBHH", _OPT, ENHANCED, code >> 4, 0, 0, 0) if code >> 4 else b""
    flags = _RESPONSE | flags & (_OPCODE | _WANTED) | _AVAILABLE | code & 0xF
    return _HEADER.pack(number, flags, 0, 0, 0, 1 if extra else 0) + extra


def answer(
    query: Query, code: int, records: Iterable[tuple[int, bytes]] = (), *, room: int = LONGEST, own: bool = True
) -> bytes:
    """An answer with *records* (type and data) about the name that was asked for. Without room for all it has none, and says so.

    Nobody may keep them: they have no time to live. With *own* it is the last word on the name.
    """
    flags = _RESPONSE | query.flags & _WANTED | _AVAILABLE | (_AUTHORITATIVE if own else 0) | code
    extra = b"\0" + struct.pack("!HHIH", _OPT, ENHANCED, 0, 0) if query.enhanced else b""
    body = [struct.pack("!HHHIH", _TO_THE_QUESTION, kind, _IN, 0, len(content)) + content for kind, content in records]
    if _HEADER.size + len(query.question) + sum(map(len, body)) + len(extra) > room or len(body) > LONGEST:
        flags, body = flags | _TRUNCATED, []
    header = _HEADER.pack(query.number, flags, 1, len(body), 0, 1 if extra else 0)
    return b"".join((header, query.question, *body, extra))


def with_number(data: bytes, number: int) -> bytes:
    """The message under another number."""
    return number.to_bytes(2, "big") + data[2:]


def answers(data: bytes, query: Query, number: int) -> bool:
    """Whether *data* is an answer to *query* as it was asked under *number*: section 4 of RFC 5452."""
    if len(data) < _HEADER.size:
        return False
    got, flags, questions, *_ = _HEADER.unpack_from(data)
    if got != number or not flags & _RESPONSE or flags & _OPCODE:
        return False
    if not questions:  # some say no more than that it went wrong
        return flags & 0xF != NOERROR and len(data) == _HEADER.size
    end = _HEADER.size + len(query.question)
    return questions == 1 and data[_HEADER.size : end].lower() == query.question.lower()


def code_of(data: bytes) -> int:
    """How an answer says it went."""
    return data[3] & 0xF


def truncated(query: Query) -> bytes:
    """An answer without anything: it is to be asked for over TCP."""
    flags = _RESPONSE | query.flags & _WANTED | _AVAILABLE | _TRUNCATED
    return _HEADER.pack(query.number, flags, 1, 0, 0, 0) + query.question


def encode(name: Name) -> bytes:
    """A name as it is written in a message."""
    return b"".join(bytes((len(label),)) + label for label in name) + b"\0"


def name_of(text: str) -> Name | None:
    """*text* as a name; None where it can't be one."""
    labels = tuple(label.encode("utf-8", "replace").lower() for label in text.rstrip(".").split("."))
    if not all(0 < len(label) < 64 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        return None
    return labels
