"""Volumes and tmpfs mounts as people write them, and sources that may not lead into the mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.errors import Invalid
from pydock.runtime.volumes import Tmpfs, Volume, open_source, target_path

WORD = st.text("abcXYZ019_-", min_size=1, max_size=8)
PATH = st.lists(WORD, min_size=1, max_size=4).map(lambda words: "/" + "/".join(words))
PROPAGATIONS = ["private", "rprivate", "slave", "rslave", "shared", "rshared"]


@given(st.builds(Volume, PATH, PATH, st.booleans(), st.sampled_from(PROPAGATIONS)))
def test_a_volume_is_read_as_it_is_printed(volume: Volume) -> None:
    assert Volume.parse(str(volume)) == volume


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a:/b", Volume("/a", "/b")),
        ("/a:/b:ro", Volume("/a", "/b", True)),
        ("/a:/b:ro,rw", Volume("/a", "/b")),
        ("/a:/b:shared,ro", Volume("/a", "/b", True, "shared")),
        ("/a b:/c d/", Volume("/a b", "/c d")),
        ("/a://b//c/.", Volume("/a", "/b/c")),
    ],
)
def test_a_volume_has_a_source_a_target_and_options(text: str, volume: Volume) -> None:
    assert Volume.parse(text) == volume


@pytest.mark.parametrize(
    "text", ["", "/a", ":/b", "/a:", "/a:b", "/a:/", "/a:/b:", "/a:/b:x", "/a:/b:ro:ro", "/a:/../b"]
)
def test_what_is_no_volume_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        Volume.parse(text)


@pytest.mark.parametrize(("text", "named"), [("name:/x", True), ("A.b_c-1:/x:ro", True), ("/name:/x", False)])
def test_a_volume_is_a_path_or_a_name(text: str, named: bool) -> None:
    assert Volume.parse(text).named == named


@pytest.mark.parametrize("source", ["./x", "a/b", ".x", "a b", "x" * 129, "ä", "-x"])
def test_a_source_that_is_neither_a_path_nor_a_name_is_invalid(source: str) -> None:
    with pytest.raises(Invalid, match="neither"):
        Volume.parse(f"{source}:/x")


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("/t", "/t"),
        ("/t:", "/t"),
        ("/t:size=1M", "/t:size=1048576"),
        ("/t:mode=1777,uid=5,exec", "/t:mode=1777,uid=5,exec"),
        ("/t/:ro,,dev", "/t:ro,dev"),
        ("/t:size=50%,nr_inodes=4k,nr_blocks=100", "/t:size=50%,nr_inodes=4096,nr_blocks=100"),
        ("/t:noatime,nodiratime,strictatime,relatime", "/t:noatime,nodiratime,strictatime,relatime"),
        ("/t:mpol=interleave=static:0-3,mpol=default", "/t:mpol=interleave=static:0-3,mpol=default"),
    ],
)
def test_a_tmpfs_is_printed_in_canonical_form(text: str, printed: str) -> None:
    assert str(Tmpfs.parse(text)) == printed
    assert str(Tmpfs.parse(printed)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "t",
        "/",
        "/t:size",
        "/t:size=",
        "/t:size=x",
        "/t:mode=8",
        "/t:mode=",
        "/t:uid=x",
        "/t:gid=-1",
        "/t:nope",
        "/t:size=0%",
        "/t:size=1000%",
        "/t:size=%",
        "/t:nr_inodes",
        "/t:nr_inodes=",
        "/t:nr_inodes=-1",
        "/t:nr_inodes=5%",
        "/t:nr_blocks=9000000G",
        "/t:mpol=",
        "/t:mpol=bind",
        "/t:mpol=best:0",
        "/t:noatime=1",
        "/t:ro=1",
    ],
)
def test_what_is_no_tmpfs_is_invalid(text: str) -> None:
    with pytest.raises(Invalid):
        Tmpfs.parse(text)


@pytest.mark.parametrize("text", ["", ".", "a", "/", "//", "/.", "/..", "/a/..", "/a/../b", "../a"])
def test_a_target_is_below_the_root(text: str) -> None:
    with pytest.raises(Invalid):
        target_path(text)


# sources


@pytest.mark.parametrize(("name", "is_directory"), [("file", False), ("directory", True)])
def test_a_source_is_opened_as_a_clone_of_its_mount(tmp_path: Path, name: str, is_directory: bool) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "directory").mkdir()
    fd, found = open_source(Volume(f"{tmp_path}/{name}", "/x"), outside="", named=tmp_path)
    try:
        assert found is is_directory
        assert os.fstat(fd).st_ino == (tmp_path / name).stat().st_ino
    finally:
        os.close(fd)
