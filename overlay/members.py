"""The confined reader of archives: ``python -m pydock.overlay.members FD``, an archive on stdin, its members on stdout.

Archives of images come from strangers, compressed or not, as layers do (:mod:`pydock.overlay.unpack`), so decompressing and
understanding them is left to a process without any privilege, whose whole world is FD, an empty directory. It stores nothing:
names are never paths here, and the other end hashes what comes and decides what becomes of it.

stdout is a sequence of frames: a letter and a length (:data:`FRAME`), then so many bytes. M is the next member, as JSON:
``{"name": NAME, "kind": LETTER, "link": NAME, "size": N}``, with lone surrogates in names that are not UTF-8, kind the type of the
tar header; D are data of the member before; E ends all, as JSON ``{"error": WORDS or null, "errno": N or null}``, errno null for a
fault of the archive.
"""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import sys
from collections.abc import Iterator
from typing import Final

from pydock.overlay import tarformat
from pydock.overlay.compression import CHUNK, detect, expand
from pydock.overlay.confine import confine
from pydock.overlay.errors import Invalid
from pydock.overlay.tarformat import BadArchive, shown

FRAME: Final = struct.Struct(">cI")
MEMBER, DATA, END = b"M", b"D", b"E"


class _Plain(io.RawIOBase):
    """The stream of *chunks* as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _stdin() -> Iterator[bytes]:
    while data := os.read(0, CHUNK):
        yield data


def _started(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, enough to tell the compression by, and all of it."""
    first = next(chunks, b"")
    while first and len(first) < tarformat.BLOCK and (more := next(chunks, b"")):
        first += more

    def again() -> Iterator[bytes]:
        if first:
            yield first
        yield from chunks

    return first, again()


def _send(kind: bytes, data: bytes) -> None:
    # one write for both, as small members are many
    whole = FRAME.pack(kind, len(data)) + data if len(data) < CHUNK // 16 else None
    for part in (whole,) if whole is not None else (FRAME.pack(kind, len(data)), data):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


def _tell(kind: bytes, what: dict[str, object]) -> None:
    _send(kind, json.dumps(what).encode())


def _run() -> None:
    first, chunks = _started(_stdin())
    reader = tarformat.Reader(io.BufferedReader(_Plain(expand(chunks, detect(first))), CHUNK))
    for entry in reader:
        if entry.segments is not None:
            raise BadArchive(f"member {shown(entry.name)} is a sparse file, which no image archive has")
        kind, name, link = entry.kind.decode(), os.fsdecode(entry.name), os.fsdecode(entry.link)
        _tell(MEMBER, {"name": name, "kind": kind, "link": link, "size": entry.size})
        while data := reader.read(CHUNK):
            _send(DATA, data)
    reader.drain()


def main() -> int:
    """Confine, read, report."""
    report: dict[str, object] = {"error": None, "errno": None}
    try:
        confine(int(sys.argv[1]), capabilities=(), read_only=True)
        _run()
    except (BadArchive, Invalid) as error:
        report["error"] = str(error)
    except MemoryError:
        report["error"] = "the archive takes too much memory to read"
    except BrokenPipeError:
        return 0  # the other end has seen enough
    except OSError as error:
        report = {"error": error.strerror, "errno": error.errno or errno.EIO}
    _tell(END, report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
