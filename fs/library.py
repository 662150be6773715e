"""The store as the runtime's source of root file systems."""

from __future__ import annotations

import os
from pathlib import Path

from pydock.overlay import composing, host, mount
from pydock.overlay.host import HostImage
from pydock.overlay.manifest import Healthcheck
from pydock.overlay.store import Store
from pydock.runtime.engine import Defaults, Source
from pydock.runtime.shifting import Shift


class Library:
    """The store as the runtime's source of root file systems (``pydock.runtime.engine.Images``)."""

    def __init__(self, store: Store, host: HostImage) -> None:
        self._store = store
        self._host = host

    def find(self, reference: str) -> Source:
        if reference == host.NAME:
            return Source(reference, host.NAME, self._host.layers(), Defaults(command=("sh",)))
        if reference.startswith("/"):
            image = self._store.directory_image(Path(os.path.normpath(reference)))
        else:
            image = self._store.image(reference)
        config = image.config
        check = config.healthcheck or Healthcheck()
        return Source(
            reference=image.reference,
            id=image.id,
            layers=tuple(str(path) for path in self._store.layer_paths(image)),
            defaults=Defaults(
                entrypoint=config.entrypoint,
                command=config.command,
                env=config.env,
                workdir=config.workdir,
                user=config.user,
                stop_signal=config.stop_signal or "",
                labels=tuple(f"{key}={value}" for key, value in config.labels),
                ports=config.ports,
                volumes=config.volumes,
                health_command=check.test,
                health_interval=check.interval / 1e9,
                health_timeout=check.timeout / 1e9,
                health_retries=check.retries,
                health_start_period=check.start_period / 1e9,
            ),
        )

    def union(self, layers: tuple[str, ...], upper: Path | None, work: Path | None, shift: Shift | None = None) -> int:
        lower = [Path(layer) for layer in layers if layer.startswith("/")]
        parts = dict(layer.split(":", 1) for layer in layers if not layer.startswith("/"))
        if not parts and shift is None:
            return mount.union(lower, upper, work)
        if parts and not lower[0].is_dir():
            self._host.make()
        shown = None if shift is None else composing.Shift(shift.userns, shift.ids.uid, shift.ids.gid)
        return composing.compose(
            lower, upper, work, parts={key: Path(path) for key, path in parts.items()}, shift=shown
        )

    def clone(self, fd: int, *, attributes: int = 0) -> int:
        return mount.clone(fd, attributes=attributes)
