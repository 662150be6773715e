"""What is around the mount: the directories and who may have them, the mount point, and who wants to know that it is ready.

Nothing here knows what the tree shows.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import trio
from pydock.fs.options import Options
from pydock.runtime import syscalls
from pydock.runtime.cgroup import Hierarchy
from pydock.runtime.errors import Busy, Failed, Invalid, NotFound
from pydock.runtime.locks import flock
from pydock.runtime.procfs import mounts

log = logging.getLogger("pydockd")

MOUNTINFO: Final = Path("/proc/self/mountinfo")
FORMAT: Final = 1  # of the layout below root=
_FUSE: Final = "fuse.pydock"
#: Seconds to wait for a pydockd that serves, as it may not have seen its unmount yet, and for one that is about to end.
_SERVES, _ENDS = 2.0, 20.0
#: Descriptors that may be open: a container has some.
_FILES: Final = 1 << 20
#: Objects made and not freed until the interpreter looks for circles among them: every request makes some hundred.
_OBJECTS: Final = 10_000


class GivenUp(logging.Filter):
    """What is logged of pyfuse3's, without the answers to releases that the kernel does not wait for any more.

    It sends them behind a close and never interrupts one, but an unmount gives up those that are on their way: what there was to be
    released has been, and nobody is there to be told. ENOENT for any other request is an error.
    """

    _REQUESTS: Final = ("fuse_release():", "fuse_releasedir():")

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not (message.startswith(self._REQUESTS) and message.endswith(f" {os.strerror(errno.ENOENT)}"))


def prepare_process() -> None:
    """What pydockd has of its starter and would rather have otherwise; called when all is imported."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _FILES) if hard != resource.RLIM_INFINITY else _FILES, hard))
    os.chdir("/")
    os.umask(0o022)  # whatever the shell's is: what is made for containers is for all of their users
    gc.freeze()  # a hundred thousand objects that stay: looking through them takes 50 ms, in which nobody is answered
    gc.set_threshold(_OBJECTS, *gc.get_threshold()[1:])


def prepare_directories(options: Options) -> None:
    """The data and run directories, with a layout that this version knows."""
    for path in (options.root, options.run):
        _refuse_tree("the directory", path, path)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700 if path == options.root else 0o755)
    marker = options.root / "format"
    if marker.exists():
        text = marker.read_text().strip()
        if text != str(FORMAT):
            raise Invalid(
                f"{options.root} has layout {text}, this pydock knows {FORMAT}: use the version that wrote it"
            )
    else:
        marker.write_text(f"{FORMAT}\n")


def _locks(options: Options) -> tuple[Path, Path]:
    return options.run / "lock", options.root / "lock"


@contextmanager
def locked(options: Options) -> Iterator[Hierarchy]:
    """One pydockd a run directory, a data directory and a parent of cgroups, which it gives: Busy when another has them.

    umount(8) returns before the unmounted pydockd has ended, and the next mount(8) may come at once: an end is waited for. A lock's
    file holds the process id for as long as that process serves.
    """
    with ExitStack() as stack:
        for path in _locks(options):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            _lock(fd, path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        hierarchy = Hierarchy.detect(options.cgroup_parent)
        stack.enter_context(hierarchy.owned(_SERVES))
        pid = options.run / "pid"
        pid.write_text(f"{os.getpid()}\n")
        yield hierarchy
        pid.unlink(missing_ok=True)


def _lock(fd: int, path: Path) -> None:
    def holder() -> str:
        return os.pread(fd, 32, 0).decode().strip()

    if not flock(fd, lambda: _SERVES if holder() else _ENDS):
        who = holder()
        raise Busy(f"another pydockd serves {path.parent}" + (f", process {who}" if who else ""))


def tell_ending(options: Options) -> None:
    """The mount has gone, what is left is to clean up: whoever wants to mount next may wait for it."""
    for path in _locks(options):
        os.truncate(path, 0)


def prepare_mountpoint(mountpoint: str) -> None:
    """A directory that can be mounted on, in no tree of another engine; Busy, NotFound or Invalid when *mountpoint* is none.

    A mount whose daemon has died answers ENOTCONN: it is taken away.
    """
    _refuse_tree("the mount point", mountpoint, os.path.dirname(mountpoint))
    while mount_points().get(mountpoint) == _FUSE:
        try:
            os.statvfs(mountpoint)  # stat may be answered from the kernel's cache
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
                raise
            log.warning("a stale mount at %s is taken away", mountpoint)
            syscalls.umount2(mountpoint, syscalls.MNT_DETACH)
        else:
            raise Busy(f"{mountpoint} is mounted already")
    try:
        if not os.path.isdir(mountpoint):
            os.stat(mountpoint)
            raise Invalid(f"{mountpoint} is not a directory")
    except FileNotFoundError:
        raise NotFound(f"the mount point {mountpoint} does not exist: mkdir -p {mountpoint}") from None
    except OSError as error:
        raise Failed(error.errno or errno.EIO, f"the mount point {mountpoint}: {error.strerror}") from None


def _refuse_tree(what: str, path: str | Path, inner: str | Path) -> None:
    """Invalid when *inner*, where *path* is to be, is in a tree of pydock's: there is no room for anything else in that."""
    kinds = mount_points()
    place = os.path.realpath(inner)
    while place not in kinds and place != "/":
        place = os.path.dirname(place)
    if kinds.get(place) == _FUSE:
        raise Invalid(f"{what} {path} lies in the pydock mount at {place}: choose a directory elsewhere")


def release_mountpoint(mountpoint: str) -> None:
    """Take the mount out of the tree, where it is there still; open files stay open."""
    if mount_points().get(mountpoint) == _FUSE:
        syscalls.umount2(mountpoint, syscalls.MNT_DETACH)


async def watch_mount(mountpoint: str, gone: Callable[[], None]) -> None:
    """Call *gone* when the mount has left this mount namespace.

    The kernel ends the connection only with the last copy of the mount, and other mount namespaces that were made meanwhile hold
    copies: for whoever unmounts it here it is over. mountinfo polls as exceptional when mounts change (proc_pid_mountinfo(5)).
    """
    table = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with select.epoll() as changes:
            changes.register(table, select.EPOLLPRI)
            while mountpoint in mount_points():
                await trio.lowlevel.wait_readable(changes.fileno())
                changes.poll(0)
    finally:
        os.close(table)
    gone()


def mount_points() -> dict[str, str]:
    """Where what kind of file system is mounted in this namespace; of several at one place the topmost."""
    return {each.place: each.kind for each in mounts()}


def notify(message: str) -> None:
    """sd_notify(3): tell systemd, if it wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def tell_ready() -> None:
    """Tell systemd, and whoever waits on the descriptor named in PYDOCK_READY_FD (mount.pydock)."""
    notify("READY=1")
    fd = os.environ.pop("PYDOCK_READY_FD", None)
    if fd is not None:
        os.write(int(fd), b"ready\n")
        os.close(int(fd))
