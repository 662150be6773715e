"""The confined reader: ``python -m pydock.overlay.diff UPPER LOWER MODE``, a writable layer as the tar of an image's layer on stdout.

UPPER and LOWER are descriptors of directories, LOWER -1 for none. With ``changes`` the tar is what UPPER, an overlay's upper
directory, changes of LOWER, the union below it; with ``layer`` it is the whole of UPPER, a layer as it is unpacked; with
``flat`` as well, but without what is there to hide something below. On stdin are the places that have been made to mount on,
each with a NUL at its end: what is new, empty and at one of these is left out.

What is in UPPER is a stranger's, and may change while it is read. So the process makes UPPER its whole world, read-only and
without devices (:mod:`pydock.overlay.confine`), opens each directory below its descriptor through no symlink, and trusts of a
file only what fstat(2) says of the open one. What has vanished is left out; a file that shrinks is filled up with zeros, as its
size is told before.

Whiteouts are overlayfs' own on disk (Documentation/filesystems/overlayfs.rst) and those of the OCI image-spec, layer.md, in
the tar. A directory that is as below, and of which nothing is in the tar, is not in it either. Below an opaque directory all is
new. Attributes are those that the unpacker keeps, of files and directories; sockets are left out, as everywhere; holes are zeros,
but for very large ones. The order is that of the names, so a tree gives the same bytes whenever it is read.

The last thing on stderr is one line of JSON: ``{"entries": N}``, or ``{"error": WORDS, "errno": N or null}``, null for something that a
layer can't hold. See :mod:`pydock.overlay.treetar` for the other end.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Final

from pydock.overlay import tarformat, tarwriter
from pydock.overlay.confine import confine
from pydock.overlay.tarformat import Entry, is_kept, shown
from pydock.runtime import syscalls

_CAP_DAC_READ_SEARCH, _CAP_SYS_ADMIN = 2, 21
CAPABILITIES: Final = (_CAP_DAC_READ_SEARCH, _CAP_SYS_ADMIN)  # the second one for what is in trusted.*
_BELOW: Final = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
_OPAQUE: Final = "trusted.overlay.opaque"
_WHITEOUT: Final = b".wh."
_OPAQUE_MARK: Final = b".wh..wh..opq"
_PIECE: Final = 2048  # bytes of a path that are resolved at once
_LONGEST: Final = 4095  # bytes of a path that an unpacker can open
_BUFFER: Final = 1 << 20
_SMALL: Final = 1 << 16  # bytes of a file that are read into the buffer
#: Bytes of holes that are worth a sparse entry: podman takes such a layer, but can't push it again. Zeros are compressed well.
_HOLES: Final = 1 << 26
_SEGMENTS: Final = 1 << 20
_KINDS: Final = {
    stat.S_IFLNK: tarformat.SYMLINK,
    stat.S_IFCHR: tarformat.CHARACTER,
    stat.S_IFBLK: tarformat.BLOCK_DEVICE,
    stat.S_IFIFO: tarformat.FIFO,
}
Xattrs = tuple[tuple[bytes, bytes], ...]


class Unfit(Exception):
    """Something that no layer can hold; the message is one line."""


class Output:
    """The tar on its way to *descriptor*, in large pieces."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pieces: list[bytes] = []
        self._size = 0

    def put(self, data: bytes) -> None:
        """*data* follows."""
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        """All of it is on its way."""
        data, self._pieces, self._size = memoryview(b"".join(self._pieces)), [], 0
        while data:
            data = data[os.write(self._descriptor, data) :]

    def copy(self, file: int, offset: int, length: int) -> None:
        """*length* bytes of *file* from *offset* on; zeros for what it has no more."""
        if length <= _SMALL:
            data = os.pread(file, length, offset)
            while len(data) < length and (more := os.pread(file, length - len(data), offset + len(data))):
                data += more
            self.put(data.ljust(length, b"\0"))
            return
        self.flush()
        end = offset + length
        while offset < end and (sent := os.sendfile(self._descriptor, file, offset, min(end - offset, 1 << 30))):
            offset += sent
        while offset < end:
            self.put(bytes(min(end - offset, _BUFFER)))
            offset += min(end - offset, _BUFFER)


class Walk:
    """The tar of *upper*, compared with *lower* if that is not negative."""

    def __init__(self, upper: int, lower: int, output: Output, *, flat: bool, made: frozenset[bytes]) -> None:
        self._upper, self._lower = upper, lower
        self._output = output
        self._flat = flat
        self._made = made
        self._above = {path[:end] for path in made for end in range(len(path)) if path[end : end + 1] == b"/"}
        self._first: dict[tuple[int, int], bytes] = {}  # of files with several names: the one in the tar
        self._waiting: list[
            tuple[bytes, bytes]
        ] = []  # path and head of directories that are told if something in them is
        self.entries = 0

    def run(self) -> None:
        """All of it, and the archive's end; nothing at all where nothing is to be told."""
        pending: list[tuple[bytes, bool]] = [(b"", self._lower >= 0)]  # whether there is something below it
        while pending:
            path, visible = pending.pop()
            with ExitStack() as stack:
                try:
                    here = _open(self._upper, path, stack)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        continue
                    raise
                below = _open_lower(self._lower, path, stack) if visible else -1
                inside = [(path, *each) for each in self._directory(path, here, below)]
            pending += [(_join(above, name), seen) for above, name, seen in reversed(inside)]
        if self.entries:
            self._output.put(tarwriter.END)
        self._output.flush()

    def _directory(self, path: bytes, here: int, below: int) -> list[tuple[bytes, bool]]:
        """Tell of a directory and of what is in it but for directories: their names, and whether there are such below."""
        opaque = _is_opaque(here)
        self._tell_directory(path, here, below, opaque=opaque)
        names: dict[str, list[bytes]] = {"other": [], "directory": [], "device": []}
        with os.scandir(here) as found:
            for each in found:
                if each.is_dir(follow_symlinks=False):
                    names["directory"].append(os.fsencode(each.name))
                elif each.is_file(follow_symlinks=False) or each.is_symlink():
                    names["other"].append(os.fsencode(each.name))
                else:
                    names["device"].append(os.fsencode(each.name))
        nodes = []
        for name in sorted(names["device"]):
            with suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                    self._whiteout(path, name, below)
                else:
                    nodes.append(name)
        for name in sorted(names["other"] + nodes):
            with suppress(FileNotFoundError):
                self._tell(path, name, here, below)
        directories = []
        for name in sorted(names["directory"]):
            self._check(_join(path, name), name)
            before = None if opaque or below < 0 else _status(below, name)
            directories.append((name, before is not None and stat.S_ISDIR(before.st_mode)))
        return directories

    def _check(self, path: bytes, name: bytes) -> None:
        if name.startswith(_WHITEOUT):
            raise Unfit(f"{shown(path)} can't be in a layer: there a name that begins with .wh. means a deletion")
        if len(path) > _LONGEST:
            raise Unfit(f"{shown(path)} can't be in a layer: its path has {len(path)} bytes, more than can be opened")

    def _emit(self, data: bytes) -> None:
        """A head, behind those of the directories above it that have not been told."""
        for _, waiting in self._waiting:
            self._output.put(waiting)
        self._output.put(data)
        self.entries += len(self._waiting) + 1
        self._waiting.clear()

    def _tell_directory(self, path: bytes, here: int, below: int, *, opaque: bool) -> None:
        while self._waiting and not path.startswith(self._waiting[-1][0] + b"/"):
            self._waiting.pop()
        status = os.fstat(here)
        xattrs = _xattrs(here)
        entry = _entry(path + b"/" if path else b"./", tarformat.DIRECTORY, status, xattrs=xattrs)
        head = tarwriter.head(entry)
        if below >= 0:
            before = os.fstat(below)
            same = _owned(status) == _owned(before) and xattrs == _xattrs(below)
            if same and not opaque:
                if path:  # the root is always there
                    self._waiting.append((path, head))
                return
        elif self._lower >= 0 and path in self._above | self._made:
            self._waiting.append((path, head))
            return
        self._emit(head)
        if opaque and not self._flat and (below >= 0 or self._lower < 0):
            self._emit(_mark(_join(path, _OPAQUE_MARK)))

    def _whiteout(self, path: bytes, name: bytes, below: int) -> None:
        if self._flat or (self._lower >= 0 and (below < 0 or _status(below, name) is None)):
            return
        place = _join(path, _WHITEOUT + name)
        self._check(_join(path, name), name)
        self._emit(_mark(place))

    def _tell(self, above: bytes, name: bytes, here: int, below: int) -> None:
        path = _join(above, name)
        self._check(path, name)
        status = os.stat(name, dir_fd=here, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                file = os.open(name, flags, dir_fd=here)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):
                    return  # it is another one by now
                raise
            try:
                self._file(path, file, name, below)
            finally:
                os.close(file)
        elif (kind := _KINDS.get(stat.S_IFMT(status.st_mode))) and not self._is_told(path, status):
            try:
                link = os.readlink(name, dir_fd=here) if kind == tarformat.SYMLINK else b""
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # it is another one by now
                raise
            self._emit(tarwriter.head(_entry(path, kind, status, link=link)))

    def _is_told(self, path: bytes, status: os.stat_result) -> bool:
        """Whether it is one of several names of something, and not the first: then it is told as such."""
        if status.st_nlink == 1:
            return False
        first = self._first.setdefault((status.st_dev, status.st_ino), path)
        if first == path:
            return False
        self._emit(tarwriter.head(_entry(path, tarformat.HARDLINK, status, link=first)))
        return True

    def _file(self, path: bytes, file: int, name: bytes, below: int) -> None:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return
        if status.st_size == 0 and path in self._made and self._lower >= 0 and _status(below, name) is None:
            return
        if self._is_told(path, status):
            return
        segments = _segments(file, status) if status.st_blocks * 512 + _HOLES <= status.st_size else None
        entry = _entry(path, tarformat.REGULAR, status, xattrs=_xattrs(file), size=status.st_size, segments=segments)
        self._emit(tarwriter.head(entry))
        for offset, length in ((0, status.st_size),) if segments is None else segments:
            self._output.copy(file, offset, length)
        self._output.put(tarwriter.padding(tarwriter.data_size(entry)))


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _mark(path: bytes) -> bytes:
    """The head of an empty file of root's, which stands for a deletion."""
    return tarwriter.head(Entry(path, tarformat.REGULAR, 0o600, 0, 0, 0, 0, b"", (0, 0)))


def _entry(
    path: bytes,
    kind: bytes,
    status: os.stat_result,
    *,
    link: bytes = b"",
    size: int = 0,
    xattrs: Xattrs = (),
    segments: tuple[tuple[int, int], ...] | None = None,
) -> Entry:
    return Entry(
        name=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=size,
        mtime_ns=status.st_mtime_ns,
        link=link,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        xattrs=xattrs,
        segments=segments,
    )


def _owned(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mode, status.st_uid, status.st_gid


def _xattrs(file: int) -> Xattrs:
    found = []
    for name in map(os.fsencode, os.listxattr(file)):
        if is_kept(name):
            with suppress(OSError):  # ENODATA: it has been removed meanwhile
                found.append((name, os.getxattr(file, name)))
    return tuple(sorted(found))


def _segments(file: int, status: os.stat_result) -> tuple[tuple[int, int], ...]:
    """Where the file has data, and its end."""
    found: list[tuple[int, int]] = []
    for segment in _data(file, status.st_size):
        found.append(segment)
        if len(found) > _SEGMENTS:
            raise Unfit(f"a file with more than {_SEGMENTS} holes can't be in a layer")
    if not found or sum(found[-1]) < status.st_size:
        found.append((status.st_size, 0))
    return tuple(found)


def _data(file: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
            at = os.lseek(file, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # only a hole is left
            raise
        if begin < size:
            yield begin, min(at, size) - begin


def _open(root: int, path: bytes, stack: ExitStack) -> int:
    """The directory *path* below *root*, to be listed, however deep it is."""
    here = root
    rest = path
    while True:
        piece, rest = rest, b""
        if len(piece) > _PIECE:
            cut = piece.rfind(b"/", 0, _PIECE)
            piece, rest = piece[:cut], piece[cut + 1 :]
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        following = syscalls.openat2(here, piece or b".", flags, resolve=_BELOW)
        if here != root:
            os.close(here)
        here = following
        if not rest:
            stack.callback(os.close, here)
            return here


def _open_lower(lower: int, path: bytes, stack: ExitStack) -> int:
    try:
        return _open(lower, path, stack)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return -1
        raise


def _is_opaque(directory: int) -> bool:
    with suppress(OSError):
        return os.getxattr(directory, _OPAQUE) == b"y"
    return False


def _status(directory: int, name: bytes) -> os.stat_result | None:
    if directory < 0:
        return None
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None


def main() -> int:
    """Confine, read, report."""
    report: dict[str, object]
    try:
        upper, lower, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
        made = frozenset(path.strip(b"/") for path in sys.stdin.buffer.read().split(b"\0") if path.strip(b"/"))
        keep = [lower] if lower >= 0 else []
        confine(upper, capabilities=CAPABILITIES, read_only=True, keep=keep)
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        walk = Walk(here, lower, Output(1), flat=mode == "flat", made=made)
        walk.run()
        report = {"entries": walk.entries}
    except Unfit as error:
        report = {"error": str(error), "errno": None}
    except OSError as error:
        report = {"error": str(error.strerror), "errno": error.errno}
    os.write(2, json.dumps(report).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
