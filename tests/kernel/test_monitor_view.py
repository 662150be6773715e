"""What a container sees, and what it must not: its mounts, devices, identity; images that try to break out."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import socket
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pydock.runtime import syscalls
from pydock.runtime.confine import capabilities
from pydock.runtime.monitor.launch import CgroupMount, Device, Rlimit, Tmpfs, Volume

pytestmark = [pytest.mark.mount, pytest.mark.device]


@pytest.fixture
def containers(shared_containers):
    return shared_containers


MASKED = ("/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/no-such")
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/sys", "/proc/no-such")
DOCKER = 0xA80425FB  # docker's fourteen capabilities

ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
NO_MKDIR = (
    struct.pack("=HBBI", 0x20, 0, 0, 0)  # load the number of the system call
    + struct.pack("=HBBI", 0x15, 0, 1, 83 if os.uname().machine == "x86_64" else 34)  # mkdir, or mkdirat
    + struct.pack("=HBBI", 0x06, 0, 0, 0x00050001)  # SECCOMP_RET_ERRNO | EPERM
    + ALLOW
)

SEEN = {
    "it is pid 1": ("echo $$", {}, "1\n"),
    "the host name": ("hostname", {"hostname": "inside"}, "inside\n"),
    "HOSTNAME and HOME": ("echo $HOSTNAME $HOME", {"hostname": "inside", "user": "web"}, "inside /home/web\n"),
    "the environment without doubles": ("echo $A; env | grep -c ^A=", {"env": ("A=1", "A=2")}, "2\n1\n"),
    "PATH when there is none": ("echo $PATH", {}, "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"),
    "only its own descriptors": ("ls /proc/1/fd; true", {}, "0\n1\n2\n"),
    "stdin is null": ("readlink /proc/$$/fd/0; cat", {}, "/dev/null\n"),
    "the working directory is made": ("pwd; stat -c %a:%u .", {"workdir": "/a/b/c"}, "/a/b/c\n755:0\n"),
    "capabilities of root": (
        "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status | cut -f2",
        {"capabilities": DOCKER},
        "0000000000000000\n00000000a80425fb\n00000000a80425fb\n00000000a80425fb\n0000000000000000\n",
    ),
    "capabilities of others": (
        "grep -E '^Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f2",
        {"capabilities": DOCKER, "user": "web"},
        "0000000000000000\n0000000000000000\n00000000a80425fb\n",
    ),
    "a user by name": ("id -u; id -g; id -G", {"user": "web"}, "1000\n1001\n1001 2000\n"),
    "a user by numbers": ("id -u; id -g; id -G", {"user": "5:6"}, "5\n6\n6\n"),
    "further groups": ("id -G", {"user": "web", "groups": (7,)}, "1001 7 2000\n"),
    "another user opens its own stdout": ("echo x > /dev/stdout", {"user": "web"}, "x\n"),
    "no_new_privileges": ("grep NoNewPrivs /proc/self/status | cut -f2", {"no_new_privileges": True}, "1\n"),
    "new privileges": ("grep NoNewPrivs /proc/self/status | cut -f2", {}, "0\n"),
    "the umask": ("umask", {}, "0022\n"),
    "another umask": ("umask", {"umask": 0o77}, "0077\n"),
    "oom_score_adj": ("cat /proc/self/oom_score_adj", {"oom_score_adj": 500}, "500\n"),
    "signals": ("grep -E '^Sig(Blk|Ign)' /proc/self/status | cut -f2", {}, "0000000000000000\n0000000000000000\n"),
    "a session of its own": ("cut -d' ' -f6 /proc/1/stat", {}, "1\n"),
    "the loopback is up": ("grep -c . /proc/net/if_inet6; cat /sys/class/net/lo/flags", {}, "1\n0x9\n"),
    "nothing but lo": ("ls /sys/class/net", {}, "lo\n"),
    "no other process": ("cd /proc; echo [0-9]*", {}, "1\n"),
    "limits": ("ulimit -n; ulimit -Hn", {"rlimits": (("nofile", 100, 200),)}, "100\n200\n"),
    "device nodes": (
        "cd /dev; stat -c '%n %t:%T %a' null zero full random urandom tty",
        {},
        "null 1:3 666\nzero 1:5 666\nfull 1:7 666\nrandom 1:8 666\nurandom 1:9 666\ntty 5:0 666\n",
    ),
    "what /dev holds": (
        "echo $(ls /dev)",
        {},
        "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero\n",
    ),
    "links of /dev": (
        "cd /dev; for i in fd stdin ptmx core; do readlink $i; done",
        {},
        "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n/proc/kcore\n",
    ),
    "a further device": (
        "stat -c '%F %t:%T %a' /dev/sub/fuse",
        {"devices": (("/dev/sub/fuse", "c", 10, 229, 0o640, 0, 0),)},
        "character special file a:e5 640\n",
    ),
    "shm has its size": (
        "grep /dev/shm /proc/mounts",
        {"shm_size": 1 << 20},
        "tmpfs /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k 0 0\n",
    ),
    "shm is for all": ("stat -c %a /dev/shm", {}, "1777\n"),
    "a tmpfs": (
        "grep /scratch /proc/mounts; stat -c %a /scratch",
        {"tmpfs": (("/scratch", 1 << 20, 0o700),)},
        "tmpfs /scratch tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k,mode=700 0 0\n700\n",
    ),
    "a tmpfs for programs": (
        "grep /x /proc/mounts",
        {"tmpfs": (("/x", None, 0o1777, 0, 0, ("nosuid",)),)},
        "tmpfs /x tmpfs rw,nosuid,relatime 0 0\n",
    ),
    "masked files are empty": ("cat /proc/keys; stat -c %t:%T /proc/keys", {"masked": MASKED}, "1:3\n"),
    "a masked pattern": (
        "stat -c %t:%T /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id",
        {"masked": ("/proc/sys/kernel/ran*/uuid", "/no/su*/x")},
        "1:3\n0:0\n",
    ),
    "masked directories are empty": (
        "ls /sys/firmware; touch /sys/firmware/x",
        {"masked": MASKED},
        "touch: /sys/firmware/x: Read-only file system\n",
    ),
    "protected paths": (
        "echo x > /proc/sys/kernel/domainname",
        {"read_only_paths": READ_ONLY},
        "sh: can't create /proc/sys/kernel/domainname: Read-only file system\n",
    ),
    "sysctls, though they are protected": (
        "cat /proc/sys/net/ipv4/ip_default_ttl",
        {"sysctls": (("net.ipv4.ip_default_ttl", "77"),), "read_only_paths": READ_ONLY},
        "77\n",
    ),
    "/sys is read-only": ("echo x > /sys/x", {}, "sh: can't create /sys/x: Read-only file system\n"),
    "a read-only root": (
        "touch /x; touch /tmp/x && echo ok",
        {"read_only": True, "tmpfs": (("/tmp",),)},
        "touch: /x: Read-only file system\nok\n",
    ),
    "a tmpfs on a directory": (
        "stat -c %a /etc /tmp /new/place",
        {"tmpfs": (("/bin/../etc",), ("/tmp",), ("/new/place",))},
        "755\n1777\n1777\n",
    ),
    "a tmpfs instead of /dev/shm": ("grep -c /dev/shm /proc/mounts", {"tmpfs": (("/dev/shm/",),)}, "1\n"),
}


@pytest.mark.parametrize(("script", "fields", "expected"), SEEN.values(), ids=SEEN)
def test_a_container_sees(containers, script: str, fields: dict[str, object], expected: str) -> None:
    kinds = {"tmpfs": Tmpfs, "devices": Device, "rlimits": Rlimit}
    values = {
        name: tuple(kinds[name](*item) for item in value) if name in kinds else value  # type: ignore[attr-defined]
        for name, value in fields.items()
    }
    told = containers.output("sh", "-c", script, **values)
    assert told.replace(",inode64", "") == expected  # a tmpfs's default may be that, by the kernel's configuration


def test_a_container_sees_no_mount_of_the_host(containers) -> None:
    told = containers.output("cat", "/proc/self/mountinfo", masked=MASKED, read_only_paths=READ_ONLY)
    kinds = [line.split(" - ")[1].split()[0] for line in told.splitlines()]
    places = [line.split()[4] for line in told.splitlines()]
    usual = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys"]
    assert places == usual + [path for path in READ_ONLY + MASKED if Path(path).exists()]
    assert kinds[1:7] == ["proc", "tmpfs", "devpts", "tmpfs", "mqueue", "sysfs"]


def test_a_start_leaves_the_mount_table_of_the_host_alone(containers) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    containers.start("sleep", "1000")
    assert Path("/proc/self/mountinfo").read_text() == before


@pytest.mark.parametrize("no_new_privileges", [False, True])
@pytest.mark.parametrize("user", ["", "web"])
def test_the_filter_is_in_force(containers, user: str, no_new_privileges: bool) -> None:
    program = os.memfd_create("filter")
    os.write(program, NO_MKDIR)
    told = containers.output(
        "sh", "-c", "mkdir /tmp/x; grep Seccomp: /proc/self/status | cut -f2",
        fds=[program], seccomp=1, user=user, no_new_privileges=no_new_privileges, capabilities=DOCKER,
    )  # fmt: skip
    os.close(program)
    assert told == "mkdir: can't create directory '/tmp/x': Operation not permitted\n2\n"


def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE, which root has on most machines, and not on all."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) & capabilities.mask(frozenset({"CAP_SYS_RESOURCE"})))


def test_a_limit_that_can_not_be_raised_is_a_warning(containers) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    _, _, warnings = containers.start("true", rlimits=(Rlimit("memlock", hard + 4096, hard + 4096),))
    words = f"ulimit memlock: raising it above {hard} needs CAP_SYS_RESOURCE"
    assert warnings == ([] if may_raise_limits() else [words])


def volume(containers, source: Path, script: str, *, cwd: str = "/", **fields: object) -> str:
    """Runs *script* with *source* as a volume of the given fields."""
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
    tree = syscalls.open_tree(syscalls.AT_FDCWD, str(source), flags)
    try:
        values = {"source": 1, "target": "/data", "is_directory": source.is_dir()} | fields
        return containers.output("sh", "-c", script, fds=[tree], volumes=(Volume(**values),), workdir=cwd)
    finally:
        os.close(tree)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("content\n")
    return path


def test_a_directory_is_mounted_and_can_be_written(containers, source: Path) -> None:
    assert volume(containers, source, "cat /data/file; echo more > /data/new") == "content\n"
    assert (source / "new").read_text() == "more\n"


def test_a_file_is_mounted_on_a_file_that_is_made(containers, source: Path) -> None:
    assert volume(containers, source / "file", "cat /new/deep/file", target="/new/deep/file") == "content\n"


def test_a_read_only_volume_can_not_be_written(containers, source: Path) -> None:
    told = volume(containers, source, "touch /data/x", read_only=True)
    assert told == "touch: /data/x: Read-only file system\n"


def test_a_volume_goes_below_a_dangling_link_inside(containers, root: Path, source: Path) -> None:
    (root / "var").symlink_to("/run/var")
    assert volume(containers, source, "cat /run/var/data/file", target="/var/data") == "content\n"


def test_a_volume_may_be_the_working_directory(containers, source: Path) -> None:
    assert volume(containers, source, "cat file", cwd="/data") == "content\n"


@pytest.mark.parametrize("link", ["/proc/self/fd/3", "/proc/1/root/etc", "/proc/self/cwd", "/proc/thread-self/fd/4"])
@pytest.mark.parametrize("what", ["volume", "workdir"])
def test_a_magic_link_in_the_image_leads_nowhere(containers, root: Path, source: Path, link: str, what: str) -> None:
    (root / "data").symlink_to(link)
    start = (
        partial(volume, containers, source, "true")
        if what == "volume"
        else partial(containers.output, "true", workdir="/data")
    )
    with pytest.raises(containers.Refused, match=r"symbolic links|No such file"):
        start()
    assert [path.name for path in source.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["etc", "data", "dev/shm"])
@pytest.mark.parametrize("up", ["", "../../../../../../.."])
def test_a_link_to_the_host_stays_inside(
    containers, root: Path, source: Path, tmp_path: Path, name: str, up: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place = root / name
    if place.is_dir():
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    place.symlink_to(f"{up}{outside}")
    tree = syscalls.open_tree(syscalls.AT_FDCWD, str(source / "file"), syscalls.OPEN_TREE_CLONE | os.O_CLOEXEC)
    told = containers.output(
        "echo", "inside", fds=[tree], masked=MASKED, read_only_paths=READ_ONLY, workdir="/data/work",
        volumes=(Volume(1, "/etc/hosts", False), ), tmpfs=(Tmpfs("/tmp/x"),),
    )  # fmt: skip
    os.close(tree)
    assert told == "inside\n"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("target", ["/elsewhere", "../elsewhere", "/", "missing"])
def test_a_link_where_files_of_the_kernel_belong_is_refused(containers, root: Path, name: str, target: str) -> None:
    (root / name).rmdir()
    (root / "elsewhere").mkdir()
    (root / name).symlink_to(target)
    with pytest.raises(containers.Refused, match=f"{name} is a symlink in the image"):
        containers.output("true")


def test_a_fifo_for_passwd_holds_nothing_up(containers, root: Path) -> None:
    (root / "etc/passwd").unlink()
    os.mkfifo(root / "etc/passwd")
    assert containers.output("grep", "Uid:", "/proc/self/status", user="12") == "Uid:\t12\t12\t12\t12\n"


def test_a_privileged_container_has_the_devices_of_the_host(containers) -> None:
    host = {path.name for path in Path("/dev").iterdir() if path.is_char_device() or path.is_block_device()}
    told = containers.output("ls", "/dev", privileged=True, capabilities=(1 << 41) - 1)
    assert host - {"console"} <= set(told.split())
    assert containers.output("sh", "-c", "grep ' /sys ' /proc/mounts", privileged=True).split()[3].startswith("rw")


def test_an_abstract_socket_of_the_host_can_not_be_reached(containers) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0pydock-test-of-the-host")
        assert containers.output("cat", "/proc/net/unix").count("\n") == 1


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the pids controller, or of v2."""
    above = next(
        path for path in map(Path, ("/sys/fs/cgroup/pids", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()
    )
    path = above / f"pydock-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    while (path / "cgroup.procs").read_text():
        os.sched_yield()
    path.rmdir()


def test_a_container_sees_its_cgroup_as_the_root(containers, cgroup: Path) -> None:
    line = ":pids:/$" if cgroup.parent.name == "pids" else "^0::/$"
    told = containers.output(
        "sh", "-c", f"grep -c '{line}' /proc/self/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs; mkdir /sys/fs/cgroup/pids/x",
        cgroups=(str(cgroup / "cgroup.procs"),), cgroup_mounts=(CgroupMount("pids", str(cgroup)),),
    )  # fmt: skip
    lines = told.splitlines()
    assert lines[:2] == ["1", "1"]
    assert lines[-1] == "mkdir: can't create directory '/sys/fs/cgroup/pids/x': Read-only file system"


@pytest.fixture
def unified() -> Iterator[Path]:
    """A cgroup of v2."""
    above = next(
        path for path in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (path / "cgroup.procs").exists()
    )
    path = above / f"pydock-test-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    while "populated 1" in (path / "cgroup.events").read_text():
        os.sched_yield()
    path.rmdir()


def test_a_container_is_born_in_its_v2_cgroup(containers, unified: Path) -> None:
    _, pid, _ = containers.start("sleep", "1000", clone_into=str(unified))
    assert (unified / "cgroup.procs").read_text() == f"{pid}\n"
    assert containers.output("grep", "^0:", "/proc/self/cgroup", clone_into=str(unified)) == "0::/\n"
    os.kill(pid, signal.SIGKILL)
