"""Events: what happened, as a line for whoever listens and a JSON line in the journal.

``TIME KIND NAME ACTION key=value…`` in the tree's ``events``; the journal keeps every event since installation as one JSON
object a line, appended in order, so that a reader resumes by its byte offset.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydock.runtime.formats import now, print_time


@dataclass(frozen=True, slots=True)
class Event:
    """*time* in ns since the epoch; *kind* is container, image, …; *fields* in the order given."""

    time: int
    kind: str
    name: str
    action: str
    fields: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        pairs = "".join(f" {key}={shlex.quote(value) if value else ''}" for key, value in self.fields)
        return f"{print_time(self.time)} {self.kind} {self.name} {self.action}{pairs}".replace("\n", "\\n")

    def to_json(self) -> str:
        values: dict[str, str] = dict(self.fields)
        return json.dumps(
            {"time": print_time(self.time), "kind": self.kind, "name": self.name, "action": self.action, **values}
        )


class Events:
    """The bus. Publishing is synchronous and in order; the journal is written by then (one write(2) to the page cache)."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self._listeners: list[Callable[[Event], None]] = []
        self._fd = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def publish(self, kind: str, name: str, action: str, **fields: str) -> None:
        """Something happened to the *kind* called *name*."""
        event = Event(now(), kind, name, action, tuple(fields.items()))
        with suppress(
            OSError
        ):  # a full disk must not stop the engine; the line is lost to the journal, not to listeners
            os.write(self._fd, event.to_json().encode(errors="surrogateescape") + b"\n")
        for listener in tuple(self._listeners):
            listener(event)

    @contextmanager
    def listening(self, listener: Callable[[Event], None]) -> Iterator[None]:
        """Have *listener* called for each event within."""
        self.listen(listener)
        try:
            yield
        finally:
            self.ignore(listener)

    def listen(self, listener: Callable[[Event], None]) -> None:
        self._listeners.append(listener)

    def ignore(self, listener: Callable[[Event], None]) -> None:
        self._listeners.remove(listener)

    def close(self) -> None:
        os.close(self._fd)
