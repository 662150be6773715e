"""Union mounts that are in nobody's mount table: descriptors from fsmount(2) and open_tree(2).

:func:`union` makes an overlay of layers, :func:`clone` a further view of it, :func:`attach` puts one somewhere,
:func:`detach` takes it away. The descriptor is the mount: it lives until the last descriptor, clone and place of it
is gone. An upper directory must never be in two unions at once (the kernel allows it and damages both): make one
union of it and clone that.

Two things that newer kernels do are done by a short-lived child process on older ones, in a mount namespace of its
own: layers one by one (``lowerdir+``, Linux 6.5; before, a mount(2) option string of at most a page), and clones of a
mount that is in no namespace (Linux 6.15). The calling process may have any number of threads.

See Documentation/filesystems/overlayfs.rst, fsopen(2), fsmount(2), open_tree(2), move_mount(2), mount_setattr(2).
"""

from __future__ import annotations

import array
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from pydock.runtime import syscalls

# Layers come from strangers, and changes are read back from the upper directory: nothing in it may refer to elsewhere.
OPTIONS: Final = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))
_CLONE: Final = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
_HERE: Final = "pydock.overlay.mount"
_PAGE: Final = 4096  # bytes of mount(2)'s option string, the final NUL among them


def union(lower: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    """A detached overlay of *lower* (bottom first) and *upper*, as a close-on-exec descriptor that the caller closes.

    *work* is an empty directory on the file system of *upper*. Without *upper* the union is read-only. OSError.
    """
    if not lower:
        raise OSError(errno.EINVAL, "a union needs a layer")
    if (upper is None) != (work is None):
        raise OSError(errno.EINVAL, "a union has both an upper and a work directory, or neither")
    if upper is None and len(lower) == 1:
        return _single(lower[0])  # overlayfs wants two at least
    try:
        return union_by_fsconfig(lower, upper, work)
    except OSError as error:
        # A kernel that does not know lowerdir+ says so there, or, where overlayfs reads its options as text (before 6.5), at the end.
        if error.filename not in ("lowerdir+", "fsconfig") or error.errno != errno.EINVAL:
            raise
        return union_by_mount(lower, upper, work)


def _single(directory: Path) -> int:
    """One directory, read-only."""
    try:
        tree = syscalls.open_tree(
            syscalls.AT_FDCWD, str(directory), syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(directory)) from None
    try:
        syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, attr_set=syscalls.MOUNT_ATTR_RDONLY)
    except BaseException:
        os.close(tree)
        raise
    return tree


class _Handles:
    """Directories opened so that they have short names without commas, colons or backslashes."""

    def __init__(self) -> None:
        self._descriptors: list[int] = []

    def name(self, path: Path | str) -> str:
        descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        return f"/proc/self/fd/{descriptor}"

    def __enter__(self) -> _Handles:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)


def union_by_fsconfig(lower: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    """:func:`union` as Linux 6.5 and later can; before, EINVAL."""
    context = syscalls.fsopen("overlay")
    try:
        with _Handles() as handles:
            for key, value in OPTIONS:
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, key, value)
            for directory in reversed(lower):
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "lowerdir+", handles.name(directory))
            if upper is not None and work is not None:
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "upperdir", handles.name(upper))
                syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "workdir", handles.name(work))
            syscalls.fsconfig(context, syscalls.FSCONFIG_SET_STRING, "source", "pydock")
            syscalls.fsconfig(context, syscalls.FSCONFIG_CMD_CREATE)
            return syscalls.fsmount(context)
    finally:
        os.close(context)


def union_by_mount(lower: Sequence[Path], upper: Path | None, work: Path | None) -> int:
    """:func:`union` by mount(2) in a child's mount namespace. EINVAL with more layers than fit a page (some 500)."""
    arguments = [os.fsencode(path) for path in lower]
    writable = [os.fsencode(path) for path in (upper, work) if path is not None]
    return in_a_child(_HERE, [b"union", b"%d" % len(writable), *writable, *arguments])[0]


def clone(fd: int, *, attributes: int = 0) -> int:
    """A further detached view of the mount *fd* and of what is mounted in it, with ``MOUNT_ATTR_*`` *attributes* set, too."""
    try:
        copy = syscalls.open_tree(fd, "", _CLONE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        copy = clone_in_a_child(fd)
    try:
        if attributes:
            syscalls.mount_setattr(copy, "", syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE, attr_set=attributes)
    except BaseException:
        os.close(copy)
        raise
    return copy


def clone_in_a_child(fd: int) -> int:
    """:func:`clone` for kernels that clone only what is in the caller's own mount namespace.

    The child has to attach the mount in its namespace, with which that place of it ends; so *fd* is made to refer to a
    second clone, in its old place among the descriptors.
    """
    copy, successor = in_a_child(_HERE, [b"clone"], fd)
    try:
        os.dup2(successor, fd, inheritable=False)
    finally:
        os.close(successor)
    return copy


def attach(fd: int, path: Path) -> None:
    """Put the detached mount *fd* onto the directory *path*; a last component that is a symlink is not followed."""
    syscalls.move_mount(fd, "", syscalls.AT_FDCWD, str(path), syscalls.MOVE_MOUNT_F_EMPTY_PATH)


def detach(path: Path) -> None:
    """Take away what is mounted on *path*: OSError EBUSY while somebody uses it, EINVAL if nothing is mounted."""
    syscalls.umount2(str(path), syscalls.UMOUNT_NOFOLLOW)


# -- the child: ``python -m pydock.overlay.mount SOCKET VERB ARGUMENT...``


def in_a_child(module: str, arguments: list[bytes], *descriptors: int) -> list[int]:
    """Run *module* in a child, which calls :func:`serve`, with *descriptors*; the descriptors that it sends."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        _send(ours, b"", list(descriptors))
        command: list[str | bytes] = [
            sys.executable,
            "-I",
            "-m",
            module,
            str(theirs.fileno()),
            *arguments,
        ]
        child = subprocess.run(command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, capture_output=True)
        theirs.close()
        message, received = _receive(ours)
    if child.returncode or not received:
        for descriptor in received:
            os.close(descriptor)
        number, _, words = message.decode(errors="replace").partition(" ")
        if not number:
            raise RuntimeError(f"the mounting child died: {child.stderr.decode(errors='replace').strip()}")
        raise OSError(int(number), words)
    return received


def _send(channel: socket.socket, message: bytes, descriptors: list[int]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([message or b"\0"], rights)


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    message, ancillary, _, _ = channel.recvmsg(65536, socket.CMSG_SPACE(16 * descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return message.strip(b"\0"), descriptors.tolist()


def _union_here(arguments: list[str]) -> list[int]:
    """Mount in this process's own namespace; the verb ``union N [UPPER WORK] LOWER...``, bottom first."""
    count = int(arguments[0])
    writable, lower = arguments[1 : 1 + count], arguments[1 + count :]
    with _Handles() as handles:
        # names relative to /proc/self are five or six bytes each, whatever the paths are
        os.chdir("/proc/self")
        short = [handles.name(path).removeprefix("/proc/self/") for path in reversed(lower)]
        options = [f"lowerdir={':'.join(short)}"]
        for key, path in zip(("upperdir", "workdir"), writable, strict=False):
            options.append(f"{key}={handles.name(path).removeprefix('/proc/self/')}")
        options += [f"{key}={value}" for key, value in OPTIONS]
        text = ",".join(options)
        if len(text) >= _PAGE:
            raise OSError(errno.EINVAL, f"{len(lower)} layers are too many for this kernel's mount(2)")
        # any directory will do as the place: the namespace is ours and ends with us
        syscalls.mount("pydock", lower[0], "overlay", 0, text)
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    return [syscalls.open_tree(syscalls.AT_FDCWD, lower[0], flags)]


def _clone_here(tree: int) -> list[int]:
    """Attach the mount *tree* and clone it twice; the verb ``clone``."""
    syscalls.move_mount(tree, "", syscalls.AT_FDCWD, "/proc", syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    return [syscalls.open_tree(tree, "", _CLONE), syscalls.open_tree(tree, "", _CLONE)]


def serve(work: Callable[[list[str], list[int]], list[int]]) -> int:
    """The child: do the *work* in a mount namespace of its own, and send the descriptors that it gives, or ``ERRNO WORDS``.

    It gets the arguments and the descriptors that :func:`in_a_child` was given.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        try:
            _, descriptors = _receive(channel)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
            _send(channel, b"", work(sys.argv[2:], descriptors))
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            _send(channel, f"{error.errno} {name}{error.strerror}".encode(), [])
            return 1
    return 0


def _work(arguments: list[str], descriptors: list[int]) -> list[int]:
    return _union_here(arguments[1:]) if arguments[0] == "union" else _clone_here(descriptors[0])


if __name__ == "__main__":
    sys.exit(serve(_work))
