"""Published ports, by real connections: from the machine, from outside, from containers, while it runs and after a death."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


@pytest.fixture
def network(engine: Engine) -> Iterator[str]:
    path = engine.tree / "networks/front"
    path.mkdir()
    yield "front"
    engine.clear()
    path.rmdir()


@pytest.fixture
def web(make: Make, network: str) -> Callable[..., Path]:
    """``web(NAME, PORT…)``: a container that says its name at its port 80."""

    def start(name: str, *items: str, settings: dict[str, str] | None = None) -> Path:
        c = make(
            name,
            command=f"nc -ll -p 80 -e echo from {name}",
            network=network,
            ports="".join(f"{item}\n" for item in items),
        )
        (c / "ctl").write_text("start")
        listens(c)
        return c

    return start


def listens(c: Path, protocol: str = "tcp") -> None:
    """Wait until it listens at its port 80."""
    deadline = time.monotonic() + 60
    tables = [Path(f"/proc/{(c / 'pid').read_text().strip()}/net/{protocol}{version}") for version in ("", "6")]
    while not any(":0050 " in table.read_text() for table in tables):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def said(host: str, port: int, *, source: str = "") -> str:
    """What is said at a port; the errno's name when nothing is."""
    try:
        with socket.create_connection((host, port), timeout=60, source_address=(source, 0) if source else None) as peer:
            return peer.makefile().read().strip()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "ETIMEDOUT")


def inside(c: Path, command: str) -> str:
    x = c / "exec/x"
    x.mkdir()
    (x / "command").write_text(command)
    (x / "ctl").write_text("start")
    (x / "wait").read_text()
    text = (x / "log").read_text()
    x.rmdir()
    return text


def test_the_machine_reaches_it_by_any_address_of_its_own(
    web: Callable[..., Path], tree: Path, free: Callable[[], int]
) -> None:
    port = free()
    c = web("a", f"{port}:80")
    assert (c / "ports").read_text() == f"{port}:80\n"
    assert (c / "ports.bound").read_text() == f"{port}:80/tcp\n"
    network = tree / "networks/front"
    for host in (
        "127.0.0.1",
        "127.0.0.5",
        (network / "gateway").read_text().strip(),
        (network / "gateway6").read_text().strip(),
    ):
        assert said(host, port) == "from a", host


def test_links_lead_to_who_has_a_port(web: Callable[..., Path], tree: Path, free: Callable[[], int]) -> None:
    one, two = free(), free()
    a, b = web("a", f"{one}:80"), web("b", f"127.0.0.1:{two}:80")
    places = tree / "networks/ports"
    assert {path.name: os.readlink(path) for path in places.iterdir()} == {
        f"tcp:0.0.0.0:{one}": "../../containers/a",
        f"tcp:127.0.0.1:{two}": "../../containers/b",
    }
    assert os.path.samefile(places / f"tcp:0.0.0.0:{one}", a)
    (b / "ctl").write_text("kill")
    assert [path.name for path in places.iterdir()] == [f"tcp:0.0.0.0:{one}"]
    with pytest.raises(OSError, match="not permitted"):
        places.rmdir()


def test_each_port_of_a_range_has_a_link(web: Callable[..., Path], tree: Path, free: Callable[[int], int]) -> None:
    first = free(300)
    wanted = [f"tcp:0.0.0.0:{port}" for port in range(first, first + 300)]
    a = web("a", f"{first}-{first + 299}:80-379")
    places = tree / "networks/ports"
    assert [path.name for path in places.iterdir()] == wanted
    assert {os.readlink(path) for path in places.iterdir()} == {"../../containers/a"}
    assert os.path.samefile(places / wanted[-1], a)
    for name in (f"{wanted[0]}-{first + 299}", f"tcp:0.0.0.0:{first + 300}", f"tcp:0.0.0.0:0{first}", "tcp:0.0.0.0:"):
        assert not os.path.lexists(places / name)
    with open(a / "ports", "a") as file:
        file.write(f"-{first}-{first + 299}:80-379\n")
    assert os.listdir(places) == []


def test_an_address_of_the_machine_s_is_the_only_one(
    web: Callable[..., Path], tree: Path, free: Callable[[], int]
) -> None:
    port = free()
    web("a", f"127.0.0.1:{port}:80")
    assert said("127.0.0.1", port) == "from a"
    assert said((tree / "networks/front/gateway").read_text().strip(), port) == "ECONNREFUSED"


def test_containers_reach_it_and_it_reaches_itself(
    web: Callable[..., Path], tree: Path, free: Callable[[], int]
) -> None:
    port = free()
    a, b = web("a", f"{port}:80"), web("b")
    gateway = (tree / "networks/front/gateway").read_text().strip()
    assert inside(b, f"sh -c 'echo | nc -w 60 {gateway} {port}'") == "from a\n"
    assert inside(a, f"sh -c 'echo | nc -w 60 {gateway} {port}'") == "from a\n"


def test_ports_come_and_go_while_it_runs_and_a_connection_stays(
    make: Make, network: str, free: Callable[[], int]
) -> None:
    one, two = free(), free()
    c = make("a", command="nc -ll -p 80 -e cat", network=network, ports=f"{one}:80\n")
    (c / "ctl").write_text("start")
    listens(c)
    with socket.create_connection(("127.0.0.1", one), timeout=60) as peer:
        peer.sendall(b"1")
        assert peer.recv(1) == b"1"
        with open(c / "ports", "a") as file:
            file.write(f"{two}:80\n")
        with socket.create_connection(("127.0.0.1", two), timeout=60) as other:
            other.sendall(b"2")
            assert other.recv(1) == b"2"
        with open(c / "ports", "a") as file:
            file.write(f"-{one}:80\n")
        assert said("127.0.0.1", one) == "ECONNREFUSED"
        peer.sendall(b"3")
        assert peer.recv(1) == b"3"
    assert (c / "ports.bound").read_text() == f"{two}:80/tcp\n"


def test_mtime_of_the_ports_is_when_they_changed_while_it_runs(
    web: Callable[..., Path], free: Callable[[], int]
) -> None:
    c = web("a", f"{free()}:80")
    before, address = (c / "ports.bound").stat().st_mtime_ns, (c / "address").stat().st_mtime_ns
    with open(c / "ports", "a") as file:
        file.write(f"{free()}:80\n")
    assert before < (c / "ports.bound").stat().st_mtime_ns
    assert address == (c / "address").stat().st_mtime_ns


def test_any_port_stays_the_one_that_was_got(web: Callable[..., Path], free: Callable[[], int]) -> None:
    port = free()
    c = web("a", "0:80", f"{port}:80")
    chosen = int((c / "ports.bound").read_text().splitlines()[0].partition(":")[0])
    assert chosen not in (0, port)
    assert said("127.0.0.1", chosen) == "from a"
    with open(c / "ports", "a") as file:
        file.write(f"-{port}:80\n")
    assert (c / "ports.bound").read_text() == f"{chosen}:80/tcp\n"
    assert (c / "ports").read_text() == "0:80\n"


def test_of_a_range_of_the_machine_s_the_first_free_one_leads_inside(
    web: Callable[..., Path], free: Callable[..., int]
) -> None:
    first = free(3)
    wanted = f"{first}-{first + 2}:80"
    a = web("a", wanted, f"{first}:80")
    b = web("b", wanted)
    assert [(c / "ports").read_text() for c in (a, b)] == [f"{wanted}\n{first}:80\n", f"{wanted}\n"]
    assert (a / "ports.bound").read_text() == f"{first + 1}:80/tcp\n{first}:80/tcp\n"
    assert (b / "ports.bound").read_text() == f"{first + 2}:80/tcp\n"
    assert [said("127.0.0.1", first + index) for index in range(3)] == ["from a", "from a", "from b"]
    with open(a / "ports", "a") as file:
        file.write(f"-{first}:80\n")
    assert (a / "ports.bound").read_text() == f"{first + 1}:80/tcp\n"


def test_a_port_that_somebody_has_is_eaddrinuse_and_says_who(
    web: Callable[..., Path], make: Make, network: str, errno_of: ErrnoOf, free: Callable[[], int]
) -> None:
    port = free()
    web("a", f"{port}:80")
    b = make("b", command="true", network=network, ports=f"{port}:80")
    assert errno_of(b / "ctl", "start") == errno.EADDRINUSE
    assert "taken by container a" in (b / "error").read_text()
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        (b / "ports").write_text(f"{listener.getsockname()[1]}:80")
        assert errno_of(b / "ctl", "start") == errno.EADDRINUSE
        assert f"(pid {os.getpid()})" in (b / "error").read_text()
        c = web("c")
        fd = os.open(c / "ports", os.O_WRONLY | os.O_APPEND)
        try:
            with pytest.raises(OSError, match="ddress already in use"):
                os.write(fd, f"{listener.getsockname()[1]}:80\n".encode())
        finally:
            os.close(fd)
    assert (c / "ports").read_text() == ""


def test_a_port_is_free_when_stop_returns(
    web: Callable[..., Path], make: Make, network: str, free: Callable[[], int]
) -> None:
    port = free()
    a = web("a", f"{port}:80")
    (a / "ctl").write_text("kill")
    assert (a / "ports.bound").read_text() == ""
    web("b", f"{port}:80")
    assert said("127.0.0.1", port) == "from b"


def test_who_listens_after_stop_has_returned_gets_what_comes(web: Callable[..., Path], free: Callable[[], int]) -> None:
    port = free()
    c = web("a", f"{port}:80")
    for _ in range(5):
        (c / "ctl").write_text("kill")
        with (
            socket.create_server(("127.0.0.1", port)) as server,
            socket.create_connection(("127.0.0.1", port), timeout=30) as peer,
        ):
            accepted, address = server.accept()
            accepted.close()
            assert address == peer.getsockname()
        (c / "ctl").write_text("start")
        listens(c)


def test_ports_without_a_network_are_refused_at_the_start(
    make: Make, errno_of: ErrnoOf, free: Callable[[], int]
) -> None:
    c = make(command="true", network="none", ports=f"{free()}:80")
    assert errno_of(c / "ctl", "start") == errno.EINVAL
    assert "network" in (c / "error").read_text()


@pytest.mark.parametrize("line", ["80", "80:80/icmp", "65536:1", "1-3:1-2", "x:80:80", "[::1:1:1"])
def test_a_bad_line_is_einval(make: Make, errno_of: ErrnoOf, line: str) -> None:
    c = make(ports="8080:80\n")
    assert errno_of(c / "ports", f"{line}\n") == errno.EINVAL
    assert (c / "ports").read_text() == "8080:80\n"


def test_the_document_has_them(make: Make, network: str) -> None:
    a, b = make("a", ports="8080:80\nauto\n", network=network), make("b")
    text = (a / "spec.toml").read_text()
    (b / "spec.toml").write_text(text)
    assert (b / "spec.toml").read_text() == text
    assert ((b / "ports").read_text(), (b / "network").read_text()) == ("8080:80\nauto\n", "front\n")


def test_what_the_image_exposes_is_published(engine: Engine, network: str, tmp_path: Path, make: Make) -> None:
    c = make("c", command="true")
    (c / "ctl").write_text("commit exposing:1 port=80 port=81/udp")
    try:
        d = make("d", command="nc -ll -p 80 -e echo from d", network=network, ports="auto")
        (d / "image").write_text("exposing:1")
        (d / "ctl").write_text("start")
        listens(d)
        tcp, udp = (d / "ports.bound").read_text().splitlines()
        assert tcp.endswith(":80/tcp")
        assert udp.endswith(":81/udp")
        assert said("127.0.0.1", int(tcp.partition(":")[0])) == "from d"
    finally:
        engine.clear()
        (engine.tree / "images/exposing:1").rmdir()


def test_datagrams_come_back_from_where_they_were_sent(make: Make, network: str, free: Callable[[], int]) -> None:
    port = free()
    c = make("a", command="socat UDP-LISTEN:80,fork EXEC:cat", network=network, ports=f"{port}:80/udp\n")
    (c / "image").write_text("host")
    (c / "ctl").write_text("start")
    listens(c, "udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(60)
        peer.sendto(b"hello", ("127.0.0.1", port))
        assert peer.recvfrom(100) == (b"hello", ("127.0.0.1", port))


def test_all_goes_on_when_pydockd_dies_and_the_table_is_right_again(
    own_engine: Engine, free: Callable[[], int]
) -> None:
    tree, port = own_engine.tree, free()
    (tree / "networks/front").mkdir()
    c = tree / "containers/c"
    c.mkdir()
    for name, value in (
        ("image", "busybox"),
        ("command", "nc -ll -p 80 -e cat"),
        ("network", "front"),
        ("ports", f"{port}:80\n0:80\n"),
    ):
        (c / name).write_text(value)
    (c / "ctl").write_text("start")
    listens(c)
    before, addresses = (c / "ports.bound").read_text(), (c / "address").read_text()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as peer:
        own_engine.kill()
        peer.sendall(b"1")
        assert peer.recv(1) == b"1"
        name = own_engine.table
        table = subprocess.run(["nft", "-s", "list", "table", "inet", name], capture_output=True, check=True).stdout
        subprocess.run(["nft", "delete", "table", "inet", name], check=True)
        own_engine.start()
        assert own_engine.table == name
        assert (
            subprocess.run(["nft", "-s", "list", "table", "inet", name], capture_output=True, check=True).stdout
            == table
        )
        peer.sendall(b"2")
        assert peer.recv(1) == b"2"
    assert ((c / "ports.bound").read_text(), (c / "address").read_text()) == (before, addresses)
    own_engine.clear()
    (tree / "networks/front").rmdir()


def test_one_that_ended_with_its_monitor_while_pydockd_was_away_has_none(
    own_engine: Engine, free: Callable[[], int]
) -> None:
    tree, port = own_engine.tree, free()
    own_engine.sh(
        f"""mkdir containers/a; cd containers/a; echo busybox > image; echo sleep 1000 > command; echo {port}:80 > ports
        echo start > ctl"""
    )
    pid, monitor = int(own_engine.sh("cat containers/a/pid")), syscalls.pidfd_open(own_engine.helper("monitor"))
    own_engine.kill()
    os.kill(pid, 9)
    assert select.select([monitor], [], [], 60)[0]  # it has neither children nor clients
    os.close(monitor)
    syscalls.umount2(str(tree), syscalls.MNT_DETACH)
    own_engine.start()
    assert own_engine.sh("cat containers/a/state containers/a/exit_code") == "exited\n137\n"
    assert own_engine.sh("ls networks/ports; cat networks/bridge/names") == ""
    own_engine.sh(
        f"""mkdir containers/b; cd containers/b; echo busybox > image; echo true > command; echo {port}:80 > ports
        echo start > ctl; cat wait"""
    )
    own_engine.clear()


def test_inspect_shows_them(web: Callable[..., Path], free: Callable[[], int]) -> None:
    port = free()
    c = web("a", f"{port}:80")
    shown = json.loads((c / "inspect.json").read_text())
    assert shown["settings"]["ports"] == [f"{port}:80"]
    assert shown["ports_bound"] == (c / "ports.bound").read_text().splitlines() != []
    assert [list(each) for each in shown["address"]] == [["network", "address", "mac"]] * len(shown["address"])
    assert [" ".join(each.values()) for each in shown["address"]] == (c / "address").read_text().splitlines() != []
    (c / "ctl").write_text("kill")
    shown = json.loads((c / "inspect.json").read_text())
    assert (shown["ports_bound"], shown["address"]) == ([], [])
