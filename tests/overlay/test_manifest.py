from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay import manifest as documents
from pydock.overlay.errors import Invalid
from pydock.overlay.manifest import ConfigFile, Descriptor, Healthcheck, ImageConfig, Index, Manifest, RootFs

_STRINGS = st.text(max_size=8)
_TUPLES = st.lists(_STRINGS, max_size=3).map(tuple)
_SETS = st.lists(_STRINGS, max_size=3, unique=True).map(tuple)
_CONFIGS = st.builds(
    ImageConfig,
    entrypoint=_TUPLES,
    command=_TUPLES,
    env=_TUPLES,
    workdir=_STRINGS,
    user=_STRINGS,
    volumes=_SETS.map(sorted).map(tuple),
    ports=_SETS.map(sorted).map(tuple),
    labels=st.dictionaries(_STRINGS, _STRINGS, max_size=3).map(lambda d: tuple(sorted(d.items()))),
    stop_signal=st.none() | st.text(min_size=1, max_size=8),
    shell=_TUPLES,
    on_build=_TUPLES,
    healthcheck=st.none()
    | st.builds(
        Healthcheck,
        test=_TUPLES,
        interval=st.integers(0, 10**12),
        timeout=st.integers(0, 10**12),
        start_period=st.integers(0, 10**12),
        retries=st.integers(0, 9),
    ),
)


@given(_CONFIGS)
def test_a_configuration_comes_back_from_its_document(config: ImageConfig) -> None:
    file = ConfigFile(architecture="amd64", os="linux", rootfs=RootFs(), config=config.to_document())
    read = documents.decode(documents.encode(file), ConfigFile, "it")
    assert ImageConfig.from_document(read.config) == config


def test_a_configuration_as_docker_writes_it_is_read() -> None:
    text = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2023-05-18T22:34:17Z",
            "docker_version": "20.10.23",
            "container_config": {"Hostname": "x"},
            "config": {
                "Hostname": "",
                "AttachStdin": False,
                "Env": ["PATH=/bin"],
                "Cmd": ["sh"],
                "Image": "sha256:1",
                "Volumes": None,
                "WorkingDir": "/w",
                "Entrypoint": None,
                "OnBuild": None,
                "Labels": None,
                "ExposedPorts": {"80/tcp": {}},
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1000000000},
            },
            "history": [{"created": "2023-05-18T22:34:17Z", "created_by": "ADD", "empty_layer": True}],
            "rootfs": {"type": "layers", "diff_ids": ["sha256:2"]},
        }
    )
    file = documents.decode(text.encode(), ConfigFile, "it")
    assert ImageConfig.from_document(file.config) == ImageConfig(
        command=("sh",),
        env=("PATH=/bin",),
        workdir="/w",
        ports=("80/tcp",),
        healthcheck=Healthcheck(test=("CMD-SHELL", "true"), interval=10**9),
    )
    assert file.rootfs.diff_ids == ("sha256:2",)


def test_a_configuration_without_config_is_empty() -> None:
    assert ImageConfig.from_document(None) == ImageConfig()


def test_equal_documents_are_equal_bytes() -> None:
    one = Descriptor("m", "d", 1, annotations={"a": "1", "b": "2"})
    two = Descriptor("m", "d", 1, annotations={"b": "2", "a": "1"})
    assert documents.encode(Index(manifests=(one,))) == documents.encode(Index(manifests=(two,)))


def test_a_manifest_says_its_schema_version_and_media_type() -> None:
    written = json.loads(documents.encode(Manifest(config=Descriptor(documents.CONFIG, "sha256:1", 2))))
    assert (written["schemaVersion"], written["mediaType"]) == (2, documents.MANIFEST)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"config": 1}', b'{"layers": []}', b"\xff"])
def test_what_is_no_manifest_is_invalid(text: bytes) -> None:
    with pytest.raises(Invalid, match="it is not a valid manifest"):
        documents.decode(text, Manifest, "it")
