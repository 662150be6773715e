"""What stat(2) tells of a node, and how long the kernel may believe it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

from pydock.fs.errors import translate
from pydock.fs.handle import shown
from pydock.fs.node import Bulk, Control, Directory, Document, File, Inlet, Link, Node, Report, Scratch, Stream

BLOCK: Final = 4096
_BULK_BLOCK: Final = 1 << 20  # a request's most


@dataclass(frozen=True, slots=True)
class Status:
    """*size* in bytes, *mtime* in ns since the epoch, *block* the bytes that are best read at once. What is *fleeting* is asked for
    each time; so is the node of its name when that is."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    links: int = 1
    block: int = BLOCK
    fleeting: bool = False
    name_fleeting: bool = False


def of_its_own(node: Node) -> bool:
    """Whether a write or read may block, and so every look-up needs an inode number of its own."""
    return isinstance(node, File) and (
        isinstance(node.entry, Control | Inlet | Stream) or (isinstance(node.entry, Report) and node.entry.slow)
    )


def stat_of(node: Node) -> Status:
    """What there is to say of *node* now. Quick, and never fails."""
    if isinstance(node, Scratch):
        size = len(node.content)
        return Status(node.mode, node.uid, node.gid, size, node.mtime, fleeting=True, name_fleeting=True)
    if isinstance(node, Directory):
        own = node.attributes
        mode = stat.S_IFDIR | (node.mode_bits if own.mode is None else own.mode)
        mtime = own.mtime or node.subject.metadata.born
        return Status(mode, own.uid or 0, own.gid or 0, 0, mtime, links=2, name_fleeting=node.fleeting)
    assert isinstance(node, File)
    return _of_file(node)


def is_fleeting(node: File) -> bool:
    """Whether the kernel asks each time; of a document as that changes with any setting."""
    return node.entry.volatile or isinstance(node.entry, Report | Document | Inlet)


def _of_file(node: File) -> Status:
    row, metadata = node.entry, node.subject.metadata
    own = metadata.files.get(node.path)
    if row.changed is not None:
        mtime = row.changed(node.subject)
    else:
        mtime = own.mtime if own is not None and own.mtime is not None else metadata.born
    return Status(
        node.mode,
        0 if own is None else own.uid or 0,
        0 if own is None else own.gid or 0,
        _size(node),
        mtime,
        block=_BULK_BLOCK if isinstance(row, Bulk | Inlet) else BLOCK,
        fleeting=is_fleeting(node),
        name_fleeting=of_its_own(node) or node.directory.unsteady,
    )


def _size(node: File) -> int:
    if isinstance(node.entry, Report) or node.is_long:
        return node.reported
    if node.draft is not None:
        return node.draft
    if isinstance(node.entry, Inlet | Link | Stream):
        return 0
    try:
        return node.entry.size(node.subject) if isinstance(node.entry, Bulk) else len(shown(node))
    except Exception as error:
        translate(error)  # logged when it is a fault; stat(2) must not fail for it
        return 0
