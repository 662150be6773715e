"""Archives and the store, with skopeo, podman and umoci at the other end."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


def run(*command: str | Path, read: Path = Path("/dev/null")) -> str:
    """What a program says that reads a file; it must not fail."""
    with read.open("rb") as stdin:
        done = subprocess.run(command, capture_output=True, text=True, stdin=stdin, timeout=100, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def work() -> Iterator[Path]:
    """A directory with a short path that has no colon, as skopeo and podman want it."""
    path = Path(tempfile.mkdtemp(prefix="pydock-others-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def podman(work: Path) -> Callable[..., str]:
    """podman with a store of its own. It loads from stdin: a path with a colon is none to it."""
    options = [f"--root={work}/p", f"--runroot={work}/r", "--storage-driver=vfs", "--events-backend=none"]
    return lambda *words, read=Path("/dev/null"): run(
        "podman", *options, "--cgroup-manager=cgroupfs", *words, read=read
    )


@pytest.fixture
def images(engine: Engine) -> Iterator[Path]:
    path = engine.tree / "images"
    yield path
    engine.clear()
    for place, names, _ in os.walk(path, topdown=False):
        for name in names:
            if ":" not in place and name != "busybox:latest":  # inside is what an image says of itself
                (Path(place) / name).rmdir()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with an image of two layers, one of them compressed: app:1; and docker:1, the same with docker's manifest."""
    path = tmp_path_factory.mktemp("layout")
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": kind, "digest": f"sha256:{name}", "size": len(data)}

    def tar(name: str, source: str | None) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            if source:
                made.add(source, name)
            else:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                made.addfile(link)
        return out.getvalue()

    first, second = tar("bin/busybox", "/bin/busybox"), tar("bin/sh", None)
    packed = subprocess.run(["gzip", "-n"], input=first, capture_output=True, check=True).stdout
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Cmd": ["sh", "-c", "echo hello"], "Labels": {"a": "b"}},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (first, second)],
            },
        }
    ).encode()
    oci = "application/vnd.oci.image."
    docker = "application/vnd.docker."

    def manifest(name: str, kind: str, configuration: str, layer: str, gzip: str) -> dict[str, object]:
        layers = [put(packed, layer + gzip), put(second, layer)]
        document = {"schemaVersion": 2, "mediaType": kind, "config": put(config, configuration), "layers": layers}
        entry = put(json.dumps(document).encode(), kind)
        return {**entry, "annotations": {"org.opencontainers.image.ref.name": name}}

    entries = [
        manifest("app:1", oci + "manifest.v1+json", oci + "config.v1+json", oci + "layer.v1.tar", "+gzip"),
        manifest(
            "docker:1",
            docker + "distribution.manifest.v2+json",
            docker + "container.image.v1+json",
            docker + "image.rootfs.diff.tar",
            ".gzip",
        ),
    ]
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return path


@pytest.fixture
def loaded(images: Path, layout: Path, engine: Engine) -> Path:
    """``images/``, with the layout's images loaded from a tar of it."""
    engine.sh(f"tar -C {layout} -c . | zstd -q > images/layout.tar.zst")
    assert {"app:1", "docker:1"} <= set(os.listdir(images))
    return images


def said(path: Path) -> str:
    return path.read_text().removesuffix("\n")


@pytest.mark.parametrize("name", ["app:1", "docker:1"])
def test_skopeo_and_umoci_read_the_store_in_place(loaded: Path, engine: Engine, work: Path, name: str) -> None:
    source = f"{engine.root}/images:docker.io/library/{name}"
    inspected = json.loads(run("skopeo", "inspect", f"oci:{source}"))
    assert inspected["Layers"] == [line.split()[0] for line in said(loaded / name / "layers").splitlines()]
    assert inspected["Labels"] == {"a": "b"}
    assert (inspected["Digest"] == said(loaded / name / "digest")) == (name == "app:1")
    run("umoci", "unpack", "--image", source, work / "bundle")
    assert os.readlink(work / "bundle/rootfs/bin/sh") == "busybox"


@pytest.mark.parametrize("name", ["app:1", "docker:1"])
@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_skopeo_takes_an_archive_as_either_format(loaded: Path, work: Path, name: str, transport: str) -> None:
    shutil.copy(loaded / name / "archive.tar", work / "a.tar")
    inspected = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{work}/a.tar"))
    assert inspected["config"]["Cmd"] == ["sh", "-c", "echo hello"]
    run("skopeo", "copy", f"{transport}:{work}/a.tar", f"oci:{work}/o:again")
    if transport == "oci-archive":
        run("skopeo", "copy", "--preserve-digests", f"{transport}:{work}/a.tar", f"dir:{work}/kept")
        assert (work / "kept" / said(loaded / name / "id").removeprefix("sha256:")).exists()


@pytest.mark.parametrize("transport", ["oci-archive", "docker-archive"])
def test_what_skopeo_saves_is_loaded_and_runs(
    images: Path, layout: Path, work: Path, engine: Engine, make: Make, transport: str
) -> None:
    run("skopeo", "copy", f"oci:{layout}:app:1", f"{transport}:{work}/x.tar:registry.example/team/app:7")
    engine.sh(f"cp {work}/x.tar images/")
    image = images / "registry.example/team/app:7"
    entry = next(
        entry
        for entry in json.loads((layout / "index.json").read_text())["manifests"]
        if "app:1" in entry["annotations"].values()
    )
    manifest = json.loads((layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    assert said(image / "id") == manifest["config"]["digest"] or transport == "docker-archive"
    c = make(image="registry.example/team/app:7")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "hello\n"
    shutil.copy(image / "archive.tar", work / "out.tar")
    for other in ("oci-archive", "docker-archive"):
        found = run("skopeo", "inspect", "--config", "--raw", f"{other}:{work}/out.tar")
        assert f"sha256:{hashlib.sha256(found.encode()).hexdigest()}" == said(image / "id")


@pytest.mark.parametrize("name", ["app:1", "docker:1"])
def test_podman_loads_an_archive(loaded: Path, podman: Callable[..., str], work: Path, name: str) -> None:
    assert f"docker.io/library/{name}" in podman("load", read=loaded / name / "archive.tar")
    assert podman("inspect", "--format", "{{.Id}}", name) == said(loaded / name / "id").removeprefix("sha256:") + "\n"
    assert "hello" in podman("inspect", "--format", "{{.Config.Cmd}}", name)


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("pack", ["cat", "gzip -c", "zstd -c", "xz -c", "bzip2 -c"])
def test_what_podman_saves_is_loaded_with_the_id_that_it_had(
    loaded: Path, podman: Callable[..., str], engine: Engine, work: Path, kind: str, pack: str
) -> None:
    podman("load", read=loaded / "app:1/archive.tar")
    podman("tag", "app:1", "localhost/saved:2")
    podman("save", "-q", "--format", kind, "-o", f"{work}/x.tar", "localhost/saved:2")
    before = said(loaded / "app:1/id")
    (loaded / "app:1").rmdir()
    engine.sh(f"{pack} {work}/x.tar > images/x")
    assert said(loaded / "localhost/saved:2/id") == before


def test_an_image_that_podman_saves_by_its_id_gets_the_file_s_name(
    loaded: Path, podman: Callable[..., str], engine: Engine, work: Path
) -> None:
    podman("load", read=loaded / "app:1/archive.tar")
    podman("save", "-q", "-o", f"{work}/mine.tar", said(loaded / "app:1/id").removeprefix("sha256:"))
    engine.sh(f"cp {work}/mine.tar images/")
    assert said(loaded / "mine:latest/id") == said(loaded / "app:1/id")


def test_several_images_of_podman_s_come_at_once(
    loaded: Path, podman: Callable[..., str], engine: Engine, work: Path
) -> None:
    podman("load", read=loaded / "app:1/archive.tar")
    podman("load", read=loaded / "busybox:latest/archive.tar")
    podman("tag", "app:1", "localhost/one:1")
    podman("tag", "busybox:latest", "localhost/two:2")
    podman("save", "-q", "-m", "-o", f"{work}/x.tar", "localhost/one:1", "localhost/two:2")
    engine.sh(f"cp {work}/x.tar images/")
    assert said(loaded / "localhost/one:1/id") == said(loaded / "app:1/id")
    assert said(loaded / "localhost/two:2/id") == said(loaded / "busybox:latest/id")
