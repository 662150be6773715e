"""Registries as directories: pull, push and login against docker-registry in its four set-ups."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Authority, DockerRegistry, Engine

    Registries = Callable[[str], DockerRegistry]

USER, PASSWORD = "alice", "it is a secret"
ErrnoOf = Callable[[Path, str], int]


@pytest.fixture
def clean(engine: Engine, leaves_no_image: None) -> Iterator[Path]:
    """The tree; images and registries that the test makes are removed after it."""
    yield engine.tree
    for path in (engine.tree / "registries").iterdir():
        path.rmdir()


def registry_of(tree: Path, host: str, **settings: str) -> Path:
    path = tree / "registries" / host
    path.mkdir()
    for name, value in settings.items():
        (path / name.replace("_", ".")).write_text(value)
    return path


def reachable(tree: Path, kind: str, registry: DockerRegistry, authority: Authority) -> Path:
    """The settings that a registry of that kind takes."""
    path = registry_of(tree, registry.host)
    if kind in ("plain", "token"):
        (path / "insecure").write_text("1\n")
    else:
        (path / "ca.crt").write_text(authority.ca.read_text())
    if kind in ("basic", "token"):
        (path / "username").write_text(f"{USER}\n")
        (path / "password").write_text(f"{PASSWORD}\n")
    return path


@pytest.mark.parametrize("kind", ["plain", "tls", "basic", "token"])
def test_an_image_goes_there_and_comes_back(
    clean: Path, registries: Registries, authority: Authority, make: Callable[..., Path], kind: str
) -> None:
    host = registries(kind).host
    registry = reachable(clean, kind, registries(kind), authority)
    name = f"{host}/team/busybox-{kind}:1"
    digest = (clean / "images/busybox:latest/digest").read_text()
    (clean / "images/busybox:latest/ctl").write_text(f"push {name}\n")
    (clean / "images/ctl").write_text(f"pull {name}\n")
    image = clean / "images" / name
    assert (image / "digest").read_text() == digest
    assert f"team/busybox-{kind}\n" in (registry / "catalog").read_text()
    assert (registry / f"repositories/team/busybox-{kind}/tags").read_text() == "1\n"
    container = make(image=name, command="echo from there")
    (container / "ctl").write_text("start")
    assert (container / "wait").read_text() == "0\n"
    assert (container / "log").read_text() == "from there\n"


def test_what_is_pulled_is_fetched_though_nothing_of_it_is_here(
    own_engine: Engine, registries: Registries, authority: Authority
) -> None:
    tree, host = own_engine.tree, registries("plain").host
    reachable(tree, "plain", registries("plain"), authority)
    (tree / "images/busybox:latest/ctl").write_text(f"push {host}/away:1\n")
    before = (tree / "images/busybox:latest/id").read_text()
    (tree / "images/busybox:latest").rmdir()
    (tree / "ctl").write_text("gc")
    assert list((own_engine.root / "images/blobs/sha256").iterdir()) == []
    with open(tree / "images/ctl", "r+") as ctl:
        ctl.write(f"pull {host}/away:1\n")
        ctl.flush()
        said = ctl.read()
    image = tree / "images" / host / "away:1"
    assert said == f"pulled {host}/away:1 {(image / 'digest').read_text()}"
    assert (image / "id").read_text() == before
    assert (image / "rootfs/bin/busybox").stat().st_mode & stat.S_IXUSR
    assert list((own_engine.root / "images/partial").iterdir()) == []


def test_events_tell_of_it(clean: Path, registries: Registries, authority: Authority) -> None:
    host = registries("plain").host
    reachable(clean, "plain", registries("plain"), authority)
    with open(clean / "events", "rb", buffering=0) as events:
        (clean / "images/busybox:latest/ctl").write_text(f"push {host}/told:1\n")
        (clean / "images/ctl").write_text(f"pull {host}/told:1\n")
        lines = b""
        while lines.count(b"\n") < 2:
            lines += events.read(4096)
    told = [line.split(" ")[1:4] for line in lines.decode().splitlines()]
    assert told[:2] == [["image", f"{host}/told:1", "push"], ["image", f"{host}/told:1", "pull"]]


@pytest.mark.parametrize("kind", ["basic", "token"])
def test_login_finds_out_whether_the_password_is_right(
    clean: Path, registries: Registries, authority: Authority, errno_of: ErrnoOf, kind: str
) -> None:
    registry = reachable(clean, kind, registries(kind), authority)
    (registry / "password").write_text("wrong\n")
    assert errno_of(registry / "ctl", "login") == errno.EACCES
    assert USER in (registry / "error").read_text()
    assert (registry / "state").read_text() == "logged_out\n"
    (registry / "password").write_text(f"{PASSWORD}\n")
    assert errno_of(registry / "ctl", "login") == 0
    assert (registry / "state").read_text() == "logged_in\n"
    assert (registry / "error").read_text() == ""
    assert errno_of(registry / "ctl", "logout") == 0
    assert (registry / "state").read_text() == "logged_out\n"
    assert (registry / "username").read_text() == ""
    name = f"{registries(kind).host}/private/x:1"
    assert errno_of(clean / "images/busybox:latest/ctl", f"push {name}") == errno.EACCES


def test_a_login_without_a_name_is_refused(clean: Path, registries: Registries, errno_of: ErrnoOf) -> None:
    registry = registry_of(clean, registries("basic").host)
    assert errno_of(registry / "ctl", "login") == errno.EINVAL
    assert "username" in (registry / "error").read_text()


def test_who_may_not_push_may_pull_what_is_public(
    clean: Path, registries: Registries, authority: Authority, errno_of: ErrnoOf
) -> None:
    host = registries("token").host
    registry = reachable(clean, "token", registries("token"), authority)
    (clean / "images/busybox:latest/ctl").write_text(f"push {host}/public/app:1\n")
    (registry / "ctl").write_text("logout")
    assert errno_of(clean / "images/ctl", f"pull {host}/public/app:1") == 0
    assert errno_of(clean / "images/busybox:latest/ctl", f"push {host}/public/app:2") == errno.EACCES


def test_credentials_are_kept_for_root_alone_and_outlive_pydockd(
    own_engine: Engine, registries: Registries, authority: Authority
) -> None:
    registry = reachable(own_engine.tree, "basic", registries("basic"), authority)
    files = list((own_engine.root / "registries").iterdir())
    assert all(PASSWORD not in path.read_text() for path in files)  # not before it is known to be right
    own_engine.kill()
    own_engine.start()
    (registry / "ctl").write_text("login")
    (path,) = (own_engine.root / "registries").iterdir()
    assert PASSWORD in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own_engine.kill()
    own_engine.start()
    assert (registry / "state").read_text() == "logged_in\n"
    assert (registry / "password").read_text() == ""
    (own_engine.tree / "images/busybox:latest/ctl").write_text(f"push {registries('basic').host}/kept:1\n")
    (registry / "ctl").write_text("logout")
    assert PASSWORD not in path.read_text()
    registry.rmdir()
    assert list((own_engine.root / "registries").iterdir()) == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    clean: Path, registries: Registries, authority: Authority, errno_of: ErrnoOf
) -> None:
    host = registries("tls").host
    registry = registry_of(clean, host)
    push = f"push {host}/x:1"
    assert errno_of(clean / "images/busybox:latest/ctl", push) == errno.EPROTO
    assert f"registries/{host}/ca.crt" in (clean / "errors").read_text()
    (registry / "insecure").write_text("1")
    assert errno_of(clean / "images/busybox:latest/ctl", push) == 0
    (registry / "insecure").write_text("0")
    assert errno_of(clean / "images/busybox:latest/ctl", push) == errno.EPROTO
    (registry / "ca.crt").write_text(authority.ca.read_text())
    assert errno_of(clean / "images/busybox:latest/ctl", push) == 0


def test_docker_s_own_places_are_looked_at(
    clean: Path, registries: Registries, authority: Authority, etc: Path, errno_of: ErrnoOf
) -> None:
    host = registries("basic").host
    certificates = etc / "docker/certs.d" / host
    certificates.mkdir(parents=True)
    (certificates / "ca.crt").write_text(authority.ca.read_text())
    assert errno_of(clean / "images/busybox:latest/ctl", f"push {host}/docker:1") == errno.EACCES  # trusted, unknown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("insecure", "yes please"),
        ("mirrors", "not a host"),
        ("mirrors", "a/b"),
        ("ca.crt", "no certificate"),
        ("client.cert", "none"),
        ("client.key", "none"),
        ("username", "a\tb"),
        ("ctl", "log in"),
        ("ctl", "login now"),
        ("ctl", "logout now"),
    ],
)
def test_a_bad_setting_is_einval(clean: Path, errno_of: ErrnoOf, name: str, text: str) -> None:
    registry = registry_of(clean, "registry.example:5000")
    assert errno_of(registry / name, text) == errno.EINVAL
    assert (registry / "error").read_text() != ""


@pytest.mark.parametrize("name", ["a b", "-x", "x:port", "x:1:2", "x/", "é", "index.docker.io"])
def test_what_is_no_registry_can_not_be_made(clean: Path, name: str) -> None:
    with pytest.raises(OSError, match="nvalid argument") as failed:
        os.mkdir(os.fsencode(f"{clean}/registries/{name.rstrip('/')}") + (b"!" if name.endswith("/") else b""))
    assert failed.value.errno == errno.EINVAL


def test_the_directory_can_be_walked_without_asking_anybody(clean: Path) -> None:
    registry_of(clean, "registry.invalid")
    found = subprocess.run(
        ["find", clean / "registries"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert found.endswith("repositories\n")
    with pytest.raises(OSError, match="o route to host"):
        (clean / "registries/registry.invalid/catalog").read_text()
    assert "not known" in (clean / "registries/registry.invalid/error").read_text()


def test_everybody_may_read_whether_it_is_logged_in_and_nothing_else(clean: Path) -> None:
    path = registry_of(clean, "localhost:1")
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.iterdir() if each.is_file()}
    assert modes.pop("state") == 0o644
    assert not any(mode & 0o077 for mode in modes.values())


def test_a_repository_that_is_not_there_is_enoent(clean: Path, registries: Registries, authority: Authority) -> None:
    registry = reachable(clean, "plain", registries("plain"), authority)
    with pytest.raises(FileNotFoundError):
        (registry / "repositories/no/such/tags").read_text()
    assert not (registry / "repositories/No Such").exists()


def test_a_mirror_is_asked_first_and_the_registry_when_it_has_nothing(
    clean: Path, registries: Registries, authority: Authority, errno_of: ErrnoOf
) -> None:
    mirror, host = registries("plain").host, registries("tls").host
    reachable(clean, "plain", registries("plain"), authority)
    own = registry_of(clean, host)
    (own / "mirrors").write_text(f"{mirror}\n")
    (clean / "images/busybox:latest/ctl").write_text(f"push {mirror}/mirrored:1\n")
    assert errno_of(clean / "images/ctl", f"pull {host}/mirrored:1") == 0  # though nobody vouches for host
    assert errno_of(clean / "images/ctl", f"pull {host}/mirrored:2") == errno.EPROTO
    assert (own / "mirrors").read_text() == f"{mirror}\n"


def test_layers_are_mounted_from_another_repository(clean: Path, registries: Registries, authority: Authority) -> None:
    host = registries("plain").host
    reachable(clean, "plain", registries("plain"), authority)
    (clean / "images/busybox:latest/ctl").write_text(f"push {host}/one/app:1\n")
    (clean / "images/ctl").write_text(f"pull {host}/one/app:1\n")
    blobs = registries("plain").blobs()
    (clean / "images" / host / "one/app:1/ctl").write_text(f"push {host}/two/app:1\n")
    assert registries("plain").blobs() == blobs
    assert (clean / "registries" / host / "repositories/two/app/tags").read_text() == "1\n"


def test_skopeo_sees_what_was_pushed_and_what_it_pushes_is_pulled(
    clean: Path, registries: Registries, authority: Authority, tmp_path: Path
) -> None:
    host = registries("plain").host
    reachable(clean, "plain", registries("plain"), authority)
    (clean / "images/busybox:latest/ctl").write_text(f"push {host}/skopeo/ours:1\n")
    skopeo = ["skopeo", "--tmpdir", str(tmp_path)]
    command = [*skopeo, "inspect", "--tls-verify=false", f"docker://{host}/skopeo/ours:1"]
    seen = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert f"{seen['Digest']}\n" == (clean / "images/busybox:latest/digest").read_text()
    for form in ("v2s2", "oci"):
        places = [f"docker://{host}/skopeo/ours:1", f"docker://{host}/skopeo/theirs:{form}"]
        flags = ["--src-tls-verify=false", "--dest-tls-verify=false", "--format", form]
        subprocess.run([*skopeo, "copy", "-q", *flags, *places], check=True, timeout=60)
        (clean / "images/ctl").write_text(f"pull {host}/skopeo/theirs:{form}\n")
        theirs = clean / "images" / host / f"skopeo/theirs:{form}"
        assert (theirs / "command").read_text() == (clean / "images/busybox:latest/command").read_text()
        assert (theirs / "rootfs/bin/busybox").exists()


@pytest.mark.parametrize(
    "words",
    [
        "pull",
        "pull a b",
        "pull UPPER",
        "pull x platform=",
        "pull x platform=a/b/c/d",
        "pull x platform=a platform=b",
        "pull x y=1",
    ],
)
def test_bad_words_are_einval(clean: Path, errno_of: ErrnoOf, words: str) -> None:
    assert errno_of(clean / "images/ctl", words) == errno.EINVAL


def test_a_registry_that_is_not_there_is_told(clean: Path, errno_of: ErrnoOf) -> None:
    assert errno_of(clean / "images/ctl", "pull 127.0.0.1:9/x") == errno.ECONNREFUSED
    assert errno_of(clean / "images/ctl", "pull registry.invalid/x") == errno.EHOSTUNREACH
    assert errno_of(clean / "images/busybox:latest/ctl", "push a b") == errno.EINVAL
