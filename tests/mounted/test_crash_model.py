"""Rounds of kill -9 of the engine's processes while workers do all that can be done; after each the tree is compared with a model.

What was acknowledged is there; what was under way when somebody died has been done or has not; nothing half-made is left, and no
process, mount or cgroup that no container knows of. As many rounds as one likes, and who died in each:

  PYDOCK_CRASH_ROUNDS=200 PYDOCK_CRASH_SEED=7 tests/run tests/mounted/test_crash_model.py -s
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydock.runtime.cgroup import Hierarchy, detect_layout

if TYPE_CHECKING:
    from conftest import Engine

ROUNDS = int(os.environ.get("PYDOCK_CRASH_ROUNDS", "12"))
SEED = int(os.environ.get("PYDOCK_CRASH_SEED", "1"))
WORKERS = 4
EACH = 3  # containers of one worker
SETTLED = 60.0  # seconds until all that a death has started has come to its end
PAUSE = 20.0  # seconds that a policy is waited for
COUNTED = 20_000  # lines
OUTPUT = "".join(f"{number}\n" for number in range(1, COUNTED + 1))
PROGRAMS = {"sleep": "sleep 1000", "fail": "sh -c 'exit 9'", "count": f"sh -c 'seq 1 {COUNTED}; exit 3'"}
CODES = {"fail": 9, "count": 3}
#: Never pydockd with the keeper: standard input ends then, as is documented.
VICTIMS = [
    *[("pydockd",), ("monitor",), ("logger",), ("keeper",)] * 3,
    ("pydockd", "monitor"),
    ("pydockd", "logger"),
    ("monitor", "logger"),
    ("monitor", "keeper"),
    ("logger", "keeper"),
]


@dataclass(frozen=True)
class Model:
    """What a container is."""

    name: str
    state: str = "created"
    program: str = "sleep"
    codes: tuple[str, ...] = ("",)  # that ``exit_code`` may be
    settings: tuple[tuple[str, str], ...] = ()
    env: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    secrets: tuple[tuple[str, str], ...] = ()

    @property
    def alive(self) -> bool:
        return self.state in ("running", "paused")

    @property
    def is_always(self) -> bool:
        """Whether it is started at a mount though it was stopped."""
        return self.state == "exited" and dict(self.settings).get("restart") == "always"

    def put(self, setting: str, value: str) -> Model:
        return dataclasses.replace(self, settings=tuple(sorted({**dict(self.settings), setting: value}.items())))


def started(model: Model) -> Model:
    return dataclasses.replace(model, state="running", codes=("",))


def begun(slot: Slot) -> Iterator[Model]:
    """What a start that was under way may be when nobody is left who could say whether the program ran: over, its code unknown."""
    if any(model is not None and not model.alive for model in slot.may):
        for model in slot.may:
            if model is not None and model.state == "running":
                yield dataclasses.replace(model, state="exited")


class Slot:
    """One container of a worker, or the place for one. *may* is what it may be: more than one thing right after a death only."""

    def __init__(self, number: str) -> None:
        self.number = number
        self.may: tuple[Model | None, ...] = (None,)
        self.monitor_died = False  # during this run, so that its exit code may be unknown
        self.turn = 0


class Worker:
    """Does something to its containers until it is told to stop."""

    def __init__(self, engine: Engine, number: int, chance: random.Random) -> None:
        self.containers = engine.tree / "containers"
        self.chance = chance
        self.slots = [Slot(f"w{number}-{slot}") for slot in range(EACH)]
        self.source = engine.directory / "source"
        self.faults: list[str] = []
        self.done = 0

    def work(self, killing: threading.Event, stop: threading.Event) -> None:
        """One round."""
        while not stop.is_set() and not self.faults:
            slot = self.chance.choice(self.slots)
            try:
                self.step(slot)
                self.done += 1
            except OSError as error:
                if not killing.is_set():
                    words = ""
                    with suppress(OSError):
                        path = self.containers / str(slot.may[0] and slot.may[0].name)
                        words = (path / "error").read_text()
                    self.faults.append(f"{slot.number}: {error} {words} in {slot.may}")
                return
            except AssertionError as error:
                self.faults.append(f"{slot.number}: {error}")

    def step(self, slot: Slot) -> None:
        """One thing; OSError when it was not acknowledged."""
        (model,) = slot.may
        if model is None:
            slot.turn += 1
            made = Model(f"{slot.number}.{slot.turn}")
            self.to(slot, made, (self.containers / made.name).mkdir)
            return
        path = self.containers / model.name
        if not dict(model.settings).get("image"):
            self.write(slot, model.put("image", "busybox:latest"), path / "image", "busybox")
            return
        name = self.chance.choice(ALIVE if model.alive else DOWN)
        getattr(self, name)(slot, model, path)

    def to(self, slot: Slot, after: Model | None, call: Callable[[], object]) -> None:
        """What *call* does; until it has returned, it may have been done or not."""
        before = slot.may
        slot.may = (*before, after)
        call()
        slot.may = (after,)

    def write(self, slot: Slot, after: Model, path: Path, text: str) -> None:
        self.to(slot, after, lambda: write(path, text))

    # what can be done

    def set_hostname(self, slot: Slot, model: Model, path: Path) -> None:
        value = f"h{self.chance.randrange(1000)}"
        self.write(slot, model.put("hostname", value), path / "hostname", value)

    def set_stop_timeout(self, slot: Slot, model: Model, path: Path) -> None:
        value = str(self.chance.randrange(1000))
        self.write(slot, model.put("stop_timeout", value), path / "stop_timeout", value)

    def set_pids(self, slot: Slot, model: Model, path: Path) -> None:
        value = str(self.chance.randrange(50, 1000))
        self.write(slot, model.put("cgroup/pids.max", value), path / "cgroup/pids.max", value)

    def set_restart(self, slot: Slot, model: Model, path: Path) -> None:
        if model.program == "sleep":
            value = self.chance.choice(["no", "always", "unless-stopped"])
            self.write(slot, model.put("restart", value), path / "restart", value)

    def set_health(self, slot: Slot, model: Model, path: Path) -> None:
        value = self.chance.choice(["true", "false"])
        self.write(slot, model.put("health/command", value), path / "health/command", value)

    def set_program(self, slot: Slot, model: Model, path: Path) -> None:
        program = "sleep" if dict(model.settings).get("restart", "no") != "no" else self.chance.choice([*PROGRAMS])
        after = dataclasses.replace(model.put("command", PROGRAMS[program]), program=program)
        self.write(slot, after, path / "command", PROGRAMS[program])

    def add_env(self, slot: Slot, model: Model, path: Path) -> None:
        item = f"V{self.chance.randrange(5)}={self.chance.randrange(100)}"
        name = item.partition("=")[0]
        env = (*(each for each in model.env if not each.startswith(f"{name}=")), item)
        self.to(slot, dataclasses.replace(model, env=env), lambda: append(path / "env", item))

    def change_volumes(self, slot: Slot, model: Model, path: Path) -> None:
        item = f"{self.source}:/v{self.chance.randrange(3)}"
        if item in model.volumes:
            volumes, line = tuple(each for each in model.volumes if each != item), f"-{item}"
        else:
            volumes, line = (*model.volumes, item), item
        self.to(slot, dataclasses.replace(model, volumes=volumes), lambda: append(path / "volumes", line))

    def change_secrets(self, slot: Slot, model: Model, path: Path) -> None:
        name, value = f"s{self.chance.randrange(2)}", f"{self.chance.randrange(1000)}\n"
        there = dict(model.secrets)
        file = path / "secrets" / name
        if name in there and self.chance.random() < 0.4:
            del there[name]
            self.to(slot, dataclasses.replace(model, secrets=tuple(sorted(there.items()))), file.unlink)
        else:
            there[name] = value
            after = dataclasses.replace(model, secrets=tuple(sorted(there.items())))
            self.write(slot, after, file, value)

    def start(self, slot: Slot, model: Model, path: Path) -> None:
        if "command" not in dict(model.settings):
            self.write(slot, model.put("command", PROGRAMS["sleep"]), path / "command", PROGRAMS["sleep"])
            return
        slot.monitor_died = False
        if model.program == "count":
            write(path / "log", "")
        after = started(model)
        self.write(slot, after, path / "ctl", "start")
        if model.program != "sleep":
            code = (path / "wait").read_text()
            after = dataclasses.replace(after, state="exited", codes=(str(CODES[model.program]),))
            slot.may = (after,)
            assert slot.monitor_died or code == f"{after.codes[0]}\n", code
            if model.program == "count":
                assert (path / "log").read_text() == OUTPUT

    def stop(self, slot: Slot, model: Model, path: Path) -> None:
        after = dataclasses.replace(model, state="exited", codes=("137", "143"))
        slot.may = tuple({model, started(model)})  # what is paused goes on before it is ended
        self.write(slot, after, path / "ctl", self.chance.choice(["stop 0", "kill"]))

    def pause(self, slot: Slot, model: Model, path: Path) -> None:
        paused = model.state == "paused"
        after = dataclasses.replace(model, state="running" if paused else "paused")
        self.write(slot, after, path / "ctl", "resume" if paused else "pause")

    def rename(self, slot: Slot, model: Model, path: Path) -> None:
        slot.turn += 1
        after = dataclasses.replace(model, name=f"{slot.number}.{slot.turn}")
        self.to(slot, after, lambda: path.rename(self.containers / after.name))

    def rmdir(self, slot: Slot, model: Model, path: Path) -> None:
        self.to(slot, None, path.rmdir)

    def execute(self, slot: Slot, model: Model, path: Path) -> None:
        if model.state == "paused":
            return
        x = path / "exec/x"
        with suppress(FileNotFoundError):  # of the round before
            x.rmdir()
        x.mkdir()
        write(x / "command", "sh -c 'seq 1 3000; exit 5'")
        write(x / "ctl", "start")
        code = (x / "wait").read_text()
        assert slot.monitor_died or code == "5\n", f"exec: {code!r}"
        assert (x / "log").read_text() == "".join(f"{number}\n" for number in range(1, 3001))
        x.rmdir()

    def crash(self, slot: Slot, model: Model, path: Path) -> None:
        """Its process dies, and its policy has it started again."""
        if dict(model.settings).get("restart", "no") == "no" or model.state == "paused":
            return
        pid = (path / "pid").read_text().strip()
        if not pid:
            return
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
        deadline = time.monotonic() + PAUSE
        while (path / "pid").read_text().strip() in ("", pid):
            if time.monotonic() > deadline:  # the pause grows from crash to crash, up to a minute
                assert (path / "state").read_text() == "restarting\n", (
                    f"not started again: {(path / 'error').read_text()}"
                )
                write(path / "ctl", "restart")
                return
            time.sleep(0.01)


ANYTIME = ["set_stop_timeout", "set_pids", "set_restart", "change_volumes", "change_secrets", "rename"]
ALIVE = [*ANYTIME, "stop", "stop", "pause", "execute", "execute", "crash"]
DOWN = [*ANYTIME, "set_hostname", "add_env", "set_program", "set_health", "start", "start", "start", "start", "rmdir"]


def write(path: Path, text: str) -> None:
    """One write(2), whose errno is raised, and no second one at the close."""
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def append(path: Path, line: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(fd, f"{line}\n".encode())
    finally:
        os.close(fd)


# what is there


def differences(engine: Engine, slot: Slot, model: Model | None) -> str:
    """In what the tree is not as *model* says; empty when it is."""
    found = sorted(path.name for path in (engine.tree / "containers").glob(f"{slot.number}.*"))
    if found != ([model.name] if model else []):
        return f"there are {found}"
    if model is None:
        return ""
    path = engine.tree / "containers" / model.name
    wrong = [
        f"{name} is {shown!r} and not {value!r}"
        for name, value in model.settings
        if (shown := (path / name).read_text()) != f"{value}\n"
    ]
    limits = {
        f"cgroup/{key}": limit
        for key, limit in tomllib.loads((path / "spec.toml").read_text()).get("cgroup", {}).items()
    }
    if limits != {name: value for name, value in model.settings if name.startswith("cgroup/")}:
        wrong.append(f"spec.toml has {limits}")
    if (volumes := (path / "volumes").read_text().splitlines()) != list(model.volumes):
        wrong.append(f"volumes are {volumes}")
    env = [line for line in (path / "env").read_text().splitlines() if line.startswith("V")]
    if sorted(env) != sorted(model.env):
        wrong.append(f"env is {env}")
    secrets = {file.name: file.read_text() for file in (path / "secrets").iterdir()}
    if secrets != dict(model.secrets):
        wrong.append(f"secrets: {secrets}")
    state, code = (path / "state").read_text().strip(), (path / "exit_code").read_text().strip()
    if model.alive and model.program != "sleep" and state == "exited":
        wrong += [] if code in (str(CODES[model.program]), "") else [f"exit_code is {code}"]
    elif state != model.state:
        wrong.append(f"state is {state}, {(path / 'error').read_text()!r}")
    elif code not in model.codes and not (slot.monitor_died and code == ""):
        wrong.append(f"exit_code is {code!r} and not one of {model.codes}")
    if not wrong and state in ("running", "paused"):
        wrong += inside(path, model)
    return "; ".join(wrong)


def inside(path: Path, model: Model) -> list[str]:
    """In what a container that runs is not as it should be."""
    pid = (path / "pid").read_text().strip()
    try:
        mounts = {line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}
    except OSError as error:
        return [f"its process: {error}"]
    wanted = {item.partition(":")[2] for item in model.volumes}
    there = {each for each in mounts if each.startswith("/v")}
    wrong = [] if there == wanted else [f"mounts: {there}, {(path / 'error').read_text()}"]
    if model.secrets:
        shown = Path(f"/proc/{pid}/root/run/secrets")
        seen = {each.name: each.read_bytes() for each in shown.iterdir()} if shown.is_dir() else {}
        if seen != {name: value.removesuffix("\n").encode() for name, value in model.secrets}:
            wrong.append(f"secrets inside: {seen}")
    return wrong


def left_behind(engine: Engine) -> list[str]:
    """What no container knows of."""
    paths = list((engine.tree / "containers").iterdir())
    states = {(path / "id").read_text().strip(): (path / "state").read_text().strip() for path in paths}
    ids, alive = set(states), {key for key, state in states.items() if state in ("running", "paused", "restarting")}
    left = []
    if (found := {path.name for path in (engine.root / "containers").iterdir()}) != ids:
        left.append(f"directories: {found ^ ids}")
    if (found := engine.groups() - {"engine"}) != ids:
        left.append(f"cgroups: {found ^ ids}")
    hierarchy = Hierarchy(detect_layout(), engine.parent)
    for key in ids - alive:
        if pids := hierarchy.cgroup(key).procs():
            left.append(f"processes in {key}: {pids}")
    for place in ("io", "roots"):
        directory = engine.run / place
        there = {path.name.partition(".")[0] for path in directory.iterdir()} if directory.is_dir() else set()
        if stray := there - (alive if place != "roots" else ids):
            left.append(f"{place}: {[(key, states.get(key)) for key in stray]}")
    for key in ids - alive:
        left += [f"a file of /etc: {path}" for path in (engine.root / "containers" / key).glob("hos*")]
    left += [f"half written: {path}" for path in engine.root.rglob("*.new")]
    return left


def settle(engine: Engine, workers: list[Worker]) -> list[str]:
    """What is wrong, when all has come to its end."""
    deadline = time.monotonic() + SETTLED
    while True:
        wrong = left_behind(engine)
        for worker in workers:
            for slot in worker.slots:
                told = [differences(engine, slot, model) for model in slot.may]
                if "" in told:
                    continue
                wrong.append(f"{slot.number}: {told} of {slot.may}")
        if not wrong or time.monotonic() > deadline:
            return wrong
        time.sleep(0.05)


def agree(engine: Engine, slot: Slot) -> None:
    """Of what a slot may be, what it is."""
    model = next(model for model in slot.may if not differences(engine, slot, model))
    if model is not None and model.alive:
        path = engine.tree / "containers" / model.name
        if (path / "state").read_text() == "exited\n":
            model = dataclasses.replace(model, state="exited", codes=((path / "exit_code").read_text().strip(),))
        x = path / "exec/x"
        if x.exists():
            if (x / "state").read_text() == "running\n":
                (x / "wait").read_text()
            x.rmdir()
    slot.may = (model,)


@contextmanager
def working(workers: list[Worker], killing: threading.Event) -> Iterator[None]:
    """They work within."""
    stop = threading.Event()
    threads = [threading.Thread(target=worker.work, args=(killing, stop), daemon=True) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(3 * SETTLED)
            assert not thread.is_alive(), "somebody waits for ever"


@pytest.mark.timeout(300 + 20 * ROUNDS)
def test_nothing_acknowledged_is_lost_and_nothing_half_made_stays(own_engine: Engine) -> None:
    engine, chance = own_engine, random.Random(SEED)
    sys.stdout.write(f"seed {SEED}, {ROUNDS} rounds\n")
    (engine.directory / "source").mkdir()
    workers = [Worker(engine, number, random.Random(f"{SEED}-{number}")) for number in range(WORKERS)]
    for number in range(ROUNDS):
        victims = chance.choice(VICTIMS)
        pids = [engine.helper(victim) for victim in victims if victim != "pydockd"]
        killing = threading.Event()
        with working(workers, killing):
            time.sleep(chance.uniform(0.1, 0.8))  # any moment will do
            killing.set()
            for worker in workers:
                for slot in worker.slots:
                    slot.monitor_died |= "monitor" in victims
            if "pydockd" in victims:
                engine.kill()
            for pid in pids:
                with suppress(ProcessLookupError):  # it had nothing to do without pydockd
                    os.kill(pid, signal.SIGKILL)
            if "pydockd" in victims:
                engine.start()
        if "pydockd" in victims:
            for worker in workers:
                for slot in worker.slots:
                    slot.may += tuple(started(model) for model in slot.may if model is not None and model.is_always)
                    if "monitor" in victims:
                        slot.may += tuple(begun(slot))
        faults = [fault for worker in workers for fault in worker.faults] or settle(engine, workers)
        sys.stdout.write(f"{number} {' '.join(victims)} {sum(worker.done for worker in workers)}\n")
        sys.stdout.flush()
        assert not faults, "\n".join([f"round {number}, {victims}, seed {SEED}", *faults, engine.log])
        for worker in workers:
            for slot in worker.slots:
                agree(engine, slot)
    assert "Traceback" not in engine.log
