"""``cgroup/``: the container's cgroup with cgroup v2's files on any kernel, and the v1 names as unlisted aliases.

The files are the kernel's, so the table is made from what this kernel has. What each means is in the kernel's
Documentation/admin-guide/cgroup-v2.rst; every write is the kernel's (or its v1 translation's) to accept or refuse.
"""

from __future__ import annotations

import trio
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Directory, Entry, Value
from pydock.runtime.cgroup import Cgroup

C = ContainerSubject


def _read(name: str, subject: C) -> str | None:
    return subject.container.cgroup.read(name) or None


async def _write(name: str, subject: C, text: str | None, caller: int) -> None:
    cgroup = subject.container.cgroup
    await trio.to_thread.run_sync(cgroup.write, name, text or "", caller)
    await subject.container.keep_cgroup()


def _entry(cgroup: Cgroup, name: str, *, listed: bool) -> Entry[C]:
    mode = cgroup.mode(name)

    async def store(subject: C, text: str | None, caller: int) -> None:
        await _write(name, subject, text, caller)

    return Value(
        name=name,
        listed=listed,
        volatile=True,
        show=(lambda subject: None) if mode == "wo" else (lambda subject: _read(name, subject)),
        store=None if mode == "ro" else store,
        doc="",
    )


def cgroup_directory(subject: C) -> Directory:
    """The directory of *subject*'s cgroup."""
    cgroup = subject.container.cgroup
    path: Entry[C] = Value(
        name="path",
        show=lambda c: c.container.cgroup.path,
        doc="The cgroup's place below the controllers' roots, for cgexec and its like.",
    )
    names = cgroup.names()
    rows = [path, *(_entry(cgroup, name, listed=True) for name in names)]
    rows += [_entry(cgroup, name, listed=False) for name in sorted(cgroup.aliases()) if name not in names]
    directory = Directory("cgroup", None, subject, rows, prefix="cgroup/")  # type: ignore[arg-type]
    directory.scratchable = True
    return directory
