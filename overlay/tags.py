"""The names of images: entries of the store's ``index.json`` (image-layout.md), which other tools may write as well.

An entry of ours has, beside the name, when it got that: what is told of an image by its name is so since then, whoever asks later.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final

from pydock.overlay import manifest as documents
from pydock.overlay.errors import Invalid
from pydock.overlay.manifest import Descriptor, Index
from pydock.overlay.reference import Reference

INDEXES: Final = (documents.INDEX, documents.DOCKER_LIST)
_TAGGED: Final = "pydock.tagged"  # in ns since the epoch
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


def tags_of(index: Index) -> dict[Reference, Descriptor]:
    """The entries that are names of images."""
    tags = {}
    for descriptor in index.manifests:
        name = (descriptor.annotations or {}).get(documents.REF_NAME)
        if name is not None and descriptor.media_type not in INDEXES:
            try:
                tags[Reference.parse(name)] = descriptor
            except Invalid:
                continue  # another tool's entry: not an image to us, but kept
    return tags


def with_tags(index: Index, tags: Mapping[Reference, Descriptor]) -> Index:
    """*index* with *tags*, and with the entries that are no tags of ours as they are."""
    before = tags_of(index)
    entries = [each for each in index.manifests if not any(each is tag for tag in before.values())]
    for reference, descriptor in tags.items():
        annotations = {**(descriptor.annotations or {}), documents.REF_NAME: reference.full}
        annotations.pop(_TAGGED, None)  # that of another name
        old = before.get(reference)
        if old is None or old.digest != descriptor.digest:
            annotations[_TAGGED] = str(time.time_ns())
        elif (since := (old.annotations or {}).get(_TAGGED)) is not None:
            annotations[_TAGGED] = since
        entries.append(
            Descriptor(
                media_type=descriptor.media_type,
                digest=descriptor.digest,
                size=descriptor.size,
                annotations=annotations,
                platform=descriptor.platform,
            )
        )
    return Index(manifests=tuple(entries))


def since(descriptor: Descriptor) -> int | None:
    """When the image of the entry got its name, in ns since the epoch; None where another tool, or an older version, has named it."""
    told = (descriptor.annotations or {}).get(_TAGGED, "")
    return int(told) if _NUMBER.fullmatch(told) else None
