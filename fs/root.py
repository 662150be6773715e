"""The root of the tree: what this is, how it is, what happens, and the commands on the whole."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import os
import platform
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

import trio
from pydock.fs.metadata import Metadata
from pydock.fs.node import Control, Directory, Entry, Link, Refused, Report, Stream, Subject, Value, Verb, no_words
from pydock.runtime.containers import Containers
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Invalid
from pydock.runtime.events import Event, Events
from pydock.runtime.formats import now, quote
from pydock.runtime.trees import size_of

_LAG: Final = 4096  # events that a reader may be behind before the oldest are dropped

README: Final = """\
pydock: containers as files.  All of it is mkdir, echo, cat, rmdir.

  cd {mountpoint}/containers
  mkdir web                         a container, with its cgroup and defaults
  echo busybox > web/image          of ../images, a directory's path, or host
  echo 'sh -c "echo hello; sleep 3; exit 7"' > web/command
  echo 64M > web/cgroup/memory.max  limits are cgroup v2's files, on any kernel
  echo start > web/ctl              cat web/ctl lists the commands
  cat web/state web/log             log is a link: tail -F at the disk's speed
  cat web/wait; rmdir web           blocks until it has exited: 7
  echo A=1 >> web/env               adds; -A takes away; > replaces; : > unsets
  cp a/spec.toml b/spec.toml        all settings; vim, sed -i, git do as well
  echo /srv:/data:ro >> web/volumes while it runs, too; ../volumes outlive all
  echo 8080:80 >> web/ports         so do networks: echo front >> web/network
  mkdir web/exec/x                  a further process: x/command, x/ctl, x/log
  cat a/stdout > b/stdin            with tty 1: socat -,raw,echo=0 web/console
  echo always > web/restart         and health/command, cat web/health/wait
  cat web/error                     why it was refused, and the nearest name
  cat ../events ../errors           what happens; ../journal has all of it
  echo 'pull debian' > ../images/ctl
  umount {mountpoint}               ends the engine, not the containers

INTERFACE.rst describes every file, COOKBOOK.rst ways to use them.
"""


@functools.cache
def version() -> str:
    """The version of the installed package."""
    return importlib.metadata.version("pydockfs")


@dataclass(slots=True)
class Root:
    """The whole, as the subject of the root directory. *counts* tells how many of each kind there are."""

    engine: Engine
    containers: Containers
    counts: Callable[[], dict[str, int]]
    prune_images: Callable[[], Awaitable[int]]
    prune_volumes: Callable[[], Awaitable[int]]
    prune_networks: Callable[[], Awaitable[int]]
    collect: Callable[[], Awaitable[int]]
    reload: Callable[[], Awaitable[str]]
    shutdown: Callable[[], None]
    metadata: Metadata
    label: str = ""

    def failed(self, words: str) -> None:
        self.engine.failures.add("/", words)

    def succeeded(self) -> None:
        """The root has no ``error`` of its own, only the list."""


class EventChannel:
    """The events from open on. A reader that is too far behind loses the oldest, and a line says how many."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._arrived = trio.Event()
        self._wakes: list[Callable[[], None]] = []
        events.listen(self._take)

    def _take(self, event: Event) -> None:
        if len(self._lines) >= _LAG:
            self._lines.popleft()
            self._dropped += 1
        self._lines.append(str(event).encode(errors="surrogateescape") + b"\n")
        self._arrived.set()
        wakes, self._wakes = self._wakes, []
        for wake in wakes:
            wake()

    async def receive(self) -> bytes:
        while not self._lines:
            self._arrived = trio.Event()
            await self._arrived.wait()
        data = b""
        if self._dropped:
            data, self._dropped = f"# {self._dropped} events were not read in time: see journal\n".encode(), 0
        data += b"".join(self._lines)
        self._lines.clear()
        return data

    async def send(self, data: bytes) -> int:
        raise Refused(errno.EACCES, "events is read-only")

    def readable(self) -> bool:
        return bool(self._lines)

    def writable(self) -> bool:
        return True

    def on_ready(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def close(self) -> None:
        self._events.ignore(self._take)


async def _journal(root: Root) -> str:
    return str(root.engine.events.journal)


async def _info(root: Root) -> str:
    engine = root.engine
    states = [container.state for container in root.containers]
    values: dict[str, object] = {
        "kernel": platform.release(),
        "cgroup": engine.hierarchy.kind,
        "containers": len(states),
        "running": states.count("running"),
        "paused": states.count("paused"),
        "exited": states.count("exited"),
        **root.counts(),
        "data_bytes": await trio.to_thread.run_sync(size_of, engine.root),
        "cpus": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "root": engine.root,
    }
    return "".join(f"{key} {value}\n" for key, value in values.items())


async def _prune(root: Root, words: tuple[str, ...]) -> str:
    match words:
        case ("containers",):
            removed = 0
            for container in tuple(root.containers):
                if container.state == "exited":
                    await root.containers.remove(container.name)
                    removed += 1
        case ("images",):
            removed = await root.prune_images()
        case ("volumes",):
            removed = await root.prune_volumes()
        case ("networks",):
            removed = await root.prune_networks()
        case _:
            raise Invalid(f"prune takes containers, images, volumes or networks, not {quote(' '.join(words))}")
    return f"removed {removed} {words[0] if removed != 1 else words[0].removesuffix('s')}"


async def _gc(root: Root, words: tuple[str, ...]) -> str:
    no_words("gc", words)
    return f"freed {await root.collect()} bytes"


async def _reload(root: Root, words: tuple[str, ...]) -> str:
    no_words("reload", words)
    return await root.reload()


async def _shutdown(root: Root, words: tuple[str, ...]) -> str:
    no_words("shutdown", words)
    root.shutdown()
    return "the file system is being unmounted; containers go on"


TABLE: tuple[Entry[Root], ...] = (
    Value(
        name="README",
        mode=0o644,
        show=lambda root: README.format(mountpoint=root.engine.mountpoint).removesuffix("\n"),
        doc="One screen: how to use the tree.",
    ),
    Value(name="version", mode=0o644, show=lambda root: f"pydock {version()}", doc="``pydock VERSION``."),
    Report(
        name="info",
        mode=0o644,
        render=_info,
        doc="The engine at a glance, flat keyed: kernel cgroup containers running paused exited images layers volumes networks "
        "data_bytes cpus memory root. data_bytes and memory are bytes.",
    ),
    Stream(
        name="events",
        mode=0o644,
        open=lambda root: EventChannel(root.engine.events),
        doc="A line an event, from open on: ``TIME KIND NAME ACTION key=value…``.",
    ),
    Link(
        name="journal",
        target=_journal,
        doc="Every event since installation, a JSON object a line, appended: read on from the byte where you stopped.",
    ),
    Value(
        name="errors",
        mode=0o644,
        volatile=True,
        changed=lambda root: root.engine.failures.changed,
        show=lambda root: "\n".join(root.engine.failures.lines) or None,
        doc="The last 64 failures: ``TIME OBJECT WORDS``.",
    ),
    Control(
        name="ctl",
        mode=0o644,
        doc="Commands on the whole, one a line.",
        verbs=(
            Verb(name="gc", usage="gc", doc="delete what no image and no container needs any more", run=_gc),
            Verb(
                name="prune",
                usage="prune containers|images|volumes|networks",
                doc="remove every container that has exited, or every image, volume or network that no container uses",
                run=_prune,
            ),
            Verb(name="reload", usage="reload", doc="read /etc/pydock.toml again", run=_reload),
            Verb(name="shutdown", usage="shutdown", doc="unmount; containers go on", run=_shutdown),
        ),
    ),
)


class RootDirectory(Directory):
    """The mount point."""

    def __init__(self, root: Root) -> None:
        super().__init__("", None, root, cast("tuple[Entry[Subject], ...]", TABLE))

    def add(self, directory: Directory) -> None:
        """A directory of objects, such as ``containers``."""
        directory.parent = self
        self.files[directory.name] = directory

    def dynamic(self, name: str) -> Directory | None:
        found = self.files.get(name)
        return found if isinstance(found, Directory) else None

    def dynamic_names(self) -> list[str]:
        return [name for name, node in self.files.items() if isinstance(node, Directory)]


def root_metadata() -> Metadata:
    """The root was born when it was mounted."""
    return Metadata(born=now())
