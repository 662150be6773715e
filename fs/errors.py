"""From exception to errno: the only table.

pyfuse3 ends the whole mount when anything but a FUSEError leaves a handler, so everything comes through
:func:`translate`. What is not in the table is a fault in pydock: it is logged with its traceback and becomes EIO.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from typing import Final

from pydock.overlay import errors as overlay
from pydock.runtime import errors as runtime

log = logging.getLogger(__name__)

_TABLE: Final[tuple[tuple[type[Exception], int], ...]] = (
    (runtime.Invalid, errno.EINVAL),
    (overlay.Invalid, errno.EINVAL),
    (runtime.NotFound, errno.ENOENT),
    (overlay.NotFound, errno.ENOENT),
    (runtime.Busy, errno.EBUSY),
    (overlay.Busy, errno.EBUSY),
    (runtime.Exists, errno.EEXIST),
    (overlay.Exists, errno.EEXIST),
    (runtime.Taken, errno.EADDRINUSE),
    (runtime.Forbidden, errno.EPERM),
    (runtime.Unsupported, errno.EOPNOTSUPP),
    (runtime.TimedOut, errno.ETIMEDOUT),
)


_LONGEST: Final = 600


def one_line(words: str) -> str:
    """*words* without anything that would break the one line of ``error``; of long ones, the beginning and the end."""
    if (
        len(words) > _LONGEST
    ):  # someone's value is quoted in them: what it is for and what would be accepted stand around it
        words = f"{words[: _LONGEST // 2]}…{words[-_LONGEST // 2 :]}"
    return " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())


def translate(error: BaseException) -> tuple[int, str]:
    """The errno for the caller and the words for ``error``."""
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return translate(error.exceptions[0])
    for kind, number in _TABLE:
        if isinstance(error, kind):
            return number, one_line(str(error))
    own: object = getattr(error, "errno", None)
    if isinstance(error, runtime.PydockError | OSError) and isinstance(own, int) and own > 0:
        return own, one_line(runtime.words_of(error))
    log.error("a fault in pydock", exc_info=error)
    return errno.EIO, one_line(f"a fault in pydock: {type(error).__name__}: {error}")


def leaves(error: BaseException | None) -> Iterator[BaseException]:
    """The exceptions in a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    elif error is not None:
        yield error
