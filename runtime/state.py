"""Files that are replaced whole.

By writing a temporary one beside it and rename(2): whoever reads sees the old or the new text, and what was acknowledged
survives the death of any process without an fsync(2). (A loss of power: ``pydock.runtime.settler``.)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path


def replace(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Make *path* hold *text*, atomically."""
    temporary = f"{path}.new"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(text.encode(errors="surrogateescape"))
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, path.name) from None


def replace_json(path: Path, value: Mapping[str, object]) -> None:
    """:func:`replace` with one JSON object."""
    replace(path, printed(value))


def printed(value: Mapping[str, object]) -> str:
    """What a file says with one JSON object."""
    return json.dumps(value) + "\n"


def read_json(path: Path, read: Callable[[Path], str] = Path.read_text) -> dict[str, object] | None:
    """The object in *path*, as *read* reads it; None when there is none or it is not an object."""
    try:
        value = json.loads(read(path))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def clear_halves(directory: Path) -> None:
    """Remove what a death has left of files in *directory* that were being replaced."""
    for path in directory.glob("*.new"):
        path.unlink()
