"""What can go wrong, as exceptions that carry the words a person reads.

Code of the engine raises these (or plain ``OSError``); ``pydock.fs.errors`` maps each to an errno in one table.
The message is one line: what was tried, what was wrong, what would be accepted.
"""

from __future__ import annotations

import os


def words_of(error: Exception) -> str:
    """What a person reads of *error*: of an OSError what is wrong with which file, not Python's text of it."""
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) and error.filename else ""
    return f"{path}: {error.strerror}" if path else error.strerror or os.strerror(error.errno)


class PydockError(Exception):
    """The base of all; never raised itself."""


class Invalid(PydockError):
    """A value that can't be accepted: EINVAL."""


class NotFound(PydockError):
    """No such image, network, container, user, file: ENOENT."""


class Busy(PydockError):
    """Wrong state, or in use by somebody whom the message names: EBUSY."""


class Exists(PydockError):
    """The name is taken: EEXIST."""


class Taken(PydockError):
    """A port is taken: EADDRINUSE."""


class Forbidden(PydockError):
    """Not allowed, whoever asks: EPERM."""


class Unsupported(PydockError):
    """The kernel lacks it: EOPNOTSUPP."""


class TimedOut(PydockError):
    """It took too long: ETIMEDOUT."""


class Failed(PydockError):
    """A system call failed with *errno* while something with a name was done: that errno, these words."""

    def __init__(self, errno: int, words: str) -> None:
        super().__init__(words)
        self.errno = errno
