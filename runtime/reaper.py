"""The small program that is a container's first process with ``init 1``: it starts the command, hands signals on to it, reaps
what is orphaned, and ends with the command's exit code.

It is the machine's tini, docker's build of it first, or catatonit, bind-mounted into the container as docker does it; all take
``-- COMMAND``. Only those builds are looked for that need no library, as the container has its own libraries or none. catatonit is
the last as its command begins with the terminal's signals blocked, so that a shell has no job control.
"""

from __future__ import annotations

import os
from typing import Final

from pydock.runtime.errors import Unsupported

TARGET: Final = "/sbin/docker-init"
_PLACES: Final = (
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/tini-static",
    "/usr/sbin/tini-static",
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
    "/usr/libexec/podman/catatonit",
)


def find() -> str:
    """Its path on the machine; Unsupported when there is none."""
    for path in _PLACES:
        if os.access(path, os.X_OK):
            return path
    raise Unsupported("init: this machine has no program for it: install the package tini, or catatonit")
