"""The restart policies, without a container that runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio
from pydock.runtime.errors import Invalid
from pydock.runtime.record import Record
from pydock.runtime.restarts import Policy, Restarts, next_pause
from pydock.runtime.spec import Spec


@pytest.mark.parametrize(
    ("text", "policy", "canonical"),
    [
        ("no", Policy(), "no"),
        (" always\n", Policy("always"), "always"),
        ("unless-stopped", Policy("unless-stopped"), "unless-stopped"),
        ("on-failure", Policy("on-failure"), "on-failure"),
        ("on-failure:3", Policy("on-failure", 3), "on-failure:3"),
        ("on-failure:0", Policy("on-failure"), "on-failure"),
        ("on-failure:007", Policy("on-failure", 7), "on-failure:7"),
    ],
)
def test_a_policy_is_read_and_shown(text: str, policy: Policy, canonical: str) -> None:
    assert Policy.parse(text) == policy
    assert str(policy) == canonical


@pytest.mark.parametrize(
    "text",
    ["", "yes", "Always", "always:3", "no:1", "on-failure:", "on-failure:-1", "on-failure:x", "on-failure:٣", "on-failure:1:2"]
    + ["on-failure:" + "9" * 10, "on failure", "always unless-stopped"],
)  # fmt: skip
def test_what_is_no_policy_is_refused_in_words(text: str) -> None:
    with pytest.raises(Invalid, match="is not a restart policy: no, always"):
        Policy.parse(text)


@pytest.mark.parametrize(
    ("policy", "exit_code", "restarts", "wanted"),
    [
        ("no", 1, 0, False),
        ("always", 0, 0, True),
        ("always", None, 1000, True),
        ("unless-stopped", 0, 0, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 1000, True),
        ("on-failure", None, 0, True),
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("on-failure:2", 0, 0, False),
    ],
)
def test_what_follows_a_run(policy: str, exit_code: int | None, restarts: int, wanted: bool) -> None:
    assert Policy.parse(policy).wants(exit_code, restarts) == wanted


@pytest.mark.parametrize(
    ("policy", "state", "by_hand", "wanted"),
    [
        ("no", "exited", False, False),
        ("no", "restarting", False, False),
        ("on-failure", "exited", False, False),
        ("on-failure", "restarting", False, True),
        ("always", "exited", False, True),
        ("always", "exited", True, True),
        ("unless-stopped", "exited", False, True),
        ("unless-stopped", "exited", True, False),
        ("unless-stopped", "restarting", False, True),
    ],
)
def test_what_is_started_with_the_engine(policy: str, state: str, by_hand: bool, wanted: bool) -> None:
    record = Record("i", "n", 0, state=state, by_hand=by_hand)  # type: ignore[arg-type]
    assert Policy.parse(policy).wants_at_mount(record) == wanted


@pytest.mark.parametrize(
    ("before", "ran", "pause"),
    [(0, 0, 0.1), (0.1, 0, 0.2), (0.2, 9.9, 0.4), (0.4, 10, 0.1), (51.2, 0, 60), (60, 0, 60), (60, 3600, 0.1)],
)
def test_the_pause_doubles_up_to_a_minute_and_begins_anew_after_ten_seconds(
    before: float, ran: float, pause: float
) -> None:
    assert next_pause(before, ran) == pytest.approx(pause)


class FakeContainer:
    """A container whose runs end at once, with exit code 1."""

    def __init__(self, policy: str, *, startable: bool = True) -> None:
        self.spec = Spec(restart=policy)
        self.record = Record("i", "web", 0, state="running", started=1, finished=2, exit_code=1)
        self.name = "web"
        self.lock = trio.Lock()
        self.begun: list[float] = []
        self.runs = SimpleNamespace(begin=self.begin)
        self.words = ""
        self.startable = startable
        adopted = trio.Event()
        adopted.set()
        self.engine = SimpleNamespace(adopted=adopted, events=SimpleNamespace(publish=lambda *_, **__: None))
        self.restarts = Restarts(self)  # type: ignore[arg-type]

    @property
    def state(self) -> str:
        return self.record.state

    def ends(self) -> bool:
        """It has ended; whether it is to be started again."""
        follows = self.restarts.follows(1, 2)
        for name, value in follows.items():
            setattr(self.record, name, value)
        self.record.state = "restarting" if follows else "exited"
        return bool(follows)

    async def begin(self) -> str:
        if not self.startable:
            raise Invalid("no such image")
        self.begun.append(trio.current_time())
        self.record.state = "running"
        return "started"

    async def stay_down(self) -> None:
        self.record.state = "exited"

    async def save(self) -> None:
        """Nothing is kept."""

    def failed(self, words: str) -> None:
        self.words = words


async def test_the_tries_come_at_dockers_times(autojump_clock: trio.testing.MockClock) -> None:
    container = FakeContainer("on-failure:5")
    times = []
    while container.ends():
        before = trio.current_time()
        await container.restarts.carry_on()
        times.append(trio.current_time() - before)
    assert times == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    assert container.state == "exited"


async def test_a_command_ends_the_pause(autojump_clock: trio.testing.MockClock) -> None:
    container = FakeContainer("always")
    container.ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(container.restarts.carry_on)
        await trio.testing.wait_all_tasks_blocked()
        async with container.lock:
            await container.restarts.end()
    assert (container.state, container.begun, container.record.by_hand) == ("exited", [], True)


async def test_a_policy_that_is_lifted_ends_the_pause(autojump_clock: trio.testing.MockClock) -> None:
    container = FakeContainer("always")
    container.ends()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(container.restarts.carry_on)
        await trio.testing.wait_all_tasks_blocked()
        container.spec = Spec(restart="no")
        await container.restarts.review()
    assert (container.state, container.begun) == ("exited", [])


async def test_a_start_that_fails_is_the_last_try(autojump_clock: trio.testing.MockClock) -> None:
    container = FakeContainer("always", startable=False)
    container.ends()
    await container.restarts.carry_on()
    assert (container.state, container.words) == ("exited", "restart: no such image")


async def test_a_start_by_hand_counts_anew_unless_it_fails() -> None:
    container = FakeContainer("always")
    container.record.restarts, container.record.pause, container.record.by_hand = 7, 12.8, True
    container.startable = False
    with pytest.raises(Invalid):
        await container.restarts.begin(container.begin)
    assert (container.record.restarts, container.record.pause, container.record.by_hand) == (7, 12.8, True)
    container.startable = True
    await container.restarts.begin(container.begin)
    assert (container.record.restarts, container.record.pause, container.record.by_hand) == (0, 0, False)
