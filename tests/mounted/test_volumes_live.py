"""Volumes: ``volumes/NAME``, and what comes to and goes from a container that runs."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]
ErrnoOf = Callable[[Path, str], int]


def refusal(path: Path, text: str, flags: int = os.O_WRONLY | os.O_APPEND) -> int:
    """The errno of writing *text* to *path*; 0 when it is taken."""
    fd = os.open(path, flags)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        return error.errno or -1
    finally:
        os.close(fd)
    return 0


def inside(container: Path) -> Path:
    """The root of a container that runs, as its first process has it."""
    return Path(f"/proc/{(container / 'pid').read_text().strip()}/root")


def mounted(container: Path) -> dict[str, str]:
    """The options of the mounts in a container that runs, by their places."""
    lines = Path(f"/proc/{(container / 'pid').read_text().strip()}/mountinfo").read_text().splitlines()
    return {line.split()[4]: line.split()[5] + " " + " ".join(line.split()[6:-4]) for line in lines}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    (path / "file").write_text("of the machine\n")
    return path


@pytest.fixture
def running(make: Make) -> Path:
    """A container that runs."""
    c = make(command="sleep 1000")
    (c / "ctl").write_text("start")
    return c


@pytest.fixture
def volume(engine: Engine) -> Iterator[Path]:
    """A named volume; removed after the test, its users before."""
    path = engine.tree / "volumes/v"
    path.mkdir()
    yield path
    engine.clear()
    for each in (engine.tree / "volumes").iterdir():
        each.rmdir()


# of an image


@pytest.fixture
def declaring(engine: Engine, make: Make) -> Iterator[str]:
    """An image that declares volumes, one of which is not there and one can't be."""
    places = "volume=/data/in volume=/etc volume=/etc/passwd volume=/etc/passwd/x"
    (make("of") / "ctl").write_text(f"commit declaring:1 {places}")
    yield "declaring:1"
    engine.clear()
    (engine.tree / "images/declaring:1").rmdir()


@pytest.mark.parametrize("userns", ["", "auto"])
def test_what_an_image_declares_as_a_volume_is_there(make: Make, declaring: str, userns: str) -> None:
    script = "echo kept > /data/in/file; stat -c '%a %u %F' /data /data/in /etc/passwd"
    c = make(command=f'sh -c "{script}"', image=declaring, userns=userns)
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "755 0 directory\n755 0 directory\n644 0 regular file\n"
    assert (c / "error").read_text() == "the image's volume '/etc/passwd/x' can't be made: Not a directory\n"
    assert (c / "changes").read_text() == "A /data\nA /data/in\nA /data/in/file\n"


def test_what_an_image_declares_as_a_volume_is_there_in_a_read_only_root(make: Make, declaring: str) -> None:
    c = make(command="ls -d /data/in", image=declaring, readonly="1")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "changes").read_text() == "A /data\nA /data/in\n"


# in a container that runs


@pytest.mark.mount
def test_a_volume_comes_to_and_goes_from_a_container_that_runs(running: Path, source: Path) -> None:
    assert refusal(running / "volumes", f"{source}:/new/place\n") == 0
    assert (running / "volumes").read_text() == f"{source}:/new/place\n"
    assert (inside(running) / "new/place/file").read_text() == "of the machine\n"
    assert refusal(running / "volumes", "-/new/place\n") == 0
    assert (running / "volumes").read_text() == ""
    assert "/new/place" not in mounted(running)
    assert (source / "file").exists()


@pytest.mark.parametrize("text", ["{0}:/v", "{0}:/v:ro", "{0}/file:/v:ro", "{0}:/v:rslave", "{0}:/v:ro,shared"])
def test_a_volume_added_live_is_as_one_that_was_there_from_the_start(
    running: Path, make: Make, source: Path, text: str
) -> None:
    item = text.format(source)
    assert refusal(running / "volumes", f"{item}\n") == 0
    other = make("other", command="sleep 1000", volumes=f"{item}\n")
    (other / "ctl").write_text("start")
    live, started = mounted(running)["/v"], mounted(other)["/v"]
    assert live.split(":")[0].split() == started.split(":")[0].split()
    assert (running / "volumes").read_text() == (other / "volumes").read_text()


def test_a_volume_added_live_is_there_again_after_a_restart(running: Path, source: Path) -> None:
    (running / "volumes").write_text(f"{source}:/v\n")
    (running / "ctl").write_text("restart 0")
    assert (inside(running) / "v/file").exists()


def test_a_read_only_volume_can_t_be_written(running: Path, source: Path) -> None:
    (running / "volumes").write_text(f"{source}:/v:ro\n")
    with pytest.raises(OSError, match="Read-only"):
        (inside(running) / "v/x").touch()


def test_what_was_made_to_mount_on_is_no_change_afterwards_either(own_engine: Engine, source: Path) -> None:
    own_engine.sh(
        f"cd containers; mkdir c; cd c; echo busybox > image; echo {source}:/first/mp > volumes; echo /memory > tmpfs;"
        f"""echo "sh -c 'mkdir /own; sleep 1000'" > command; echo start > ctl; until grep -q own changes; do sleep 0.01; done;"""
        f"echo {source}:/mp/x >> volumes; echo {source}/file:/file >> volumes; : > volumes"
    )
    c = own_engine.tree / "containers/c"
    assert (c / "changes").read_text() == "A /own\n"
    own_engine.kill()
    own_engine.start()
    assert (c / "changes").read_text() == "A /own\n"
    (c / "ctl").write_text("kill")
    (c / "tmpfs").write_text("")
    assert (c / "changes").read_text() == "A /own\n"
    (c / "ctl").write_text("reset")
    (c / "command").write_text("mkdir -p /mp/x")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "changes").read_text() == "A /mp\nA /mp/x\n"


@pytest.mark.parametrize("privileged", ["0", "1"])
def test_no_link_leads_a_volume_into_proc(make: Make, source: Path, errno_of: ErrnoOf, privileged: str) -> None:
    script = "ln -s /proc /lp; ln -s /proc/cpuinfo /ci; ln -s / /top; exec sleep 1000"
    c = make(command=f'sh -c "{script}"', privileged=privileged)
    (c / "ctl").write_text("start")
    while not os.path.lexists(inside(c) / "top"):
        os.sched_yield()
    assert refusal(c / "volumes", f"{source}/file:/ci\n") == 0
    assert (inside(c) / "proc/cpuinfo").read_text() == "of the machine\n"
    before = mounted(c)
    for place in ("/lp", "/lp/1", "/lp/sys/net", "/top/proc/bus"):
        assert refusal(c / "volumes", f"{source}:{place}\n") == errno.EINVAL
        assert place in (c / "error").read_text()
    assert mounted(c) == before
    (c / "ctl").write_text("kill")
    (c / "volumes").write_text("")
    for setting, text in (("volumes", f"{source}:/lp/1\n"), ("volumes", f"{source}:/lp\n"), ("tmpfs", "/lp/sys\n")):
        (c / setting).write_text(text)
        assert errno_of(c / "ctl", "start") == errno.EINVAL
        (c / setting).write_text("")


def test_the_machine_s_proc_in_a_volume_may_be_covered(make: Make, source: Path) -> None:
    """What monitoring agents ask for: / and /proc of the machine."""
    c = make(command="sh -c 'cat /host/proc/1/comm; ls /host/proc/sys; exec sleep 1000'", tmpfs="/host/proc/sys\n")
    (c / "volumes").write_text("/:/host\n/proc:/host/proc\n")
    (c / "ctl").write_text("start")
    assert (inside(c) / "host/proc/1/comm").read_text() == Path("/proc/1/comm").read_text()
    assert os.listdir(inside(c) / "host/proc/sys") == []
    assert refusal(c / "volumes", f"{source}:/host/proc/bus\n") == 0


def test_files_of_proc_that_only_count_may_be_covered(make: Make, source: Path) -> None:
    places = ("cpuinfo", "meminfo", "stat", "uptime")
    c = make(command=f"cat {' '.join(f'/proc/{place}' for place in places)}")
    (c / "volumes").write_text("".join(f"{source}/file:/proc/{place}\n" for place in places))
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "of the machine\n" * len(places)


@pytest.mark.mount
def test_volumes_change_while_it_is_paused(running: Path, source: Path) -> None:
    (running / "ctl").write_text("pause")
    assert refusal(running / "volumes", f"{source}:/v\n") == 0
    assert "/v" in mounted(running)
    assert refusal(running / "volumes", "-/v\n") == 0
    assert "/v" not in mounted(running)


def test_one_transaction_replaces_the_list(running: Path, source: Path) -> None:
    (running / "volumes").write_text(f"{source}:/a\n{source}:/b\n")
    (running / "volumes").write_text(f"{source}:/b\n{source}/file:/c\n")
    assert {"/a", "/b", "/c"} & set(mounted(running)) == {"/b", "/c"}
    (running / "volumes").write_text("")
    assert not {"/a", "/b", "/c"} & set(mounted(running))


@pytest.mark.parametrize("bad", ["/no/such:/x", "nothing", "{0}:/etc/passwd/x", "{0}/file:/etc"])
def test_a_refused_line_undoes_the_transaction_in_the_container_too(running: Path, source: Path, bad: str) -> None:
    (running / "volumes").write_text(f"{source}:/a\n")
    with pytest.raises(OSError, match="."):
        (running / "volumes").write_text(f"{source}:/b\n{bad.format(source)}\n")
    assert (running / "volumes").read_text() == f"{source}:/a\n"
    assert {"/a", "/b", "/x"} & set(mounted(running)) == {"/a"}
    assert (running / "error").read_text()


def test_a_volume_with_other_options_takes_the_place_of_the_one_before(running: Path, source: Path) -> None:
    (running / "volumes").write_text(f"{source}:/v\n")
    assert refusal(running / "volumes", f"{source}:/v:ro\n") == 0
    assert mounted(running)["/v"].startswith("ro")
    assert list(mounted(running)).count("/v") == 1


@pytest.fixture
def standing(make: Make, source: Path) -> Path:
    """A container whose process stands in its volume /v."""
    c = make(command="sh -c 'cd /v && echo > in && exec sleep 1000'", volumes=f"{source}:/v\n")
    (c / "ctl").write_text("start")
    while not (source / "in").exists():
        os.sched_yield()
    return c


def test_a_volume_in_use_is_busy_as_with_umount(standing: Path, source: Path) -> None:
    assert refusal(standing / "volumes", "-/v\n") == errno.EBUSY
    assert "/v" in (standing / "error").read_text()
    assert (standing / "volumes").read_text() == f"{source}:/v\n"
    assert (inside(standing) / "v/file").exists()


def test_a_transaction_whose_end_is_busy_changes_nothing(standing: Path, source: Path) -> None:
    (standing / "volumes").write_text(f"{source}:/other\n")  # that /v can't go is found at the close
    assert (standing / "volumes").read_text() == f"{source}:/v\n"
    assert "/v" in (standing / "error").read_text()
    assert {"/v", "/other"} & set(mounted(standing)) == {"/v"}


def test_a_volume_that_would_cover_another_is_busy(running: Path, source: Path) -> None:
    (running / "volumes").write_text(f"{source}:/a/b\n")
    assert refusal(running / "volumes", f"{source}:/a\n") == errno.EBUSY
    assert "/a/b" in (running / "error").read_text()


@pytest.mark.parametrize(
    "link",
    [
        "/proc/1/root",
        "/proc/self/fd/3",
        "../../../../../../../../..",
        "/proc/self/root/../..",
        "loop",
        "/dev/fd/0",
        "/",
    ],
)
def test_a_target_never_leads_out_of_the_container(running: Path, source: Path, link: str) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    os.symlink(link, inside(running) / "trap")
    os.symlink("loop", inside(running) / "loop")
    number = refusal(running / "volumes", f"{source}:/trap/deep/in\n")
    assert number in (0, errno.ELOOP, errno.EACCES, errno.ENOENT, errno.EPERM, errno.ENOTDIR)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert any(place.endswith("deep/in") for place in mounted(running)) == (number == 0)
    assert (running / "volumes").read_text() == ("" if number else f"{source}:/trap/deep/in\n")


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("item", "number", "words"),
    [
        ("/etc/passwd:/etc", errno.EISDIR, "/etc: it is a directory, and a file is to be there"),
        ("/usr:/etc/passwd", errno.ENOTDIR, "/etc/passwd: it is a file, and a directory is to be there"),
    ],
)
def test_a_file_onto_a_directory_and_the_reverse_are_refused(
    make: Make, errno_of: ErrnoOf, live: bool, item: str, number: int, words: str
) -> None:
    c = make(command="sleep 1000")
    if live:
        (c / "ctl").write_text("start")
        assert errno_of(c / "volumes", item) == number
        assert (c / "volumes").read_text() == ""
    else:
        (c / "volumes").write_text(item)
        assert errno_of(c / "ctl", "start") == number
        assert (c / "state").read_text() == "created\n"
    assert (c / "error").read_text().endswith(f" {words}\n")


def test_a_target_that_can_t_be_made_is_refused(make: Make, source: Path) -> None:
    c = make(command="sleep 1000", readonly="1")
    (c / "ctl").write_text("start")
    assert refusal(c / "volumes", f"{source}:/not/there\n") == errno.EROFS
    assert refusal(c / "volumes", f"{source}:/tmp\n") == 0


def test_a_document_changes_the_volumes_of_a_container_that_runs(running: Path, source: Path) -> None:
    document = (running / "spec.toml").read_text()
    (running / "spec.toml").write_text(f"{document}volumes = ['{source}:/v']\nstop_timeout = 1.0\n")
    assert "/v" in mounted(running)
    with pytest.raises(OSError, match="busy"):
        (running / "spec.toml").write_text(f"{document}hostname = 'x'\n")
    assert "/v" in mounted(running)
    (running / "spec.toml").write_text(document)
    assert "/v" not in mounted(running)


def test_what_was_acknowledged_is_there_after_a_kill(own_engine: Engine, tmp_path: Path) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo start > ctl"
    )
    c = own_engine.tree / "containers/c"
    acknowledged = 0
    own_engine.sh(f"mkdir -p {tmp_path}/s")
    for number in range(3):
        worker = subprocess.Popen(
            [
                "sh",
                "-c",
                f"for n in $(seq 50); do echo {tmp_path}/s:/v{number}-$n >> {c}/volumes || exit; echo $n; done",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert worker.stdout is not None
        for _ in range(5 + number * 3):
            worker.stdout.readline()
            acknowledged += 1
        own_engine.kill()
        more = worker.communicate()[0].splitlines()
        acknowledged += len(more)
        own_engine.start()
        listed = [line.split(":")[1] for line in (c / "volumes").read_text().splitlines()]
        assert acknowledged <= len(listed) <= acknowledged + 1
        acknowledged = len(listed)
        assert {place for place in mounted(c) if place.startswith("/v")} == set(listed)
    (c / "volumes").write_text("")
    assert not {place for place in mounted(c) if place.startswith("/v")}


# named ones


def test_a_named_volume_outlives_its_containers(make: Make, volume: Path) -> None:
    for name, command in (("one", "sh -c 'echo kept > /data/file'"), ("two", "cat /data/file")):
        c = make(name, command=command, volumes="v:/data\n")
        (c / "ctl").write_text("start")
        assert (c / "wait").read_text() == "0\n"
    assert (c / "log").read_text() == "kept\n"
    assert (volume / "data/file").read_text() == "kept\n"
    assert int((volume / "size").read_text()) >= 4096
    assert (volume / "driver").read_text() == "local\n"


def test_who_uses_a_volume_is_linked_and_keeps_it_from_being_removed(make: Make, volume: Path) -> None:
    c = make("user", volumes="v:/data\n")
    assert [path.name for path in (volume / "used_by").iterdir()] == ["user"]
    assert (volume / "used_by/user/state").read_text() == "created\n"
    with pytest.raises(OSError, match="busy"):
        volume.rmdir()
    assert "user" in (volume / "error").read_text()
    (c / "volumes").write_text("")
    assert list((volume / "used_by").iterdir()) == []
    assert not os.path.lexists(volume / "used_by/user")


def test_mv_of_a_volume_renames_it_in_settings_and_disturbs_nobody(make: Make, volume: Path) -> None:
    c = make(command="sleep 1000", volumes="v:/data:ro\n")
    (c / "ctl").write_text("start")
    new = volume.rename(volume.parent / "w")
    assert not volume.exists()
    assert (c / "volumes").read_text() == "w:/data:ro\n"
    assert (inside(c) / "data").exists()
    assert refusal(c / "volumes", "-/data\n") == 0
    assert "/data" not in mounted(c)
    new.rename(volume)


def test_a_volume_that_is_not_there_is_enoent_and_is_not_made(make: Make, tree: Path) -> None:
    c = make()
    assert refusal(c / "volumes", "nothing:/data\n") == errno.ENOENT
    assert "mkdir volumes/nothing" in (c / "error").read_text()
    assert list((tree / "volumes").iterdir()) == []


@pytest.mark.parametrize("live", [False, True], ids=["at the start", "live"])
def test_first_use_fills_an_empty_volume_from_the_image(make: Make, volume: Path, tmp_path: Path, live: bool) -> None:
    image = tmp_path / "image"
    place = image / "srv/data"
    (place / "inner").mkdir(parents=True)
    (place / "file").write_text("of the image\n")
    os.link(place / "file", place / "inner/hard")
    os.symlink("/etc/passwd", place / "soft")
    os.setxattr(place / "file", "user.note", b"kept")
    os.chown(place / "file", 1000, 1001)
    place.chmod(0o2750)
    os.chown(place, 7, 8)
    (image / "bin").mkdir()
    subprocess.run(["cp", "/bin/busybox", image / "bin/busybox"], check=True)
    c = make(command="/bin/busybox sleep 1000", image=str(image))
    if not live:
        (c / "volumes").write_text("v:/srv/data\n")
    (c / "ctl").write_text("start")
    if live:
        (c / "volumes").write_text("v:/srv/data\n")
    data = Path(os.path.realpath(volume / "data"))
    assert sorted(path.name for path in data.iterdir()) == ["file", "inner", "soft"]
    status = data.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (7, 8, 0o2750)
    assert (data / "file").stat().st_uid == 1000
    assert (data / "file").stat().st_ino == (data / "inner/hard").stat().st_ino
    assert os.readlink(data / "soft") == "/etc/passwd"
    assert os.getxattr(data / "file", "user.note") == b"kept"
    assert (inside(c) / "srv/data/file").read_text() == "of the image\n"


def test_what_is_in_a_volume_is_not_touched_by_a_further_use(make: Make, volume: Path) -> None:
    (volume / "data/own").write_text("mine")
    c = make(command="true", volumes="v:/etc\n")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert "passwd" not in os.listdir(volume / "data")
    assert (volume / "data/own").read_text() == "mine"


def test_filling_follows_no_symlink_out_of_the_image(make: Make, volume: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    os.symlink("../../../../../../../../etc", image / "trap")
    (image / "bin").mkdir()
    subprocess.run(["cp", "/bin/busybox", image / "bin/busybox"], check=True)
    c = make(command="/bin/busybox true", image=str(image), volumes="v:/trap\n")
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert set(os.listdir(volume / "data")) <= {"hostname", "hosts", "resolv.conf"}


def test_prune_removes_the_volumes_that_nobody_names(make: Make, tree: Path, volume: Path) -> None:
    (tree / "volumes/other").mkdir()
    make("user", volumes="v:/data\n")
    (tree / "ctl").write_text("prune volumes")
    assert [path.name for path in (tree / "volumes").iterdir()] == ["v"]
    assert "\nvolumes 1\n" in (tree / "info").read_text()


@pytest.mark.parametrize("name", [".x", "-x", "a b", "x" * 129, "a:b"])
def test_a_name_that_is_none_makes_no_volume(tree: Path, name: str) -> None:
    with pytest.raises(OSError, match="Invalid"):
        (tree / "volumes" / name).mkdir()
    assert list((tree / "volumes").iterdir()) == []


def test_a_volume_is_there_after_a_kill(own_engine: Engine) -> None:
    own_engine.sh("mkdir volumes/v; echo a=1 > volumes/v/labels; echo x > volumes/v/data/x; mv volumes/v volumes/w")
    own_engine.kill()
    own_engine.start()
    assert (
        own_engine.sh("ls volumes; cat volumes/w/labels volumes/w/data/x; rmdir volumes/w; ls volumes") == "w\na=1\nx\n"
    )


@pytest.mark.parametrize("bad", ["x y", "=1", "a\0b"])
def test_a_label_that_is_none_is_refused(volume: Path, bad: str) -> None:
    assert refusal(volume / "labels", bad) == errno.EINVAL
    assert (volume / "error").read_text()
    assert (volume / "labels").read_text() == ""


def test_what_a_change_says_holds_when_the_monitor_dies_in_its_midst(own_engine: Engine, tmp_path: Path) -> None:
    own_engine.sh(
        "mkdir containers/c; cd containers/c; echo busybox > image; echo sleep 1000 > command; echo start > ctl"
    )
    c = own_engine.tree / "containers/c"
    (tmp_path / "s").mkdir()
    script = f"""
        for n in $(seq 40); do
            echo {tmp_path}/s:/v$n >> {c}/volumes && echo + /v$n
            [ $((n % 2)) = 0 ] && echo -/v$n >> {c}/volumes && echo - /v$n
        done"""
    worker = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for _ in range(4):
        assert worker.stdout is not None
        worker.stdout.readline()
        own_engine.kill_helper("monitor")
    worker.communicate()
    listed = {line.split(":")[1] for line in (c / "volumes").read_text().splitlines()}
    assert {place for place in mounted(c) if place.startswith("/v")} == listed
    assert len(listed) >= 15


def test_a_run_that_nobody_wrote_down_is_found_with_its_mounts(small_engine: Engine, tmp_path: Path) -> None:
    c = small_engine.tree / "containers/c"
    small_engine.sh(
        f"cd containers; mkdir c; cd c; echo busybox > image; echo {tmp_path}:/data > volumes; echo hush > secrets/s;"
        """ echo none > network; echo "sh -c 'echo ready; sleep 1000'" > command"""
    )
    directory = small_engine.root / "containers" / (c / "id").read_text().strip()
    with small_engine.filled(room=49152):  # files are replaced at once
        os.mkfifo(directory / "state.json.new")  # nobody reads it: what is to be kept is not
        starting = subprocess.Popen(["sh", "-c", f"echo start > {c}/ctl"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while (directory / "log").read_text() != "ready\n":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        small_engine.kill()
        starting.wait(60)
    small_engine.start()
    assert (c / "state").read_text() == "running\n"
    mounts = Path(f"/proc/{(c / 'pid').read_text().strip()}/mountinfo")
    for place in ("/data", "/run/secrets"):
        assert mounts.read_text().count(f" {place} ") == 1
    small_engine.sh(f"echo -{tmp_path}:/data >> containers/c/volumes")
    assert " /data " not in mounts.read_text()
