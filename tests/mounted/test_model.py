"""Random lives against a model, and random values of every setting there and back."""

from __future__ import annotations

import errno
import os
import shlex
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

if TYPE_CHECKING:
    from conftest import Engine

QUICK = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
NAMES = st.sampled_from(["a", "b", "c"])


@dataclass
class Model:
    """What a container should be."""

    state: str = "created"
    settings: dict[str, str] = field(default_factory=lambda: {"hostname": "box", "stop_timeout": "0", "env": "A=1"})

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")


def attempt(action: Callable[[], object]) -> int:
    """The errno of *action*; 0 when it succeeds."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return 0


class Lives(RuleBasedStateMachine):
    """mkdir, settings, commands, mv and rmdir in any order; each has the outcome that the model says."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        self.place = engine.tree / "containers"
        self.models: dict[str, Model] = {}

    def teardown(self) -> None:
        self.engine.clear()

    def command(self, name: str, line: str) -> int:
        return attempt(lambda: (self.place / name / "ctl").write_text(line))

    @rule(name=NAMES)
    def mkdir(self, name: str) -> None:
        expected = errno.EEXIST if name in self.models else 0
        assert attempt((self.place / name).mkdir) == expected
        if not expected:
            self.models[name] = Model()
            (self.place / name / "image").write_text("busybox")
            (self.place / name / "command").write_text("sleep 1000")
            for setting, value in self.models[name].settings.items():
                (self.place / name / setting).write_text(value + "\n")

    @precondition(lambda self: self.models)
    @rule(name=NAMES)
    def rmdir(self, name: str) -> None:
        model = self.models.get(name)
        expected = errno.ENOENT if model is None else errno.EBUSY if model.alive else 0
        assert attempt((self.place / name).rmdir) == expected
        if not expected:
            del self.models[name]

    @precondition(lambda self: self.models)
    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        if name not in self.models:
            expected = errno.ENOENT
        elif new in self.models and new != name:
            expected = errno.EEXIST
        else:
            expected = 0
        assert attempt(lambda: (self.place / name).rename(self.place / new)) == expected
        if not expected:
            self.models[new] = self.models.pop(name)

    @precondition(lambda self: self.models)
    @rule(
        name=NAMES,
        verb=st.sampled_from(
            ["start", "stop", "kill", "kill USR2", "pause", "resume", "restart", "reset", "eof", "nonsense"]
        ),
    )
    def control(self, name: str, verb: str) -> None:
        if name not in self.models:
            return
        model = self.models[name]
        before = model.state
        allowed, after = {
            "start": (not model.alive, "running"),
            "stop": (model.alive, "exited"),
            "kill": (model.alive, "exited"),
            "kill USR2": (model.alive, before),  # the first process of a PID namespace has no default actions
            "pause": (before == "running", "paused"),
            "resume": (before == "paused", "running"),
            "restart": (True, "running"),
            "reset": (not model.alive, before),
            "eof": (model.alive, before),
            "nonsense": (False, ""),
        }[verb]
        expected = 0 if allowed else errno.EINVAL if verb == "nonsense" else errno.EBUSY
        assert self.command(name, verb) == expected
        assert bool((self.place / name / "error").read_text()) == bool(expected)
        if allowed:
            model.state = after

    @precondition(lambda self: self.models)
    @rule(name=NAMES, setting=st.sampled_from(["hostname", "stop_timeout", "env"]), number=st.integers(0, 9))
    def write(self, name: str, setting: str, number: int) -> None:
        if name not in self.models:
            return
        model = self.models[name]
        value = {"hostname": f"box{number}", "stop_timeout": "0" if number % 2 else "0.001", "env": f"A={number}"}[
            setting
        ]
        expected = errno.EBUSY if model.alive and setting != "stop_timeout" else 0
        assert attempt(lambda: (self.place / name / setting).write_text(value + "\n")) == expected
        if not expected:
            model.settings[setting] = value

    @rule()
    def look_at_all(self) -> None:
        assert sorted(os.listdir(self.place)) == sorted(self.models)

    @invariant()
    def every_container_is_what_the_model_says(self) -> None:
        for name, model in self.models.items():
            c = self.place / name
            found = {setting: (c / setting).read_text().rstrip("\n") for setting in (*model.settings, "state")}
            assert found == {**model.settings, "state": model.state}
            assert bool((c / "pid").read_text()) == model.alive


def test_lives_go_as_the_model_says(module_engine: Engine) -> None:
    run_state_machine_as_test(
        lambda: Lives(module_engine), settings=settings(max_examples=40, stateful_step_count=40, **QUICK)
    )


# values

LETTERS = st.characters(codec="utf-8", exclude_characters="\0\n")
WORD = st.text(st.sampled_from(string.ascii_letters + string.digits + "_"), min_size=1, max_size=20)
LINE = st.text(LETTERS, max_size=40)
VECTOR = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), min_size=1, max_size=6)
PATH = st.lists(WORD, min_size=1, max_size=4).map(lambda words: "/" + "/".join(words))
SIZE = st.one_of(
    st.integers(8192, 1 << 50).map(str),
    st.tuples(st.integers(8192, 1 << 20), st.sampled_from("KMGkmg")).map(lambda pair: f"{pair[0]}{pair[1]}"),
)


def lines(*items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A list's text."""
    return st.lists(st.one_of(*items), min_size=1, max_size=5).map(lambda found: "".join(f"{item}\n" for item in found))


VALUES: dict[str, st.SearchStrategy[str]] = {
    "command": VECTOR.map(shlex.join),
    "entrypoint": VECTOR.map(shlex.join),
    "env": lines(st.builds("{}={}".format, WORD, LINE)),
    "workdir": st.builds("{}{}".format, PATH, LINE),
    "user": st.one_of(
        WORD, st.integers(0, 0xFFFFFFFE).map(str), st.builds("{}:{}".format, WORD, st.integers(0, 65534))
    ),
    "hostname": st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9.-]{0,20}[A-Za-z0-9])?\Z"),
    "labels": lines(st.builds("{}={}".format, WORD, LINE)),
    "stop_signal": st.sampled_from(["TERM", "SIGKILL", "usr1", "9", "64", "RTMIN+5", "SIGRTMAX", "34", "32"]),
    "stop_timeout": st.one_of(
        st.integers(0, 1000).map(str),
        st.floats(0, 1000).map(lambda seconds: f"{seconds:.9f}"),
        st.builds("{}{}".format, st.integers(0, 500), st.sampled_from(["ms", "us", "s", "m", "h"])),
    ),
    "readonly": st.sampled_from("01"),
    "privileged": st.sampled_from("01"),
    "no_new_privileges": st.sampled_from("01"),
    "capabilities": lines(st.sampled_from(["CHOWN", "cap_net_admin", "CAP_SYS_ADMIN", "kill", "ALL"])),
    "seccomp": st.sampled_from(["default", "unconfined"]),
    "devices": lines(
        st.builds(
            "/dev/{}:{}{}".format,
            st.sampled_from(["null", "zero", "full"]),
            PATH,
            st.sampled_from(["", ":r", ":rwm", ":mw"]),
        )
    ),
    "ulimits": lines(
        st.builds("{}={}".format, st.sampled_from(["nofile", "core", "nproc"]), st.integers(0, 1 << 20)),
        st.builds("stack={}:unlimited".format, st.integers(0, 1 << 40)),
    ),
    "sysctls": lines(
        st.builds("kernel.msgmax={}".format, st.integers(0, 1 << 20)), st.just("kernel/shm_rmid_forced=1")
    ),
    "tmpfs": lines(PATH, st.builds("{}:size={},mode={:o}".format, PATH, SIZE, st.integers(0, 0o7777))),
    "shm_size": SIZE,
    "volumes": lines(
        st.builds(
            "{}:{}{}".format,
            st.sampled_from(["/usr", "/etc", "/dev/null"]),
            PATH,
            st.sampled_from(["", ":ro", ":rw", ":ro,rshared"]),
        )
    ),
    "network": st.sampled_from(["none\n", "host\n"]),
    "log_max": st.one_of(SIZE, st.just("max")),
    "cgroup/cpu.max": st.builds(
        "{} {}".format, st.one_of(st.integers(1000, 100_000), st.just("max")), st.integers(1000, 1_000_000)
    ),
    "cgroup/cpu.weight": st.integers(1, 10_000).map(str),
    "cgroup/memory.max": st.one_of(SIZE, st.just("max")),
    "cgroup/memory.low": st.one_of(SIZE, st.just("max")),
    "cgroup/pids.max": st.one_of(st.integers(0, 1 << 20).map(str), st.just("max")),
    "cgroup/cpuset.cpus": st.sampled_from(["0", "0,0", "0-0", ""]),
}


@pytest.fixture(scope="module")
def two(module_engine: Engine) -> tuple[Path, Path]:
    """Two containers; what one takes the other must take too."""
    first, second = module_engine.tree / "containers/first", module_engine.tree / "containers/second"
    first.mkdir()
    second.mkdir()
    return first, second


@pytest.mark.parametrize("name", [*VALUES])
def test_what_is_read_can_be_written_back(two: tuple[Path, Path], name: str) -> None:
    first, second = two

    @settings(max_examples=15, **QUICK)
    @given(VALUES[name])
    def there_and_back(text: str) -> None:
        (first / name).write_bytes(text.encode())
        read = (first / name).read_bytes()
        (first / name).write_bytes(read)
        assert (first / name).read_bytes() == read
        (second / name).write_bytes(read)
        assert (second / name).read_bytes() == read
        assert (first / name).stat().st_size == len(read)
        (second / "spec.toml").write_bytes((first / "spec.toml").read_bytes())
        assert (second / "spec.toml").read_bytes() == (first / "spec.toml").read_bytes()
        assert (second / name).read_bytes() == read

    there_and_back()
