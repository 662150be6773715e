"""What a container runs, and as whom: command, environment, user, and how it is ended."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydock.fs.containers.rows import (
    C,
    boolean,
    effective,
    own_items,
    show_text,
    spec_of,
    store_field,
    store_list,
)
from pydock.fs.node import Entry, List, Value
from pydock.runtime import launching
from pydock.runtime.container import STOP_TIMEOUT
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import (
    parse_arguments,
    parse_duration,
    parse_label,
    parse_limit,
    print_arguments,
    print_duration,
    print_limit,
    quote,
)
from pydock.runtime.restarts import Policy
from pydock.runtime.spec import Spec, parse_signal, print_signal

_ENVIRONMENT = re.compile(r"[^=\s][^=]*=.*", re.DOTALL)
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", re.ASCII)
_USER = re.compile(r"[^\s:/-][^\s:/]{0,63}(:[^\s:/-][^\s:/]{0,63})?")
_LONGEST_PATH = 4095


def _arguments(field: str, in_force: Callable[[Spec, Defaults], tuple[str, ...]], doc: str) -> Value[C]:
    def show(subject: C) -> str | None:
        own: tuple[str, ...] | None = getattr(spec_of(subject), field)
        words = in_force(spec_of(subject), subject.container.defaults())
        return print_arguments(words) if words or own is not None else None

    return Value(name=field, show=show, store=store_field(field, parse_arguments), doc=doc)


# texts


def parse_workdir(text: str) -> str:
    """An absolute path, or nothing."""
    if not text:
        return ""
    if not text.startswith("/") or len(text.encode()) > _LONGEST_PATH or "\n" in text:
        raise Invalid(f"{quote(text)} is not an absolute path of at most {_LONGEST_PATH} bytes")
    return text


def parse_user(text: str) -> str:
    """``USER[:GROUP]``, names or numbers, or nothing."""
    stripped = text.strip()
    if stripped and not _USER.fullmatch(stripped):
        raise Invalid(f"{quote(text)} is not a user: NAME or UID, and optionally :GROUP or :GID")
    for part in filter(str.isdecimal, stripped.split(":")):
        if int(part) > 0xFFFFFFFE:
            raise Invalid(f"{quote(part)} is too large for an id: at most {0xFFFFFFFE}")
    return stripped


def _hostname(text: str) -> str:
    stripped = text.strip()
    if stripped and not _HOSTNAME.fullmatch(stripped):
        raise Invalid(f"{quote(text)} is not a host name: 1 to 64 letters, digits, dots and hyphens")
    return stripped


def _signal(text: str) -> str:
    return print_signal(parse_signal(text))


def _show_stop_signal(subject: C) -> str:
    return print_signal(parse_signal(launching.stop_signal(spec_of(subject), subject.container.defaults())))


def _show_stop_timeout(subject: C) -> str:
    own = spec_of(subject).stop_timeout
    return print_duration(STOP_TIMEOUT if own is None else own)


def _restart(text: str) -> str:
    return str(Policy.parse(text))


def _log_max(text: str) -> str:
    limit = parse_limit(text)
    if limit is not None and limit < 8192:
        raise Invalid(f"{quote(text)} is too small: at least 8192 bytes, or max")
    return print_limit(limit)


async def _store_restart(subject: C, text: str | None, caller: int) -> None:
    await store_field("restart", _restart, live=True)(subject, text, caller)
    await subject.container.restarts.review()


async def _store_log_max(subject: C, text: str | None, caller: int) -> None:
    await store_field("log_max", _log_max, live=True)(subject, text, caller)
    await subject.container.process.streams.limit_log()


def parse_env(line: str) -> tuple[str, ...]:
    """The item of a line ``NAME=VALUE``; none of a comment, as env-files have them."""
    if line.lstrip().startswith("#"):
        return ()
    if not _ENVIRONMENT.fullmatch(line):
        raise Invalid(f"env: {quote(line)} is not NAME=VALUE")
    return (line,)


def _label(subject: C, line: str) -> tuple[str, ...]:
    return (parse_label(line),)


def name_of(item: str) -> str:
    """What is before the ``=``."""
    return item.partition("=")[0]


PROGRAM: tuple[Entry[C], ...] = (
    _arguments(
        "command",
        launching.command,
        "The command and its arguments, or the arguments of the entrypoint: one line of shell words, or a JSON array. Unset it "
        "shows the image's, and nothing once an entrypoint is set.",
    ),
    _arguments(
        "entrypoint",
        launching.entrypoint,
        "What is run, with command as its arguments. Setting it drops the image's command. Unset it shows the image's.",
    ),
    List(
        name="env",
        verbatim=True,
        show=effective("env", lambda d: d.env),
        own=own_items("env"),
        parse=lambda c, line: parse_env(line),
        store=store_list("env"),
        key=name_of,
        doc="The environment, NAME=VALUE a line, the value as it stands: quotes are part of it. Lines that begin with # are left "
        "out, so ``cp FILE env`` takes an env-file; a NAME alone is EINVAL. Unset it shows the image's. PATH, HOME and HOSTNAME are "
        "added where missing, with a terminal also TERM=xterm.",
    ),
    Value(
        name="workdir",
        show=show_text("workdir", lambda d: d.workdir),
        store=store_field("workdir", parse_workdir),
        doc="The working directory inside, made if it is missing. Unset it shows the image's; empty it is /.",
    ),
    Value(
        name="user",
        show=show_text("user", lambda d: d.user),
        store=store_field("user", parse_user),
        doc="Who runs the command: NAME or UID, optionally with :GROUP or :GID, in the image's own passwd and group. Unset it "
        "shows the image's; the default is root.",
    ),
    Value(
        name="hostname",
        show=lambda c: launching.hostname(spec_of(c), c.container.id),
        store=store_field("hostname", _hostname),
        doc="The host name inside. The default is the first 12 digits of the id.",
    ),
    List(
        name="labels",
        verbatim=True,
        show=effective("labels", lambda d: d.labels),
        own=own_items("labels"),
        parse=_label,
        store=store_list("labels"),
        key=name_of,
        doc="Notes of yours, NAME=VALUE a line. Unset it shows the image's.",
    ),
    boolean(
        "autoremove",
        "1 removes the container, as rmdir does, when its run has ended: after its end is told in events, before ``wait``, ``stop`` "
        "and ``kill`` return. Whoever has ``wait`` open gets the exit code. A restart is no end. If it can't be removed (somebody is "
        "in its rootfs, or a foreign process in its cgroup) it stays, and error says why. The default is 0.",
    ),
    boolean(
        "tty",
        "1 gives it a terminal, console, in the place of stdin, stdout and stderr; its log has what the terminal shows; "
        "TERM is xterm unless env has one. The default is 0.",
    ),
    Value(
        name="restart",
        show=lambda c: spec_of(c).restart or "no",
        store=_store_restart,
        doc="Whether it is started again when it has ended by itself: ``no`` (the default), ``on-failure`` (an exit code that is not "
        "0, or unknown), ``on-failure:N`` (N times at most), ``always``, or ``unless-stopped``. Before each try its state is "
        "``restarting``: for 100 ms, twice as long each time up to a minute, and again 100 ms after a run of ten seconds. ``wait`` "
        "waits on; ``stop`` and ``kill`` end it. A try for which the disk has no room is followed by another. "
        "What a command has stopped or killed stays down; when pydock itself starts, as after "
        "a reboot, ``always`` runs all the same and ``unless-stopped`` does not. Live.",
    ),
    Value(
        name="stop_signal",
        show=_show_stop_signal,
        store=store_field("stop_signal", _signal, live=True),
        doc="The signal that ``stop`` sends first, by name (RTMIN+N and RTMAX-N too) or number. Unset it shows "
        "the image's; the default is SIGTERM. Live.",
    ),
    Value(
        name="stop_timeout",
        show=_show_stop_timeout,
        store=store_field("stop_timeout", parse_duration, live=True),
        doc="How long ``stop`` waits before SIGKILL, in seconds or with ms, s, m, h. The default is 10. Live.",
    ),
    Value(
        name="log_max",
        show=lambda c: print_limit(c.container.log_max()),
        store=_store_log_max,
        doc="How many bytes log and log.1 may take together, each at most half; ``max`` is no limit. Live.",
    ),
)
