"""Networks beside a bare pair of links, podman's networks and its DNS, and dnsmasq.

Each has a network namespace of its own that is the machine to it: ours is the bench's, podman's another, so that nobody's packets go
through the packet filter of others. What measures is the same process everywhere, put into a container's namespace with nsenter(1).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine import Engine, put
from timing import alternate, rows, timed
from traffic import CONNECTIONS, ROUND

_TRAFFIC: Final = str(Path(__file__).with_name("traffic.py"))
_CLOSING: Final = 5300
_STREAMING: Final = 5301
_PUBLISHED: Final = 20000  # those of the machine: that number more
_SHORT: Final = 5  # rounds of traffic are so short that there are that many for one
_OTHERS: Final = 30  # networks
_QUESTIONS: Final = 4000  # asked in a round
_RATE: Final = 1000  # questions a second
_LEFT: Final = "192.0.2.1"
_RIGHT: Final = "192.0.2.2"
_BRIDGE: Final = "192.0.2.254"
_UP: Final = "ip link set lo up; echo ready; exec sleep infinity"

CYCLE: Final = """\
cd containers
mkdir s; echo busybox > s/image; echo true > s/command; echo bridge > s/network; echo 18080:80 > s/ports
echo 64M > s/cgroup/memory.max; echo 100 > s/cgroup/pids.max
echo start > s/ctl; read code < s/wait; rmdir s
"""

Actions = dict[str, Callable[[], float]]


class Processes:
    """Those that are to be ended with the bench."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        """One that is spoken with."""
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._running.append(process)
        return process

    def serve(self, *words: str) -> subprocess.Popen[str]:
        """One that says something when it is ready."""
        process = self.start(*words)
        assert process.stdout is not None
        assert process.stdout.readline(), words
        return process

    def close(self) -> None:
        """End all of them."""
        for process in self._running:
            process.kill()
            process.wait()
        self._running = []


@dataclass(frozen=True, slots=True)
class Place:
    """The network namespace of a process."""

    processes: Processes
    pid: int

    def within(self, *words: str) -> list[str]:
        """A command line for *words* there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *words]

    def say(self, *words: str) -> str:
        """What a command there prints; it must succeed."""
        done = subprocess.run(
            self.within(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def rounds(
        self, processes: Processes, what: str, server: Place, address: str, port: int, listened: int
    ) -> Callable[[], float]:
        """Rounds of ``connect`` or ``stream`` from here to there, by one of *processes*: milliseconds."""
        words = (what, str(server.pid), str(self.pid), address, str(port), str(listened))
        both = processes.start(sys.executable, _TRAFFIC, *words)
        assert both.stdin is not None
        assert both.stdout is not None
        asks, answers = both.stdin, both.stdout

        def once() -> float:
            asks.write("go\n")
            return float(answers.readline())

        return once


def new_place(processes: Processes) -> Place:
    """A namespace with nothing but lo."""
    return Place(processes, processes.serve("unshare", "--net", "sh", "-c", _UP).pid)


def bare_pair(processes: Processes) -> tuple[Place, Place]:
    """Two that are joined by a pair of links and nothing else; the second is at ``_RIGHT``."""
    left, right = new_place(processes), new_place(processes)
    left.say("ip", "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", str(right.pid))
    for place, address in ((left, _LEFT), (right, _RIGHT)):
        place.say("ip", "address", "add", f"{address}/24", "dev", "veth0")
        place.say("ip", "link", "set", "veth0", "up")
    return left, right


def bare_bridge(processes: Processes) -> tuple[Place, Place, Place]:
    """Two that are joined by a bridge of a third, which is at ``_BRIDGE``; nobody has a packet filter."""
    machine, left, right = (new_place(processes) for _ in range(3))
    machine.say("ip", "link", "add", "br0", "type", "bridge")
    machine.say("ip", "address", "add", f"{_BRIDGE}/24", "dev", "br0")
    machine.say("ip", "link", "set", "br0", "up")
    for name, place, address in (("left", left, _LEFT), ("right", right, _RIGHT)):
        pair = ("type", "veth", "peer", "name", "veth0", "netns", str(place.pid))
        machine.say("ip", "link", "add", name, "master", "br0", *pair)
        machine.say("ip", "link", "set", name, "up")
        place.say("ip", "address", "add", f"{address}/24", "dev", "veth0")
        place.say("ip", "link", "set", "veth0", "up")
    return machine, left, right


class Podman:
    """Podman with a store of its own, below *directory*, and a network called ``front``."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.machine = new_place(processes)
        self._processes = processes
        self._directory = directory
        self._command = (
            *("podman", "--root", f"{directory}/store", "--runroot", f"{directory}/run"),
            *("--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "none"),
            *("--network-config-dir", f"{directory}/networks"),
        )

    def __call__(self, *words: str) -> str:
        return self.machine.say(*self._command, *words).strip()

    def load(self, engine: Engine) -> None:
        """Give it the engine's busybox."""
        archive = self._directory / "busybox.tar"
        archive.write_bytes((engine.tree / "images/busybox:latest/archive.tar").read_bytes())
        self("load", "-q", "-i", str(archive))

    def container(self, name: str, *options: str) -> Place:
        """One that sleeps."""
        self("run", "-d", "--name", name, "--network", "front", *options, "busybox", "sleep", "10000")
        return Place(self._processes, int(self("inspect", "--format", "{{.State.Pid}}", name)))

    def address(self, name: str, key: str = "IPAddress") -> str:
        """That of a container, or of its gateway."""
        return self("inspect", "--format", f'{{{{(index .NetworkSettings.Networks "front").{key}}}}}', name)


class Networks:
    """The measurements. *directory* is where podman's store may be."""

    def __init__(self, engine: Engine, directory: Path, rounds: int) -> None:
        self._engine = engine
        self._directory = directory
        self._rounds = rounds
        self._processes = Processes()
        self._machine = Place(self._processes, 0)
        self._podman: Podman | None = None
        self._made: list[Path] = []

    def run(self) -> None:
        """All of them."""
        network = self._engine.tree / "networks/front"
        network.mkdir()
        self._machine = Place(self._processes, self._processes.serve("sh", "-c", "echo ready; exec sleep infinity").pid)
        try:
            self._podman = self._with_podman()
            self._starts()
            self._fifty()
            self._traffic()
            self._thousand()
            self._beside_networks()
            self._names()
        finally:
            if self._podman is not None:
                self._podman("rm", "--all", "--force", "--time", "0")
            self._clear()
            network.rmdir()
            self._processes.close()

    def _with_podman(self) -> Podman | None:
        """None where its networks can't run."""
        podman = Podman(self._directory, self._processes)
        podman.load(self._engine)
        try:
            podman("network", "create", "front")
            podman("run", "--rm", "--network", "front", "-p", "18080:80", "busybox", "true")
        except AssertionError as error:
            print(f"podman's networks can't run here: {str(error).strip().splitlines()[-1]}")
            return None
        return podman

    def _clear(self) -> None:
        for c in self._made:
            (c / "ctl").write_text("kill")
            c.rmdir()
        self._made = []

    def _container(self, name: str, *, network: str = "front", ports: str = "") -> tuple[Path, Place]:
        """One that sleeps, to be cleared."""
        c = self._engine.make(name, "sleep 10000", network=network, ports=ports)
        (c / "ctl").write_text("start")
        self._made.append(c)
        return c, Place(self._processes, int((c / "pid").read_text()))

    # starts

    def _starts(self) -> None:
        podman = self._podman

        def start(network: str, ports: str) -> float:
            c = self._engine.make("c", "true", network=network, ports=ports)
            took = put(c / "ctl", "start")
            (c / "wait").read_text()
            c.rmdir()
            return took

        def podman_start() -> float:
            assert podman is not None
            podman("create", "--name", "c", "--network", "front", "-p", "18080:80", "busybox", "true")
            took = timed(lambda: podman("start", "c"))
            podman("rm", "--force", "--time", "0", "c")
            return took

        ours: Actions = {
            "with a network, port": lambda: start("bridge", "18080:80"),
            "with a network": lambda: start("bridge", ""),
            "without": lambda: start("none", ""),
        }
        if podman is not None:
            ours["podman start"] = podman_start
        rows("start written to process exec'd", alternate(self._rounds, **ours), "1.5 of the same without")

        def cycle() -> None:
            words = ["sh", "-c", CYCLE]
            subprocess.run(words, check=True, stdin=subprocess.DEVNULL, cwd=self._engine.tree)

        cycles: Actions = {"pydock cycle": lambda: timed(cycle)}
        if podman is not None:
            words = ("run", "--rm", "--network", "front", "-p", "18080:80", "busybox", "true")
            cycles["podman run --rm -p"] = lambda: timed(lambda: podman(*words))
        title = "the shell's whole cycle: mkdir, 6 settings, start, wait, rmdir, with a network and a port"
        rows(title, alternate(self._rounds, warmup=1, **cycles), "1/10 of podman run --rm -p")

    def _fifty(self) -> None:
        def fifty(network: str) -> float:
            names = [f"m{number}" for number in range(50)]
            made = [self._engine.make(name, "sleep 1000", network=network) for name in names]
            words = ["xargs", "-P8", "-I{}", "sh", "-c", f"echo start > {self._engine.tree}/containers/{{}}/ctl"]
            took = timed(lambda: subprocess.run(words, input="\n".join(names), text=True, check=True))
            for c in made:
                (c / "ctl").write_text("kill")
                c.rmdir()
            return took

        ours: Actions = {"with a network": lambda: fifty("bridge"), "without": lambda: fifty("none")}
        rows("50 starts, 8 at a time", alternate(3, warmup=1, **ours), "1.5 of the same without")

    # traffic

    def _traffic(self) -> None:
        """Bytes and connections on three ways; the bare pair is the same for all. What a bridge costs by itself is shown beside."""
        left, right = bare_pair(self._processes)
        bridge, one, other_one = bare_bridge(self._processes)
        bridged = ((one, bridge, _BRIDGE), (bridge, other_one, _RIGHT), (one, other_one, _RIGHT))
        published = "".join(f"{_PUBLISHED + port}:{port}\n" for port in (_CLOSING, _STREAMING))
        a, inside = self._container("a", ports=published)
        _, neighbour = self._container("b")
        address = (a / "address").read_text().split()[1].partition("/")[0]
        gateway = (self._engine.tree / "networks/front/gateway").read_text().strip()
        ways = {
            "container to the machine": [("pydock", inside, self._machine, gateway, 0)],
            "the machine to a published port": [("pydock", self._machine, inside, "127.0.0.1", _PUBLISHED)],
            "container to container": [("pydock", neighbour, inside, address, 0)],
        }
        if (podman := self._podman) is not None:
            options = [word for port in (_CLOSING, _STREAMING) for word in ("-p", f"{_PUBLISHED + port}:{port}")]
            theirs, other = podman.container("a", *options), podman.container("b")
            for found, each in zip(
                ways.values(),
                (
                    ("podman", theirs, podman.machine, podman.address("a", "Gateway"), 0),
                    ("podman", podman.machine, theirs, "127.0.0.1", _PUBLISHED),
                    ("podman", other, theirs, podman.address("a"), 0),
                ),
                strict=True,
            ):
                found.append(each)
        for (way, found), beside in zip(ways.items(), bridged, strict=True):
            found[1:1] = [("bare veth", left, right, _RIGHT, 0), ("bare bridge", *beside, 0)]
            for what, port, title in (
                ("stream", _STREAMING, f"{ROUND >> 20} MiB"),
                ("connect", _CLOSING, f"{CONNECTIONS} connections"),
            ):
                both = Processes()
                actions: Actions = {
                    name: client.rounds(both, what, server, target, port + offset, port)
                    for name, client, server, target, offset in found
                }
                took = alternate(_SHORT * self._rounds, **actions)
                both.close()
                rows(f"{title}, {way}, processor's time", took, "1.05 of a bare veth")

    def _thousand(self) -> None:
        """A port beside 999 others, of the same container, so that only their number differs."""
        c, place = self._container("p", ports=f"{_PUBLISHED}:{_CLOSING}")
        many = f"{_PUBLISHED}:{_CLOSING}\n{_PUBLISHED + 1}-{_PUBLISHED + 999}:{_CLOSING + 1}-{_CLOSING + 999}"
        connect = self._machine.rounds(self._processes, "connect", place, "127.0.0.1", _PUBLISHED, _CLOSING)

        def with_ports(ports: str) -> float:
            (c / "ports").write_text(ports)
            return min(connect() for _ in range(3))  # what was removed from the filter is freed meanwhile

        both: Actions = {
            "1,000 published": lambda: with_ports(many),
            "1 published": lambda: with_ports(f"{_PUBLISHED}:{_CLOSING}"),
        }
        title = f"{CONNECTIONS} connections to a published port, processor's time"
        rows(title, alternate(self._rounds, warmup=1, **both), "1.05")

    def _beside_networks(self) -> None:
        """What other networks cost, which have rules of their own."""
        c, place = self._container("n")
        _, neighbour = self._container("o")
        address = (c / "address").read_text().split()[1].partition("/")[0]
        stream = neighbour.rounds(self._processes, "stream", place, address, _STREAMING, _STREAMING)

        def beside(number: int) -> float:
            others = [self._engine.tree / "networks" / f"other{index}" for index in range(number)]
            for other in others:
                other.mkdir()
                (other / "isolate").write_text("1")
            took = min(stream() for _ in range(3))
            for other in others:
                other.rmdir()
            return took

        both: Actions = {f"{_OTHERS} isolated": lambda: beside(_OTHERS), "none": lambda: beside(0)}
        title = f"{ROUND >> 20} MiB, container to container, beside other networks, processor's time"
        rows(title, alternate(self._rounds, warmup=1, **both), "1.05")

    # names

    def _names(self) -> None:
        """Questions of a neighbour's name, as fast as they are answered and at a bounded rate."""
        _, client = self._container("asks")
        self._container("db")
        gateway = (self._engine.tree / "networks/front/gateway").read_text().strip()
        servers = {"pydock": (client, gateway, "db")}
        left, right = bare_pair(self._processes)
        words = ("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root")
        self._processes.start(*right.within(*words, "--pid-file", "--host-record=db,192.0.2.9"))
        servers["dnsmasq"] = (left, _RIGHT, "db")
        if (podman := self._podman) is not None:
            theirs = podman.container("asks")
            podman.container("db")
            servers["podman"] = (theirs, podman.address("asks", "Gateway"), "db.dns.podman")
        actions: Actions = {}
        for label, (place, address, name) in servers.items():
            questions = self._directory / f"{label}.questions"
            questions.write_text(f"{name} A\n" * _QUESTIONS)
            actions[label] = lambda place=place, address=address, questions=questions: _flood(place, address, questions)  # type: ignore[misc]
        title = "a thousand questions of a neighbour's name, 50 at once"
        rows(title, alternate(self._rounds, warmup=1, **actions), "none")
        paced: Actions = {
            label: lambda place=place, address=address, name=name: float(  # type: ignore[misc]
                place.say(sys.executable, _TRAFFIC, "ask", address, name, str(_RATE), "1")
            )
            for label, (place, address, name) in servers.items()
        }
        rows(f"{_RATE} a second, 99 of 100", alternate(self._rounds, warmup=1, **paced), "none")


def _flood(place: Place, address: str, questions: Path) -> float:
    """Milliseconds for a thousand answers."""
    words = ("dnsperf", "-s", address, "-d", str(questions), "-n", "1", "-c", "1", "-q", "50", "-T", "1")
    lines = dict(line.strip().partition(":")[::2] for line in place.say(*words).splitlines() if ":" in line)
    assert lines["Response codes"].split()[0] == "NOERROR", lines
    return 1e6 / float(lines["Queries per second"])
