"""The confined unpackers: ``python -m pydock.overlay.unpack SOCKET``.

A message on the socket (:mod:`pydock.overlay.unpackers` sends it) is an empty directory, a pipe with one layer's tar, and one for
the report; a fork takes it on, so that Python starts but once for an image of many layers.

Archives come from strangers. So before it reads the first header the process makes the directory its whole world: a
mount namespace in which nothing else is mounted, no network, no descriptors but stdin and stdout, only the
capabilities that unpacking takes, and those for ever. Inside, plain paths are safe: ``..`` and symlinks can lead
nowhere else. Symlinks that the archive has put in a path's way are followed within the layer, as other engines do.

What needs more privilege than that (an opaque directory is an attribute in ``trusted.*``, which takes CAP_SYS_ADMIN)
is handed back as a list of paths. The last thing written to stdout is one line of JSON: ``{"bytes": N, "entries": N,
"opaque": [...]}``, where bytes is the data of regular files without holes, hard links once; or ``{"error": WORDS,
"errno": N or null}``, null for a fault of the archive. See :mod:`pydock.overlay.layers` for the other end.

Whiteouts are those of the OCI image-spec, layer.md, and become overlayfs' own (Documentation/filesystems/
overlayfs.rst, "whiteouts and opaque directories"). Attributes kept are ``user.*``, ``security.capability`` and POSIX
access lists; ``trusted.*`` and other ``security.*`` of a stranger mean nothing, or harm, here.
"""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import signal
import socket
import stat
import sys
import traceback
from collections.abc import Callable
from typing import Final, TypeVar

from pydock.overlay import tarformat
from pydock.overlay.confine import confine
from pydock.overlay.tarformat import BadArchive, Entry, is_kept, shown
from pydock.overlay.trees import remove_tree

_CHUNK: Final = 1 << 20
_WHITEOUT: Final = b".wh."
_OPAQUE: Final = b".wh..wh..opq"
_AUFS: Final = b".wh..wh."  # further bookkeeping of a file system that is gone: nothing to unpack

_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID, _CAP_MKNOD, _CAP_SETFCAP = 0, 1, 3, 4, 27, 31
CAPABILITIES: Final = (_CAP_CHOWN, _CAP_DAC_OVERRIDE, _CAP_FOWNER, _CAP_FSETID, _CAP_MKNOD, _CAP_SETFCAP)


# What a path or a link of the archive can bring about; any other errno is the machine's fault (ENOSPC, EIO, ...).
_FAULTS_OF_THE_ARCHIVE: Final = frozenset(
    (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.EFBIG,
        errno.EMLINK,
        errno.ERANGE,
        errno.E2BIG,
        errno.EXDEV,
    )
)

_T = TypeVar("_T")


def _clean(name: bytes) -> bytes:
    """*name* as a path relative to the layer's root, b"." for the root itself."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if not name or b".." in parts:
        raise BadArchive(f"entry {shown(name)} has a name that is empty or has .. in it")
    if 0 in name:
        raise BadArchive(f"entry {shown(name)} has a NUL in its name")
    return b"/".join(parts) or b"."


class Unpacker:
    """Turns entries into files below the current directory, which is the root."""

    def __init__(self) -> None:
        self.bytes = 0
        self.entries = 0
        self.opaque: dict[bytes, None] = {}
        # The times of directories are set last, as every file made in them changes them; the inode tells whether
        # the path is still the same directory by then.
        self._directories: dict[bytes, tuple[int, int]] = {}

    def run(self, reader: tarformat.Reader) -> None:
        """Unpack everything. BadArchive or OSError, with the entry's name, at the first that fails."""
        for entry in reader:
            try:
                self._place(entry, reader)
            except OSError as error:
                words = f"entry {shown(entry.name)}: {error.strerror}"
                if error.errno in _FAULTS_OF_THE_ARCHIVE:
                    raise BadArchive(words) from None
                raise OSError(error.errno, words) from None
            except (OverflowError, ValueError) as error:
                raise BadArchive(f"entry {shown(entry.name)}: {error}") from None
            self.entries += 1
        for path, (inode, mtime_ns) in reversed(self._directories.items()):
            try:
                if os.lstat(path).st_ino == inode:
                    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
            except FileNotFoundError:
                continue
            except NotADirectoryError:
                continue

    def _place(self, entry: Entry, reader: tarformat.Reader) -> None:
        path = _clean(entry.name)
        if _WHITEOUT in path:
            directory, _, base = path.rpartition(b"/")
            if b"/" + _WHITEOUT in b"/" + directory:
                raise BadArchive(f"entry {shown(entry.name)} is inside a whiteout")
            if base.startswith(_WHITEOUT):
                self._whiteout(entry, directory or b".", base)
                return
        if path == b"." and entry.kind != tarformat.DIRECTORY:
            raise BadArchive(f"entry {shown(entry.name)} is the root, but not a directory")
        match entry.kind:
            case tarformat.REGULAR:
                self._regular(path, entry, reader)
            case tarformat.DIRECTORY:
                self._directory(path, entry)
            case tarformat.HARDLINK:
                target = _clean(entry.link)
                if target != path:
                    self._create(path, lambda: os.link(target, path, follow_symlinks=False))
            case tarformat.SYMLINK:
                self._create(path, lambda: os.symlink(entry.link, path))
                os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
                os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
            case _:
                self._node(path, entry)

    def _create(self, path: bytes, make: Callable[[], _T]) -> _T:
        """*make* what is to be at *path*, after removing what is there and making what parents it lacks."""
        for _ in range(3):
            try:
                return make()
            except FileExistsError:
                self._clear(path)
            except (FileNotFoundError, NotADirectoryError):
                self._make_parents(path)
        return make()

    def _clear(self, path: bytes) -> bool:
        """Remove what is at *path*; whether that was a whiteout."""
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            remove_tree(path, aside=b".")
            self.opaque.pop(path, None)
            return False
        os.unlink(path)
        return _is_whiteout(status)

    def _make_parents(self, path: bytes) -> None:
        """The directories above *path* that no entry made, root's and 0755. A whiteout in the way becomes one."""
        missing = []
        parent = path.rpartition(b"/")[0]
        while parent:
            try:
                os.mkdir(parent, 0o755)
                break
            except FileExistsError:
                if _is_whiteout(os.lstat(parent)):
                    os.unlink(parent)
                    os.mkdir(parent, 0o755)
                    self.opaque[parent] = None
                break
            except (FileNotFoundError, NotADirectoryError):
                missing.append(parent)
                parent = parent.rpartition(b"/")[0]
        for parent in reversed(missing):
            os.mkdir(parent, 0o755)

    def _regular(self, path: bytes, entry: Entry, reader: tarformat.Reader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = self._create(path, lambda: os.open(path, flags, 0o600))
        try:
            if entry.segments is None:
                while data := reader.read(_CHUNK):
                    _write_all(descriptor, data)
                self.bytes += entry.size
            else:
                os.ftruncate(descriptor, entry.size)
                for offset, length in entry.segments:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    left = length
                    while left:
                        data = reader.read(min(left, _CHUNK))
                        _write_all(descriptor, data)
                        left -= len(data)
                    self.bytes += length
            # chown first: it clears the set-id bits and file capabilities
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode)
            _set_xattrs(descriptor, entry)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _directory(self, path: bytes, entry: Entry) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                # a symlink is replaced as well, even one to a directory: an entry says what is there, not beyond
                whiteout = self._clear(path)
                os.mkdir(path, 0o700)
                if whiteout:
                    self.opaque[path] = None
        except (FileNotFoundError, NotADirectoryError):
            self._create(path, lambda: os.mkdir(path, 0o700))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode)
            _set_xattrs(descriptor, entry)
            self._directories.pop(path, None)
            self._directories[path] = (os.fstat(descriptor).st_ino, entry.mtime_ns)
        finally:
            os.close(descriptor)

    def _node(self, path: bytes, entry: Entry) -> None:
        kind = {
            tarformat.FIFO: stat.S_IFIFO,
            tarformat.CHARACTER: stat.S_IFCHR,
            tarformat.BLOCK_DEVICE: stat.S_IFBLK,
        }[entry.kind]
        self._create(path, lambda: os.mknod(path, kind | 0o600, os.makedev(*entry.device)))
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        os.chmod(path, entry.mode)  # follows no symlink: the node is ours, and nobody else is here
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)

    def _whiteout(self, entry: Entry, directory: bytes, base: bytes) -> None:
        """``.wh.NAME`` hides NAME of the layers below, ``.wh..wh..opq`` everything there; nothing of this layer."""
        if base == _OPAQUE:
            marker = directory + b"/."
            if directory != b".":
                self._make_parents(marker)
            self.opaque[directory] = None
            return
        if base.startswith(_AUFS):
            return
        hidden = base[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise BadArchive(f"entry {shown(entry.name)} is a whiteout of nothing that can be hidden")
        path = hidden if directory == b"." else directory + b"/" + hidden
        try:
            existing = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._create(path, lambda: os.mknod(path, stat.S_IFCHR, os.makedev(0, 0)))
        else:
            # the layer has it too: only what lies below a directory of that name remains to be hidden
            if stat.S_ISDIR(existing.st_mode):
                self.opaque[path] = None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _write_all(descriptor: int, data: bytes) -> None:
    written = os.write(descriptor, data)
    while written < len(data):
        written += os.write(descriptor, memoryview(data)[written:])


def _set_xattrs(descriptor: int, entry: Entry) -> None:
    for name, value in entry.xattrs:
        if not is_kept(name):
            continue
        try:
            os.setxattr(descriptor, name, value)
        except OSError as error:
            # a file system without user.* attributes is no reason not to have the image; one without capabilities is
            if error.errno != errno.EOPNOTSUPP or not name.startswith(b"user."):
                raise


def _unpack(directory: int) -> None:
    """Confine, unpack stdin, report."""
    os.umask(0)
    report: dict[str, object]
    try:
        confine(directory, capabilities=CAPABILITIES)
        reader = tarformat.Reader(io.BufferedReader(io.FileIO(0), _CHUNK))
        unpacker = Unpacker()
        unpacker.run(reader)
        reader.drain()
        opaque = [os.fsdecode(path) for path in unpacker.opaque]
        report = {"bytes": unpacker.bytes, "entries": unpacker.entries, "opaque": opaque}
    except BadArchive as error:
        report = {"error": str(error), "errno": None}
    except MemoryError:
        report = {"error": "the archive takes too much memory to unpack", "errno": None}
    except OSError as error:
        report = {"error": str(error.strerror), "errno": error.errno}
    os.write(1, json.dumps(report).encode() + b"\n")


def _child(directory: int, stdin: int, stdout: int) -> None:
    """What a fork does; it does not return."""
    status = 1
    try:
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.dup2(stdout, 2)
        _unpack(directory)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> int:
    """Fork for each message, which has three descriptors (directory, stdin, stdout), until the other side hangs up."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    while True:
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 3)
        if len(descriptors) != 3:
            return 0
        if os.fork() == 0:
            _child(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
