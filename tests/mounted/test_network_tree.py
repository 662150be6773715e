"""``networks/`` as people use it: what is there from the start, links, renames, events, and what tools for whole trees make of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
FROM_THE_START = ["bridge", "host", "none", "ports"]


def sh(script: str, path: Path) -> tuple[int, str]:
    """Status and output of a script in *path*."""
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def running(tree: Path, name: str, network: str) -> Path:
    c = tree / "containers" / name
    c.mkdir()
    for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", network), ("ctl", "start")):
        (c / key).write_text(text)
    return c


def test_some_are_there_from_the_start_and_stay(own_engine: Engine) -> None:
    networks = own_engine.tree / "networks"
    assert sorted(os.listdir(networks)) == FROM_THE_START
    assert (networks / "bridge/subnet").read_text().count(".") == 3
    for name in FROM_THE_START:
        with pytest.raises(FileExistsError):
            (networks / name).mkdir()
        with pytest.raises(PermissionError):
            (networks / name).rmdir()
        with pytest.raises(PermissionError):
            (networks / name).rename(networks / "other")
        (networks / "own").mkdir()
        assert sh(f"mv -T own {name}", networks)[0] != 0
        (networks / "own").rmdir()
        assert f"networks/{name} " in (own_engine.tree / "errors").read_text()
    assert sorted(os.listdir(networks)) == FROM_THE_START
    assert sorted(os.listdir(networks / "host")) == ["error", "members"]


def test_members_of_host_and_none(networks: Path, make: Make) -> None:
    a = make("a", network="none")
    host, none = networks / "host/members", networks / "none/members"
    assert os.path.samefile(none / "a", a)
    os.symlink("../../../containers/a", host / "a")
    assert ((a / "network").read_text(), os.listdir(host), (none / "a").exists()) == ("host\n", ["a"], False)
    (host / "a").unlink()
    assert (a / "network").read_text() == "none\n"
    with pytest.raises(PermissionError):
        (none / "a").unlink()
    assert "joining" in (networks / "none/error").read_text()
    b = running(networks.parent, "b", "host")
    with pytest.raises(OSError, match="busy"):
        (host / "b").unlink()
    with pytest.raises(OSError, match="busy"):
        os.symlink("b", none / "b")
    assert (b / "network").read_text() == "host\n"


@pytest.mark.parametrize(
    "target", ["../../../containers/a", "{tree}/containers/a", "a", "containers/a/", "../../../containers/a/"]
)
def test_a_link_s_target_ends_with_the_container(networks: Path, make: Make, target: str) -> None:
    a = make("a", network="none")
    (networks / "n").mkdir()
    os.symlink(target.format(tree=networks.parent), networks / "n/members/a")
    assert (a / "network").read_text() == "n\n"
    assert os.readlink(networks / "n/members/a") == "../../../containers/a"
    with pytest.raises(FileExistsError):
        os.symlink("a", networks / "n/members/a")
    (networks / "n/members/a").unlink()
    assert (a / "network").read_text() == "none\n"


@pytest.mark.parametrize(
    ("target", "name", "number"),
    [
        ("../../../containers/nobody", "nobody", errno.ENOENT),
        ("nobody", "nobody", errno.ENOENT),
        ("../../../images/a", "a", errno.EINVAL),
        ("../../../containers/a", "b", errno.EINVAL),
        ("/", "a", errno.ENOENT),
        ("../../../containers/a/exec", "a", errno.EINVAL),
    ],
)
def test_a_link_to_what_is_no_container_is_refused(
    networks: Path, make: Make, target: str, name: str, number: int
) -> None:
    make("a", network="none")
    (networks / "n").mkdir()
    with pytest.raises(OSError, match=".") as refused:
        os.symlink(target, networks / "n/members" / name)
    assert refused.value.errno == number
    assert (networks / "n/error").read_text().startswith(f"members/{name}: ")
    assert os.listdir(networks / "n/members") == []


def test_rm_r_of_a_network_changes_nothing(networks: Path, tree: Path) -> None:
    (networks / "n").mkdir()
    (networks / "n/mtu").write_text("1400")
    a = running(tree, "a", "n")
    before = (a / "address").read_text()
    for command in ("rm -r n", "rm -rf n", "find n -delete"):
        status, said = sh(command, networks)
        assert (status != 0, "not permitted" in said) == (True, True), said
        assert ((a / "network").read_text(), (a / "address").read_text()) == ("n\n", before)
        assert (networks / "n/mtu").read_text() == "1400\n"
        assert os.listdir(networks / "n/members") == ["a"]


@pytest.mark.parametrize(
    "command", ["rm -rf n", "find n -delete", "python3 -c 'import shutil; shutil.rmtree(\"n\", ignore_errors=True)'"]
)
def test_an_object_that_nobody_uses_stays_as_well(networks: Path, tree: Path, make: Make, command: str) -> None:
    for each in (networks / "n", tree / "volumes/n", make("n", hostname="h")):
        if not each.exists():
            each.mkdir()
        before = sorted(os.listdir(each))
        sh(command, each.parent)
        assert sorted(os.listdir(each)) == before
        assert (each / "error").read_text() != ""
    assert (tree / "containers/n/hostname").read_text() == "h\n"


def test_who_was_refused_what_is_in_it_and_asks_for_the_directory_twice_means_it(tree: Path) -> None:
    path = tree / "volumes/v"
    path.mkdir()
    assert "size" in os.listdir(path)
    for remove in ((path / "size").unlink, (path / "used_by").rmdir, path.rmdir):
        with pytest.raises(PermissionError):
            remove()
    path.rmdir()
    assert not path.exists()


def test_who_was_refused_a_file_may_remove_the_directory(tree: Path) -> None:
    path = tree / "volumes/v"
    path.mkdir()
    assert "size" in os.listdir(path)
    with pytest.raises(PermissionError):
        (path / "size").unlink()
    path.rmdir()


def test_settings_are_copied_by_file_tools(networks: Path, tmp_path: Path) -> None:
    (networks / "n").mkdir()
    for name, text in (("subnet", "10.99.0.0/24"), ("gateway", "10.99.0.9"), ("mtu", "1400"), ("internal", "1")):
        (networks / "n" / name).write_text(text)
    settings = "subnet gateway mtu internal isolate masquerade"
    assert sh(f"mkdir {tmp_path}/n && cd n && cp {settings} {tmp_path}/n", networks) == (0, "")
    (networks / "n").rmdir()
    (networks / "m").mkdir()
    assert sh(f"cd {tmp_path}/n && for f in {settings}; do cp $f {networks}/m/$f; done", networks) == (0, "")
    assert sh(f"cd {tmp_path}/n && for f in {settings}; do cmp $f {networks}/m/$f || exit; done", networks) == (0, "")
    assert sh(f"rsync -ac {tmp_path}/n/ m/ && sed -i s/1400/1300/ m/mtu && cat m/mtu", networks) == (0, "1300\n")
    assert sh("rsync -rn n/ m/ 2>&1; echo x > m/mtux", networks)[0] != 0
    assert "did you mean mtu?" in (networks / "m/error").read_text()


def test_a_network_is_renamed_while_members_run(networks: Path, tree: Path, make: Make) -> None:
    (networks / "front").mkdir()
    a = running(tree, "a", "front alias=db")
    b = make("b", network="front\n")
    before = (a / "address").read_text()
    (networks / "front").rename(networks / "edge")
    assert not (networks / "front").exists()
    assert [(each / "network").read_text() for each in (a, b)] == ["edge alias=db\n", "edge\n"]
    assert (a / "address").read_text() == before.replace("front", "edge")
    assert sorted(os.listdir(networks / "edge/members")) == ["a", "b"]
    assert any(line.startswith("db ") for line in (networks / "edge/names").read_text().splitlines())
    assert "masquerade" in (networks / "edge/rules").read_text()
    with pytest.raises(OSError, match="busy"):
        (networks / "edge").rmdir()
    (networks / "front").mkdir()
    with pytest.raises(OSError, match="exists"):
        (networks / "front").rename(networks / "edge")
    for name in ("a b", "-x", "x" * 129):
        with pytest.raises(OSError, match="nvalid"):
            (networks / "front").rename(networks / name)
    (a / "ctl").write_text("restart 0")
    assert (a / "address").read_text() == before.replace("front", "edge")


def test_a_rename_that_a_death_has_cut_short_is_done_to_its_end(own_engine: Engine) -> None:
    networks = own_engine.tree / "networks"
    (networks / "front").mkdir()
    a, b = running(own_engine.tree, "a", "front"), running(own_engine.tree, "b", "front")
    before = (a / "address").read_text()
    kept = own_engine.root / "containers" / (b / "id").read_text().strip() / "spec.toml"
    own_engine.settled()
    own_engine.kill()
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    (own_engine.root / "networks/.renaming").write_text(json.dumps({"from": "front", "to": "edge"}))
    kept.write_text(kept.read_text().replace("front", "edge"))  # one was told already, and the record not
    own_engine.start()
    assert (a / "network").read_text() == (b / "network").read_text() == "edge\n"
    assert (a / "address").read_text() == before.replace("front", "edge")
    assert not (own_engine.root / "networks/.renaming").exists()
    (networks / "front").mkdir()
    own_engine.kill()
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    assert (networks / "front/subnet").read_text() != (networks / "edge/subnet").read_text()
    own_engine.clear()
    for name in ("front", "edge"):
        (networks / name).rmdir()


def test_prune_removes_the_networks_that_nobody_names(networks: Path, tree: Path, make: Make) -> None:
    for name in ("used", "idle", "other"):
        (networks / name).mkdir()
    make("a", network="used")
    fd = os.open(tree / "ctl", os.O_RDWR)
    try:
        os.write(fd, b"prune networks\n")
        assert os.read(fd, 100) == b"removed 2 networks\n"
    finally:
        os.close(fd)
    assert sorted(os.listdir(networks)) == sorted([*FROM_THE_START, "used"])


def test_events_tell_what_becomes_of_networks(networks: Path, tree: Path) -> None:
    start = (tree / "journal").stat().st_size
    (networks / "n").mkdir()
    a = running(tree, "a", "n")
    (networks / "m").mkdir()
    os.symlink("a", networks / "m/members/a")
    (networks / "n").rename(networks / "o")
    (networks / "o/members/a").unlink()
    (a / "ctl").write_text("kill")
    (a / "wait").read_text()
    a.rmdir()
    (networks / "m").rmdir()
    with open(tree / "journal", "rb") as file:
        file.seek(start)
        events = [json.loads(line) for line in file]
    assert [
        (each["name"], each["action"], each.get("container", each.get("before", "")))
        for each in events
        if each["kind"] == "network"
    ] == [
        ("n", "create", ""),
        ("n", "connect", "a"),
        ("m", "create", ""),
        ("m", "connect", "a"),
        ("o", "rename", "n"),
        ("o", "disconnect", "a"),
        ("m", "disconnect", "a"),
        ("m", "remove", ""),
    ]


def again(engine: Engine, options: str) -> None:
    """Mount it again, with these *options* besides its own."""
    engine.umount()
    engine.options = f"{engine.options.partition(',subnet')[0]}{options}"
    engine.start()


def test_the_default_network_has_the_addresses_that_the_options_say(own_engine: Engine, etc: Path) -> None:
    bridge = own_engine.tree / "networks/bridge"

    def settings() -> list[str]:
        return [(bridge / name).read_text().strip() for name in ("subnet", "gateway", "subnet6", "gateway6", "mtu")]

    text = 'subnet = "10.91.0.0/16"\nsubnet6 = "fd00:91::/64"\ngateway6 = "fd00:91::9"\nmtu = 1400\n'
    (etc / "pydock.toml").write_text(text)
    again(own_engine, "")
    assert settings() == ["10.91.0.0/16", "10.91.0.1", "fd00:91::/64", "fd00:91::9", "1400"]
    again(own_engine, ",subnet=10.92.0.0/24,gateway=10.92.0.254")
    assert settings() == ["10.92.0.0/24", "10.92.0.254", "fd00:91::/64", "fd00:91::9", "1400"]
    a = running(own_engine.tree, "a", "bridge")
    before = (a / "address").read_text()
    assert before.startswith("bridge 10.92.0.1/24 ")
    again(own_engine, ",subnet=10.93.0.0/24")
    assert settings()[0] == "10.92.0.0/24"
    assert (a / "address").read_text() == before
    assert "in use by a" in (own_engine.tree / "errors").read_text()
    (a / "ctl").write_text("stop 0")
    again(own_engine, ",subnet=10.93.0.0/24,subnet6=")
    assert settings() == ["10.93.0.0/24", "10.93.0.1", "", "", "1400"]
    (a / "ctl").write_text("start")
    assert (a / "address").read_text().startswith("bridge 10.93.0.2/24 ")
    (etc / "pydock.toml").unlink()
    again(own_engine, "")
    assert settings()[0] == "10.93.0.0/24"  # nobody says anything else


def test_addresses_that_the_machine_routes_are_not_the_default_network_s(own_engine: Engine) -> None:
    subprocess.run(
        "ip link add up2 type bridge; ip addr add 10.94.0.7/16 dev up2; ip link set up2 up", shell=True, check=True
    )
    try:
        again(own_engine, ",subnet=10.94.7.0/24")
        a = own_engine.tree / "containers/a"
        a.mkdir()
        for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "bridge")):
            (a / key).write_text(text)
        with pytest.raises(OSError, match="ddress already in use"):
            (a / "ctl").write_text("start")
        assert "10.94.7.0/24 overlaps 10.94.0.0/16, which is routed to up2" in (a / "error").read_text()
        assert "bridge" not in os.listdir(own_engine.tree / "networks")
        subprocess.run("ip link del up2", shell=True, check=True)
        (a / "ctl").write_text("start")
        assert (a / "address").read_text().startswith("bridge 10.94.7.2/24 ")
    finally:
        subprocess.run("ip link del up2 2> /dev/null", shell=True, check=False)
