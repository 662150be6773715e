"""Engines for tests that need a real mount: one for the session, and fresh ones for tests that kill theirs."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.cgroup import Hierarchy, detect_layout
from pydock.runtime.cgroup.v1 import V1Cgroup
from pydock.runtime.cgroup.v2 import V2Cgroup

#: Seconds after which what is awaited does not come any more; an emulated machine that is loaded takes half a minute to mount.
PATIENCE = 110


class Engine:
    """A pydockd with directories of its own. ``tree`` is the mount point."""

    def __init__(self, *, options: str = "") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pydock-test-"))
        self.tree = self.directory / "mnt"
        self.tree.mkdir()
        self.parent = self.directory.name  # a random one: process ids are the same in every run's PID namespace
        self.options = f"root={self.root},run={self.run},cgroup_parent={self.parent}{',' if options else ''}{options}"
        self.process: subprocess.Popen[bytes] | None = None
        self.umask = -1  # the shell's that starts it; -1 is that of the tests
        self._disk = False
        self.place: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # where it is started

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def log(self) -> str:
        """What pydockd has logged."""
        return (self.directory / "log").read_text()

    @property
    def table(self) -> str:
        """The name of its table of the packet filter; empty when it has none."""
        with self.place():
            told = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
            for line in told.splitlines():
                shown = subprocess.run(
                    ["nft", "list", *line.split()], capture_output=True, text=True, check=False
                ).stdout
                if f'comment "{self.root}"' in shown:
                    return line.split()[-1]
        return ""

    def use_disk(self, *, size: str) -> None:
        """Have the data on a file system of their own, of *size* bytes; before the first start."""
        self.root.mkdir()
        syscalls.mount("pydock-test", str(self.root), "tmpfs", 0, f"size={size}")
        self._disk = True

    @contextlib.contextmanager
    def filled(self, *, room: int = 0) -> Iterator[None]:
        """The disk is full within, but for *room* bytes."""
        ballast = self.root / "ballast"
        try:
            with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            os.truncate(ballast, ballast.stat().st_size - room)
            yield
        finally:
            ballast.unlink()

    @contextlib.contextmanager
    def parent_limit(self, name: str, value: str) -> Iterator[None]:
        """The cgroup above those of the containers has a limit within."""
        layout = detect_layout()
        above = (V2Cgroup if layout.kind == "v2" else V1Cgroup)(layout, self.parent, None, {})
        above.write(name, value)
        try:
            yield
        finally:
            above.write(name, "")

    def start(self) -> None:
        """Mount; returns when the tree is there."""
        ready, said = os.pipe()
        with open(self.directory / "log", "ab") as log, os.fdopen(ready) as reader, self.place():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pydock.fs", str(self.tree), "-o", self.options],
                pass_fds=[said],
                umask=self.umask,
                env={**os.environ, "PYDOCK_READY_FD": str(said)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
            )
            os.close(said)
            assert select.select([reader], [], [], PATIENCE)[0], self.log
            assert reader.readline() == "ready\n", self.log

    def umount(self) -> None:
        """umount(8), and pydockd's end."""
        assert self.process is not None
        syscalls.umount2(str(self.tree), 0)
        assert self.process.wait(PATIENCE) == 0, self.log

    def kill(self) -> None:
        """kill -9 of pydockd."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)

    def settled(self) -> None:
        """All that was acknowledged is in its file."""
        deadline = time.monotonic() + PATIENCE
        while (self.root / "unsettled").stat().st_size:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def reboot(self) -> None:
        """What a reboot does, as far as the engine sees: everything that runs is dead, and what is in memory gone."""
        self.kill()
        for name in ("monitor", "logger", "keeper"):
            self.kill_helper(name)
        if (self.run / "names.sock").exists():
            self.kill_helper("names")
        pidfds = [syscalls.pidfd_open(pid) for pid in self.strays()]
        for pidfd in pidfds:
            syscalls.pidfd_send_signal(pidfd, signal.SIGKILL)
            assert select.select([pidfd], [], [], PATIENCE)[0]
            os.close(pidfd)
        syscalls.umount2(str(self.tree), syscalls.MNT_DETACH)
        shutil.rmtree(self.run)

    def helper(self, name: str) -> int:
        """The process id of the monitor, the logger or the keeper, which may be about to be started again."""
        deadline = time.monotonic() + PATIENCE
        wanted = f"pydock.runtime.{name}\0{self.run}\0".encode()
        while time.monotonic() < deadline:
            for entry in Path("/proc").iterdir():
                if entry.name.isdigit():
                    with contextlib.suppress(OSError):
                        if wanted in (entry / "cmdline").read_bytes():
                            return int(entry.name)
            time.sleep(0.01)
        raise AssertionError(f"there is no {name}")

    def kill_helper(self, name: str) -> None:
        """kill -9 of a helper process; returns when it is dead."""
        pid = self.helper(name)
        pidfd = syscalls.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([pidfd], [], [], PATIENCE)[0]
        finally:
            os.close(pidfd)

    def sh(self, script: str, *, timeout: float = 60, check: bool = True) -> str:
        """Run a shell script at the mount point: its standard output; with *check* an error for another status than 0."""
        done = subprocess.run(
            ["/bin/sh", "-c", f"cd {self.tree} && {{ {script}\n}}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.log}"
        return done.stdout

    def groups(self) -> set[str]:
        """The names of the cgroups below the engine's parent."""
        return set(Hierarchy(detect_layout(), self.parent).names())

    def strays(self) -> set[int]:
        """The processes in the containers' cgroups."""
        hierarchy = Hierarchy(detect_layout(), self.parent)
        return {pid for name in hierarchy.names() - {"engine"} for pid in hierarchy.cgroup(name).procs()}

    def clear(self) -> None:
        """Kill and remove every container."""
        for path in sorted((self.tree / "containers").iterdir()):
            deadline = time.monotonic() + 60
            while path.exists():  # which one with autoremove does not for long
                if (path / "state").read_text() in ("running\n", "paused\n", "restarting\n"):
                    with contextlib.suppress(OSError):  # it ends by itself in this moment
                        (path / "ctl").write_text("kill")
                try:
                    with contextlib.suppress(FileNotFoundError):
                        path.rmdir()
                    break
                except OSError as error:  # a start whose caller was killed is carried through
                    if error.errno != errno.EBUSY or time.monotonic() > deadline:
                        raise AssertionError((path / "error").read_text() + self.log) from error

    def end(self) -> None:
        """Remove everything."""
        if self.process is None or self.process.poll() is not None:
            syscalls.umount2(str(self.tree), syscalls.MNT_DETACH) if _is_mount(self.tree) else None
            self.start()
        self.clear()
        self.umount()
        assert "Traceback" not in self.log, self.log
        if self._disk:
            syscalls.umount2(str(self.root), 0)
        shutil.rmtree(self.directory)


def _is_mount(path: Path) -> bool:
    return any(line.split()[4] == str(path) for line in Path("/proc/self/mountinfo").read_text().splitlines())


@pytest.fixture(scope="session")
def session_engine() -> Iterator[Engine]:
    """The engine that most tests share."""
    engine = Engine()
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def engine(session_engine: Engine) -> Iterator[Engine]:
    """The shared engine; the test's containers are removed after it, and it must not have met a fault."""
    seen = len(session_engine.log)
    yield session_engine
    session_engine.clear()
    assert "Traceback" not in session_engine.log[seen:], session_engine.log[seen:]


@pytest.fixture
def own_engine() -> Iterator[Engine]:
    """An engine for this test alone, to be killed and mounted at will."""
    engine = Engine()
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def engine_at() -> Iterator[Callable[[Callable[[], AbstractContextManager[None]]], Engine]]:
    """``engine_at(PLACE)``: one that is started within ``PLACE()``."""
    with contextlib.ExitStack() as stack:

        def start(place: Callable[[], AbstractContextManager[None]]) -> Engine:
            engine = Engine()
            engine.place = place
            engine.start()
            stack.callback(engine.end)
            return engine

        yield start


@pytest.fixture(scope="module")
def module_engine() -> Iterator[Engine]:
    """An engine for the tests of one module."""
    engine = Engine()
    engine.start()
    yield engine
    engine.end()


@pytest.fixture
def small_engine() -> Iterator[Engine]:
    """An engine on a disk of 32 MiB."""
    engine = Engine()
    engine.use_disk(size="32m")
    engine.start()
    yield engine
    engine.end()


@pytest.fixture(scope="session")
def bookworm() -> Iterator[Callable[[str], str]]:
    """``bookworm(NAME)``: a directory with one of the Debians that tests/run has made."""
    with contextlib.ExitStack() as stack:

        def unpacked(name: str) -> str:
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix=f"pydock-{name}-"))
            archive = f"/var/tmp/pydock-tests/bookworm-{name}.tar"
            subprocess.run(["tar", "-C", directory, "--exclude=./dev/*", "-xf", archive], check=True)
            os.chmod(directory, 0o755)
            return directory

        yield unpacked


@pytest.fixture(scope="session")
def debian(bookworm: Callable[[str], str]) -> str:
    """One that has systemd and D-Bus: 200 MB."""
    return bookworm("systemd")


@pytest.fixture
def tree(engine: Engine) -> Path:
    """The mount point."""
    return engine.tree


@pytest.fixture
def make(engine: Engine) -> Callable[..., Path]:
    """Makes a container of busybox: ``make("web", command="true", env="A=1\\n")``; gives its directory."""

    def make_container(name: str = "c", **settings: str) -> Path:
        path = engine.tree / "containers" / name
        path.mkdir()
        (path / "image").write_text("busybox")
        for setting, value in settings.items():
            (path / setting).write_text(value)
        return path

    return make_container


@pytest.fixture
def errno_of() -> Callable[[Path, str], int]:
    """The errno of one write of a text to a file, or of the close behind it; 0 when it is taken."""

    def write(path: Path, text: str) -> int:
        fd = os.open(path, os.O_WRONLY)
        try:
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            return error.errno or -1
        return 0

    return write


@pytest.fixture
def has_open() -> Callable[[subprocess.Popen[str], Path], bool]:
    """Whether a process has a file open."""

    def look(process: subprocess.Popen[str], path: Path) -> bool:
        assert process.poll() is None
        for number in os.listdir(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                name = os.readlink(f"/proc/{process.pid}/fd/{number}")
                if name.removesuffix(" (deleted)") == str(
                    path
                ):  # so it is called when the kernel has looked it up anew
                    return True
        return False

    return look


@pytest.fixture
def links() -> Callable[[], list[str]]:
    """The names of the machine's links, as far as the tests see one: /sys shows another's."""

    def names() -> list[str]:
        told = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        return [line.split(":")[1].strip().partition("@")[0] for line in told.splitlines()]

    return names


@pytest.fixture
def networks(engine: Engine, links: Callable[[], list[str]]) -> Iterator[Path]:
    """``networks/``; those that the test makes are removed after it."""
    path = engine.tree / "networks"
    yield path
    engine.clear()
    for each in path.iterdir():
        if each.name not in ("bridge", "host", "none", "ports"):
            each.rmdir()
    deadline = time.monotonic() + 60  # the kernel takes a namespace apart behind its end
    while left := [link for link in links() if link.startswith("pv-")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.fixture
def etc(tmp_path: Path) -> Iterator[Path]:
    """/etc, to do with as one likes."""
    shutil.copytree("/etc", tmp_path / "etc", symlinks=True)
    syscalls.mount(str(tmp_path / "etc"), "/etc", "", syscalls.MS_BIND, "")
    try:
        yield Path("/etc")
    finally:
        syscalls.umount2("/etc", syscalls.MNT_DETACH)
