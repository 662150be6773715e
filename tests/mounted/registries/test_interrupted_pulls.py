"""Pulls that are interrupted, by the registry, a signal, a death, a full disk: the next one goes on, and nothing is fetched twice."""

from __future__ import annotations

import errno
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Engine, Faulty

ErrnoOf = Callable[[Path, str], int]
Handler = Any
PATIENCE = 60


def tell(engine: Engine, faulty: Faulty) -> None:
    path = engine.tree / "registries" / faulty.host
    path.mkdir()
    (path / "insecure").write_text("1")


class Stalled:
    """Answers a blob's first bytes, and then nothing until it is told."""

    def __init__(self, faulty: Faulty, path: str, first: int) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        whole, data = faulty.answers[path], faulty.bodies[path]

        def answer(request: Handler) -> None:
            if self.go.is_set():
                whole(request)
                return
            request.send_response(200)
            request.send_header("Content-Length", str(len(data)))
            request.end_headers()
            request.wfile.write(data[:first])
            request.wfile.flush()
            self.reached.set()
            self.go.wait(PATIENCE)
            request.close_connection = True

        faulty.answers[path] = answer


def left(engine: Engine) -> int:
    """The bytes of the partial blob."""
    return sum(path.stat().st_size for path in (engine.root / "images/partial").iterdir())


def has_come(engine: Engine, size: int) -> None:
    """Wait until the partial blob has *size* bytes."""
    deadline = time.monotonic() + PATIENCE
    while left(engine) < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def stalled(own_engine: Engine, faulty: Faulty) -> Iterator[tuple[Stalled, str]]:
    """A pull that has got stuck after 2 MiB of 3: in an engine of its own."""
    tell(own_engine, faulty)
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=faulty.random(3 << 20)))
    blob = f"/v2/a/blobs/{manifest['layers'][0]['digest']}"
    trap = Stalled(faulty, blob, 2 << 20)
    yield trap, blob
    trap.go.set()


def started(engine: Engine, faulty: Faulty) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["sh", "-c", f"echo pull {faulty.host}/a:1 > images/ctl"], cwd=engine.tree, stderr=subprocess.PIPE, text=True
    )


def goes_on(engine: Engine, faulty: Faulty, trap: Stalled, blob: str) -> None:
    """What has come, which is the half at least, is not asked for again."""
    begin = left(engine)
    assert 1 << 20 <= begin <= 2 << 20
    trap.go.set()
    (engine.tree / "images/ctl").write_text(f"pull {faulty.host}/a:1")
    assert faulty.asked(blob)[-1][2]["range"] == f"bytes={begin}-"
    assert (engine.tree / "images" / faulty.host / "a:1/rootfs/a").stat().st_size == 3 << 20
    assert list((engine.root / "images/partial").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_pull_and_the_next_one_goes_on(
    own_engine: Engine, faulty: Faulty, stalled: tuple[Stalled, str], number: signal.Signals
) -> None:
    trap, blob = stalled
    puller = started(own_engine, faulty)
    assert trap.reached.wait(PATIENCE)
    progress = own_engine.tree / "images/progress"
    digest = blob.rpartition("/")[2]
    deadline = time.monotonic() + PATIENCE
    while not progress.read_text().startswith(f"pull {faulty.host}/a:1 {digest} "):
        assert time.monotonic() < deadline
    has_come(own_engine, 1 << 20)
    puller.send_signal(number)
    began = time.monotonic()
    puller.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < 30
    deadline = time.monotonic() + PATIENCE
    while progress.read_text():
        assert time.monotonic() < deadline
    assert f"{faulty.host}" not in (own_engine.root / "images/index.json").read_text()
    goes_on(own_engine, faulty, trap, blob)


def test_a_pull_that_was_killed_with_pydockd_goes_on(
    own_engine: Engine, faulty: Faulty, stalled: tuple[Stalled, str]
) -> None:
    trap, blob = stalled
    puller = started(own_engine, faulty)
    assert trap.reached.wait(PATIENCE)
    has_come(own_engine, 1 << 20)
    own_engine.kill()
    puller.communicate(timeout=PATIENCE)
    begin = left(own_engine)
    own_engine.start()
    trap.go.set()
    (own_engine.tree / "images/ctl").write_text(f"pull {faulty.host}/a:1")
    assert faulty.asked(blob)[-1][2]["range"] == f"bytes={begin}-"


def test_two_pulls_of_one_image_share_the_work(
    own_engine: Engine, faulty: Faulty, stalled: tuple[Stalled, str]
) -> None:
    trap, blob = stalled
    pullers = [started(own_engine, faulty), started(own_engine, faulty)]
    assert trap.reached.wait(PATIENCE)
    trap.go.set()
    for puller in pullers:
        _, said = puller.communicate(timeout=PATIENCE)
        assert (puller.returncode, said) == (0, "")
    begins = [headers.get("range", "bytes=0-") for _, _, headers in faulty.asked(blob)]
    assert len(begins) == len(set(begins))


def test_spoilt_bytes_of_an_earlier_pull_are_fetched_again(
    own_engine: Engine, faulty: Faulty, stalled: tuple[Stalled, str]
) -> None:
    trap, blob = stalled
    trap.go.set()
    partial = own_engine.root / "images/partial" / f"sha256-{blob.rpartition(':')[2]}"
    partial.write_bytes(b"x" * 1000)
    (own_engine.tree / "images/ctl").write_text(f"pull {faulty.host}/a:1")
    assert [headers.get("range") for _, _, headers in faulty.asked(blob)] == ["bytes=1000-", None]


def test_gc_gives_back_what_an_interrupted_pull_has_left(
    own_engine: Engine, faulty: Faulty, stalled: tuple[Stalled, str]
) -> None:
    trap, blob = stalled
    puller = started(own_engine, faulty)
    assert trap.reached.wait(PATIENCE)
    has_come(own_engine, 1 << 20)
    (own_engine.tree / "ctl").write_text("gc")
    assert list((own_engine.root / "images/partial").iterdir()) != []  # it is being brought in
    puller.send_signal(signal.SIGTERM)
    puller.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while (own_engine.tree / "images/progress").read_text():
        assert time.monotonic() < deadline
    (own_engine.tree / "ctl").write_text("gc")
    assert list((own_engine.root / "images/partial").iterdir()) == []


def test_a_full_disk_is_enospc_and_the_next_pull_goes_on(
    small_engine: Engine, faulty: Faulty, errno_of: ErrnoOf
) -> None:
    tell(small_engine, faulty)
    faulty.image("a", "1", faulty.layer(a=faulty.random(1 << 20)), faulty.layer(b=faulty.random(12 << 20)))
    ballast = small_engine.root / "ballast"
    ballast.write_bytes(bytes(8 << 20))
    assert errno_of(small_engine.tree / "images/ctl", f"pull {faulty.host}/a:1") == errno.ENOSPC
    assert faulty.host not in (small_engine.root / "images/index.json").read_text()
    ballast.unlink()
    before = len(faulty.requests)
    assert errno_of(small_engine.tree / "images/ctl", f"pull {faulty.host}/a:1") == 0, small_engine.log
    fetched = [path for _, path, _ in faulty.requests[before:] if "/blobs/" in path]
    assert len(fetched) <= 2  # the config, and at most one of the layers


def test_layers_that_have_no_room_at_all_are_enospc_before_a_byte_has_come(
    small_engine: Engine, faulty: Faulty, errno_of: ErrnoOf
) -> None:
    tell(small_engine, faulty)
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    del manifest["digest"], manifest["size"]
    manifest["layers"][0]["size"] = 1 << 40
    faulty.manifest("a", "1", manifest)
    assert errno_of(small_engine.tree / "images/ctl", f"pull {faulty.host}/a:1") == errno.ENOSPC
    assert faulty.asked(manifest["layers"][0]["digest"]) == []
