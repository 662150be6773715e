"""pydock.fs.options: the file, and the mount's own, which win."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydock.fs.options import Options, from_file, from_mount
from pydock.overlay.registry.endpoint import Proxies
from pydock.runtime.errors import Invalid


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert from_file(tmp_path / "none.toml") == Options()
    assert Options().root == Path("/var/lib/pydock")
    assert Options().run == Path("/run/pydock")


def test_the_mount_s_own_win(tmp_path: Path) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text('root = "/srv/a"\nrun = "/run/a"\nlog_max = "64M"\n')
    assert from_mount(from_file(file), "rw,root=/srv/b") == Options(
        root=Path("/srv/b"), run=Path("/run/a"), log_max="67108864"
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", Options()),
        (",,", Options()),
        ("rw,defaults,nofail,_netdev,noauto", Options()),
        ("x-systemd.automount,x-systemd.requires=network.target,comment=mine", Options()),
        ("root=/a", Options(root=Path("/a"))),
        ("root=/a,root=/b", Options(root=Path("/b"))),
        ("cgroup_parent=/a/b/", Options(cgroup_parent="a/b")),
        ("log_max=1K", Options(log_max="1024")),
        ("log_max=max", Options(log_max="max")),
    ],
)
def test_options_of_a_mount(text: str, wanted: Options) -> None:
    assert from_mount(Options(), text) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rot=/a", '"rot" is not an option: root, run, cgroup_parent, log_max'),
        ("remount", '"remount" is not an option'),
        ("ro", '"ro" is not an option'),
        ("root", "an absolute path is needed"),
        ("root=", "an absolute path is needed"),
        ("root=a", 'root="a": an absolute path is needed'),
        ("run=./a", "an absolute path is needed"),
        ("cgroup_parent=", "cgroup_parent"),
        ("cgroup_parent=/", "cgroup_parent"),
        ("cgroup_parent=a/../b", "cgroup_parent"),
        ("log_max=much", "much"),
        ("log_max=-1", "-1"),
    ],
)
def test_a_bad_option_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        from_mount(Options(), text)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("root = ", "Invalid value"),
        ('rot = "/a"\n', '"rot" is not an option'),
        ('root = ["/a"]\n', "root is not a text"),
        ("root = true\n", "root is not a text"),
        ('[engine]\nroot = "/a"\n', "engine is not a text"),
    ],
)
def test_a_bad_file_is_refused_in_words_that_name_it(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text(text)
    with pytest.raises(Invalid) as refused:
        from_file(file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)


def test_mirrors_and_proxies_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text(
        'root = "/srv/a"\n[registries."docker.io"]\nmirrors = ["m.example:5000", "n.example"]\n'
        '[proxies]\nhttps = "http://p:3128"\nnone = "localhost"\n'
    )
    assert from_file(file) == Options(
        root=Path("/srv/a"),
        mirrors={"docker.io": ("m.example:5000", "n.example")},
        proxies=Proxies(https="http://p:3128", none="localhost"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("registries = 1", "registries is not a table"),
        ("[registries]\nx = 1", "registries"),
        ('[registries."a b"]\nmirrors = []', "registries"),
        ('[registries."a.example"]\nmirror = []', "a.example"),
        ('[registries."a.example"]\nmirrors = "b"', "mirrors of a.example"),
        ('[registries."a.example"]\nmirrors = ["http://b"]', "mirrors of a.example"),
        ("[proxies]\nftp = 'x'", "http, https, none"),
        ("[proxies]\nhttp = 1", "proxies"),
    ],
)
def test_bad_mirrors_and_proxies_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text(text)
    with pytest.raises(Invalid, match=words):
        from_file(file)
