"""``registries/``: how registries are reached, who we are to them, and what they have.

mkdir is needed only where something is to be set: any registry can be pulled from as it is. What it has is asked of it when it is
read: ``catalog``, and ``repositories/NAME/tags``, which opens but is not listed, so that find(1) does not crawl a registry.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, cast
from weakref import WeakValueDictionary

import trio
from pydock.fs.errors import translate
from pydock.fs.metadata import Attributes, Metadata
from pydock.fs.node import Blob, Control, Directory, Entry, Folder, List, Node, Report, Subject, Value, Verb, no_words
from pydock.fs.subject import Place
from pydock.overlay.reference import is_component, is_host
from pydock.overlay.registry.client import Registries
from pydock.overlay.registry.endpoint import Endpoint
from pydock.overlay.registry.settings import Registry, Settings, checked_credential
from pydock.runtime.engine import Engine
from pydock.runtime.errors import Forbidden, Invalid
from pydock.runtime.formats import now, parse_boolean, print_boolean, quote

_LARGEST: Final = 1 << 20  # bytes of certificates


@dataclass(slots=True)
class Accounts:
    """Registries as the tree sees them. *mirrors* are those that the configuration file has for a host."""

    settings: Settings
    client: Registries
    engine: Engine
    mirrors: Callable[[str], tuple[str, ...]]

    def endpoint(self, host: str) -> Endpoint:
        """How *host* is reached, as far as the tree and the configuration file tell."""
        own = self.settings.get(host)
        if own is None:
            return Endpoint(host, mirrors=self.mirrors(host))
        return Endpoint(
            host=host,
            username=own.username,
            password=own.password,
            insecure=bool(own.insecure),
            mirrors=self.mirrors(host) if own.mirrors is None else own.mirrors,
            authorities=own.authorities,
            certificate=own.certificate,
            key=own.key,
        )


class RegistrySubject:
    """One registry, as the subject of its directory."""

    def __init__(self, registry: Registry, accounts: Accounts) -> None:
        self.registry = registry
        self.accounts = accounts
        self.error_changed = registry.created
        kept = {path: Attributes(*values) for path, values in registry.files.items()}
        self.metadata = Metadata(born=registry.created, files=kept, changed=self._keep)
        self._lock = trio.Lock()

    def _keep(self) -> None:
        self.registry.files = self.metadata.plain()
        self.accounts.engine.spawn(self.save)

    async def save(self) -> None:
        """Keep the settings on disk."""
        async with self._lock:
            if self.accounts.settings.get(self.registry.host) is self.registry:
                await trio.to_thread.run_sync(self.accounts.settings.save, self.registry)

    @property
    def label(self) -> str:
        return f"registries/{self.registry.host}"

    def failed(self, words: str) -> None:
        self.registry.error = words
        self.error_changed = now()
        self.accounts.engine.failures.add(self.label, words)

    def succeeded(self) -> None:
        if self.registry.error:
            self.registry.error = ""
            self.error_changed = now()


R = RegistrySubject


async def _set(subject: R, name: str, value: object, *, credential: bool = False) -> None:
    """Change a setting, on disk before it is in force."""
    registry = subject.registry
    before, checked = getattr(registry, name), registry.checked
    setattr(registry, name, value)
    if credential:
        registry.checked, registry.changed = False, now()
    try:
        await subject.save()
    except OSError:
        setattr(registry, name, before)
        registry.checked = checked
        raise


async def _store_username(subject: R, text: str | None, caller: int) -> None:
    await _set(subject, "username", checked_credential(text or ""), credential=True)


async def _store_password(subject: R, text: str | None, caller: int) -> None:
    await _set(subject, "password", checked_credential(text or ""), credential=True)


async def _store_insecure(subject: R, text: str | None, caller: int) -> None:
    await _set(subject, "insecure", None if text is None else parse_boolean(text))


async def _store_mirrors(subject: R, items: tuple[str, ...] | None) -> None:
    await _set(subject, "mirrors", items)


def _mirror(subject: R, line: str) -> tuple[str, ...]:
    if not is_host(line) or line == subject.registry.host:
        raise Invalid(f"{quote(line)} is not another registry: HOST or HOST:PORT is needed")
    return (line,)


def _pem(name: str, attribute: str, doc: str) -> Blob[R]:
    """A file with certificates or a key."""

    async def store(subject: R, data: bytes | None) -> None:
        if data is None:
            return
        text = data.decode(errors="replace")
        if text.strip():
            _check_pem(name, text)
        await _set(subject, attribute, text)

    return Blob(
        name=name, largest=_LARGEST, show=lambda s: str(getattr(s.registry, attribute)).encode(), store=store, doc=doc
    )


def _check_pem(name: str, text: str) -> None:
    if name == "client.key":
        if "PRIVATE KEY-----" not in text:
            raise Invalid("client.key holds no private key in PEM")
        return
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        raise Invalid(f"{name} holds no certificate in PEM") from None


async def _login(subject: R, words: tuple[str, ...]) -> str:
    no_words("login", words)
    registry = subject.registry
    given = (registry.username, registry.password)
    await subject.accounts.client.login(registry.host)
    if registry.username and given == (registry.username, registry.password):
        registry.checked, registry.changed = True, now()
        await subject.save()
    return f"logged in to {registry.host}" + (f" as {registry.username}" if registry.username else "")


async def _logout(subject: R, words: tuple[str, ...]) -> str:
    no_words("logout", words)
    registry = subject.registry
    registry.username = registry.password = ""
    registry.checked, registry.changed = False, now()
    await subject.save()
    return f"logged out of {registry.host}"


async def _lines(subject: R, ask: Callable[[], Awaitable[tuple[str, ...]]]) -> str:
    """A report of what the registry says; what fails gets into ``error``, too."""
    try:
        lines = await ask()
    except Exception as error:
        subject.failed(translate(error)[1])
        raise
    subject.succeeded()
    return "".join(f"{line}\n" for line in lines)


async def _catalog(subject: R) -> str:
    return await _lines(subject, partial(subject.accounts.client.catalog, subject.registry.host))


REGISTRY: tuple[Entry[R], ...] = (
    Value(
        name="username",
        show=lambda s: s.registry.username or None,
        store=_store_username,
        doc="Who we are to it. Unset, root's ``~/.docker/config.json`` may know.",
    ),
    Value(
        name="password",
        mode=0o200,
        show=lambda s: None,
        store=_store_password,
        doc="The password or access token. Never shown; kept on disk, for root alone, once ``login`` has found it right.",
    ),
    Value(
        name="insecure",
        show=lambda s: print_boolean(bool(s.registry.insecure)),
        store=_store_insecure,
        doc="1 allows plain HTTP, and certificates of anybody: TLS is tried first. The default is 0.",
    ),
    List(
        name="mirrors",
        show=lambda s: s.accounts.endpoint(s.registry.host).mirrors,
        own=lambda s: s.registry.mirrors,
        parse=_mirror,
        store=_store_mirrors,
        doc="Registries, HOST[:PORT], that are asked first for what is pulled from this one. Unset, those of ``/etc/pydock.toml``.",
    ),
    _pem(
        "ca.crt",
        "authorities",
        "Certificates of authorities in PEM that its own may be signed by, besides the machine's. Unset, "
        "``/etc/docker/certs.d/HOST/*.crt``.",
    ),
    _pem(
        "client.cert",
        "certificate",
        "Our certificate in PEM, for a registry that asks for one. Unset, ``/etc/docker/certs.d/HOST/*.cert``.",
    ),
    _pem("client.key", "key", "The private key of ``client.cert`` in PEM."),
    Control(
        name="ctl",
        doc="Commands, one a line.",
        verbs=(
            Verb(
                name="login",
                usage="login",
                doc="check username and password with the registry and keep them; EACCES when it does not take them",
                run=_login,
                cancelled=True,
            ),
            Verb(name="logout", usage="logout", doc="forget username and password", run=_logout),
        ),
    ),
    Value(
        name="state",
        mode=0o644,
        volatile=True,
        changed=lambda s: s.registry.changed or s.registry.created,
        show=lambda s: "logged_in" if s.registry.checked else "logged_out",
        doc="``logged_in`` after a login, ``logged_out`` before, and when username or password have been changed since.",
    ),
    Value(
        name="error",
        volatile=True,
        changed=lambda s: s.error_changed,
        show=lambda s: s.registry.error or None,
        doc="One line on what failed last. Empty after the next success.",
    ),
    Report(
        name="catalog",
        render=_catalog,
        slow=True,
        doc="Its repositories, one a line, asked of it when read: searching is grep. Not every registry tells.",
    ),
    Folder(
        name="repositories",
        make=lambda s: RepositoryDirectory("repositories", None, s, ()),
        doc="``repositories/NAME/tags`` has the tags of a repository, one a line. Found by name, and not listed.",
    ),
)


class RepositoryDirectory(Directory):
    """A directory on the way to a repository, and the repository itself: ``tags`` is in it when it has a name."""

    def __init__(self, name: str, parent: Directory | None, subject: R, path: tuple[str, ...]) -> None:
        super().__init__(name, parent, subject, (), prefix="/".join(("repositories", *path, "")))
        self._registry = subject
        self._path = path
        self._nodes: WeakValueDictionary[str, RepositoryDirectory] = WeakValueDictionary()
        if path:
            self.entries = {"tags": cast("Entry[Subject]", self._tags())}

    def _tags(self) -> Report[R]:
        path = "/".join(self._path)

        async def render(subject: R) -> str:
            return await _lines(subject, partial(subject.accounts.client.tags, subject.registry.host, path))

        return Report(name="tags", render=render, slow=True, doc="The repository's tags.")

    def dynamic(self, name: str) -> Node | None:
        if not is_component(name) or name in self.entries:
            return None
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = RepositoryDirectory(name, self, self._registry, (*self._path, name))
        return node


class RegistryDirectory(Directory):
    """``registries/HOST[:PORT]/``."""

    scratchable = True

    def __init__(self, subject: RegistrySubject, parent: Directory) -> None:
        super().__init__(subject.registry.host, parent, subject, cast("tuple[Entry[Subject], ...]", REGISTRY))


class RegistriesDirectory(Directory):
    """``registries/``."""

    def __init__(self, accounts: Accounts, parent: Directory) -> None:
        super().__init__("registries", parent, Place("registries", accounts.engine), ())
        self._accounts = accounts
        self._nodes: dict[str, RegistryDirectory] = {}

    def dynamic(self, name: str) -> Node | None:
        registry = self._accounts.settings.get(name)
        if registry is None:
            return None
        node = self._nodes.get(name)
        if node is None or cast(RegistrySubject, node.subject).registry is not registry:
            node = self._nodes[name] = RegistryDirectory(RegistrySubject(registry, self._accounts), self)
        return node

    def dynamic_names(self) -> Sequence[str]:
        return [registry.host for registry in self._accounts.settings]

    async def make(self, name: str) -> None:
        await trio.to_thread.run_sync(self._accounts.settings.create, name)

    async def remove(self, name: str) -> None:
        await trio.to_thread.run_sync(self._accounts.settings.remove, name)
        self._nodes.pop(name, None)

    async def rename(self, name: str, new: str) -> None:
        raise Forbidden(f"registries/{name} is what it is called")
