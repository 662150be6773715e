"""What is known of a container besides its settings, and how it is kept in ``state.json``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import trio
from pydock.runtime.formats import now
from pydock.runtime.procfs import boot_id, stat_of
from pydock.runtime.settler import Settler
from pydock.runtime.state import printed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = Literal["created", "running", "paused", "exited", "restarting"]


@dataclass(slots=True)
class Life:
    """The runs of a process, as ``state.json`` keeps them. Times in ns since the epoch, 0 for never."""

    id: str
    name: str
    created: int
    state: State = "created"
    pid: int = 0
    starttime: int = 0  # field 22 of /proc/PID/stat: with boot, the boot's id, it tells a process from a later one
    boot: str = ""
    started: int = 0
    finished: int = 0
    exit_code: int | None = None
    error: str = ""
    at_end: bool = False  # nothing more comes from the run's stdin
    changed: int = 0
    files: dict[str, list[int | None]] = field(default_factory=dict)  # mode, uid, gid, mtime of the object's files

    @property
    def turned(self) -> int:
        """When its last run ended or began, or it was made: what there is of a run is as it is since then."""
        return max(self.created, self.started, self.finished)

    def take(self, run: Run) -> None:
        """*run* is the one that goes on now."""
        self.state, self.changed = "running", run.started
        self.pid, self.starttime, self.boot, self.started = run.pid, run.starttime, run.boot, run.started
        self.finished, self.exit_code, self.error, self.at_end = 0, None, "", False


@dataclass(slots=True)
class Record(Life):
    """What is known of a container."""

    before: str = ""  # its name until it was renamed, as long as settings of others may have that yet
    image_id: str = ""
    layers: tuple[str, ...] = ()  # below the writable layer that exists; empty when none does
    defaults: dict[str, object] = field(default_factory=dict)  # those of that image
    mounts: dict[str, list[int]] = field(default_factory=dict)  # of the run: by volume, as written, its mount's ids
    places: tuple[str, ...] = ()  # made in the writable layer to mount on, since that was made
    leaving: bool = False  # its run has ended, and so it is to be removed
    mounting: bool = False  # those are being changed: a death now leaves open what has been done
    limiting: bool = False  # the limits of its cgroup are being changed: a death now leaves open which are in force
    ports: tuple[str, ...] = ()  # that the run has published, each as its own item
    published: int = 0  # when those of a run that went on became others
    addressed: int = 0  # when its addresses did
    range: int = 0  # the beginning of the ids that ``userns auto`` has given it
    namespaces: tuple[str, ...] = ()  # of the run, when its processes have to be told by them
    restarts: int = 0  # by its restart policy, since it was started by hand
    pause: float = 0.0  # seconds before the last of them
    held: bool = False  # its processes stand still while its files are read: a death must not leave them so
    by_hand: bool = False  # it was stopped or killed by a command, which the policy respects
    health: str = ""  # healthy or unhealthy, once that is known of the run
    oom_kills: int = -1  # that its cgroup counts, and are told or were of another run; -1: nobody has looked
    failing: int = 0  # checks of its health that failed one after another

    def take(self, run: Run) -> None:
        Life.take(self, run)
        self.health, self.failing = "", 0

    def mount_at(self, places: Iterable[str]) -> None:
        """Something is about to be mounted at *places*."""
        self.places = tuple(dict.fromkeys((*self.places, *places)))

    def publish(self, ports: tuple[str, ...]) -> None:
        """Its run has these *ports* from now on."""
        if self.pid and ports != self.ports:
            self.published = now()
        self.ports = ports


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a process."""

    pid: int
    starttime: int
    boot: str
    started: int


def lives(record: Life) -> bool:
    """Whether the process of *record* is still that process."""
    if record.boot != boot_id():
        return False
    try:
        _, fields = stat_of(record.pid)
    except OSError:
        return False
    return int(fields[19]) == record.starttime and fields[0] not in ("Z", "X")


@functools.cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(each.name for each in dataclasses.fields(kind))


def kept(record: DataclassInstance) -> dict[str, object]:
    """Its fields as they are. dataclasses.asdict() copies all that is in them, which took a start a millisecond."""
    return {name: getattr(record, name) for name in _names(type(record))}


def new_record(identity: str, name: str) -> Record:
    """The record of a container that is made now."""
    time = now()
    return Record(id=identity, name=name, created=time, changed=time)


def record_of(values: Mapping[str, object]) -> Record:
    """The record in a ``state.json``, as far as it is known what that says; TypeError when it is none."""
    known = {each.name for each in dataclasses.fields(Record)}
    record = Record(**cast("dict[str, str]", {key: each for key, each in values.items() if key in known}))  # type: ignore[arg-type]
    record.layers, record.namespaces = tuple(record.layers), tuple(record.namespaces)
    record.ports, record.places = tuple(record.ports), tuple(record.places)
    record.defaults = {key: tuple(each) if isinstance(each, list) else each for key, each in record.defaults.items()}
    return record


class RecordFile:
    """``state.json`` in an object's directory. Saves are one after another, each of the record as it is by then.

    What is on disk already is not written again.
    """

    def __init__(self, record: Life, directory: Path, settler: Settler) -> None:
        self._record = record
        self._path = directory / "state.json"
        self._settler = settler
        self._lock = trio.Lock()
        self._saved = ""
        self._values: Mapping[str, object] = {}  # that were saved
        self._coming: Mapping[str, object] = {}

    async def keep(self, **coming: object) -> str:
        """:meth:`save` what is told in any case: if it can't be kept now, it is tried again until it can. What was wrong, in words."""
        try:
            await self.save(**coming)
        except OSError as error:
            self._settler.owe(self.save)
            return error.strerror or str(error)
        return ""

    def says(self, name: str, value: object) -> bool:
        """Whether the field *name*, a plain one, is *value* on disk, and nothing else is about to be."""
        return self._values.get(name) == value

    def announce(self, coming: Mapping[str, object]) -> None:
        """Each save from now on has the fields *coming*, until the record has taken them."""
        self._coming = coming

    def take_announced(self) -> None:
        """They are on disk, or are told in any case: the record has them."""
        for name, value in self._coming.items():
            setattr(self._record, name, value)
        self._coming = {}

    async def save(self, run: Run | None = None, /, **coming: object) -> None:
        """Keep the record as it is now; with *run* as it will be if that succeeds, or with the fields that it is about to have.

        What others may see has to be on disk before it is in the record: else a death makes it unseen.
        """
        async with self._lock:
            record = self._record
            if run is not None:
                record = dataclasses.replace(record)
                record.take(run)
                self._coming = {}
            values = {**kept(record), **self._coming, **coming}
            text = printed(values)
            if text == self._saved:
                return
            self._saved, self._values = "", {}
            await self._settler.keep(self._path, text)
            self._saved, self._values = text, values
