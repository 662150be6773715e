"""``busybox:latest`` made from this machine's own /bin/busybox, so that a first container needs no network.

The archive is put together in memory and always the same for the same binary. Its shape is that of the usual image:
every applet a hard link, a few accounts, empty directories where others will mount.
"""

from __future__ import annotations

import io
import struct
import subprocess
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.image import Image
from pydock.overlay.manifest import History, ImageConfig
from pydock.overlay.reference import Reference
from pydock.overlay.store import Store

BUSYBOX: Final = Path("/bin/busybox")
_PACKAGE: Final = "install the package busybox-static (a busybox that is statically linked)"
_PT_INTERP: Final = 3

_ACCOUNTS: Final = (
    ("root", 0, "/root", "/bin/sh"),
    ("daemon", 1, "/usr/sbin", "/bin/false"),
    ("bin", 2, "/bin", "/bin/false"),
    ("sys", 3, "/dev", "/bin/false"),
    ("sync", 100, "/bin", "/bin/sync"),
    ("mail", 8, "/var/spool/mail", "/bin/false"),
    ("www-data", 33, "/var/www", "/bin/false"),
    ("operator", 37, "/var", "/bin/false"),
    ("nobody", 65534, "/home", "/bin/false"),
)
_GROUPS: Final = (
    *(("root", 0), ("daemon", 1), ("bin", 2), ("sys", 3), ("adm", 4), ("tty", 5), ("disk", 6), ("lp", 7), ("mail", 8)),
    *(("kmem", 9), ("wheel", 10), ("cdrom", 11), ("dialout", 18), ("floppy", 19), ("video", 28), ("audio", 29)),
    *(("tape", 32), ("www-data", 33), ("operator", 37), ("utmp", 43), ("plugdev", 46), ("staff", 50)),
    *(("sync", 100), ("users", 1000), ("nobody", 65534)),
)
_DIRECTORIES: Final = (
    *((name, 0o755) for name in ("bin", "dev", "etc", "home", "lib", "mnt", "proc", "run", "sbin", "sys")),
    *(("root", 0o700), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/sbin", 0o755), ("var", 0o755)),
    *((f"var/{name}", 0o755) for name in ("lib", "log", "spool", "www")),
    *(("var/spool/mail", 0o755), ("var/tmp", 0o1777)),
)
_CONFIG: Final = ImageConfig(
    command=("sh",),
    env=("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",),
)


def is_static(binary: bytes) -> bool:
    """Whether an ELF file asks for no interpreter (elf(5), PT_INTERP), so that it runs without any library. Invalid."""
    try:
        if binary[:4] != b"\x7fELF":
            raise Invalid("not an ELF file")
        wide = binary[4] == 2
        order = "<" if binary[5] == 1 else ">"
        (offset,) = struct.unpack_from(f"{order}{'Q' if wide else 'I'}", binary, 32 if wide else 28)
        size, count = struct.unpack_from(f"{order}HH", binary, 54 if wide else 42)
        kinds = (struct.unpack_from(f"{order}I", binary, offset + number * size)[0] for number in range(count))
        return _PT_INTERP not in kinds
    except (struct.error, IndexError):
        raise Invalid("a damaged ELF file") from None


def make_busybox(store: Store, *, binary: Path = BUSYBOX) -> Image:
    """Put ``busybox:latest`` into *store*, replacing one that is there. NotFound and Invalid name what to install."""
    try:
        content = binary.read_bytes()
        modified = int(binary.stat().st_mtime)
    except FileNotFoundError:
        raise NotFound(f"there is no {binary} to make busybox:latest from: {_PACKAGE}") from None
    try:
        static = is_static(content)
    except Invalid as error:
        raise Invalid(f"{binary} is {error}: {_PACKAGE}") from None
    if not static:
        raise Invalid(f"{binary} is dynamically linked and can't run alone in a container: {_PACKAGE}")
    listing = subprocess.run([binary, "--list-full"], capture_output=True, check=True, text=True).stdout
    archive = _archive(content, frozenset(listing.split()), modified)
    created = datetime.fromtimestamp(modified, UTC).isoformat().replace("+00:00", "Z")
    history = (History(created=created, created_by=f"made from {binary}"),)
    with store.intake() as intake:
        intake.add_layer((archive,))
        return intake.finish(Reference.parse("busybox"), _CONFIG, created=created, history=history)


def _archive(busybox: bytes, applets: frozenset[str], mtime: int) -> bytes:
    """The root file system as a tar; *applets* are paths as ``busybox --list-full`` gives them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, mode: int, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.mode, member.mtime, member.size = mode, mtime, len(content)
            tar.addfile(member, io.BytesIO(content))

        for name, mode in sorted(_DIRECTORIES):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, mode, mtime
            tar.addfile(member)
        add("bin/busybox", 0o755, busybox)
        # scripts name applets where Debian and others have them, and where the usual image has them all: /bin
        links = applets | {"bin/" + path.rpartition("/")[2] for path in applets}
        for path in sorted(links - {"bin/busybox"}):
            if path.rpartition("/")[0] in {"bin", "sbin", "usr/bin", "usr/sbin"}:
                member = tarfile.TarInfo(path)
                member.type, member.linkname, member.mode, member.mtime = tarfile.LNKTYPE, "bin/busybox", 0o755, mtime
                tar.addfile(member)
        add("etc/passwd", 0o644, _lines(f"{n}:x:{u}:{u}:{n}:{home}:{shell}" for n, u, home, shell in _ACCOUNTS))
        add("etc/group", 0o644, _lines(f"{name}:x:{number}:" for name, number in _GROUPS))
        add("etc/shadow", 0o600, _lines(f"{name}:*:10933:0:99999:7:::" for name, *_ in _ACCOUNTS))
        add("etc/nsswitch.conf", 0o644, b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n")
    return out.getvalue()


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
