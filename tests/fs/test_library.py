"""What the runtime is told of an image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from pydock.fs.library import Library
from pydock.overlay.manifest import Healthcheck, ImageConfig


def test_the_health_check_of_an_image_is_the_default_in_seconds() -> None:
    check = Healthcheck(("CMD-SHELL", "true"), interval=10**9, timeout=5 * 10**8, start_period=10**10, retries=2)
    image = SimpleNamespace(reference="a:1", id="sha256:1", config=ImageConfig(healthcheck=check))
    store = SimpleNamespace(image=lambda reference: image, layer_paths=lambda image: [Path("/layer")])
    defaults = Library(store, None).find("a:1").defaults  # type: ignore[arg-type]
    assert defaults.health_command == ("CMD-SHELL", "true")
    assert (defaults.health_interval, defaults.health_timeout, defaults.health_start_period) == (1.0, 0.5, 10.0)
    assert defaults.health_retries == 2
