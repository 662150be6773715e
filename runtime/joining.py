"""From settings to the launch of a further process in a running container.

It joins the container's namespaces, is born in its cgroup, and is confined as the container is.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass

from pydock.runtime import launching
from pydock.runtime.cgroup import Cgroup
from pydock.runtime.confine.userns import IdMap
from pydock.runtime.engine import Defaults
from pydock.runtime.monitor.launch import KINDS, Join, Launch
from pydock.runtime.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is executed; None where the container's setting holds."""

    argv: tuple[str, ...]
    env: tuple[str, ...]
    user: str | None
    workdir: str | None
    terminal: bool
    privileged: bool


@dataclass(frozen=True, slots=True)
class Joined:
    """The container: *pidfd* is its first process."""

    pidfd: int
    place: launching.Place
    spec: Spec
    defaults: Defaults
    cgroup: Cgroup
    ids: IdMap | None = None


def first(identity: str, cgroup: Cgroup, spec: Spec, ids: IdMap | None) -> Launch:
    """How it comes into being; descriptor 0 is a pidfd of the container's first process."""
    kinds = (*KINDS, "user") if ids is not None else KINDS
    return Launch(
        id=identity,
        argv=(),
        new=(),
        id_map=ids,
        join=(Join(0, kinds),),
        clone_into=cgroup.clone_into,
        cgroups=cgroup.join_files_after_clone,
        oom_score_adj=spec.oom_score_adj or 0,
    )


def prepare(
    identity: str, joined: Joined, command: Command, stack: ExitStack, stdio: tuple[str, str, str]
) -> tuple[Launch, list[int]]:
    """The launch of *command*, and its descriptors; those that are made for it are closed by *stack*."""
    spec, defaults = joined.spec, joined.defaults
    fds = [joined.pidfd]
    privileged = command.privileged or bool(spec.privileged)
    mask, program = launching.confinement(spec, joined.place, privileged=privileged)
    if program is not None:
        stack.callback(os.close, program)
        fds.append(program)
    user = spec.user if command.user is None else command.user
    launch = first(identity, joined.cgroup, spec, joined.ids)._replace(
        argv=command.argv,
        env=launching.environment(command.env, launching.hostname(spec, joined.place.id)),
        workdir=launching.workdir(spec, defaults, command.workdir),
        user=defaults.user if user is None else user,
        rlimits=launching.rlimits_of(spec),
        capabilities=mask,
        no_new_privileges=bool(spec.no_new_privileges),
        seccomp=None if program is None else 1,
        terminal=command.terminal,
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
    )
    return launch, fds
