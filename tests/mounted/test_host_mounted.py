"""``echo host > image``: the machine's own programs in a container."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., Path]


def output(make: Make, command: str, **settings: str) -> str:
    c = make("h", **settings)
    (c / "image").write_text("host")
    (c / "command").write_text(command)
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    return (c / "log").read_text()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("python3 -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 0)'", "True\n"),
        ("perl -MPOSIX -e 'print floor(2.5)'", "2"),
        ("sh -c 'git init -q /tmp/r && git -C /tmp/r rev-parse --is-inside-work-tree'", "true\n"),
        (
            "sh -c 'readlink /bin; ls /home /root; id -un; echo x | awk \"{print NR}\"'",
            "usr/bin\n/home:\n\n/root:\nroot\n1\n",
        ),
        ("cat /etc/shadow /etc/ssh/sshd_config", None),
        ("sh -c 'ls -A /var/lib /opt /srv /mnt /media; ls -d /work /boot'", None),
    ],
)
def test_programs_of_the_machine_run_and_see_nothing_else_of_it(make: Make, command: str, said: str | None) -> None:
    found = output(make, command)
    if said is None:
        assert all("No such file" in line or line.endswith(":") or not line for line in found.splitlines())
    else:
        assert found == said


def test_it_can_be_written_and_the_machine_is_not(make: Make) -> None:
    name = f"pydock-test-{os.getpid()}"
    said = output(
        make, f"sh -c 'echo here > /usr/local/{name}; rm /usr/bin/env; cat /usr/local/{name}; ls /usr/bin/env'"
    )
    assert said.startswith("here\n")
    assert "No such file" in said
    assert not Path(f"/usr/local/{name}").exists()
    assert Path("/usr/bin/env").exists()


def test_changes_and_rootfs_show_what_was_written_to_usr(make: Make, engine: object) -> None:
    output(make, "sh -c 'rm /usr/bin/env; echo x > /usr/lib/new'")
    c = Path(engine.tree) / "containers/h"  # type: ignore[attr-defined]
    assert {"D /usr/bin/env", "A /usr/lib/new"} <= set((c / "changes").read_text().splitlines())
    assert (c / "rootfs/usr/lib/new").read_text() == "x\n"
    (c / "ctl").write_text("reset")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert (c / "exit_code").read_text() == "0\n"  # /usr/bin/env is there again


def test_the_root_that_is_read_only_is_so_in_usr_too(make: Make) -> None:
    assert output(make, "sh -c 'touch /usr/x /x; echo'", readonly="1").count("Read-only file system") == 2


@pytest.mark.parametrize("place", [".", "usr"])
def test_a_rootfs_that_somebody_is_in_stays_whole(make: Make, place: str) -> None:
    c = make("h")
    (c / "image").write_text("host")
    root = Path(os.readlink(c / "rootfs"))
    with subprocess.Popen(["/bin/sleep", "1000"], cwd=root / place) as somebody:
        with pytest.raises(OSError, match="Device or resource busy"):
            c.rmdir()
        assert (root / "usr/bin/python3").exists() or (root / "usr/bin").is_dir()
        somebody.kill()


def test_it_is_no_reference_and_is_not_listed(make: Make, tree: Path) -> None:
    c = make("h")
    (c / "image").write_text("host")
    assert (c / "image").read_text() == "host\n"
    assert "host" not in os.listdir(tree / "images")
    with pytest.raises(OSError, match="No such") as refused:
        (c / "image").write_text("host:latest")
    assert refused.value.errno == errno.ENOENT
