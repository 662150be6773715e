"""When a container is started again by itself, and after how long: the rules of docker's restart policies.

A container whose run has ended by itself is started again after a pause of 100 ms, which doubles from try to try up to a minute
and begins anew after a run of ten seconds; so it is, too, when it could not be started because the disk was full or something
else short. One that was stopped or killed by hand stays down, until the engine itself starts: then ``always`` means always.
"""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from pydock.runtime import oom
from pydock.runtime.engine import persistently
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import quote
from pydock.runtime.record import Record

if TYPE_CHECKING:
    from pydock.runtime.container import Container

log = logging.getLogger(__name__)
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 60.0
#: What keeps a container from being started for a while, and is not its own fault.
_SHORTAGES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE})
#: Seconds after which a run counts as one that went well.
STEADY: Final = 10.0

_POLICY: Final = re.compile(r"(no|always|unless-stopped|on-failure)(?::([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """*name* is ``no``, ``on-failure``, ``always`` or ``unless-stopped``; *tries*: how often ``on-failure`` does it, 0 for any."""

    name: str = "no"
    tries: int = 0

    @classmethod
    def parse(cls, text: str) -> Policy:
        """``no``, ``always``, ``unless-stopped``, ``on-failure`` or ``on-failure:N``."""
        match = _POLICY.fullmatch(text.strip())
        if match is None or (match[2] and match[1] != "on-failure"):
            raise Invalid(
                f"{quote(text)} is not a restart policy: no, always, unless-stopped, on-failure, or on-failure:N for N tries"
            )
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.name}:{self.tries}" if self.tries else self.name

    def wants(self, exit_code: int | None, restarts: int) -> bool:
        """Whether a run that ended by itself is followed by another, after *restarts* of them. An end that nobody knows the exit
        code of, such as that of the machine, is a failure."""
        if self.name == "on-failure":
            return exit_code != 0 and (self.tries == 0 or restarts < self.tries)
        return self.name != "no"

    def wants_at_mount(self, record: Record) -> bool:
        """Whether a container that is down is started when the engine is."""
        if self.name == "no":
            return False
        return (
            record.state == "restarting"
            or self.name == "always"
            or (self.name == "unless-stopped" and not record.by_hand)
        )


def next_pause(before: float, ran: float) -> float:
    """Seconds until the next try, after one that came *before* seconds after its own end and *ran* for so long."""
    if before == 0 or ran >= STEADY:
        return FIRST_PAUSE
    return min(before * 2, LONGEST_PAUSE)


class Restarts:
    """What the restart policy of *container* does. The counts are in its record."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._pause: trio.CancelScope | None = None

    @property
    def policy(self) -> Policy:
        """The one in force."""
        return Policy.parse(self._container.spec.restart or "no")

    async def begin(self, run: Callable[[], Awaitable[str]]) -> str:
        """A start that was asked for, by *run*: the counts begin anew."""
        record = self._container.record
        before = record.restarts, record.pause, record.by_hand
        record.restarts, record.pause, record.by_hand = 0, 0.0, False
        try:
            return await run()
        except BaseException:
            record.restarts, record.pause, record.by_hand = before
            with suppress(OSError), trio.CancelScope(shield=True):
                await self._container.save()  # the other counts are on disk by now
            raise

    async def stop(self) -> None:
        """It is about to be ended by a command: that is known from now on, whatever dies meanwhile."""
        self._container.record.by_hand = True
        if self.policy.name != "no":
            await self._container.keep()  # what has filled the disk must be possible to end

    def follows(self, exit_code: int | None, finished: int) -> Mapping[str, object]:
        """A run has ended, at *finished*: what is counted when another follows; nothing when none does."""
        record = self._container.record
        if record.by_hand or not self.policy.wants(exit_code, record.restarts):
            return {}
        pause = next_pause(record.pause, (finished - record.started) / 1e9)
        return {"restarts": record.restarts + 1, "pause": pause}

    def settle(self) -> bool:
        """The engine has started, and it does not run: whether it is started."""
        record = self._container.record
        if not self.policy.wants_at_mount(record):
            return False
        record.state, record.pause = "restarting", 0.0
        self._container.engine.spawn(self.carry_on)
        return True

    async def carry_on(self) -> None:
        """The pause between two runs, and the next run."""
        container = self._container
        await container.engine.adopted.wait()  # what has no process yet is taken for a leftover until then
        pause = container.record.pause
        while await self._rest(pause):
            async with container.lock:
                if container.state != "restarting":
                    return
                container.record.by_hand = False
                try:
                    await persistently(container.runs.begin)
                except Exception as error:
                    log.debug("%s is not started again", container.name, exc_info=True)
                    container.failed(f"restart: {getattr(error, 'strerror', None) or error}")
                    if getattr(error, "errno", None) not in _SHORTAGES or isinstance(error, oom.Struck):
                        await container.stay_down()
                        return
                else:
                    count = str(container.record.restarts)
                    container.engine.events.publish("container", container.name, "restart", restarts=count)
                    return
            pause = next_pause(pause, 0)

    async def _rest(self, seconds: float) -> bool:
        """The pause; whether it came to its end."""
        with trio.CancelScope() as self._pause:
            await trio.sleep(seconds)
        return not self._pause.cancelled_caught

    def cancel(self) -> None:
        """What was to follow the pause does not."""
        if self._pause is not None:
            self._pause.cancel()

    async def end(self) -> None:
        """A command ends the pause: it stays down. With the container's lock."""
        self.cancel()
        self._container.record.by_hand = True
        await self._container.stay_down()

    async def review(self) -> None:
        """The policy was changed: a container between two runs may have had its last."""
        container = self._container
        if container.state == "restarting":
            async with container.lock:
                record = container.record
                if container.state == "restarting" and not self.policy.wants(record.exit_code, record.restarts - 1):
                    await self.end()
