"""What a container finds in /etc about names: hosts(5) and resolv.conf(5), and the lines of the settings ``hosts`` and ``dns``."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from pydock.runtime.errors import Invalid
from pydock.runtime.formats import quote
from pydock.runtime.network.words import checked_host

HOSTNAME: Final = "hostname"
HOSTS: Final = "hosts"
RESOLVER: Final = "resolv.conf"
_LOCAL: Final = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
#: Names of neighbours have no dot, and no resolver beyond this machine is to be asked about them first: resolv.conf(5).
_AS_IT_IS: Final = "options ndots:0"
_KEPT: Final = ("search", "domain", "options")


@dataclass(frozen=True, slots=True)
class Etc:
    """What the files say besides the settings: with *machine* they are the machine's own."""

    machine: bool = False
    own: tuple[tuple[str, str], ...] = ()  # addresses and names of the container's own
    gateway: str = ""  # that answers for its networks


def texts(name: str, etc: Etc, extra: tuple[str, ...] | None, servers: tuple[str, ...] | None) -> dict[str, str]:
    """The files of a container whose host name is *name*; *extra* and *servers* are its settings ``hosts`` and ``dns``. Blocks."""
    if etc.machine:
        hosts, resolver = _machine(HOSTS), _machine(RESOLVER)
    else:
        hosts = _LOCAL if etc.own else f"{_LOCAL}127.0.1.1\t{name}\n"
        resolver = ""
        if etc.gateway:
            resolver = f"nameserver {etc.gateway}\n"
            kept = [line for line in _machine(RESOLVER).splitlines() if _is_kept(line)]
            if not any("ndots:" in line for line in kept):
                kept.append(_AS_IT_IS)
            resolver += "".join(f"{line}\n" for line in kept)
    called = {other: " ".join(dict.fromkeys((name, other))) for _, other in etc.own}
    hosts = _ended(hosts) + "".join(f"{address}\t{called[other]}\n" for address, other in etc.own)
    hosts += "".join("\t".join(reversed(line.split())) + "\n" for line in extra or ())
    return {HOSTS: hosts, RESOLVER: _ended(resolver) + "".join(f"nameserver {each}\n" for each in servers or ())}


def _machine(file: str) -> str:
    try:
        return Path("/etc", file).read_text(errors="replace")
    except OSError:
        return ""


def _is_kept(line: str) -> bool:
    return line.split()[:1] != [] and line.split()[0] in _KEPT


def _ended(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def parse_host(line: str) -> str:
    """``NAME ADDRESS``; what has the address first, as in /etc/hosts, is taken as well. Invalid."""
    words = line.split()
    if len(words) == 2:
        for name, address in (words, words[::-1]):
            try:
                return f"{checked_host(name)} {ip_address(address)}"
            except ValueError:
                continue
    raise Invalid(f"hosts: {quote(line.strip())} is not NAME ADDRESS")


def parse_server(line: str, what: str = "dns") -> str:
    """The address of a server that answers, or of *what*. Invalid."""
    try:
        return str(ip_address(line.strip()))
    except ValueError:
        raise Invalid(f"{what}: {quote(line.strip())} is not an address") from None
