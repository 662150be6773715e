"""A container as the subject of its directory: adds to the runtime's container what only files have."""

from __future__ import annotations

from pydock.fs.imagefiles import Images
from pydock.fs.metadata import Attributes, Metadata
from pydock.runtime.container import Container
from pydock.runtime.engine import Engine


class ContainerSubject:
    """*container* with the modes, owners and times of its files, which are kept in its record."""

    def __init__(self, container: Container, images: Images) -> None:
        self.container = container
        self.images = images
        kept = {path: Attributes(*values) for path, values in container.record.files.items()}
        self.metadata = Metadata(born=container.record.created, files=kept, changed=self._keep)

    def _keep(self) -> None:
        self.container.record.files = self.metadata.plain()
        self.container.save_soon()

    @property
    def engine(self) -> Engine:
        return self.container.engine

    @property
    def label(self) -> str:
        return self.container.label

    def failed(self, words: str) -> None:
        self.container.failed(words)

    def succeeded(self) -> None:
        self.container.succeeded()
