"""DNS of the networks under harder questions, by dig(1) and by hand: what resolvers do, what clients do, and how much of it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls
from pydock.runtime.names import message

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
Behaviour = Callable[[message.Query], Iterable[bytes]]
PATIENCE = 60.0
A, CNAME, TXT = 1, 5, 16


def started(make: Make, name: str, network: str) -> Path:
    c = make(name, command="sleep 1000", network=network)
    (c / "ctl").write_text("start")
    return c


def made(networks: Path, name: str) -> str:
    """The gateway of a new network."""
    (networks / name).mkdir()
    return (networks / name / "gateway").read_text().strip()


def dig(c: Path, *words: str) -> str:
    """What dig says in the container's network."""
    namespace = f"--net=/proc/{(c / 'pid').read_text().strip()}/ns/net"
    done = subprocess.run(
        ["nsenter", namespace, "dig", "+time=30", "+tries=1", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout


def status(said: str) -> str:
    """The answer's code, flags, and how many records it has."""
    code = said.partition("status: ")[2].partition(",")[0]
    return f"{code} {said.partition('flags: ')[2].partition(';')[0]} {said.partition('ANSWER: ')[2].partition(',')[0]}"


def socket_in(c: Path, kind: socket.SocketKind, family: int = socket.AF_INET) -> socket.socket:
    """A socket in the container's network."""
    found: list[socket.socket] = []

    def make() -> None:
        with open(f"/proc/{(c / 'pid').read_text().strip()}/ns/net", "rb") as file:
            syscalls.setns(file.fileno(), syscalls.CLONE_NEWNET)
        found.append(socket.socket(family, kind))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    found[0].settimeout(PATIENCE)
    return found[0]


def question(name: str, number: int = 77, kind: int = A) -> bytes:
    found = message.name_of(name)
    assert found is not None
    return struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + message.encode(found) + struct.pack("!HH", kind, 1)


def framed(*messages: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in messages)


def answer(query: message.Query, *records: tuple[int, bytes], room: int = message.LONGEST) -> bytes:
    return message.answer(query, 0, records or [(A, bytes((192, 0, 2, 1)))], own=False, room=room)


class Upstream(threading.Thread):
    """A resolver at *address*, which says what *behaviour* makes of each question; by TCP as well."""

    def __init__(self, address: str, behaviour: Behaviour) -> None:
        super().__init__(daemon=True)
        self.behaviour = behaviour
        self.asked: list[bytes] = []
        self.packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.packets.bind((address, 53))
        self.listener = socket.create_server((address, 53))
        self.streams = threading.Thread(target=self.serve_streams, daemon=True)

    def run(self) -> None:
        self.streams.start()
        with contextlib.suppress(OSError):
            while True:
                data, source = self.packets.recvfrom(65535)
                if not data:
                    return
                for said in self.said(data):
                    self.packets.sendto(said[:65000], source)

    def said(self, data: bytes) -> Iterable[bytes]:
        query = message.parse(data)
        self.asked.append(b".".join(query.name))
        return self.behaviour(query)

    def serve_streams(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                with sock, sock.makefile("rb") as file, contextlib.suppress(OSError):
                    for said in self.said(file.read(int.from_bytes(file.read(2), "big"))):
                        sock.sendall(framed(said))

    def close(self) -> None:
        for sock in (self.packets, self.listener):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in (self, self.streams):  # whose calls have the sockets until they return
            thread.join(PATIENCE)


@pytest.fixture
def upstream() -> Iterator[Callable[[str, Behaviour], Upstream]]:
    found: list[Upstream] = []

    def begin(address: str, behaviour: Behaviour) -> Upstream:
        found.append(Upstream(address, behaviour))
        found[-1].start()
        return found[-1]

    yield begin
    for each in found:
        each.close()


@pytest.fixture
def one(etc: Path) -> None:
    """The machine asks 127.0.0.53 alone."""
    (etc / "resolv.conf").unlink()
    (etc / "resolv.conf").write_text("nameserver 127.0.0.53\n")


def test_names_are_answered_as_the_standards_want(networks: Path, make: Make) -> None:
    gateway, back = made(networks, "front"), made(networks, "back")
    (networks / "front/subnet6").write_text("")
    a = make("a", command="sleep 1000", network="front\nback\n")
    (a / "ctl").write_text("start")
    b, c = started(make, "b", "front alias=db"), started(make, "c", "back")
    mine = (b / "address").read_text().split()[1].partition("/")[0]
    for words, wanted in (
        (("b",), "NOERROR qr aa rd ra 1"),
        (("dB",), "NOERROR qr aa rd ra 1"),
        (("b", "AAAA"), "NOERROR qr aa rd ra 0"),  # no such address, and yet the name is there
        (("b", "MX"), "NOERROR qr aa rd ra 0"),
        (("b", "TYPE65"), "NOERROR qr aa rd ra 0"),
        (("b", "ANY"), "NOERROR qr aa rd ra 1"),
        (("b", "+tcp"), "NOERROR qr aa rd ra 1"),
        (("b", "+norecurse"), "NOERROR qr aa ra 1"),
        (("b", "+edns=1", "+noednsneg"), "BADVERS qr rd ra 0"),
        (("-x", mine), "NOERROR qr aa rd ra 1"),
        (("-x", gateway), "NXDOMAIN qr aa rd ra 0"),
        (("b", "-c", "CH"), "NOTIMP qr rd ra 0"),
        (("b", "+opcode=NOTIFY"), "NOTIMP qr rd ra 0"),
        (("+header-only",), "FORMERR qr rd ra 0"),
    ):
        assert status(dig(a, f"@{gateway}", *words)) == wanted, words
    assert "\nDb." in dig(a, f"@{gateway}", "Db")  # as it was written
    assert dig(a, f"@{gateway}", "c", "+short").strip() in (c / "address").read_text()  # of its other network
    assert "AAAA" in dig(a, f"@{gateway}", "c", "AAAA")
    assert dig(a, f"@{back}", "db", "+short").strip() == mine
    assert dig(c, f"@{back}", "b", "+short") == ""  # which c is none of
    assert status(dig(c, f"@{gateway}", "b")).startswith("REFUSED")


@pytest.mark.usefixtures("one")
def test_whatever_a_resolver_answers_is_passed_on(
    networks: Path, make: Make, upstream: Callable[..., Upstream]
) -> None:
    alias = message.encode((b"real", b"example", b"com"))

    def behaviour(query: message.Query) -> Iterable[bytes]:
        match query.name[0]:
            case b"alias":
                yield answer(query, (CNAME, alias), (A, bytes((192, 0, 2, 9))))
            case b"none":
                yield message.answer(query, message.NXDOMAIN, own=False)
            case b"refused":
                yield message.answer(query, message.REFUSED, own=False)
            case b"text":
                yield answer(query, (TXT, b"\x05hello"))

    upstream("127.0.0.53", behaviour)
    gateway = made(networks, "front")
    a = started(make, "a", "front")
    assert dig(a, f"@{gateway}", "alias.example.com", "+short") == "real.example.com.\n192.0.2.9\n"
    assert dig(a, f"@{gateway}", "text.example.com", "TXT", "+short", "+tcp") == '"hello"\n'
    assert status(dig(a, f"@{gateway}", "none.example.com")) == "NXDOMAIN qr rd ra 0"
    assert status(dig(a, f"@{gateway}", "refused.example.com")) == "REFUSED qr rd ra 0"


@pytest.mark.usefixtures("one")
def test_large_answers_come_by_tcp(networks: Path, make: Make, upstream: Callable[..., Upstream]) -> None:
    def behaviour(query: message.Query) -> Iterable[bytes]:
        size = int(query.name[0]) if query.name[0].isdigit() else 0  # what was asked before may be asked again
        yield answer(query, *[(TXT, b"\xff" + bytes(255)) for _ in range(size // 268)])

    upstream("127.0.0.53", behaviour)
    gateway = made(networks, "front")
    a = started(make, "a", "front")
    for words, size, cut in (
        (("+noedns",), 500, False),
        (("+noedns",), 1000, True),
        (("+bufsize=4096",), 1200, False),
        (("+bufsize=4096",), 3000, True),
        (("+bufsize=65535",), 60000, True),
    ):
        said = dig(a, f"@{gateway}", f"{size}.example.com", "TXT", "+ignore", *words)
        assert ("tc" in status(said).split()) is cut, said
        said = dig(a, f"@{gateway}", f"{size}.example.com", "TXT", *words)
        assert status(said) == f"NOERROR qr rd ra {size // 268}"


@pytest.mark.usefixtures("one")
def test_a_lie_is_no_answer(networks: Path, make: Make, upstream: Callable[..., Upstream]) -> None:
    """Of another number, about another name or kind, a question, rubbish: the right one behind is taken."""

    def behaviour(query: message.Query) -> Iterable[bytes]:
        lie = answer(query, (A, bytes((6, 6, 6, 6))))
        other = message.parse(question("bank.example.com", query.number))
        yield message.with_number(lie, query.number ^ 1)
        yield answer(other, (A, bytes((6, 6, 6, 6))))
        yield answer(message.parse(question("example.com", query.number, TXT)), (A, bytes((6, 6, 6, 6))))
        yield lie[:2] + bytes((lie[2] & 0x7F,)) + lie[3:]
        yield from (b"", b"\0", lie[:11], lie[:12], os.urandom(500))
        yield struct.pack("!6H", query.number, 0x8180, 0, 1, 0, 0) + lie[12:]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
            elsewhere.bind(("127.0.0.99", 53))
            for port in range(32768, 61000, 97):
                elsewhere.sendto(lie, ("127.0.0.1", port))
        yield answer(query)

    upstream("127.0.0.53", behaviour)
    gateway = made(networks, "front")
    a = started(make, "a", "front")
    for _ in range(5):
        assert dig(a, f"@{gateway}", "example.com", "+short") == "192.0.2.1\n"


def test_the_next_resolver_is_asked_and_there_is_an_end(
    etc: Path, networks: Path, make: Make, upstream: Callable[..., Upstream]
) -> None:
    def silent(query: message.Query) -> Iterable[bytes]:
        return ()

    def failing(query: message.Query) -> Iterable[bytes]:
        return (message.answer(query, message.SERVFAIL, own=False),)

    upstream("127.0.0.52", silent)
    upstream("127.0.0.53", failing)
    good = upstream("127.0.0.54", lambda query: [answer(query)])
    gateway = made(networks, "front")
    a = started(make, "a", "front")

    def is_answered(words: tuple[str, ...], wanted: str, longest: float) -> bool:
        """So, and in so many seconds: the machine may be busy, but not for ever."""
        begin = time.monotonic()
        return status(dig(a, f"@{gateway}", "example.com", *words)) == wanted and time.monotonic() - begin < longest

    for servers, wanted, longest in (
        ("127.0.0.51 127.0.0.54", "NOERROR qr rd ra 1", 1.2),  # nobody is there
        ("127.0.0.53 127.0.0.54", "NOERROR qr rd ra 1", 1.2),
        ("127.0.0.52 127.0.0.54", "NOERROR qr rd ra 1", 3.0),
        ("127.0.0.52 127.0.0.51 127.0.0.53 127.0.0.54", "NOERROR qr rd ra 1", 3.0),
        ("127.0.0.53", "SERVFAIL qr rd ra 0", 1.2),
        ("127.0.0.51", "SERVFAIL qr rd ra 0", 1.2),
        ("127.0.0.52", "SERVFAIL qr rd ra 0", 6.0),
        ("127.0.0.52 127.0.0.55", "SERVFAIL qr rd ra 0", 6.0),
        (f"{gateway} 127.0.0.51", "SERVFAIL qr rd ra 0", 1.2),  # ourselves: no loop
    ):
        (etc / "new").write_text("".join(f"nameserver {each}\n" for each in servers.split()))
        os.rename(etc / "new", etc / "resolv.conf")
        for words in ((), ("+tcp",)):
            assert any(is_answered(words, wanted, longest + 2) for _ in range(5)), (servers, words)
    assert good.asked


def test_the_machine_s_resolv_conf_is_followed_however_it_changes(
    etc: Path, networks: Path, make: Make, upstream: Callable[..., Upstream], tmp_path: Path
) -> None:
    for last in (51, 52, 53):
        upstream(f"127.0.0.{last}", lambda query, last=last: [answer(query, (A, bytes((192, 0, 2, last))))])
    gateway = made(networks, "front")
    a = started(make, "a", "front")

    def asked() -> str:
        with socket_in(a, socket.SOCK_DGRAM) as sock:  # dig reads that file, too, and takes no rubbish
            sock.sendto(question("example.com"), (gateway, 53))
            return socket.inet_ntoa(sock.recv(512)[-4:])

    file, run = etc / "resolv.conf", tmp_path / "systemd"
    run.mkdir()
    (run / "stub").write_text("# managed\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n")
    (run / "real").write_text("; by DHCP\nnameserver\t127.0.0.51 # the first\nnameserver 127.0.0.52\n")
    file.unlink()
    file.symlink_to(run / "stub")
    assert asked() == "192.0.2.53"
    file.unlink()
    file.symlink_to(run / "real")
    assert asked() == "192.0.2.51"
    os.rename(run / "stub", run / "real")
    assert asked() == "192.0.2.53"
    (run / "real").write_text("nameserver 127.0.0.52\n")
    assert asked() == "192.0.2.52"
    (run / "real").write_bytes(b"\xff\xfe\nnameserver nobody\nnameserver\nnameserver 1.2.3\nnameserver 127.0.0.51")
    assert asked() == "192.0.2.51"
    file.unlink()
    assert status(dig(a, f"@{gateway}", "example.com")) == "SERVFAIL qr rd ra 0"
    assert dig(a, f"@{gateway}", "-q", "a", "+short").strip() in (a / "address").read_text()


def test_dns_of_the_options_is_asked_instead(etc: Path, own_engine: Engine, upstream: Callable[..., Upstream]) -> None:
    for last in (51, 53):
        upstream(f"127.0.0.{last}", lambda query, last=last: [answer(query, (A, bytes((192, 0, 2, last))))])
    (etc / "new").write_text("nameserver 127.0.0.53\n")
    os.rename(etc / "new", etc / "resolv.conf")
    gateway = made(own_engine.tree / "networks", "front")
    a = own_engine.tree / "containers/a"
    a.mkdir()
    for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "front"), ("ctl", "start")):
        (a / key).write_text(text)
    assert dig(a, f"@{gateway}", "example.com", "+short") == "192.0.2.53\n"
    kept = own_engine.root / "containers" / (a / "id").read_text().strip() / "resolv.conf"
    assert kept.read_text().endswith("\noptions ndots:0\n")  # db is asked for before db.example.org
    (etc / "pydock.toml").write_text('dns = ["127.0.0.51"]\n')
    (own_engine.tree / "ctl").write_text("reload")
    assert dig(a, f"@{gateway}", "example.com", "+short") == "192.0.2.51\n"
    own_engine.kill_helper("names")
    assert dig(a, f"@{gateway}", "example.com", "+short", "+tries=20", "+time=2").splitlines()[-1] == "192.0.2.51"
    own_engine.umount()
    own_engine.options += ",dns=127.0.0.53"
    own_engine.start()
    assert dig(a, f"@{gateway}", "example.com", "+short") == "192.0.2.53\n"
    own_engine.clear()
    (own_engine.tree / "networks/front").rmdir()


def test_many_questions_of_one_connection_are_answered(networks: Path, make: Make) -> None:
    gateway = made(networks, "front")
    a = started(make, "a", "front")
    with socket_in(a, socket.SOCK_STREAM) as sock:
        sock.connect((gateway, 53))
        sock.sendall(framed(*(question("a", number) for number in range(300))))
        with sock.makefile("rb") as file:
            found = [file.read(int.from_bytes(file.read(2), "big")) for _ in range(300)]
    assert [int.from_bytes(each[:2], "big") for each in found] == list(range(300))
    assert all(message.code_of(each) == 0 for each in found)


def test_slow_connections_are_bounded_and_ended(networks: Path, make: Make) -> None:
    gateway = made(networks, "front")
    a, b = started(make, "a", "front"), started(make, "b", "front")
    with contextlib.ExitStack() as stack:
        socks = []
        for _ in range(40):
            sock = stack.enter_context(socket_in(a, socket.SOCK_STREAM))
            sock.connect((gateway, 53))
            with contextlib.suppress(OSError):
                sock.send(b"\0")  # and no more
            socks.append(sock)
        assert status(dig(b, f"@{gateway}", "b", "+tcp")) == "NOERROR qr aa rd ra 1"
        begin = time.monotonic()
        for sock in socks:
            with contextlib.suppress(ConnectionError):
                assert sock.recv(1) == b""
        assert time.monotonic() - begin < 30
    assert status(dig(a, f"@{gateway}", "-q", "a", "+tcp")) == "NOERROR qr aa rd ra 1"


def send_forever(sock: socket.socket, data: bytes) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        sock.sendall(data)


def test_who_takes_no_answers_is_hung_up(networks: Path, make: Make) -> None:
    gateway = made(networks, "front")
    a, b = started(make, "a", "front"), started(make, "b", "front")
    with socket_in(a, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((gateway, 53))
        questions = framed(*[question("a")] * 10_000)
        with pytest.raises(OSError, match="reset|Broken"):
            send_forever(sock, questions)
        assert status(dig(b, f"@{gateway}", "b", "+tcp")) == "NOERROR qr aa rd ra 1"


def test_a_server_that_has_all_addresses_of_the_machine_shares_packets(own_engine: Engine) -> None:
    """As dnsmasq has. Connections can be had when it has gone."""
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(["ss", "-Hlntu", "sport = :53"], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline  # names of networks that have just gone
    with contextlib.ExitStack() as stack:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = stack.enter_context(socket.socket(socket.AF_INET, kind))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("0.0.0.0", 53))
            if kind == socket.SOCK_STREAM:
                sock.listen()
        gateway = made(own_engine.tree / "networks", "front")
        a = own_engine.tree / "containers/web"
        a.mkdir()
        for key, text in (("image", "busybox"), ("command", "sleep 1000"), ("network", "front"), ("ctl", "start")):
            (a / key).write_text(text)
        assert dig(a, f"@{gateway}", "web", "+short").strip() in (a / "address").read_text()
        assert (
            f"{gateway} TCP port 53: Address already in use" in (own_engine.tree / "networks/front/error").read_text()
        )
    deadline = time.monotonic() + PATIENCE
    while status(dig(a, f"@{gateway}", "web", "+tcp")) != "NOERROR qr aa rd ra 1":
        assert time.monotonic() < deadline
    (a / "ctl").write_text("restart 0")
    assert (own_engine.tree / "networks/front/error").read_text() == ""
    own_engine.clear()
    (own_engine.tree / "networks/front").rmdir()
