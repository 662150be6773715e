"""What can go wrong with images, layers and mounts, as exceptions whose message is one line for a person.

This package may not know ``pydock.runtime.errors``, so it has its own few; ``pydock.fs.errors`` maps them to the same
errnos. What the kernel refuses (no space, read-only, not permitted) stays an ``OSError`` with the kernel's errno.
"""

from __future__ import annotations


class OverlayError(Exception):
    """The base of all; never raised itself."""


class Invalid(OverlayError):
    """A name, document or archive that can't be accepted: EINVAL."""


class NotFound(OverlayError):
    """No such image, blob, layer or directory: ENOENT."""


class Busy(OverlayError):
    """In use by somebody whom the message names: EBUSY."""


class Exists(OverlayError):
    """The name is taken: EEXIST."""
