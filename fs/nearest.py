"""The name that somebody may have meant."""

from __future__ import annotations

import difflib

from pydock.fs.node import Directory
from pydock.runtime.errors import Forbidden


def nearest(directory: Directory, name: str) -> str:
    """``did you mean`` for a name that does not exist in *directory*, from all settings of the object; empty when none is near."""
    known: dict[str, str] = {}
    for entry, node in directory.children():
        known.setdefault(entry, entry)
        if isinstance(node, Directory) and isinstance(directory.static(entry), Directory):
            for inner in [*node.entries, *node.dynamic_names()]:
                known.setdefault(inner, f"{entry}/{inner}")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {known[close[0]]}?" if close else ""


def unknown(directory: Directory, name: str) -> Forbidden:
    """The refusal of a name that no file of *directory* can have."""
    return Forbidden(f"{directory.place(name)} is not a setting{nearest(directory, name)}")
