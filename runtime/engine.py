"""What every container shares: directories, the cgroup hierarchy, the helper processes, the bus.

An :class:`Engine` is made once, by the composition, and passed to whatever needs it. Where the runtime needs an image it asks
:class:`Images`, a small protocol; who keeps images is not known here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import trio
from pydock.runtime.cgroup import Hierarchy
from pydock.runtime.companion import Lost
from pydock.runtime.confine.userns import Ranges
from pydock.runtime.events import Events
from pydock.runtime.formats import now, print_time
from pydock.runtime.keeper import Keeper
from pydock.runtime.logger.client import Logger
from pydock.runtime.monitor.client import Monitor
from pydock.runtime.network.attaching import Attachments
from pydock.runtime.network.firewalls import Firewalls
from pydock.runtime.settler import Settler
from pydock.runtime.sharing import Find
from pydock.runtime.shifting import Shift
from pydock.runtime.volumestore import VolumeStore


@dataclass(frozen=True, slots=True)
class Defaults:
    """What an image says about the containers made of it; empty where it says nothing."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()  # PORT[-END][/PROTOCOL]
    volumes: tuple[str, ...] = ()  # places
    health_command: tuple[str, ...] = ()  # docker's forms: CMD …, CMD-SHELL …, NONE
    health_interval: float = 0.0  # seconds; 0 says nothing
    health_timeout: float = 0.0
    health_retries: int = 0
    health_start_period: float = 0.0


@dataclass(frozen=True, slots=True)
class Source:
    """An image found: its canonical *reference*, its *id*, its layers' directories (bottom first), its defaults.

    A layer ``PLACE:DIRECTORY`` is seen at that place alone, as a mount of its own.
    """

    reference: str
    id: str
    layers: tuple[str, ...]
    defaults: Defaults


class Images(Protocol):
    """Who gives containers their root file systems."""

    def find(self, reference: str) -> Source:
        """The image of that name, or directory of that absolute path; an exception for ENOENT otherwise. Quick: no I/O to speak of."""

    def union(self, layers: tuple[str, ...], upper: Path | None, work: Path | None, shift: Shift | None = None) -> int:
        """A detached union mount, read-only without *upper*, showing the ids of *shift*. Blocks; mounting one *upper* twice at a time
        corrupts it, so the caller keeps the descriptor."""

    def clone(self, fd: int, *, attributes: int = 0) -> int:
        """A further detached view of the mount *fd*, with MOUNT_ATTR_* *attributes* set. Blocks."""


class Failures:
    """The last failures of everything, for the root's ``errors``: ``TIME OBJECT WORDS`` a line."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=64)
        self.changed = now()

    def add(self, label: str, words: str) -> None:
        self.changed = now()
        self.lines.append(f"{print_time(self.changed)} {label or '/'} {words}")


log = logging.getLogger(__name__)
T = TypeVar("T")


async def trivial(what: object) -> None:
    """Nobody wants to know of *what*."""


@dataclass(slots=True, kw_only=True)
class Engine:
    """Everything a container needs besides its own state."""

    root: Path
    run: Path
    mountpoint: str
    log_max: str  # the default: bytes, or max
    hierarchy: Hierarchy
    images: Images
    volumes: VolumeStore
    attachments: Attachments
    events: Events
    settler: Settler
    monitor: Monitor
    logger: Logger
    keeper: Keeper
    nursery: trio.Nursery
    adopted: trio.Event = field(default_factory=trio.Event)  # what ran before this engine's start has been taken up
    monitors: int = 0  # how many have died: whoever was started by one of them is an orphan
    helpers_killed: int = 0  # for want of memory, in the small processes' cgroup, that have been accounted for
    failures: Failures = field(default_factory=Failures)
    ranges: Ranges = field(default_factory=Ranges)
    user_namespaces: Callable[[], Mapping[str, str | None]] = dict  # the setting of each container, by its id
    find: Find = lambda _: None  # a container by its name
    remove: Callable[[str], Awaitable[None]] | None = None  # the container of that name
    on_removed: Callable[[object], Awaitable[None]] = trivial  # called with a container that has just been removed
    on_networks: Callable[[str], Awaitable[None]] = (
        trivial  # called with the name of the container whose networks changed
    )
    on_change: Callable[[object], None] = lambda _: None  # called with the container whose status changed
    #: Called with a container and what of its settings, by their files' names, was changed otherwise than by a write of those.
    on_set: Callable[[object, Collection[str]], None] = lambda container, names: None
    firewalls: Firewalls = field(init=False)

    def __post_init__(self) -> None:
        self.firewalls = Firewalls(self.attachments.store, self.failures.add)

    def spawn(self, task: Callable[[], Awaitable[object]]) -> None:
        """Run *task* behind the replies. Its failure is logged, and costs nobody else anything."""
        self.nursery.start_soon(_logged, task)


async def _logged(task: Callable[[], Awaitable[object]]) -> None:
    try:
        await task()
    except Exception:
        log.exception("a background task failed")


async def persistently(call: Callable[[], Awaitable[T]]) -> T:
    """``call()``, again when the small process that it asks has died meanwhile; for requests that may be made twice."""
    for _ in range(4):
        try:
            return await call()
        except Lost:
            continue  # the next one has been started, and told what it must know, when the request gets through
    return await call()
