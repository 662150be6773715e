"""The reports of a container: ``changes`` and ``stats``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
STATS = (
    "cpu_usec memory_bytes memory_peak_bytes pids io_read_bytes io_write_bytes net_rx_bytes net_tx_bytes net_rx_packets "
    "net_tx_packets"
)


def run(container: Path) -> None:
    (container / "ctl").write_text("start")
    assert (container / "wait").read_text() == "0\n"


def test_a_container_that_did_nothing_has_changed_nothing(make: Make, tmp_path: Path) -> None:
    c = make(command="true", volumes=f"{tmp_path}:/a/b/c\n", tmpfs="/t/u\n", workdir="/tmp")
    assert (c / "changes").read_text() == ""
    run(c)
    assert (c / "changes").read_text() == ""


@pytest.mark.parametrize("kept", ["", "etc/passwd"], ids=["bare", "etc"])
def test_a_run_leaves_nothing_in_the_writable_layer(engine: Engine, make: Make, tmp_path: Path, kept: str) -> None:
    """What is mounted on in every container is below its image, also below one that has no such directory."""
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/busybox", tmp_path / "bin/true")
    if kept:
        (tmp_path / "etc").mkdir()
        (tmp_path / kept).write_text("x:x:0:0::/:/bin/true\n")
    c = make(image=str(tmp_path), command="/bin/true")
    run(c)
    assert os.listdir(engine.root / "containers" / (c / "id").read_text().strip() / "upper") == []
    assert (c / "changes").read_text() == ""
    assert sorted(os.listdir(c / "rootfs")) == ["bin", "dev", "etc", "proc", "sys"]
    assert sorted(os.listdir(tmp_path)) == (["bin", "etc"] if kept else ["bin"])


def test_what_a_container_changed_is_told_by_kind(make: Make) -> None:
    script = 'rm /etc/passwd; echo >> /etc/group; touch "/new\nline"; rm -r /var; mkdir /var; mkdir /var/own'
    c = make(command="sh")
    (c / "ctl").write_text("start")
    (c / "stdin").write_text(f"{script}\nexit 0\n")
    assert (c / "wait").read_text() == "0\n"
    lines = (c / "changes").read_text().splitlines()
    assert {"C /etc", "D /etc/passwd", "C /etc/group", "A /new\\012line", "C /var", "A /var/own"} <= set(lines)
    assert lines == sorted(lines, key=lambda line: line[2:].encode())
    (c / "ctl").write_text("reset")
    assert (c / "changes").read_text() == ""


def test_stats_has_a_figure_a_line(make: Make) -> None:
    c = make(command="sh -c 'i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 1000'")
    assert [line.split()[0] for line in (c / "stats").read_text().splitlines()] == STATS.split()
    (c / "ctl").write_text("start")
    values = {key: int(value) for key, value in map(str.split, (c / "stats").read_text().splitlines())}
    assert values["pids"] >= 1
    assert values["memory_peak_bytes"] >= values["memory_bytes"] > 0
    (c / "ctl").write_text("kill")
    after = {key: int(value) for key, value in map(str.split, (c / "stats").read_text().splitlines())}
    assert after["cpu_usec"] > 0
    assert after["pids"] == 0


def received() -> int:
    """Bytes that have come by the tests' own links, lo aside."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[0]) for line in lines if line.split(":")[0].strip() != "lo")


def test_stats_of_a_container_with_the_machine_s_network_has_its_figures(make: Make) -> None:
    c = make(command="sleep 1000", network="host")
    (c / "ctl").write_text("start")
    before = received()
    stats = dict(line.split(" ", 1) for line in (c / "stats").read_text().splitlines())
    assert before <= int(stats["net_rx_bytes"]) <= received()
