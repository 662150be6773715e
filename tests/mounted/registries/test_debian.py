"""A real image, through all of its life: pulled, run, a package installed into it, committed, pushed, pulled elsewhere, run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import DockerRegistry, Engine

ARCHIVE = Path("/var/tmp/pydock-tests/bookworm-systemd.tar")
CONTROL = """\
Package: greeting
Version: 1.2
Architecture: all
Maintainer: me <me@example.org>
Description: a greeting
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A Debian package with a program, and a script that runs at its installation."""
    root = tmp_path / "greeting"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(CONTROL)
    (root / "DEBIAN/postinst").write_text("#!/bin/sh\nset -e\nadduser --system --quiet greeter || useradd -r greeter\n")
    (root / "DEBIAN/postinst").chmod(0o755)
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/greeting").write_text("#!/bin/sh\necho hello from a package\n")
    (root / "usr/bin/greeting").chmod(0o755)
    made = tmp_path / "greeting.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", root, made], check=True, capture_output=True, timeout=60
    )
    return made


@pytest.fixture
def elsewhere(own_engine: Engine) -> Iterator[Engine]:
    """Another machine, as far as pydock is concerned."""
    engine = type(own_engine)()
    engine.start()
    yield engine
    engine.end()


def run(engine: Engine, name: str, image: str, command: str) -> Path:
    """A container that has run *command*, with success."""
    path = engine.tree / "containers" / name
    if not path.exists():
        path.mkdir()
        (path / "image").write_text(image)
    (path / "command").write_text(command)
    (path / "ctl").write_text("start")
    assert (path / "wait").read_text() == "0\n", (path / "log").read_text()
    return path


def test_a_debian_is_pulled_changed_pushed_and_runs_elsewhere(
    own_engine: Engine,
    elsewhere: Engine,
    registries: Callable[[str], DockerRegistry],
    debian: str,
    package: Path,
) -> None:
    host = registries("plain").host
    for engine in (own_engine, elsewhere):
        registry = engine.tree / "registries" / host
        registry.mkdir()
        (registry / "insecure").write_text("1")
    images = own_engine.tree / "images"
    (images / "ctl").write_text(f"import {ARCHIVE} {host}/debian:12")
    (images / host / "debian:12/ctl").write_text("push")
    (images / host / "debian:12").rmdir()
    (own_engine.tree / "ctl").write_text("gc")
    (images / "ctl").write_text(f"pull {host}/debian:12")
    c = run(own_engine, "c", f"{host}/debian:12", "cat /etc/debian_version")
    assert (c / "log").read_text().startswith("12.")
    (c / "rootfs/root/greeting.deb").write_bytes(package.read_bytes())
    run(own_engine, "c", "", "sh -c 'dpkg -i /root/greeting.deb && rm /root/greeting.deb'")
    (c / "ctl").write_text(f'commit {host}/debian:greeting message="a package" cmd=greeting')
    committed = images / host / "debian:greeting"
    assert len((committed / "layers").read_text().splitlines()) == 2
    assert (
        int((committed / "layers").read_text().splitlines()[1].split()[2]) < 5 << 20
    )  # what dpkg has changed, no more
    (committed / "ctl").write_text("push")
    (elsewhere.tree / "images/ctl").write_text(f"pull {host}/debian:greeting")
    there = run(elsewhere, "there", f"{host}/debian:greeting", "greeting")
    assert (there / "log").read_text() == "hello from a package\n"
    run(
        elsewhere,
        "there",
        "",
        "sh -c 'dpkg --verify greeting; dpkg -s greeting; id greeter; [ ! -e /root/greeting.deb ]'",
    )
    assert "Version: 1.2" in (there / "log").read_text()
