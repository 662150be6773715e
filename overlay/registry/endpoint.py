"""How a registry is reached: credentials, certificates, mirrors, proxies; from the tree, or where Docker keeps them.

A registry's certificates may lie in ``/etc/docker/certs.d/HOST[:PORT]/`` (``*.crt`` are authorities, ``NAME.cert`` with
``NAME.key`` is the client's), its credentials in root's ``~/.docker/config.json`` (``auths``), as docker(1) has them. What
the tree says wins.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
from pydock.overlay.errors import Invalid
from pydock.overlay.reference import DEFAULT_HOST, HUB_HOST, INDEX_HOST

CERTIFICATES: Final = Path("/etc/docker/certs.d")
CONFIGURATION: Final = Path(os.environ.get("DOCKER_CONFIG") or "/root/.docker") / "config.json"
#: What the credentials of Docker Hub are called in config.json.
_HUB_KEYS: Final = (f"https://{INDEX_HOST}/v1/", INDEX_HOST, DEFAULT_HOST, HUB_HOST)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One registry. *host* is ``HOST[:PORT]`` as in references; *insecure* allows plain HTTP and certificates of anybody.

    *token* is an identity token (config.json's ``identitytoken``), *authorities*, *certificate* and *key* are PEM.
    """

    host: str
    username: str = ""
    password: str = ""
    token: str = ""
    insecure: bool = False
    mirrors: tuple[str, ...] = ()
    authorities: str = ""
    certificate: str = ""
    key: str = ""

    @property
    def address(self) -> str:
        """``HOST[:PORT]`` to connect to."""
        return HUB_HOST if self.host == DEFAULT_HOST else self.host

    def tls(self) -> ssl.SSLContext:
        """The context for its connections. Invalid for certificates that are none. Blocks."""
        context = ssl.create_default_context()
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.authorities:
                context.load_verify_locations(cadata=self.authorities)
        except (ssl.SSLError, ValueError) as error:
            raise Invalid(f"{self.host}: ca.crt holds no certificates in PEM: {error}") from None
        if self.certificate:
            _load_pair(context, self)
        return context


def _load_pair(context: ssl.SSLContext, endpoint: Endpoint) -> None:
    """The client's certificate: OpenSSL takes files alone, so through one in memory."""
    fd = os.memfd_create("client", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "w") as file:
            file.write(f"{endpoint.certificate}\n{endpoint.key}\n")
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except (ssl.SSLError, OSError) as error:
        raise Invalid(f"{endpoint.host}: client.cert and client.key are no pair in PEM: {error}") from None
    finally:
        os.close(fd)


def completed(
    endpoint: Endpoint, *, certificates: Path = CERTIFICATES, configuration: Path = CONFIGURATION
) -> Endpoint:
    """*endpoint* with what Docker's files say where it says nothing. Blocks."""
    directory = certificates / endpoint.host
    if not endpoint.authorities:
        endpoint = replace(endpoint, authorities="\n".join(_texts(directory, "*.crt")))
    if not endpoint.certificate:
        for path in sorted(directory.glob("*.cert")):
            key = path.with_suffix(".key")
            if key.is_file():
                endpoint = replace(endpoint, certificate=path.read_text(), key=key.read_text())
                break
    if not endpoint.username and not endpoint.token:
        username, password, token = _docker_login(endpoint.host, configuration)
        endpoint = replace(endpoint, username=username, password=password, token=token)
    return endpoint


def _texts(directory: Path, pattern: str) -> list[str]:
    return [path.read_text(errors="replace") for path in sorted(directory.glob(pattern)) if path.is_file()]


class _Auth(msgspec.Struct, frozen=True):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfiguration(msgspec.Struct, frozen=True):
    auths: dict[str, _Auth] = {}


def _docker_login(host: str, configuration: Path) -> tuple[str, str, str]:
    """User name, password and identity token for *host* in docker's config.json; empty where there are none."""
    try:
        auths = msgspec.json.decode(configuration.read_bytes(), type=_DockerConfiguration).auths
    except (OSError, msgspec.DecodeError):
        return "", "", ""
    names = (
        _HUB_KEYS if host == DEFAULT_HOST else (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    )
    for name in names:
        found = auths.get(name)
        if found is None:
            continue
        username, password = found.username, found.password
        if found.auth:
            try:
                username, _, password = base64.b64decode(found.auth).decode().rstrip("\0").partition(":")
            except (binascii.Error, UnicodeDecodeError):
                continue
        return username, password, found.identitytoken
    return "", "", ""


@dataclass(frozen=True, slots=True)
class Proxies:
    """By which proxy a URL is reached: *http* and *https* are URLs, *none* the hosts that need no proxy, as NO_PROXY has them."""

    http: str = ""
    https: str = ""
    none: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Proxies:
        """HTTP_PROXY, HTTPS_PROXY, NO_PROXY, the lower case ones first, as curl(1) has it."""

        def value(name: str) -> str:
            return environment.get(name) or environment.get(name.upper()) or ""

        return cls(value("http_proxy"), value("https_proxy") or value("all_proxy"), value("no_proxy"))

    def of(self, scheme: str, host: str) -> str | None:
        """The proxy for *host*, which may have a port; None for none."""
        proxy = self.https if scheme == "https" else self.http
        if not proxy or any(_matches(pattern.strip().lower(), host.lower()) for pattern in self.none.split(",")):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"


def _matches(pattern: str, host: str) -> bool:
    """Whether an item of NO_PROXY is about *host*: all, a name and what is below it, an address, a network."""
    name = host.partition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        pass
    return pattern == "*" or (
        pattern != "" and (pattern in (host, name) or f".{name}".endswith(f".{pattern.lstrip('.')}"))
    )
