"""A mounted pydock to be measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from peers import MEMORY, PIDS
from pydock.runtime import syscalls


class Engine:
    """A pydockd with everything below *directory*."""

    def __init__(self, directory: Path, parent: str) -> None:
        self.directory = directory
        self.tree = directory / "mnt"
        self._options = f"root={directory / 'root'},run={directory / 'run'},cgroup_parent={parent}"
        self.tree.mkdir()
        run = directory / "run"
        run.mkdir()
        syscalls.mount("none", str(run), "tmpfs", 0, "mode=700")  # as /run is
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Mount; returns when the tree is there."""
        ready, said = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pydock.fs", self.tree, "-o", self._options],
            pass_fds=[said],
            env={**os.environ, "PYDOCK_READY_FD": str(said)},
        )
        os.close(said)
        with os.fdopen(ready, "rb") as pipe:
            assert pipe.read(6) == b"ready\n"

    def end(self) -> None:
        """Unmount."""
        assert self._process is not None
        try:
            (self.tree / "ctl").write_text("shutdown")
            self._process.wait(60)
        finally:
            self._process.kill()
            syscalls.umount2(str(self.directory / "run"), syscalls.MNT_DETACH)

    def kill(self) -> None:
        """kill -9 of pydockd."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def processes(self) -> list[int]:
        """pydockd and its small processes."""
        assert self._process is not None
        wanted = f"{self.directory / 'run'}\0".encode()
        found = [self._process.pid]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes()
                except OSError:
                    continue
                if b"pydock.runtime." in words and wanted in words:
                    found.append(int(entry.name))
        return found

    def memory(self) -> int:
        """Bytes of all of them, what is shared divided among those who share it (PSS)."""
        total = 0
        for pid in self.processes():
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total * 1024

    def processor_time(self) -> float:
        """Seconds of all of them."""
        ticks = 0
        for pid in self.processes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def make(self, name: str, command: str, *, image: str = "busybox", network: str = "none", ports: str = "") -> Path:
        """A container with the peers' limits, not started."""
        c = self.tree / "containers" / name
        c.mkdir()
        (c / "image").write_text(image)
        (c / "command").write_text(command)
        (c / "network").write_text(network)
        if ports:
            (c / "ports").write_text(ports)
        (c / "cgroup/memory.max").write_text(str(MEMORY))
        (c / "cgroup/pids.max").write_text(str(PIDS))
        return c


def put(path: Path, text: str) -> float:
    """Write *text*; the milliseconds of the write alone."""
    fd = os.open(path, os.O_WRONLY)
    try:
        begun = time.perf_counter()
        os.write(fd, text.encode())
        return (time.perf_counter() - begun) * 1000
    finally:
        os.close(fd)
