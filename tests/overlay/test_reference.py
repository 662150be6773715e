from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid
from pydock.overlay.reference import Reference

_COMPONENTS = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
_HOSTS = st.sampled_from(["docker.io", "localhost", "localhost:5000", "registry.example", "r:80", "[::1]:5000", "Host"])
_TAGS = st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,20}", fullmatch=True)
_DIGESTS = st.binary(max_size=4).map(Digest.of)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    host = draw(_HOSTS)
    path = draw(st.lists(_COMPONENTS, min_size=1, max_size=4))
    if host == "docker.io" and len(path) == 1:
        path.insert(0, "library")
    digest = draw(st.none() | _DIGESTS)
    tag = draw(_TAGS if digest is None else st.none() | _TAGS)
    return Reference(host, "/".join(path), tag, digest)


@given(references())
def test_the_short_form_parses_to_the_same_reference(reference: Reference) -> None:
    assert Reference.parse(str(reference)) == reference


@given(references())
def test_the_full_form_parses_to_the_same_reference(reference: Reference) -> None:
    assert Reference.parse(reference.full) == reference


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_invalid(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except Invalid:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "short", "full"),
    [
        ("busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "busybox:1.36", "docker.io/library/busybox:1.36"),
        ("library/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("docker.io/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("index.docker.io/library/busybox", "busybox:latest", "docker.io/library/busybox:latest"),
        ("team/app:7", "team/app:7", "docker.io/team/app:7"),
        ("docker.io/my.team/app", "docker.io/my.team/app:latest", "docker.io/my.team/app:latest"),
        ("docker.io/library/a/b", "library/a/b:latest", "docker.io/library/a/b:latest"),
        ("registry.example/team/app:7", "registry.example/team/app:7", "registry.example/team/app:7"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
        ("[::1]:5000/app:x", "[::1]:5000/app:x", "[::1]:5000/app:x"),
        ("localhost", "localhost:latest", "docker.io/library/localhost:latest"),
    ],
)
def test_a_reference_has_a_short_and_a_full_form(text: str, short: str, full: str) -> None:
    reference = Reference.parse(text)
    assert (str(reference), reference.full) == (short, full)


def test_a_digest_takes_the_place_of_the_default_tag() -> None:
    digest = Digest.of(b"")
    assert Reference.parse(f"busybox@{digest}") == Reference("docker.io", "library/busybox", None, digest)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "busybox:",
        "busybox:a b",
        "busybox:-x",
        "busybox:" + "x" * 129,
        "Busybox",
        "a//b",
        "a/",
        "/a",
        "../a",
        "a/..",
        "a/./b",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "busybox\n",
        "busybox@",
        "busybox@sha256:12",
        "host.:1x/app",
        "host:123456/app",
        "host:65536/app",
        "host:0/app",
        "sub..host/app",
        "a" * 256,
        "b\0x",
        "ｂusybox",
    ],
)
def test_what_is_no_reference_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        Reference.parse(text)
