"""The image ``host``: the machine's own programs and libraries, and nothing else of the machine.

Its layers are a directory that is made here, with the usual directories and links and a small /etc, and the machine's /usr as a part
(:mod:`pydock.overlay.composing`). Of /etc there is what programs can't do without: passwd and group without passwords and
real names, a plain nsswitch.conf, the loader's cache, certificates of authorities, the links of Debian's alternatives. Nothing
is copied that is not for everybody to read, and no private key.

The directory is named after what it was made from, and made again when that changes; containers keep theirs.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydock.overlay.trees import remove_tree

NAME: Final = "host"
#: /usr, as a layer of the image is written where those of a container are kept.
USR: Final = "usr:/usr"
_FORM: Final = b"1"  # of what is made here
_LINKS: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_DIRECTORIES: Final = (
    *(("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("media", 0o755), ("mnt", 0o755), ("opt", 0o755)),
    *(("proc", 0o555), ("root", 0o700), ("run", 0o755), ("srv", 0o755), ("sys", 0o555), ("tmp", 0o1777)),
    *(("usr", 0o755), ("var", 0o755), ("var/cache", 0o755), ("var/lib", 0o755), ("var/log", 0o755)),
    *(("var/spool", 0o755), ("var/tmp", 0o1777)),
)
_NSSWITCH: Final = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
_LOADER: Final = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d")
_CERTIFICATES: Final = ("ssl/certs", "pki/tls/certs", "pki/ca-trust/extracted")
_MOUNTED_ON: Final = ("hostname", "hosts", "resolv.conf")  # a container's own are mounted on them
_LARGEST: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class HostImage:
    """The image, kept in *directory* and made from the file system at *machine*."""

    directory: Path
    machine: Path = Path("/")

    def layers(self) -> tuple[str, str]:
        """Its layers as they would be made now. Quick."""
        return str(self.directory / self._key()), USR

    def _key(self) -> str:
        """Changes when what it is made from does."""
        digest = hashlib.sha256(_FORM)
        for name in ("passwd", "group", "alternatives", *_LOADER, *_CERTIFICATES):
            try:
                status = os.stat(self.machine / "etc" / name)
            except OSError:
                continue
            digest.update(f"{name} {status.st_ino} {status.st_mtime_ns} {status.st_size}\n".encode())
        return digest.hexdigest()[:32]

    def make(self) -> None:
        """Make its directory, if that is not there. OSError; EOPNOTSUPP on a machine where /bin is not in /usr. Blocks."""
        target = self.directory / self._key()
        if target.is_dir():
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".making-", dir=self.directory))
        try:
            made.chmod(0o755)
            self._fill(made)
            made.rename(target)
        except BaseException:
            remove_tree(made, aside=self.directory)
            if not target.is_dir():  # else another was faster
                raise

    def clear(self, keep: frozenset[str]) -> None:
        """Remove the directories that are neither the present one nor among *keep*, layers of containers. Blocks."""
        wanted = {*keep, self.layers()[0]}
        for path in self.directory.iterdir() if self.directory.is_dir() else ():
            if str(path) not in wanted:
                remove_tree(path, aside=self.directory)

    def _fill(self, made: Path) -> None:
        for name in _LINKS:
            path = self.machine / name
            if path.is_symlink():
                target = os.readlink(path)
                if target.lstrip("/") == f"usr/{name}":
                    (made / name).symlink_to(f"usr/{name}")
            elif path.is_dir():
                raise OSError(errno.EOPNOTSUPP, f"host: /{name} of this machine is not a link into /usr")
        for name, mode in _DIRECTORIES:
            (made / name).mkdir()
            (made / name).chmod(mode)
        etc, own = made / "etc", self.machine / "etc"
        for name in ("passwd", "group"):
            (etc / name).write_text(without_secrets((own / name).read_text(errors="surrogateescape"), name == "passwd"))
        (etc / "nsswitch.conf").write_text(_NSSWITCH)
        if (self.machine / "usr/lib/os-release").exists():
            (etc / "os-release").symlink_to("../usr/lib/os-release")
        for name in _MOUNTED_ON:
            (etc / name).touch()
        for name in (*_LOADER, *_CERTIFICATES):
            _copy(own, etc, name)
        _copy_links(own / "alternatives", etc / "alternatives")


def without_secrets(text: str, passwd: bool) -> str:
    """passwd(5) or group(5): an x for each password, and in passwd no real names."""
    lines = []
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and not line.startswith(("+", "-", "#")):
            fields[1] = "x"
            if passwd and len(fields) == 7:
                fields[4] = ""
            lines.append(":".join(fields) + "\n")
    return "".join(lines)


def _copy(source: Path, target: Path, name: str) -> None:
    """The file *name*, or the tree, from below *source*: what everybody may read, and no private keys. Links into /usr stay links."""
    if not (source / name).exists():
        return
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    for path in (source / name, *_below(source / name)):
        place = target / path.relative_to(source)
        if path.is_symlink():
            link = os.readlink(path)
            if "/" not in link or link.startswith("/usr/"):
                place.symlink_to(link)
                continue
        if path.is_dir():
            place.mkdir(exist_ok=True)
        elif (content := _public(path)) is not None:
            place.write_bytes(content)


def _below(directory: Path) -> Iterator[Path]:
    for above, directories, files in os.walk(directory):
        for name in (*directories, *files):
            yield Path(above, name)


def _public(path: Path) -> bytes | None:
    """What a file holds; None when it is not for everybody, or for nobody."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IROTH or status.st_size > _LARGEST:
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return None if b"PRIVATE KEY" in content else content


def _copy_links(source: Path, target: Path) -> None:
    """The links of update-alternatives(1) that lead into /usr, directly or by one another."""
    if not source.is_dir():
        return
    target.mkdir()
    for path in source.iterdir():
        if path.is_symlink() and (link := os.readlink(path)).startswith(("/usr/", "/etc/alternatives/", "/bin/")):
            (target / path.name).symlink_to(link)
