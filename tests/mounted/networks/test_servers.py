"""nginx and redis, as Debian has them, in each mode of a container's network, and the clients that people use."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from networks.conftest import Host

Make = Callable[..., Path]
#: Each answers with its name and the client's address.
NGINX = """daemon off; error_log stderr; events {} http {
    access_log /dev/stdout; client_body_temp_path /tmp; types {}
    server { listen PORT; listen [::]:PORT; location / { return 200 "NAME $remote_addr\\n"; } }
}"""


@pytest.fixture
def nginx(make: Make, servers: str, machine: Host) -> Callable[..., Path]:
    """``nginx(NAME, PORT, …)``: a container with nginx at that port."""

    def start(name: str, port: int = 80, **settings: str) -> Path:
        text = NGINX.replace("NAME", name).replace("PORT", str(port))
        script = 'printf %s "$1" > /tmp/nginx.conf; exec nginx -e stderr -c /tmp/nginx.conf'
        command = json.dumps(["sh", "-c", script, "sh", text])
        return run(make(name, image=servers, command=command, **settings), port)

    return start


@pytest.fixture
def redis(make: Make, servers: str) -> Callable[..., Path]:
    """``redis(NAME, PORT, …)``: a container with redis at that port."""

    def start(name: str, port: int = 6379, **settings: str) -> Path:
        command = f'redis-server --port {port} --protected-mode no --save ""'
        return run(make(name, image=servers, command=command, **settings), port)

    return start


def run(c: Path, port: int) -> Path:
    """Start it, and wait until it listens."""
    (c / "ctl").write_text("start")
    deadline = time.monotonic() + 60
    table = Path(f"/proc/{(c / 'pid').read_text().strip()}/net/tcp")
    while f":{port:04X} 00000000:0000 0A" not in table.read_text():
        assert (c / "state").read_text() == "running\n", (c / "log").read_text()
        assert time.monotonic() < deadline, (c / "log").read_text()
        time.sleep(0.01)
    return c


def got(host: Host, url: str) -> str:
    """What curl says."""
    return host.run("curl", "-sS", "--max-time", "60", url, check=False).strip()


def test_in_a_network(
    nginx: Callable[..., Path],
    redis: Callable[..., Path],
    outside: Host,
    machine: Host,
    inside: Callable[[Path], Host],
    front: Path,
    free: Callable[[], int],
) -> None:
    web, store = free(), free()
    a = nginx("web", network="front", ports=f"{web}:80\n")
    b = redis("store", network="front", ports=f"{store}:6379\n")
    assert got(outside, f"http://192.0.2.1:{web}/") == "web 192.0.2.2"
    assert got(outside, f"http://[2001:db8::1]:{web}/") == "web 2001:db8::2"
    assert got(machine, f"http://localhost:{web}/").startswith("web ")
    gateway = (front / "gateway").read_text().strip()
    address = inside(b).run("dig", "+short", f"@{gateway}", "web").strip()
    assert address == (a / "address").read_text().split()[1].partition("/")[0]
    assert got(inside(b), f"http://{address}/").startswith("web ")
    said = outside.run("wrk", "-t", "1", "-c", "4", "-d", "1s", f"http://192.0.2.1:{web}/")
    assert "requests in" in said
    assert "Socket errors" not in said
    assert "Non-2xx" not in said
    assert "192.0.2.2 - - " in (a / "log").read_text()

    def ask(host: Host, *words: str) -> str:
        return host.run("redis-cli", "-h", "192.0.2.1", "-p", str(store), *words).strip()

    assert ask(outside, "set", "key", "value") == "OK"
    assert ask(machine, "get", "key") == "value"
    assert ask(inside(a), "get", "key") == "value"
    assert "laddr=" in ask(outside, "client", "list")
    assert "addr=192.0.2.2:" in ask(outside, "client", "list")


def test_in_the_machine_s_network(nginx: Callable[..., Path], outside: Host, free: Callable[[], int]) -> None:
    port = free()
    nginx("web", port, network="host")
    assert got(outside, f"http://192.0.2.1:{port}/") == "web 192.0.2.2"
    assert got(outside, f"http://[2001:db8::1]:{port}/") == "web 2001:db8::2"


def test_in_none(nginx: Callable[..., Path], machine: Host, inside: Callable[[Path], Host]) -> None:
    c = nginx("web", network="none")
    assert got(inside(c), "http://127.0.0.1/") == "web 127.0.0.1"
    assert got(inside(c), "http://[::1]/") == "web ::1"
    assert [line.split()[0] for line in inside(c).run("ip", "-br", "link").splitlines()] == ["lo"]


def test_in_another_container_s(
    nginx: Callable[..., Path],
    redis: Callable[..., Path],
    outside: Host,
    inside: Callable[[Path], Host],
    front: Path,
    free: Callable[[], int],
) -> None:
    port = free()
    a = nginx("web", network="front", ports=f"{port}:6379\n")
    b = redis("store", network="container:web")
    assert outside.run("redis-cli", "-h", "192.0.2.1", "-p", str(port), "ping") == "PONG\n"
    assert got(inside(b), "http://127.0.0.1/") == "web 127.0.0.1"
    assert inside(a).run("redis-cli", "ping") == "PONG\n"


@pytest.mark.parametrize("datagrams", [False, True])
def test_what_iperf_sends_arrives(
    make: Make, outside: Host, front: Path, free: Callable[[], int], *, datagrams: bool
) -> None:
    port = free()
    c = make("a", image="host", command="iperf3 --server", network="front", ports=f"{port}:5201\n{port}:5201/udp\n")
    run6(c)
    kind = ("--udp", "--bitrate", "20M") if datagrams else ()
    for way in ((), ("--reverse",)):
        command = ("iperf3", "--client", "192.0.2.1", "--port", str(port), "--time", "1", "--json", *kind, *way)
        deadline = time.monotonic() + 60
        while "error" in (said := json.loads(outside.run(*command, check=False))):  # its server listens anew after each
            assert time.monotonic() < deadline, said
        assert said["end"]["sum" if datagrams else "sum_received"]["bytes"] > 100_000


def run6(c: Path) -> None:
    (c / "ctl").write_text("start")
    deadline = time.monotonic() + 60
    table = Path(f"/proc/{(c / 'pid').read_text().strip()}/net/tcp6")
    while ":1451 " not in table.read_text():
        assert time.monotonic() < deadline, (c / "log").read_text()
        time.sleep(0.01)
