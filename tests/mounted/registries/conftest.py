"""Registries for tests: Debian's docker-registry in four set-ups, a server that gives tokens, and one that does as it is told."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import os
import random
import socket
import subprocess
import tarfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine  # of the directory above

PATIENCE = 60
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
USER, PASSWORD = "alice", "it is a secret"


def openssl(*words: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *words], input=given, capture_output=True, check=True, timeout=PATIENCE).stdout


class Authority:
    """A certificate authority, and a certificate for this machine's loopback that it has signed."""

    def __init__(self, directory: Path) -> None:
        self.ca, self.ca_key = directory / "ca.crt", directory / "ca.key"
        self.certificate, self.key = directory / "server.crt", directory / "server.key"
        request, extensions = directory / "request", directory / "extensions"
        new = ("-newkey", "rsa:2048", "-nodes")
        openssl(
            "req",
            "-x509",
            *new,
            "-keyout",
            str(self.ca_key),
            "-out",
            str(self.ca),
            "-days",
            "2",
            "-subj",
            "/CN=pydock test",
        )
        openssl("req", *new, "-keyout", str(self.key), "-out", str(request), "-subj", "/CN=localhost")
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        signed = ("-CA", str(self.ca), "-CAkey", str(self.ca_key), "-CAcreateserial", "-days", "2")
        openssl(
            "x509", "-req", "-in", str(request), "-out", str(self.certificate), "-extfile", str(extensions), *signed
        )


class Server:
    """An HTTP server on a loopback port, in a thread. *requests* are what it was asked: method, path, headers."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

            def do_GET(self) -> None:
                outer.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    outer.answer(self)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_GET

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.host = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """The answer to its path, or 404."""
        found = self.answers.get(request.path.partition("?")[0])
        if found is None:
            reply(request, 404, b'{"errors":[{"code":"UNKNOWN","message":"nothing here"}]}')
        else:
            found(request)

    def asked(self, part: str) -> list[tuple[str, str, dict[str, str]]]:
        """The requests with *part* in their path."""
        return [each for each in self.requests if part in each[1]]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def reply(
    request: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    length: int | None = None,
    **headers: str,
) -> None:
    """An answer; *length* to lie about the body's."""
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.send_header("Content-Length", str(len(body) if length is None else length))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
        request.wfile.flush()
    if length is not None and length != len(body):
        request.close_connection = True


class TokenServer(Server):
    """Gives tokens for docker-registry's ``auth: token``, signed with a key of its own."""

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority
        self.answers["/token"] = self._token

    def _token(self, request: http.server.BaseHTTPRequestHandler) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(request.path).query)
        given = request.headers.get("Authorization", "").removeprefix("Basic ")
        known = base64.b64decode(given).decode() == f"{USER}:{PASSWORD}" if given else False
        if given and not known:
            reply(request, 401, b'{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}')
            return
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            allowed = [each for each in actions.split(",") if known or (each == "pull" and name.startswith("public/"))]
            access.append({"type": kind, "name": name, "actions": allowed})
        token = self._signed({"sub": USER if known else "", "access": access, "aud": query["service"][0]})
        reply(request, 200, json.dumps({"token": token, "expires_in": 300}).encode())

    def _signed(self, claims: dict[str, object]) -> str:
        now = int(time.time())
        claims |= {"iss": "pydock test", "iat": now, "nbf": now - 10, "exp": now + 300, "jti": os.urandom(8).hex()}
        chain = "".join(self._authority.certificate.read_text().split("-----")[2].split())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [chain]}

        def text(data: bytes) -> str:
            return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

        body = f"{text(json.dumps(header).encode())}.{text(json.dumps(claims).encode())}"
        return f"{body}.{text(openssl('dgst', '-sha256', '-sign', str(self._authority.key), given=body.encode()))}"


class DockerRegistry:
    """A docker-registry on a loopback *port*. *more* is added to its configuration."""

    def __init__(self, directory: Path, port: int, *, http: str = "", more: str = "") -> None:
        self.port = port
        self.host = f"127.0.0.1:{self.port}"
        self.storage = directory / f"storage-{self.port}"
        configuration = directory / f"config-{self.port}.yml"
        configuration.write_text(
            f"version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.storage}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{self.port}'{http}}}\n{more}"
        )
        self._log = directory / f"log-{self.port}"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def blobs(self) -> int:
        """How many it has."""
        return sum(1 for _ in self.storage.glob("docker/registry/v2/blobs/sha256/*/*"))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def token_server(authority: Authority) -> Iterator[TokenServer]:
    server = TokenServer(authority)
    yield server
    server.close()


@pytest.fixture(scope="session")
def registries(
    authority: Authority,
    token_server: TokenServer,
    free: Callable[[], int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], DockerRegistry]]:
    """``registries(KIND)``: the session's registry of that kind: ``plain``, ``tls``, ``basic`` (with TLS) or ``token``."""
    directory = tmp_path_factory.mktemp("registries")
    started: dict[str, DockerRegistry] = {}
    tls = f", tls: {{certificate: {authority.certificate}, key: {authority.key}}}"

    def start(kind: str) -> DockerRegistry:
        match kind:
            case "plain":
                return DockerRegistry(directory, free())
            case "tls":
                return DockerRegistry(directory, free(), http=tls)
            case "basic":
                users = directory / "htpasswd"
                users.write_bytes(
                    subprocess.run(["htpasswd", "-nbB", USER, PASSWORD], capture_output=True, check=True).stdout
                )
                return DockerRegistry(
                    directory, free(), http=tls, more=f"auth: {{htpasswd: {{realm: test, path: {users}}}}}\n"
                )
            case "token":
                realm = f"http://{token_server.host}/token"
                token = f"realm: '{realm}', service: test, issuer: pydock test, rootcertbundle: {authority.ca}"
                return DockerRegistry(directory, free(), more=f"auth: {{token: {{{token}}}}}\n")
        raise ValueError(kind)

    def get(kind: str) -> DockerRegistry:
        if kind not in started:
            started[kind] = start(kind)
        return started[kind]

    yield get
    for registry in started.values():
        registry.close()


def layer(**files: bytes) -> bytes:
    """An uncompressed layer. A name is a path with two underscores for each slash."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("__", "/"))
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


class Faulty(Server):
    """A registry with images made by hand, which may be told to answer in any other way."""

    reply = staticmethod(reply)
    layer = staticmethod(layer)

    @staticmethod
    def random(size: int) -> bytes:
        """Bytes that no compression makes fewer, the same for each size."""
        return random.Random(size).randbytes(size)

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[str, bytes] = {}  # what is answered at a path when all is well

    def answer_by_path(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """The answer to the path of a whole URL, as proxies are asked."""
        request.path = urllib.parse.urlsplit(request.path).path
        Server.answer(self, request)

    def put(self, path: str, data: bytes, kind: str = "application/octet-stream") -> str:
        """Answer *data* at *path*, by parts, too; the digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        def answer(request: http.server.BaseHTTPRequestHandler) -> None:
            begin = request.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]
            if begin:
                span = f"bytes {begin}-{len(data) - 1}/{len(data)}"
                reply(request, 206, data[int(begin) :], Content_Type=kind, Content_Range=span)
            else:
                reply(request, 200, data, Content_Type=kind)

        self.bodies[path.replace("DIGEST", digest)] = data
        self.answers[path.replace("DIGEST", digest)] = answer
        return digest

    def image(self, repository: str, tag: str, *layers: bytes, architecture: str = "amd64") -> dict[str, object]:
        """An image of *layers* (uncompressed): its manifest as a dictionary, with the digest as ``digest``."""
        base = f"/v2/{repository}"
        described, diff_ids = [], []
        for data in layers:
            packed = gzip.compress(data, 1, mtime=0)
            digest = self.put(f"{base}/blobs/DIGEST", packed)
            described.append({"mediaType": LAYER, "digest": digest, "size": len(packed)})
            diff_ids.append(f"sha256:{hashlib.sha256(data).hexdigest()}")
        config = json.dumps(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/a"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
        ).encode()
        digest = self.put(f"{base}/blobs/DIGEST", config)
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest, "size": len(config)},
            "layers": described,
        }
        return self.manifest(repository, tag, manifest)

    def manifest(self, repository: str, tag: str, manifest: dict[str, object]) -> dict[str, object]:
        """Answer *manifest* for the tag and for its digest."""
        data = json.dumps(manifest).encode()
        kind = str(manifest["mediaType"])
        digest = self.put(f"/v2/{repository}/manifests/DIGEST", data, kind)
        self.put(f"/v2/{repository}/manifests/{tag}", data, kind)
        return {**manifest, "digest": digest, "size": len(data)}


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    server = Faulty()
    server.answers["/v2/"] = lambda request: reply(request, 200)
    yield server
    server.close()


@pytest.fixture
def elsewhere() -> Iterator[Faulty]:
    """Another one, at another place."""
    server = Faulty()
    yield server
    server.close()


def forget(tree: Path, kept: set[str]) -> None:
    """Remove all images but those of these names at the top of ``images/``, and the directories that lead to them."""
    for top in (tree / "images").iterdir():
        if top.is_dir() and top.name not in kept:
            for manifest in list(top.rglob("manifest.json")):
                manifest.parent.rmdir()
            for place, _, _ in os.walk(top, topdown=False):
                os.rmdir(place)


@pytest.fixture
def leaves_no_image(engine: Engine) -> Iterator[None]:
    """What the test brings into the shared engine's images is removed after it."""
    kept = {path.name for path in (engine.tree / "images").iterdir()}
    yield
    engine.clear()
    forget(engine.tree, kept)
