"""The name that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from pydock.fs.node import Control, Directory, File, Stream
from pydock.runtime.errors import Forbidden


def nearest(directory: Directory, name: str) -> str:
    """``did you mean`` for a name that does not exist in *directory*, from all settings of the object; empty when none is near."""
    known = {each: each for each in _taking(directory)}
    for place, node in directory.children():
        if isinstance(node, Directory) and isinstance(directory.static(place), Directory):
            for inner in _taking(node):
                known.setdefault(inner, f"{place}/{inner}")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {known[close[0]]}?" if close else ""


def _taking(directory: Directory) -> Iterator[str]:
    """The names of its files that can be written."""
    for name in (*directory.entries, *directory.dynamic_names()):
        node = directory.static(name) or directory.dynamic(name)
        if isinstance(node, File) and (node.settable or isinstance(node.entry, Control | Stream)):
            yield name


def unknown(directory: Directory, name: str) -> Forbidden:
    """The refusal of a name that no file of *directory* can have."""
    return Forbidden(f"{directory.place(name)} is not a setting{nearest(directory, name)}")
