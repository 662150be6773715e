"""The tools that people have work on settings: copying, archiving, editing, deploying, building."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Engine

Make = Callable[..., Path]

ENV = "A=1\nB=two words\n"
VIM = shutil.which("vim.tiny") or "vim"


def run(script: str, *, cwd: Path, status: int = 0, **variables: object) -> str:
    """Run a shell script; its standard output."""
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=cwd,
        env={**os.environ, "HOME": "/nonexistent", **{name: str(value) for name, value in variables.items()}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def pair(make: Make) -> Path:
    """The directory of two containers: ``a`` has settings, ``b`` has none but the image."""
    a = make("a", env=ENV, hostname="from-a", command="sh -c 'echo hello; exit 3'", volumes="/usr:/u:ro\n")
    (a / "cgroup/memory.max").write_text("64M")
    return make("b").parent


def same(pair: Path, *names: str) -> None:
    assert {name: (pair / "b" / name).read_text() for name in names} == {
        name: (pair / "a" / name).read_text() for name in names
    }


COPIES = {
    "cp": "for f in $NAMES; do cp a/$f b/$f; done",
    "cp-p": "for f in $NAMES; do cp -p a/$f b/$f; done",
    "cp-into": "cd a && cp $NAMES ../b/",
    "cp-remove-destination": "for f in $NAMES; do cp --remove-destination a/$f b/$f; done",
    "busybox-cp": "for f in $NAMES; do busybox cp a/$f b/$f; done",
    "cat": "for f in $NAMES; do cat a/$f > b/$f; done",
    "busybox-cat": "for f in $NAMES; do busybox cat a/$f | busybox tee b/$f > $T/out; done",
    "tee": "for f in $NAMES; do tee b/$f < a/$f > $T/out; done",
    "dd": "for f in $NAMES; do dd if=a/$f of=b/$f 2> $T/err; done",
    "dd-small-reads": "for f in $NAMES; do dd if=a/$f ibs=1 obs=64K of=b/$f 2> $T/err; done",
    "install": "for f in $NAMES; do install -m 600 a/$f b/$f; done",
    "install-C": "for f in $NAMES; do install -C a/$f b/$f; done",
    "mv-from-elsewhere": "for f in $NAMES; do cp a/$f $T/x; mv $T/x b/$f; done",
    "mv-from-memory": "for f in $NAMES; do cp a/$f /dev/shm/pydock-test-$$; mv -f /dev/shm/pydock-test-$$ b/$f; done",
    "tar": "tar -c -C a $NAMES | tar -x -C b",
    "tar-overwrite": "tar -c -C a $NAMES | tar -x --overwrite -C b",
    "tar-unlink-first": "tar -c -C a $NAMES | tar -x --unlink-first -C b",
    "busybox-tar": "busybox tar -c -C a $NAMES | busybox tar -x -C b",
    "rsync": "cd a && rsync -a $NAMES ../b/",
    "rsync-inplace": "cd a && rsync -a --inplace $NAMES ../b/",
    "rsync-checksum": "cd a && rsync -ac --no-whole-file $NAMES ../b/",
    "rsync-delete": "cd a && rsync -a --ignore-times $NAMES ../b/",
    "ansible": "for f in $NAMES; do t=b/.ansible_tmpq1w2e3$f; cp a/$f $t; chmod 600 $t; chown 0:0 $t; mv -f $t b/$f; done",
    "python-copy": '"$PYTHON" -c \'import shutil, sys; [shutil.copy(f"a/{n}", f"b/{n}") for n in sys.argv[1:]]\' $NAMES',
    "python-copy2": '"$PYTHON" -c \'import shutil, sys; [shutil.copy2(f"a/{n}", f"b/{n}") for n in sys.argv[1:]]\' $NAMES',
    "sendfile": '"$PYTHON" -c \'import os, sys\nfor n in sys.argv[1:]:\n'
    ' s, d = os.open(f"a/{n}", os.O_RDONLY), os.open(f"b/{n}", os.O_WRONLY | os.O_TRUNC)\n'
    " os.sendfile(d, s, 0, os.fstat(s).st_size); os.close(d)' $NAMES",
}


@pytest.mark.parametrize("script", COPIES.values(), ids=COPIES)
def test_settings_are_copied_by(pair: Path, script: str, tmp_path: Path) -> None:
    names = ("env", "hostname", "command", "volumes", "spec.toml")
    run(script, cwd=pair, NAMES=" ".join(names), T=tmp_path, PYTHON=sys.executable)
    same(pair, *names, "cgroup/memory.max")
    assert not [name for name in os.listdir(pair / "b") if name.startswith(".")]
    assert (pair / "b/error").read_text() == ""


@pytest.mark.parametrize("script", ["tar -c a | tar -x -C $T", "rsync -a a $T/", "busybox cp -a a $T/a"])
def test_a_whole_container_is_copied_out_by(pair: Path, script: str, tmp_path: Path) -> None:
    reports = "cat a/processes a/inspect.json a/changes a/stats > $T/x"
    run(reports, cwd=pair, T=tmp_path)  # a report's size is that of its last rendering
    names = "--exclude=a/wait --exclude=a/stdin"
    script = script.replace("tar -c a", f"tar -c {names} a").replace(
        "rsync -a", "rsync -a --exclude=wait --exclude=stdin"
    )
    if "cp" in script:  # cp would wait for the container's end, as cat does
        run("echo start > a/ctl; cat a/wait > $T/x", cwd=pair, T=tmp_path)
        run(reports, cwd=pair, T=tmp_path)
    run(script, cwd=pair, T=tmp_path)
    copied = {
        name: (tmp_path / "a" / name).read_text()
        for name in ("env", "hostname", "spec.toml", "cgroup/memory.max", "state")
    }
    assert copied == {name: (pair / "a" / name).read_text() for name in copied}


@pytest.mark.parametrize(
    "script", ["cp -p a/$N b/$N", "rsync -a a/$N b/$N", "tar -c -C a $N | tar -x -C b", "touch -r a/$N b/$N"]
)
@pytest.mark.parametrize("name", ["env", "hostname", "spec.toml"])
def test_times_are_kept_by(pair: Path, script: str, name: str) -> None:
    run("touch -d '2021-02-03 04:05:06 UTC' a/$N", cwd=pair, N=name)
    run(script, cwd=pair, N=name)
    assert (pair / "b" / name).stat().st_mtime == 1612325106.0


EDITS = {
    "sed": "sed -i s/A=1/A=9/ env",
    "sed-with-backup": "sed -i.bak s/A=1/A=9/ env 2> $T/err || sed -i~ s/A=1/A=9/ env",
    "busybox sed": "busybox sed -i s/A=1/A=9/ env",
    "vim": "$VIM -es -u NONE -c '%s/A=1/A=9/' -c wq env",
    "vim-backup": "$VIM -es -u NONE -c 'set backup' -c '%s/A=1/A=9/' -c wq env",
    "vim-no-backup": "$VIM -es -u NONE -c 'set nobackup nowritebackup' -c '%s/A=1/A=9/' -c wq env",
    "vim-renames": "$VIM -es -u NONE -c 'set backup backupcopy=no' -c '%s/A=1/A=9/' -c wq env",
    "vim-copies": "$VIM -es -u NONE -c 'set backup backupcopy=yes' -c '%s/A=1/A=9/' -c wq env",
    "rename": "sed s/A=1/A=9/ env > .env.new && mv .env.new env",
}


@pytest.mark.parametrize("script", EDITS.values(), ids=EDITS)
def test_a_setting_is_edited_by(make: Make, script: str, tmp_path: Path) -> None:
    c = make(env=ENV)
    run(script, cwd=c, T=tmp_path, VIM=VIM)
    assert (c / "env").read_text() == "A=9\nB=two words\n"
    assert (c / "error").read_text() == ""
    assert "A=9" in (c / "spec.toml").read_text()


@pytest.mark.parametrize(
    "script",
    [
        "sed -i s/A=1/nonsense/ env",
        "busybox sed -i s/A=1/nonsense/ env",
        "$VIM -es -u NONE -c '%s/A=1/nonsense/' -c wq env",
    ],
)
def test_an_editor_sees_that_it_is_refused(make: Make, script: str) -> None:
    c = make(env=ENV)
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=c, env={**os.environ, "VIM": VIM}, capture_output=True, timeout=100, check=False
    )
    assert (c / "env").read_text() == ENV
    assert "nonsense" in (c / "error").read_text()
    assert done.returncode != 0


def test_vim_edits_the_document(make: Make) -> None:
    c = make(env=ENV, hostname="old")
    run("$VIM -es -u NONE -c '%s/old/new/' -c wq spec.toml", cwd=c, VIM=VIM)
    assert (c / "hostname").read_text() == "new\n"


GIT = "git --git-dir=$T/repo --work-tree=. -c user.name=x -c user.email=x@example.org"


def test_git_checkout_restores_settings(make: Make, tmp_path: Path) -> None:
    c = make(env=ENV, hostname="committed")
    (c / "cgroup/pids.max").write_text("50")
    run(f"git init -q --bare $T/repo; {GIT} add env hostname cgroup/pids.max; {GIT} commit -q -m x", cwd=c, T=tmp_path)
    run("echo other > hostname; echo C=3 > env; echo 60 > cgroup/pids.max", cwd=c)
    assert run(f"{GIT} status --short -uno", cwd=c, T=tmp_path).split() == [
        "M",
        "cgroup/pids.max",
        "M",
        "env",
        "M",
        "hostname",
    ]
    run(f"{GIT} checkout -- .", cwd=c, T=tmp_path)
    assert [(c / name).read_text() for name in ("env", "hostname", "cgroup/pids.max")] == [ENV, "committed\n", "50\n"]
    assert run(f"{GIT} status --short -uno", cwd=c, T=tmp_path) == ""


def test_make_rebuilds_what_is_older_than_a_setting(make: Make, tmp_path: Path) -> None:
    c = make(hostname="one")
    (tmp_path / "Makefile").write_text(f"out: {c}/hostname {c}/state\n\tcp $< $@\n")
    built, now = "cp", tmp_path / "now"

    def make_it() -> str:
        """At a time that file systems know from that of the setting: their clock goes by ticks."""
        while not now.exists() or now.stat().st_mtime_ns <= (c / "hostname").stat().st_mtime_ns:
            now.touch()
        return run("make", cwd=tmp_path)

    assert built in make_it()
    assert "up to date" in make_it()
    (c / "hostname").write_text("two")
    assert built in make_it()
    assert (tmp_path / "out").read_text() == "two\n"
    assert "up to date" in make_it()


def test_mtime_of_a_status_is_when_it_changed(make: Make) -> None:
    c = make(command="true")
    before = (c / "state").stat().st_mtime_ns
    (c / "hostname").write_text("x")
    assert (c / "state").stat().st_mtime_ns == before
    (c / "ctl").write_text("start")
    (c / "wait").read_text()
    assert (c / "state").stat().st_mtime_ns > before
    assert (c / "state").stat().st_mtime <= time.time()


def test_mtime_of_a_report_of_failures_is_that_of_the_last(make: Make, tree: Path) -> None:
    c = make()
    before = (tree / "errors").stat().st_mtime_ns
    with pytest.raises(OSError, match="Invalid"):
        (c / "tty").write_text("2")
    assert before < (tree / "errors").stat().st_mtime_ns < time.time_ns()


def test_a_refused_write_leaves_the_mtime(make: Make) -> None:
    c = make(hostname="x")
    os.utime(c / "hostname", (1, 1))
    with pytest.raises(OSError, match="Invalid"):
        (c / "hostname").write_text("-")
    assert (c / "hostname").stat().st_mtime == 1


@pytest.mark.parametrize(
    ("name", "text"), [("hostname", "y"), ("env", "A=2\n"), ("health/interval", "20"), ("cgroup/memory.max", "32M")]
)
def test_mtime_of_the_document_is_that_of_the_last_setting(make: Make, name: str, text: str) -> None:
    c = make(hostname="x", env="A=1\n")
    os.utime(c / "spec.toml", (1, 1))
    (c / name).write_text(text)
    assert (c / "spec.toml").stat().st_mtime_ns == (c / name).stat().st_mtime_ns
    (c / "secrets/s").write_text("in no document")
    (c / "exec/x").mkdir()
    (c / "exec/x/workdir").write_text("/")
    assert (c / "spec.toml").stat().st_mtime_ns == (c / name).stat().st_mtime_ns


# attributes


def test_chmod_chown_and_utimens_hold_and_outlive_a_remount(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / "hostname").chmod(0o640)
    os.chown(c / "hostname", 1, 2)
    os.utime(c / "hostname", ns=(3, 4_000_000_005))
    own_engine.umount()
    own_engine.start()
    found = (c / "hostname").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns) == (0o640, 1, 2, 4_000_000_005)


@pytest.mark.parametrize("name", ["state", "exit_code", "error", "health/status"])
def test_the_time_of_a_status_is_that_of_its_change(make: Make, name: str) -> None:
    c = make()
    before = (c / name).stat().st_mtime_ns
    with pytest.raises(PermissionError) as caught:
        os.utime(c / name, (1, 1))
    assert caught.value.errno == errno.EPERM
    assert "can't be set" in (c / "error").read_text()
    if name != "error":
        assert (c / name).stat().st_mtime_ns == before
    (c / name).chmod(0o640)
    assert (c / name).stat().st_mode & 0o7777 == 0o640


def test_the_default_modes(make: Make) -> None:
    c = make()
    (c / "exec/x").mkdir()
    (c / "secrets/key").write_text("k")
    public = {"state", "id", "pid", "exit_code", "image", "created"}
    below = [c, *(path for path in c.rglob("*") if not path.is_symlink())]
    modes = {str(path.relative_to(c)): path.stat().st_mode & 0o777 for path in below}
    assert {name for name, mode in modes.items() if mode == 0o755} == {
        str(path.relative_to(c)) for path in below if path.is_dir()
    }
    assert {Path(name).name for name, mode in modes.items() if mode == 0o644} == public
    assert set(modes.values()) == {0o755, 0o644, 0o600}


@pytest.mark.parametrize(
    ("name", "size"), [("hostname", 4), ("env", len(ENV)), ("spec.toml", None), ("state", 8), ("ctl", None)]
)
def test_st_size_is_the_real_size(make: Make, name: str, size: int | None) -> None:
    c = make(env=ENV, hostname="abc")
    content = (c / name).read_bytes()
    assert (c / name).stat().st_size == (0 if name == "ctl" and size == 0 else len(content))
    assert size in (None, len(content))


def test_st_size_of_a_report_is_that_of_its_last_rendering(make: Make) -> None:
    c = make()
    assert (c / "inspect.json").stat().st_size == 4096
    size = len((c / "inspect.json").read_bytes())
    assert (c / "inspect.json").stat().st_size == size


def as_nobody(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=cwd,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def open_way(tree: Path) -> Path:
    """The mount point, where anybody can go."""
    tree.parent.chmod(0o711)
    return tree


@pytest.mark.parametrize("name", ["hostname", "env", "spec.toml", "error", "inspect.json", "cgroup/memory.max"])
def test_others_can_t_read_what_is_0600(open_way: Path, make: Make, name: str) -> None:
    c = make(command="true")
    assert "Permission denied" in as_nobody(f"cat {name}", c).stderr


@pytest.mark.parametrize("name", ["state", "id", "pid", "exit_code", "image", "created"])
def test_others_can_read_what_is_0644(open_way: Path, make: Make, name: str) -> None:
    c = make()
    assert as_nobody(f"cat {name}", c).stdout == (c / name).read_text()


@pytest.mark.parametrize(
    "script",
    [
        "echo x > hostname",
        "echo x >> env",
        "echo start > ctl",
        "touch hostname",
        "chmod 666 hostname",
        "rm -f hostname",
        "touch .scratch",
        "mv env .env",
        "truncate -s 0 hostname",
        "mkdir x",
    ],
)
def test_whoever_owns_it_by_chown_only_root_writes(open_way: Path, make: Make, script: str) -> None:
    c = make(hostname="kept", env=ENV)
    for name in ("", "hostname", "env", "ctl"):
        os.chown(c / name, 65534, 65534)
        (c / name).chmod(0o777)
    done = as_nobody(script, c)
    assert done.returncode != 0
    assert "not permitted" in done.stderr
    assert ((c / "hostname").read_text(), (c / "env").read_text()) == ("kept\n", ENV)


# scratch files and names that go


def test_unlink_of_a_setting_hides_its_name_for_two_seconds_and_keeps_its_value(make: Make) -> None:
    c = make(hostname="kept")
    begun = time.monotonic()
    (c / "hostname").unlink()
    assert not (c / "hostname").exists()
    assert "hostname" not in os.listdir(c)
    while not (c / "hostname").exists():
        assert time.monotonic() - begun < 60
    assert time.monotonic() - begun > 1.5
    assert (c / "hostname").read_text() == "kept\n"


def test_a_name_that_was_unlinked_is_there_again_when_it_is_created(make: Make) -> None:
    c = make(hostname="old")
    (c / "hostname").unlink()
    (c / "hostname").write_text("new")
    assert (c / "hostname").read_text() == "new\n"


@pytest.mark.parametrize("name", [".x", ".x.swp", "x~", "#x#", "sedAbC123", "4913", ".ansible_tmpabcenv", ".env.Ab3x"])
@pytest.mark.parametrize("where", ["", "cgroup"])
def test_a_scratch_file_is_a_file(make: Make, where: str, name: str) -> None:
    c = make()
    path = c / where / name
    path.write_bytes(b"some\0bytes" * 100)
    assert path.read_bytes() == b"some\0bytes" * 100
    assert name in os.listdir(c / where)
    path.rename(c / where / ".other")
    assert (c / where / ".other").stat().st_size == 1000
    os.truncate(c / where / ".other", 10)
    assert (c / where / ".other").read_bytes() == b"some\0bytes"
    assert name not in (c / "spec.toml").read_text()
    (c / where / ".other").unlink()
    assert not (c / where / ".other").exists()


@pytest.mark.parametrize("name", ["x", "x.bak", "sed12345", "4914", "Makefile", "envAbC123"])
def test_another_name_is_eperm(make: Make, name: str) -> None:
    c = make()
    with pytest.raises(PermissionError) as caught:
        (c / name).touch()
    assert caught.value.errno == errno.EPERM


def test_a_scratch_file_holds_a_mebibyte(make: Make) -> None:
    c = make()
    (c / ".x").write_bytes(bytes(1 << 20))
    with pytest.raises(OSError, match="File too large") as caught, open(c / ".x", "ab", buffering=0) as file:
        file.write(b"x")
    assert caught.value.errno == errno.EFBIG
    assert "1048576" in (c / "error").read_text()
    with pytest.raises(OSError, match="File too large"):
        os.truncate(c / ".x", (1 << 20) + 1)


def test_a_directory_has_sixteen_scratch_files(make: Make) -> None:
    c = make()
    paths = [c / f".{number}" for number in range(16)]
    assert [path.touch() for path in paths] == [None] * 16
    with pytest.raises(OSError, match="No space left"):
        (c / ".17").touch()
    paths[0].unlink()
    (c / ".17").touch()


def test_scratch_files_are_gone_with_the_mount(own_engine: Engine) -> None:
    c = own_engine.tree / "containers/c"
    c.mkdir()
    (c / ".x").write_text("x")
    own_engine.umount()
    own_engine.start()
    assert not (c / ".x").exists()


# lists


def test_a_redirect_replaces_a_list_when_it_is_closed(make: Make) -> None:
    c = make(env="A=1\nB=2\n")
    run("{ echo C=3; echo D=4; } > env", cwd=c)
    assert (c / "env").read_text() == "C=3\nD=4\n"


def test_within_a_transaction_additions_hold_at_once_and_the_rest_goes_at_the_end(make: Make) -> None:
    c = make(env="A=1\n")
    fd = os.open(c / "env", os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, b"B=2\n")
        assert (c / "env").read_text() == "A=1\nB=2\n"
    finally:
        os.close(fd)
    assert (c / "env").read_text() == "B=2\n"


def test_a_refused_line_undoes_the_whole_and_later_writes_fail_alike(make: Make) -> None:
    c = make(env="A=1\n")
    before = (c / "spec.toml").read_text()
    fd = os.open(c / "env", os.O_WRONLY | os.O_TRUNC)
    try:
        os.write(fd, b"B=2\n")
        with pytest.raises(OSError, match="Invalid"):
            os.write(fd, b"nonsense\n")
        assert (c / "env").read_text() == "A=1\n"
        with pytest.raises(OSError, match="Invalid"):
            os.write(fd, b"C=3\n")
    finally:
        os.close(fd)
    assert (c / "spec.toml").read_text() == before
    assert "nonsense" in (c / "error").read_text()


@pytest.mark.parametrize("name", ["capabilities", "env", "labels", "tmpfs"])
def test_an_undone_transaction_leaves_a_list_as_unset_as_it_was(make: Make, name: str) -> None:
    c = make()
    before = (c / "spec.toml").read_text(), (c / name).read_text()
    good = {"capabilities": "NET_ADMIN", "env": "A=1", "labels": "a=1", "tmpfs": "/t"}[name]
    run("{ echo $GOOD; echo =nonsense=; } > $N 2> $T", cwd=c, status=1, N=name, GOOD=good, T="/dev/null")
    assert ((c / "spec.toml").read_text(), (c / name).read_text()) == before


def test_appended_lines_are_atomic_one_by_one(make: Make) -> None:
    c = make(env="A=1\n")
    done = subprocess.run(
        "printf 'B=2\\nnonsense\\nC=3\\n' >> env", shell=True, cwd=c, capture_output=True, timeout=100, check=False
    )
    assert done.returncode != 0
    assert (c / "env").read_text() == "A=1\nB=2\n"


def test_many_writers_append_at_once(make: Make) -> None:
    c = make(labels="zero=0\n")
    script = "for i in 1 2 3 4 5 6 7 8; do (for j in 1 2 3 4 5; do echo w$i.$j=x >> labels; done) & done; wait"
    run(script, cwd=c)
    assert len((c / "labels").read_text().splitlines()) == 41


def test_a_line_with_a_minus_takes_an_item_away(make: Make) -> None:
    c = make(env="A=1\nB=2\nC=3\n", volumes="/usr:/u\n/etc:/e\n")
    run(
        "echo -B >> env; echo -C=3 >> env; echo -/u >> volumes; echo -CAP_CHOWN >> capabilities; echo -kill >> capabilities",
        cwd=c,
    )
    assert (c / "env").read_text() == "A=1\n"
    assert (c / "volumes").read_text() == "/etc:/e\n"
    assert not {"CAP_CHOWN", "CAP_KILL"} & set((c / "capabilities").read_text().split())


def test_an_item_of_the_same_name_takes_the_other_s_place(make: Make) -> None:
    c = make(env="A=1\nB=2\n")
    run("echo A=9 >> env", cwd=c)
    assert (c / "env").read_text() == "A=9\nB=2\n"


def test_what_unsets_and_what_empties(make: Make) -> None:
    c = make()
    image = (c / "env").read_text()
    run("echo A=1 > env; : > env", cwd=c)
    assert (c / "env").read_text() == image
    run("echo > env", cwd=c)
    assert (c / "env").read_text() == ""
    run("echo x > command; echo > command", cwd=c)
    assert (c / "command").read_text() == "\n"
    run(": > command", cwd=c)
    assert (c / "command").read_text() == "sh\n"


# offsets and pieces


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
@pytest.mark.parametrize("length", [100, 4095, 4096, 4097, 10_000, 100_000])
def test_a_long_command_arrives_whole_from(make: Make, shell: str, length: int) -> None:
    c = make()
    words = ("word " * (length // 5)).strip()
    done = subprocess.run(
        [*shell.split(), "-c", 'echo "$1" > command', "sh", words], cwd=c, capture_output=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (c / "command").read_text() == words + "\n"


@pytest.mark.parametrize("size", [1000, 4096, 5000, 65536])
def test_a_long_list_arrives_whole_in_pieces_of(make: Make, size: int) -> None:
    c = make()
    lines = "".join(f"NAME_{number}={'x' * (number % 97)}\n" for number in range(300))
    with open(c / "env", "wb", buffering=size) as file:
        file.write(lines.encode())
    assert (c / "env").read_text() == lines


def test_a_long_value_without_a_newline_is_taken_at_the_close_and_refused_there(make: Make) -> None:
    c = make()
    fd = os.open(c / "hostname", os.O_WRONLY)
    os.write(fd, b"x" * 5000)
    with pytest.raises(OSError, match="Invalid"):
        os.close(fd)
    assert "hostname" in (c / "error").read_text()


def test_what_was_written_is_read_back_from_the_same_descriptor(make: Make) -> None:
    c = make()
    with open(c / "hostname", "r+b", buffering=0) as file:
        file.write(b"new")
        assert os.pread(file.fileno(), 100, 0) == b"new\n"
        assert os.pread(file.fileno(), 100, 2) == b"w\n"
    with open(c / "env", "r+b", buffering=0) as file:
        file.write(b"NEW=1\n")
        assert b"NEW=1" in os.pread(file.fileno(), 1000, 0)


def test_pread_at_0_renders_again_and_elsewhere_it_does_not(make: Make) -> None:
    c = make(hostname="before")
    with open(c / "hostname", "rb", buffering=0) as file:
        assert file.read(3) == b"bef"
        (c / "hostname").write_text("AFTER")
        assert file.read() == b"ore\n"
        assert os.pread(file.fileno(), 100, 0) == b"AFTER\n"


def test_the_outcome_of_an_interrupted_echo_is_the_shell_s(make: Make) -> None:
    c = make(command="sh -c 'trap : TERM; while :; do sleep 1; done'", stop_timeout="600")
    (c / "ctl").write_text("start")
    stop = subprocess.Popen(["sh", "-c", "echo stop > ctl"], cwd=c, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        stop.wait(0.3)
    stop.send_signal(signal.SIGINT)
    assert stop.wait(60) != 0
    assert (c / "state").read_text() == "running\n"


def test_what_a_redirect_drops_is_gone_for_whoever_comes_next(make: Make) -> None:
    c = make(command="env")
    assert "PATH" not in run("echo A=1 > env; cat spec.toml", cwd=c)
    run("echo B=2 > env; echo start > ctl; cat wait > /dev/null", cwd=c)
    assert "A=1" not in (c / "log").read_text()
