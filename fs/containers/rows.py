"""What the tables of a container's settings are made of: how a field of the spec is shown and stored.

Each setting shows the value in force, so that an unset one shows the image's or the engine's default, and what is read can be
written back. All are EBUSY while the container runs, except those marked live.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Entry, List, S, Value
from pydock.runtime.configuration import LIVE
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import (
    parse_boolean,
    print_boolean,
)
from pydock.runtime.spec import Spec

C = ContainerSubject


def store_field(
    field: str, parse: Callable[[str], object], *, live: bool = False
) -> Callable[[C, str | None, int], Awaitable[None]]:
    async def store(subject: C, text: str | None, caller: int) -> None:
        await subject.container.configuration.change(field, parsed(field, parse, text), live=live)

    return store


def parsed(field: str, parse: Callable[[str], object], text: str | None) -> object:
    """The value of *text*, None for None; a refusal names the *field*."""
    try:
        return None if text is None else parse(text)
    except Invalid as error:
        words = str(error)
        raise Invalid(words if words.startswith(f"{field}:") else f"{field}: {words}") from None


def store_list(field: str) -> Callable[[C, tuple[str, ...] | None], Awaitable[None]]:
    async def store(subject: C, items: tuple[str, ...] | None) -> None:
        await subject.container.configuration.change(field, items)

    return store


def refuse_alive(subject: C, setting: str) -> None:
    """Busy while the container runs."""
    subject.container.configuration.refuse_alive(setting)


def only_idle(
    table: tuple[Entry[S], ...], refuse: Callable[[S, str], None], *, prefix: str = ""
) -> tuple[Entry[S], ...]:
    """*table* with those that are not live refusing even to be emptied, where *refuse* says so."""

    def ready(name: str) -> Callable[[S], None]:
        return lambda subject: refuse(subject, name)

    return tuple(
        replace(entry, ready=ready(prefix + entry.name))
        if isinstance(entry, Value | List) and entry.name not in LIVE
        else entry
        for entry in table
    )


def spec_of(subject: C) -> Spec:
    return subject.container.spec


def effective(field: str, default: Callable[[Defaults], tuple[str, ...]]) -> Callable[[C], Sequence[str]]:
    def show(subject: C) -> Sequence[str]:
        own: tuple[str, ...] | None = getattr(spec_of(subject), field)
        return default(subject.container.defaults()) if own is None else own

    return show


def own_items(field: str) -> Callable[[C], tuple[str, ...] | None]:
    def own(subject: C) -> tuple[str, ...] | None:
        found: tuple[str, ...] | None = getattr(spec_of(subject), field)
        return found

    return own


def show_list(field: str) -> Callable[[C], Sequence[str]]:
    return effective(field, lambda _: ())


def show_text(field: str, default: Callable[[Defaults], str]) -> Callable[[C], str | None]:
    def show(subject: C) -> str | None:
        own: str | None = getattr(spec_of(subject), field)
        return (default(subject.container.defaults()) or None) if own is None else own

    return show


def show_boolean(field: str) -> Callable[[C], str]:
    return lambda subject: print_boolean(bool(getattr(spec_of(subject), field)))


def boolean(field: str, doc: str) -> Value[C]:
    return Value(name=field, show=show_boolean(field), store=store_field(field, parse_boolean), doc=doc)
