"""``commit`` and ``squash``: containers as images, and what the images say."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _images_go(session_engine: Engine) -> Iterator[None]:
    """What a test has made is removed, and first its containers."""
    yield
    session_engine.clear()
    for path in (session_engine.tree / "images").glob("made:*"):
        path.rmdir()


def tell(c: Path, line: str) -> str:
    """The outcome of a command, in words, whether it is taken or not."""
    fd = os.open(c / "ctl", os.O_RDWR)
    try:
        with contextlib.suppress(OSError):
            os.write(fd, f"{line}\n".encode())
        return os.read(fd, 4096).decode().rstrip("\n")
    finally:
        os.close(fd)


def run(c: Path) -> str:
    """Its log, after a run to its end."""
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    return (c / "log").read_text()


def layers(image: Path) -> list[str]:
    return [line.split()[0] for line in (image / "layers").read_text().splitlines()]


def top_layer(engine: Engine, image: Path) -> tarfile.TarFile:
    """The last layer's blob."""
    path = engine.root / "images/blobs" / layers(image)[-1].replace(":", "/")
    return tarfile.open(fileobj=io.BytesIO(path.read_bytes()))


def left_over(engine: Engine) -> list[Path]:
    """What is half made in the store."""
    return list((engine.root / "images/tmp").iterdir())


# -- what is in an image


def test_what_a_container_has_changed_is_in_the_image(engine: Engine, tree: Path, make: Make) -> None:
    c = make(
        command='sh -c "mkdir /data; echo hi > /data/x; ln /data/x /data/y; ln -s x /data/z; rm /bin/vi; sleep 1000"'
    )
    (c / "ctl").write_text("start")
    changes = ["C /bin", "D /bin/vi", "A /data", "A /data/x", "A /data/y", "A /data/z"]
    while (c / "changes").read_text().splitlines() != changes:
        time.sleep(0.01)
    with open(tree / "events") as events:
        said = tell(c, "commit made:1 message='a first one' author=\"Some One\"")
        seen = [events.readline().split(" ", 1)[1].rstrip("\n") for _ in range(3)]
    image = tree / "images/made:1"
    identity = (image / "id").read_text().rstrip("\n")
    assert said == f"committed made:1 {identity}"
    assert seen == ["container c pause", "container c resume", f"image made:1 commit id={identity} container=c"]
    assert (c / "state").read_text() == "running\n"
    assert (image / "history").read_text().splitlines()[-1].endswith("sleep 1000' # a first one")
    assert (image / "author").read_text() == "Some One\n"
    assert layers(image)[:-1] == layers(tree / "images/busybox")
    with top_layer(engine, image) as tar:
        names = {member.name: member.type for member in tar.getmembers()}
    files = {"data/x": tarfile.REGTYPE, "data/y": tarfile.LNKTYPE, "data/z": tarfile.SYMTYPE}
    assert names == {
        "bin": tarfile.DIRTYPE,
        "bin/.wh.vi": tarfile.REGTYPE,
        "data": tarfile.DIRTYPE,
        **files,
    }
    d = make("d", image="made:1", command='sh -c "cat /data/z; stat -c %h /data/x; ls /bin/vi 2>&1"')
    assert run(d) == "hi\n2\nls: /bin/vi: No such file or directory\n"


SAYS: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "the image's own": ({}, "", {"command": "sh\n", "env": "PATH={PATH}\n"}),
    "settings": (
        {
            "command": "echo x",
            "env": "A=1\nB=2\n",
            "workdir": "/srv",
            "user": "1:2",
            "labels": "l=v\n",
            "stop_signal": "INT",
        },
        "",
        {
            "command": "echo x\n",
            "env": "A=1\nB=2\n",
            "workdir": "/srv\n",
            "user": "1:2\n",
            "labels": "l=v\n",
            "stop_signal": "SIGINT\n",
            "entrypoint": "",
        },
    ),
    "an entrypoint that is set": ({"entrypoint": "echo"}, "", {"entrypoint": "echo\n", "command": ""}),
    "an entrypoint that is told": ({"command": "x"}, "entrypoint=env", {"entrypoint": "env\n", "command": ""}),
    "an entrypoint and cmd": (
        {},
        'cmd=\'sh -c "echo 1"\' entrypoint=\'["env", "A=b c"]\'',
        {"entrypoint": "env 'A=b c'\n", "command": "sh -c 'echo 1'\n"},
    ),
    "no cmd": ({}, "cmd=", {"command": ""}),
    "a test as cmd": ({}, "cmd='[ -e /x ]'", {"command": "'[' -e /x ']'\n"}),
    "env": ({"env": "A=1\nB=2\n"}, "env=B=3 env='C=x y'", {"env": "A=1\nB=3\nC=x y\n"}),
    "labels": ({"labels": "a=1\n"}, "label=b=2 label=a=", {"labels": "a=\nb=2\n"}),
    "ports": ({}, "port=80 expose=53/udp port=80/tcp port=1000-1002", {"ports": "1000-1002/tcp\n53/udp\n80/tcp\n"}),
    "volumes": ({}, "volume=/a/ volume=/b/../c volume=/a", {"volumes": "/a\n/c\n"}),
    "a workdir": ({"workdir": "/a"}, "workdir=/b", {"workdir": "/b\n"}),
    "a workdir below": ({"workdir": "/a"}, "workdir=b/c", {"workdir": "/a/b/c\n"}),
    "a user": ({"user": "5"}, "user=nobody", {"user": "nobody\n"}),
    "no user": ({"user": "5"}, "user=", {"user": ""}),
    "a signal": ({}, "stop_signal=9", {"stop_signal": "SIGKILL\n"}),
    "a check": (
        {"health/command": "true", "health/interval": "5s"},
        "",
        {"healthcheck": "command CMD true\ninterval 5\n"},
    ),
    "no check": ({"health/command": "NONE"}, "", {"healthcheck": "command NONE\n"}),
}


@pytest.mark.parametrize(
    ("container", "process", "shown"),
    [("\n", "", "/ /"), ("", "\n", "/srv /"), ("\n", "/tmp", "/ /tmp"), ("", "", "/srv /srv")],
)
def test_a_workdir_that_is_set_empty_is_the_root(make: Make, container: str, process: str, shown: str) -> None:
    assert tell(make(), "commit made:1 workdir=/srv").startswith("committed made:1 sha256:")
    c = make("d", image="made:1", command="sh -c 'pwd; read line'", workdir=container)
    x = c / "exec/x"
    (c / "ctl").write_text("start")
    x.mkdir()
    (x / "command").write_text("pwd")
    (x / "workdir").write_text(process)
    (x / "ctl").write_text("start")
    (x / "wait").read_text()
    (c / "stdin").write_text("\n")
    (c / "wait").read_text()
    assert f"{(c / 'log').read_text()}{(x / 'log').read_text()}".split() == shown.split()


@pytest.mark.parametrize("case", list(SAYS))
def test_what_the_image_says(tree: Path, make: Make, case: str) -> None:
    settings, keys, wanted = SAYS[case]
    c = make(**settings)
    assert tell(c, f"commit made:1 {keys}").startswith("committed made:1 sha256:")
    image = tree / "images/made:1"
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    found = {name: (image / name).read_text() if (image / name).exists() else None for name in wanted}
    if "stop_signal" in wanted:
        config = json.loads((image / "config.json").read_text())["config"]
        found["stop_signal"] = config["StopSignal"] + "\n"
    assert found == {name: text.replace("{PATH}", path) for name, text in wanted.items()}


REFUSED: dict[str, tuple[str, int, str]] = {
    "nothing": ("commit", errno.EINVAL, "commit takes a reference"),
    "a bad reference": ("commit Made:1", errno.EINVAL, "'Made' is not part of a name"),
    "a digest": (f"commit made@sha256:{'0' * 64}", errno.EINVAL, "its digest is found out"),
    "a key with a slip": ("commit made:1 mesage=x", errno.EINVAL, "did you mean message=…?"),
    "a word": ("commit made:1 x", errno.EINVAL, '"x" is not KEY=VALUE'),
    "another key": ("commit made:1 qqq=1", errno.EINVAL, "message, author, cmd"),
    "a key twice": ("commit made:1 user=1 user=2", errno.EINVAL, "user is given 2 times"),
    "env without a value": ("commit made:1 env=A", errno.EINVAL, "is not NAME=VALUE"),
    "a port": ("commit made:1 port=0", errno.EINVAL, 'port: "0" is not PORT'),
    "ports": ("commit made:1 port=9-8", errno.EINVAL, 'port: "9-8" is not PORT'),
    "a protocol": ("commit made:1 expose=9/icmp", errno.EINVAL, 'port: "9/icmp" is not PORT'),
    "a volume": ("commit made:1 volume=data", errno.EINVAL, 'volume: "data" is not an absolute path'),
    "a signal": ("commit made:1 stop_signal=SIGNO", errno.EINVAL, "SIGNO"),
    "a user": ("commit made:1 user=a:b:c", errno.EINVAL, "is not a user"),
    "an array without its quotes": (
        'commit made:1 cmd=["x","y"]',
        errno.EINVAL,
        """cmd: "[x,y]" is no JSON array: one is written in quotes, 'cmd=["x","y"]'""",
    ),
    "an entrypoint without its quotes": (
        'commit made:1 entrypoint=["x"]',
        errno.EINVAL,
        """'entrypoint=["x","y"]'""",
    ),
    "an array that is none": ("commit made:1 'cmd=[\"x\", 1]'", errno.EINVAL, "is not a JSON array of strings"),
    "pause": ("commit made:1 pause=maybe", errno.EINVAL, "neither 0 nor 1"),
    "a quote": ("commit made:1 message='x", errno.EINVAL, "not a line of shell words"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_a_commit_that_is_refused_says_why_and_makes_nothing(
    tree: Path, make: Make, errno_of: Callable[[Path, str], int], case: str
) -> None:
    line, number, words = REFUSED[case]
    c = make()
    assert errno_of(c / "ctl", line) == number
    assert words in (c / "error").read_text()
    assert not (tree / "images/made:1").exists()


def test_a_container_that_has_never_run_is_its_image_again(tree: Path, make: Make) -> None:
    c = make()
    tell(c, "commit made:1")
    image = tree / "images/made:1"
    assert layers(image) == layers(tree / "images/busybox")
    assert len((image / "history").read_text().splitlines()) == 2
    assert (c / "state").read_text() == "created\n"


def test_a_run_that_changes_nothing_makes_no_layer(tree: Path, make: Make) -> None:
    (tree / "volumes/made").mkdir()
    try:
        c = make(command="true", volumes="made:/vol/ume\n/etc:/etc/machine:ro\n", tmpfs="/tm/p\n", init="1")
        (c / "secrets/word").write_text("hush")
        assert run(c) == ""
        tell(c, "commit made:1")
        assert layers(tree / "images/made:1") == layers(tree / "images/busybox")
        c.rmdir()
    finally:
        (tree / "volumes/made").rmdir()


def test_nothing_of_volumes_secrets_and_kernel_is_in_it(engine: Engine, tree: Path, make: Make) -> None:
    (tree / "volumes/made").mkdir()
    try:
        script = "echo kept > /etc/kept; echo lost > /vol/lost; echo lost > /tm/lost; echo lost > /run/lost"
        c = make(command=f"sh -c '{script}'", volumes="made:/vol\n", tmpfs="/tm\n/run\n")
        (c / "secrets/word").write_text("hush")
        run(c)
        tell(c, "commit made:1")
        image = tree / "images/made:1"
        with top_layer(engine, image) as tar:
            assert tar.getnames() == ["etc", "etc/kept"]
        assert "hush" not in (image / "config.json").read_text()
        c.rmdir()
    finally:
        (tree / "volumes/made").rmdir()


def test_the_same_changes_are_the_same_layer(tree: Path, make: Make) -> None:
    c = make(command="touch /x")
    run(c)
    tell(c, "commit made:1")
    tell(c, "commit made:2")
    assert layers(tree / "images/made:1") == layers(tree / "images/made:2")


def test_a_directory_that_is_an_image_becomes_the_first_layer(
    engine: Engine, tree: Path, make: Make, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/sh").chmod(0o755)
    (root / "old").write_text("old\n")
    c = make(image=str(root), command="sh -c 'echo new > /new'")
    run(c)
    assert tell(c, "commit made:1 cmd='sh -c \"while read x; do echo $x; done < /new\"'").startswith("committed")
    image = tree / "images/made:1"
    assert len(layers(image)) == 2
    assert "all of /" in (image / "history").read_text()
    assert run(make("d", image="made:1")) == "new\n"
    assert sorted(os.listdir(image / "rootfs")) == ["bin", "new", "old"]


def test_the_machine_is_no_image(tree: Path, make: Make, errno_of: Callable[[Path, str], int]) -> None:
    c = make(image="host")
    assert errno_of(c / "ctl", "commit made:1") == errno.EOPNOTSUPP
    assert "the machine's own /usr" in (c / "error").read_text()


def test_a_container_without_an_image_can_t_be_one(tree: Path, errno_of: Callable[[Path, str], int]) -> None:
    c = tree / "containers/c"
    c.mkdir()
    assert errno_of(c / "ctl", "commit made:1") == errno.EINVAL
    assert "write one into image first" in (c / "error").read_text()


def test_owners_are_the_container_s_own_numbers(tree: Path, make: Make) -> None:
    c = make(userns="auto", command="sh -c 'touch /x; chown 1000:7 /x'")
    run(c)
    tell(c, "commit made:1")
    assert run(make("d", image="made:1", command="stat -c '%u %g' /x")) == "1000 7\n"


def test_images_take_names_from_those_below_them(engine: Engine, tree: Path, make: Make) -> None:
    """The usual way to go on working: the image under a container loses its name to the one that is made of it, again and again."""
    tell(make(), "commit made:1 port=80")
    c = make("c2", image="made:1", command="sh -c 'echo x >> /x'")
    for count in (1, 2, 3):
        run(c)
        assert tell(c, "commit made:1").startswith("committed")
        assert len(layers(tree / "images/made:1")) == 2
        d = make(f"d{count}", image="made:1", command="cat /x")
        assert run(d) == "x\n" * count
        assert (tree / "images/made:1/ports").read_text() == "80/tcp\n"
    (tree / "images/made:1").rename(tree / "images/made:2")
    tell(make("e"), "commit made:2")  # and now nothing has those layers any more
    assert tell(c, "commit made:3").startswith("committed")
    assert run(make("f", image="made:3", command="cat /x")) == "x\n" * 3


# -- while it runs


@pytest.fixture
def busy(make: Make, tree: Path) -> Path:
    """A container that counts, and whose writable layer takes a while to read."""
    script = "dd if=/dev/urandom of=/big bs=1M count=60 2> /dev/null; while true; do echo x >> /count; done"
    c = make(command=f"sh -c '{script}'")
    (c / "ctl").write_text("start")
    while "A /count" not in (c / "changes").read_text():
        time.sleep(0.01)
    return c


def count(c: Path) -> int:
    return os.stat(os.path.join(os.readlink(c / "rootfs"), "count")).st_size


def goes_on(c: Path) -> bool:
    before, deadline = count(c), time.monotonic() + 60
    while count(c) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return (c / "state").read_text() == "running\n"


def until(events: io.TextIOWrapper, words: str) -> None:
    while words not in events.readline():
        pass


@contextlib.contextmanager
def stopped_reader() -> Iterator[None]:
    """The process that reads a writable layer stands still within; returns once there is one."""
    pid = reader()
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def reader() -> int:
    """Its number, stopped."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if b"pydock.overlay.diff" in (path / "cmdline").read_bytes():
                    os.kill(int(path.name), signal.SIGSTOP)
                    return int(path.name)
    raise AssertionError("nothing is read")


def committing(c: Path, line: str = "commit made:1") -> subprocess.Popen[bytes]:
    """A shell that commits."""
    return subprocess.Popen(["/bin/sh", "-c", 'exec printf "%s\\n" "$1" > "$2"', "sh", line, str(c / "ctl")], stderr=-3)


def test_it_is_paused_while_it_is_read(busy: Path, tree: Path) -> None:
    with open(tree / "events") as events:
        shell = committing(busy)
        until(events, "container c pause")
        with stopped_reader():
            assert (busy / "state").read_text() == "paused\n"
            before = count(busy)
            time.sleep(0.1)
            assert count(busy) == before
        until(events, "container c resume")
    assert shell.wait(60) == 0
    assert goes_on(busy)


def test_it_goes_on_with_pause_0(busy: Path, tree: Path) -> None:
    with open(tree / "events") as events:
        assert tell(busy, "commit made:1 pause=0").startswith("committed")
        line = events.readline()
    assert "image made:1 commit" in line
    assert goes_on(busy)


def test_what_is_paused_already_stays_so(busy: Path, tree: Path) -> None:
    (busy / "ctl").write_text("pause")
    assert tell(busy, "commit made:1").startswith("committed")
    assert (busy / "state").read_text() == "paused\n"
    before = count(busy)
    time.sleep(0.2)
    assert count(busy) == before
    (busy / "ctl").write_text("resume")
    assert goes_on(busy)


def test_a_signal_ends_it_and_nothing_is_left(engine: Engine, busy: Path, tree: Path) -> None:
    with open(tree / "events") as events:
        shell = committing(busy)
        until(events, "container c pause")
        with stopped_reader():
            shell.send_signal(signal.SIGTERM)
            until(events, "container c resume")
    assert shell.wait(60) != 0
    assert goes_on(busy)
    assert not (tree / "images/made:1").exists()
    deadline = time.monotonic() + 60
    while left_over(engine):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_commands_come_after_it_and_commits_after_one_another(busy: Path, tree: Path) -> None:
    shells = [committing(busy, f"commit made:{number}") for number in (1, 2)]
    with open(tree / "events") as events:
        shells.append(committing(busy, "stop 0"))
        until(events, "container c stop")
    assert [shell.wait(60) for shell in shells] == [0, 0, 0]
    assert (busy / "state").read_text() == "exited\n"
    for number in (1, 2):
        assert {"big", "count"} <= set(os.listdir(tree / f"images/made:{number}/rootfs"))


def test_what_is_killed_meanwhile_is_an_image_nevertheless(busy: Path, tree: Path) -> None:
    with open(tree / "events") as events:
        shell = committing(busy)
        until(events, "container c pause")
        with stopped_reader():
            (busy / "ctl").write_text("kill")
            with pytest.raises(OSError, match="busy"):
                busy.rmdir()
            assert "c is being committed" in (tree / "errors").read_text().splitlines()[-1]
    assert shell.wait(60) == 0
    assert (busy / "state").read_text() == "exited\n"
    assert (busy / "exit_code").read_text() == "137\n"
    assert "big" in os.listdir(tree / "images/made:1/rootfs")


def test_whoever_asks_for_a_resume_meanwhile_gets_it(busy: Path, tree: Path) -> None:
    outcomes: list[str] = []
    with open(tree / "events") as events:
        shell = committing(busy)
        until(events, "container c pause")
        thread = threading.Thread(target=lambda: outcomes.append(tell(busy, "resume")))
        with stopped_reader():
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
        thread.join(60)
    assert shell.wait(60) == 0
    assert outcomes == ["resumed"]
    assert goes_on(busy)


def test_an_engine_that_is_killed_meanwhile_leaves_nobody_paused(own_engine: Engine) -> None:
    script = "dd if=/dev/urandom of=/big bs=1M count=60 2> /dev/null; while true; do echo x >> /count; done"
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text(f"sh -c '{script}'")
    (c / "ctl").write_text("start")
    while "A /count" not in (c / "changes").read_text():
        time.sleep(0.01)
    with open(own_engine.tree / "events") as events:
        shell = committing(c)
        until(events, "container c pause")
    with stopped_reader():
        own_engine.kill()
    assert shell.wait(60) != 0
    own_engine.start()
    assert goes_on(c)
    assert left_over(own_engine) == []
    assert not (own_engine.tree / "images/made:1").exists()
    assert tell(c, "commit made:1").startswith("committed")
    assert goes_on(c)
    (c / "ctl").write_text("kill")
    c.rmdir()
    (own_engine.tree / "images/made:1").rmdir()


def test_a_full_disk_ends_it_in_words(small_engine: Engine, errno_of: Callable[[Path, str], int]) -> None:
    c = small_engine.tree / "containers/c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "command").write_text(
        "sh -c 'dd if=/dev/urandom of=/big bs=1M count=12 2> /dev/null; touch /done; sleep 1000'"
    )
    (c / "ctl").write_text("start")
    while not any(path == "/done" for path in (c / "changes").read_text().split()):
        time.sleep(0.01)
    assert errno_of(c / "ctl", "commit made:1") == errno.ENOSPC
    assert (c / "state").read_text() == "running\n"
    assert left_over(small_engine) == []
    assert sorted(path.name for path in (small_engine.tree / "images").iterdir() if path.is_dir()) == ["busybox:latest"]


# -- squash


@pytest.fixture
def layered(tree: Path, make: Make) -> Path:
    """An image of three layers, with waste."""
    scripts = ("rm /bin/vi; mkdir -p /d/e; echo 1 > /d/e/f; ln /d/e/f /g", "rm -r /d; mkdir /d; echo 2 > /d/h")
    below = "busybox"
    for number, script in enumerate(scripts):
        c = make(f"layer{number}", image=below, command=f"sh -c '{script}'")
        run(c)
        tell(c, f"commit made:{number} cmd='cat /d/h' env=A=1 message=step{number}")
        c.rmdir()
        below = f"made:{number}"
    return tree / "images/made:1"


def test_squash_makes_one_layer_of_what_is_seen(tree: Path, make: Make, layered: Path) -> None:
    assert len(layers(layered)) == 3
    assert not (layered / "waste").read_text().endswith("\n0 total\n")
    said = tell(layered, "squash made:flat")
    flat = tree / "images/made:flat"
    assert said == f"squashed made:flat {(flat / 'id').read_text().strip()}"
    assert len(layers(flat)) == 1
    assert (flat / "waste").read_text() == "0 total\n"
    for name in ("command", "env", "architecture", "os"):
        assert (flat / name).read_text() == (layered / name).read_text()
    history = [line.split(" ", 2) for line in (flat / "history").read_text().splitlines()]
    assert [line[0] for line in history[:-1]] == ["0"] * 3
    assert history[-1][2] == "squash # 3 layers of made:1 as one"
    assert "step1" in history[2][2]
    before, after = (
        subprocess.run(["tar", "-C", path / "rootfs/", "-cf", "-", "."], capture_output=True, check=True).stdout
        for path in (layered, flat)
    )
    with tarfile.open(fileobj=io.BytesIO(before)) as one, tarfile.open(fileobj=io.BytesIO(after)) as other:
        facts = [
            {m.name: (m.type, m.mode, m.uid, m.gid, m.size, m.linkname) for m in tar.getmembers()}
            for tar in (one, other)
        ]
    assert facts[0] == facts[1]
    assert run(make("d", image="made:flat")) == "2\n"


def test_squash_of_a_single_layer_is_a_name(tree: Path) -> None:
    assert tell(tree / "images/busybox", "squash made:1").startswith("squashed made:1 sha256:")
    assert (tree / "images/made:1/id").read_text() == (tree / "images/busybox/id").read_text()


def test_squash_that_is_refused(tree: Path, errno_of: Callable[[Path, str], int]) -> None:
    ctl = tree / "images/busybox/ctl"
    assert errno_of(ctl, "squash") == errno.EINVAL
    assert errno_of(ctl, "squash Made:1") == errno.EINVAL
    assert errno_of(ctl, f"squash made@sha256:{'0' * 64}") == errno.EINVAL


# -- other engines, and a real system


def test_others_take_what_is_made_here(engine: Engine, tree: Path, make: Make, layered: Path, tmp_path: Path) -> None:
    store = engine.root / "images"
    tell(layered, "squash made:flat")
    for name in ("made:1", "made:flat"):
        source = f"{store}:docker.io/library/{name}"
        told = json.loads(
            subprocess.run(["skopeo", "inspect", f"oci:{source}"], capture_output=True, check=True).stdout
        )
        assert told["Layers"] == layers(tree / "images" / name)
        archive = f"docker-archive:{tmp_path}/{name.replace(':', '-')}.tar:{name}"
        subprocess.run(["skopeo", "copy", "-q", "--insecure-policy", f"oci:{source}", archive], check=True)
        bundle = tmp_path / name.replace(":", "-")
        subprocess.run(["umoci", "unpack", "--image", source, bundle], check=True, capture_output=True)
        root = bundle / "rootfs"
        assert (root / "d/h").read_text() == "2\n"
        assert (root / "g").read_text() == "1\n"
        assert sorted(os.listdir(root / "d")) == ["h"]
        assert not (root / "bin/vi").exists()


def test_a_package_is_installed_in_debian_and_the_image_of_that_runs(
    engine: Engine, tree: Path, make: Make, debian: str, tmp_path: Path
) -> None:
    package = tmp_path / "hello"
    (package / "DEBIAN").mkdir(parents=True)
    control = (
        "Package: hello-pydock\nVersion: 1\nArchitecture: all\nMaintainer: none <none@example>\nDescription: says so\n"
    )
    (package / "DEBIAN/control").write_text(control)
    script = package / "DEBIAN/postinst"
    script.write_text(
        "#!/bin/sh -e\nuseradd -r hello\ninstall -d -o hello -m 2750 /var/lib/hello\nrm /usr/share/hello/spare\n"
    )
    script.chmod(0o755)
    for name, text in (
        ("usr/bin/hello-pydock", "#!/bin/sh\ncat /usr/share/hello/words\n"),
        ("usr/share/hello/words", "hello\n"),
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "usr/share/hello/spare").touch()
    (package / "usr/bin/hello-pydock").chmod(0o755)
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", package, tmp_path / "hello.deb"], check=True, capture_output=True
    )
    c = make(image=debian, command="dpkg -i /pkg/hello.deb", volumes=f"{tmp_path}:/pkg:ro\n")
    log = run(c)
    assert (c / "exit_code").read_text() == "0\n", log
    assert tell(c, "commit made:1 cmd=hello-pydock message='with hello'").startswith("committed"), (
        c / "error"
    ).read_text()
    assert run(make("d", image="made:1")) == "hello\n"
    e = make(
        "e",
        image="made:1",
        command="sh -c 'stat -c \"%U %a\" /var/lib/hello; dpkg -s hello-pydock; ls /usr/share/hello'",
    )
    said = run(e).splitlines()
    assert (said[0], said[2], said[-1]) == ("hello 2750", "Status: install ok installed", "words")
