"""The monitor: the parent of every container's first process, and of whatever is executed in containers.

It forks, or has a process bear that waits for it (``pydock.runtime.monitor.zygote``), lets the child set itself up
(``pydock.runtime.monitor.child``), reaps, and writes each exit down before it tells anybody. It keeps no descriptor of a
container, touches no output and waits for no disk. It ends by itself when it has neither children nor clients, and can't be told
to while it has children.

Requests (``pydock.runtime.serving``):

- ``start {launch}`` + descriptors -> ``{pid, starttime, warnings}`` + pidfd, once the program runs. Of a launch with
  ``rest`` the child receives the greater part itself, while it already begins; who asked is told ``born``
- ``visit {remove, keep, add}`` + a pidfd and mounts -> what has been done in that process's mount namespace
  (``pydock.runtime.monitor.visit``)
- ``userns {uid, gid, count}`` -> a user namespace with that mapping, which nobody is in
- ``list`` -> ``{alive: [[id, pid, starttime], ...]}`` + a pidfd each
- ``forget {id, pid}`` removes the record of that exit
- ``upgrade`` executes the program anew (a newer version perhaps), with the same children: there is no answer but the connection's
  end, or EBUSY while something is under way

Events: ``{"event": "exit", id, pid, status, time, ...}``; ``{"event": "born", id, pid, starttime}`` right after the fork.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from pydock.runtime import syscalls, wire
from pydock.runtime.monitor import ahead, birth, child, userspace, visit
from pydock.runtime.monitor.edition import edition
from pydock.runtime.monitor.launch import Launch, from_json
from pydock.runtime.monitor.protocol import Alive, Exit, check_id, forget_exit, start_time, write_exit
from pydock.runtime.monitor.zygote import Zygote, Zygotes
from pydock.runtime.serving import Options, Peer, Server, begin
from pydock.runtime.wire import Message

_PIPE_BYTES = 65536
#: Seconds after a start until a zygote for the next one is made: the program that has just begun comes first.
_BEHIND = 0.01


class Starting:
    """A child that has not become its program yet; of a zygote's the number is not known at first."""

    __slots__ = ("dying", "given", "launch", "peer", "pid", "pidfd", "pipe", "said", "seq", "starttime")

    def __init__(self, launch: Launch, given: list[int], pipe: int, peer: Peer, seq: object) -> None:
        self.launch = launch
        self.given = given  # the launch's descriptors, and the end of the pipe that is the child's, until it has them
        self.pid = 0
        self.pidfd = -1
        self.starttime = 0
        self.pipe = pipe
        self.peer = peer
        self.seq = seq
        self.said = b""
        self.dying = False  # it has said the last, and neither that it runs its program nor what was wrong

    @property
    def id(self) -> str:
        return self.launch.id


class Monitor(Server):
    """The table of children and what is done with it."""

    def __init__(self, options: Options) -> None:
        super().__init__(begin("monitor", options, many_files=False))
        self.options = options
        self.alive: dict[int, Alive] = {}  # by pid
        self.starting: dict[int, Starting] = {}  # by pid
        self.births: dict[Zygote, Starting] = {}  # of zygotes' children that have not told their pids yet
        self.zygotes = Zygotes(options.run, self.watch, self.unwatch)
        self.visits: dict[
            str, deque[Callable[[], None]]
        ] = {}  # by the pid of the container's first process; the first of each runs
        self.failed: set[int] = set()  # pids of children that did not get as far as their program
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        for name in ("exits", "empty"):
            os.makedirs(f"{options.run}/{name}", mode=0o700, exist_ok=True)
        if options.state is not None:
            self._restore(options.state)
        edition()  # before it may become another on disk
        self.later(0, self.signalled)  # those that ended while this process was not listening to SIGCHLD
        self.later(0, functools.partial(self.zygotes.provide, ahead.MOST))

    def idle(self) -> bool:
        return not self.alive and not self.starting and not self.births and not self.failed

    def handle(self, peer: Peer, message: Message, fds: list[int]) -> Message | tuple[Message, list[int]] | None:
        match message.get("do"):
            case "start":
                self._start(peer, message, fds)
                return None
            case "visit":
                self._visit(peer, message, fds)
                return None
            case "userns":
                first, second, count = (wire.number(message, name) for name in ("uid", "gid", "count"))
                return {}, [userspace.make((first, second, count))]
            case "list":
                alive = list(self.alive.values())
                return {"alive": [list(item) for item in alive]}, _pidfds(alive)
            case "forget":
                forget_exit(self.options.run, wire.text(message, "id"), wire.number(message, "pid"))
                return {}
            case "who":
                return {"pid": os.getpid(), "edition": edition()}
            case "upgrade":
                self._upgrade()
            case _:
                return super().handle(peer, message, fds)

    # Starting

    def _start(self, peer: Peer, message: Message, fds: list[int]) -> None:
        values = message.get("launch")
        if not isinstance(values, dict):
            raise ValueError("launch: an object is needed")
        launch = from_json(values)
        check_id(launch.id)
        if not launch.argv and launch.rest is None:
            raise ValueError("no command")
        if launch.id in {item.id for table in (self.alive, self.starting, self.births) for item in table.values()}:
            raise OSError(errno.EBUSY, f"{launch.id} runs already")
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        starting = Starting(launch, [*fds, writer], reader, peer, message.get("seq"))
        fds.clear()
        try:
            zygote = self._hand_over(starting)
        except BaseException:
            wire.close_all((*starting.given, reader))
            raise
        if zygote is None:
            self._bear(starting)
        else:
            self.births[zygote] = starting
            self.watch(zygote.sock.fileno(), lambda: self._await_birth(zygote))

    def _bear(self, starting: Starting) -> None:
        """Forks its child here."""
        launch, (*fds, pipe) = starting.launch, starting.given
        try:
            pid = birth.fork(launch, fds, self._own_pids, lambda: child.run(launch, fds, self.options.run, pipe))
        except BaseException:
            os.close(starting.pipe)
            raise
        finally:
            wire.close_all(starting.given)
        self._born(starting, pid)

    def _hand_over(self, starting: Starting) -> Zygote | None:
        """The zygote that bears its child, if one is ready for it."""
        launch, (*fds, pipe) = starting.launch, starting.given
        zygote = self.zygotes.take(launch)
        if zygote is None:
            return None
        try:
            with birth.place_of(launch, fds) as place:
                zygote.bring_forth(launch, place, [*fds, pipe])
        except ConnectionError:  # somebody has killed it
            zygote.sock.close()
            return None
        except BaseException:
            zygote.sock.close()
            raise
        return zygote

    def _await_birth(self, zygote: Zygote) -> None:
        """Hears the number of a zygote's child. Without one it is forked here: what was wrong is told by that, if it still is."""
        try:
            said = zygote.heard()
            if said is None:
                return
        except wire.Closed:
            said = {}
        starting = self.births.pop(zygote)
        self.unwatch(zygote.sock.fileno())
        zygote.sock.close()
        if "pid" in said:
            with contextlib.suppress(OSError):
                os.sched_setscheduler(zygote.pid, os.SCHED_IDLE, os.sched_param(0))  # it wakes only to end
            wire.close_all(starting.given)
            self._born(starting, wire.number(said, "pid"))
            return
        try:
            self._bear(starting)
        except OSError as error:
            self._replenish(starting.launch)
            self.fail(starting.peer, starting.seq, error.errno or errno.EIO, error.strerror or str(error), "set up")

    def _born(self, starting: Starting, pid: int) -> None:
        # A zombie has a start time too, and it is not reaped before it is known as one of ours.
        starting.pid, starting.starttime = pid, start_time(pid)
        self.starting[pid] = starting
        self.watch(starting.pipe, lambda: self._listen_to(starting))
        if starting.launch.rest is not None:
            born: Message = {"event": "born", "id": starting.id, "pid": pid, "starttime": starting.starttime}
            self.tell(starting.peer, born)

    def _replenish(self, launch: Launch) -> None:
        """A start is over: another of its kind may follow."""
        self.later(_BEHIND, functools.partial(self.zygotes.provide, launch))

    def _listen_to(self, starting: Starting, ended: str = "") -> None:
        """Reads what the child says; at the end of that it either runs its program or has failed, or is being killed.

        When it has *ended* itself, as that says, that is all: another child, which was born while the pipe was open here, may not have
        closed it yet.
        """
        while True:
            try:
                data = os.read(starting.pipe, _PIPE_BYTES)
            except BlockingIOError:
                if ended:
                    break
                self._prepare_answer(starting)
                return
            if not data:
                break
            starting.said += data
        self._prepare_answer(starting)
        if not starting.dying:
            self.unwatch(starting.pipe)
        said = [json.loads(line) for line in starting.said.splitlines()]
        warnings = [line["warning"] for line in said if "warning" in line]
        error = next((line for line in said if "error" in line), None)
        runs = any("ready" in line for line in said)
        if error is None and not runs and not ended:
            starting.dying = True  # how is known when it is reaped
            return
        os.close(starting.pipe)
        del self.starting[starting.pid]
        if error is not None or not runs:
            self.failed.add(starting.pid)
            error = error or {"error": errno.ECANCELED, "words": f"{ended} during the set-up", "step": "set up"}
            self.fail(starting.peer, starting.seq, error["error"], error["words"], error["step"])
            if starting.pidfd >= 0:
                os.close(starting.pidfd)
        else:
            item = Alive(starting.id, starting.pid, starting.starttime)
            self.alive[starting.pid] = item
            answer: Message = {"pid": item.pid, "starttime": item.starttime, "warnings": warnings}
            self.reply(starting.peer, starting.seq, answer, [starting.pidfd])
        self._replenish(starting.launch)

    def _prepare_answer(self, starting: Starting) -> None:
        """What can be done for it while its program is being executed."""
        if starting.pidfd < 0 and b'"ready"' in starting.said:
            starting.pidfd = syscalls.pidfd_open(starting.pid)
            forget_exit(self.options.run, starting.id)  # that of an earlier process of this id

    # Visiting

    def _visit(self, peer: Peer, message: Message, fds: list[int]) -> None:
        """A child changes mounts in a container; its answer is passed on as it is. One after another in each container, also those
        of a pydockd that has died meanwhile: its successor looks at what there is, and must not be overtaken."""
        task = visit.from_message(message)
        if not fds:
            raise ValueError("a pidfd is needed")
        pid = visit.pid_of(fds[0])
        held, fds[:] = fds[:], []
        waiting = self.visits.setdefault(pid, deque())
        waiting.append(functools.partial(self._begin_visit, pid, peer, message.get("seq"), task, held))
        if len(waiting) == 1:
            waiting[0]()

    def _end_visit(self, pid: str) -> None:
        waiting = self.visits[pid]
        waiting.popleft()
        if waiting:
            waiting[0]()
        else:
            del self.visits[pid]

    def _begin_visit(self, pid: str, peer: Peer, seq: object, task: visit.Task, fds: list[int]) -> None:
        ends: tuple[int, ...] = ()
        try:
            ends = reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            if syscalls.clone3(0, signal.SIGCHLD) == 0:
                visit.run(task, fds, writer)
        except OSError as error:
            wire.close_all((*ends, *fds))
            self.fail(peer, seq, error.errno or errno.EIO, error.strerror or str(error), "change mounts")
            self._end_visit(pid)
            return
        wire.close_all((writer, *fds))
        said = bytearray()

        def listen() -> None:
            while True:
                try:
                    data = os.read(reader, _PIPE_BYTES)
                except BlockingIOError:
                    return
                if not data:
                    break
                said.extend(data)
            self.unwatch(reader)
            os.close(reader)
            if said:
                self.reply(peer, seq, json.loads(said))
            else:
                self.fail(peer, seq, errno.EIO, "killed on the way", "change mounts")
            self._end_visit(pid)

        self.watch(reader, listen)

    # Reaping

    def signalled(self) -> None:
        while True:
            try:
                seen = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if seen is None:
                return
            # While it is a zombie its pid is its own: what it said is heard, and its pidfd opened, before the reap. What goes wrong
            # with one keeps no other from being reaped.
            for zygote in list(self.births):
                self._guard(functools.partial(self._await_birth, zygote))
            if seen.si_pid in self.starting:
                self._guard(functools.partial(self._listen_to, self.starting[seen.si_pid], _told(seen)))
            pid, status, usage = os.wait4(seen.si_pid, 0)
            self.failed.discard(pid)
            item = self.alive.pop(pid, None)
            if item is not None:
                times = usage.ru_utime, usage.ru_stime, usage.ru_maxrss
                self._guard(functools.partial(self._tell, Exit(item.id, pid, status, time.time_ns(), *times)))

    def _tell(self, gone: Exit) -> None:
        try:
            write_exit(self.options.run, gone)
        finally:
            self.broadcast({"event": "exit", **gone._asdict()})

    # Upgrading

    def _upgrade(self) -> NoReturn:
        """Executes the program anew. Children stay children, and a zombie waits: no exit is lost."""
        self.flush()
        if self.starting or self.births or self.visits or any(peer.queue for peer in self.peers):
            raise OSError(errno.EBUSY, "something is under way")
        listener, state = self.listener.fileno(), os.memfd_create("monitor", 0)
        try:
            with open(state, "w", closefd=False) as file:
                json.dump({"alive": [list(item) for item in self.alive.values()], "failed": list(self.failed)}, file)
            os.set_inheritable(listener, True)
            arguments = [sys.executable, "-I", "-m", "pydock.runtime.monitor", self.options.run]
            os.execv(sys.executable, [*arguments, "--listen", str(listener), "--state", str(state)])
        finally:
            os.set_inheritable(listener, False)
            os.close(state)

    def _restore(self, state: int) -> None:
        with open(state) as file:
            file.seek(0)
            values = json.load(file)
        self.alive = {pid: Alive(name, pid, starttime) for name, pid, starttime in values["alive"]}
        self.failed = set(values["failed"])


def _told(seen: os.waitid_result) -> str:
    """How a child has ended."""
    if seen.si_code == os.CLD_EXITED:
        return f"ended with status {seen.si_status}"
    number = seen.si_status
    return f"killed by {signal.Signals(number).name if number in set(signal.Signals) else f'signal {number}'}"


def _pidfds(alive: list[Alive]) -> list[int]:
    """One of each; OSError, and none is left open."""
    made: list[int] = []
    try:
        for item in alive:
            made.append(syscalls.pidfd_open(item.pid))
    except BaseException:
        wire.close_all(made)
        raise
    return made


if __name__ == "__main__":
    Monitor(Options(sys.argv[1:])).run()
