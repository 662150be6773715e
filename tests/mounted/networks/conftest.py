"""Topologies for tests of networks: the *machine* is the namespace that the tests run in, and before it is a host *outside*."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime import syscalls
from pydock.runtime.network import links

if TYPE_CHECKING:
    from conftest import Engine

#: Says ``NAME PEER PORT`` to who connects or sends a datagram, at each of its ports, and then what it is told.
SERVER = """
import selectors, socket, struct, sys
found = selectors.DefaultSelector()
def said(peer, port):
    return f"{sys.argv[1]} {peer[0].removeprefix('::ffff:')} {port}\\n".encode()
for port in map(int, sys.argv[2:]):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for family, address in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
            try:
                one = socket.socket(family, kind)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind((address, port))
            except OSError:
                continue  # no IPv6 here, or both are done by the first
            if kind == socket.SOCK_STREAM:
                one.listen(100)
            found.register(one, selectors.EVENT_READ, port)
            break
print("ready", flush=True)
while True:
    for key, _ in found.select():
        one, port = key.fileobj, key.data
        try:
            if port is None:
                data = one.recv(4096)
                one.sendall(data)
                if not data:
                    found.unregister(one)
                    one.close()
            elif one.type == socket.SOCK_STREAM:
                peer, address = one.accept()
                # a reset at its end: one that waits for an answer would keep the namespace for minutes when its links go before
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.sendall(said(address, port))
                found.register(peer, selectors.EVENT_READ, None)
            else:
                _, address = one.recvfrom(4096)
                one.sendto(said(address, port), address)
        except OSError:
            if port is None:
                found.unregister(one)
                one.close()
"""


class Host:
    """A machine as far as its network goes. *namespace* is -1 for the one that the tests run in."""

    def __init__(self, namespace: int = -1) -> None:
        self.namespace = namespace

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes within are its own."""
        if self.namespace < 0:
            yield
            return
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(self.namespace, syscalls.CLONE_NEWNET)
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNET)
            os.close(own)

    def run(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """What a command says there, errors too."""
        enter = [] if self.namespace < 0 else ["nsenter", f"--net=/proc/self/fd/{self.namespace}"]
        done = subprocess.run(
            [*enter, *command],
            pass_fds=[] if self.namespace < 0 else [self.namespace],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout
        return done.stdout

    def connected(self, address: str, port: int, *, wait: float = 60) -> socket.socket:
        """A connection from there."""
        with self.inside():
            return socket.create_connection((address, port), timeout=wait)

    def datagrams(self, address: str, port: int, *, wait: float = 60) -> socket.socket:
        """A socket for datagrams from there to that place."""
        with self.inside():
            found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            found.settimeout(wait)
            found.connect((address, port))
            return found

    @contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """It says ``outside`` to who connects, within."""
        with self.inside():
            listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

        def answer() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"outside\n")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

    def asks(self, address: str, port: int, protocol: str = "tcp", *, wait: float = 60) -> str:
        """What is said there, ``NAME PEER PORT``; the error's name when nothing is."""
        try:
            if protocol == "tcp":
                with self.connected(address, port, wait=wait) as peer:
                    return peer.makefile().readline().strip()
            with self.datagrams(address, port, wait=min(wait, 1)) as peer:
                return heard(peer, wait)
        except OSError as error:
            return type(error).__name__


def heard(peer: socket.socket, wait: float) -> str:
    """What comes back for a datagram, which is sent again and again: the kernel refuses no more than a few in a second."""
    deadline = time.monotonic() + wait
    while True:
        peer.send(b"?")
        try:
            return peer.recv(4096).decode().strip()
        except TimeoutError:
            if time.monotonic() > deadline:
                raise


@pytest.fixture
def machine() -> Host:
    """Where the engine is."""
    return Host()


@pytest.fixture
def outside(machine: Host) -> Iterator[Host]:
    """A host at a link of the machine's, which is 192.0.2.1 and .10, 2001:db8::1 and ::10 there; it is 192.0.2.2 and 2001:db8::2."""
    host = Host(links.new_namespace())
    ipv6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").read_text() == "0\n"
    place = f"/proc/self/fd/{host.namespace}"
    with machine.inside():
        subprocess.run(
            ["ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", place],
            pass_fds=[host.namespace],
            check=True,
        )
    for where, link, addresses in (
        (machine, "up0", ("192.0.2.1/24", "192.0.2.10/24", "2001:db8::1/64", "2001:db8::10/64")),
        (host, "eth0", ("192.0.2.2/24", "2001:db8::2/64")),
    ):
        where.run("ip", "link", "set", link, "up")
        for address in addresses if ipv6 else [each for each in addresses if ":" not in each]:
            where.run("ip", "address", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
    yield host
    machine.run("ip", "link", "del", "up0")
    os.close(host.namespace)


@pytest.fixture
def front(engine: Engine) -> Iterator[Path]:
    """A network."""
    path = engine.tree / "networks/front"
    path.mkdir()
    yield path
    engine.clear()
    path.rmdir()
    deadline = time.monotonic() + 60  # its names leave port 53 behind the end of the last member
    while subprocess.run(["ss", "-Hlntu", "sport = :53"], capture_output=True, check=True).stdout:
        assert time.monotonic() < deadline


@pytest.fixture
def serving_in() -> Callable[..., Path]:
    """``serving_in(TREE, NAME, *PORTS, inner=(80,), …)``: a container that says ``NAME PEER PORT`` at its ports, over TCP and UDP."""

    def start(tree: Path, name: str, *ports: str, inner: tuple[int, ...] = (80,), **settings: str) -> Path:
        c = tree / "containers" / name
        c.mkdir()
        given = {
            "image": "host",
            "command": json.dumps(["python3", "-c", SERVER, name, *map(str, inner)]),
            "network": "front",
            "ports": "".join(f"{item}\n" for item in ports),
        }
        for setting, value in (given | settings).items():
            (c / setting).write_text(value)
        (c / "ctl").write_text("start")
        deadline = time.monotonic() + 60
        while "ready" not in (said := (c / "log").read_text()):
            assert "Error" not in said, said
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return c

    return start


@pytest.fixture
def serving(engine: Engine, front: Path, serving_in: Callable[..., Path]) -> Callable[..., Path]:
    """``serving(NAME, *PORTS, …)``: one in the shared engine's tree, and in the network ``front`` unless told otherwise."""
    return partial(serving_in, engine.tree)


@pytest.fixture
def inside() -> Iterator[Callable[[Path], Host]]:
    """``inside(CONTAINER)``: the host that a container is, as long as it runs."""
    with ExitStack() as stack:

        def enter(c: Path) -> Host:
            pid = (c / "pid").read_text().strip()
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, namespace)
            return Host(namespace)

        yield enter


@pytest.fixture(scope="session")
def servers(bookworm: Callable[[str], str]) -> str:
    """A Debian that has nginx and redis, docker, firewalld and ufw: 530 MB."""
    return bookworm("servers")


@pytest.fixture
def setting() -> Iterator[Callable[[str, str], None]]:
    """Writes settings of the kernel's, which are as before after the test: ``setting("net/ipv4/ip_forward", "1")``."""
    before: dict[Path, str] = {}

    def write(name: str, value: str) -> None:
        path = Path("/proc/sys") / name
        before.setdefault(path, path.read_text())
        path.write_text(value)

    yield write
    for path, value in before.items():
        path.write_text(value)


def counters(text: str) -> list[int]:
    """The packets that rules have counted."""
    return [int(found) for found in re.findall(r"counter packets (\d+)", text)]


class Tenant:
    """Another program on the machine that has rules of its own in its packet filter, with a user land of its own to run in."""

    def __init__(self, root: str, *overlaid: str) -> None:
        """In *root*, ``/`` for the machine's, where the directories *overlaid* are its own to write to."""
        self.root = root
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._say(
            "set -e; mount -t tmpfs tmpfs /mnt; mkdir /mnt/root",
            f"mount --rbind {root} /mnt/root; mount -t proc proc /mnt/root/proc; mount -t sysfs sysfs /mnt/root/sys",
            "mount --rbind /sys/fs/cgroup /mnt/root/sys/fs/cgroup; mount --rbind /dev /mnt/root/dev",
            "mount -t tmpfs tmpfs /mnt/root/run; mkdir -p /mnt/root/run/lock /mnt/root/run/dbus",
            *(
                f"mkdir -p /mnt/{n}/up /mnt/{n}/work; "
                f"mount -t overlay o -o lowerdir=/mnt/root{path},upperdir=/mnt/{n}/up,workdir=/mnt/{n}/work /mnt/root{path}"
                for n, path in enumerate(overlaid)
            ),
            "set +e; echo ready",
        )
        self.await_line("ready")
        self.pid = int(children.read_text())

    def _say(self, *lines: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n".join(lines) + "\n")
        self._process.stdin.flush()

    def await_line(self, text: str) -> None:
        """Return when something has said it."""
        assert self._process.stdout is not None
        said = ""
        for line in self._process.stdout:
            said += line
            if text in line:
                return
        raise AssertionError(said)

    def start(self, command: str) -> None:
        """Run it in the background."""
        self._say(f"chroot /mnt/root {command} < /dev/null &")

    def run(self, command: str) -> str:
        """What it says; it has to succeed."""
        enter = ("nsenter", "--target", str(self.pid), "--mount", "--pid", "chroot", "/mnt/root", "sh", "-c", command)
        done = subprocess.run(
            enter, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def end(self) -> None:
        """End all that runs in it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def tenant(machine: Host) -> Iterator[Callable[..., Tenant]]:
    """``tenant(ROOT, *OVERLAID)``; after the test the packet filter has pydock's tables alone."""
    with ExitStack() as stack:

        def move_in(root: str = "/", *overlaid: str) -> Tenant:
            found = Tenant(root, *overlaid)
            stack.callback(found.end)
            return found

        yield move_in
    for line in machine.run("nft", "list", "tables").splitlines():
        if not line.startswith("table inet pydock"):
            machine.run("nft", *line.replace("table", "delete table", 1).split())
    machine.run("ip", "link", "del", "docker0", check=False)


@pytest.fixture
def mortal(own_engine: Engine) -> Iterator[Engine]:
    """An engine of the test's own, which may be killed, with the network ``front``."""
    (own_engine.tree / "networks/front").mkdir()
    yield own_engine
    own_engine.clear()
    (own_engine.tree / "networks/front").rmdir()
