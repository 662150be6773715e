"""Subjects of directories that are no objects of their own, and what all subjects do alike."""

from __future__ import annotations

from pydock.fs.metadata import Metadata
from pydock.runtime.engine import Engine
from pydock.runtime.formats import now


class Place:
    """A directory that holds objects, such as ``containers``: failures there have only the root's ``errors``."""

    def __init__(self, label: str, engine: Engine) -> None:
        self.label = label
        self.engine = engine
        self.metadata = Metadata(born=now())

    def failed(self, words: str) -> None:
        self.engine.failures.add(self.label, words)

    def succeeded(self) -> None:
        """Nothing is shown here that a success would clear."""


class Telling(Place):
    """A directory with an ``error`` of its own, which lives as long as the mount."""

    def __init__(self, label: str, engine: Engine) -> None:
        super().__init__(label, engine)
        self.error = ""
        self.error_changed = self.metadata.born

    def failed(self, words: str) -> None:
        super().failed(words)
        self.error, self.error_changed = words, now()

    def succeeded(self) -> None:
        if self.error:
            self.error, self.error_changed = "", now()
