"""What a container is started with: the namespaces it shares, its reaper, how soon the kernel ends it for want of memory."""

from __future__ import annotations

import re

from pydock.fs.containers.rows import C, boolean, show_boolean, spec_of, store_field
from pydock.fs.node import Entry, Value
from pydock.runtime import reaper, sharing
from pydock.runtime.confine import userns
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_boolean, quote


def _mode(setting: str, doc: str) -> Value[C]:
    async def store(subject: C, text: str | None, caller: int) -> None:
        container = subject.container
        value = None
        if text is not None and text.strip():
            value = sharing.parse(setting, text, own=container.name, find=container.engine.find)
        await container.configuration.change(setting, value)

    def show(subject: C) -> str:
        own: str | None = getattr(spec_of(subject), setting)
        return own or sharing.MODES[setting][0]

    return Value(name=setting, show=show, store=store, doc=doc)


def _init(text: str) -> bool:
    wanted = parse_boolean(text)
    if wanted:
        reaper.find()
    return wanted


def _oom_score(text: str) -> int:
    word = text.strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,4}", word) or not -1000 <= int(word) <= 1000:
        raise Invalid(f"oom_score_adj: {quote(text)} is not a number from -1000 to 1000")
    return int(word)


async def _store_oom_score(subject: C, text: str | None, caller: int) -> None:
    value = None if text is None else _oom_score(text)
    await subject.container.configuration.set_oom_score(value)
    await subject.container.configuration.change("oom_score_adj", value, live=True)


LAUNCH: tuple[Entry[C], ...] = (
    _mode(
        "pid_mode",
        "The PID namespace: ``private``, the default, ``host``, the machine's, or ``container:NAME``, that of another container, which "
        "must run at the start (EBUSY) and with whose end this one ends. ENOENT for a container that there is not, EINVAL for the "
        "container itself. In a namespace that is not its own, the end of the first process ends all others of the container: those "
        "that share a mount or cgroup namespace with it.",
    ),
    _mode(
        "ipc_mode",
        "System V IPC, POSIX message queues and /dev/shm: ``private``, the default, ``shareable`` (others may join it), ``none`` (its "
        "own, without a /dev/shm), ``host``, or ``container:NAME``, that of a running container whose ipc_mode is shareable. Errors as "
        "of pid_mode.",
    ),
    _mode(
        "uts_mode",
        "Who has the host name: ``private``, the default, or ``host``, the machine's; with host a hostname that is set fails the start "
        "with EINVAL.",
    ),
    Value(
        name="userns",
        show=lambda c: spec_of(c).userns or userns.HOST,
        store=store_field("userns", userns.parse),
        doc="The user namespace: ``host``, the default, is none, so that root inside is the machine's. ``auto`` gives the container "
        "65536 ids that nobody else has, from its first start on; ``UID:GID:COUNT`` says which. What is on disk has the container's "
        "own numbers all the same: its files, and those of volumes where the file system can (else their owners are nobody inside, "
        "and error says so at the start), are shown shifted; so are they in rootfs, where only the ids of the container can make "
        "new files (EOVERFLOW for others). EINVAL at the start with privileged, EOPNOTSUPP with pid_mode or ipc_mode "
        "container:NAME, or where the kernel (before Linux 5.19) or the file system of the image or the container can't.",
    ),
    Value(
        name="init",
        show=show_boolean("init"),
        store=store_field("init", _init),
        doc="1 runs the command below a reaper, as process 1, that hands signals on to it: the machine's tini or catatonit, seen as "
        f"{reaper.TARGET} inside. EOPNOTSUPP when the machine has none. The default is 0.",
    ),
    boolean(
        "systemd",
        "1 prepares for a systemd as the first process: memory at /run, /run/lock, /tmp and /var/log/journal, the container's own "
        "cgroup of the v2 tree writable at /sys/fs/cgroup (and nothing else there), ``container=pydock`` and container_uuid in the "
        "environment, SIGRTMIN+3 as stop_signal, and /sbin/init as command, where nothing else is set. What it starts stays within the "
        "container's limits. EOPNOTSUPP at the start on a machine without a cgroup v2 tree. The default is 0.",
    ),
    Value(
        name="oom_score_adj",
        show=lambda c: str(spec_of(c).oom_score_adj or 0),
        store=_store_oom_score,
        doc="How soon the kernel ends its processes for want of memory, from -1000 (never) to 1000 (first). The default is 0. Live: "
        "written to each of its processes; EPERM where the engine has no right to lower it so far (CAP_SYS_RESOURCE).",
    ),
)
