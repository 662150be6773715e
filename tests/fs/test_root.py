"""pydock.fs.root: what is said of the whole."""

from __future__ import annotations

from pydock.fs.root import README


def test_the_readme_fits_the_smallest_screen() -> None:
    lines = README.format(mountpoint="/mnt/pydock").splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) < 80
