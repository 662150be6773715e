"""The status of a container: read-only files, reports, links, and its commands."""

from __future__ import annotations

import json
from typing import Final

from pydock.fs.containers.commit import commit
from pydock.fs.containers.health import HEALTH
from pydock.fs.containers.processes import processes
from pydock.fs.containers.reports import render_changes, render_stats
from pydock.fs.containers.settings import SETTINGS
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Control, Entry, Link, List, Report, Value, Verb, no_words
from pydock.runtime.container import Container
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_duration, print_arguments, print_time, quote

C = ContainerSubject
#: The columns of ``address``.
_ADDRESS: Final = ("network", "address", "mac")


def _time(nanoseconds: int) -> str | None:
    return print_time(nanoseconds) if nanoseconds else None


def _number(value: int | None) -> str | None:
    return None if value is None else str(value)


def _turned(subject: C) -> int:
    return subject.container.record.turned


async def _log(subject: C) -> str:
    return str(subject.container.log)


async def _log_1(subject: C) -> str:
    return f"{subject.container.log}.1"


async def _log_1_index(subject: C) -> str:
    return f"{subject.container.log}.1.index"


async def _log_index(subject: C) -> str:
    return f"{subject.container.log}.index"


async def _rootfs(subject: C) -> str:
    container = subject.container
    if container.spec.image is None:
        return str(container.root.place)  # dangling until there is an image: ls -l must not fail
    place = str(await container.root.attach(container.source(container.spec.image)))
    container.save_soon()  # a writable layer may have been made for it
    return place


async def _processes(subject: C) -> str:
    return await processes(subject.container)


async def _changes(subject: C) -> str:
    return await render_changes(subject.container)


async def _stats(subject: C) -> str:
    return await render_stats(subject.container)


async def _inspect(subject: C) -> str:
    """Everything at once, as JSON: settings in force under their files' names, status, the cgroup."""
    container = subject.container
    record = container.record
    status: dict[str, object] = {
        "id": record.id,
        "name": record.name,
        "state": record.state,
        "pid": record.pid or None,
        "exit_code": record.exit_code,
        "error": record.error,
        "created": _time(record.created),
        "started": _time(record.started),
        "finished": _time(record.finished),
        "image_id": record.image_id or None,
        "log": str(container.log),
        "address": [dict(zip(_ADDRESS, line.split(), strict=True)) for line in container.network.addresses()],
        "ports_bound": container.network.bound(),
    }
    settings: dict[str, object] = {}
    for entry in SETTINGS:
        if isinstance(entry, List):
            settings[entry.name] = list(entry.show(subject))
        elif isinstance(entry, Value):
            settings[entry.name] = entry.show(subject)
    health = {entry.name: entry.show(subject) for entry in HEALTH if isinstance(entry, Value)}
    cgroup: dict[str, object] = {"path": container.cgroup.path}
    for name in container.cgroup.names():
        if container.cgroup.mode(name) != "wo":
            try:
                cgroup[name] = container.cgroup.read(name).rstrip("\n")
            except OSError:
                continue
    parts = {"settings": settings, "health": health, "cgroup": cgroup, "exec": _executed(container)}
    return json.dumps({**status, **parts}, indent=2) + "\n"


def _executed(container: Container) -> dict[str, object]:
    """The processes of ``exec/`` by name: what their files of the same names say."""
    return {
        each.name: {
            "state": each.record.state,
            "pid": each.record.pid or None,
            "exit_code": each.record.exit_code,
            "command": None if each.spec.command is None else print_arguments(each.spec.command),
        }
        for each in container.execs
        if not each.hidden
    }


# commands


def terminal_size(words: tuple[str, ...]) -> tuple[int, int]:
    """The two numbers of ``resize ROWS COLS``."""
    if len(words) == 2 and all(word.isascii() and word.isdecimal() and 0 < int(word) < 65536 for word in words):
        return int(words[0]), int(words[1])
    raise Invalid(f"resize takes ROWS and COLS, two numbers from 1 to 65535, not {quote(' '.join(words))}")


def _seconds(verb: str, words: tuple[str, ...]) -> float | None:
    if len(words) > 1:
        raise Invalid(f"{verb} takes at most a number of seconds, not {quote(' '.join(words))}")
    return parse_duration(words[0]) if words else None


async def _start(subject: C, words: tuple[str, ...]) -> str:
    no_words("start", words)
    return await subject.container.start()


async def _stop(subject: C, words: tuple[str, ...]) -> str:
    return await subject.container.stop(_seconds("stop", words))


def one_signal(words: tuple[str, ...]) -> str | None:
    """The signal of ``kill [SIGNAL]``."""
    if len(words) > 1:
        raise Invalid(f"kill takes at most a signal, not {quote(' '.join(words))}")
    return words[0] if words else None


async def _kill(subject: C, words: tuple[str, ...]) -> str:
    return await subject.container.kill(one_signal(words))


async def _pause(subject: C, words: tuple[str, ...]) -> str:
    no_words("pause", words)
    return await subject.container.pause()


async def _resume(subject: C, words: tuple[str, ...]) -> str:
    no_words("resume", words)
    return await subject.container.resume()


async def _restart(subject: C, words: tuple[str, ...]) -> str:
    return await subject.container.restart(_seconds("restart", words))


async def _reset(subject: C, words: tuple[str, ...]) -> str:
    no_words("reset", words)
    return await subject.container.reset()


async def _eof(subject: C, words: tuple[str, ...]) -> str:
    no_words("eof", words)
    return await subject.container.close_stdin()


async def _resize(subject: C, words: tuple[str, ...]) -> str:
    return await subject.container.resize(*terminal_size(words))


STATUS: tuple[Entry[C], ...] = (
    Value(
        name="state",
        mode=0o644,
        changed=lambda c: c.container.record.changed,
        show=lambda c: c.container.state,
        doc="``created``, ``running``, ``paused``, ``exited`` or ``restarting``.",
    ),
    Value(
        name="id",
        mode=0o644,
        show=lambda c: c.container.id,
        doc="64 hexadecimal digits, given by mkdir, never changed.",
    ),
    Value(
        name="pid",
        mode=0o644,
        changed=_turned,
        show=lambda c: _number(c.container.record.pid or None),
        doc="The process id, on the machine, of the container's first process. Empty while it does not run.",
    ),
    Value(
        name="exit_code",
        mode=0o644,
        changed=_turned,
        show=lambda c: _number(c.container.record.exit_code),
        doc="The exit code of the last run, 128 and the signal's number when a signal ended it. Empty before the first exit, while it "
        "runs, and when it can't be known.",
    ),
    Value(
        name="error",
        show=lambda c: c.container.record.error or None,
        volatile=True,
        changed=lambda c: c.container.error_changed,
        doc="One line on the last command or setting that failed: what was tried, what was wrong, what would be accepted. Empty after "
        "the next success.",
    ),
    Value(
        name="created",
        mode=0o644,
        show=lambda c: _time(c.container.record.created),
        doc="When it was made, RFC 3339 in UTC with nanoseconds.",
    ),
    Value(
        name="started",
        changed=lambda c: c.container.record.started or c.container.record.created,
        show=lambda c: _time(c.container.record.started),
        doc="When its last run began. Empty before.",
    ),
    Value(
        name="finished",
        changed=_turned,
        show=lambda c: _time(c.container.record.finished),
        doc="When its last run ended. Empty while it runs.",
    ),
    Value(
        name="address",
        volatile=True,
        changed=lambda c: max(c.container.record.turned, c.container.record.addressed),
        show=lambda c: "\n".join(c.container.network.addresses()) or None,
        doc="``NETWORK ADDRESS/BITS MAC`` a line, of the networks that it is a member of. Empty while it does not run.",
    ),
    Value(
        name="ports.bound",
        volatile=True,
        changed=lambda c: max(c.container.record.turned, c.container.record.published),
        show=lambda c: "\n".join(c.container.network.bound()) or None,
        doc="The ports that it has of the machine, as in ``ports``, with HOST 0 and ``auto`` as the ports that were got. Empty "
        "while it does not run.",
    ),
    Control(
        name="ctl",
        doc="Commands, one a line; the write returns when the command is done, with its errno. Reading lists them; reading from the "
        "descriptor that wrote tells the outcome in words.",
        verbs=(
            Verb(name="start", usage="start", doc="run it", run=_start),
            Verb(
                name="stop",
                usage="stop [SECONDS]",
                doc="send stop_signal, SIGKILL after stop_timeout or SECONDS; returns once it has exited",
                run=_stop,
            ),
            Verb(
                name="kill",
                usage="kill [SIGNAL]",
                doc="without SIGNAL end it at once and wait for the end; else send SIGNAL to its first process",
                run=_kill,
            ),
            Verb(name="pause", usage="pause", doc="freeze its processes", run=_pause),
            Verb(name="resume", usage="resume", doc="let frozen processes go on", run=_resume),
            Verb(name="restart", usage="restart [SECONDS]", doc="stop it if it runs, then start it", run=_restart),
            Verb(name="reset", usage="reset", doc="discard the writable layer", run=_reset),
            Verb(
                name="commit",
                usage="commit REFERENCE [KEY=VALUE…]",
                doc="make an image of its root; KEY is message, author, cmd, entrypoint, env, workdir, user, label, port, volume, "
                "stop_signal, or pause",
                run=commit,
                cancelled=True,
                quoted=True,
            ),
            Verb(name="eof", usage="eof", doc="close its standard input", run=_eof),
            Verb(name="resize", usage="resize ROWS COLS", doc="set the size of its terminal", run=_resize),
        ),
    ),
    Link(
        name="log",
        target=_log,
        doc="stdout and stderr as the bytes came, a link to the file itself. ``: > log`` clears it. When the "
        "disk is full ``error`` says so, and what is written waits until there is room.",
    ),
    Link(name="log.1", target=_log_1, doc="The older half of the log, once log has reached half of log_max."),
    Link(
        name="log.index",
        target=_log_index,
        doc="``TIME STREAM OFFSET LENGTH`` a line for each piece of log; starts anew when the log shrinks.",
    ),
    Link(name="log.1.index", target=_log_1_index, doc="The same of log.1."),
    Link(
        name="rootfs",
        target=_rootfs,
        doc="The container's root without its volumes, running or not; a mount that is nosuid, nodev and nosymfollow, so a "
        "symlink in it leads nowhere (ELOOP).",
    ),
    Report(
        name="processes",
        render=_processes,
        doc="A header line, then ``PID NSPID USER CPU_SECONDS RSS_BYTES STATE COMMAND`` for each process of the container.",
    ),
    Report(
        name="changes",
        render=_changes,
        doc="What its writable layer changes of the image, ``A PATH`` (added), ``C PATH`` (changed) or ``D PATH`` (deleted) a line, "
        "sorted; directories above a change are changed too, as with ``docker diff``. What pydock makes to mount on is left out. In "
        "names a backslash, and bytes that are not printable UTF-8, are ``\\ooo`` in octal, as in mountinfo.",
    ),
    Report(
        name="stats",
        render=_stats,
        doc="What it uses and has used, flat keyed: cpu_usec memory_bytes memory_peak_bytes pids io_read_bytes io_write_bytes "
        "net_rx_bytes net_tx_bytes net_rx_packets net_tx_packets. The network's are those of its network namespace without lo since "
        "that was made, 0 while it does not run. A figure that the kernel does not have is left out.",
    ),
    Report(
        name="inspect.json",
        render=_inspect,
        doc="Everything about the container, for machines: what the files of these names say, "
        "``ports_bound`` for ``ports.bound``, and of each process in ``exec`` its state, pid, exit_code and command.",
    ),
)
