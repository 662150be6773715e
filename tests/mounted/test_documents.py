"""spec.toml both ways, with the tools that people have; and env-files."""

from __future__ import annotations

import errno
import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]

SETTINGS = {
    "command": "sh -c 'sleep 1000'",
    "env": "A=1\nB=two words\n",
    "user": "1:2",
    "stop_timeout": "1.5",
    "readonly": "1",
    "autoremove": "0",
    "tmpfs": "/t:size=1M\n",
}


def sh(script: str, where: Path) -> str:
    """What a script that succeeds prints."""
    done = subprocess.run(["sh", "-e", "-c", script], cwd=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "script",
    [
        "cp a/spec.toml b/spec.toml",
        "cat a/spec.toml > b/spec.toml",
        "install -m 600 a/spec.toml b/spec.toml",
        "rsync a/spec.toml b/spec.toml",
        "rsync -a --inplace a/spec.toml b/spec.toml",
        "cp a/spec.toml b/.new && mv b/.new b/spec.toml",
        "tar c -C a spec.toml | tar x -C b",
        "dd if=a/spec.toml of=b/spec.toml bs=10 status=none",
        "tee b/spec.toml < a/spec.toml > /dev/null",
    ],
)
def test_a_container_becomes_like_another(make: Make, tree: Path, script: str) -> None:
    a = make("a", **SETTINGS)
    (a / "cgroup/memory.max").write_text("64M")
    b = make("b", hostname="gone")
    sh(script, tree / "containers")
    assert (b / "spec.toml").read_text() == (a / "spec.toml").read_text()
    assert (b / "env").read_text() == (a / "env").read_text()
    assert (b / "cgroup/memory.max").read_text() == "67108864\n"
    assert (b / "hostname").read_text() == (b / "id").read_text()[:12] + "\n"


@pytest.mark.cgroup
@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("memory.max", "64M", "67108864"),
        ("memory.max", "5000", "4096"),
        ("cpu.max", "50000", "50000 100000"),
        ("cpu.weight", "0077", "77"),
        ("cpuset.cpus", "0,0-0", "0"),
        ("pids.max", "0010", "10"),
        ("pids.max", "max", None),
    ],
)
def test_limits_in_a_document_are_canonical_as_those_of_their_files(
    make: Make, name: str, written: str, read: str | None
) -> None:
    by_file, by_document = make("a"), make("b")
    (by_file / f"cgroup/{name}").write_text(written)
    (by_document / "spec.toml").write_text(f'image = "busybox"\n[cgroup]\n"{name}" = "{written}"\n')
    limits = {} if read is None else {"cgroup": {name: read}}
    assert tomllib.loads((by_document / "spec.toml").read_text()) == {"image": "busybox:latest", **limits}
    assert (by_document / "spec.toml").read_text() == (by_file / "spec.toml").read_text()


def test_sizes_and_durations_in_a_document_may_be_written_as_in_their_files(make: Make) -> None:
    c = make()
    (c / "spec.toml").write_text('shm_size = "64K"\nstop_timeout = "1m"\ninit = "1"\n[health]\ninterval = "500ms"\n')
    names = ("shm_size", "stop_timeout", "init", "health/interval")
    assert [(c / name).read_text() for name in names] == ["65536\n", "60\n", "1\n", "0.5\n"]


@pytest.mark.parametrize(
    "script",
    [
        "sed -i 's/two words/three words/' c/spec.toml",
        "ex -s -c '%s/two words/three words/' -c 'wq' c/spec.toml",
        "sed 's/two words/three words/' c/spec.toml > copy; cp copy c/spec.toml",
    ],
)
def test_editors_change_a_setting_in_the_document(make: Make, tree: Path, tmp_path: Path, script: str) -> None:
    c = make(**SETTINGS)
    (tmp_path / "c").symlink_to(c)
    sh(script, tmp_path)
    assert (c / "env").read_text() == "A=1\nB=three words\n"
    assert (c / "user").read_text() == "1:2\n"


def test_git_keeps_and_restores_the_documents(make: Make, tree: Path, tmp_path: Path) -> None:
    c = make(**SETTINGS)
    (c / "spec.toml").read_text()
    git = f"git -c user.name=x -c user.email=x@y --git-dir={tmp_path}/git --work-tree=."
    before = (c / "spec.toml").read_text()
    sh(f"{git} init -q; {git} add c/spec.toml; {git} commit -qm one", tree / "containers")
    (c / "user").write_text("5")
    (c / "hostname").write_text("later")
    sh(f"{git} checkout -q -- c/spec.toml", tree / "containers")
    assert (c / "spec.toml").read_text() == before
    assert sh(f"{git} status --porcelain -uno", tree / "containers") == ""


def test_the_settings_of_all_containers_are_saved_and_restored(make: Make, tree: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make(name, **SETTINGS, hostname=name)
    sh(f"rsync -a --include='*/' --include=spec.toml --exclude='*' containers/ {tmp_path}/saved/", tree)
    for name in ("a", "b"):
        (tree / "containers" / name / "spec.toml").write_text("")
    sh(f"rsync -a --include='*/' --include=spec.toml --exclude='*' {tmp_path}/saved/ containers/", tree)
    assert [(tree / "containers" / name / "hostname").read_text() for name in ("a", "b")] == ["a\n", "b\n"]


@pytest.mark.parametrize(
    ("document", "number", "words"),
    [
        (
            "image = 'busybox'\nhostnam = 'x'\n",
            errno.EINVAL,
            'line 2: "hostnam" is not a setting: did you mean hostname?',
        ),
        ("# note\nhostname = 7\n", errno.EINVAL, "line 2: hostname is not a text"),
        ("\nhostname = 'a b'\n", errno.EINVAL, "line 2: hostname:"),
        ("env = [\n 'A=1',\n]\nvolumes = ['/no/such:/x']\n", errno.ENOENT, "line 4: "),
        ("image = 'no-such'\n", errno.ENOENT, "line 1: "),
        (
            "[cgroup]\n'cpu.weight' = '1'\n'memory.mux' = '1'\n",
            errno.EINVAL,
            'line 3: cgroup: "memory.mux" is not a limit',
        ),
        ("image = \n", errno.EINVAL, "line 1"),
    ],
)
def test_what_is_refused_names_the_line_and_changes_nothing(make: Make, document: str, number: int, words: str) -> None:
    c = make(hostname="kept")
    before = (c / "spec.toml").read_text()
    fd = os.open(c / "spec.toml", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, document.encode())
    with pytest.raises(OSError, match=".") as caught:
        os.close(fd)
    assert caught.value.errno == number
    assert words in (c / "error").read_text()
    assert (c / "spec.toml").read_text() == before


def test_an_env_file_is_copied_without_its_comments(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text('# a comment\n\nA=1\n  # another\nQUOTED="as it stands"\nEMPTY=\n#B=2\n')
    c = make(command="env")
    sh(f"cp {tmp_path}/file {c}/env", tmp_path)
    assert (c / "env").read_text() == 'A=1\nQUOTED="as it stands"\nEMPTY=\n'
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert 'QUOTED="as it stands"' in (c / "log").read_text().splitlines()


def test_a_comment_alone_sets_nothing(make: Make) -> None:
    c = make()
    before = (c / "env").read_text()
    fd = os.open(c / "env", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"# nothing\n")
    os.close(fd)
    assert (c / "env").read_text() == before
    assert "env" not in (c / "spec.toml").read_text()


def test_an_env_file_with_a_line_that_is_none_changes_nothing(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("A=1\nNAME_ALONE\n")
    c = make(env="KEPT=1\n")
    assert subprocess.run(["cp", tmp_path / "file", c / "env"], capture_output=True, check=False).returncode == 1
    assert (c / "env").read_text() == "KEPT=1\n"


def times(c: Path, *names: str) -> list[int]:
    return [(c / name).stat().st_mtime_ns for name in names]


@pytest.fixture
def volumes(engine: Engine) -> Iterator[Path]:
    """``volumes/``; those that the test makes are removed after it."""
    path = engine.tree / "volumes"
    yield path
    engine.clear()
    for each in path.iterdir():
        each.rmdir()


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("network", "mv networks/n networks/m"),
        ("volumes", "mv volumes/v volumes/w"),
        ("network", "ln -s ../../../containers/c networks/o/members/c"),
        ("network", "rm networks/n/members/c"),
        ("network", "ln -s ../../../containers/c networks/none/members/c"),
    ],
)
def test_mtime_of_a_setting_is_when_the_tree_changed_it(
    make: Make, tree: Path, networks: Path, volumes: Path, name: str, script: str
) -> None:
    for path in (networks / "n", networks / "o", volumes / "v"):
        path.mkdir()
    c = make(network="n\n", volumes="v:/v\n", hostname="x")
    before, (other,) = times(c, name, "spec.toml"), times(c, "hostname")
    sh(script, tree)
    assert all(old < new for old, new in zip(before, times(c, name, "spec.toml"), strict=True))
    assert (times(c, "hostname"), (c / name).stat().st_size) == ([other], len((c / name).read_bytes()))


def test_settings_that_a_document_changes_have_its_mtime(make: Make) -> None:
    limits = {"cgroup/memory.max": "64M", "cgroup/pids.max": "100", "health/interval": "20"}
    a = make("a", hostname="longer", env="A=1\n", **limits)
    b = make(
        "b", hostname="b", env="A=1\n", workdir="/", **{**limits, "cgroup/memory.max": "32M", "health/interval": "3"}
    )
    changed, same = ("hostname", "workdir", "health/interval", "cgroup/memory.max"), ("env", "image", "cgroup/pids.max")
    before, kept = times(b, *changed), times(b, *same)
    (b / "spec.toml").write_text((a / "spec.toml").read_text())
    assert all(old < new for old, new in zip(before, times(b, *changed), strict=True))
    assert times(b, *same) == kept
    sizes = [((b / name).stat().st_size, len((b / name).read_bytes())) for name in changed]
    assert all(told == read for told, read in sizes)


@pytest.mark.parametrize(
    ("v1", "name", "text"),
    [
        ("memory.limit_in_bytes", "memory.max", "32M"),
        ("cpu.shares", "cpu.weight", "512"),
        ("cpu.cfs_quota_us", "cpu.max", "50000"),
        ("cpu.cfs_period_us", "cpu.max", "50000"),
    ],
)
def test_a_write_of_a_v1_name_is_one_of_v2_s_file(make: Make, v1: str, name: str, text: str) -> None:
    c = make()
    before = times(c / "cgroup", name)
    (c / "cgroup" / v1).write_text(text)
    assert times(c / "cgroup", name) > before
