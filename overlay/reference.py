"""Names of images: ``[HOST[:PORT]/]PATH[:TAG][@DIGEST]``.

A name without a host is on docker.io, a single component there is in ``library/``, ``index.docker.io`` is docker.io,
and a name with neither tag nor digest means the tag ``latest``. ``str()`` is the short canonical form that people see
and that is a directory below ``images/``; :attr:`Reference.full` is what is stored and sent to registries. Either form
parses to an equal value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from pydock.overlay.digest import Digest
from pydock.overlay.errors import Invalid

DEFAULT_HOST: Final = "docker.io"
#: What docker calls it in references and config.json, and where it answers.
INDEX_HOST: Final = "index.docker.io"
HUB_HOST: Final = "registry-1.docker.io"
DEFAULT_TAG: Final = "latest"
_LIBRARY: Final = "library"
_NAME_MAX: Final = 255  # bytes of host and path together, as registries have it
_PORT_MAX: Final = 65535

#: What the short form of a reference leaves out at its beginning.
_LEFT_OUT: Final = re.compile(rf"(?:(?:{re.escape(INDEX_HOST)}|{re.escape(DEFAULT_HOST)})/)?(?:{_LIBRARY}/)?")
_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::([0-9]{{1,5}}))?", re.ASCII)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}", re.ASCII)


def _looks_like_a_host(component: str) -> bool:
    """Whether the first component of a path is taken for a registry and not for a directory on docker.io."""
    return component == "localhost" or any(c in component for c in ".:[") or component != component.lower()


def is_host(text: str) -> bool:
    """Whether *text* is ``HOST[:PORT]`` as references have it."""
    match = _HOST.fullmatch(text)
    return match is not None and (match[1] is None or 0 < int(match[1]) <= _PORT_MAX)


def is_component(text: str) -> bool:
    """Whether *text* may be a part of a repository's path."""
    return _COMPONENT.fullmatch(text) is not None


def shortened(beginning: str) -> str:
    """The *beginning* of a reference without what the short form leaves out."""
    return _LEFT_OUT.sub("", beginning, count=1)


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A parsed name. *host* and *path* are always there; a reference has a tag, a digest, or both."""

    host: str
    path: str
    tag: str | None = DEFAULT_TAG
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Invalid, with the offending part, if *text* is not a reference."""
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text) if at else None
        directory, slash, last = rest.rpartition("/")
        last, colon, tag = last.partition(":")
        if colon and _TAG.fullmatch(tag) is None:
            raise Invalid(f"{text[:300]!r}: {tag[:130]!r} is not a tag: want up to 128 of letters, digits, _ . -")
        components = f"{directory}{slash}{last}".split("/")
        host = DEFAULT_HOST
        if len(components) > 1 and _looks_like_a_host(components[0]):
            host = components.pop(0)
            if not is_host(host):
                raise Invalid(f"{text[:300]!r}: {host[:130]!r} is not a registry: want HOST or HOST:PORT")
            if host == INDEX_HOST:
                host = DEFAULT_HOST
        if host == DEFAULT_HOST and len(components) == 1:
            components.insert(0, _LIBRARY)
        for component in components:
            if _COMPONENT.fullmatch(component) is None:
                raise Invalid(
                    f"{text[:300]!r}: {component[:130]!r} is not part of a name: want lower case letters and digits, "
                    "with . _ __ or - between them"
                )
        path = "/".join(components)
        if len(host) + 1 + len(path) > _NAME_MAX:
            raise Invalid(f"{text[:60]!r}...: the name is longer than {_NAME_MAX} characters")
        return cls(host, path, tag if colon else None if digest else DEFAULT_TAG, digest)

    @property
    def suffix(self) -> str:
        """``:TAG``, ``@DIGEST`` or both."""
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    @property
    def full(self) -> str:
        """With host and ``library/``, as stored in index.json."""
        return f"{self.host}/{self.path}{self.suffix}"

    def __str__(self) -> str:
        if self.host != DEFAULT_HOST:
            return self.full
        first, _, rest = self.path.partition("/")
        if first == _LIBRARY and "/" not in rest:
            return rest + self.suffix
        # docker.io/my.team/app must keep its host: without it, my.team would be the registry
        return self.full if _looks_like_a_host(first) else self.path + self.suffix
