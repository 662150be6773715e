"""Machines that lack something: no libnftables, a kernel without nftables, no IPv6. What needs it says so, and the rest works."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine
    from networks.conftest import Host

#: What libnftables says where the kernel has nfnetlink and no nf_tables, as Linux 6.12 was seen to.
KERNEL = """
const char *nft_ctx_get_error_buffer(void *ctx) { return "netlink: Error: cache initialization failed: Invalid argument\\n"; }
const char *nft_ctx_get_output_buffer(void *ctx) { return ""; }
void *nft_ctx_new(unsigned flags) { return (void *)1; }
int nft_ctx_buffer_output(void *ctx) { return 0; }
int nft_ctx_buffer_error(void *ctx) { return 0; }
int nft_run_cmd_from_buffer(void *ctx, const char *text) { return -1; }
"""


@pytest.fixture
def engine_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Engine]:
    """``engine_without(WHAT)``: an engine that finds another libnftables than the machine's."""

    def start(what: str) -> Engine:
        library = tmp_path / "libnftables.so.1"
        if what == "library":
            library.write_bytes(b"")
        else:
            source = tmp_path / "it.c"
            source.write_text(KERNEL)
            subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
        found: Engine = request.getfixturevalue("own_engine")
        return found

    return start


def run(tree: Path, network: str, errno_of: Callable[[Path, str], int]) -> tuple[int, str]:
    """The errno of a start in *network*, and what the container says, or pydock of it."""
    c = tree / "containers/c"
    c.mkdir()
    for name, value in (("image", "busybox"), ("command", "cat /proc/net/dev"), ("network", network)):
        (c / name).write_text(value)
    number = errno_of(c / "ctl", "start")
    said = (c / "error").read_text()
    if not number:
        assert (c / "wait").read_text() == "0\n"
        said = (c / "log").read_text()
    c.rmdir()
    return number, said


@pytest.mark.parametrize(("what", "words"), [("library", "package nftables"), ("kernel", "kernel has no nftables")])
def test_without_nftables_none_and_host_work(
    engine_without: Callable[[str], Engine], errno_of: Callable[[Path, str], int], what: str, words: str
) -> None:
    tree = engine_without(what).tree
    for network in ("bridge", "bridge"):
        number, said = run(tree, network, errno_of)
        assert number == errno.EOPNOTSUPP
        assert words in said
    number, said = run(tree, "none", errno_of)
    assert number == 0
    assert " lo:" in said
    assert run(tree, "host", errno_of)[0] == 0
    (tree / "networks/front").mkdir()
    assert run(tree, "front", errno_of)[0] == errno.EOPNOTSUPP
    assert (tree / "networks/front/rules").read_text() == ""
    (tree / "networks/front").rmdir()


@pytest.fixture
def without_ipv6(setting: Callable[[str, str], None]) -> None:
    """It is switched off for links that come."""
    setting("net/ipv6/conf/default/disable_ipv6", "1")


def test_without_ipv6_networks_and_ports_work(
    without_ipv6: None,
    own_engine: Engine,
    serving_in: Callable[..., Path],
    outside: Host,
    machine: Host,
    inside: Callable[[Path], Host],
    free: Callable[[], int],
) -> None:
    port = free()
    front = own_engine.tree / "networks/front"
    front.mkdir()
    assert (front / "subnet6").read_text() == ""
    a = serving_in(own_engine.tree, "a", f"{port}:80", f"{port}:80/udp")
    for protocol in ("tcp", "udp"):
        assert outside.asks("192.0.2.1", port, protocol) == "a 192.0.2.2 80"
        assert machine.asks("127.0.0.1", port, protocol).startswith("a ")
    with outside.serving(port):
        assert inside(a).asks("192.0.2.2", port) == "outside"
    own_engine.clear()
    front.rmdir()


def test_a_network_that_has_ipv6_says_so_where_it_is_switched_off(
    own_engine: Engine, setting: Callable[[str, str], None], errno_of: Callable[[Path, str], int]
) -> None:
    (own_engine.tree / "networks/front").mkdir()
    setting("net/ipv6/conf/default/disable_ipv6", "1")
    number, said = run(own_engine.tree, "front", errno_of)
    assert number == errno.EOPNOTSUPP
    assert "disable_ipv6" in said
    assert run(own_engine.tree, "none", errno_of)[0] == 0
    (own_engine.tree / "networks/front/subnet6").write_text("")
    assert run(own_engine.tree, "front", errno_of)[0] == 0
    (own_engine.tree / "networks/front").rmdir()
