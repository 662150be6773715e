"""Locks that one process has and another waits for."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable
from typing import Final

_PAUSE: Final = 0.02  # seconds


def flock(fd: int, patience: Callable[[], float]) -> bool:
    """flock(2) of *fd*, for this process alone; False when somebody has it for longer than *patience* says, in seconds: asked each
    time, as who has it may become somebody else, or be about to end. Blocks."""
    begin = time.monotonic()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - begin > patience():
                return False
            time.sleep(_PAUSE)
        else:
            return True
