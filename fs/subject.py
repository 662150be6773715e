"""Subjects of directories that are no objects of their own, and what all subjects do alike."""

from __future__ import annotations

from pydock.fs.metadata import Metadata
from pydock.runtime.engine import Engine
from pydock.runtime.formats import now


class Place:
    """A directory that holds objects, such as ``containers``: failures there have only the root's ``errors``.

    What is in it is as it is since *born* (ns since the epoch; without it, since the mount).
    """

    def __init__(self, label: str, engine: Engine, born: int | None = None) -> None:
        self.label = label
        self.engine = engine
        self._metadata = Metadata(born=now() if born is None else born)

    @property
    def metadata(self) -> Metadata:
        return self._metadata

    def failed(self, words: str) -> None:
        self.engine.failures.add(self.label, words)

    def succeeded(self) -> None:
        """Nothing is shown here that a success would clear."""


class Telling(Place):
    """A directory with an ``error`` of its own, which lives as long as the mount."""

    def __init__(self, label: str, engine: Engine, born: int | None = None) -> None:
        super().__init__(label, engine, born)
        self.error = ""
        self.error_changed = self._metadata.born

    def failed(self, words: str) -> None:
        super().failed(words)
        self.error, self.error_changed = words, now()

    def succeeded(self) -> None:
        if self.error:
            self.error, self.error_changed = "", now()
