"""Archives of images: what others write comes in whole, what strangers may try leaves nothing, what goes out comes back."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.image import ARCHITECTURE, Image
from pydock.overlay.intake import Aborted
from pydock.overlay.loading import Loading
from pydock.overlay.saving import Archive, plan
from pydock.overlay.store import Store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI = "application/vnd.oci.image."
MANIFEST, INDEX, CONFIG, LAYER = (
    OCI + "manifest.v1+json",
    OCI + "index.v1+json",
    OCI + "config.v1+json",
    OCI + "layer.v1.tar",
)
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstd.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
}


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def layer(name: str, content: bytes = b"hello\n") -> bytes:
    """A layer with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


FIRST, SECOND = layer("first"), layer("second", b"x" * 3000)
CONFIGURATION = json.dumps(
    {
        "os": "linux",
        "architecture": ARCHITECTURE,
        "unknown to us": [1.5, None],
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(FIRST), digest(SECOND)]},
    },
    indent=3,
).encode()

Content = bytes | str | tarfile.TarInfo
Members = dict[str, Content]


def packed(members: Members | list[tuple[str, Content]]) -> bytes:
    """A tar: bytes are files, a string is the target of a symlink, a TarInfo what it says."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name) if not isinstance(content, tarfile.TarInfo) else content
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            elif isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
            else:
                tar.addfile(member)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def docker(
    tags: list[str] | None, config: bytes = CONFIGURATION, layers: tuple[bytes, ...] = (FIRST, SECOND)
) -> Members:
    """What docker wrote before 25."""
    hexes = [hashlib.sha256(b"old" + data).hexdigest() for data in layers]
    members: Members = {}
    for name, data in zip(hexes, layers, strict=True):
        members |= {f"{name}/VERSION": b"1.0", f"{name}/json": b"{}", f"{name}/layer.tar": data}
    members[f"{digest(config)[7:]}.json"] = config
    saved = {
        "Config": f"{digest(config)[7:]}.json",
        "RepoTags": tags,
        "Layers": [f"{name}/layer.tar" for name in hexes],
    }
    members["manifest.json"] = json.dumps([saved]).encode()
    members["repositories"] = b"{}"
    return members


def blob(data: bytes) -> Members:
    return {f"blobs/sha256/{digest(data)[7:]}": data}


def described(data: bytes, kind: str, **more: object) -> dict[str, object]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


def named(name: str) -> dict[str, object]:
    return {"annotations": {"org.opencontainers.image.ref.name": name}}


def manifest_of(config: bytes = CONFIGURATION, layers: tuple[bytes, ...] = (FIRST, SECOND)) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": described(config, CONFIG),
            "layers": [described(data, LAYER) for data in layers],
        }
    ).encode()


def oci(
    *entries: dict[str, object], blobs: tuple[bytes, ...] = (FIRST, SECOND, CONFIGURATION, manifest_of())
) -> Members:
    """A layout with those entries in its index."""
    members: Members = {}
    for data in blobs:
        members |= blob(data)
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    members["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    return members


def nested(*platforms: tuple[str, str], depth: int = 1) -> Members:
    """A layout whose index leads to an index, with an image for each of *platforms* (all of them the same one)."""
    images = [
        described(manifest_of(), MANIFEST, platform={"os": system, "architecture": architecture})
        for system, architecture in platforms
    ]
    inner, blobs = images, [FIRST, SECOND, CONFIGURATION, manifest_of()]
    for _ in range(depth):
        data = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": inner}).encode()
        blobs.append(data)
        inner = [described(data, INDEX, **named("app:1"))]
    return oci(*inner, blobs=tuple(blobs))


BOTH = {
    **oci(
        described(
            manifest_of(),
            MANIFEST,
            annotations={
                "io.containerd.image.name": "docker.io/library/app:1",
                "org.opencontainers.image.ref.name": "1",
            },
        )
    ),
    "manifest.json": b'[{"Config": "nothing", "RepoTags": null, "Layers": null}]',
}
SHARED = docker(["app:1"])
SHARED_NAME = next(name for name in SHARED if name.endswith("layer.tar"))


def load(store: Store, data: bytes, name: str = "file.tar") -> tuple[Image, ...]:
    path = store.directory.parent / name
    path.write_bytes(data)
    return Loading(store, str(path)).run(os.open(path, os.O_RDONLY))


def left(store: Store) -> dict[str, list[str]]:
    """What there is in the store's directories."""
    return {name: os.listdir(store.directory / name) for name in ("blobs/sha256", "layers", "tmp")}


CLEAN: dict[str, list[str]] = {"blobs/sha256": [], "layers": [], "tmp": []}


def content(store: Store, image: Image) -> set[str]:
    return {path.name for directory in store.layer_paths(image) for path in directory.iterdir()}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(
    "members",
    [
        pytest.param(docker(["app:1"]), id="docker's, before 25"),
        pytest.param(BOTH, id="docker's, since 25"),
        pytest.param(oci(described(manifest_of(), MANIFEST, **named("app:1"))), id="oci's"),
        pytest.param(nested(("linux", "riscv64"), ("unknown", "unknown"), ("linux", ARCHITECTURE)), id="for machines"),
        pytest.param(nested(("linux", ARCHITECTURE), depth=4), id="nested deep"),
        pytest.param(
            {
                SHARED_NAME: "../shared.tar",
                "shared.tar": SHARED[SHARED_NAME],
                **{k: v for k, v in SHARED.items() if k != SHARED_NAME},
            },
            id="a symlink to a layer",
        ),
        pytest.param(
            {
                "shared.tar": SHARED[SHARED_NAME],
                **SHARED,
                SHARED_NAME: special(SHARED_NAME, tarfile.LNKTYPE, "shared.tar"),
            },
            id="a hard link to a layer",
        ),
        pytest.param(
            {f"./{name}": content for name, content in docker(["app:1"]).items()}, id="names that begin with a dot"
        ),
    ],
)
def test_what_others_write_is_loaded_whatever_comes_first(store: Store, members: Members, compression: str) -> None:
    pack = COMPRESSIONS[compression]
    (image,) = load(store, pack(packed(members)))
    assert (image.reference, image.id) == ("app:1", digest(CONFIGURATION))
    assert store.config_file(image) == CONFIGURATION
    assert content(store, image) == {"first", "second"}
    assert len(left(store)["blobs/sha256"]) == 4
    assert left(store)["tmp"] == []
    store.untag("app:1")
    assert left(store) == CLEAN
    (again,) = load(store, pack(packed(dict(reversed(list(members.items()))))))
    assert again == image


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_layer_in_docker_s_format_may_be_compressed_and_stays_so(store: Store, compression: str) -> None:
    pack = COMPRESSIONS[compression]
    (image,) = load(store, packed(docker(["app:1"], layers=(pack(FIRST), pack(SECOND)))))
    assert image.id == digest(CONFIGURATION)
    assert content(store, image) == {"first", "second"}
    kept = [layer.digest for layer in image.layers] == [digest(pack(FIRST)), digest(pack(SECOND))]
    assert kept == (compression in ("plain", "gzip", "zstd"))
    kinds = {entry["mediaType"] for entry in json.loads(store.manifest(image))["layers"]}
    assert kinds == {LAYER + {"plain": "", "gzip": "+gzip"}.get(compression, "+zstd")}
    assert left(store)["tmp"] == []


def test_several_images_and_names_come_at_once(store: Store) -> None:
    other = CONFIGURATION.replace(b'"sh"', b'"ls"')
    members = oci(
        described(manifest_of(), MANIFEST, **named("app:1")),
        described(manifest_of(), MANIFEST, **named("registry.example/app:2")),
        described(manifest_of(other), MANIFEST, **named("other")),
        described(b"", "application/vnd.example.something", **named("no image")),
        blobs=(FIRST, SECOND, CONFIGURATION, other, manifest_of(), manifest_of(other)),
    )
    images = load(store, packed(members))
    assert [image.reference for image in images] == ["app:1", "registry.example/app:2", "other:latest"]
    assert store.image("app:1").id == store.image("registry.example/app:2").id
    assert store.image("other").config.command == ("ls",)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("app.tar", "app:latest"),
        ("app.tar.gz", "app:latest"),
        ("app:2.tgz", "app:2"),
        ("app-1.2.tar.zst", "app-1.2:latest"),
        ("app", "app:latest"),
    ],
)
def test_an_image_without_a_name_gets_the_file_s(store: Store, file: str, name: str) -> None:
    (image,) = load(store, packed(docker(None)), file)
    assert image.reference == name


@pytest.mark.parametrize("file", ["App.tar", ".tar", "a b.tar", "äpp.tar"])
def test_a_file_s_name_that_is_no_reference_names_nothing(store: Store, file: str) -> None:
    with pytest.raises(Invalid, match="has no name"):
        load(store, packed(docker([])), file)
    assert left(store) == CLEAN


@dataclass
class Bad:
    """An archive that is refused, and words of why."""

    words: str
    data: bytes


GOOD = docker(["app:1"])
LAYOUT = oci(described(manifest_of(), MANIFEST, **named("app:1")))
ENTRY = described(manifest_of(), MANIFEST)
BIG = b" " * ((8 << 20) + 1)


def with_entry(**changes: object) -> bytes:
    return packed(oci({**ENTRY, **named("app:1"), **changes}))


def changed(name: str, content: Content) -> bytes:
    return packed({**GOOD, name: content})


BAD = {
    "nothing": Bad("is empty", b""),
    "no tar": Bad("not a tar archive", b"#!/bin/sh\n" * 100),
    "zeros": Bad("neither index.json nor manifest.json", bytes(10240)),
    "a root file system": Bad("images/ctl: import", packed({"etc/passwd": b"root"})),
    "a root file system, with dots": Bad("images/ctl: import", packed({"./bin": "usr/bin", "./usr/bin/x": b""})),
    "something else": Bad("neither index.json nor manifest.json", packed({"notes.txt": b"hello"})),
    "a tar in a tar": Bad("neither index.json nor manifest.json", packed({"app.tar": packed(GOOD)})),
    "before 1.10": Bad("before 1.10", packed({k: v for k, v in GOOD.items() if k != "manifest.json"})),
    "truncated": Bad("ends in the middle of a file", packed(LAYOUT)[:2000]),
    "truncated in a header": Bad("ends in the middle of a header", packed(LAYOUT)[:100]),
    "truncated gzip": Bad("ends too early", gzip.compress(packed(LAYOUT))[:-20]),
    "truncated zstd": Bad("ends too early", zstd.compress(packed(LAYOUT))[:-20]),
    "damaged gzip": Bad("damaged", gzip.compress(os.urandom(9000))[:4000] + b"x" * 99),
    "damaged header": Bad("checksum", packed({"a": b"", **LAYOUT})[:512] + b"x" * 1024),
    "a name with ..": Bad("leads out", packed({"a/../../etc/passwd": b"x"})),
    "a name with .. inside": Bad("leads out", packed({"a/../b": b"x"})),
    "an absolute name": Bad("absolute", packed({"/etc/passwd": b"x"})),
    "no name": Bad("no name", packed({".": special(".", tarfile.REGTYPE)})),
    "a name that is not UTF-8": Bad("neither", packed({"caf\udce9": b"x"})),
    "a link out of it": Bad("leads out", changed("x.tar", "../../etc/passwd")),
    "an absolute link": Bad("leads out", changed("x.tar", "/etc/passwd")),
    "a hard link out of it": Bad("leads out", changed("x", special("x", tarfile.LNKTYPE, "../x"))),
    "links in a circle": Bad(
        "lead nowhere",
        packed({**GOOD, SHARED_NAME: "other.tar", f"{SHARED_NAME.rpartition('/')[0]}/other.tar": "layer.tar"}),
    ),
    "a link to nothing": Bad("not in the archive", changed(SHARED_NAME, "nothing.tar")),
    "a device": Bad("device", changed("null", special("null", tarfile.CHRTYPE))),
    "a pipe": Bad("device or pipe", changed("pipe", special("pipe", tarfile.FIFOTYPE))),
    "a member twice": Bad("comes twice", packed([*GOOD.items(), ("manifest.json", b"[]")])),
    "a file and a link": Bad("comes twice", packed([*GOOD.items(), ("manifest.json", "x")])),
    "two links": Bad("comes twice", packed([("a", "x"), ("a", "y")])),
    "too many members": Bad("more than 16384", packed({f"{number}": b"" for number in range(16385)})),
    "a large document": Bad("8388608 of any document", changed("manifest.json", BIG)),
    "no JSON": Bad("manifest.json is damaged", changed("manifest.json", b"{")),
    "JSON of another kind": Bad("manifest.json is damaged", changed("manifest.json", b'{"Config": 7}')),
    "deep JSON": Bad("manifest.json is damaged", changed("manifest.json", b'[{"x":' + b"[" * 100_000)),
    "deep JSON of an index": Bad("is not a valid index", packed({**LAYOUT, "index.json": b'{"x":' + b"[" * 100_000})),
    "no image": Bad("names no image", changed("manifest.json", b"[]")),
    "a missing config": Bad("'x.json', which is not in", changed("manifest.json", b'[{"Config": "x.json"}]')),
    "a config outside": Bad("leads out", changed("manifest.json", b'[{"Config": "../x.json"}]')),
    "a missing layer": Bad("not in the archive", packed({k: v for k, v in GOOD.items() if k != SHARED_NAME})),
    "layers in another order": Bad("damaged", packed(docker(["app:1"], layers=(SECOND, FIRST)))),
    "too few layers": Bad("has 1 layers, but the config tells of 2", packed(docker(["app:1"], layers=(FIRST,)))),
    "too many layers": Bad("more than 512", packed(docker(["app:1"], layers=(FIRST,) * 513))),
    "another layer": Bad("damaged", packed(docker(["app:1"], layers=(FIRST, layer("third"))))),
    "a layer that is no tar": Bad("ends in the middle", packed(docker(["app:1"], layers=(FIRST, b"hello")))),
    "a bad tag": Bad("is not", packed(docker(["../up"]))),
    "the second image is bad": Bad(
        "damaged",
        packed(
            oci(
                described(manifest_of(), MANIFEST, **named("app:1")),
                described(manifest_of(layers=(SECOND, FIRST)), MANIFEST, **named("app:2")),
                blobs=(FIRST, SECOND, CONFIGURATION, manifest_of(), manifest_of(layers=(SECOND, FIRST))),
            )
        ),
    ),
    "two without a name": Bad(
        "more than one image in it has no name",
        packed(
            oci(
                ENTRY,
                described(manifest_of() + b" ", MANIFEST),
                blobs=(FIRST, SECOND, CONFIGURATION, manifest_of(), manifest_of() + b" "),
            )
        ),
    ),
    "a blob with another content": Bad("is damaged", packed({**LAYOUT, f"blobs/sha256/{digest(FIRST)[7:]}": SECOND})),
    "a blob with a short name": Bad("is not a digest", packed({**LAYOUT, "blobs/sha256/abc": b""})),
    "an index that is none": Bad("index.json is not a valid index", packed({**LAYOUT, "index.json": b"[]"})),
    "an index of nothing": Bad("names no image for linux", packed(oci())),
    "a wrong size": Bad("bytes, but it has", with_entry(size=7)),
    "a missing manifest": Bad("not in the archive", with_entry(digest=digest(b"missing"))),
    "a digest that is none": Bad("is not a digest", with_entry(digest="sha256:../../x")),
    "for another machine": Bad("it is for plan9/mips", packed(nested(("plan9", "mips")))),
    "nested too deep": Bad("more than 4 deep", packed(nested(("linux", ARCHITECTURE), depth=6))),
    "an artifact": Bad(
        "is not an image's",
        packed(
            oci(
                described(manifest_of().replace(CONFIG.encode(), b"application/x"), MANIFEST),
                blobs=(FIRST, SECOND, CONFIGURATION, manifest_of().replace(CONFIG.encode(), b"application/x")),
            )
        ),
    ),
    "a sparse member": Bad("sparse", b""),
}


def sparse() -> bytes:
    """A member of an exbibyte, all holes, as GNU tar's format 1.0 has it."""
    member = tarfile.TarInfo("GNUSparseFile.0/bomb")
    member.size = 512
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "bomb",
        "GNU.sparse.realsize": str(1 << 60),
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    return out.getvalue()


BAD["a sparse member"].data = sparse()


@pytest.mark.parametrize("what", BAD)
def test_a_bad_archive_is_refused_in_a_line_and_leaves_nothing(store: Store, what: str) -> None:
    bad = BAD[what]
    with pytest.raises(Invalid) as refused:
        load(store, bad.data)
    words = str(refused.value)
    assert bad.words in words
    assert "file.tar" in words
    assert "\n" not in words
    assert len(words) < 600
    assert store.references() == ()
    assert left(store) == CLEAN


def test_a_bad_archive_leaves_what_was_there(store: Store) -> None:
    (image,) = load(store, packed(GOOD))
    before = {name: sorted(names) for name, names in left(store).items()}
    with pytest.raises(Invalid):
        load(store, packed({k: v for k, v in LAYOUT.items() if k != "oci-layout"})[:-9000])
    with pytest.raises(Invalid):
        load(store, BAD["another layer"].data)
    assert store.image("app:1") == image
    assert {name: sorted(names) for name, names in left(store).items()} == before


def test_an_archive_that_expands_without_end_ends_when_the_disk_is_nearly_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fstatvfs, []

    def filling(fd: int) -> os.statvfs_result:
        calls.append(fd)
        found = list(real(fd))
        found[4] *= len(calls) < 3  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "fstatvfs", filling)
    with pytest.raises(OSError, match="would fill the disk") as refused:
        load(store, zstd.compress(packed({"bomb": bytes(100 << 20)})))
    assert refused.value.errno == errno.ENOSPC
    assert left(store) == CLEAN


def test_what_says_that_it_has_no_room_is_not_begun_with(store: Store) -> None:
    (member := tarfile.TarInfo("bomb")).size = 1 << 50
    with pytest.raises(OSError, match="would fill the disk"):
        load(store, member.tobuf() + bytes(100 << 10))
    assert left(store) == CLEAN


def test_an_aborted_load_ends_and_leaves_nothing(store: Store) -> None:
    source, sink = os.pipe()
    loading = Loading(store, "app.tar")
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            loading.run(source)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    os.write(sink, packed(GOOD)[:5000])
    loading.abort()
    thread.join(60)
    os.close(sink)
    assert isinstance(outcome[0], Aborted)
    assert left(store) == CLEAN


def test_two_loads_of_the_same_image_at_once(store: Store) -> None:
    results: list[tuple[Image, ...]] = []
    threads = [
        threading.Thread(target=lambda name=name: results.append(load(store, packed(GOOD), name)))
        for name in ("a.tar", "b.tar")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [image.id for images in results for image in images] == [digest(CONFIGURATION)] * 2
    assert content(store, store.image("app:1")) == {"first", "second"}
    assert left(store)["tmp"] == []


# going out


DOCKER = "application/vnd.docker."
DOCKER_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": DOCKER + "distribution.manifest.v2+json",
        "config": described(CONFIGURATION, DOCKER + "container.image.v1+json"),
        "layers": [
            described(COMPRESSIONS["gzip"](data), DOCKER + "image.rootfs.diff.tar.gzip") for data in (FIRST, SECOND)
        ],
    },
    indent=2,
).encode()


def test_docker_s_manifest_is_kept_and_the_index_leads_others_to_an_oci_one(store: Store) -> None:
    layers = tuple(COMPRESSIONS["gzip"](data) for data in (FIRST, SECOND))
    entry = described(DOCKER_MANIFEST, DOCKER + "distribution.manifest.v2+json", **named("app:1"))
    (image,) = load(store, packed(oci(entry, blobs=(*layers, CONFIGURATION, DOCKER_MANIFEST))))
    assert image.digest == digest(DOCKER_MANIFEST)
    assert store.manifest(image) == DOCKER_MANIFEST
    (shown,) = json.loads((store.directory / "index.json").read_text())["manifests"]
    form = json.loads((store.directory / "blobs" / shown["digest"].replace(":", "/")).read_text())
    assert shown["mediaType"] == form["mediaType"] == MANIFEST
    assert form["config"] == described(CONFIGURATION, CONFIG)
    assert form["layers"] == [described(data, LAYER + "+gzip") for data in layers]
    data = saved(store, image)
    assert store.tag("app:1", "app:2").digest == image.digest
    store.untag("app:1")
    store.collect()
    assert store.image("app:2").digest == image.digest
    assert len(left(store)["blobs/sha256"]) == 5
    store.untag("app:2")
    assert left(store) == CLEAN
    assert load(store, data) == (image,)


def saved(store: Store, image: Image) -> bytes:
    with contextlib.closing(Archive(store, plan(store, image))) as archive:
        data = archive.read(0, archive.size + 1)
    assert len(data) == archive.size == plan(store, image).size
    return data


@pytest.mark.parametrize("compression", ["plain", "gzip", "zstd"])
def test_what_is_saved_comes_back_as_it_was(store: Store, compression: str) -> None:
    pack = COMPRESSIONS[compression]
    (image,) = load(store, packed(docker(["app:1"], layers=(pack(FIRST), pack(SECOND)))))
    data = saved(store, image)
    store.untag("app:1")
    assert left(store) == CLEAN
    assert load(store, data) == (image,)
    assert saved(store, image) == data


def test_an_archive_has_both_layouts_and_ends_as_a_tar_does(store: Store) -> None:
    (image,) = load(store, packed(GOOD))
    data = saved(store, image)
    assert len(data) % 512 == 0
    assert data.endswith(bytes(1024))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        content = {name: tar.extractfile(name).read() for name in tar.getnames() if tar.getmember(name).isfile()}  # type: ignore[union-attr]
        assert [member.name for member in tar if member.isdir()] == ["blobs", "blobs/sha256"]
    (docker_image,) = json.loads(content["manifest.json"])
    assert docker_image["RepoTags"] == ["docker.io/library/app:1"]
    assert content[docker_image["Config"]] == CONFIGURATION
    assert [content[name] for name in docker_image["Layers"]] == [FIRST, SECOND]
    (entry,) = json.loads(content["index.json"])["manifests"]
    assert entry["digest"] == digest(content[f"blobs/sha256/{entry['digest'][7:]}"]) == image.digest
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/app:1"
    assert content["oci-layout"] == b'{"imageLayoutVersion":"1.0.0"}'


def test_a_layer_that_an_image_has_twice_is_saved_once(store: Store) -> None:
    config = CONFIGURATION.replace(digest(SECOND).encode(), digest(FIRST).encode())
    (image,) = load(store, packed(docker(["app:1"], config, (FIRST, FIRST))))
    data = saved(store, image)
    assert data.count(FIRST) == 1
    store.untag("app:1")
    assert load(store, data) == (image,)


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (511, 2), (700, 4096), (3000, 9), (1 << 40, 10), (5, 1 << 30)])
def test_any_part_of_an_archive_can_be_read(store: Store, offset: int, size: int) -> None:
    (image,) = load(store, packed(GOOD))
    whole = saved(store, image)
    with contextlib.closing(Archive(store, plan(store, image))) as archive:
        assert archive.read(offset, size) == whole[offset : offset + size]
        assert archive.cached(offset, size) in (None, whole[offset : offset + size])


def test_an_open_archive_outlives_its_image(store: Store) -> None:
    (image,) = load(store, packed(GOOD))
    whole = saved(store, image)
    with contextlib.closing(Archive(store, plan(store, image))) as archive:
        store.untag("app:1")
        assert left(store) == CLEAN
        assert archive.read(0, len(whole)) == whole


def test_a_blob_that_is_missing_is_said_at_the_open(store: Store) -> None:
    (image,) = load(store, packed(GOOD))
    made = plan(store, image)
    (store.directory / "blobs" / image.layers[0].digest.replace(":", "/")).unlink()
    with pytest.raises(NotFound):
        Archive(store, made)
