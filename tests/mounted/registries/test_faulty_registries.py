"""Registries that lie, stumble or fall silent: the right errno, one clear line, and a clean store."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Engine, Faulty

ErrnoOf = Callable[[Path, str], int]
Handler = Any
PATIENCE = 60
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def pull(engine: Engine, faulty: Faulty, errno_of: ErrnoOf, leaves_no_image: None) -> Iterator[Callable[[str], int]]:
    """``pull(NAME)``: the errno of pulling it from the faulty registry."""
    path = engine.tree / "registries" / faulty.host
    path.mkdir()
    (path / "insecure").write_text("1")
    yield lambda name: errno_of(engine.tree / "images/ctl", f"pull {faulty.host}/{name}")
    path.rmdir()


def is_clean(engine: Engine, faulty: Faulty) -> bool:
    """Nothing of an image from the faulty registry is there, half or whole."""
    images = engine.root / "images"
    deadline = time.monotonic() + PATIENCE
    while True:
        (engine.tree / "ctl").write_text("gc")
        left = [path for name in ("tmp", "trash", "partial") for path in (images / name).iterdir()]
        kept = len(list((images / "blobs/sha256").iterdir()))
        if not left and kept == 3 and faulty.host not in (images / "index.json").read_text():
            return True
        if time.monotonic() > deadline:
            return False


def one_line(engine: Engine) -> str:
    """The words of the last failure."""
    return (engine.tree / "errors").read_text().splitlines()[-1]


def spoil(digest: str) -> str:
    return digest[:-4] + ("0000" if digest[-4:] != "0000" else "1111")


# -- what lies


def wrong_layer_bytes(faulty: Faulty, manifest: dict[str, Any]) -> None:
    described = manifest["layers"][0]
    data = bytes(described["size"])
    faulty.answers[f"/v2/a/blobs/{described['digest']}"] = lambda request: faulty.reply(request, 200, data)


def longer_layer(faulty: Faulty, manifest: dict[str, Any]) -> None:
    described = manifest["layers"][0]
    data = bytes(described["size"] + 10)
    faulty.answers[f"/v2/a/blobs/{described['digest']}"] = lambda request: faulty.reply(request, 200, data)


def wrong_size(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] -= 1
    faulty.manifest("a", "1", manifest)


def negative_size(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["size"] = -1
    faulty.manifest("a", "1", manifest)


def wrong_diff_id(faulty: Faulty, manifest: dict[str, Any]) -> None:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{'0' * 64}"]},
    }
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": faulty.put("/v2/a/blobs/DIGEST", data), "size": len(data)}
    faulty.manifest("a", "1", manifest)


def fewer_diff_ids(faulty: Faulty, manifest: dict[str, Any]) -> None:
    data = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    manifest["config"] |= {"digest": faulty.put("/v2/a/blobs/DIGEST", data), "size": len(data)}
    faulty.manifest("a", "1", manifest)


def wrong_config(faulty: Faulty, manifest: dict[str, Any]) -> None:
    digest = manifest["config"]["digest"]
    faulty.answers[f"/v2/a/blobs/{digest}"] = lambda request: faulty.reply(
        request, 200, b"{}".ljust(manifest["config"]["size"])
    )


def huge_config(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["config"]["size"] = 1 << 40
    faulty.manifest("a", "1", manifest)


def manifest_is_no_json(faulty: Faulty, manifest: dict[str, Any]) -> None:
    faulty.put("/v2/a/manifests/1", b"<html>", str(manifest["mediaType"]))


def manifest_is_huge(faulty: Faulty, manifest: dict[str, Any]) -> None:
    faulty.put("/v2/a/manifests/1", b" " * (5 << 20), str(manifest["mediaType"]))


def manifest_of_another_digest(faulty: Faulty, manifest: dict[str, Any]) -> None:
    data = json.dumps(manifest).encode()
    told = {"Content_Type": str(manifest["mediaType"]), "Docker_Content_Digest": f"sha256:{'1' * 64}"}
    faulty.answers["/v2/a/manifests/1"] = lambda request: faulty.reply(request, 200, data, **told)


def manifest_of_another_type(faulty: Faulty, manifest: dict[str, Any]) -> None:
    faulty.put("/v2/a/manifests/1", json.dumps(manifest).encode(), INDEX)


def schema_one(faulty: Faulty, manifest: dict[str, Any]) -> None:
    data = json.dumps({"schemaVersion": 1, "name": "a", "tag": "1", "fsLayers": []}).encode()
    faulty.put("/v2/a/manifests/1", data, "application/vnd.docker.distribution.manifest.v1+prettyjws")


def no_image(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json"
    faulty.manifest("a", "1", manifest)


def no_tar(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["mediaType"] = "application/vnd.cncf.helm.chart.content.v1"
    faulty.manifest("a", "1", manifest)


def bad_digest(faulty: Faulty, manifest: dict[str, Any]) -> None:
    manifest["layers"][0]["digest"] = "sha256:../../../../etc/passwd"
    faulty.manifest("a", "1", manifest)


def truncated_gzip(faulty: Faulty, manifest: dict[str, Any]) -> None:
    described = manifest["layers"][0]
    packed = gzip.compress(b"x" * 100_000)[:-20]
    described |= {"digest": faulty.put("/v2/a/blobs/DIGEST", packed), "size": len(packed)}
    faulty.manifest("a", "1", manifest)


@pytest.mark.parametrize(
    ("spoiled", "words"),
    [
        (wrong_layer_bytes, "damaged"),
        (longer_layer, "larger than"),
        (wrong_size, "larger than"),
        (negative_size, "a layer of -1 bytes"),
        (wrong_diff_id, "damaged"),
        (fewer_diff_ids, "has 1 layers, but the config tells of 0"),
        (wrong_config, "digest"),
        (huge_config, "larger than"),
        (manifest_is_no_json, "not valid JSON"),
        (manifest_is_huge, "larger than"),
        (manifest_of_another_digest, "lies"),
        (manifest_of_another_type, "calls itself"),
        (schema_one, "no container image"),
        (no_image, "no container image"),
        (no_tar, "no tar"),
        (bad_digest, "not a digest"),
        (truncated_gzip, "ends too early"),
    ],
)
def test_what_lies_is_einval(
    engine: Engine,
    faulty: Faulty,
    pull: Callable[[str], int],
    spoiled: Callable[[Faulty, dict[str, Any]], None],
    words: str,
) -> None:
    manifest = faulty.image("a", "1", faulty.layer(a=b"1" * 50_000))
    del manifest["digest"], manifest["size"]
    spoiled(faulty, manifest)
    assert pull("a:1") == errno.EINVAL
    assert words in one_line(engine)
    assert is_clean(engine, faulty)


def test_a_digest_that_is_asked_for_is_what_comes(engine: Engine, faulty: Faulty, pull: Callable[[str], int]) -> None:
    manifest = faulty.image("a", "1", faulty.layer(a=b"1"))
    assert pull(f"a@{manifest['digest']}") == 0
    assert (
        engine.tree / "images" / faulty.host / f"a@{manifest['digest']}/digest"
    ).read_text() == f"{manifest['digest']}\n"
    other = spoil(str(manifest["digest"]))
    faulty.answers[f"/v2/a/manifests/{other}"] = faulty.answers["/v2/a/manifests/1"]
    assert pull(f"a@{other}") == errno.EINVAL
    assert "lies" in one_line(engine)


# -- indexes


def test_the_machine_s_platform_is_chosen_or_the_one_that_is_asked_for(
    engine: Engine, faulty: Faulty, pull: Callable[[str], int]
) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    other = {"amd64": "arm64", "arm64": "amd64"}[machine]
    manifests = []
    for architecture in (other, machine):
        found = faulty.image("a", architecture, faulty.layer(a=architecture.encode()), architecture=architecture)
        platform = {"os": "linux", "architecture": architecture}
        manifests.append(
            {"mediaType": found["mediaType"], "digest": found["digest"], "size": found["size"], "platform": platform}
        )
    faulty.manifest("a", "1", {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
    image = engine.tree / "images" / faulty.host / "a:1"
    assert pull("a:1") == 0
    assert (image / "architecture").read_text() == f"{machine}\n"
    assert pull(f"a:1 platform=linux/{other}") == 0
    assert (image / "architecture").read_text() == f"{other}\n"
    assert pull("a:1 platform=windows/amd64") == errno.ENOENT
    assert "but for linux/amd64, linux/arm64" in one_line(engine)


@pytest.mark.parametrize("here", [False, True], ids=["", "here"])
@pytest.mark.parametrize(
    ("platform", "number"),
    [
        ("linux/arm64", 0),
        ("arm64", 0),
        ("linux/arm64/v7", errno.ENOENT),
        ("amd64", errno.ENOENT),
        ("bogus", errno.ENOENT),
    ],
)
def test_what_is_in_no_index_has_to_be_for_the_platform_that_is_asked_for(
    engine: Engine, faulty: Faulty, pull: Callable[[str], int], platform: str, number: int, here: bool
) -> None:
    faulty.image("a", "1", faulty.layer(a=b"1"), architecture="arm64")
    if here:
        assert pull("a:1") == 0  # for another machine than this: nothing else was asked for
    assert pull(f"a:1 platform={platform}") == number
    assert (engine.tree / "images" / faulty.host / "a:1").exists() == (here or not number)
    words = f"{faulty.host}/a:1 is not there for linux/{platform.removeprefix('linux/')}, but for linux/arm64"
    assert (words in (engine.tree / "errors").read_text()) == bool(number)


# -- what stumbles


@pytest.mark.parametrize("place", ["manifests/1", "blobs/LAYER"])
@pytest.mark.parametrize(
    "stumble",
    [
        lambda request, reply: reply(request, 429, Retry_After="0"),
        lambda request, reply: reply(request, 503),
        lambda request, reply: request.connection.shutdown(socket.SHUT_RDWR),
        lambda request, reply: reply(request, 200, b"", length=100),
    ],
    ids=["429", "503", "closed", "cut"],
)
def test_it_is_asked_again_after_a_stumble(
    faulty: Faulty,
    pull: Callable[[str], int],
    place: str,
    stumble: Callable[[Handler, Callable[..., None]], None],
) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    path = f"/v2/a/{place}".replace("LAYER", manifest["layers"][0]["digest"])
    well, stumbled = faulty.answers[path], threading.Event()

    def answer(request: Handler) -> None:
        if stumbled.is_set():
            well(request)
        else:
            stumbled.set()
            stumble(request, faulty.reply)

    faulty.answers[path] = answer
    assert pull("a:1") == 0
    assert len(faulty.asked(path)) == 2


@pytest.mark.parametrize(
    ("status", "number"),
    [
        (400, errno.EINVAL),
        (401, errno.EACCES),
        (403, errno.EACCES),
        (404, errno.ENOENT),
        (429, errno.EBUSY),
        (500, errno.EREMOTEIO),
        (503, errno.EREMOTEIO),
    ],
)
@pytest.mark.parametrize("place", ["manifests/1", "blobs/LAYER"])
def test_a_status_is_an_errno(
    engine: Engine,
    faulty: Faulty,
    pull: Callable[[str], int],
    place: str,
    status: int,
    number: int,
) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    body = b'{"errors":[{"code":"X","message":"the reason\\nin\\u0007lines"}]}'
    path = f"/v2/a/{place}".replace("LAYER", manifest["layers"][0]["digest"])
    headers = (
        {"Retry_After": "100000"} if status == 429 else {"WWW_Authenticate": 'Basic realm="x"'} if status == 401 else {}
    )
    faulty.answers[path] = lambda request: faulty.reply(request, status, body, **headers)
    assert pull("a:1") == number
    assert faulty.host in one_line(engine)
    assert is_clean(engine, faulty)
    assert len(faulty.asked(path)) <= 5


def test_a_loop_of_401_ends(engine: Engine, faulty: Faulty, pull: Callable[[str], int]) -> None:
    faulty.image("a", "1", faulty.layer(a=b"1"))
    challenge = f'Bearer realm="http://{faulty.host}/token",service="s"'
    faulty.answers["/v2/a/manifests/1"] = lambda request: faulty.reply(request, 401, WWW_Authenticate=challenge)
    faulty.answers["/token"] = lambda request: faulty.reply(request, 200, b'{"token":"t"}')
    assert pull("a:1") == errno.EACCES
    assert len(faulty.asked("manifests/1")) == 2
    assert is_clean(engine, faulty)


def test_credentials_do_not_follow_a_redirect_to_another_place(
    engine: Engine, faulty: Faulty, pull: Callable[[str], int], elsewhere: Faulty
) -> None:
    registry = engine.tree / "registries" / faulty.host
    (registry / "username").write_text("alice")
    (registry / "password").write_text("secret")
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    blob = f"/v2/a/blobs/{manifest['layers'][0]['digest']}"
    elsewhere.answers["/stored"] = faulty.answers[blob]
    own = faulty.answers["/v2/a/manifests/1"]

    def guarded(request: Handler) -> None:
        if "Authorization" in request.headers:
            own(request)
        else:
            faulty.reply(request, 401, WWW_Authenticate='Basic realm="x"')

    faulty.answers["/v2/a/manifests/1"] = guarded
    faulty.answers[blob] = lambda request: faulty.reply(
        request, 307, Location=f"http://{elsewhere.host}/stored?signed=1"
    )
    assert pull("a:1") == 0
    assert any("authorization" in headers for _, _, headers in faulty.asked(blob))
    assert [("authorization" in headers, "cookie" in headers) for _, _, headers in elsewhere.requests] == [
        (False, False)
    ]


def test_redirects_without_end_are_given_up(engine: Engine, faulty: Faulty, pull: Callable[[str], int]) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    blob = f"/v2/a/blobs/{manifest['layers'][0]['digest']}"
    faulty.answers[blob] = lambda request: faulty.reply(request, 307, Location=blob)
    assert pull("a:1") == errno.EREMOTEIO
    assert is_clean(engine, faulty)


# -- what is cut


def halves(faulty: Faulty, path: str, *, ranges: bool = True) -> None:
    """Answer at most a third of the rest each time, and then end the connection."""
    data = faulty.bodies[path]

    def answer(request: Handler) -> None:
        begin = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]) if ranges else 0
        part = data[begin : begin + len(data) // 3 + 1]
        span = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        faulty.reply(request, 206 if begin else 200, part, length=len(data) - begin, **span)

    faulty.answers[path] = answer


def test_a_layer_that_is_cut_goes_on_where_it_ended(faulty: Faulty, pull: Callable[[str], int]) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=faulty.random(3 << 20)))
    blob = f"/v2/a/blobs/{manifest['layers'][0]['digest']}"
    halves(faulty, blob)
    assert pull("a:1") == 0
    begins = [headers.get("range", "bytes=0-") for _, _, headers in faulty.asked(blob)]
    assert len(begins) == len(set(begins)) == 3


def test_a_registry_that_knows_no_ranges_and_cuts_is_given_up(
    engine: Engine, faulty: Faulty, pull: Callable[[str], int]
) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=faulty.random(100_000)))
    halves(faulty, f"/v2/a/blobs/{manifest['layers'][0]['digest']}", ranges=False)
    assert pull("a:1") == errno.ECONNRESET
    assert "bytes have come" in one_line(engine)
    assert is_clean(engine, faulty)


# -- what is sound


def test_a_hundred_and_twenty_eight_layers(engine: Engine, faulty: Faulty, pull: Callable[[str], int]) -> None:
    faulty.image(
        "deep", "1", *(faulty.layer(**{f"f{number}": b"x", "top": str(number).encode()}) for number in range(128))
    )
    assert pull("deep:1") == 0
    image = engine.tree / "images" / faulty.host / "deep:1"
    assert (image / "rootfs/top").read_text() == "127"
    assert len(list((image / "rootfs").iterdir())) == 129
    assert len((image / "layers").read_text().splitlines()) == 128


def test_layers_that_are_here_are_not_fetched(faulty: Faulty, pull: Callable[[str], int]) -> None:
    base = faulty.layer(a=b"1" * 1000)
    first: dict[str, Any] = faulty.image("a", "1", base)
    faulty.image("b", "1", base, faulty.layer(b=b"2"))
    assert (pull("a:1"), pull("b:1")) == (0, 0)
    assert len(faulty.asked(first["layers"][0]["digest"])) == 1


def test_a_digest_of_sha512_is_as_good(engine: Engine, faulty: Faulty, pull: Callable[[str], int]) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    del manifest["digest"], manifest["size"]
    blob = manifest["layers"][0]
    packed = faulty.bodies[f"/v2/a/blobs/{blob['digest']}"]
    blob["digest"] = f"sha512:{hashlib.sha512(packed).hexdigest()}"
    faulty.put(f"/v2/a/blobs/{blob['digest']}", packed)
    faulty.manifest("a", "1", manifest)
    assert pull("a:1") == 0
    assert (engine.tree / "images" / faulty.host / "a:1/rootfs/a").read_text() == "1"
