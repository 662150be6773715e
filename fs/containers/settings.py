"""The settings of a container: files that say what it is to be.

Each shows the value in force, so that an unset one shows the image's or the engine's default, and what is read can be written
back. All are EBUSY while the container runs, except those marked live.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.node import Document, Entry, List, Value
from pydock.runtime import launching, volumes
from pydock.runtime.confine import capabilities, devices, rlimits, seccomp, sysctls
from pydock.runtime.container import STOP_TIMEOUT
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Invalid, NotFound, Unsupported
from pydock.runtime.formats import (
    parse_arguments,
    parse_boolean,
    parse_duration,
    parse_limit,
    parse_size,
    print_arguments,
    print_boolean,
    print_duration,
    print_limit,
    quote,
)
from pydock.runtime.spec import Spec, parse_signal, print_signal

C = ContainerSubject
_ENVIRONMENT = re.compile(r"[^=\s][^=]*=.*", re.DOTALL)
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?", re.ASCII)
_USER = re.compile(r"[^\s:/-][^\s:/]{0,63}(:[^\s:/-][^\s:/]{0,63})?")
_LONGEST_PATH = 4095


def _store(
    field: str, parse: Callable[[str], object], *, live: bool = False
) -> Callable[[C, str | None, int], Awaitable[None]]:
    async def store(subject: C, text: str | None, caller: int) -> None:
        try:
            value = None if text is None else parse(text)
        except Invalid as error:
            words = str(error)
            raise Invalid(words if words.startswith(f"{field}:") else f"{field}: {words}") from None
        await subject.container.change(field, value, live=live)

    return store


def _store_list(field: str) -> Callable[[C, tuple[str, ...] | None], Awaitable[None]]:
    async def store(subject: C, items: tuple[str, ...] | None) -> None:
        await subject.container.change(field, items)

    return store


def _spec(subject: C) -> Spec:
    return subject.container.spec


def _effective(field: str, default: Callable[[Defaults], tuple[str, ...]]) -> Callable[[C], Sequence[str]]:
    def show(subject: C) -> Sequence[str]:
        own: tuple[str, ...] | None = getattr(_spec(subject), field)
        return default(subject.container.defaults()) if own is None else own

    return show


def _own(field: str) -> Callable[[C], tuple[str, ...] | None]:
    def own(subject: C) -> tuple[str, ...] | None:
        found: tuple[str, ...] | None = getattr(_spec(subject), field)
        return found

    return own


def _show_list(field: str) -> Callable[[C], Sequence[str]]:
    return _effective(field, lambda _: ())


def _show_text(field: str, default: Callable[[Defaults], str]) -> Callable[[C], str | None]:
    def show(subject: C) -> str | None:
        own: str | None = getattr(_spec(subject), field)
        return (default(subject.container.defaults()) or None) if own is None else own

    return show


def _show_boolean(field: str) -> Callable[[C], str]:
    return lambda subject: print_boolean(bool(getattr(_spec(subject), field)))


def _boolean(field: str, doc: str) -> Value[C]:
    return Value(name=field, show=_show_boolean(field), store=_store(field, parse_boolean), doc=doc)


# image


async def _store_image(subject: C, text: str | None, caller: int) -> None:
    container = subject.container
    reference = text.strip() if text is not None else ""
    if not reference:
        await container.change_image(None)
        return
    if reference.startswith("/"):
        volumes.checked_source(reference, outside=container.engine.mountpoint)
    await container.change_image(container.engine.images.find(reference).reference)


# argument vectors


def _arguments(field: str, default: Callable[[Defaults], tuple[str, ...]], doc: str) -> Value[C]:
    def show(subject: C) -> str | None:
        own: tuple[str, ...] | None = getattr(_spec(subject), field)
        words = default(subject.container.defaults()) if own is None else own
        return print_arguments(words) if words or own is not None else None

    return Value(name=field, show=show, store=_store(field, parse_arguments), doc=doc)


# texts


def _workdir(text: str) -> str:
    if not text:
        return ""
    if not text.startswith("/") or len(text.encode()) > _LONGEST_PATH or "\n" in text:
        raise Invalid(f"{quote(text)} is not an absolute path of at most {_LONGEST_PATH} bytes")
    return text


def _user(text: str) -> str:
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
    own = _spec(subject).stop_signal or subject.container.defaults().stop_signal or "SIGTERM"
    return print_signal(parse_signal(own))


def _show_stop_timeout(subject: C) -> str:
    own = _spec(subject).stop_timeout
    return print_duration(STOP_TIMEOUT if own is None else own)


def _shm_size(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise Invalid('"0" is too small for a size of /dev/shm: at least 1')
    return size


def _show_shm_size(subject: C) -> str:
    own = _spec(subject).shm_size
    return str(launching.DEFAULT_SHM if own is None else own)


def _log_max(text: str) -> str:
    limit = parse_limit(text)
    if limit is not None and limit < 8192:
        raise Invalid(f"{quote(text)} is too small: at least 8192 bytes, or max")
    return print_limit(limit)


async def _store_log_max(subject: C, text: str | None, caller: int) -> None:
    await _store("log_max", _log_max, live=True)(subject, text, caller)
    await subject.container.limit_log()


def _tty(text: str) -> bool:
    if parse_boolean(text):
        raise Unsupported("tty: containers have no terminal yet: only 0")
    return False


def _seccomp(text: str) -> str:
    profile = seccomp.parse(text)
    if profile.startswith("/"):
        seccomp.read_profile(Path(profile))
    return profile


# lists


def _env(subject: C, line: str) -> tuple[str, ...]:
    if not _ENVIRONMENT.fullmatch(line):
        raise Invalid(f"env: {quote(line)} is not NAME=VALUE")
    return (line,)


def _label(subject: C, line: str) -> tuple[str, ...]:
    name, equals, value = line.partition("=")
    if not name.strip() or any(letter.isspace() for letter in name):
        raise Invalid(f"labels: {quote(line)} is not NAME=VALUE")
    return (f"{name}={value}",)


def _name(item: str) -> str:
    return item.partition("=")[0]


def _show_capabilities(subject: C) -> Sequence[str]:
    return launching.capability_names(_spec(subject))


async def _store_capabilities(subject: C, items: tuple[str, ...] | None) -> None:
    if items is not None:
        items = capabilities.in_order(items)
    await subject.container.change("capabilities", items)


def _volume(subject: C, line: str) -> tuple[str, ...]:
    volume = volumes.Volume.parse(line)
    volumes.checked_source(volume.source, outside=subject.engine.mountpoint)
    return (str(volume),)


def _volume_key(item: str) -> str:
    return item.split(":")[1] if ":" in item else item


def _tmpfs(subject: C, line: str) -> tuple[str, ...]:
    return (str(volumes.Tmpfs.parse(line)),)


def _device(subject: C, line: str) -> tuple[str, ...]:
    device = devices.parse(line)
    devices.look_up(device)
    return (str(device),)


def _ulimit(subject: C, line: str) -> tuple[str, ...]:
    return (str(rlimits.parse(line)),)


def _sysctl(subject: C, line: str) -> tuple[str, ...]:
    sysctl = sysctls.parse(line)
    sysctls.check(sysctl, own_network=_spec(subject).network != ("host",), own_ipc=True, own_uts=True)
    return (str(sysctl),)


_NETWORKS = ("none", "host")


def _network(subject: C, line: str) -> tuple[str, ...]:
    if line not in _NETWORKS:
        raise NotFound(f"network {quote(line)} does not exist: none or host")
    return (line,)


def _show_network(subject: C) -> Sequence[str]:
    own = _spec(subject).network
    return ("none",) if own is None else own


# the document


async def _apply_spec(subject: C, text: str) -> None:
    await apply(subject, Spec.from_toml(text))


async def apply(subject: C, spec: Spec) -> None:
    """Make *spec* the container's, all or nothing: each setting is validated as if it were written to its file."""
    checked: dict[str, object] = {}
    for name, value in spec.plain().items():
        if name == "cgroup":
            continue
        entry = _BY_NAME[name]
        checker = _Checked(subject)
        if isinstance(entry, List):
            assert isinstance(value, list)
            items = tuple(item for line in value for item in entry.parse(subject, line))
            await entry.store(checker, items)
        elif isinstance(entry, Value) and entry.store is not None:
            await entry.store(checker, _text(name, value), 0)
        checked |= checker.taken
    await subject.container.apply_spec(Spec(**checked, cgroup=spec.cgroup))  # type: ignore[arg-type]


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return print_boolean(value)
    if isinstance(value, list):
        return print_arguments(tuple(value))
    return print_duration(value) if isinstance(value, float) else str(value)


class _Checked:
    """Stands where the container stands, and takes note instead of changing anything."""

    def __init__(self, subject: C) -> None:
        self.container = self
        self.engine = subject.engine
        self.taken: dict[str, object] = {}

    async def change(self, setting: str, value: object, *, live: bool = False) -> None:
        self.taken[setting] = value

    async def change_image(self, reference: str | None) -> None:
        self.taken["image"] = reference

    async def limit_log(self) -> None:
        """Comes when the whole is applied."""


SETTINGS: tuple[Entry[C], ...] = (
    Value(
        name="image",
        mode=0o644,
        show=lambda c: _spec(c).image,
        store=_store_image,
        doc="What the container is made of: a reference in images/, or the absolute path of a directory, whose tree is then the "
        "lower layer. Reads in canonical form. ENOENT if there is no such image; EBUSY while a writable layer exists "
        "(``reset`` discards it).",
    ),
    _arguments(
        "command",
        lambda d: d.command,
        "The command and its arguments, or the arguments of the entrypoint: one line of shell words, or a JSON array. Unset it "
        "shows the image's.",
    ),
    _arguments(
        "entrypoint",
        lambda d: d.entrypoint,
        "What is run, with command as its arguments. Setting it drops the image's command. Unset it shows the image's.",
    ),
    List(
        name="env",
        verbatim=True,
        show=_effective("env", lambda d: d.env),
        own=_own("env"),
        parse=_env,
        store=_store_list("env"),
        key=_name,
        doc="The environment, NAME=VALUE a line. Unset it shows the image's. PATH, HOME and HOSTNAME are added where missing.",
    ),
    Value(
        name="workdir",
        show=_show_text("workdir", lambda d: d.workdir),
        store=_store("workdir", _workdir),
        doc="The working directory inside, made if it is missing. Unset it shows the image's; the default is /.",
    ),
    Value(
        name="user",
        show=_show_text("user", lambda d: d.user),
        store=_store("user", _user),
        doc="Who runs the command: NAME or UID, optionally with :GROUP or :GID, in the image's own passwd and group. Unset it "
        "shows the image's; the default is root.",
    ),
    Value(
        name="hostname",
        show=lambda c: launching.hostname(_spec(c), c.container.id),
        store=_store("hostname", _hostname),
        doc="The host name inside. The default is the first 12 digits of the id.",
    ),
    List(
        name="labels",
        verbatim=True,
        show=_effective("labels", lambda d: d.labels),
        own=_own("labels"),
        parse=_label,
        store=_store_list("labels"),
        key=_name,
        doc="Notes of yours, NAME=VALUE a line. Unset it shows the image's.",
    ),
    Value(
        name="tty",
        show=_show_boolean("tty"),
        store=_store("tty", _tty),
        doc="Whether the container has a terminal. Only 0, the default, is possible yet; 1 is EOPNOTSUPP.",
    ),
    Value(
        name="stop_signal",
        show=_show_stop_signal,
        store=_store("stop_signal", _signal, live=True),
        doc="The signal that ``stop`` sends first, by name or number. Unset it shows the image's; the default is SIGTERM. Live.",
    ),
    Value(
        name="stop_timeout",
        show=_show_stop_timeout,
        store=_store("stop_timeout", parse_duration, live=True),
        doc="How long ``stop`` waits before SIGKILL, in seconds or with ms, s, m, h. The default is 10. Live.",
    ),
    _boolean(
        "readonly", "1 makes the root file system read-only; volumes and tmpfs stay as they are. The default is 0."
    ),
    _boolean(
        "privileged",
        "1 lifts the confinement: all capabilities, all devices, no seccomp filter, nothing masked. The default is 0.",
    ),
    _boolean("no_new_privileges", "1 keeps set-user-ID programs from gaining privileges (prctl(2)). The default is 0."),
    List(
        name="capabilities",
        show=_show_capabilities,
        own=_own("capabilities"),
        parse=lambda c, line: capabilities.in_order(capabilities.parse(line)),
        store=_store_capabilities,
        doc="The whole set of capabilities(7), a name a line. ``echo NET_ADMIN >>`` adds, ``echo -CHOWN >>`` takes away, ``ALL`` is "
        "all of them. The default is docker's 14.",
    ),
    Value(
        name="seccomp",
        show=lambda c: _spec(c).seccomp or seccomp.DEFAULT,
        store=_store("seccomp", _seccomp),
        doc="The filter of system calls: ``default`` (docker's allow-list), ``unconfined``, or the absolute path of a profile in "
        "docker's JSON format.",
    ),
    List(
        name="devices",
        show=_show_list("devices"),
        own=_own("devices"),
        parse=_device,
        store=_store_list("devices"),
        doc="Devices of the machine, SOURCE[:TARGET[:rwm]] a line, besides the usual ones (null, zero, full, random, urandom, tty).",
    ),
    List(
        name="ulimits",
        show=_show_list("ulimits"),
        own=_own("ulimits"),
        parse=_ulimit,
        store=_store_list("ulimits"),
        key=_name,
        doc="Resource limits, NAME=SOFT[:HARD] a line, names as in setrlimit(2) without RLIMIT_, in lower case; ``unlimited`` is no "
        "limit. A raise that the engine has no right to is reported in error and does not fail the start.",
    ),
    List(
        name="sysctls",
        show=_show_list("sysctls"),
        own=_own("sysctls"),
        parse=_sysctl,
        store=_store_list("sysctls"),
        key=_name,
        doc="Kernel parameters of the container's own namespaces, NAME=VALUE a line: kernel.msg*, kernel.sem, kernel.shm*, "
        "fs.mqueue.*, and net.* unless the network is the host's.",
    ),
    List(
        name="tmpfs",
        show=_show_list("tmpfs"),
        own=_own("tmpfs"),
        parse=_tmpfs,
        store=_store_list("tmpfs"),
        key=lambda item: item.partition(":")[0],
        doc="File systems in memory, TARGET[:OPTION,…] a line: size=BYTES, mode=OCTAL, uid=, gid=, ro, exec, suid, dev. The defaults "
        "are noexec,nosuid,nodev.",
    ),
    Value(
        name="shm_size",
        show=_show_shm_size,
        store=_store("shm_size", _shm_size),
        doc="The size of /dev/shm in bytes. The default is 67108864 (64M).",
    ),
    List(
        name="volumes",
        show=_show_list("volumes"),
        own=_own("volumes"),
        parse=_volume,
        store=_store_list("volumes"),
        key=_volume_key,
        doc="Directories and files of the machine, SOURCE:TARGET[:ro,rprivate,…] a line; SOURCE is an absolute path. ENOENT if it does "
        "not exist, EINVAL if it leads into the mount itself.",
    ),
    List(
        name="network",
        show=_show_network,
        own=_own("network"),
        parse=_network,
        store=_store_list("network"),
        key=lambda item: "",  # either takes the other's place
        doc="``none``, the default, is a network of its own with nothing but lo; ``host`` is the machine's.",
    ),
    Value(
        name="log_max",
        show=lambda c: print_limit(c.container.log_max()),
        store=_store_log_max,
        doc="How many bytes log and log.1 may take together, each at most half; ``max`` is no limit. Live.",
    ),
    Document(
        name="spec.toml",
        show=lambda c: _spec(c).to_toml(),
        apply=_apply_spec,
        doc="Every setting that was set, as TOML; writing it sets them all and unsets the others, all or nothing, when the file is "
        "closed. ``cp a/spec.toml b/spec.toml`` makes b like a.",
    ),
)

_BY_NAME: dict[str, Entry[C]] = {entry.name: entry for entry in SETTINGS}
