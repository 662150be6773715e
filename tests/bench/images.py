"""Images beside podman and skopeo: pull, push, load, save, commit, of 80 MB compressed in six layers of 8,000 files.

All stores are on one tmpfs, as a disk's journal takes longer than any of them. skopeo unpacks nothing: it is the limit, not a peer.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import random
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engine import Engine, put
from timing import alternate, rows, timed

_LAYERS: Final = 6
_FILES: Final = 1344  # a layer
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
_REF: Final = "org.opencontainers.image.ref.name"


def _layer(number: int, material: bytes) -> bytes:
    """A tar of files that compress to half: a third of each is random, the rest is of some program."""
    dice, out = random.Random(number), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for index in range(_FILES):
            size = int(dice.paretovariate(1.1) * 5000) % 330_000
            begin = dice.randrange(len(material) - size)
            data = material[begin : begin + size - size // 3] + dice.randbytes(size // 3)
            member = tarfile.TarInfo(f"srv/layer{number}/{index % 14}/{index}")
            member.size, member.mode, member.mtime = size, 0o644, 1_700_000_000
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Layout:
    """An OCI layout with two images, ``1`` and ``2``, that differ in the top layer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blobs = path / "blobs/sha256"
        self._blobs.mkdir(parents=True)
        material = b"".join(
            each.read_bytes() for each in sorted(Path("/usr/lib").rglob("*.so*"))[:400] if each.is_file()
        )[: 64 << 20]
        packed = []
        for number in range(_LAYERS + 1):
            plain = _layer(number, material)
            packed.append((self._put(gzip.compress(plain, 6, mtime=0)), hashlib.sha256(plain).hexdigest()))
        self.bytes = sum(int(str(each["size"])) for each, _ in packed[:_LAYERS])
        manifests = [self._image(packed[:_LAYERS], "1"), self._image([*packed[: _LAYERS - 1], packed[_LAYERS]], "2")]
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))

    def _put(self, data: bytes) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (self._blobs / name).write_bytes(data)
        return {"digest": f"sha256:{name}", "size": len(data)}

    def _image(self, layers: list[tuple[dict[str, object], str]], name: str) -> dict[str, object]:
        diff_ids = [f"sha256:{plain}" for _, plain in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, **self._put(json.dumps(config).encode())},
            "layers": [{"mediaType": _LAYER, **blob} for blob, _ in layers],
        }
        return {"mediaType": _MANIFEST, "annotations": {_REF: name}, **self._put(json.dumps(manifest).encode())}


class Registry:
    """Debian's docker-registry on a loopback port, which may be emptied."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{found.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        storage, configuration = self._directory / "registry", self._directory / "registry.yml"
        configuration.write_text(
            f"version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n"
            f"storage: {{filesystem: {{rootdirectory: {storage}}}}}\nhttp: {{addr: '{self.host}'}}\n"
        )
        words = ["docker-registry", "serve", str(configuration)]
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host, _, port = self.host.partition(":")
        while True:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    return
            time.sleep(0.01)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)

    def empty(self) -> None:
        self.stop()
        shutil.rmtree(self._directory / "registry", ignore_errors=True)
        self.start()


class Peer:
    """A program with a store of its own; *command* is its beginning."""

    def __init__(self, *command: str) -> None:
        self._command = command

    def __call__(self, *words: str | Path, check: bool = True) -> str:
        done = subprocess.run(
            [*self._command, *map(str, words)], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()


class Images:
    """The measurements. *place* is on the tmpfs."""

    def __init__(self, engine: Engine, place: Path, rounds: int) -> None:
        self._engine = engine
        self._place = place
        self._rounds = max(3, rounds // 3)
        self._layout = Layout(place / "layout")
        self._registry = Registry(place)
        self._big = f"{self._registry.host}/big"
        store = ("--root", f"{place}/podman", "--runroot", f"{place}/podman-run", "--storage-driver", "overlay")
        self._podman = Peer("podman", *store, "--cgroup-manager", "cgroupfs", "--events-backend", "none")
        self._skopeo = Peer("skopeo", "--tmpdir", str(place))

    # what each does

    def _ours(self, verb: str, *, at: str = "") -> float:
        return put(self._engine.tree / "images" / at / "ctl", verb)

    def _forget(self, tag: str) -> None:
        path = self._engine.tree / "images" / self._big.partition("/")[0] / f"big:{tag}"
        if path.is_dir():
            path.rmdir()
        (self._engine.tree / "ctl").write_text("gc")
        self._podman("rmi", "-f", f"{self._big}:{tag}", check=False)
        shutil.rmtree(self._place / "skopeo", ignore_errors=True)

    def _podman_pull(self, tag: str) -> None:
        self._podman("pull", "-q", "--tls-verify=false", f"{self._big}:{tag}")

    def _skopeo_copy(self, source: str, target: str) -> None:
        insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
        self._skopeo("copy", "-q", *insecure, source, target)

    def _each(self, tag: str, **actions: Callable[[], float]) -> dict[str, Callable[[], float]]:
        """*actions*, each on stores that have not got the image of that *tag*."""

        def fresh(action: Callable[[], float]) -> Callable[[], float]:
            def run() -> float:
                self._forget(tag)
                return action()

            return run

        return {name: fresh(action) for name, action in actions.items()}

    # the rows

    def run(self) -> None:
        """All of them."""
        print(f"an image of {self._layout.bytes / 1e6:.0f} MB compressed, {_LAYERS} layers, {_LAYERS * _FILES} files")
        self._registry.start()
        try:
            registry = self._engine.tree / "registries" / self._registry.host
            registry.mkdir()
            (registry / "insecure").write_text("1")
            self._seed()
            self._pulls()
            self._pushes()
            self._archives()
            self._commits()
            registry.rmdir()
        finally:
            self._registry.stop()

    def _seed(self) -> None:
        for tag in ("1", "2"):
            self._skopeo_copy(f"oci:{self._layout.path}:{tag}", f"docker://{self._big}:{tag}")

    def _pulls(self) -> None:
        skopeo = self._place / "skopeo"
        cold = self._each(
            "1",
            **{
                "pydock pull": lambda: self._ours(f"pull {self._big}:1"),
                "podman pull": lambda: timed(lambda: self._podman_pull("1")),
                "skopeo copy": lambda: timed(lambda: self._skopeo_copy(f"docker://{self._big}:1", f"oci:{skopeo}:1")),
            },
        )
        title = "pull of an image that is not there"
        rows(title, alternate(self._rounds, warmup=1, **cold), "1/2 of docker's, below podman's")
        self._ours(f"pull {self._big}:1")
        self._podman_pull("1")
        changed = self._each(
            "2",
            **{
                "pydock pull": lambda: self._ours(f"pull {self._big}:2"),
                "podman pull": lambda: timed(lambda: self._podman_pull("2")),
            },
        )
        title = "pull of an image whose top layer has changed"
        rows(title, alternate(self._rounds, warmup=1, **changed), "below podman's")

    def _pushes(self) -> None:
        def empty(action: Callable[[], float]) -> Callable[[], float]:
            def run() -> float:
                self._registry.empty()
                return action()

            return run

        at = f"{self._big}:1"
        actions: dict[str, Callable[[], float]] = {
            "pydock push": empty(lambda: self._ours("push", at=at)),
            "podman push": empty(lambda: timed(lambda: self._podman("push", "-q", "--tls-verify=false", at))),
            "skopeo copy": empty(
                lambda: timed(lambda: self._skopeo_copy(f"oci:{self._layout.path}:1", f"docker://{at}"))
            ),
        }
        rows("push to a registry that has nothing", alternate(self._rounds, warmup=1, **actions), "below podman's")

    def _archives(self) -> None:
        archive, out = self._place / "image.tar", self._place / "out.tar"
        self._skopeo_copy(f"oci:{self._layout.path}:1", f"docker-archive:{archive}:{self._big}:1")
        skopeo = self._place / "skopeo"
        self._forget("2")  # whose layers are the same but for one
        loads = self._each(
            "1",
            **{
                "pydock cp": lambda: timed(lambda: shutil.copyfile(archive, self._engine.tree / "images/image.tar")),
                "podman load": lambda: timed(lambda: self._podman("load", "-q", "-i", archive)),
                "skopeo copy": lambda: timed(lambda: self._skopeo_copy(f"docker-archive:{archive}", f"oci:{skopeo}:1")),
            },
        )
        rows("load of a docker-archive", alternate(self._rounds, warmup=1, **loads), "below podman's")
        self._forget("1")
        self._ours(f"pull {self._big}:1")
        self._podman_pull("1")
        own = self._engine.tree / "images" / f"{self._big}:1" / "archive.tar"

        def saved(action: Callable[[], object]) -> Callable[[], float]:
            def run() -> float:
                out.unlink(missing_ok=True)
                return timed(action)

            return run

        saves = {
            "pydock cp": saved(lambda: shutil.copyfile(own, out)),
            "podman save": saved(lambda: self._podman("save", "-q", "-o", out, f"{self._big}:1")),
            "skopeo copy": saved(
                lambda: self._skopeo_copy(f"oci:{self._layout.path}:1", f"docker-archive:{out}:{self._big}:1")
            ),
        }
        rows("save of an archive", alternate(self._rounds, warmup=1, **saves), "below podman's")

    def _commits(self) -> None:
        files = self._place / "files"
        files.mkdir()
        subprocess.run(["tar", "-x", "-C", files], input=_layer(100, bytes(1 << 20)), check=True)
        c = self._engine.tree / "containers/c"
        c.mkdir()
        (c / "image").write_text(f"{self._big}:1")
        (c / "network").write_text("none")
        subprocess.run(["cp", "-a", f"{files}/.", f"{c}/rootfs/"], check=True)
        theirs = self._podman("create", f"{self._big}:1")
        self._podman("cp", f"{files}/.", f"{theirs}:/")

        def ours() -> float:
            with contextlib.suppress(FileNotFoundError):
                (self._engine.tree / "images/committed:1").rmdir()
            (self._engine.tree / "ctl").write_text("gc")
            return put(c / "ctl", "commit committed:1")

        def podman() -> float:
            self._podman("rmi", "-f", "localhost/committed:1", check=False)
            return timed(lambda: self._podman("commit", "-q", theirs, "committed:1"))

        title = f"commit of {_FILES} changed files"
        rows(
            title,
            alternate(self._rounds, warmup=1, **{"pydock commit": ours, "podman commit": podman}),
            "below podman's",
        )
        c.rmdir()
        (self._engine.tree / "images/committed:1").rmdir()
        self._podman("rm", "-f", theirs)
