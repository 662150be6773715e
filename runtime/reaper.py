"""The small program that is a container's first process with ``init 1``: it starts the command, hands signals on to it, reaps
what is orphaned, and ends with the command's exit code.

It is the machine's catatonit or tini, bind-mounted into the container as docker does it; both take ``-- COMMAND``. Only
those builds are looked for that need no library, as the container has its own libraries or none.
"""

from __future__ import annotations

import os
from typing import Final

from pydock.runtime.errors import Unsupported

TARGET: Final = "/sbin/docker-init"
_PLACES: Final = (
    "/usr/bin/catatonit",
    "/usr/libexec/catatonit/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/tini-static",
    "/usr/sbin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
)


def find() -> str:
    """Its path on the machine; Unsupported when there is none."""
    for path in _PLACES:
        if os.access(path, os.X_OK):
            return path
    raise Unsupported("init: this machine has no program for it: install the package catatonit, or tini")
