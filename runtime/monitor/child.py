"""Between fork and exec: performs the plan, tells how it went through a pipe, and becomes the container's process.

The pipe carries a JSON object a line: ``{"warning": WORDS}`` any number of times, then ``{"ready": true}`` right before
exec, or ``{"error": ERRNO, "words": WORDS, "step": DESCRIPTION}`` before the child ends. It is close-on-exec: its end
after ``ready`` means that the program runs, its end without either that the child was killed on the way.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import signal
import socket
import stat
import sys
from typing import NoReturn

from pydock.runtime import syscalls, wire
from pydock.runtime.errors import Invalid, NotFound
from pydock.runtime.monitor.launch import Launch, from_json
from pydock.runtime.monitor.plan import first_steps, later_steps
from pydock.runtime.monitor.step import NOTHING_READY, Context, Ready, Step
from pydock.runtime.serving import NOT_DEFAULT

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED = 127  # exit code of a child that never became the program; nobody is shown it
_CLOSE_RANGE_CLOEXEC = 4
_HIGHEST_FD = 0xFFFFFFFF


def run(launch: Launch, fds: list[int], run_directory: str, pipe: int, ready: Ready = NOTHING_READY) -> NoReturn:
    """The whole life of the child before exec; never returns. Of what it takes some may be *ready*."""
    gc.disable()
    step = "begin"

    def tell(line: dict[str, object]) -> None:
        os.write(pipe, json.dumps(line).encode() + b"\n")

    try:
        begin([*fds, *ready.fds], pipe)
        context = Context(launch, fds, run_directory, lambda words: tell({"warning": words}))

        def perform(steps: list[Step]) -> None:
            nonlocal step
            for item in steps:
                step = item.describe()
                item.execute(context)

        perform(first_steps(launch, ready))
        if launch.rest is not None:
            step = "await the launch"
            context.sock = socket.socket(fileno=fds[launch.rest])
            launch, context.fds = _rest(context.sock)
            context.launch = launch
        *steps, last = later_steps(launch, ready)
        perform(steps)
        env = environment(launch, context.home)
        paths = candidates(launch.argv[0], env["PATH"])
        if launch.reaper:
            step = f"exec {launch.argv[launch.reaper]}"
            look_for(launch.argv[launch.reaper], env["PATH"], context)
        perform([last])
        step = f"exec {launch.argv[0]}"
        syscalls.close_range(3, _HIGHEST_FD, _CLOSE_RANGE_CLOEXEC)
        os.umask(launch.umask)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        tell({"ready": True})
        become(launch.argv, env, paths)
    except OSError as error:
        words = error.strerror or str(error)
        if isinstance(error.filename, str | bytes):  # it may be a descriptor as well
            words = f"{os.fsdecode(error.filename)}: {words}"
        tell({"error": error.errno or errno.EIO, "words": words, "step": step})
    except NotFound as error:
        tell({"error": errno.ENOENT, "words": str(error), "step": step})
    except (Invalid, ValueError) as error:
        tell({"error": errno.EINVAL, "words": str(error), "step": step})
    except Exception as error:  # a fault of ours
        tell({"error": errno.EIO, "words": f"{type(error).__name__}: {error}", "step": step})
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        os._exit(FAILED)


def _rest(sock: socket.socket) -> tuple[Launch, list[int]]:
    """The whole launch and its descriptors, from pydockd itself; ECANCELED when there will be none."""
    try:
        message, fds = wire.receive(sock)
    except wire.Closed:
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED)) from None
    values = message.get("launch")
    if not isinstance(values, dict):
        raise ValueError("launch: an object is needed")
    return from_json(values), fds


def begin(fds: list[int], pipe: int) -> None:
    """What is first in every child of the monitor: of its descriptors only *fds* and *pipe* stay, and it dies with the monitor."""
    before = 3
    for fd in (*sorted((*fds, pipe)), _HIGHEST_FD):  # the monitor's own would only stay open while this one works
        if before < fd:
            syscalls.close_range(before, fd - 1)
        before = fd + 1
    signal.set_wakeup_fd(-1)
    for number in NOT_DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    # A half-made container must not outlive the monitor: nobody would know of it. Has it died before this, then nobody
    # reads the pipe.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(pipe, 0)
    if poll.poll(0):
        os._exit(FAILED)
    os.setsid()
    os.umask(0)


def environment(launch: Launch, home: str) -> dict[str, str]:
    """The variables: those of the launch, the last of each name, and PATH, HOSTNAME, HOME where they are missing;
    with a terminal TERM too, as docker names it."""
    env = {"PATH": DEFAULT_PATH}
    if launch.hostname:
        env["HOSTNAME"] = launch.hostname
    for item in launch.env:
        name, equals, value = item.partition("=")
        if equals and name:
            env[name] = value
    env.setdefault("HOME", home)
    if launch.terminal:
        env.setdefault("TERM", "xterm")
    return env


def candidates(command: str, path: str) -> list[str]:
    """Where *command* may be: PATH is looked through when it has no slash. First comes what is there.

    execve(2) of what is not there takes as long as ten looks. But a look may be wrong, root's for another user, and not every
    filter of system calls lets one pass: so it is before privileges are dropped, and settles nothing but the order.
    """
    if "/" in command:
        return [command]
    paths = [f"{part or '.'}/{command}" for part in path.split(":")]
    return [*(path for path in paths if os.access(path, os.F_OK)), *paths]


def look_for(command: str, path: str, context: Context) -> None:
    """The OSError that ``become`` would raise for a *command* which a reaper is to execute, as far as the user can see that by looking.

    With root's capabilities for root, and before there is a filter of system calls, as for ``candidates``: so what is found may be
    refused yet, which the reaper tells.
    """
    groups = os.getgroups()
    os.setgroups(context.groups)
    os.setegid(context.gid)
    os.seteuid(context.uid)
    try:
        denied = False
        for each in candidates(command, path):
            try:
                if stat.S_ISREG(os.stat(each).st_mode) and os.access(each, os.X_OK, effective_ids=True):
                    return
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                pass
            denied = True
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
    raise _refusal(command, denied)


def become(argv: tuple[str, ...], env: dict[str, str], paths: list[str]) -> NoReturn:
    """execve(2) of the first of *paths* that can be. OSError with words for a person."""
    command = argv[0]
    denied = False
    for path in paths:
        try:
            os.execve(path, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.lexists(path) and os.path.isfile(path):
                words = f'the interpreter of "{path}", which its first line or its ELF header names, is missing'
                raise OSError(errno.ENOENT, words) from None
        except OSError as error:
            if error.errno != errno.EACCES:
                raise OSError(error.errno, _words(error, path)) from None
            denied = True
    raise _refusal(command, denied)


def _refusal(command: str, denied: bool) -> OSError:
    if denied:
        return OSError(errno.EACCES, f'command "{command}" is not an executable file, or the user may not execute it')
    return OSError(errno.ENOENT, f'command "{command}" not found in the image')


def _words(error: OSError, path: str) -> str:
    if error.errno == errno.ENOEXEC:
        return f'"{path}" is neither a program for this machine nor a script that begins with #!'
    if error.errno == errno.E2BIG:
        return "the command's arguments and environment together are too long"
    if error.errno == errno.EPERM:
        return (
            f'"{path}" is refused by the kernel: it has capabilities of its own, see getcap(8), that are not in the container\'s, '
            "or the filter of system calls forbids execve"
        )
    return f'"{path}": {error.strerror}'
