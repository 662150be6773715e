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
        ("subnet=10.9.0.0/16,subnet6=fd00:9::/64", Options(subnet="10.9.0.0/16", subnet6="fd00:9::/64")),
        ("gateway=10.9.0.9,subnet=10.9.0.0/16", Options(subnet="10.9.0.0/16", gateway="10.9.0.9")),
        ("subnet6=,mtu=1400", Options(subnet6="", mtu=1400)),
        ("subnet=10.9.0.0/16,subnet=", Options()),
        ("dns=192.0.2.1,dns=FD00::1", Options(dns=("192.0.2.1", "fd00::1"))),
        ("dns=192.0.2.1,dns=", Options()),
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
        ("subnet=10.9.0.1/16", "has host bits set"),
        ("subnet=fd00::/64", "is not a subnet of IPv4"),
        ("subnet=10.9.0.0/31", "too small"),
        ("subnet6=10.9.0.0/16", "is not a subnet of IPv6"),
        ("subnet=x", '"x" is not a subnet'),
        ("gateway=10.9.0.1", "there is no subnet that it is in"),
        ("subnet=10.9.0.0/16,gateway=10.8.0.1", "is not an address of a host in 10.9.0.0/16"),
        ("subnet=10.9.0.0/16,gateway=10.9.255.255", "is not an address of a host"),
        ("gateway=x", 'gateway: "x" is not an address'),
        ("subnet6=,gateway6=fd00::1", "there is no subnet6"),
        ("mtu=67", "not a number of bytes"),
        ("mtu=" + "9" * 5000, "not a number of bytes"),
        ("dns=nobody", 'dns: "nobody" is not an address'),
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
        ('log_max = "1M"\nsubnet = "10.9.0.1/16"\n', "line 2: "),
        ('dns = ["192.0.2.1", "x"]\n', 'line 1: dns: "x" is not an address'),
        ("\n\ndns = [1.5]\n", "line 3: dns is not a text"),
        ('log_max = ["1M"]\n', "line 1: log_max is not a text"),
        ("mtu = 1\n", "line 1: mtu: "),
    ],
)
def test_a_bad_file_is_refused_in_words_that_name_it(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text(text)
    with pytest.raises(Invalid) as refused:
        from_file(file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)


def test_dns_of_the_mount_takes_the_place_of_the_file_s(tmp_path: Path) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text('dns = ["192.0.2.1", "192.0.2.2"]\nmtu = 1400\n')
    assert from_mount(from_file(file), "").dns == ("192.0.2.1", "192.0.2.2")
    assert from_mount(from_file(file), "dns=192.0.2.3") == Options(dns=("192.0.2.3",), mtu=1400)
    assert from_mount(from_file(file), "dns=").dns == ()


def test_a_subnet_of_the_mount_takes_along_the_gateway(tmp_path: Path) -> None:
    file = tmp_path / "pydock.toml"
    file.write_text('subnet = "10.9.0.0/16"\ngateway = "10.9.0.9"\n')
    assert from_mount(from_file(file), "subnet=10.8.0.0/16") == Options(subnet="10.8.0.0/16")
    assert from_mount(from_file(file), "gateway=10.9.0.8").gateway == "10.9.0.8"


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
