"""The linters, as tests: one command checks everything."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["setuptools"]
BIN = Path(sys.executable).parent


def _is_shell(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.readline().rstrip().endswith((b"/sh", b"/bash", b"env bash"))


SCRIPTS = sorted(
    path
    for place in (".ci", "mount-helpers", "tests")
    for path in (HOME / place).rglob("*")
    if path.is_file() and _is_shell(path)
)


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the packages at the paths that their names say: mypy would know each module by two names otherwise."""
    top = tmp_path_factory.mktemp("packages")
    for name, place in SETUPTOOLS["package-dir"].items():
        path = top.joinpath(*name.split("."))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(HOME / place)
    return top


def _clean(command: list[str | Path], cwd: Path, **environment: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    _clean([BIN / "ruff", "check", "--no-cache", "."], HOME)


def test_everything_is_formatted() -> None:
    _clean([BIN / "ruff", "format", "--no-cache", "--check", "."], HOME)


def test_types_are_right(packages: Path) -> None:
    names = [part for name in SETUPTOOLS["package-dir"] for part in ("-p", name)]
    command = [BIN / "mypy", "--strict", "--config-file", HOME / "pyproject.toml", *names]
    _clean(command, packages, MYPYPATH=str(packages))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(HOME)))
def test_a_shell_script_parses(script: Path) -> None:
    shell = "bash" if b"bash" in script.read_bytes().partition(b"\n")[0] else "sh"
    _clean([shell, "-n", script], HOME)
