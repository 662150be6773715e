"""``images/REFERENCE/``: what an image is made of, what it says about its containers, and who uses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, cast

import trio
from pydock.fs.imageroots import ImageRoots
from pydock.fs.links import ContainerLinks
from pydock.fs.metadata import Metadata
from pydock.fs.node import Bulk, Control, Directory, Entry, Folder, Link, Report, Subject, Value, Verb
from pydock.fs.subject import Telling
from pydock.overlay import manifest as documents
from pydock.overlay.commit import squash
from pydock.overlay.errors import OverlayError
from pydock.overlay.image import Image
from pydock.overlay.manifest import ConfigFile, ImageConfig
from pydock.overlay.reference import Reference
from pydock.overlay.registry.client import Registries
from pydock.overlay.registry.transfers import Transfers
from pydock.overlay.saving import Archive, Plan, plan
from pydock.overlay.store import Store
from pydock.overlay.waste import waste
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import canonical_time, print_arguments, print_duration, quote


@dataclass(slots=True)
class Images:
    """The store, as the tree and the runtime see it. *users* names the containers that an image is in use by, under any name;
    *asking* those that could not be started any more without the name given; *renamed* has them know an image by another name."""

    store: Store
    engine: Engine
    roots: ImageRoots
    registries: Registries
    transfers: Transfers
    users: Callable[[Image], tuple[str, ...]]
    asking: Callable[[str], tuple[str, ...]]
    renamed: Callable[[str, str], Awaitable[None]]
    chains: Callable[[], frozenset[str]]
    prune: Callable[[], Awaitable[int]]


async def tidy(images: Images) -> None:
    """Behind a reply: what no image needs any more goes, what is new is put on the disk."""

    def work() -> None:
        images.store.collect(keep=images.chains())
        images.store.empty_trash()
        images.store.settle()

    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(work)


class ImageSubject(Telling):
    """One image, as the subject of its directory."""

    def __init__(self, images: Images, reference: str) -> None:
        super().__init__(f"images/{reference}", images.engine, images.store.tagged(reference))
        self.images = images
        self.reference = reference
        self._plan: tuple[Image, Plan] | None = None

    @property
    def image(self) -> Image:
        return self.images.store.image(self.reference)

    @property
    def metadata(self) -> Metadata:
        self._metadata.born = self.since
        return self._metadata

    @property
    def since(self) -> int:
        """When its name came to be the image's: the time of all that tells of it, as it does not change."""
        try:
            return self.images.store.tagged(self.reference)
        except OverlayError:
            return self._metadata.born  # it has just been removed

    @property
    def plan(self) -> Plan:
        """How the image's archive is made up."""
        image = self.image
        if self._plan is None or self._plan[0] != image:
            self._plan = image, plan(self.images.store, image)
        return self._plan[1]


async def _archive(subject: ImageSubject) -> Archive:
    made = subject.plan
    return await trio.to_thread.run_sync(Archive, subject.images.store, made)


def _text(name: str, doc: str, show: Callable[[Image], str], *, mode: int = 0o600) -> Value[ImageSubject]:
    return Value(name=name, mode=mode, volatile=True, show=lambda s: show(s.image) or None, doc=doc)


def _lines(name: str, doc: str, show: Callable[[ImageConfig], Iterable[str]]) -> Value[ImageSubject]:
    return _text(name, doc, lambda image: "\n".join(show(image.config)))


def _health(config: ImageConfig) -> Iterable[str]:
    check = config.healthcheck
    if check is None or not check.test:
        return ()
    durations = {"interval": check.interval, "timeout": check.timeout, "start_period": check.start_period}
    lines = [f"command {print_arguments(check.test)}"]
    lines += [f"{name} {print_duration(value / 1e9)}" for name, value in durations.items() if value]
    return [*lines, *([f"retries {check.retries}"] if check.retries else [])]


async def _config(subject: ImageSubject) -> str:
    data = await trio.to_thread.run_sync(subject.images.store.config_file, subject.image)
    return data.decode(errors="surrogateescape")


async def _manifest(subject: ImageSubject) -> str:
    data = await trio.to_thread.run_sync(subject.images.store.manifest, subject.image)
    return data.decode(errors="surrogateescape")


async def _history(subject: ImageSubject) -> str:
    image = subject.image
    data = await trio.to_thread.run_sync(subject.images.store.config_file, image)
    steps = documents.decode(data, ConfigFile, f"config {image.id}").history or ()
    layers = iter(image.layers)
    lines = []
    for step in steps:
        layer = None if step.empty_layer else next(layers, None)
        words = " ".join(" # ".join(filter(None, (step.created_by, step.comment))).split())
        time = canonical_time(step.created) if step.created else "-"
        lines.append(f"{layer.unpacked if layer else 0} {time} {words}".rstrip())
    lines += [f"{layer.unpacked} -" for layer in layers]
    return "".join(f"{line}\n" for line in lines)


async def _waste(subject: ImageSubject) -> str:
    found = await trio.to_thread.run_sync(waste, subject.images.store.layer_paths(subject.image))
    lines = [f"{size} {_one_line(path)}" for path, size in sorted(found.items(), key=lambda item: (-item[1], item[0]))]
    return "".join(f"{line}\n" for line in (*lines, f"{sum(found.values())} total"))


def _one_line(path: str) -> str:
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in path)


async def _rootfs(subject: ImageSubject) -> str:
    return str(await subject.images.roots.attach(subject.image))


async def _tag(subject: ImageSubject, words: tuple[str, ...]) -> str:
    if len(words) != 1:
        raise Invalid("tag takes one word: REFERENCE")
    return f"tagged {(await tag(subject.images, subject.reference, str(made_name(words[0])))).reference}"


async def _squash(subject: ImageSubject, words: tuple[str, ...]) -> str:
    if len(words) != 1:
        raise Invalid("squash takes one word: REFERENCE")
    images, before, reference = subject.images, subject.image, made_name(words[0])
    check = trio.from_thread.check_cancelled
    image = await trio.to_thread.run_sync(lambda: squash(images.store, before, reference, check))
    images.engine.events.publish("image", image.reference, "commit", id=image.id, squashed=before.reference)
    images.engine.spawn(lambda: tidy(images))
    return f"squashed {image.reference} {image.id}"


def made_name(text: str) -> Reference:
    """The name of an image that is to be made. Invalid with a digest, which is found out."""
    reference = Reference.parse(text)
    if reference.digest is not None:
        raise Invalid(f"{quote(text)}: an image that is made has a name and a tag, its digest is found out")
    return reference


async def _push(subject: ImageSubject, words: tuple[str, ...]) -> str:
    if len(words) > 1:
        raise Invalid("push takes one word at most: REFERENCE")
    image = subject.image
    reference = Reference.parse(words[0] if words else subject.reference)
    digest = await subject.images.registries.push(image, reference)
    subject.images.engine.events.publish("image", str(reference), "push", id=image.id, digest=digest)
    return f"pushed {reference} {digest}"


async def tag(images: Images, old: str, new: str) -> Image:
    """Give the image *old* the further name *new*, taking it from whoever has it."""
    image = await trio.to_thread.run_sync(images.store.tag, old, new)
    images.engine.events.publish("image", image.reference, "tag", id=image.id)
    return image


def _containers(subject: ImageSubject) -> ContainerLinks:
    return ContainerLinks("containers", subject, lambda: subject.images.users(subject.image))


IMAGE: tuple[Entry[ImageSubject], ...] = (
    _text("id", "The digest of its configuration: what makes two images the same.", lambda i: i.id, mode=0o644),
    _text("digest", "The digest of its manifest: what registries know it by.", lambda i: i.digest),
    _text("size", "Bytes unpacked, all layers together.", lambda i: str(i.size)),
    _text(
        "created",
        "When it was built, RFC 3339 in UTC, as its configuration says.",
        lambda i: canonical_time(i.created),
        mode=0o644,
    ),
    _text("architecture", "The machine it is for, in Go's words: amd64, arm64, ….", lambda i: i.architecture),
    _text("os", "The operating system it is for: linux.", lambda i: i.os),
    _text("author", "Who made it, as its configuration says.", lambda i: i.author),
    _text(
        "entrypoint",
        "What its containers run unless they say otherwise, in shell words; command are its arguments.",
        lambda i: print_arguments(i.config.entrypoint) if i.config.entrypoint else "",
    ),
    _text(
        "command",
        "The command, or the arguments of the entrypoint, in shell words.",
        lambda i: print_arguments(i.config.command) if i.config.command else "",
    ),
    _lines("env", "The environment, NAME=VALUE a line.", lambda c: c.env),
    _text("workdir", "The working directory.", lambda i: i.config.workdir),
    _text("user", "Who runs the command.", lambda i: i.config.user),
    _lines("ports", "The ports that it exposes, PORT[-END][/PROTOCOL] a line.", lambda c: c.ports),
    _lines("volumes", "The places that it wants volumes at, a line each.", lambda c: c.volumes),
    _lines("labels", "Its labels, NAME=VALUE a line.", lambda c: (f"{key}={value}" for key, value in c.labels)),
    _lines(
        "healthcheck",
        "Its health check, flat keyed: command, and interval, timeout, start_period in seconds, retries where they are set.",
        _health,
    ),
    Report(name="config.json", render=_config, doc="The configuration document as stored."),
    Report(name="manifest.json", render=_manifest, doc="The manifest as stored."),
    Report(
        name="history",
        render=_history,
        doc="``BYTES TIME WORDS`` a line for each step that made it, the first first; 0 bytes where a step made no layer.",
    ),
    Value(
        name="layers",
        volatile=True,
        show=lambda s: "\n".join(f"{e.digest} {e.compressed} {e.unpacked}" for e in s.image.layers) or None,
        doc="``DIGEST COMPRESSED UNPACKED`` a line for each layer, bottom first: why what is pushed is smaller than what is here.",
    ),
    Report(
        name="waste",
        render=_waste,
        doc="``BYTES PATH`` a line for each file that a later layer overwrites or deletes, the largest first, and their total.",
    ),
    Link(
        name="rootfs",
        target=_rootfs,
        doc="The read-only union of its layers; a mount that is nosuid, nodev and nosymfollow.",
    ),
    Bulk(
        name="archive.tar",
        size=lambda s: s.plan.size,
        open=_archive,
        volatile=True,
        doc="The image, saved: an OCI image layout and docker's own format in one, for docker load, podman load, skopeo, and another "
        "tree's ``images``. Always the same bytes; layers are compressed as they came.",
    ),
    Value(
        name="error",
        volatile=True,
        changed=lambda s: s.error_changed,
        show=lambda s: s.error or None,
        doc="One line on what failed last, as who keeps it from being removed. Empty after the next success.",
    ),
    Folder(name="containers", make=_containers, doc="A link to each container that is made of it."),
    Control(
        name="ctl",
        doc="Commands on the image, one a line.",
        verbs=(
            Verb(
                name="tag",
                usage="tag REFERENCE",
                doc="give it a further name, taking it from the image that has it",
                run=_tag,
            ),
            Verb(
                name="squash",
                usage="squash REFERENCE",
                doc="make an image that has the same files in a single layer, and the same configuration",
                run=_squash,
                cancelled=True,
            ),
            Verb(
                name="push",
                usage="push [REFERENCE]",
                doc="take it to the registry that its reference names, or to where REFERENCE says",
                run=_push,
                cancelled=True,
            ),
        ),
    ),
)


_TABLE: Final = tuple(
    row if row.changed is not None or isinstance(row, Control) else replace(row, changed=lambda s: s.since)
    for row in IMAGE
)


class ImageDirectory(Directory):
    """``images/REFERENCE/``."""

    fleeting = True

    def __init__(self, images: Images, reference: str, name: str, parent: Directory) -> None:
        subject = ImageSubject(images, reference)
        super().__init__(name, parent, subject, cast("tuple[Entry[Subject], ...]", _TABLE))
