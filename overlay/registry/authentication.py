"""What a registry asks for before it answers, and what is said then.

RFC 7235 (challenges), RFC 7617 (Basic), RFC 6750 (Bearer), and Docker's token authentication: the challenge names a *realm*
where a token for a *scope* is given, for credentials or for anybody.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

import msgspec

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SCHEME: Final = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)(?!=)")
_PARAMETER: Final = re.compile(rf'\s*,?\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One of a WWW-Authenticate header; *scheme* in lower case."""

    scheme: str
    parameters: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str:
        """A parameter; empty when it is not there."""
        return dict(self.parameters).get(name, "")


def challenges(header: str) -> tuple[Challenge, ...]:
    """Those in a WWW-Authenticate header, as far as it can be understood."""
    found: list[Challenge] = []
    position = 0
    while (match := _SCHEME.match(header, position)) is not None:
        position = match.end()
        parameters: list[tuple[str, str]] = []
        while (parameter := _PARAMETER.match(header, position)) is not None:
            quoted = parameter[2]
            value = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters.append((parameter[1].lower(), value))
            position = parameter.end()
        found.append(Challenge(match[1].lower(), tuple(parameters)))
    return tuple(found)


def basic(username: str, password: str) -> str:
    """The Authorization header of these credentials."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class TokenAnswer(msgspec.Struct, frozen=True):
    """What a token server says; *expires_in* in seconds."""

    token: str = ""
    access_token: str = ""
    expires_in: int = 60

    @property
    def value(self) -> str:
        """The token, under whichever name it came."""
        return self.token or self.access_token
