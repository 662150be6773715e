"""The name that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from pydock.fs.node import Control, Directory, File, Stream
from pydock.runtime.errors import Forbidden

_NEAR: Final = 0.5  # of 1, for the same name
_LISTED: Final = 0.15  # so much further off may be what ls shows than an alias of it


def nearest(directory: Directory, name: str) -> str:
    """``did you mean`` for a name that does not exist in *directory*, from all settings of the object; empty when none is near."""
    known = dict(_taking(directory))
    places = {each: each for each in known}
    for place, node in directory.children():
        if isinstance(node, Directory) and isinstance(directory.static(place), Directory):
            for inner, listed in _taking(node):
                if inner not in known:
                    known[inner], places[inner] = listed, f"{place}/{inner}"
    near = {each: difflib.SequenceMatcher(None, name.lower(), each.lower()).ratio() for each in known}
    close = (each for each in known if near[each] >= _NEAR)
    found = max(close, key=lambda each: near[each] + _LISTED * known[each], default="")
    return f": did you mean {places[found]}?" if found else ""


def _taking(directory: Directory) -> Iterator[tuple[str, bool]]:
    """The names of its files that can be written, and whether ls shows them."""
    for name in (*directory.entries, *directory.dynamic_names()):
        node = directory.static(name) or directory.dynamic(name)
        if isinstance(node, File) and (node.settable or isinstance(node.entry, Control | Stream)):
            yield name, node.entry.listed


def unknown(directory: Directory, name: str) -> Forbidden:
    """The refusal of a name that no file of *directory* can have."""
    return Forbidden(f"{directory.place(name)} is not a setting{nearest(directory, name)}")
