"""The settings of a container: files that say what it is to be, and ``spec.toml``, all of them in one document."""

from __future__ import annotations

import difflib
import json
from typing import Final

from pydock.fs.containers.cgroup import DOCS
from pydock.fs.containers.confinement import CONFINEMENT
from pydock.fs.containers.health import HEALTH
from pydock.fs.containers.launch import LAUNCH
from pydock.fs.containers.program import PROGRAM
from pydock.fs.containers.rows import C, only_idle, refuse_alive, spec_of
from pydock.fs.containers.surroundings import SURROUNDINGS
from pydock.fs.errors import translate
from pydock.fs.node import Document, Entry, List, Refused, Value
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import print_boolean, print_duration, quote
from pydock.runtime.spec import Spec, path_of, place_in


async def _apply_spec(subject: C, text: str) -> None:
    """Make the document *text* the container's settings, all or nothing: each is validated as if it were written to its file."""
    spec = Spec.from_toml(text)
    checked: dict[str, object] = {}
    for name, value in spec.plain().items():
        if name == "cgroup":
            continue
        try:
            checked |= await _checked(subject, name, value)
        except Exception as error:
            number, words = translate(error)
            raise Refused(number, f"{place_in(text, *path_of(name))}{words}") from error
    for name in spec.cgroup:
        if name not in DOCS:
            close = difflib.get_close_matches(name, DOCS, n=1, cutoff=0.5)
            words = f"{quote(name)} is not a limit{f': did you mean {close[0]}?' if close else ''}"
            raise Invalid(f"{place_in(text, 'cgroup', name)}cgroup: {words}")
    await subject.container.configuration.apply_spec(Spec(**checked, cgroup=spec.cgroup))  # type: ignore[arg-type]


async def _checked(subject: C, name: str, value: object) -> dict[str, object]:
    entry = _BY_NAME[name]
    checker = _Checked(subject)
    if isinstance(entry, List):
        assert isinstance(value, list)
        items = tuple(item for line in value for item in entry.parse(subject, line))
        await entry.store(checker, items)
    elif isinstance(entry, Value) and entry.store is not None:
        await entry.store(checker, _text(name, value), 0)
    return checker.taken


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return print_boolean(value)
    if isinstance(value, list):
        return json.dumps(value, ensure_ascii=False)  # no word of it may become another
    return print_duration(value) if isinstance(value, float) else str(value)


class _Checked:
    """Stands where the container stands, and takes note instead of changing anything."""

    def __init__(self, subject: C) -> None:
        self.container = self.configuration = self.process = self.streams = self.restarts = self
        self.engine = subject.engine
        self.name = subject.container.name
        self.taken: dict[str, object] = {}

    async def change(self, setting: str, value: object, *, live: bool = False) -> None:
        self.taken[setting] = value

    async def change_image(self, reference: str | None) -> None:
        self.taken["image"] = reference

    async def change_volumes(self, items: tuple[str, ...] | None) -> None:
        self.taken["volumes"] = items

    async def change_network(self, setting: str, items: tuple[str, ...] | None) -> None:
        self.taken[setting] = items

    async def set_oom_score(self, value: int | None) -> None:
        """Comes when the whole is applied."""

    async def review(self) -> None:
        """Comes when the whole is applied."""

    async def limit_log(self) -> None:
        """Comes when the whole is applied."""


SETTINGS: Final[tuple[Entry[C], ...]] = (
    *only_idle((*SURROUNDINGS, *PROGRAM, *CONFINEMENT, *LAUNCH), refuse_alive),
    Document(
        name="spec.toml",
        show=lambda c: spec_of(c).to_toml(),
        apply=_apply_spec,
        doc="Every setting that was set, as TOML; writing it sets them all and unsets the others, all or nothing, when the file is "
        "closed. Sizes and durations may be texts as in their files. ``cp a/spec.toml b/spec.toml`` makes b like a.",
    ),
)

_BY_NAME: Final[dict[str, Entry[C]]] = {
    **{entry.name: entry for entry in SETTINGS},
    **{f"health_{entry.name}": entry for entry in HEALTH},
}
