"""The image ``host``: what is taken from a machine, and what is not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from pydock.overlay.host import HostImage, without_secrets

SECRET = "do not look"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A small machine with things that are nobody's business."""
    root = tmp_path / "machine"
    for name in (
        "etc/ssl/certs",
        "etc/ssl/private",
        "etc/ssh",
        "etc/alternatives",
        "usr/bin",
        "usr/lib",
        "home/a",
        "root",
    ):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (root / name).symlink_to(f"usr/{name}")
    (root / "etc/passwd").write_text(
        f"root:{SECRET}:0:0:{SECRET}:/root:/bin/sh\n+::::::\n# x\nweb:*:5:6:W:/:/bin/false\n"
    )
    (root / "etc/group").write_text(f"root:{SECRET}:0:web\nshort\n")
    (root / "etc/shadow").write_text(SECRET)
    (root / "etc/ld.so.cache").write_bytes(b"cache")
    (root / "etc/ssh/ssh_host_key").write_text(SECRET)
    (root / "etc/ssl/certs/a.pem").write_text("-----BEGIN CERTIFICATE-----")
    (root / "etc/ssl/certs/0123.0").symlink_to("a.pem")
    (root / "etc/ssl/certs/b.pem").symlink_to("/usr/share/ca-certificates/b.crt")
    (root / "etc/ssl/certs/key.pem").write_text(f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}")
    (root / "etc/ssl/certs/hidden.pem").write_text(SECRET)
    (root / "etc/ssl/certs/hidden.pem").chmod(0o600)
    (root / "etc/ssl/private/key.pem").write_text(SECRET)
    (root / "etc/ssl/certs/link.pem").symlink_to(root / "etc/shadow")
    (root / "etc/shadow").chmod(0o640)
    (root / "etc/alternatives/awk").symlink_to("/usr/bin/mawk")
    (root / "etc/alternatives/odd").symlink_to("/root/bin/odd")
    (root / "home/a/diary").write_text(SECRET)
    return root


def made(machine: Path) -> Path:
    image = HostImage(machine.parent / "host", machine)
    image.make()
    return Path(image.layers()[0])


def test_nothing_secret_is_taken(machine: Path) -> None:
    root = made(machine)
    texts = [path.read_text() for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not any(SECRET in text for text in texts)
    assert sorted(path.name for path in (root / "etc").iterdir()) == [
        *("alternatives", "group", "hostname", "hosts", "ld.so.cache", "nsswitch.conf", "passwd", "resolv.conf", "ssl")
    ]
    assert list((root / "home").iterdir()) == list((root / "root").iterdir()) == []


def test_what_programs_need_is_there(machine: Path) -> None:
    root = made(machine)
    assert os.readlink(root / "bin") == "usr/bin"
    assert not (root / "sbin").exists()  # the machine has none
    assert (root / "etc/passwd").read_text() == "root:x:0:0::/root:/bin/sh\nweb:x:5:6::/:/bin/false\n"
    assert (root / "etc/ssl/certs/0123.0").read_text() == "-----BEGIN CERTIFICATE-----"
    assert os.readlink(root / "etc/ssl/certs/b.pem") == "/usr/share/ca-certificates/b.crt"
    assert [path.name for path in (root / "etc/alternatives").iterdir()] == ["awk"]
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root / "root").stat().st_mode & 0o7777 == 0o700


def test_it_is_made_anew_when_the_machine_changes_and_only_what_is_used_is_kept(machine: Path) -> None:
    image = HostImage(machine.parent / "host", machine)
    before = made(machine)
    (machine / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnew:x:1:1::/:/bin/sh\n")
    after = made(machine)
    assert before != after
    assert "new" in (after / "etc/passwd").read_text()
    image.clear(frozenset({str(before)}))
    assert {before, after} == set(image.directory.iterdir())
    image.clear(frozenset())
    assert [after] == list(image.directory.iterdir())


def test_a_machine_with_programs_outside_usr_has_no_such_image(machine: Path) -> None:
    (machine / "sbin").mkdir()
    image = HostImage(machine.parent / "host", machine)
    with pytest.raises(OSError, match="not a link into /usr") as refused:
        image.make()
    assert refused.value.errno == errno.EOPNOTSUPP
    assert list(image.directory.iterdir()) == []


@pytest.mark.parametrize("text", ["", "\n", "no colons\n", "a:b\n", "-web:x:1:1\n"])
def test_lines_that_are_no_entries_are_left_out(text: str) -> None:
    assert without_secrets(text, True) == ""
