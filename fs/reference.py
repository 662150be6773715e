"""Writes ``INTERFACE.rst`` from the tables: each entry's own text is the source of the reference.

``python -m pydock.fs.reference`` prints it; a test compares it with the file.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from typing import Final

from pydock.fs.containers.cgroup import DOCS
from pydock.fs.containers.directory import TABLE as CONTAINER
from pydock.fs.containers.execs import EXEC
from pydock.fs.containers.health import HEALTH
from pydock.fs.imagefiles import IMAGE
from pydock.fs.images import TOP
from pydock.fs.networks import FIXED, NETWORK
from pydock.fs.node import Blob, Bulk, Control, Document, Entry, Folder, Link, List, Report, Stream, Value
from pydock.fs.registries import REGISTRY
from pydock.fs.root import TABLE as ROOT
from pydock.fs.volumes import VOLUME

_HEAD: Final = """\
.. This file is made from the tables in fs/ by ``python -m pydock.fs.reference``: change the tables.

==========================
The files of a pydock tree
==========================

Paths are relative to the mount point, usually ``/mnt/pydock``. NAME stands for a container's name, REFERENCE for an
image's. Permissions are Unix permissions; only root can write.

Kinds
=====

value
  The value in force and a newline; empty when there is none. One write is one value; ``: > file`` unsets it.
list
  An item a line. ``>>`` adds; a line ``-ITEM`` removes; ``>`` replaces the list when the file is closed, and a line that is
  refused undoes it all; ``: > file`` unsets it.
control
  Reading lists the commands. A line is a command, finished when write(2) returns; its outcome is write's errno, and in
  words what the same descriptor reads next. A signal ends the wait, but for SIGCHLD, SIGCONT, SIGURG and SIGWINCH, for which
  shells have handlers.
document
  A whole text, applied all or nothing when the last who has it open to write it closes it.
blob
  Bytes as they are; a long one is stored when it is closed.
report
  Rendered when it is opened.
stream
  Blocks until there is data, room or the end; ends within a second of a signal; EAGAIN with O_NONBLOCK; polls.
link
  A symbolic link to where the bytes are.
bulk
  Many bytes, with their true size: read at any place, and the same for whoever has it open, whatever happens meanwhile.

Sizes are bytes and take K, M, G, T (1024s); durations are seconds and take ms, s, m, h; times are RFC 3339 in UTC; booleans
are 0 and 1. A write that is refused changes nothing; the words are in the container's ``error`` and in ``errors``.

errno of a refused write
  EINVAL a bad value; ENOENT no such image, network, file; EBUSY the wrong state, or in use; EEXIST; EPERM not possible here;
  EOPNOTSUPP the kernel lacks it; ENOSPC; EIO a fault in pydock.
"""

_SECTIONS: Final = (
    ("The root", "", ROOT),
    (
        "containers/NAME/",
        "mkdir makes a container, rmdir removes one that does not run, mv renames it, also while it runs.",
        CONTAINER,
    ),
    (
        "containers/NAME/exec/NAME/",
        "mkdir makes a further process of a container, rmdir forgets one that does not run.",
        EXEC,
    ),
    (
        "containers/NAME/health/",
        "The health check: it runs in the container while that runs, and is not shown in ``exec``.",
        HEALTH,
    ),
    (
        "images/",
        "A directory an image, at the path that its reference is. ``ln -s OLD NEW`` gives a further name, mv another one, rmdir "
        "takes a name away and, with the last one, the image: EBUSY while a container uses it. An archive of images that is "
        "written here under any name (cp, cat, curl, dd, rsync, mv from elsewhere) is loaded on the way, from its beginning to "
        "its end (ESPIPE otherwise): docker's format or an OCI layout, plain, gzip, zstd, xz or bzip2. When it is closed the name "
        "is gone and the images are there, all of them or none; what is wrong with it fails write(2) or close(2). An image without "
        "a name in it gets the file's, ``app:2.tar.gz`` is ``app:2``.",
        TOP,
    ),
    ("images/REFERENCE/", "", IMAGE),
    (
        "networks/NAME/",
        "mkdir makes a network with the next subnet that is free, to be named in a container's ``network``; rmdir removes it, EBUSY "
        "while a container names it; mv renames it, in those settings too, also while they run. ``bridge`` is there from the start "
        "and stays. ``networks/ports/`` has a link for each published port, those of a range as well, ``PROTOCOL:IP:PORT``, to "
        "the container that has it.",
        NETWORK,
    ),
    (
        "networks/host/, networks/none/",
        "What ``network`` may say instead of a network: they can't be made, renamed or removed.",
        FIXED,
    ),
    (
        "registries/HOST[:PORT]/",
        "mkdir makes a place for the settings of a registry, and is not needed where nothing is to be set; rmdir forgets them. Docker "
        "Hub's are in ``docker.io``: index.docker.io is EINVAL.",
        REGISTRY,
    ),
    (
        "volumes/NAME/",
        "mkdir makes a volume, to be named as a source in a container's ``volumes``; rmdir removes it and its data, EBUSY while a "
        "container's settings name it; mv renames it, in those settings too.",
        VOLUME,
    ),
)


def _kind(entry: Entry) -> str:  # type: ignore[type-arg]  # of any subject
    match entry:
        case Value(store=store):
            return "read-only value" if store is None else "read-write value"
        case List():
            return "list"
        case Control():
            return "control"
        case Document():
            return "document"
        case Report():
            return "report"
        case Blob():
            return "blob"
        case Stream():
            return "stream"
        case Link():
            return "link"
        case Bulk():
            return "bulk"
        case Folder():
            return "directory"
    raise TypeError(type(entry))


def _paragraph(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, width=118, initial_indent=indent, subsequent_indent=indent, break_long_words=False)


def _entries(table: Iterable[Entry]) -> Iterable[str]:  # type: ignore[type-arg]  # of any subject
    for entry in table:
        yield f"{entry.name}\n" + _paragraph(f"A {_kind(entry)} file, mode {entry.mode:04o}. {entry.doc}")
        if isinstance(entry, Control):
            yield "\n".join(f"  ``{verb.usage}``\n    {verb.doc}" for verb in entry.verbs)


def render() -> str:
    """The whole reference."""
    parts = [_HEAD]
    for title, words, table in _SECTIONS:
        parts.append(f"{title}\n{'=' * len(title)}\n")
        if words:
            parts.append(_paragraph(words, "") + "\n")
        parts.extend(f"{text}\n" for text in _entries(table))
    title = "containers/NAME/cgroup/"
    parts.append(f"{title}\n{'=' * len(title)}\n")
    parts.append(
        _paragraph(
            "cgroup v2's files and formats on any kernel; one that the kernel has no way to serve is absent. The v1 names (tasks, "
            "cpu.cfs_quota_us, cpu.shares, memory.limit_in_bytes and so on) open too and are not listed.",
            "",
        )
        + "\n"
    )
    parts.extend(f"{name}\n{_paragraph(words)}\n" for name, words in DOCS.items())
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(render())
