"""``exec/``: mkdir makes a further process of a container; it has settings, commands, streams and a log of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, cast

from pydock.fs.containers.channels import Input, Output, Wait, console
from pydock.fs.containers.program import name_of, parse_env, parse_user, parse_workdir
from pydock.fs.containers.rows import only_idle, parsed
from pydock.fs.containers.status import one_signal, terminal_size
from pydock.fs.containers.subject import ContainerSubject
from pydock.fs.metadata import Attributes, Metadata
from pydock.fs.node import Control, Directory, Entry, Link, List, Node, Stream, Subject, Value, Verb, no_words
from pydock.runtime.engine import Engine
from pydock.runtime.execs import Exec
from pydock.runtime.formats import parse_arguments, parse_boolean, print_arguments, print_boolean


class ExecSubject:
    """A process as the subject of its directory: adds what only files have."""

    def __init__(self, exec: Exec) -> None:
        self.exec = exec
        kept = {path: Attributes(*values) for path, values in exec.record.files.items()}
        self.metadata = Metadata(born=exec.record.created, files=kept, changed=self._keep)

    def _keep(self) -> None:
        self.exec.record.files = self.metadata.plain()
        self.exec.save_soon()

    @property
    def engine(self) -> Engine:
        return self.exec.container.engine

    @property
    def label(self) -> str:
        return self.exec.label

    def failed(self, words: str) -> None:
        self.exec.failed(words)

    def succeeded(self) -> None:
        self.exec.succeeded()


E = ExecSubject


def _store(field: str, parse: Callable[[str], object]) -> Callable[[E, str | None, int], Awaitable[None]]:
    async def store(subject: E, text: str | None, caller: int) -> None:
        await subject.exec.change(field, parsed(field, parse, text))

    return store


def _boolean(field: str, doc: str) -> Value[E]:
    def show(subject: E) -> str:
        return print_boolean(bool(getattr(subject.exec.spec, field)))

    return Value(name=field, show=show, store=_store(field, parse_boolean), doc=doc)


def _show_command(subject: E) -> str | None:
    own = subject.exec.spec.command
    return None if own is None else print_arguments(own)


async def _store_env(subject: E, items: tuple[str, ...] | None) -> None:
    await subject.exec.change("env", items)


def _show_text(field: str) -> Callable[[E], str | None]:
    def show(subject: E) -> str | None:
        container = subject.exec.container
        for own in (getattr(subject.exec.spec, field), getattr(container.spec, field)):
            if own is not None:
                return str(own)
        return str(getattr(container.defaults(), field)) or None

    return show


def _changed(subject: E) -> int:
    return subject.exec.record.changed


async def _log(subject: E) -> str:
    return str(subject.exec.directory / "log")


async def _start(subject: E, words: tuple[str, ...]) -> str:
    no_words("start", words)
    return await subject.exec.start()


async def _kill(subject: E, words: tuple[str, ...]) -> str:
    return await subject.exec.kill(one_signal(words))


async def _eof(subject: E, words: tuple[str, ...]) -> str:
    no_words("eof", words)
    return await subject.exec.close_stdin()


async def _resize(subject: E, words: tuple[str, ...]) -> str:
    return await subject.exec.resize(*terminal_size(words))


_TABLE: tuple[Entry[E], ...] = (
    Value(
        name="command",
        show=_show_command,
        store=_store("command", parse_arguments),
        doc="What is run: one line of shell words, or a JSON array. An entrypoint plays no part.",
    ),
    List(
        name="env",
        verbatim=True,
        show=lambda e: e.exec.env,
        own=lambda e: e.exec.spec.env,
        parse=lambda e, line: parse_env(line),
        store=_store_env,
        key=name_of,
        doc="The environment, NAME=VALUE a line. Unset it shows the container's. What is missing is added, as of the container.",
    ),
    Value(
        name="user",
        show=_show_text("user"),
        store=_store("user", parse_user),
        doc="Who runs it: NAME or UID, optionally with :GROUP or :GID. Unset it shows the container's.",
    ),
    Value(
        name="workdir",
        show=_show_text("workdir"),
        store=_store("workdir", parse_workdir),
        doc="The working directory inside; ENOENT at the start if it is not there. Unset it shows the container's; empty it is /.",
    ),
    _boolean("tty", "1 gives it a terminal, console, and TERM=xterm unless env has one. The default is 0."),
    _boolean(
        "privileged",
        "1 gives it all capabilities, and no seccomp filter unless the container's seccomp is set. The default is 0.",
    ),
    Control(
        name="ctl",
        doc="Commands, one a line, as of the container.",
        verbs=(
            Verb(name="start", usage="start", doc="run it; the container must be running", run=_start),
            Verb(
                name="kill",
                usage="kill [SIGNAL]",
                doc="without SIGNAL end it at once and wait for the end; else send SIGNAL to it",
                run=_kill,
            ),
            Verb(name="eof", usage="eof", doc="close its standard input", run=_eof),
            Verb(name="resize", usage="resize ROWS COLS", doc="set the size of its terminal", run=_resize),
        ),
    ),
    Value(
        name="state",
        mode=0o644,
        changed=_changed,
        show=lambda e: e.exec.record.state,
        doc="``created``, ``running`` or ``exited``.",
    ),
    Value(
        name="pid",
        mode=0o644,
        changed=_changed,
        show=lambda e: str(e.exec.record.pid) if e.exec.record.pid else None,
        doc="Its process id on the machine. Empty while it does not run.",
    ),
    Value(
        name="exit_code",
        mode=0o644,
        changed=_changed,
        show=lambda e: None if e.exec.record.exit_code is None else str(e.exec.record.exit_code),
        doc="The exit code of the last run, 128 and the signal's number when a signal ended it; 137 when the container ended.",
    ),
    Value(
        name="error",
        show=lambda e: e.exec.record.error or None,
        volatile=True,
        changed=lambda e: e.exec.error_changed,
        doc="One line on the last command or setting that failed. Empty after the next success.",
    ),
    Stream(
        name="wait",
        open=lambda e: Wait(e.exec.process),
        doc="Blocks until it has ended, then gives the exit code, as of the container.",
    ),
    Link(name="log", target=_log, doc="Its stdout and stderr as the bytes came."),
    Stream(
        name="stdin",
        writable=True,
        open=lambda e: Input(e.exec.process, lambda: e.exec.name),
        doc="Its standard input, once it runs.",
    ),
    Stream(
        name="stdout",
        open=lambda e: Output(e.exec.process, ("stdout",)),
        doc="What it writes to standard output from the open on, until it ends.",
    ),
    Stream(
        name="stderr",
        open=lambda e: Output(e.exec.process, ("stderr",)),
        doc="The same of standard error.",
    ),
    Stream(
        name="console",
        writable=True,
        open=lambda e: console(e.exec.process, lambda: e.exec.name, tty=bool(e.exec.spec.tty)),
        doc="Its terminal, both ways, with tty; as of the container.",
    ),
)

EXEC: Final = only_idle(_TABLE, lambda subject, setting: subject.exec.refuse_alive(setting))


class ExecDirectory(Directory):
    """``exec/NAME/``."""

    scratchable = True

    def __init__(self, exec: Exec, parent: Directory) -> None:
        super().__init__(exec.name, parent, ExecSubject(exec), cast("tuple[Entry[Subject], ...]", EXEC))
        self.exec = exec


class ExecsDirectory(Directory):
    """``exec/``. Names that mkdir would refuse are the engine's own, and not shown."""

    def __init__(self, subject: ContainerSubject) -> None:
        super().__init__("exec", None, subject, (), prefix="exec/")
        self._execs = subject.container.execs
        self._nodes: dict[str, ExecDirectory] = {}  # by id: a rename keeps the node

    def dynamic(self, name: str) -> Node | None:
        found = self._execs.get(name)
        if found is None or found.hidden:
            return None
        node = self._nodes.get(found.record.id)
        if node is None:
            node = self._nodes[found.record.id] = ExecDirectory(found, self)
        return node

    def dynamic_names(self) -> Sequence[str]:
        return [each.name for each in self._execs if not each.hidden]

    async def make(self, name: str) -> None:
        await self._execs.create(name)

    async def remove(self, name: str) -> None:
        found = self._execs.get(name)
        await self._execs.remove(name)
        if found is not None:
            self._nodes.pop(found.record.id, None)

    async def rename(self, name: str, new: str) -> None:
        await self._execs.rename(name, new)

    def node(self, exec: Exec) -> ExecDirectory | None:
        """The process's directory, if anybody has looked at it."""
        return self._nodes.get(exec.record.id)
