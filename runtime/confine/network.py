"""What the kernel's parameters are in a network namespace of a container's own, unless ``sysctls`` say otherwise: docker's defaults.

They are set where such a namespace is made, which mostly is ahead of the start, and are its own: no namespace is in danger of who may
listen at a low port in another. See ip-sysctl.rst in the kernel's documentation. Only the standard library is imported: this runs
between fork and exec, too.
"""

from __future__ import annotations

import errno
import os

_LOW_PORTS = ("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0")  # any user listens at any port
_PING = ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647")  # and sends ICMP echo requests, without a raw socket

#: Of an old kernel, or an engine that is itself confined: not a reason to start nothing.
_CONFINED = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EINVAL)


def set_defaults(*, own_users: bool = False) -> None:
    """In the namespace of this thread, by a /proc of the machine; in a user namespace, *own_users*, there are not all those groups
    and so none is let, as in docker. OSError."""
    for path, value in (_LOW_PORTS,) if own_users else (_LOW_PORTS, _PING):
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in _CONFINED:
                raise
            continue
        try:
            os.write(fd, value)
        except OSError as error:
            if error.errno not in _CONFINED:
                raise
        finally:
            os.close(fd)
