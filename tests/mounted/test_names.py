"""DNS of the networks, asked by real packets from inside containers; the machine's resolver is one of the tests' own."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls
from pydock.runtime.names import message

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]
PATIENCE = 110.0
A, PTR, TXT, AAAA = 1, 12, 16, 28
HEADER = struct.Struct("!6H")


def started(make: Make, name: str, *lines: str, **settings: str) -> Path:
    c = make(name, command="sleep 1000", network="".join(f"{line}\n" for line in lines), **settings)
    (c / "ctl").write_text("start")
    return c


def made(networks: Path, name: str, **settings: str) -> Path:
    path = networks / name
    path.mkdir()
    for key, value in settings.items():
        (path / key).write_text(value)
    return path


def addresses(c: Path, network: str) -> list[str]:
    """Its addresses in that network, IPv4 first."""
    lines = [line.split() for line in (c / "address").read_text().splitlines()]
    return [address.partition("/")[0] for name, address, _ in lines if name == network]


def short(c: Path) -> str:
    return (c / "id").read_text()[:12]


def socket_in(pid: str, server: str, kind: socket.SocketKind) -> socket.socket:
    """A socket in the network namespace of a process."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    found: list[socket.socket] = []

    def make() -> None:
        with open(f"/proc/{pid.strip()}/ns/net", "rb") as file:
            syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
        found.append(socket.socket(family, kind))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]


def question(name: str, kind: int, number: int = 77) -> bytes:
    found = message.name_of(name)
    assert found is not None
    return HEADER.pack(number, 0x100, 1, 0, 0, 0) + message.encode(found) + struct.pack("!HH", kind, 1)


def asked(c: Path, server: str, name: str, kind: int = A, *, tcp: bool = False) -> bytes:
    """The answer to a question that *c* asks, which it does as often as is needed; unless by TCP."""
    data = question(name, kind)
    with socket_in((c / "pid").read_text(), server, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE if tcp else 1)
        sock.connect((server, 53))
        if tcp:
            sock.sendall(len(data).to_bytes(2, "big") + data)
            with sock.makefile("rb") as file:
                return file.read(int.from_bytes(file.read(2), "big"))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                sock.send(data)
                return sock.recv(65535)
            except (TimeoutError, ConnectionRefusedError):
                continue
    raise AssertionError(f"{server} does not answer")


def parsed(data: bytes) -> tuple[int, set[str]]:
    """The code of an answer, and its addresses, names or texts."""
    number, flags, _, count, _, _ = HEADER.unpack_from(data)
    assert number == 77
    assert flags & 0x8000
    place = HEADER.size
    while data[place]:
        place += data[place] + 1
    place += 5
    found = set()
    for _ in range(count):
        kind, _, _, length = struct.unpack_from("!HHIH", data, place + 2)
        content = data[place + 12 : place + 12 + length]
        place += 12 + length
        if kind in (A, AAAA):
            found.add(socket.inet_ntop(socket.AF_INET if kind == A else socket.AF_INET6, content))
        else:
            found.add(content.strip(b"\0")[1:].decode())
    return flags & 0xF, found


def answers(c: Path, server: str, name: str, kind: int = A, *, tcp: bool = False) -> tuple[int, set[str]]:
    return parsed(asked(c, server, name, kind, tcp=tcp))


def gateways(network: Path) -> list[str]:
    return [(network / name).read_text().strip() for name in ("gateway", "gateway6")]


class Resolver(threading.Thread):
    """A resolver of the machine's, at 127.0.0.53: has 192.0.2.1 for every name but ``silent.…``, to which it says nothing, and
    ``large.…``, whose answer comes by TCP only."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.asked: list[str] = []
        self.packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.packets.bind(("127.0.0.53", 53))
        self.listener = socket.create_server(("127.0.0.53", 53))
        self.streams = threading.Thread(target=self.serve_streams, daemon=True)

    def run(self) -> None:
        self.streams.start()
        with contextlib.suppress(OSError):
            while True:
                data, source = self.packets.recvfrom(65535)
                if not data:  # the end
                    return
                query = message.parse(data)
                self.asked.append(b".".join(query.name).decode())
                if query.name[0] == b"large":
                    self.packets.sendto(message.truncated(query), source)
                elif query.name[0] != b"silent":
                    self.packets.sendto(message.answer(query, 0, [(A, bytes((192, 0, 2, 1)))], own=False), source)

    def serve_streams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                with sock, sock.makefile("rb") as file:
                    query = message.parse(file.read(int.from_bytes(file.read(2), "big")))
                    records = [(A, bytes((192, 0, 2, number))) for number in range(200)]
                    data = message.answer(query, 0, records, own=False)
                    sock.sendall(len(data).to_bytes(2, "big") + data)

    def close(self) -> None:
        for sock in (self.packets, self.listener):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in (self, self.streams):  # whose calls have the sockets until they return
            thread.join(PATIENCE)


@contextlib.contextmanager
def machine_asks(tmp_path: Path, text: str) -> Iterator[Path]:
    """The machine's resolv.conf says *text* within."""
    file = tmp_path / "resolv.conf"
    file.write_text(text)
    syscalls.mount(str(file), "/etc/resolv.conf", "", syscalls.MS_BIND, "")
    try:
        yield file
    finally:
        syscalls.umount2("/etc/resolv.conf", syscalls.MNT_DETACH)


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[Resolver]:
    with machine_asks(tmp_path, "nameserver 127.0.0.53\nsearch example.org\noptions ndots:2\n"):
        found = Resolver()
        found.start()
        yield found
        found.close()


@pytest.mark.parametrize("tcp", [False, True])
def test_members_have_names(networks: Path, make: Make, tcp: bool) -> None:
    front = made(networks, "front")
    a, b = started(make, "a", "front"), started(make, "b", "front alias=db alias=x.y")
    own = addresses(b, "front")
    for gateway in gateways(front):
        for name in ("b", "B", short(b), "db", "x.y"):
            assert answers(a, gateway, name, tcp=tcp) == (0, {own[0]})
            assert answers(a, gateway, name, AAAA, tcp=tcp) == (0, {own[1]})
        assert answers(a, gateway, "b", TXT, tcp=tcp) == (0, set())
        assert answers(a, gateway, ".".join(reversed(own[0].split("."))) + ".in-addr.arpa", PTR, tcp=tcp) == (0, {"b"})
    assert (front / "names").read_text().splitlines() == sorted(
        f"{name} {each}"
        for c, names in ((a, ("a", short(a))), (b, ("b", short(b), "db", "x.y")))
        for name in names
        for each in addresses(c, "front")
    )


def test_an_alias_of_two_has_the_addresses_of_both(networks: Path, make: Make) -> None:
    front = made(networks, "front")
    a, b = started(make, "a", "front alias=db"), started(make, "b", "front alias=db")
    both = {addresses(each, "front")[0] for each in (a, b)}
    assert answers(a, gateways(front)[0], "db") == (0, both)


def test_only_members_see_the_names_of_a_network(networks: Path, make: Make) -> None:
    front, back = made(networks, "front"), made(networks, "back")
    a, b = started(make, "a", "front"), started(make, "b", "back")
    assert answers(b, gateways(back)[0], "a")[1] == set()
    code, found = answers(b, gateways(front)[0], "a")
    assert (code, found) == (message.REFUSED, set())
    assert answers(a, gateways(front)[0], "a") == (0, {addresses(a, "front")[0]})


def test_names_follow_what_becomes_of_containers(
    engine: Engine, networks: Path, make: Make, resolver: Resolver
) -> None:
    front, back = made(networks, "front"), made(networks, "back")
    a, b = started(make, "a", "front"), started(make, "b", "front")
    gateway = gateways(front)[0]
    address = addresses(b, "front")[0]
    elsewhere = 0, {"192.0.2.1"}  # what the machine's resolver has for any name
    renamed = b.rename(b.with_name("c"))
    assert (answers(a, gateway, "b"), answers(a, gateway, "c")) == (elsewhere, (0, {address}))
    identity = (renamed / "id").read_text().strip()
    assert f"{address}\t{identity[:12]} c\n" in (engine.root / "containers" / identity / "hosts").read_text()
    (renamed / "network").write_text("front\nback\n")
    (a / "network").write_text("front\nback\n")
    assert answers(a, gateways(back)[0], "c") == (0, {addresses(renamed, "back")[0]})
    (front / "members/c").unlink()
    assert answers(a, gateway, "c") == (0, {addresses(renamed, "back")[0]})  # whom a knows from there
    (renamed / "ctl").write_text("stop 0")
    until(lambda: answers(a, gateways(back)[0], "c") == elsewhere)
    (renamed / "ctl").write_text("start")
    assert answers(a, gateways(back)[0], "c") == (0, {addresses(renamed, "back")[0]})


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again, as what ends is told behind the reply."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline


def test_names_go_on_without_pydockd_and_come_back_after_a_death(own_engine: Engine) -> None:
    front = made(own_engine.tree / "networks", "front")
    a = own_engine.tree / "containers/a"
    a.mkdir()
    for name, value in (("image", "busybox"), ("command", "sleep 1000"), ("network", "front"), ("ctl", "start")):
        (a / name).write_text(value)
    pid, gateway, own = (a / "pid").read_text(), gateways(front)[0], addresses(a, "front")[0]
    names = own_engine.helper("names")
    own_engine.kill()
    with socket_in(pid, gateway, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.sendto(question("a", A), (gateway, 53))
        assert parsed(sock.recv(65535)) == (0, {own})
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    assert answers(a, gateway, "a") == (0, {own})
    assert own_engine.helper("names") == names
    own_engine.kill_helper("names")
    assert answers(a, gateway, "a") == (0, {own})
    assert own_engine.helper("names") != names
    a.joinpath("ctl").write_text("kill")
    a.rmdir()
    front.rmdir()


def test_there_is_no_process_without_a_member(own_engine: Engine) -> None:
    assert not (own_engine.run / "names.sock").exists()


def test_names_without_pydockd_go_on_for_who_runs_and_no_longer(own_engine: Engine) -> None:
    a = own_engine.tree / "containers/a"
    a.mkdir()
    for name, value in (("image", "busybox"), ("command", "sleep 1000"), ("ctl", "start")):
        (a / name).write_text(value)
    pid = int((a / "pid").read_text())
    process = syscalls.pidfd_open(own_engine.helper("names"))
    own_engine.kill()
    assert not select.select([process], [], [], 5)[0]
    os.kill(pid, 9)
    assert select.select([process], [], [], PATIENCE)[0]
    os.close(process)


def test_who_ends_while_pydockd_is_away_has_no_name_after_it(own_engine: Engine) -> None:
    front = made(own_engine.tree / "networks", "front")
    for name in ("a", "b"):
        c = own_engine.tree / "containers" / name
        c.mkdir()
        for key, value in (("image", "busybox"), ("command", "sleep 1000"), ("network", "front"), ("ctl", "start")):
            (c / key).write_text(value)
    pid = int((own_engine.tree / "containers/b/pid").read_text())
    own_engine.kill()
    os.kill(pid, 9)
    syscalls.umount2(str(own_engine.tree), syscalls.MNT_DETACH)
    own_engine.start()
    until(lambda: not any(line.startswith("b ") for line in (front / "names").read_text().splitlines()))
    a = own_engine.tree / "containers/a"
    until(lambda: answers(a, gateways(front)[0], "b")[1] == set())
    assert answers(a, gateways(front)[0], "a")[1] == {addresses(a, "front")[0]}
    own_engine.clear()
    front.rmdir()


def test_other_questions_go_to_the_machine_s_resolvers(
    networks: Path, make: Make, resolver: Resolver, tmp_path: Path
) -> None:
    front = made(networks, "front")
    a = started(make, "a", "front")
    gateway = gateways(front)[0]
    assert answers(a, gateway, "example.com") == (0, {"192.0.2.1"})
    assert asked(a, gateway, "large.example.com")[2] & 2
    assert len(answers(a, gateway, "large.example.com", tcp=True)[1]) == 200
    file = tmp_path / "resolv.conf"
    file.write_text("")
    until(lambda: answers(a, gateway, "example.com") == (message.SERVFAIL, set()))
    assert answers(a, gateway, "nobody") == (message.NXDOMAIN, set())
    file.write_text("nameserver 127.0.0.52\nnameserver 127.0.0.53\n")
    until(lambda: answers(a, gateway, "example.com") == (0, {"192.0.2.1"}))
    assert answers(a, gateway, "silent.example.com") == (message.SERVFAIL, set())


def test_an_internal_network_passes_nothing_on(networks: Path, make: Make, resolver: Resolver) -> None:
    front = made(networks, "front", internal="1")
    a = started(make, "a", "front")
    assert answers(a, gateways(front)[0], "inner.example.com") == (message.NXDOMAIN, set())
    assert answers(a, gateways(front)[0], "a")[1] == {addresses(a, "front")[0]}
    assert not {"inner.example.com", "a"} & set(resolver.asked)  # what was asked before may be asked again


@pytest.mark.parametrize("name", ["a", "silent.example.com"])
def test_who_floods_does_not_keep_others_from_answers(
    networks: Path, make: Make, resolver: Resolver, name: str
) -> None:
    front = made(networks, "front")
    a, b = started(make, "a", "front"), started(make, "b", "front")
    gateway = gateways(front)[0]
    done = threading.Event()

    def flood() -> None:
        with socket_in((a / "pid").read_text(), gateway, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            data = question(name, A)
            while not done.is_set():
                with contextlib.suppress(OSError):
                    sock.sendto(data, (gateway, 53))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(20):
            assert answers(b, gateway, "b") == (0, {addresses(b, "front")[0]})
            assert answers(b, gateway, "example.com") == (0, {"192.0.2.1"})
    finally:
        done.set()
        thread.join()


def test_rubbish_does_no_harm(engine: Engine, networks: Path, make: Make) -> None:
    front = made(networks, "front")
    a = started(make, "a", "front")
    gateway = gateways(front)[0]
    names = engine.helper("names")
    good = question("a", A)
    rubbish = [good[:length] for length in range(len(good))]
    rubbish += [os.urandom(size) for size in range(0, 1400, 50)]
    rubbish += [HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1", good + b"\0" * 1400, good[:2] + b"\x80" + good[3:]]
    with socket_in((a / "pid").read_text(), gateway, socket.SOCK_DGRAM) as sock:
        for data in rubbish:
            sock.sendto(data, (gateway, 53))
    for data in (b"\0", b"\0\0" * 100, b"\xff\xff" + bytes(70000), good):
        with socket_in((a / "pid").read_text(), gateway, socket.SOCK_STREAM) as sock:
            sock.connect((gateway, 53))
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
    assert answers(a, gateway, "a") == (0, {addresses(a, "front")[0]})
    assert engine.helper("names") == names
    assert (engine.run / "names.err").read_text() == ""


def inside(c: Path, command: str) -> str:
    """The output of a command in a container."""
    x = c / "exec/x"
    x.mkdir()
    (x / "command").write_text(command)
    (x / "ctl").write_text("start")
    (x / "wait").read_text()
    said = (x / "log").read_text()
    x.rmdir()
    return said


def test_etc_follows_the_settings(networks: Path, make: Make, resolver: Resolver) -> None:
    front, inner = made(networks, "front"), made(networks, "inner", internal="1")
    a = started(make, "a", "inner", "front", dns="192.0.2.53\n", hosts="web 192.0.2.80\n")
    kept = "search example.org\noptions ndots:2\n"
    servers = f"nameserver {gateways(front)[0]}\n"
    assert inside(a, "cat /etc/resolv.conf") == f"{servers}{kept}nameserver 192.0.2.53\n"
    assert inside(a, "cat /etc/hosts").endswith("192.0.2.80\tweb\n")
    node = inside(a, "stat -c %i /etc/hosts /etc/resolv.conf")
    (a / "hosts").write_text("")
    (a / "dns").write_text("")
    assert inside(a, "cat /etc/resolv.conf") == servers + kept
    assert "web" not in inside(a, "cat /etc/hosts")
    with open(a / "hosts", "a") as file:
        file.write("10.0.0.9 other\n")
    assert (a / "hosts").read_text() == "other 10.0.0.9\n"
    assert inside(a, "cat /etc/hosts").endswith("10.0.0.9\tother\n")
    (front / "members/a").unlink()
    servers = f"nameserver {gateways(inner)[0]}\n"
    assert inside(a, "cat /etc/resolv.conf") == servers + kept
    assert inside(a, "stat -c %i /etc/hosts /etc/resolv.conf") == node
    b, c = started(make, "b", "container:a"), started(make, "c", "container:b")
    assert inside(b, "cat /etc/resolv.conf") == servers + kept
    os.symlink("a", front / "members/a")
    servers = f"nameserver {gateways(front)[0]}\n"
    for each in (a, b, c):
        assert inside(each, "cat /etc/resolv.conf") == servers + kept


def test_the_servers_that_were_set_are_among_the_three_that_are_asked(
    networks: Path, make: Make, resolver: Resolver
) -> None:
    one, _ = made(networks, "one"), made(networks, "two")
    a = started(make, "a", "one", "two", dns="192.0.2.53\n2001:db8::53\n")
    lines = [line.split() for line in inside(a, "cat /etc/resolv.conf").splitlines()]
    servers = [line[1] for line in lines if line[0] == "nameserver"]
    assert servers == [gateways(one)[0], "192.0.2.53", "2001:db8::53"]


def test_dns_and_hosts_are_validated_and_in_the_document(make: Make, errno_of: ErrnoOf) -> None:
    a, b = make("a"), make("b")
    for name, text in (("dns", "x"), ("dns", "1.2.3"), ("hosts", "web"), ("hosts", "w!b 1.2.3.4")):
        assert errno_of(a / name, text) == errno.EINVAL
    (a / "dns").write_text("192.0.2.53\nfd00::53\n")
    (a / "hosts").write_text("web 192.0.2.80\n")
    (b / "spec.toml").write_text((a / "spec.toml").read_text())
    assert (b / "dns").read_text() == "192.0.2.53\nfd00::53\n"
    assert (b / "hosts").read_text() == "web 192.0.2.80\n"
