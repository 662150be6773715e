"""Processes that are made ahead of a start: what is the same for all is done in them, and their code is warm.

A zygote has made namespaces and usual mounts that nothing is in yet, in the monitor's own mount namespace: it holds no mount of
the machine. Told to, it brings forth the child that becomes the container's process (``syscalls.Vfork``), in its own memory: a
fork of the interpreter, and the faults of what it touches for the first time, would take longer than all that is left to do. So a
zygote serves one start; the next one is made behind the reply. Each is the monitor's child, and so is the child of each.

What the monitor sends on the zygote's socket, a message (``pydock.runtime.wire``) each, and both at once:

- to the zygote, ``{flags, pid}`` with the descriptors of the v2 cgroup to be born in (of CLONE_INTO_CGROUP in *flags*), and of
  whose PID namespace it is born into (of *pid*)
- to the child, ``{launch}`` with the launch's descriptors and that of the pipe in which the child tells how it went

What comes back: ``{}`` when the zygote is ready, ``{pid}`` from the child. Its end without that means that there is no child.
See vfork(2), clone(2).
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from pydock.runtime import syscalls, wire
from pydock.runtime.monitor import ahead, child, identity
from pydock.runtime.monitor.birth import Place
from pydock.runtime.monitor.launch import CgroupMount, Launch, Rlimit, Volume, from_json, to_json
from pydock.runtime.monitor.plan import first_steps, later_steps
from pydock.runtime.monitor.step import NOTHING_READY, Context, Ready
from pydock.runtime.wire import Message

TITLE = "pydock: ready for a start"
_ALL = 2**64 - 1  # capabilities: none is dropped
_ROUNDS = 2  # of a warm-up: more of them make a start no faster
_SAMPLE = Launch(
    id="x",
    argv=("true",),
    env=("A=1",),
    root=0,
    volumes=(Volume(1, "/etc/hosts", False), Volume(2, "/etc/hostname", False)),
    cgroup_mounts=(CgroupMount("pids", "/x"),),
    cgroups=("/x/tasks",),
    masked=("/proc/kcore",),
    read_only_paths=("/proc/sys",),
    rlimits=(Rlimit("nofile", 1, 1),),
    seccomp=3,
    usual=True,
)


class Zygote:
    """One, as the monitor sees it."""

    __slots__ = ("pid", "ready", "sock")

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.ready = False

    def bring_forth(self, launch: Launch, place: Place, fds: list[int]) -> None:
        """Has it bear the child of *launch* in *place*; *fds* are the child's. OSError when it has died."""
        given = [fd for fd in (place.cgroup, place.pids) if fd >= 0]
        wire.send(self.sock, {"flags": place.flags, "pid": place.pids >= 0}, given)
        wire.send(self.sock, {"launch": to_json(launch)}, fds)

    def heard(self) -> Message | None:
        """What it, or its child, has said; None when that is nothing yet. ``wire.Closed`` when it has died."""
        try:
            if not self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise wire.Closed
        except BlockingIOError:
            return None
        except ConnectionError:
            raise wire.Closed from None
        return wire.receive(self.sock)[0]


def make(new: tuple[str, ...], run_directory: str) -> Zygote:
    """One for launches with the namespaces *new*; it is not ready yet."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            pid = syscalls.clone3(0, signal.SIGCHLD)
        except BaseException:
            ours.close()
            raise
        if pid == 0:
            _live(new, theirs, run_directory)
    return Zygote(pid, ours)


def _live(new: tuple[str, ...], sock: socket.socket, run_directory: str) -> NoReturn:
    try:
        gc.disable()
        child.begin([], sock.fileno())
        syscalls.set_title(TITLE)
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # its child may be born where others could look into it
        ready = ahead.prepare(new, run_directory) if new else NOTHING_READY
        bear = syscalls.Vfork(lambda pid: _be_the_child(pid, sock, run_directory, ready))
        _warm_up(ready, run_directory)
        wire.send(sock, {})
        message, fds = wire.receive(sock)
        flags = wire.number(message, "flags")
        if message["pid"]:
            syscalls.setns(fds[-1], syscalls.CLONE_NEWPID)
        bear(flags, fds[0] if flags & syscalls.CLONE_INTO_CGROUP else 0)
    except (OSError, wire.Closed):
        pass  # the machine is short of something, or there is no monitor any more: a start does without
    except Exception:  # a fault of ours
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(0)  # at once: what the child has done to memory is not this process's


def _be_the_child(pid: int, sock: socket.socket, run_directory: str, ready: Ready) -> NoReturn:
    try:
        wire.send(sock, {"pid": pid})
        message, fds = wire.receive(sock)
        values = message["launch"]
        assert isinstance(values, dict)
        *given, pipe = fds
        child.run(from_json(values), given, run_directory, pipe, ready)
    finally:
        os._exit(child.FAILED)


def _warm_up(ready: Ready, run_directory: str) -> None:
    """Runs through what the child will run through, as far as that can be done without doing it, or does no harm: root becomes root."""
    context, other = (Context(_SAMPLE, [], run_directory, lambda _: None) for _ in range(2))
    other.open_root()
    _, capabilities, _ = syscalls.capget()
    harmless = (
        (identity.LimitCapabilities(_ALL), context),
        (identity.ResolveUser("", ()), other),  # whatever the machine calls root
        (identity.ChangeDirectory("/", make=True), other),
        (identity.DropPrivileges(capabilities, False, None), context),
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for _ in range(_ROUNDS):
            wire.send(ours, {"launch": to_json(_SAMPLE)}, [0, 1, 2])
            message, fds = wire.receive(theirs)
            wire.close_all(fds)
            launch = from_json(message["launch"])  # type: ignore[arg-type]  # as it was sent
            for step in first_steps(launch, ready) + later_steps(launch, ready):
                step.describe()
            for step, where in harmless:
                step.execute(where)
            child.candidates("true", child.environment(launch, "/")["PATH"])
    os.close(other.root)


def _kind(launch: Launch) -> tuple[str, ...] | None:
    """The namespaces that are made ahead for *launch*, or none; None if it can't have a zygote."""
    if not syscalls.HAS_VFORK or "user" in launch.new:
        return None
    return launch.new if ahead.is_ready_for(launch) else ()


class Zygotes:
    """Those that the monitor has: one for each of the kinds that launches were of lately.

    *watch* and *unwatch* are the server's.
    """

    def __init__(
        self,
        run_directory: str,
        watch: Callable[[int, Callable[[], None]], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._run = run_directory
        self._watch = watch
        self._unwatch = unwatch
        self._waiting: dict[tuple[str, ...], Zygote] = {}

    def take(self, launch: Launch) -> Zygote | None:
        """One that is ready for *launch*, the caller's from now on."""
        kind = _kind(launch)
        zygote = None if kind is None else self._waiting.get(kind)
        if kind is None or zygote is None or not zygote.ready:
            return None
        self._forget(kind)
        return zygote

    def provide(self, launch: Launch) -> None:
        """There is to be one for such launches."""
        kind = _kind(launch)
        if kind is None or kind in self._waiting:
            return
        zygote = make(kind, self._run)
        self._waiting[kind] = zygote
        self._watch(zygote.sock.fileno(), lambda: self._listen_to(kind, zygote))

    def _listen_to(self, new: tuple[str, ...], zygote: Zygote) -> None:
        try:
            zygote.ready = zygote.heard() is not None or zygote.ready
        except wire.Closed:  # the machine is short of something, or somebody has killed it: the next start does without
            self._forget(new)
            zygote.sock.close()

    def _forget(self, new: tuple[str, ...]) -> None:
        zygote = self._waiting.pop(new)
        self._unwatch(zygote.sock.fileno())
