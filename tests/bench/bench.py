"""Times pydock beside its peers, alternating in one run, and prints ratios: the machine may be noisy, its noise hits both.

``bench.py DIRECTORY [ROUNDS [NAME...]]``; DIRECTORY holds ``cfs``, the file system in C. Without names all is measured: starts execs
many logs status_files images networks crowd.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from engine import Engine, put
from images import Images
from networks import Networks, Podman, Processes
from peers import MEMORY, PIDS, bundle
from pydock.runtime import syscalls
from timing import alternate, rows, timed

DIRECTORY = Path(sys.argv[1])
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
CHOSEN = sys.argv[3:]
PARENT = f"pydock-bench-{DIRECTORY.name}"  # process ids are the same in every run's PID namespace
CGROUPS = Path("/sys/fs/cgroup")
ROOTFS = DIRECTORY / "rootfs"
CRUN = ("crun", "--cgroup-manager=cgroupfs", f"--root={DIRECTORY}/crun")
LINE = "x" * 99

CYCLE = """\
cd containers
mkdir s; echo busybox > s/image; echo true > s/command; echo none > s/network
echo 64M > s/cgroup/memory.max; echo 100 > s/cgroup/pids.max
echo start > s/ctl; read code < s/wait; rmdir s
"""


def run(*words: str | Path) -> None:
    """A peer's command; it must succeed."""
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=DIRECTORY)


def new_bundle(name: str, *command: str) -> Path:
    """A peers' bundle."""
    return bundle(DIRECTORY / name, ROOTFS, *command, parent=PARENT)


@contextlib.contextmanager
def in_memory(name: str, size: str) -> Iterator[Path]:
    """A directory for a store that no disk disturbs."""
    place = DIRECTORY / name
    place.mkdir()
    syscalls.mount("none", str(place), "tmpfs", 0, f"size={size}")
    try:
        yield place
    finally:
        syscalls.umount2(str(place), syscalls.MNT_DETACH)


@contextlib.contextmanager
def beside(name: str) -> Iterator[Path]:
    """A directory for a store on the disk where the engine's is, whose ``run`` is in memory as the engine's."""
    place = DIRECTORY / name
    place.mkdir()
    with in_memory(f"{name}/run", "64m"):
        yield place
    shutil.rmtree(place)


def starts(engine: Engine) -> None:
    """A start, and the shell's whole cycle."""
    path = new_bundle("true", "true")
    peers: dict[str, Callable[[], float]] = {
        "crun run": lambda: timed(lambda: run(*CRUN, "run", "-b", path, "bench")),
        "runc run": lambda: timed(lambda: run("runc", f"--root={DIRECTORY}/runc", "run", "-b", path, "bench")),
    }

    def start_once() -> float:
        c = engine.make("c", "true")
        took = put(c / "ctl", "start")
        (c / "wait").read_text()
        c.rmdir()
        return took

    rows(
        "start written to process exec'd, full confinement, no network",
        alternate(ROUNDS, **{"pydock start": start_once}, **peers),
        "0.25 of crun run",
    )

    def cycle() -> None:
        subprocess.run(["sh", "-c", CYCLE], check=True, stdin=subprocess.DEVNULL, cwd=engine.tree)

    with beside("podman") as place, contextlib.closing(Processes()) as processes:
        podman = Podman(place, processes)
        podman.load(engine)
        limits = ("--memory", str(MEMORY), "--pids-limit", str(PIDS))
        words = ("run", "--rm", "--network", "none", *limits, "busybox", "true")
        peers["podman run --rm"] = lambda: timed(lambda: podman(*words))
        rows(
            "the shell's whole cycle: mkdir, 5 settings, start, wait, rmdir",
            alternate(ROUNDS, **{"pydock cycle": lambda: timed(cycle)}, **peers),
            "1/10 of podman run --rm (1/15 of docker run --rm, not measured here)",
        )


def execs(engine: Engine) -> None:
    """A further process in a container."""
    path = new_bundle("sleep", "sleep", "1000")
    run(*CRUN, "run", "-d", "-b", path, "bench-exec")
    c = engine.make("c", "sleep 1000")
    (c / "ctl").write_text("start")

    def exec_once() -> None:
        x = c / "exec/x"
        x.mkdir()
        (x / "command").write_text("true")
        put(x / "ctl", "start")
        assert (x / "wait").read_text() == "0\n"
        x.rmdir()

    rows(
        "exec of true: mkdir, command, start, wait, rmdir",
        alternate(
            ROUNDS,
            **{
                "pydock exec": lambda: timed(exec_once),
                "crun exec": lambda: timed(lambda: run(*CRUN, "exec", "bench-exec", "true")),
            },
        ),
        "below crun exec (and 1/15 of docker exec, not measured here)",
    )
    (c / "ctl").write_text("kill")
    c.rmdir()
    run(*CRUN, "delete", "-f", "bench-exec")


def at_once(names: list[str], command: str) -> float:
    """Milliseconds of *command*, a shell's with {} for the name, for each of *names*, eight at a time."""
    words = ["xargs", "-P8", "-I{}", "sh", "-c", command]
    given = "".join(f"{name}\n" for name in names)
    return timed(lambda: subprocess.run(words, input=given, text=True, check=True, stdout=subprocess.DEVNULL))


def many(engine: Engine) -> None:
    """Fifty starts at once."""
    names = [f"m{number}" for number in range(50)]
    for name in names:
        new_bundle(name, "sleep", "1000")

    def ours() -> float:
        made = [engine.make(name, "sleep 1000") for name in names]
        took = at_once(names, f"echo start > {engine.tree}/containers/{{}}/ctl")
        for c in made:
            (c / "ctl").write_text("kill")
            c.rmdir()
        return took

    def theirs() -> float:
        took = at_once(names, f"{' '.join(CRUN)} run -d -b {DIRECTORY}/{{}} {{}} < /dev/null")
        for name in names:
            run(*CRUN, "delete", "-f", name)
        return took

    took = alternate(3, warmup=1, **{"pydock, 50 starts": ours, "crun run -d": theirs})
    rows("50 starts, 8 at a time", took, "500 ms (100 a second)")


def crowd(engine: Engine) -> None:
    """What many containers cost."""
    before = engine.memory()
    made = [engine.make(f"c{number}", "sleep 1000") for number in range(100)]
    for c in made:
        (c / "ctl").write_text("start")
    each = (engine.memory() - before) / len(made)
    print(f"memory of the engine for each of 100 idle containers (PSS)\n  budget: 64 KB\n  {each / 1024:8.1f} KB")
    made += [engine.make(f"c{number}", "sleep 1000") for number in range(100, 1000)]
    took = at_once([c.name for c in made[100:]], f"echo start > {engine.tree}/containers/{{}}/ctl")
    print(f"1,000 containers\n  {'900 more starts':<34} {took / 1000:8.2f} s")
    begun, spent = time.monotonic(), engine.processor_time()
    while time.monotonic() - begun < 10:
        time.sleep(1)  # nothing may happen meanwhile
    idle = (engine.processor_time() - spent) / (time.monotonic() - begun)
    print(f"  {'processor while idle':<34} {idle * 100:8.2f} % of one (budget: 0.5)")
    for words in ("ls -l containers", "cat containers/*/state"):
        took = timed(lambda words=words: run("sh", "-c", f"cd {engine.tree}; {words}"))  # type: ignore[misc]
        print(f"  {words:<34} {took / 1000:8.2f} s{' (budget: 0.3)' if words.startswith('ls') else ''}")
    engine.kill()
    print(f"  {'pydockd started again under them':<34} {timed(engine.start) / 1000:8.2f} s")
    assert all((c / "state").read_text() == "running\n" for c in made)
    for c in made:
        (c / "ctl").write_text("kill")
        c.rmdir()


def logs(engine: Engine) -> None:
    """Output into the log beside output straight into a file."""
    for title, command, rounds, budget in (
        ("200 MiB of log in lines of 100 bytes", f"yes {LINE} | head -c 209715200", 3, "1.2 of a file"),
        ("5 MiB of yes as log", "yes | head -c 5242880", 5, "1.2 of a file"),
    ):
        path = new_bundle(f"log{rounds}", "sh", "-c", command)
        c = engine.make("log", f"sh -c '{command}'")
        target = DIRECTORY / "output"

        def ours(c: Path = c) -> float:
            def whole() -> None:
                (c / "ctl").write_text("start")
                (c / "wait").read_text()

            os.truncate(c / "log", 0)
            return timed(whole)

        def theirs(path: Path = path, target: Path = target) -> float:
            with open(target, "wb") as file:
                words = [*CRUN, "run", "-b", str(path), "bench-log"]
                return timed(lambda: subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=file))

        rows(title, alternate(rounds, warmup=1, **{"pydock, into its log": ours, "crun, into a file": theirs}), budget)
        assert (c / "log").stat().st_size == target.stat().st_size
        c.rmdir()


def status_files(engine: Engine) -> None:
    """A read of a status file beside a file system in C, and beside the least that the library can be."""
    one, threads, bare = DIRECTORY / "c1", DIRECTORY / "c2", DIRECTORY / "bare"
    servers = []
    compiled = DIRECTORY / "cfs"
    for tree, command in (
        (one, [compiled]),
        (threads, [compiled, "-m"]),
        (bare, [sys.executable, Path(__file__).with_name("bare.py")]),
    ):
        tree.mkdir()
        servers.append(subprocess.Popen([*command, tree]))
    (engine.tree / "containers/c").mkdir()
    for tree in (one, threads, bare):
        while not (tree / "containers").exists():
            time.sleep(0.01)

    def opens(path: Path, times: int = 200) -> float:
        def each() -> None:
            for _ in range(times):
                fd = os.open(path, os.O_RDONLY)
                os.read(fd, 4096)
                os.close(fd)

        return timed(each) / times

    rows(
        "open + read + close of a status file",
        alternate(
            ROUNDS,
            **{
                "pydock read": lambda: opens(engine.tree / "containers/c/state"),
                "C libfuse, threads": lambda: opens(threads / "containers/c/state"),
                "C libfuse, one thread": lambda: opens(one / "containers/c/state"),
                "pyfuse3 alone": lambda: opens(bare / "containers/c/state"),
            },
        ),
        "1.3 of the C file system, which has many threads unless it asks for one",
    )
    (engine.tree / "containers/c").rmdir()
    for server in servers:
        server.terminate()
        server.wait(10)


def images(engine: Engine) -> None:
    """Images, with another engine, whose store is in memory as the peers' are."""
    with in_memory("images", "6g") as place:
        own = Engine(place, f"{PARENT}/images")
        own.start()
        try:
            Images(own, place, ROUNDS).run()
        finally:
            own.end()


def networks(engine: Engine) -> None:
    """Networks, beside podman's."""
    with beside("networks") as place:
        Networks(engine, place, ROUNDS).run()


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
    """Mount, measure, unmount."""
    engine = Engine(DIRECTORY, PARENT)
    engine.start()
    subprocess.run(["cp", "-a", f"{engine.tree}/images/busybox:latest/rootfs/.", ROOTFS], check=True)
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    # crun refuses a machine with v1 controllers whose v2 tree holds one as well: it gets a view without that tree.
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if (CGROUPS / "unified").is_dir():
        syscalls.umount2(str(CGROUPS / "unified"), syscalls.MNT_DETACH)
    view = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    try:
        kernel, processors, load = platform.release(), os.cpu_count(), os.getloadavg()[0]
        print(f"{ROUNDS} rounds, alternating; Linux {kernel}, {processors} processors, load {load:.1f}\n", flush=True)
        for measure in (starts, execs, many, logs, status_files, images, networks):
            if measure.__name__ in CHOSEN or not CHOSEN:
                measure(engine)
                sys.stdout.flush()
        syscalls.setns(here, syscalls.CLONE_NEWNS)  # pydockd is started again where all cgroups can be seen
        if "crowd" in CHOSEN or not CHOSEN:
            crowd(engine)
        syscalls.setns(view, syscalls.CLONE_NEWNS)
    finally:
        syscalls.setns(here, syscalls.CLONE_NEWNS)
        try:
            engine.end()
        finally:
            clear_cgroups()


if __name__ == "__main__":
    main()
