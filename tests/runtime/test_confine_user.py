"""pydock.runtime.confine.user: who a container's process runs as."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydock.runtime.confine.user import Identity, resolve
from pydock.runtime.errors import Invalid, NotFound

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# nobody reads this
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin

broken
web:x:101:33:Web,,,:/var/www:/bin/false
homeless:x:102:33
1000:x:7:7::/seven:
late:x:1000:50::/late:
bad:x:one:two::/:
"""
GROUP = """\
root:x:0:
daemon:x:1:root
www-data:x:33:web
audio:x:29:web,late,web
video:x:44:late,web
odd:x:
200:x:9:
"""


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("", Identity(0, 0, (1,), "/root")),
        ("root", Identity(0, 0, (1,), "/root")),
        ("0", Identity(0, 0, (1,), "/root")),
        ("web", Identity(101, 33, (33, 29, 44), "/var/www")),
        ("101", Identity(101, 33, (33, 29, 44), "/var/www")),
        ("web:audio", Identity(101, 29, (), "/var/www")),
        ("web:4000", Identity(101, 4000, (), "/var/www")),
        ("4000", Identity(4000, 0, (), "/")),
        ("4000:4001", Identity(4000, 4001, (), "/")),
        ("4000:video", Identity(4000, 44, (), "/")),
        (":audio", Identity(0, 29, (), "/root")),
        ("homeless", Identity(102, 33, (), "/")),
        ("1000", Identity(7, 7, (), "/seven")),
        ("late", Identity(1000, 50, (29, 44), "/late")),
        ("web:200", Identity(101, 9, (), "/var/www")),
    ],
)
def test_user_is_found_as_docker_finds_it(user: str, identity: Identity) -> None:
    assert resolve(user, PASSWD, GROUP) == identity


@pytest.mark.parametrize("user", ["nobody", "bad", "broken", "web:nogroup", "web:odd", "-1", "4000:x"])
def test_name_that_is_in_neither_file_is_not_found(user: str) -> None:
    with pytest.raises(NotFound, match=r"^user: there is no (user|group) "):
        resolve(user, PASSWD, GROUP)


@pytest.mark.parametrize("user", ["web:", "a:b:c", "4294967295", "99999999999", "0:4294967295"])
def test_user_that_is_none_is_invalid(user: str) -> None:
    with pytest.raises(Invalid, match=r"^user: "):
        resolve(user, PASSWD, GROUP)


def test_image_without_the_files_has_numbers_only() -> None:
    assert resolve("", "", "") == Identity(0, 0, (), "/")
    assert resolve("5:6", "", "") == Identity(5, 6, (), "/")
    with pytest.raises(NotFound):
        resolve("root", "", "")


@given(st.text(), st.text(), st.text())
def test_whatever_an_image_holds_only_known_errors_come_out(user: str, passwd: str, group: str) -> None:
    try:
        identity = resolve(user, passwd, group)
    except (Invalid, NotFound):
        return
    assert identity.home


@given(st.text(alphabet="0123456789:ab\n,٣²"), st.text(alphabet="0123456789:ab\n,٣²"))
def test_numbers_out_of_range_in_an_image_are_no_entries(passwd: str, group: str) -> None:
    try:
        identity = resolve("a", passwd, group)
    except NotFound:
        return
    assert 0 <= identity.uid < 2**32 - 1
    assert all(0 <= gid < 2**32 - 1 for gid in (identity.gid, *identity.groups))
