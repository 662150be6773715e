"""Whether what runs in a container works: its health check, by docker's rules.

A command is run in the container, first after *interval* and then again that long after each end. Exit code 0 is healthy;
*retries* failures in a row, an end that does not come within *timeout* among them, are unhealthy. Failures within
*start_period* of the start do not count while it has not been healthy yet, and the command is run every five seconds then if
*interval* is longer. While the container is paused nothing is run. What is known outlives pydockd.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, cast

import trio
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Busy, PydockError
from pydock.runtime.formats import now, print_duration
from pydock.runtime.spec import Spec

if TYPE_CHECKING:
    from pydock.runtime.container import Container
    from pydock.runtime.execs import Exec

Status = Literal["none", "starting", "healthy", "unhealthy"]

INTERVAL: Final = 30.0
TIMEOUT: Final = 30.0
RETRIES: Final = 3
#: Seconds between two runs while a container that has a start period is starting.
START_INTERVAL: Final = 5.0
#: The process that runs the command: of a name that nobody can give, so that it is not shown.
_NAME: Final = ".health"
_LAST_WORDS: Final = 4096


@dataclass(frozen=True, slots=True)
class Check:
    """What is run, and when; seconds."""

    argv: tuple[str, ...]
    interval: float = INTERVAL
    timeout: float = TIMEOUT
    retries: int = RETRIES
    start_period: float = 0.0

    def pause(self, ran: float, status: Status) -> float:
        """Seconds to the next run, *ran* seconds after the start."""
        return min(self.interval, START_INTERVAL) if status == "starting" and ran < self.start_period else self.interval


def in_form(words: tuple[str, ...]) -> tuple[str, ...]:
    """*words* with one text behind CMD-SHELL, as it is shown."""
    return ("CMD-SHELL", " ".join(words[1:])) if words[:1] == ("CMD-SHELL",) and len(words) > 2 else words


def argv_of(words: tuple[str, ...]) -> tuple[str, ...]:
    """What is executed for a command in docker's forms: ``CMD WORD…``, ``CMD-SHELL TEXT``, ``NONE``; without one of these, as it is."""
    match in_form(words):
        case ["CMD", *rest]:
            return tuple(rest)
        case ["CMD-SHELL", text]:
            return ("/bin/sh", "-c", text)
        case ["NONE"]:
            return ()
    return words


def check_of(spec: Spec, defaults: Defaults) -> Check | None:
    """The check in force: the settings, where they are unset the image's, else docker's defaults. None when nothing is to be run."""
    argv = argv_of(defaults.health_command if spec.health_command is None else spec.health_command)
    if not argv:
        return None
    return Check(
        argv,
        spec.health_interval or defaults.health_interval or INTERVAL,
        spec.health_timeout or defaults.health_timeout or TIMEOUT,
        spec.health_retries or defaults.health_retries or RETRIES,
        defaults.health_start_period if spec.health_start_period is None else spec.health_start_period,
    )


class Health:
    """That of *container*. Its record keeps the status and how many failures there were in a row."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.changed = trio.Event()  # another one after each change
        self.taken = 0  # when a run changed the status last
        self._removed = False

    @property
    def check(self) -> Check | None:
        """The check in force."""
        return check_of(self._container.spec, self._container.defaults())

    @property
    def status(self) -> Status:
        """``none`` when it does not run, or nothing checks it."""
        container = self._container
        if container.state not in ("running", "paused") or self.check is None:
            return "none"
        return cast(Status, container.record.health or "starting")

    @property
    def outcome(self) -> Status | None:
        """What to tell those who wait until it is healthy: that it is, ``none`` when that can't be any more, else None."""
        status = self.status
        over = (
            self._removed
            or self._container.state == "exited"
            or (status == "none" and self._container.state in ("running", "paused"))
        )
        return "healthy" if status == "healthy" else "none" if over else None

    def tell(self) -> None:
        """Something has changed: wake those who wait."""
        self.changed.set()
        self.changed = trio.Event()

    def removed(self) -> None:
        """There is no container any more."""
        self._removed = True
        self.tell()

    def begin(self) -> None:
        """A run has begun, or goes on after pydockd's own restart: check it until its end."""
        self.tell()
        check = self.check
        if check is not None:
            down = self._container.process.down
            self._container.engine.spawn(lambda: self._watch(check, down))

    async def _watch(self, check: Check, down: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._go_on, check)
            await down.wait()
            nursery.cancel_scope.cancel()

    async def _go_on(self, check: Check) -> None:
        while True:
            await trio.sleep(check.pause(self._ran(), self.status))
            if self._container.state == "running":
                ran = self._ran()
                words = await self._run(check)
                if words is not None and self._container.state in ("running", "paused"):
                    await self.take(check, words, ran)

    def _ran(self) -> float:
        return (now() - self._container.record.started) / 1e9

    async def take(self, check: Check, words: str, ran: float) -> None:
        """The command, which was run *ran* seconds after the start, says *words*: what is wrong, or nothing."""
        container, record = self._container, self._container.record
        before, run = self.status, record.started
        health, failing = record.health, record.failing
        if not words:
            health, failing = "healthy", 0
        elif before != "starting" or ran >= check.start_period:
            failing += 1
            if failing >= check.retries:
                health = "unhealthy"
        if wrong := await container.keep(health=health, failing=failing):  # it is to be seen all the same
            container.failed(f"health: the result can't be kept: {wrong}")
        if record.started != run or container.state not in ("running", "paused"):
            return  # the run that it tells of is over
        record.health, record.failing = health, failing
        status = self.status
        if status != before:
            if status == "unhealthy":
                container.failed(f"health: {words}")
            self.taken = now()
            container.engine.events.publish("container", container.name, "health", status=status)
            self.tell()

    async def _run(self, check: Check) -> str | None:
        """What is wrong; empty when nothing is, None when that can't be known."""
        try:
            process = await self._process(check)
            await process.start()
        except Busy:
            return None
        except (PydockError, OSError) as error:
            return str(error)
        with trio.move_on_after(check.timeout):
            await process.process.end.event.wait()
        if not process.process.end.event.is_set():
            with suppress(Busy):
                await process.kill()
            return f"no end within {print_duration(check.timeout)} seconds"
        code = process.record.exit_code
        if code == 0:
            return ""
        last = await trio.to_thread.run_sync(_last_line, process.directory / "log")
        return f"exit code {'unknown' if code is None else code}{last and f': {last}'}"

    async def _process(self, check: Check) -> Exec:
        execs = self._container.execs
        process = execs.get(_NAME) or await execs.add(_NAME)
        if process.alive:  # it was running when pydockd died
            with suppress(Busy):
                await process.kill()
        await process.change("command", check.argv)
        await trio.to_thread.run_sync(_clear, process.directory / "log")
        return process


def _clear(log: Path) -> None:
    with suppress(FileNotFoundError):
        os.truncate(log, 0)


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    text = next((line for line in reversed(lines) if line.strip()), "")
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200]
