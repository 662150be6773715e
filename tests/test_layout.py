"""The shape of the project: what is packaged, what is documented, who may import whom, how long a module may be."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydock.fs import reference
from pydock.fs.containers.cgroup import DOCS
from pydock.fs.containers.directory import TABLE as CONTAINER
from pydock.fs.containers.execs import EXEC
from pydock.fs.containers.health import HEALTH
from pydock.fs.containers.settings import SETTINGS
from pydock.fs.imagefiles import IMAGE
from pydock.fs.images import TOP
from pydock.fs.node import Control, Entry, Value
from pydock.fs.root import TABLE as ROOT
from pydock.fs.volumes import VOLUME
from pydock.runtime.cgroup import Hierarchy
from pydock.runtime.spec import Spec

HOME = Path(__file__).parents[1]
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())
PLACES = PROJECT["tool"]["setuptools"]["package-dir"]
TABLES = {
    "root": ROOT,
    "container": CONTAINER,
    "exec": EXEC,
    "health": HEALTH,
    "images": TOP,
    "image": IMAGE,
    "volume": VOLUME,
}
ENTRIES = [pytest.param(entry, id=f"{where}-{entry.name}") for where, table in TABLES.items() for entry in table]
SOURCES = sorted(path for place in [*PLACES.values(), "tests"] for path in (HOME / place).rglob("*.py"))

#: Modules that are longer than 400 lines, and why they are one all the same.
LONG = {
    "fs/operations.py": "the one class that pyfuse3 wants",
    "runtime/syscalls.py": "every system call, and nothing else",
}


def test_every_package_is_listed() -> None:
    found = {
        ".".join([name, *directory.relative_to(HOME / place).parts])
        for name, place in PLACES.items()
        for directory in (path.parent for path in (HOME / place).rglob("__init__.py"))
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_the_reference_is_made_from_the_tables() -> None:
    assert (HOME / "fs/INTERFACE.rst").read_text() == reference.render()


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_file_has_its_words_in_the_reference(entry: Entry) -> None:  # type: ignore[type-arg]
    assert len(entry.doc) > 10
    assert entry.doc.endswith((".", ")"))
    if isinstance(entry, Control):
        assert all(verb.doc and verb.usage.split()[0] == verb.name for verb in entry.verbs)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_no_table_has_a_name_twice(table: tuple[Entry, ...]) -> None:  # type: ignore[type-arg]
    names = [entry.name for entry in table]
    assert len(names) == len(set(names))


def test_every_setting_of_the_spec_is_a_file_and_every_file_is_kept() -> None:
    kept = {field.name for field in dataclasses.fields(Spec)} - {"cgroup"}
    health = {f"health_{entry.name}" for entry in HEALTH if isinstance(entry, Value) and entry.store is not None}
    assert kept == {entry.name for entry in SETTINGS} - {"spec.toml"} | health


def test_every_cgroup_file_that_this_kernel_has_is_documented() -> None:
    assert set(Hierarchy.detect("pydock-test").cgroup("any").names()) <= set(DOCS)


def test_imports_go_down() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_a_module_has_one_subject(path: Path) -> None:
    assert path.name not in ("utils.py", "helpers.py", "common.py", "misc.py")
    lines = len(path.read_text().splitlines())
    name = str(path.relative_to(HOME))
    assert lines <= 400 or name in LONG or name.startswith("tests/")
    assert lines <= 640


def test_modules_that_are_listed_as_long_are_long() -> None:
    assert {name for name in LONG if len((HOME / name).read_text().splitlines()) <= 400} == set()


def test_test_modules_have_names_of_their_own() -> None:
    names = [path.name for path in SOURCES if path.name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
