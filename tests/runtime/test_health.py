"""What health checks mean, without a container that runs."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
from pydock.runtime.engine import Defaults
from pydock.runtime.formats import now
from pydock.runtime.health import Check, Health, argv_of, check_of
from pydock.runtime.record import Record
from pydock.runtime.spec import Spec


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (("CMD", "curl", "-f", "x"), ("curl", "-f", "x")),
        (("CMD-SHELL", "curl x || exit 1"), ("/bin/sh", "-c", "curl x || exit 1")),
        (("CMD-SHELL", "curl", "x"), ("/bin/sh", "-c", "curl x")),
        (("curl", "x"), ("curl", "x")),
        (("NONE",), ()),
        ((), ()),
    ],
)
def test_dockers_forms_of_the_command(words: tuple[str, ...], argv: tuple[str, ...]) -> None:
    assert argv_of(words) == argv


IMAGE = Defaults(health_command=("CMD", "true"), health_interval=5.0, health_retries=7)


@pytest.mark.parametrize(
    ("spec", "defaults", "check"),
    [
        (Spec(), Defaults(), None),
        (Spec(health_command=("true",)), Defaults(), Check(("true",), 30, 30, 3, 0)),
        (Spec(), IMAGE, Check(("true",), 5, 30, 7, 0)),
        (Spec(health_command=("NONE",)), IMAGE, None),
        (Spec(health_command=()), IMAGE, None),
        (Spec(health_interval=1.0, health_start_period=2.0), IMAGE, Check(("true",), 1, 30, 7, 2)),
    ],
)
def test_what_is_not_set_is_the_images_and_then_dockers(spec: Spec, defaults: Defaults, check: Check | None) -> None:
    assert check_of(spec, defaults) == check


@pytest.mark.parametrize(
    ("interval", "ran", "status", "pause"),
    [
        (30, 0, "starting", 5),
        (30, 9.9, "starting", 5),
        (30, 10, "starting", 30),
        (1, 0, "starting", 1),
        (30, 0, "healthy", 30),
    ],
)
def test_a_start_period_is_looked_at_every_five_seconds(interval: float, ran: float, status: str, pause: float) -> None:
    assert Check(("true",), interval=interval, start_period=10).pause(ran, status) == pause  # type: ignore[arg-type]


class FakeContainer:
    """A container that runs, with a health check."""

    def __init__(self) -> None:
        self.name = "web"
        self.spec = Spec(health_command=("true",))
        self.record = Record("i", "web", 0, state="running", started=now())
        self.events: list[str] = []
        self.words: list[str] = []
        self.kept: list[tuple[object, str]] = []
        self.full = False

        def publish(kind: str, name: str, action: str, *, status: str) -> None:
            self.events.append(f"{action} {status}")

        self.engine = SimpleNamespace(events=SimpleNamespace(publish=publish))
        self.health = Health(self)  # type: ignore[arg-type]

    @property
    def state(self) -> str:
        return self.record.state

    def defaults(self) -> Defaults:
        return Defaults()

    async def keep(self, **coming: object) -> str:
        """What is kept, and what was to be seen by then."""
        self.kept.append((coming["health"], self.record.health))
        return os.strerror(errno.ENOSPC) if self.full else ""

    def failed(self, words: str) -> None:
        self.words.append(words)


BAD = "exit code 1"


@pytest.mark.parametrize(
    ("results", "statuses"),
    [
        ([""], "healthy"),
        ([BAD, BAD], "starting starting"),
        ([BAD, BAD, BAD], "starting starting unhealthy"),
        ([BAD, BAD, "", BAD, BAD, BAD], "starting starting healthy healthy healthy unhealthy"),
        ([BAD, BAD, BAD, BAD, ""], "starting starting unhealthy unhealthy healthy"),
    ],
)
async def test_what_results_make_of_the_status(results: list[str], statuses: str) -> None:
    container = FakeContainer()
    seen = []
    for words in results:
        await container.health.take(Check(("true",)), words, ran=1)
        seen.append(container.health.status)
    assert seen == statuses.split()


async def test_failures_in_the_start_period_do_not_count_until_it_was_healthy() -> None:
    container = FakeContainer()
    check = Check(("true",), retries=1, start_period=10)
    await container.health.take(check, BAD, ran=9)
    assert container.health.status == "starting"
    await container.health.take(check, "", ran=9.1)
    await container.health.take(check, BAD, ran=9.2)
    assert container.health.status == "unhealthy"


async def test_each_change_is_an_event_and_a_fault_has_words() -> None:
    container = FakeContainer()
    for words in ("", "", BAD, ""):
        await container.health.take(Check(("true",), retries=1), words, ran=1)
    assert container.events == ["health healthy", "health unhealthy", "health healthy"]
    assert container.words == ["health: exit code 1"]


async def test_a_result_is_on_disk_before_it_is_seen() -> None:
    container = FakeContainer()
    for words in ("", BAD):
        await container.health.take(Check(("true",), retries=1), words, ran=1)
    assert container.kept == [("healthy", ""), ("unhealthy", "healthy")]


async def test_a_result_that_cannot_be_kept_is_seen_all_the_same() -> None:
    container = FakeContainer()
    container.full = True
    await container.health.take(Check(("true",)), "", ran=1)
    assert container.health.status == "healthy"
    assert container.words == ["health: the result can't be kept: No space left on device"]


@pytest.mark.parametrize(
    ("state", "health", "outcome"),
    [
        ("created", "", None),
        ("running", "", None),
        ("running", "healthy", "healthy"),
        ("paused", "healthy", "healthy"),
        ("running", "unhealthy", None),
        ("restarting", "unhealthy", None),
        ("exited", "healthy", "none"),
    ],
)
def test_what_is_told_to_those_who_wait(state: str, health: str, outcome: str | None) -> None:
    container = FakeContainer()
    container.record.state, container.record.health = state, health  # type: ignore[assignment]
    assert container.health.outcome == outcome
