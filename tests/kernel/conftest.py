"""What tests of the small processes share: a run directory, a root file system of busybox, a plain client. And a store of images."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pydock.overlay.store import Store
from pydock.overlay.trees import remove_tree
from pydock.runtime import syscalls, wire
from pydock.runtime.monitor.launch import Launch, to_json
from pydock.runtime.serving import listen
from pydock.runtime.wire import Message

APPLETS = ("sh", "cat", "echo", "true", "false", "sleep", "ls", "id", "stat", "readlink", "hostname", "touch", "mkdir")
MORE_APPLETS = ("grep", "cut", "kill", "env", "pwd", "ulimit", "test", "mount", "ifconfig", "seq", "head", "wc", "dd")


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, answer: Message) -> None:
        super().__init__(answer["words"])
        self.errno = answer["error"]
        self.words = str(answer["words"])
        self.step = str(answer["step"])


class Small:
    """A small process and a connection to it."""

    def __init__(self, name: str, run: Path) -> None:
        self.name = name
        self.run = run
        self.events: list[Message] = []
        self.sock: socket.socket | None = None
        self.pidfd = -1
        self.start()

    def start(self) -> None:
        """Starts it and connects; also again after ``kill``."""
        with listen(str(self.run), self.name) as listener:
            number = listener.fileno()
            arguments = [
                sys.executable,
                "-I",
                "-m",
                f"pydock.runtime.{self.name}",
                str(self.run),
                "--listen",
                str(number),
            ]
            subprocess.run(arguments, check=True, pass_fds=[number], stdin=subprocess.DEVNULL)
        self.connect()
        self.pid = wire.number(self.ask("who")[0], "pid")
        self.pidfd = syscalls.pidfd_open(self.pid)

    def connect(self) -> None:
        """A new connection."""
        self.disconnect()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(60)
        self.sock.connect(f"{self.run}/{self.name}.sock")

    def disconnect(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def send(self, do: str, fds: Sequence[int] = (), *, seq: int = 1, **fields: object) -> None:
        assert self.sock is not None
        wire.send(self.sock, {"do": do, "seq": seq, **fields}, fds)

    def answer(self, seq: int = 1) -> tuple[Message, list[int]]:
        """The answer to a request; events that come before it are put aside."""
        while True:
            assert self.sock is not None
            message, fds = wire.receive(self.sock)
            if message.get("seq") == seq:
                if "error" in message:
                    raise Refused(message)
                return message, fds
            self.events.append(message)

    def ask(self, do: str, fds: Sequence[int] = (), **fields: object) -> tuple[Message, list[int]]:
        self.send(do, fds, **fields)
        return self.answer()

    def event(self, **wanted: object) -> Message:
        """The next event that has these values."""
        while True:
            for event in self.events:
                if wanted.items() <= event.items():
                    self.events.remove(event)
                    return event
            assert self.sock is not None
            self.events.append(wire.receive(self.sock)[0])

    def wait_for_end(self) -> None:
        wait_for_end(self.pidfd)

    def kill(self) -> None:
        """kill -9, and wait until it has gone."""
        with contextlib.suppress(ProcessLookupError):
            syscalls.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.wait_for_end()
        self.disconnect()
        os.close(self.pidfd)
        self.pidfd = -1

    def errors(self) -> str:
        """What it has complained of."""
        path = self.run / f"{self.name}.err"
        return path.read_text() if path.exists() else ""


def wait_for_end(pidfd: int) -> None:
    """Until the process has ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(60_000), "it does not end"


@pytest.fixture
def run() -> Iterator[Path]:
    """A run directory with a short path, as a socket's must be."""
    path = Path(tempfile.mkdtemp(prefix="pydock-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def small(run: Path) -> Iterator[Callable[[str], Small]]:
    """Starts a small process by its name; it is ended after the test, and must not have had faults."""
    started: list[Small] = []

    def start(name: str) -> Small:
        process = Small(name, run)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.pidfd >= 0:
            process.kill()
        assert process.errors() == ""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system that holds busybox and users."""
    path = tmp_path / "root"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (path / name).mkdir(parents=True)
    path.chmod(0o755)
    (path / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", path / "bin" / "busybox")
    for name in APPLETS + MORE_APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001:web:/home/web:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nweb:x:1001:\nlogs:x:2000:web\n")
    return path


class Containers:
    """The monitor, as far as tests of containers want to see it."""

    Refused = Refused

    def __init__(self, monitor: Small, root: Path) -> None:
        self.monitor = monitor
        self.root = root
        self.number = 0

    def begin(self, *argv: str, fds: Sequence[int] = (), seq: int = 1, **fields: object) -> str:
        """Asks for a start; the process's id. Further descriptors have the indices from 1 on."""
        self.number += 1
        values: dict[str, object] = {"id": f"c{self.number}", "argv": argv, "root": 0} | fields
        tree = syscalls.open_tree(
            syscalls.AT_FDCWD, str(self.root), syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        )
        try:
            launch = to_json(Launch(**values))  # type: ignore[arg-type]
            self.monitor.send("start", [tree, *fds], seq=seq, launch=launch)
        finally:
            os.close(tree)
        return str(values["id"])

    def start(self, *argv: str, fds: Sequence[int] = (), **fields: object) -> tuple[str, int, list[str]]:
        """Starts a process; its id, its pid, the warnings."""
        name = self.begin(*argv, fds=fds, **fields)
        answer, received = self.monitor.answer()
        for fd in received:
            os.close(fd)
        return name, wire.number(answer, "pid"), wire.texts(answer, "warnings")

    def status(self, name: str) -> int:
        """Waits for its end; the wait(2) status."""
        return wire.number(self.monitor.event(event="exit", id=name), "status")

    def output(self, *argv: str, fds: Sequence[int] = (), **fields: object) -> str:
        """Runs a command to its end; what it wrote to stdout and stderr."""
        pipe = self.monitor.run / "output"
        if not pipe.exists():
            os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
        try:
            name, _, _ = self.start(*argv, fds=fds, stdout=str(pipe), stderr=str(pipe), **fields)
            self.status(name)
            try:
                return os.read(reader, 1 << 16).decode()
            except BlockingIOError:
                return ""
        finally:
            os.close(reader)

    def end(self) -> None:
        """Kills what still runs."""
        self.monitor.send("list", seq=999_999)
        answer, fds = self.monitor.answer(seq=999_999)
        alive = answer["alive"]
        assert isinstance(alive, list)
        assert len(alive) == len(fds)
        for pidfd in fds:
            with contextlib.suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
            wait_for_end(pidfd)
            os.close(pidfd)


@pytest.fixture
def containers(small: Callable[[str], Small], root: Path) -> Iterator[Containers]:
    """A monitor and a root file system; containers that still run are killed after the test."""
    made = Containers(small("monitor"), root)
    yield made
    if made.monitor.sock is not None:
        made.end()


@pytest.fixture(scope="module")
def module_containers() -> Iterator[Containers]:
    """One monitor for the tests of a module: where the machine is emulated its start takes five seconds."""
    run = Path(tempfile.mkdtemp(prefix="pydock-test-"))
    monitor = Small("monitor", run)
    yield Containers(monitor, run)
    monitor.kill()
    assert monitor.errors() == ""
    shutil.rmtree(run)


@pytest.fixture
def shared_containers(module_containers: Containers, root: Path) -> Iterator[Containers]:
    """``containers`` with the monitor of the module."""
    module_containers.root = root
    yield module_containers
    module_containers.end()
    module_containers.monitor.events.clear()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that may have trees in it which are too deep for shutil."""
    path = Path(tempfile.mkdtemp(prefix="pydock-test-"))
    yield path
    with tempfile.TemporaryDirectory(prefix="pydock-test-") as aside:  # another run's threads have the same numbers
        remove_tree(path, aside=aside)


@pytest.fixture
def store(place: Path) -> Store:
    """One that is empty."""
    return Store(place / "images")
