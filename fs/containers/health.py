"""``health/``: the check of what runs in a container, and what it has found."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import Final

from pydock.fs.containers.rows import only_idle, parsed, refuse_alive
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Directory, Entry, Refused, Stream, Value
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import (
    parse_arguments,
    parse_duration,
    parse_integer,
    print_arguments,
    print_duration,
    quote,
)
from pydock.runtime.health import INTERVAL, RETRIES, TIMEOUT, Health, in_form

C = ContainerSubject
_SHORTEST: Final = 0.001
_SHELL: Final = "CMD-SHELL"
_FORMS: Final = frozenset({"CMD", _SHELL})


class Wait:
    """Gives ``healthy`` as soon as it is, or ``none`` when it can't be any more."""

    def __init__(self, health: Health, spawn: Callable[[Callable[[], Awaitable[object]]], None]) -> None:
        self._health = health
        self._spawn = spawn
        self._given = False

    async def _wait(self) -> str:
        while (outcome := self._health.outcome) is None:
            await self._health.changed.wait()
        return outcome

    async def receive(self) -> bytes:
        if self._given:
            return b""
        outcome = await self._wait()
        self._given = True
        return f"{outcome}\n".encode()

    async def send(self, data: bytes) -> int:
        raise Refused(errno.EACCES, "health/wait is read-only")

    def readable(self) -> bool:
        return self._given or self._health.outcome is not None

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        if self.readable():
            wake()
            return

        async def watch() -> None:
            await self._wait()
            wake()

        self._spawn(watch)

    def close(self) -> None:
        """Nothing is held."""


def _store(name: str, parse: Callable[[str], object]) -> Callable[[C, str | None, int], Awaitable[None]]:
    async def store(subject: C, text: str | None, caller: int) -> None:
        await subject.container.configuration.change(f"health_{name}", parsed(f"health/{name}", parse, text))

    return store


def _command(text: str) -> tuple[str, ...]:
    words = _words(text)
    if words and words[0] in _FORMS and not "".join(words[1:]).strip():
        raise Invalid(f"{quote(text)} has nothing to run behind {words[0]}")
    return words


def _words(text: str) -> tuple[str, ...]:
    """Those of *text*. Behind CMD-SHELL stands what the shell is to read, quotes and all, unless it is one word: so it is shown."""
    form, *rest = text.split(maxsplit=1) or [""]
    if form != _SHELL or not rest:
        return in_form(parse_arguments(text))
    try:
        words = parse_arguments(text)
    except Invalid:  # it is a shell's line, not one of words
        words = ()
    return words if len(words) == 2 else parse_arguments(print_arguments((_SHELL, rest[0].rstrip())))


def _time(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < _SHORTEST:
        raise Invalid(f"{quote(text)} is too short: at least 1ms")
    return seconds


def _retries(text: str) -> int:
    return parse_integer(text, low=1, high=1_000_000, what="a number of failures")


def _show_command(subject: C) -> str | None:
    container = subject.container
    own = container.spec.health_command
    words = in_form(container.defaults().health_command if own is None else own)
    return print_arguments(words) if words or own is not None else None


def _show_time(own: Callable[[C], float | None], image: Callable[[C], float], default: float) -> Callable[[C], str]:
    def show(subject: C) -> str:
        value = own(subject)
        return print_duration((image(subject) or default) if value is None else value)

    return show


def _show_retries(subject: C) -> str:
    container = subject.container
    return str(container.spec.health_retries or container.defaults().health_retries or RETRIES)


_TABLE: tuple[Entry[C], ...] = (
    Value(
        name="command",
        show=_show_command,
        store=_store("command", _command),
        doc="What is run in the container: one line of shell words, or a JSON array; exit code 0 is healthy. Docker's forms work too: "
        "``CMD-SHELL TEXT`` is run by the container's shell, the text as it stands or quoted as one word, ``CMD`` before the words "
        "changes nothing, ``NONE`` (or an empty line) is no check. Unset it shows the image's.",
    ),
    Value(
        name="interval",
        show=_show_time(
            lambda c: c.container.spec.health_interval, lambda c: c.container.defaults().health_interval, INTERVAL
        ),
        store=_store("interval", _time),
        doc="Seconds, or with ms, s, m, h, from the start to the first run and from each end to the next. Unset it is the image's; the "
        "default is 30.",
    ),
    Value(
        name="timeout",
        show=_show_time(
            lambda c: c.container.spec.health_timeout, lambda c: c.container.defaults().health_timeout, TIMEOUT
        ),
        store=_store("timeout", _time),
        doc="What runs longer is killed and has failed. Unset it is the image's; the default is 30.",
    ),
    Value(
        name="retries",
        show=_show_retries,
        store=_store("retries", _retries),
        doc="So many failures in a row are ``unhealthy``. Unset it is the image's; the default is 3.",
    ),
    Value(
        name="start_period",
        show=_show_time(
            lambda c: c.container.spec.health_start_period, lambda c: c.container.defaults().health_start_period, 0.0
        ),
        store=_store("start_period", parse_duration),
        doc="Failures in so many seconds from the start do not count until it has been healthy once; the command is run every five "
        "seconds then, if interval is longer. Unset it is the image's; the default is 0.",
    ),
    Value(
        name="status",
        volatile=True,
        changed=lambda c: max(c.container.health.taken, c.container.record.turned),
        show=lambda c: c.container.health.status,
        doc="``starting``, ``healthy``, ``unhealthy``, or ``none`` when it does not run or there is no command. What was wrong is in "
        "``error`` when it becomes unhealthy.",
    ),
    Stream(
        name="wait",
        open=lambda c: Wait(c.container.health, c.container.engine.spawn),
        doc="Blocks until it is healthy, then gives ``healthy``; before the first start too, and while it is unhealthy or restarting. "
        "Gives ``none`` when its run has ended or there is no command.",
    ),
)

HEALTH: Final = only_idle(_TABLE, refuse_alive, prefix="health/")


def health_directory(subject: C) -> Directory:
    """The directory of *subject*'s health check."""
    directory = Directory("health", None, subject, HEALTH, prefix="health/")  # type: ignore[arg-type]
    directory.scratchable = True
    return directory
