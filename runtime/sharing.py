"""What a container shares with the machine or with another container: its PID, IPC and UTS namespaces, docker's ``--pid``,
``--ipc`` and ``--uts``. See namespaces(7).

A mode is a word, or ``container:NAME``. The name is looked up at each start; the other container must run then, and its
namespace lives as long as somebody is in it. Those who join a PID namespace die with its first process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from pydock.runtime.errors import Busy, Invalid, NotFound
from pydock.runtime.formats import quote
from pydock.runtime.spec import Spec

#: The words of each mode, the default first; of those in ``JOINABLE`` also container:NAME.
MODES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "pid_mode": ("private", "host"),
        "ipc_mode": ("private", "shareable", "none", "host"),
        "uts_mode": ("private", "host"),
    }
)
JOINABLE: Final = frozenset({"pid_mode", "ipc_mode"})
_PREFIX: Final = "container:"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another container, as far as one that joins it has to know it; *pidfd* is -1 while it does not run."""

    id: str
    name: str
    state: str
    spec: Spec
    pidfd: int


Find = Callable[[str], Neighbour | None]


def parse(setting: str, text: str, *, own: str, find: Find) -> str:
    """The mode *text* for *setting* of the container called *own*; NotFound for a container that there is not."""
    word = text.strip()
    if word in MODES[setting]:
        return word
    name = joined(word) if setting in JOINABLE else None
    if not name:
        accepted = [*MODES[setting], *(["container:NAME"] if setting in JOINABLE else [])]
        raise Invalid(f"{setting}: {quote(text)} is none of {', '.join(accepted)}")
    if name == own:
        raise Invalid(f"{setting}: {own} can't join itself")
    found = find(name)
    if found is None:
        raise NotFound(f"{setting}: there is no container {quote(name)}")
    if found.name != name:  # it was renamed in this moment
        return parse(setting, f"{_PREFIX}{found.name}", own=own, find=find)
    return word


def joined(mode: str | None) -> str | None:
    """The name in ``container:NAME``; None for other modes."""
    return mode.removeprefix(_PREFIX) if mode is not None and mode.startswith(_PREFIX) else None


def renamed(spec: Spec, name: str, new: str) -> Spec:
    """*spec* with the container *name*, where it is joined, called *new*. Its network may be joined, too."""
    before, after = f"{_PREFIX}{name}", f"{_PREFIX}{new}"
    modes = {setting: after for setting in JOINABLE if getattr(spec, setting) == before}
    network = (after,) if spec.network == (before,) else spec.network
    return replace(spec, network=network, **modes)  # type: ignore[arg-type]


def own_namespace(mode: str | None) -> bool:
    """Whether the container has the namespace to itself, and those who join it."""
    return mode != "host" and joined(mode) is None


@dataclass(frozen=True, slots=True)
class Joined:
    """The first processes, as pidfds of their owners, of the containers whose namespaces are joined; None to join nobody."""

    pid: int | None = None
    ipc: int | None = None


def look_up(spec: Spec, own: str, find: Find) -> Joined:
    """Whom a start of *spec* joins. NotFound; Busy when it does not run; Invalid when it does not share."""
    ipc = _running("ipc_mode", spec.ipc_mode, own, find)
    if ipc is not None and (ipc.spec.ipc_mode or "private") != "shareable":
        raise Invalid(f"ipc_mode: {ipc.name} does not share its own: write shareable into its ipc_mode first")
    pid = _running("pid_mode", spec.pid_mode, own, find)
    return Joined(None if pid is None else pid.pidfd, None if ipc is None else ipc.pidfd)


def _running(setting: str, mode: str | None, own: str, find: Find) -> Neighbour | None:
    name = joined(mode)
    if name is None:
        return None
    found = find(name)
    if found is None:
        raise NotFound(f"{setting}: there is no container {quote(name)}")
    if found.name == own:
        raise Invalid(f"{setting}: {own} can't join itself")
    if found.state not in ("running", "paused") or found.pidfd < 0:
        raise Busy(f"{setting}: {name} is not running: it is {found.state}")
    return found
