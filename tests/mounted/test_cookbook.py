"""The cookbook's examples, taken from the document as they stand and run by the shell.

Its ``/mnt/pydock`` is the tests' engine, ``/mnt/elsewhere`` another one, ``~`` an empty directory, and ``server`` this machine, by SSH.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.fs import reference

if TYPE_CHECKING:
    from conftest import Engine

COOKBOOK = Path(reference.__file__).with_name("COOKBOOK.rst")


@dataclass(frozen=True)
class Block:
    """A literal block, and the paragraph that announces it."""

    announced: str
    text: str

    @property
    def file(self) -> str:
        """The name of the file below the home directory that it is; empty for others."""
        found = re.search(r"``~/(\S+)``::$", self.announced)
        return found[1] if found else ""

    @property
    def is_output(self) -> bool:
        """It is what the script before it prints."""
        return self.announced.startswith("It prints")


def sections() -> dict[str, list[Block]]:
    """The literal blocks by their section's title; those before the first section are needed by all, and have the title ""."""
    title = ""
    found: dict[str, list[Block]] = {title: []}
    paragraphs = COOKBOOK.read_text().split("\n\n")
    while paragraphs:
        paragraph = paragraphs.pop(0)
        if re.fullmatch(r".+\n=+", paragraph):
            title = paragraph.partition("\n")[0]
            found[title] = []
        elif paragraph.endswith("::"):
            text = paragraphs.pop(0)
            while paragraphs and paragraphs[0].startswith("    "):
                text += "\n\n" + paragraphs.pop(0)
            found[title].append(Block(paragraph.replace("\n", " "), textwrap.dedent(text).rstrip("\n") + "\n"))
    return found


SECTIONS = sections()
PRELUDE = "\n".join(block.text for block in SECTIONS.pop(""))


class Kitchen:
    """Where the examples are run: by a shell, with a home directory of its own."""

    def __init__(self, home: Path, places: dict[str, Path]) -> None:
        self.home = home
        self.places = places
        (home / "bin").mkdir()

    def here(self, text: str) -> str:
        """*text* with the places that there are here."""
        for place, path in self.places.items():
            text = text.replace(place, str(path))
        return text

    def command(self, name: str, script: str) -> None:
        """A program *name* that comes before the system's."""
        path = self.home / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str) -> str:
        """What the script prints; it must not fail, nor complain."""
        done = subprocess.run(
            ["/bin/sh", "-eu", "-c", self.here(PRELUDE + script)],
            env={
                "HOME": str(self.home),
                "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
                "LC_ALL": "C.UTF-8",
                "ANSIBLE_REMOTE_TMP": str(self.home / "ansible"),
                "ANSIBLE_LOCALHOST_WARNING": "false",
                "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def ssh_server(kitchen: Kitchen, port: int) -> Iterator[None]:
    """``ssh server`` leads to this machine, by keys and a port of the test's own."""
    key, host_key = kitchen.home / "id", kitchen.home / "host"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    subprocess.run(["dropbearkey", "-t", "ed25519", "-f", host_key], check=True, capture_output=True)
    options = (
        f"-p {port} -l root -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    )
    kitchen.command("ssh", f'exec {shutil.which("ssh")} -F none {options} -o HostName=127.0.0.1 "$@"')
    # In root's home, as that server sees it, are the keys that it takes, and nothing else.
    serve = (
        f'mount -t tmpfs -o mode=700 keys "$HOME" && mkdir -m 700 "$HOME/.ssh" && cp "$1" "$HOME/.ssh/authorized_keys" && '
        f"exec dropbear -F -s -r {shlex.quote(str(host_key))} -p 127.0.0.1:{port}"
    )
    server = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", serve, "sh", f"{key}.pub"], env={**os.environ, "HOME": "/root"}
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([kitchen.home / "bin/ssh", "server", "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline
        yield
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def kitchen(module_engine: Engine, tmp_path: Path) -> Iterator[Kitchen]:
    """The module's engine, emptied afterwards."""
    yield Kitchen(tmp_path, {"/mnt/pydock": module_engine.tree})
    module_engine.clear()
    for path in [*module_engine.tree.glob("volumes/*"), *module_engine.tree.glob("images/web:*")]:
        path.rmdir()


@pytest.mark.parametrize("title", SECTIONS)
def test_the_cookbook_works(
    kitchen: Kitchen, title: str, free: Callable[[], int], request: pytest.FixtureRequest
) -> None:
    blocks = SECTIONS[title]
    with contextlib.ExitStack() as stack:
        if any("/mnt/elsewhere" in block.text for block in blocks):
            kitchen.places["/mnt/elsewhere"] = request.getfixturevalue("own_engine").tree
        if any("ssh server" in block.text for block in blocks):
            stack.enter_context(ssh_server(kitchen, free()))
        printed = ""
        for block in blocks:
            if block.file:
                (kitchen.home / block.file).write_text(kitchen.here(block.text))
            elif block.is_output:
                pattern = re.escape(block.text).replace("…", ".*")
                assert re.fullmatch(pattern, printed), f"prints\n{printed}\nnot\n{block.text}"
            else:
                printed = kitchen.run(block.text)
