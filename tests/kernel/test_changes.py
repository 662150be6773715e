"""What a writable layer changes, from an upper directory as overlayfs leaves it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from pydock.runtime.changes import changes, printed


class Layers:
    """An upper directory and the tree below it."""

    def __init__(self, top: Path) -> None:
        self.upper, self.lower = top / "upper", top / "lower"
        for path in (self.upper, self.lower):
            path.mkdir()
        self.file(self.lower, "etc/passwd", "etc/group", "usr/bin/sh", "var/lib/x", "var/log/y")
        os.symlink("usr/bin", self.lower / "bin")

    @staticmethod
    def file(top: Path, *names: str) -> None:
        for name in names:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).write_text("x")

    def whiteout(self, name: str) -> None:
        (self.upper / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(self.upper / name, stat.S_IFCHR, 0)

    def opaque(self, name: str) -> None:
        (self.upper / name).mkdir(parents=True, exist_ok=True)
        os.setxattr(self.upper / name, "trusted.overlay.opaque", b"y")

    def report(self, *targets: str) -> list[str]:
        upper, lower = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (self.upper, self.lower))
        try:
            return [str(change) for change in changes(upper, lower, targets)]
        finally:
            os.close(upper)
            os.close(lower)


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def _link(layers: Layers) -> None:
    (layers.upper / "trap").mkdir()
    os.symlink("/etc", layers.upper / "trap/out")
    os.symlink("/", layers.upper / "root")


CASES: dict[str, tuple[Callable[[Layers], object], list[str]]] = {
    "nothing": (lambda la: None, []),
    "a directory that was only copied up": (lambda la: (la.upper / "etc").mkdir(), []),
    "a directory of another mode": (lambda la: (la.upper / "etc").mkdir(0o700), ["C /etc"]),
    "a new file": (lambda la: la.file(la.upper, "etc/new"), ["C /etc", "A /etc/new"]),
    "a changed file": (lambda la: la.file(la.upper, "etc/group"), ["C /etc", "C /etc/group"]),
    "a new directory": (lambda la: la.file(la.upper, "srv/a"), ["A /srv", "A /srv/a"]),
    "an empty new directory": (lambda la: (la.upper / "srv").mkdir(), ["A /srv"]),
    "a deleted file": (lambda la: la.whiteout("etc/passwd"), ["C /etc", "D /etc/passwd"]),
    "a deleted directory": (lambda la: la.whiteout("var"), ["D /var"]),
    "a deletion of what the image lacks": (lambda la: la.whiteout("etc/none"), []),
    "an opaque directory": (lambda la: la.opaque("var"), ["C /var", "D /var/lib", "D /var/log"]),
    "an opaque directory with a directory of the image": (
        lambda la: (la.opaque("var"), (la.upper / "var/lib").mkdir()),
        ["C /var", "C /var/lib", "D /var/lib/x", "D /var/log"],
    ),
    "an opaque directory that is new": (lambda la: la.opaque("srv"), ["A /srv"]),
    "a file in a directory's place": (lambda la: la.file(la.upper, "var"), ["C /var"]),
    "a directory in a link's place": (
        lambda la: la.file(la.upper, "bin/sh"),
        ["C /bin", "A /bin/sh"],
    ),
    "links that lead out": (_link, ["A /root", "A /trap", "A /trap/out"]),
    "where pydock mounts": (
        lambda la: (la.file(la.upper, "proc/x/y"), (la.upper / "etc").mkdir(), (la.upper / "etc/hosts").touch()),
        ["A /proc", "A /proc/x", "A /proc/x/y"],
    ),
    "where a volume is": (lambda la: (la.upper / "data/deep/in").mkdir(parents=True), []),
    "beside where a volume is": (
        lambda la: (la.upper / "data/deep/other").mkdir(parents=True),
        ["A /data", "A /data/deep", "A /data/deep/other"],
    ),
}


@pytest.mark.parametrize(("make", "lines"), CASES.values(), ids=CASES)
def test_what_a_writable_layer_changes(layers: Layers, make: Callable[[Layers], object], lines: list[str]) -> None:
    before = os.umask(0o022)
    try:
        make(layers)
    finally:
        os.umask(before)
    assert layers.report("/data/deep/in") == lines


def test_a_tree_deeper_than_path_max_is_no_hindrance(layers: Layers) -> None:
    here = os.open(layers.upper, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 200, dir_fd=here)
        following = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = following
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    lines = layers.report()
    assert len(lines) == 61
    assert lines[-1].endswith("/bottom")


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (b"/plain name", "/plain name"),
        ("/é".encode(), "/é"),
        (b"/a\nb", "/a\\012b"),
        (b"/a\\b", "/a\\134b"),
        (b"/\xff\xc3", "/\\377\\303"),
        (b"/\x1b[31m", "/\\033[31m"),
        ("/\u202e".encode(), "/\\342\\200\\256"),
    ],
)
def test_a_name_stays_on_its_line(name: bytes, line: str) -> None:
    assert printed(name) == line
