"""The store as the runtime's source of root file systems."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pydock.fs.imageroots import clear
from pydock.fs.options import Options
from pydock.overlay import composing, host, mount
from pydock.overlay.busybox import make_busybox
from pydock.overlay.errors import OverlayError
from pydock.overlay.host import HostImage
from pydock.overlay.image import Image, directory_image
from pydock.overlay.manifest import Healthcheck
from pydock.overlay.store import Store
from pydock.runtime.changes import DIRECTORIES, FILES
from pydock.runtime.container import Container
from pydock.runtime.engine import Defaults, Engine, Source
from pydock.runtime.paths import checked_source
from pydock.runtime.shifting import Shift

log = logging.getLogger("pydockd")


class Library:
    """The store as the runtime's source of root file systems (``pydock.runtime.engine.Images``).

    *places*, made here, is a layer below all others of a container: what is mounted on in every one is there then, and need not be
    made in each writable layer, which takes a start longer than to mount on it.
    """

    def __init__(self, store: Store, host: HostImage, places: Path | None = None, mountpoint: str = "") -> None:
        self._store = store
        self._host = host
        self._mountpoint = mountpoint
        self._below: tuple[Path, ...] = ()
        if places is not None:
            try:
                _make_places(places)
                self._below = (places,)
            except OSError as error:
                log.warning("%s can't be made, and is done without: %s", places, error.strerror)

    def find(self, reference: str) -> Source:
        if reference == host.NAME:
            return Source(reference, host.NAME, self._host.layers(), Defaults(command=("sh",)))
        if reference.startswith("/"):
            checked_source(reference, outside=self._mountpoint)
            image = directory_image(Path(os.path.normpath(reference)))
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
            return self._union(lower, upper, work)
        if parts and not lower[0].is_dir():
            self._host.make()
        shown = None if shift is None else composing.Shift(shift.userns, shift.ids.uid, shift.ids.gid)
        return composing.compose(
            lower, upper, work, parts={key: Path(path) for key, path in parts.items()}, shift=shown
        )

    def _union(self, lower: list[Path], upper: Path | None, work: Path | None) -> int:
        if upper is not None and self._below:
            try:
                return mount.union([*self._below, *lower], upper, work)
            except OSError as error:
                if error.errno != errno.ELOOP:  # a directory that holds all of ours, as / does: layers may not overlap
                    raise
        return mount.union(lower, upper, work)

    def clone(self, fd: int, *, attributes: int = 0) -> int:
        return mount.clone(fd, attributes=attributes)


def _make_places(directory: Path) -> None:
    for place in DIRECTORIES:
        (directory / place[1:]).mkdir(parents=True, exist_ok=True)
    for place in FILES:
        file = directory / place[1:]
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            file.touch()


def counts(store: Store, engine: Engine) -> dict[str, int]:
    """How many there are of what is kept."""
    references = store.references()
    layers = {layer.chain_id for reference in references for layer in store.image(reference).layers}
    return {
        "images": len(references),
        "layers": len(layers),
        "volumes": len(engine.volumes),
        "networks": len(engine.attachments.store),
    }


def chains(containers: Iterable[Container]) -> frozenset[str]:
    """The chain ids of the layers below writable layers: they stay on disk whatever becomes of the tag."""
    names = {Path(layer).name for container in containers for layer in container.record.layers}
    return frozenset(name.replace("-", ":", 1) for name in names if name.startswith("sha256-"))


def users(containers: Iterable[Container], store: Store, image: Image) -> tuple[str, ...]:
    """The containers that are made of *image*, or would be at their next start, whichever of its names they have."""
    ids = {host.NAME: ""}
    for name in {container.spec.image for container in containers if container.spec.image}:
        if name not in ids and not name.startswith("/"):
            with suppress(OverlayError):
                ids[name] = store.image(name).id
    return tuple(
        container.name
        for container in containers
        if image.id in (container.record.image_id, ids.get(container.spec.image or ""))
    )


def asking(containers: Iterable[Container], reference: str) -> tuple[str, ...]:
    """The containers that find their image by *reference* when they are started: no writable layer has its layers yet."""
    return tuple(each.name for each in containers if each.spec.image == reference and not each.record.layers)


def recover(store: Store, host: HostImage, options: Options, containers: Iterable[Container]) -> None:
    """Clear away what a death has left of images, and make the first one. Blocks; before anything is mounted."""
    clear(options.run / "images")
    host.clear(frozenset(layer for container in containers for layer in container.record.layers))
    for reference in store.recover(keep=chains(containers)):
        log.error("image %s was not whole after a loss of power, and is gone", reference)
    if "busybox:latest" not in store.references() and not (options.root / "busybox.made").exists():
        try:
            make_busybox(store)
        except (OverlayError, OSError) as error:
            log.warning("no busybox:latest: %s", error)
        else:
            store.settle()
            (options.root / "busybox.made").touch()  # who removes it does not get it back
