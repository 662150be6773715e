"""What a setting refuses: the errno, one line of words, and nothing changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
EINVAL, ENOENT = errno.EINVAL, errno.ENOENT


class Setting(NamedTuple):
    """A setting: a value to be there before, and what it refuses, with another errno than EINVAL where that is so."""

    good: str
    bad: tuple[str | tuple[str, int], ...]
    live: bool = False


BOOLEAN = ("yes", "true", "2", "-1", "01", "1 1", "", " ", "0\n1")
SIZE = ("many", "-1", "1.5G", "12X", "1 M", "9" * 30, "9" * 5000, "16777216T", "64M\n64M", "0x10", "٣")

SETTINGS = {
    "image": Setting(
        "busybox:latest\n",
        (
            ("no-such-image", ENOENT),
            ("busybox:no-such-tag", ENOENT),
            ("/no/such/directory", ENOENT),
            ("/etc/passwd/x", ENOENT),
            "BusyBox",
            "a b",
            "./relative",
            "busybox:latest\nbusybox:latest",
            "x" * 300,
        ),
    ),
    "command": Setting(
        "sleep 1\n", ("'not closed", '"', "a\\", '["a", 1]', '["a"', '{"a": 1}\n[]', "a\nb", '["a",' + "[" * 60_000)
    ),
    "entrypoint": Setting("/bin/sh\n", ("'not closed", '["a", null]', "a\nb")),
    "env": Setting("A=1\n", ("A", "=1", " =1", ("-NOT_THERE", ENOENT))),
    "workdir": Setting("/tmp\n", ("relative", "../x", "/" + "x" * 5000, "/a\n/b", " ")),
    "user": Setting(
        "1:2\n", ("a b", "a:b:c", ":", "4294967295", "9" * 5000, "-1", "0:-1", "a/b", "u" * 65, "root\nroot")
    ),
    "hostname": Setting("box\n", ("-a", "a-", "a b", "a_b", "h" * 65, "a\nb", "ä")),
    "labels": Setting("a=1\n", ("=1", "a b=1", ("-b", ENOENT))),
    "tty": Setting("0\n", BOOLEAN),
    "restart": Setting(
        "on-failure:3\n",
        (
            "",
            "yes",
            "Always",
            "always:1",
            "on-failure:",
            "on-failure:-1",
            "on-failure:x",
            "on-failure:" + "9" * 10,
            "no\nalways",
        ),
        live=True,
    ),
    "stop_signal": Setting(
        "SIGINT\n",
        ("", "SIG", "NOPE", "0", "65", "-9", "9" * 5000, "²", "٣", "RTMIN+99", "TERM\nINT", "TERM INT"),
        live=True,
    ),
    "stop_timeout": Setting(
        "2.5\n",
        ("", "soon", "-1", "1y", "1 s s", "1e3", "9" * 12, "9" * 5000, "9000h", "inf", "nan", "1\n2"),
        live=True,
    ),
    "readonly": Setting("1\n", BOOLEAN),
    "autoremove": Setting("0\n", BOOLEAN),
    "privileged": Setting("1\n", BOOLEAN),
    "no_new_privileges": Setting("1\n", BOOLEAN),
    "capabilities": Setting("CAP_CHOWN\n", ("NOPE", "CAP_", "1", "CHOWN KILL", ("-NET_ADMIN", ENOENT))),
    "seccomp": Setting("unconfined\n", ("Default", "relative.json", "a\nb", "/etc/passwd", ("/no/such/file", ENOENT))),
    "devices": Setting(
        "/dev/null:/dev/null:rwm\n",
        ("null", "/dev/null:relative", "/dev/null:/dev/x:q", "/etc", ("/dev/no-such", ENOENT)),
    ),
    "ulimits": Setting(
        "nofile=10:20\n",
        ("nofile", "nofile=", "nope=1", "nofile=2:1", "nofile=-2", "nofile=x", "nofile=" + "9" * 30, "core=1:2:3"),
    ),
    "sysctls": Setting(
        "kernel.msgmax=8192\n", ("kernel.msgmax", "kernel.msgmax=", "kernel.panic=1", "../x=1", "vm.swappiness=1")
    ),
    "tmpfs": Setting(
        "/t\n", ("t", "/", "/a/../b", "/t:size=many", "/t:size=-1", "/t:mode=9", "/t:nope", "/t:uid=x", "/proc/1")
    ),
    "shm_size": Setting("1048576\n", (*SIZE, "", "0", "max")),
    "volumes": Setting(
        "/usr:/u:ro\n",
        (
            "x",
            ":/x",
            "/usr:/proc",
            "/usr:/proc/sys/net",
            "/usr",
            "/usr:relative",
            "/usr:/",
            "/usr:/x:nope",
            "/usr:/a/../b",
            ("name:/x", ENOENT),
            ("/no/such:/x", ENOENT),
            "a/b:/x",
            ".name:/x",
            ("-/u2", ENOENT),
        ),
        live=True,
    ),
    "network": Setting(
        "none\n",
        (("nope", ENOENT), ("bridge0", ENOENT), "host none", "bridge ip=x", "container:bad", ("-host", ENOENT)),
        live=True,
    ),
    "ports": Setting(
        "8080:80\n",
        (
            "80",
            "x:80",
            "65536:80",
            "0-1:80-81",
            "8001-8000:1-2",
            "1-3:80-81",
            "1.2.3:80:80",
            "80:80/icmp",
            ("-9:9", ENOENT),
        ),
        live=True,
    ),
    "dns": Setting("10.0.0.53\n", ("x", "1.2.3", "10.0.0.53 x", "10.0.0.0/8", ("-10.0.0.54", ENOENT)), live=True),
    "hosts": Setting(
        "db 10.0.0.5\n", ("db", "db x", "a b 10.0.0.5", "d_.-b 10.0.0.5", ("-x 10.0.0.6", ENOENT)), live=True
    ),
    "log_max": Setting("65536\n", (*SIZE, "", "8191", "0"), live=True),
    "pid_mode": Setting(
        "host\n", ("Host", "none", "container:", "container:bad", "a\nb", ("container:nobody", ENOENT))
    ),
    "ipc_mode": Setting("none\n", ("None", "container:", "container:bad", "host host", ("container:nobody", ENOENT))),
    "uts_mode": Setting("host\n", ("Host", "none", "container:bad", "host\nhost")),
    "userns": Setting(
        "1:2:3\n", ("private", "1:2", "1:2:0", "1:2:3:4", "-1:2:3", "1:2:4294967295", "9" * 5000, "1:2:٣", "auto auto")
    ),
    "init": Setting("1\n", BOOLEAN),
    "systemd": Setting("1\n", BOOLEAN),
    "oom_score_adj": Setting("100\n", ("", "1001", "-1001", "1.5", "9" * 5000, "1_0", "٣", "1 2", "max"), live=True),
}

_TIME = ("", "soon", "-1", "1y", "1 s", "1e3", "9" * 12, "9" * 5000, "9000h", "inf", "1\n2")

#: Those of the health check.
HEALTH = {
    "command": Setting("true\n", ("'not closed", '["a", 1]', "a\nb", "CMD", "CMD-SHELL", "CMD-SHELL ''")),
    "interval": Setting("0.02\n", (*_TIME, "0", "0.5ms")),
    "timeout": Setting("5\n", (*_TIME, "0", "1us")),
    "retries": Setting("2\n", ("", "0", "-1", "1.5", "many", "1000001", "9" * 5000, "1 2", "1\n2", "٣")),
    "start_period": Setting("0\n", _TIME),
}

#: cgroup v2's files; what the kernel lacks has nothing to refuse.
CGROUP = {
    "cpu.max": Setting(
        "50000 100000\n", ("x", "1", "50000 1", "50000 x", "50000 100000 1", "-1", "9" * 30, "50000 9999999", "max max")
    ),
    "cpu.weight": Setting("200\n", ("x", "0", "10001", "-1", "1.5", "9" * 5000, "100 100")),
    "cpuset.cpus": Setting("0\n", ("x", "1-0", "-", "4096", "99999", "0,x", "9" * 5000)),
    "cpuset.mems": Setting("0\n", ("x", "1-0", "1000", "9" * 5000)),
    "memory.max": Setting("67108864\n", SIZE),
    "memory.high": Setting("67108864\n", SIZE),
    "memory.low": Setting("65536\n", SIZE),
    "memory.swap.max": Setting("65536\n", SIZE),
    "pids.max": Setting("50\n", ("x", "-1", "1.5", "9" * 30, "50 50", "50\n60")),
    "io.max": Setting("", ("x", "8:0", "8:0 x=1", "8:0 rbps=x", "8:0 rbps=-1", "8:0 rbps=" + "9" * 30, "sda rbps=1")),
    "io.weight": Setting("default 50\n", ("x", "0", "10001", "default", "8:0 x", "default 1 1", "9" * 5000)),
    "cgroup.freeze": Setting("0\n", ("x", "2", "-1", "")),
}

#: What no setting takes, beside what each refuses.
ANYWHERE = {
    "nul": b"a\0b",
    "nul-alone": b"\0",
    "latin-1": b"caf\xe9",
    "half-a-letter": b"\xc3",
    "surrogate": b"\xed\xa0\x80",
    "64-KiB-of-bytes": b"\xff" * 65536 + b"\n",
    "64-KiB-in-pieces": b"\xff" * 65536,
}


def _rows() -> Iterator[object]:
    cgroup = {f"cgroup/{name}": setting for name, setting in CGROUP.items()}
    health = {f"health/{name}": setting for name, setting in HEALTH.items()}
    for name, setting in (SETTINGS | health | cgroup).items():
        for number, bad in enumerate(setting.bad):
            text, code = bad if isinstance(bad, tuple) else (bad, EINVAL)
            yield pytest.param(name, setting, text.encode() + b"\n", code, id=f"{name}-{number}-{text[:20]!a}")
        for label, data in ANYWHERE.items():
            yield pytest.param(name, setting, data, EINVAL, id=f"{name}-{label}")


def refusal(path: Path, data: bytes, flags: int = os.O_WRONLY) -> int:
    """The errno of writing *data* to *path*, or of closing it; 0 when it is taken."""
    fd = os.open(path, flags)
    try:
        os.write(fd, data)
    except OSError as error:
        os.close(fd)
        return error.errno or -1
    try:
        os.close(fd)
    except OSError as error:
        return error.errno or -1
    return 0


def words(container: Path) -> str:
    """The container's ``error``, which must be one line that is not blank."""
    text = (container / "error").read_text()
    assert text.strip()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert len(text) < 1000
    return text


@pytest.fixture(scope="module")
def box(module_engine: Engine) -> Path:
    """One container for all rows: nothing that is refused may leave a trace in it."""
    path = module_engine.tree / "containers/bad"
    path.mkdir()
    (path / "image").write_text("busybox")
    return path


@pytest.mark.parametrize(("name", "setting", "data", "code"), list(_rows()))
def test_what_is_refused_changes_nothing(box: Path, name: str, setting: Setting, data: bytes, code: int) -> None:
    file = box / name
    if not file.exists():  # a cgroup file that this kernel lacks: there is nothing to refuse
        assert name.startswith("cgroup/")
        return
    if setting.good:
        file.write_text(setting.good)
    before, document = file.read_text(), (box / "spec.toml").read_text()
    assert before == setting.good
    assert (box / "error").read_text() == ""
    assert refusal(file, data) == code
    said = words(box)
    assert data not in ANYWHERE.values() or name in said
    assert file.read_text() == before
    assert (box / "spec.toml").read_text() == document
    file.write_text(setting.good or "\n")


@pytest.mark.parametrize("name", [*SETTINGS, "spec.toml"])
def test_every_setting_is_in_the_table(box: Path, name: str) -> None:
    assert (box / name).exists()


def test_the_table_has_every_setting(box: Path) -> None:
    modes = {
        path.name: stat.S_IMODE(path.lstat().st_mode) for path in box.iterdir() if stat.S_ISREG(path.lstat().st_mode)
    }
    taken = {name for name in modes if _takes_writes(box / name)}
    assert taken - {"ctl", "stdin", "console"} == {*SETTINGS, "spec.toml"}


def _takes_writes(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        return False
    return True


@pytest.mark.parametrize(
    "document",
    [
        b"image = ",
        b"nope = 1\n",
        b"image = 1\n",
        b"image = 'no-such-image'\n",
        b"tty = 1\n",
        b"env = 'A=1'\n",
        b"env = [1]\n",
        b"env = ['A']\n",
        b"stop_timeout = -1.0\n",
        b"stop_timeout = inf\n",
        b"stop_timeout = nan\n",
        b"shm_size = true\n",
        b"shm_size = 0\n",
        b"volumes = ['/no/such:/x']\n",
        b"cgroup = 1\n",
        b"cgroup = {'memory.max' = 1}\n",
        b"cgroup = {'memory.max' = 'x'}\n",
        b"cgroup = {'../memory.max' = '1M'}\n",
        b"cgroup = {'cgroup.kill' = '1'}\n",
        b"hostname = 'a'\nhostname = 'b'\n",
        b"a = " + b"[" * 20_000,
        b"hostname = '\xff'\n",
        b"hostname = 'a\0b'\n",
    ],
    ids=repr,
)
def test_a_document_that_is_refused_changes_nothing(box: Path, document: bytes) -> None:
    (box / "hostname").write_text("kept")
    before = (box / "spec.toml").read_bytes()
    assert refusal(box / "spec.toml", document, os.O_WRONLY | os.O_TRUNC) in (EINVAL, ENOENT, errno.EOPNOTSUPP)
    assert words(box)
    assert (box / "spec.toml").read_bytes() == before
    assert (box / "hostname").read_text() == "kept\n"


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if not setting.live])
def test_a_setting_that_is_not_live_is_busy_while_it_runs(make: Make, name: str) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    before = (c / name).read_text()
    assert refusal(c / name, SETTINGS[name].good.encode()) == errno.EBUSY
    assert "running" in words(c)
    assert (c / name).read_text() == before


IDLE = [name for name, setting in SETTINGS.items() if not setting.live and not name.startswith("cgroup/")]


@pytest.mark.parametrize("name", IDLE)
def test_a_shell_hears_that_a_setting_can_t_be_emptied_while_it_runs(make: Make, engine: Engine, name: str) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    before = (c / name).read_text()
    assert engine.sh(f"(: > containers/c/{name}) || echo refused").endswith("refused\n")
    assert "running" in words(c)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        os.truncate(c / name, 0)
    assert (c / name).read_text() == before


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.live])
def test_a_live_setting_can_change_while_it_runs(make: Make, name: str) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    (c / name).write_text(SETTINGS[name].good)
    assert (c / name).read_text() == SETTINGS[name].good


@pytest.mark.parametrize("name", [name for name in CGROUP if name not in ("memory.high", "memory.swap.max")])
def test_a_limit_can_change_while_it_runs(make: Make, name: str) -> None:
    c = make(command="sleep 100")
    (c / "ctl").write_text("start")
    (c / "cgroup" / name).write_text(CGROUP[name].good or "\n")
    assert (c / "cgroup" / name).read_text() == CGROUP[name].good


# names


@pytest.mark.parametrize(
    "name",
    ["a", "0", "A.b_c-d", "a..b", "a-", "a.", "a" * 128, "sed123456", "4913"],
)
def test_a_name_that_is_one(tree: Path, name: str) -> None:
    path = tree / "containers" / name
    path.mkdir()
    assert (path / "state").read_text() == "created\n"
    path.rmdir()


@pytest.mark.parametrize(
    "name",
    [
        b".hidden",
        b"-a",
        b"_a",
        b"...",
        b"a b",
        b" ",
        b"a\n",
        b"\n",
        b"a\tb",
        b"a:b",
        b"a\\b",
        b"a~",
        b"#a#",
        b"\xc3\xa4",
        b"a\xff",
        b"a" * 129,
        b"a" * 255,
        b"a" * 256,
        b"$(x)",
        b"*",
    ],
)
def test_a_name_that_is_none(tree: Path, name: bytes) -> None:
    before = os.listdir(tree / "containers")
    with pytest.raises(OSError, match="Invalid argument") as caught:
        os.mkdir(os.fsencode(tree / "containers") + b"/" + name)
    assert caught.value.errno == EINVAL
    assert os.listdir(tree / "containers") == before
    assert (tree / "errors").read_text().splitlines()[-1].split()[1] == "containers"


@pytest.mark.parametrize("name", ["containers/a/b", "nothing", "containers/a/cgroup/x", "images/a b"])
def test_mkdir_where_no_object_can_be(tree: Path, make: Make, name: str) -> None:
    make("a")
    with pytest.raises(OSError) as caught:  # noqa: PT011  # which errno is what is tested
        (tree / name).mkdir()
    assert caught.value.errno in (errno.EPERM, EINVAL)


# renames


def test_mv_to_another_directory_is_eperm_and_never_exdev(tree: Path, make: Make) -> None:
    c = make("a")
    with pytest.raises(PermissionError) as caught:
        c.rename(tree / "images/a")
    assert caught.value.errno == errno.EPERM
    assert c.exists()


def test_mv_of_a_setting_into_another_container_is_eperm(make: Make) -> None:
    a, b = make("a"), make("b")
    with pytest.raises(PermissionError) as caught:
        (a / "command").rename(b / "command")
    assert caught.value.errno == errno.EPERM
    assert (a / "command").exists()


def test_mv_onto_an_existing_container_is_eexist(make: Make) -> None:
    a, b = make("a", hostname="a"), make("b", hostname="b")
    with pytest.raises(FileExistsError):
        a.rename(b)
    assert (b / "hostname").read_text() == "b\n"
    assert "b exists" in words(a)


@pytest.mark.parametrize("name", ["-x", "a b", "x" * 129])
def test_mv_to_a_name_that_is_none_is_einval(tree: Path, make: Make, name: str) -> None:
    c = make("a")
    with pytest.raises(OSError, match="Invalid argument"):
        c.rename(tree / "containers" / name)
    assert c.exists()


# what must be there, and what must not be walked


@pytest.mark.parametrize("suffix", ["", "/containers", "/."])
def test_a_volume_from_within_the_mount_is_einval(tree: Path, make: Make, suffix: str) -> None:
    c = make()
    assert refusal(c / "volumes", f"{tree}{suffix}:/x\n".encode()) == EINVAL
    assert "mount itself" in words(c)


def test_a_volume_that_leads_into_the_mount_by_a_symlink_is_einval(tree: Path, make: Make, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree / "containers")
    c = make()
    assert refusal(c / "volumes", f"{tmp_path}/link:/x\n".encode()) == EINVAL
    assert "mount itself" in words(c)


def test_an_image_from_within_the_mount_is_einval(tree: Path, make: Make) -> None:
    c = make()
    assert refusal(c / "image", str(tree / "containers").encode()) == EINVAL


def test_a_volume_whose_source_has_gone_fails_the_start(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    c = make(command="true", volumes=f"{source}:/x\n")
    source.rmdir()
    assert refusal(c / "ctl", b"start") == ENOENT
    assert str(source) in words(c)
    assert (c / "state").read_text() == "created\n"


def test_start_without_an_image_is_einval(tree: Path) -> None:
    c = tree / "containers/c"
    c.mkdir()
    (c / "command").write_text("true")
    assert refusal(c / "ctl", b"start") == EINVAL
    assert "image" in words(c)


def test_start_without_a_command_is_einval(make: Make, tmp_path: Path) -> None:
    c = make()
    (c / "image").write_text(str(tmp_path))
    assert refusal(c / "ctl", b"start") == EINVAL
    assert "command" in words(c)


@pytest.mark.parametrize(
    ("name", "parent", "limit"),
    [("memory.max", "1G", "2G"), ("pids.max", "500", "501"), ("cpu.max", "50000 100000", "60000 100000")],
)
def test_a_limit_above_that_of_the_parent_is_einval(
    engine: Engine, make: Make, name: str, parent: str, limit: str
) -> None:
    c = make()
    with engine.parent_limit(name, parent):
        assert refusal(c / "cgroup" / name, limit.encode()) == EINVAL
        assert "above" in words(c)
        assert (c / "cgroup" / name).read_text().split()[0] == "max"


# unknown names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("memory.max", "cgroup/memory.max"),
        ("comand", "command"),
        ("cgroup/memory.maxx", "memory.max"),
        ("envv", "env"),
        ("stop-signal", "stop_signal"),
        ("cgroup/cpu.share", "cpu.shares"),
        ("cpus", "cgroup/cpu.max"),
        ("ENV", "env"),
    ],
)
def test_writing_to_an_unknown_name_is_eperm_and_error_has_the_nearest(make: Make, name: str, meant: str) -> None:
    c = make()
    with pytest.raises(PermissionError) as caught:
        (c / name).write_text("1")
    assert caught.value.errno == errno.EPERM
    assert f"did you mean {meant}?" in words(c)


@pytest.mark.parametrize("name", ["state", "id", "pid", "exit_code", "error", "created", "processes", "cgroup/path"])
def test_status_can_t_be_written(make: Make, name: str) -> None:
    c = make()
    with pytest.raises(PermissionError) as caught:
        (c / name).write_text("1")
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("name", ["state", "ctl", "log", "rootfs", "wait", "stdin", "processes"])
def test_unlink_of_anything_but_a_setting_is_eperm(make: Make, name: str) -> None:
    c = make()
    with pytest.raises(PermissionError) as caught:
        (c / name).unlink()
    assert caught.value.errno == errno.EPERM
    assert (c / name).is_symlink() or (c / name).exists()


# a full disk


def test_on_a_full_disk_settings_stay_as_they_are_and_mkdir_leaves_nothing(small_engine: Engine) -> None:
    containers = small_engine.tree / "containers"
    c = containers / "c"
    c.mkdir()
    (c / "image").write_text("busybox")
    (c / "hostname").write_text("before")
    with small_engine.filled():
        assert refusal(c / "hostname", b"after") == errno.ENOSPC
        assert words(c)
        assert (c / "hostname").read_text() == "before\n"
        assert refusal(c / "env", b"A=1\n") == errno.ENOSPC
        assert refusal(c / "spec.toml", b"hostname = 'x'\n", os.O_WRONLY | os.O_TRUNC) == errno.ENOSPC
        assert (c / "hostname").read_text() == "before\n"
        with pytest.raises(OSError, match="No space left"):
            (containers / "d").mkdir()
        assert os.listdir(containers) == ["c"]
        with pytest.raises(OSError, match="No space left"):
            c.rename(containers / "e")
        assert os.listdir(containers) == ["c"]
        assert len(list((small_engine.root / "containers").iterdir())) == 1
    (c / "hostname").write_text("after")
    assert (c / "hostname").read_text() == "after\n"
    c.rename(containers / "e")
    (containers / "e").rmdir()
