"""The parts of the registries' client that need no server."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from pydock.overlay.errors import Exists, Invalid, NotFound
from pydock.overlay.manifest import DOCKER_MANIFEST, MANIFEST, Descriptor, Platform
from pydock.overlay.registry.authentication import challenges
from pydock.overlay.registry.documents import choose, parse_platform
from pydock.overlay.registry.endpoint import Endpoint, Proxies, completed
from pydock.overlay.registry.settings import Settings


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", []),
        ('Basic realm="a b"', [("basic", {"realm": "a b"})]),
        ("Basic", [("basic", {})]),
        ('Bearer realm="https://x/t?a=1,2",service=s', [("bearer", {"realm": "https://x/t?a=1,2", "service": "s"})]),
        ('Basic realm="a", Bearer realm="b"', [("basic", {"realm": "a"}), ("bearer", {"realm": "b"})]),
        (r'Digest realm="a \"q\"", nonce=n', [("digest", {"realm": 'a "q"', "nonce": "n"})]),
        ("=,,=", []),
    ],
)
def test_challenges_are_understood(header: str, wanted: list[tuple[str, dict[str, str]]]) -> None:
    assert [(each.scheme, dict(each.parameters)) for each in challenges(header)] == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("linux/arm64", Platform(os="linux", architecture="arm64")),
        ("linux/arm/v7", Platform(os="linux", architecture="arm", variant="v7")),
        ("arm64", Platform(os="linux", architecture="arm64")),
    ],
)
def test_platforms(text: str, wanted: Platform) -> None:
    assert parse_platform(text) == wanted


@pytest.mark.parametrize("text", ["", "/", "linux/", "/arm", "a/b/c/d", "a//c"])
def test_what_is_no_platform_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="not a platform"):
        parse_platform(text)


def entry(digest: str, os: str, architecture: str, variant: str = "", kind: str = MANIFEST) -> Descriptor:
    platform = Platform(os=os, architecture=architecture, variant=variant)
    return Descriptor(media_type=kind, digest=digest, size=1, platform=platform)


INDEX = (
    entry("attestation", "unknown", "unknown"),
    entry("arm5", "linux", "arm", "v5"),
    entry("arm7", "linux", "arm", "v7", DOCKER_MANIFEST),
    entry("arm64", "linux", "arm64", "v8"),
    entry("amd64v3", "linux", "amd64", "v3"),
    entry("amd64", "linux", "amd64"),
    entry("other", "linux", "riscv64", kind="application/x"),
    Descriptor(media_type=MANIFEST, digest="none", size=1),
)


@pytest.mark.parametrize(
    ("platform", "wanted"),
    [("amd64", "amd64"), ("linux/amd64/v3", "amd64v3"), ("arm64", "arm64"), ("arm", "arm7"), ("linux/arm/v5", "arm5")],
)
def test_the_best_of_an_index_is_chosen(platform: str, wanted: str) -> None:
    assert choose(INDEX, parse_platform(platform), "it").digest == wanted


@pytest.mark.parametrize("platform", ["riscv64", "linux/arm/v6", "windows/amd64"])
def test_a_platform_that_is_not_there_is_not_found_and_the_others_are_named(platform: str) -> None:
    with pytest.raises(NotFound, match="linux/amd64, linux/amd64/v3, linux/arm/v5, linux/arm/v7, linux/arm64/v8"):
        choose(INDEX, parse_platform(platform), "it")


@pytest.mark.parametrize(
    ("none", "host", "direct"),
    [
        ("", "a.example", False),
        ("*", "a.example", True),
        ("a.example", "a.example:5000", True),
        ("a.example:5000", "a.example:5000", True),
        ("a.example:5001", "a.example:5000", False),
        (".example", "a.example", True),
        ("example", "a.example", True),
        ("ample", "a.example", False),
        ("b.example, A.Example", "a.example", True),
        ("10.0.0.0/8", "10.1.2.3:80", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "[::1]:5000", True),
    ],
)
def test_who_needs_no_proxy(none: str, host: str, direct: bool) -> None:
    assert (Proxies(http="p:1", https="p:2", none=none).of("https", host) is None) is direct


def test_proxies_of_the_environment() -> None:
    proxies = Proxies.from_environment({"HTTP_PROXY": "a:1", "https_proxy": "https://b:2", "NO_PROXY": "x"})
    assert proxies.of("http", "y") == "http://a:1"
    assert proxies.of("https", "y") == "https://b:2"
    assert Proxies.from_environment({}).of("https", "y") is None


def test_docker_s_credentials_are_found(tmp_path: Path) -> None:
    text = base64.b64encode(b"bob:a:secret").decode()
    auths = {
        "r.example:5000": {"auth": text},
        "https://t.example": {"identitytoken": "tok"},
        "https://index.docker.io/v1/": {"username": "hub", "password": "pw"},
        "bad.example": {"auth": "%%%"},
    }
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": auths, "credsStore": "x"}))

    def found(endpoint: Endpoint) -> tuple[str, str, str]:
        done = completed(endpoint, certificates=tmp_path, configuration=file)
        return done.username, done.password, done.token

    assert found(Endpoint("r.example:5000")) == ("bob", "a:secret", "")
    assert found(Endpoint("t.example")) == ("", "", "tok")
    assert found(Endpoint("docker.io")) == ("hub", "pw", "")
    assert found(Endpoint("bad.example")) == ("", "", "")
    assert found(Endpoint("r.example:5000", username="own", password="p")) == ("own", "p", "")
    file.write_text("not json")
    assert found(Endpoint("r.example:5000")) == ("", "", "")


def test_docker_s_certificates_are_found(tmp_path: Path) -> None:
    place = tmp_path / "r.example:5000"
    place.mkdir()
    for name in ("a.crt", "b.crt", "client.cert", "client.key", "orphan.cert"):
        (place / name).write_text(name)
    done = completed(Endpoint("r.example:5000"), certificates=tmp_path, configuration=tmp_path / "none")
    assert (done.authorities, done.certificate, done.key) == ("a.crt\nb.crt", "client.cert", "client.key")
    own = completed(Endpoint("r.example:5000", authorities="x"), certificates=tmp_path, configuration=tmp_path / "none")
    assert own.authorities == "x"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return again(tmp_path)


def again(place: Path) -> Settings:
    settings = Settings(place / "kept", place / "volatile")
    settings.read()
    return settings


def test_settings_are_kept(settings: Settings, tmp_path: Path) -> None:
    registry = settings.create("r.example:5000")
    registry.username, registry.mirrors, registry.insecure = "bob", ("m.example",), True
    registry.files = {"username": [0o600, 1, 2, None]}
    settings.save(registry)
    assert again(tmp_path).get("r.example:5000") == registry


def test_an_unchecked_password_does_not_outlive_a_reboot(settings: Settings, tmp_path: Path) -> None:
    registry = settings.create("r.example")
    registry.password = "secret"
    settings.save(registry)
    for path in tmp_path.rglob("r.example*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = again(tmp_path).get("r.example")
    assert found is not None
    assert found.password == "secret"
    os.unlink(tmp_path / "volatile/r.example")
    found = again(tmp_path).get("r.example")
    assert found is not None
    assert found.password == ""
    registry.checked = True
    settings.save(registry)
    assert list((tmp_path / "volatile").iterdir()) == []
    found = again(tmp_path).get("r.example")
    assert found == registry


def test_names_of_registries(settings: Settings) -> None:
    settings.create("r.example")
    with pytest.raises(Exists):
        settings.create("r.example")
    with pytest.raises(Invalid, match="not a registry"):
        settings.create("../x")
    settings.remove("r.example")
    with pytest.raises(NotFound):
        settings.remove("r.example")


@pytest.mark.parametrize("host", ["index.docker.io", "registry-1.docker.io", "Index.Docker.io"])
def test_docker_io_is_set_by_its_own_name_alone(settings: Settings, host: str) -> None:
    with pytest.raises(Invalid, match=f"{host} is docker.io: make registries/docker.io"):
        settings.create(host)
    assert list(settings) == []
    assert settings.create("docker.io").host == "docker.io"


def test_what_a_death_left_and_what_is_damaged_is_passed_over(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "kept/new-x").write_text("half")
    (tmp_path / "kept/bad.example.json").write_text("{")
    assert list(again(tmp_path)) == []
    assert not (tmp_path / "kept/new-x").exists()
