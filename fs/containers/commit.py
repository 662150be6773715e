"""``commit``: a container's root as an image, with what its settings say, as ``docker commit`` does it.

The configuration is the image's, with the container's settings that docker keeps in one (entrypoint, command, env, workdir, user,
labels, stop_signal, the health check), and then with the keys of the command, which mean what ``--change`` means to docker: env,
label, port and volume add to what there is or replace the same name, entrypoint drops the command unless cmd is given too.
"""

from __future__ import annotations

import difflib
import json
import posixpath
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import trio
from pydock.fs.containers.program import parse_env, parse_user, parse_workdir
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.imagefiles import made_name, tidy
from pydock.overlay import commit as making
from pydock.overlay import host
from pydock.overlay.image import Image
from pydock.overlay.manifest import Healthcheck, ImageConfig
from pydock.overlay.reference import Reference
from pydock.runtime import launching
from pydock.runtime.changes import mounted_on
from pydock.runtime.container import Container
from pydock.runtime.engine import Defaults
from pydock.runtime.errors import Invalid, Unsupported
from pydock.runtime.formats import parse_arguments, parse_boolean, parse_label, print_arguments, quote
from pydock.runtime.spec import Spec, parse_signal, print_signal

#: What a commit takes, and whether it may be given more than once.
KEYS: Final = {
    "message": False,
    "author": False,
    "cmd": False,
    "entrypoint": False,
    "env": True,
    "workdir": False,
    "user": False,
    "label": True,
    "port": True,
    "expose": True,
    "volume": True,
    "stop_signal": False,
    "pause": False,
}
_PORT: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII)
Change = Callable[[ImageConfig], ImageConfig]


@dataclass(slots=True)
class Request:
    """A commit as it was asked for; *changes* in the order of their meaning."""

    reference: Reference
    message: str = ""
    author: str = ""
    pause: bool = True
    changes: list[Change] = field(default_factory=list)


def parse(words: tuple[str, ...]) -> Request:
    """``REFERENCE [KEY=VALUE…]``. Invalid, with what would be accepted."""
    if not words:
        raise Invalid("commit takes a reference, and then KEY=VALUE words")
    request = Request(made_name(words[0]))
    given: dict[str, list[str]] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if key not in KEYS or not equals:
            close = difflib.get_close_matches(key, KEYS, n=1, cutoff=0.5)
            words_ = f"did you mean {close[0]}=…?" if close else ", ".join(KEYS)
            raise Invalid(f"commit: {quote(word)} is not KEY=VALUE with a key that there is: {words_}")
        given.setdefault(key, []).append(value)
    for key, values in given.items():
        if len(values) > 1 and not KEYS[key]:
            raise Invalid(f"commit: {key} is given {len(values)} times")
    request.message, request.author = given.get("message", [""])[0], given.get("author", [""])[0]
    request.pause = parse_boolean(given.get("pause", ["1"])[0])
    for key, parse_change in _CHANGES.items():
        request.changes += [parse_change(value) for value in given.get(key, [])]
    return request


def _arguments(key: str, value: str) -> tuple[str, ...]:
    """Shell words or a JSON array; Invalid for an array whose own quotes the command line's have taken away, but not for ``[ … ]``."""
    if value.startswith("[") and not value[1:2].isspace():
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            example = f'\'{key}=["x","y"]\''
            raise Invalid(f"{key}: {quote(value)} is no JSON array: one is written in quotes, {example}") from None
    return parse_arguments(value)


def _entrypoint(value: str) -> Change:
    words = _arguments("entrypoint", value)
    return lambda config: replace(config, entrypoint=words, command=())


def _cmd(value: str) -> Change:
    words = _arguments("cmd", value)
    return lambda config: replace(config, command=words)


def _env(value: str) -> Change:
    items = parse_env(value)
    if not items:
        raise Invalid(f"env: {quote(value)} is not NAME=VALUE")
    return lambda config: replace(config, env=_with(config.env, *items))


def _with(items: Iterable[str], *more: str) -> tuple[str, ...]:
    """*items*, of which those with the name of one of *more* are replaced."""
    named = {item.partition("=")[0]: item for item in items}
    return tuple((named | {item.partition("=")[0]: item for item in more}).values())


def _workdir(value: str) -> Change:
    if value and not value.startswith("/"):  # relative to the one there is
        return lambda config: replace(config, workdir=parse_workdir(posixpath.join(config.workdir or "/", value)))
    parsed = parse_workdir(value)
    return lambda config: replace(config, workdir=parsed)


def _user(value: str) -> Change:
    parsed = parse_user(value)
    return lambda config: replace(config, user=parsed)


def _label(value: str) -> Change:
    name, _, text = parse_label(value).partition("=")
    return lambda config: replace(config, labels=tuple({**dict(config.labels), name: text}.items()))


def _port(value: str) -> Change:
    match = _PORT.fullmatch(value.strip())
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if match is None or not 0 < first <= last < 65536:
        raise Invalid(f"port: {quote(value)} is not PORT[-END][/tcp|udp|sctp]")
    port = f"{first}{f'-{last}' if last != first else ''}/{match[3] or 'tcp'}"
    return lambda config: replace(config, ports=tuple(dict.fromkeys((*config.ports, port))))


def _volume(value: str) -> Change:
    if not value.startswith("/"):
        raise Invalid(f"volume: {quote(value)} is not an absolute path")
    place = posixpath.normpath(parse_workdir(value))
    return lambda config: replace(config, volumes=tuple(dict.fromkeys((*config.volumes, place))))


def _stop_signal(value: str) -> Change:
    parsed = print_signal(parse_signal(value)) if value else None
    return lambda config: replace(config, stop_signal=parsed)


#: In the order in which they are applied: a cmd stands whatever the entrypoint does.
_CHANGES: Final[dict[str, Callable[[str], Change]]] = {
    "entrypoint": _entrypoint,
    "cmd": _cmd,
    "env": _env,
    "workdir": _workdir,
    "user": _user,
    "label": _label,
    "port": _port,
    "expose": _port,
    "volume": _volume,
    "stop_signal": _stop_signal,
}


def configured(base: ImageConfig, defaults: Defaults, spec: Spec) -> ImageConfig:
    """The configuration of an image of a container with the settings *spec*. *defaults* are what its own image says, *base* is that
    of the image whose layers are taken, which mostly is the same."""
    labels = defaults.labels if spec.labels is None else spec.labels
    return replace(
        base,
        entrypoint=launching.entrypoint(spec, defaults),
        command=launching.command(spec, defaults),
        env=defaults.env if spec.env is None else spec.env,
        workdir=defaults.workdir if spec.workdir is None else spec.workdir,
        user=defaults.user if spec.user is None else spec.user,
        labels=tuple((name, value) for name, _, value in (label.partition("=") for label in labels)),
        stop_signal=spec.stop_signal or defaults.stop_signal or None,
        ports=defaults.ports,
        volumes=defaults.volumes,
        healthcheck=_health(defaults, spec),
    )


def _health(defaults: Defaults, spec: Spec) -> Healthcheck | None:
    words = defaults.health_command if spec.health_command is None else spec.health_command
    test = words if words[:1] in (("CMD",), ("CMD-SHELL",), ("NONE",)) else ("CMD", *words)
    if spec.health_command == ():
        test = ("NONE",)

    def nanoseconds(own: float | None, image: float) -> int:
        return round((image if own is None else own) * 1e9)

    check = Healthcheck(
        test if words or spec.health_command is not None else (),
        interval=nanoseconds(spec.health_interval, defaults.health_interval),
        timeout=nanoseconds(spec.health_timeout, defaults.health_timeout),
        start_period=nanoseconds(spec.health_start_period, defaults.health_start_period),
        retries=spec.health_retries or defaults.health_retries,
    )
    return None if check == Healthcheck() else check


def _root(container: Container) -> tuple[making.Source, Defaults]:
    """What it is made of. Invalid without an image, Unsupported for the machine's."""
    if container.spec.image is None:
        raise Invalid(f"{container.name} has no image: write one into image first")
    source = container.source(container.spec.image)
    if any(not layer.startswith("/") for layer in source.layers):
        raise Unsupported(f"commit: the image {host.NAME} is the machine's own /usr, which is in no image")
    upper = container.root.upper if container.record.layers and container.root.upper.is_dir() else None
    layers = tuple(Path(layer) for layer in source.layers)
    return making.Source(source.id, layers, upper, mounted_on(container.spec, container.record)), source.defaults


async def commit(subject: ContainerSubject, words: tuple[str, ...]) -> str:
    """The command."""
    request = parse(words)
    container, images = subject.container, subject.images
    async with container.pauses.still(pause=request.pause) as let_go:
        source, defaults = _root(container)
        spec = container.spec

        def configure(base: ImageConfig) -> ImageConfig:
            config = configured(base, defaults, spec)
            for change in request.changes:
                config = change(config)
            return config

        command = ""
        with suppress(Invalid):
            command = print_arguments(launching.argv(spec, defaults))
        note = making.Note(command, request.message, request.author)

        def make() -> Image:
            return making.commit(
                images.store,
                request.reference,
                source,
                configure,
                note,
                check=trio.from_thread.check_cancelled,
                read=lambda: trio.from_thread.run(let_go),
            )

        image = await trio.to_thread.run_sync(make)
    subject.engine.events.publish("image", image.reference, "commit", id=image.id, container=container.name)
    subject.engine.spawn(lambda: tidy(images))
    return f"committed {image.reference} {image.id}"
