"""Times pydock beside its peers, alternating in one run, and prints ratios: the machine may be noisy, its noise hits both.

``bench.py DIRECTORY [ROUNDS]``; DIRECTORY holds ``cfs``, the file system in C. The peers' bundle has the container's
namespaces, mounts, limits, capabilities, masks and filter.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pydock.runtime import syscalls
from pydock.runtime.confine import capabilities, masks, seccomp

DIRECTORY = Path(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
WARMUP = 3
PARENT = f"pydock-bench-{DIRECTORY.name}"  # process ids are the same in every run's PID namespace
CGROUPS = Path("/sys/fs/cgroup")
TREE = DIRECTORY / "mnt"
MEMORY, PIDS = 64 << 20, 100


def oci_filter() -> dict[str, object]:
    """The same filter as the container's, as an OCI runtime wants it."""
    chosen = seccomp.select(seccomp.default_profile(), capabilities.DEFAULT, platform.release())
    rules = []
    for rule in chosen.syscalls or ():
        values: dict[str, object] = {"names": list(rule.names or ()), "action": rule.action}
        if rule.errno_ret is not None:
            values["errnoRet"] = rule.errno_ret
        if rule.args:
            values["args"] = [
                {"index": each.index, "value": each.value, "valueTwo": each.value_two, "op": each.op}
                for each in rule.args
            ]
        rules.append(values)
    return {
        "defaultAction": chosen.default_action,
        "defaultErrnoRet": chosen.default_errno_ret,
        "architectures": list(chosen.architectures or ()),
        "syscalls": rules,
    }


def bundle(rootfs: Path) -> Path:
    """An OCI bundle of ``true`` on *rootfs*."""
    path = DIRECTORY / "bundle"
    path.mkdir()
    plain = ["nosuid", "noexec", "nodev"]
    names = sorted(capabilities.DEFAULT)
    config = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=bench",
                "HOME=/root",
            ],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
        },
        "root": {"path": str(rootfs)},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": plain},
            {
                "destination": "/dev",
                "type": "tmpfs",
                "source": "tmpfs",
                "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
            },
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            },
            {
                "destination": "/dev/shm",
                "type": "tmpfs",
                "source": "shm",
                "options": [*plain, "mode=1777", "size=65536k"],
            },
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": plain},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*plain, "ro"]},
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*plain, "relatime", "ro"],
            },
            *(
                {
                    "destination": f"/etc/{name}",
                    "type": "bind",
                    "source": f"/etc/{name}",
                    "options": ["rbind", "rprivate"],
                }
                for name in ("hostname", "hosts", "resolv.conf")
                if Path(f"/etc/{name}").exists()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
            "cgroupsPath": f"/{PARENT}/peer",
            "resources": {
                "memory": {"limit": MEMORY},
                "pids": {"limit": PIDS},
                "devices": [{"allow": False, "access": "rwm"}],
            },
            "maskedPaths": list(masks.MASKED),
            "readonlyPaths": list(masks.READ_ONLY),
            "seccomp": oci_filter(),
        },
    }
    (path / "config.json").write_text(json.dumps(config))
    return path


def put(path: Path, text: str) -> float:
    """Write *text*; the milliseconds of the write alone."""
    fd = os.open(path, os.O_WRONLY)
    try:
        begun = time.perf_counter()
        os.write(fd, text.encode())
        return (time.perf_counter() - begun) * 1000
    finally:
        os.close(fd)


def timed(action: Callable[[], object]) -> float:
    """Milliseconds of *action*."""
    begun = time.perf_counter()
    action()
    return (time.perf_counter() - begun) * 1000


def start_once() -> float:
    """``start`` written to process exec'd; making and removing the container is not counted."""
    c = TREE / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text("true")
    (c / "cgroup/memory.max").write_text(str(MEMORY))
    (c / "cgroup/pids.max").write_text(str(PIDS))
    took = put(c / "ctl", "start")
    (c / "wait").read_text()
    c.rmdir()
    return took


CYCLE = """\
cd containers
mkdir s; echo busybox > s/image; echo true > s/command; echo none > s/network
echo 64M > s/cgroup/memory.max; echo 100 > s/cgroup/pids.max
echo start > s/ctl; read code < s/wait; rmdir s
"""


def run(*words: str | Path) -> None:
    """A peer's command; it must succeed."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=TREE)


def opens(path: Path, times: int = 200) -> float:
    """Milliseconds of one open, read and close."""

    def each() -> None:
        for _ in range(times):
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, 4096)
            os.close(fd)

    return timed(each) / times


def alternate(rounds: int, **actions: Callable[[], float]) -> dict[str, list[float]]:
    """Each action in turn, *rounds* times after a warm-up."""
    took: dict[str, list[float]] = {name: [] for name in actions}
    for index in range(rounds + WARMUP):
        for name, action in actions.items():
            value = action()
            if index >= WARMUP:
                took[name].append(value)
    return took


def rows(title: str, took: dict[str, list[float]], budget: str) -> None:
    """The table's lines: medians and minima, and the first's ratio to each peer: the median pair by pair, and of the minima."""
    first, *peers = took
    print(f"{title}\n  budget: {budget}")
    print(f"  {first:<22} {statistics.median(took[first]):8.3f} ms (least {min(took[first]):.3f})")
    for peer in peers:
        ratio = statistics.median(a / b for a, b in zip(took[first], took[peer], strict=True))
        least = min(took[first]) / min(took[peer])
        print(
            f"  {peer:<22} {statistics.median(took[peer]):8.3f} ms (least {min(took[peer]):.3f})   "
            f"{first} / {peer} = {ratio:.2f} (least {least:.2f})"
        )


def clear_cgroups() -> None:
    """What is left of the engine's and the peers' cgroups goes, with the processes in them if it came to that."""
    deadline = time.monotonic() + 5
    while left := [path for parent in CGROUPS.glob(f"*/{PARENT}") for path in (parent, *parent.rglob("*/"))]:
        for directory in sorted(left, key=lambda path: -len(path.parts)):
            with contextlib.suppress(OSError):
                for pid in (directory / "cgroup.procs").read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
                directory.rmdir()
        if time.monotonic() > deadline:
            print(f"left: {' '.join(map(str, left))}", file=sys.stderr)
            return
        time.sleep(0.01)


def main() -> None:
    """Mount both, measure, unmount."""
    TREE.mkdir()
    run_, root = DIRECTORY / "run", DIRECTORY / "root"
    ready, said = os.pipe()
    engine = subprocess.Popen(
        [sys.executable, "-m", "pydock.fs", TREE, "-o", f"root={root},run={run_},cgroup_parent={PARENT}"],
        pass_fds=[said],
        env={**os.environ, "PYDOCK_READY_FD": str(said)},
    )
    os.close(said)
    assert os.read(ready, 16) == b"ready\n"
    one, many = DIRECTORY / "c1", DIRECTORY / "c2"
    servers = []
    for tree, options in ((one, []), (many, ["-m"])):
        tree.mkdir()
        servers.append(subprocess.Popen([DIRECTORY / "cfs", *options, tree]))
    rootfs = DIRECTORY / "rootfs"
    subprocess.run(["cp", "-a", f"{TREE}/images/busybox:latest/rootfs/.", rootfs], check=True)
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    # crun refuses a machine with v1 controllers whose v2 tree holds one as well: it gets a view without that tree.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if (CGROUPS / "unified").is_dir():
        syscalls.umount2(str(CGROUPS / "unified"), syscalls.MNT_DETACH)
    try:
        path = bundle(rootfs)
        print(
            f"{ROUNDS} rounds, alternating; Linux {platform.release()}, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}\n"
        )
        peers: dict[str, Callable[[], float]] = {
            "crun run": lambda: timed(lambda: run("crun", "--cgroup-manager=cgroupfs", "run", "-b", path, "bench")),
            "runc run": lambda: timed(lambda: run("runc", "run", "-b", path, "bench")),
        }
        rows(
            "start written to process exec'd, full confinement, no network",
            alternate(ROUNDS, **{"pydock start": start_once}, **peers),
            "0.25 of crun run",
        )
        rows(
            "the shell's whole cycle: mkdir, 5 settings, start, wait, rmdir",
            alternate(ROUNDS, **{"pydock cycle": lambda: timed(lambda: run("sh", "-c", CYCLE))}, **peers),
            "1/15 of docker run --rm, 1/10 of podman run --rm (not measured here)",
        )
        (TREE / "containers/c").mkdir()
        for tree in (one, many):
            while not (tree / "containers").exists():
                time.sleep(0.01)
        rows(
            "open + read + close of a status file",
            alternate(
                ROUNDS,
                **{
                    "pydock read": lambda: opens(TREE / "containers/c/state"),
                    "C libfuse, threads": lambda: opens(many / "containers/c/state"),
                    "C libfuse, one thread": lambda: opens(one / "containers/c/state"),
                },
            ),
            "1.3 of the C file system, which has many threads unless it asks for one",
        )
        (TREE / "containers/c").rmdir()
    finally:
        syscalls.setns(here, syscalls.CLONE_NEWNS)  # where the engine's cgroups can all be seen
        for server in servers:
            server.terminate()
            server.wait(10)
        try:
            (TREE / "ctl").write_text("shutdown")
            engine.wait(20)
        finally:
            engine.kill()
            clear_cgroups()


if __name__ == "__main__":
    main()
