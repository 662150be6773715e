"""The kernel's calls that Python's standard library does not offer.

One function a system call, with the kernel's own name and order of arguments. Each raises ``OSError`` with
the errno (and the path, where there is one) on failure, and does nothing clever: policy lives with the
callers. Constants carry the names of the uapi headers. Everything that needs ``ctypes`` is in this module,
so that the code between fork and exec has one small place to import from. Only the standard library is
imported here.

Numbers of system calls: those from 424 on are equal on every architecture; the older ones are tabled for
x86_64 and aarch64. See syscalls(2) and each call's own manual page.
"""

from __future__ import annotations

import ctypes
import errno as errno_
import fcntl
import os
import struct
from collections.abc import Callable
from typing import Final, NoReturn

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall_with_lock = ctypes.PyDLL(None, use_errno=True).syscall
_syscall_with_lock.restype = ctypes.c_long

_ARCHITECTURE: Final = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine, 0)
_NR_PIVOT_ROOT: Final = (155, 41)[_ARCHITECTURE]
_NR_KEYCTL: Final = (250, 219)[_ARCHITECTURE]
_NR_SECCOMP: Final = (317, 277)[_ARCHITECTURE]
_NR_STATX: Final = (332, 291)[_ARCHITECTURE]
_NR_BPF: Final = (321, 280)[_ARCHITECTURE]
_NR_PIDFD_SEND_SIGNAL: Final = 424
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
_NR_PIDFD_OPEN: Final = 434
_NR_CLONE3: Final = 435
_NR_CLOSE_RANGE: Final = 436
_NR_OPENAT2: Final = 437
_NR_PIDFD_GETFD: Final = 438
_NR_MOUNT_SETATTR: Final = 442

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
AT_SYMLINK_NOFOLLOW: Final = 0x100

# mount(2), umount2(2)
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_NOSYMFOLLOW: Final = 256
MS_BIND: Final = 4096
MS_MOVE: Final = 8192
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MNT_FORCE: Final = 1
MNT_DETACH: Final = 2
MNT_EXPIRE: Final = 4
UMOUNT_NOFOLLOW: Final = 8

# fsopen(2), fsconfig(2), fsmount(2), move_mount(2), open_tree(2), mount_setattr(2)
FSOPEN_CLOEXEC: Final = 1
FSMOUNT_CLOEXEC: Final = 1
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSCONFIG_SET_BINARY: Final = 2
FSCONFIG_SET_PATH: Final = 3
FSCONFIG_SET_PATH_EMPTY: Final = 4
FSCONFIG_SET_FD: Final = 5
FSCONFIG_CMD_CREATE: Final = 6
FSCONFIG_CMD_RECONFIGURE: Final = 7
MOVE_MOUNT_F_SYMLINKS: Final = 0x1
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_SYMLINKS: Final = 0x10
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOVE_MOUNT_SET_GROUP: Final = 0x100
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR__ATIME: Final = 0x70
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_IDMAP: Final = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x00200000

# statfs(2)
PROC_SUPER_MAGIC: Final = 0x9FA0

# openat2(2)
RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

# statx(2)
STATX_MNT_ID: Final = 0x1000
STATX_MNT_ID_UNIQUE: Final = 0x4000

# unshare(2), setns(2), clone(2)
CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWUTS: Final = 0x04000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000
CLONE_INTO_CGROUP: Final = 0x200000000
_CLONE_VM: Final = 0x00000100
_CLONE_VFORK: Final = 0x00004000
_CLONE_PARENT: Final = 0x00008000
_CLONE_PARENT_SETTID: Final = 0x00100000

# prctl(2)
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

# seccomp(2)
SECCOMP_SET_MODE_FILTER: Final = 1
SECCOMP_FILTER_FLAG_SPEC_ALLOW: Final = 4

# bpf(2)
BPF_PROG_LOAD: Final = 5
BPF_PROG_ATTACH: Final = 8
BPF_PROG_DETACH: Final = 9
BPF_PROG_GET_FD_BY_ID: Final = 13
BPF_PROG_QUERY: Final = 16
BPF_PROG_TYPE_CGROUP_DEVICE: Final = 15
BPF_CGROUP_DEVICE: Final = 6
BPF_F_ALLOW_MULTI: Final = 2
BPF_F_REPLACE: Final = 4

KEYCTL_JOIN_SESSION_KEYRING: Final = 1

_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

# ioctl(pidfd, PIDFD_GET_INFO): include/uapi/linux/pidfd.h
_PIDFD_GET_INFO: Final = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
_PIDFD_INFO_EXIT: Final = 1 << 3


def _error(path: str | bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    words = os.strerror(number)
    return OSError(number, words) if path is None else OSError(number, words, path)


def _bytes(path: str | bytes | None) -> bytes | None:
    return path.encode(errors="surrogateescape") if isinstance(path, str) else path


def _call(number: int, *arguments: object, path: str | bytes | None = None) -> int:
    result = _syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise _error(path)
    return int(result)


def mount(source: str, target: str, filesystemtype: str | None, mountflags: int, data: str | None = None) -> None:
    """mount(2)."""
    if _libc.mount(_bytes(source), _bytes(target), _bytes(filesystemtype), ctypes.c_ulong(mountflags), _bytes(data)):
        raise _error(target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    if _libc.umount2(_bytes(target), flags):
        raise _error(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call(_NR_PIVOT_ROOT, _bytes(new_root), _bytes(put_old), path=new_root)


def fsopen(fsname: str, flags: int = FSOPEN_CLOEXEC) -> int:
    """fsopen(2): a file system context, as a descriptor."""
    return _call(_NR_FSOPEN, _bytes(fsname), ctypes.c_uint(flags), path=fsname)


def fsconfig(fd: int, cmd: int, key: str | None = None, value: str | bytes | None = None, aux: int = 0) -> None:
    """fsconfig(2). On EINVAL and the like the context's own message, if it has one, is put into the error's words."""
    try:
        _call(_NR_FSCONFIG, ctypes.c_int(fd), ctypes.c_uint(cmd), _bytes(key), _bytes(value), ctypes.c_int(aux))
    except OSError as error:
        try:
            words = os.read(fd, 4096).decode(errors="replace").strip()  # "e overlay: ...", one message a read
        except OSError:
            words = ""
        raise OSError(error.errno, words or error.strerror, key or "fsconfig") from None


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, mount_attrs: int = 0) -> int:
    """fsmount(2): a detached mount, as a descriptor."""
    return _call(_NR_FSMOUNT, ctypes.c_int(fd), ctypes.c_uint(flags), ctypes.c_uint(mount_attrs))


def move_mount(from_dirfd: int, from_pathname: str, to_dirfd: int, to_pathname: str, flags: int) -> None:
    """move_mount(2)."""
    _call(
        _NR_MOVE_MOUNT,
        ctypes.c_int(from_dirfd),
        _bytes(from_pathname),
        ctypes.c_int(to_dirfd),
        _bytes(to_pathname),
        ctypes.c_uint(flags),
        path=to_pathname or from_pathname,
    )


def open_tree(dirfd: int, pathname: str, flags: int) -> int:
    """open_tree(2): with OPEN_TREE_CLONE a detached copy of the mount, as a descriptor."""
    return _call(_NR_OPEN_TREE, ctypes.c_int(dirfd), _bytes(pathname), ctypes.c_uint(flags), path=pathname)


def mount_setattr(
    dirfd: int,
    pathname: str,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    """mount_setattr(2), Linux 5.12."""
    attributes = struct.pack("=QQQQ", attr_set, attr_clr, propagation, userns_fd)
    _call(
        _NR_MOUNT_SETATTR,
        ctypes.c_int(dirfd),
        _bytes(pathname),
        ctypes.c_uint(flags),
        attributes,
        ctypes.c_size_t(len(attributes)),
        path=pathname,
    )


def openat2(dirfd: int, pathname: str | bytes, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2): always O_CLOEXEC. EAGAIN (a rename raced with ``..``) is tried again here."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, mode, resolve)
    for _ in range(128):
        try:
            return _call(
                _NR_OPENAT2,
                ctypes.c_int(dirfd),
                _bytes(pathname),
                how,
                ctypes.c_size_t(len(how)),
                path=pathname,
            )
        except BlockingIOError as error:
            last = error
    raise last


def mount_id(fd: int, *, unique: bool = False) -> int:
    """The id of the mount that *fd* is in, by statx(2): that of mountinfo, or the one that is never used again (Linux 6.8).

    0 where the kernel does not tell.
    """
    wanted = STATX_MNT_ID_UNIQUE if unique else STATX_MNT_ID
    status = ctypes.create_string_buffer(256)
    _call(_NR_STATX, ctypes.c_int(fd), b"", ctypes.c_int(AT_EMPTY_PATH), ctypes.c_uint(wanted), status)
    # struct statx: stx_mask (u32) is its first field, stx_mnt_id (u64) is at 144
    (known,) = struct.unpack_from("=I", status, 0)
    (number,) = struct.unpack_from("=Q", status, 144)
    return int(number) if known & wanted else 0


def fstatfs(fd: int) -> int:
    """fstatfs(2), of which only f_type is told: what kind of file system *fd* is on."""
    status = ctypes.create_string_buffer(256)
    if _libc.fstatfs(ctypes.c_int(fd), status):
        raise _error()
    # struct statfs: f_type (long) is its first field
    (kind,) = struct.unpack_from("@l", status, 0)
    return int(kind)


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _libc.unshare(ctypes.c_int(flags)):
        raise _error()


def setns(fd: int, nstype: int) -> None:
    """setns(2)."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(nstype)):
        raise _error()


def setfsuid(fsuid: int) -> None:
    """setfsuid(2) of the calling thread; it tells no failure, so that is asked for."""
    _libc.setfsuid(ctypes.c_uint(fsuid))
    if _libc.setfsuid(ctypes.c_uint(0xFFFFFFFF)) != fsuid:
        raise OSError(errno_.EPERM, "setfsuid")


def setfsgid(fsgid: int) -> None:
    """setfsgid(2), as setfsuid."""
    _libc.setfsgid(ctypes.c_uint(fsgid))
    if _libc.setfsgid(ctypes.c_uint(0xFFFFFFFF)) != fsgid:
        raise OSError(errno_.EPERM, "setfsgid")


def sethostname(name: str) -> None:
    """sethostname(2)."""
    raw = name.encode()
    if _libc.sethostname(raw, ctypes.c_size_t(len(raw))):
        raise _error()


def pidfd_open(pid: int, flags: int = 0) -> int:
    """pidfd_open(2); the descriptor is close-on-exec."""
    return _call(_NR_PIDFD_OPEN, ctypes.c_int(pid), ctypes.c_uint(flags))


def pidfd_send_signal(pidfd: int, sig: int) -> None:
    """pidfd_send_signal(2)."""
    _call(_NR_PIDFD_SEND_SIGNAL, ctypes.c_int(pidfd), ctypes.c_int(sig), None, ctypes.c_uint(0))


def pidfd_getfd(pidfd: int, targetfd: int) -> int:
    """pidfd_getfd(2): a duplicate of another process's descriptor."""
    return _call(_NR_PIDFD_GETFD, ctypes.c_int(pidfd), ctypes.c_int(targetfd), ctypes.c_uint(0))


def pidfd_exit_status(pidfd: int) -> int | None:
    """The wait(2) status of a process that has been reaped, also when it is nobody's child here.

    Linux 6.15 (PIDFD_GET_INFO with PIDFD_INFO_EXIT). None where the kernel is older or the process has not been
    reaped yet: wait for POLLHUP on the descriptor first, POLLIN comes before the reap.
    """
    info = bytearray(64)
    struct.pack_into("=Q", info, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError as error:
        if error.errno in (errno_.ENOTTY, errno_.EINVAL, errno_.ESRCH):
            return None
        raise
    # struct pidfd_info: mask, cgroupid (u64); pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid (u32);
    # exit_code (s32)
    (mask,) = struct.unpack_from("=Q", info, 0)
    (status,) = struct.unpack_from("=i", info, 60)
    return int(status) if mask & _PIDFD_INFO_EXIT else None


def syncfs(fd: int) -> None:
    """syncfs(2): wait until the file system that *fd* is on has everything on its disk."""
    if _libc.syncfs(ctypes.c_int(fd)):
        raise _error()


def close_range(first: int, last: int, flags: int = 0) -> None:
    """close_range(2)."""
    _call(_NR_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags))


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), for the operations whose arguments are numbers."""
    result = _libc.prctl(
        ctypes.c_int(option),
        ctypes.c_ulong(arg2),
        ctypes.c_ulong(arg3),
        ctypes.c_ulong(arg4),
        ctypes.c_ulong(arg5),
    )
    if result < 0:
        raise _error()
    return int(result)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the calling thread; each set a bit mask of capability numbers."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    low = 0xFFFFFFFF
    data = struct.pack(
        "=6I",
        effective & low,
        permitted & low,
        inheritable & low,
        effective >> 32,
        permitted >> 32,
        inheritable >> 32,
    )
    if _libc.capset(header, data):
        raise _error()


def capget(pid: int = 0) -> tuple[int, int, int]:
    """capget(2): the effective, permitted and inheritable set as bit masks."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, pid)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data):
        raise _error()
    e0, p0, i0, e1, p1, i1 = struct.unpack("=6I", data.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def seccomp_load(program: bytes, flags: int = 0) -> None:
    """seccomp(2) SECCOMP_SET_MODE_FILTER with *program*, an array of struct sock_filter (8 bytes each)."""
    code = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: unsigned short len, then a pointer at its natural alignment
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _call(_NR_SECCOMP, ctypes.c_uint(SECCOMP_SET_MODE_FILTER), ctypes.c_uint(flags), head)


def keyctl_join_session_keyring() -> None:
    """keyctl(2) KEYCTL_JOIN_SESSION_KEYRING with an anonymous keyring."""
    _call(_NR_KEYCTL, ctypes.c_int(KEYCTL_JOIN_SESSION_KEYRING), None)


def bpf(cmd: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    """bpf(2); *attr* is the union bpf_attr, packed by the caller, written back by the kernel."""
    return _call(_NR_BPF, ctypes.c_int(cmd), attr, ctypes.c_uint(len(attr)))


def bpf_prog_load(prog_type: int, insns: bytes, name: str) -> int:
    """bpf(2) BPF_PROG_LOAD of *insns*, an array of struct bpf_insn (8 bytes each); a descriptor, close-on-exec."""
    code = ctypes.create_string_buffer(insns, len(insns))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attr = ctypes.create_string_buffer(128)
    # prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name
    fields = (prog_type, len(insns) // 8, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0)
    struct.pack_into("=IIQQIIQII16s", attr, 0, *fields, name.encode()[:15])
    return bpf(BPF_PROG_LOAD, attr)


def bpf_prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int, replace_fd: int = 0) -> None:
    """bpf(2) BPF_PROG_ATTACH; *replace_fd* is the program to replace, with BPF_F_REPLACE (Linux 5.6)."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=5I", attr, 0, target_fd, prog_fd, attach_type, flags, replace_fd)
    bpf(BPF_PROG_ATTACH, attr)


def bpf_prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    """bpf(2) BPF_PROG_DETACH."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=3I", attr, 0, target_fd, prog_fd, attach_type)
    bpf(BPF_PROG_DETACH, attr)


def bpf_prog_query(target_fd: int, attach_type: int) -> tuple[int, ...]:
    """bpf(2) BPF_PROG_QUERY: the ids of the programs attached to *target_fd* itself, 64 at most."""
    ids = ctypes.create_string_buffer(64 * 4)
    attr = ctypes.create_string_buffer(128)
    # target_fd, attach_type, query_flags, attach_flags, prog_ids, prog_cnt
    struct.pack_into("=4IQI", attr, 0, target_fd, attach_type, 0, 0, ctypes.addressof(ids), 64)
    bpf(BPF_PROG_QUERY, attr)
    (count,) = struct.unpack_from("=I", attr, 24)
    return struct.unpack_from(f"={count}I", ids)


def bpf_prog_get_fd_by_id(prog_id: int) -> int:
    """bpf(2) BPF_PROG_GET_FD_BY_ID."""
    attr = ctypes.create_string_buffer(128)
    struct.pack_into("=3I", attr, 0, prog_id, 0, 0)
    return bpf(BPF_PROG_GET_FD_BY_ID, attr)


def clone3(flags: int, exit_signal: int, cgroup: int = 0) -> int:
    """clone3(2) used as fork(2): 0 in the child, its number in the parent; *cgroup* is for CLONE_INTO_CGROUP.

    Nothing of what ``os.fork`` does around the call is done (no at-fork handlers, no locks taken or made anew): for a
    process with a single thread, whose child soon calls execve. The interpreter's lock is held all through, so the
    child has it.
    """
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
    # set_tid_size, cgroup
    arguments = struct.pack("=11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup)
    result = _syscall_with_lock(ctypes.c_long(_NR_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
    if result < 0:
        raise _error()
    return int(result)


#: Whether there is ``Vfork``.
HAS_VFORK: Final = os.uname().machine == "x86_64"
_VFORK_STACK: Final = 1 << 20
_STACK_GAP: Final = 1 << 16


class Vfork:
    """clone3(2) used as vfork(2): a child that runs *run*, with its own number, in this process's memory and on a stack of its
    own, while this process stands still, until the child has called execve(2) or has ended.

    As nothing is copied it takes a quarter of what a fork of this interpreter does, half of which is faults of pages that are
    touched again. What *run* has changed in memory stays changed here, so all that may be done afterwards is ``os._exit``. For a
    process with a single thread, on x86_64 (``HAS_VFORK``). What takes time is done when this is made.

    A child that is given a stack begins behind the system call, in the C library's wrapper, whose return takes the address that
    is on top: that of the entry. On aarch64 it would take a register's.
    """

    def __init__(self, run: Callable[[int], NoReturn]) -> None:
        self._number = ctypes.c_int()
        self._entry = ctypes.CFUNCTYPE(None)(lambda: run(self._number.value))
        # Further down in this thread's own stack, as interpreters from 3.14 on want to find themselves there.
        self._top = (_begin_of_stack() - _STACK_GAP) & ~15
        frame = struct.pack("@PP", ctypes.cast(self._entry, ctypes.c_void_p).value, 0)
        ctypes.memmove(self._top, frame, len(frame))

    def __call__(self, flags: int, cgroup: int = 0) -> int:
        """Bears it, as a child of this process's parent (CLONE_PARENT); its number, once it lives by itself."""
        flags |= _CLONE_VM | _CLONE_VFORK | _CLONE_PARENT | _CLONE_PARENT_SETTID
        number = ctypes.addressof(self._number)
        stack = self._top - _VFORK_STACK
        # as for clone3; exit_signal is 0, as it is this process's own
        arguments = struct.pack("=11Q", flags, 0, 0, number, 0, stack, _VFORK_STACK, 0, 0, 0, cgroup)
        result = _syscall_with_lock(ctypes.c_long(_NR_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
        if result < 0:
            raise _error()
        return int(result)


def _begin_of_stack() -> int:
    """The lowest address that the first thread's stack has had need of, proc_pid_maps(5)."""
    with open("/proc/self/maps") as file:
        for line in file:
            if line.endswith("[stack]\n"):
                return int(line.partition("-")[0], 16)
    raise OSError(errno_.ENOSYS, "there is no stack")


def set_title(title: str) -> None:
    """What /proc/PID/cmdline and ps(1) show of this process: in the place of its arguments, cut off where they end."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, 48 and 49 in proc_pid_stat(5)
    if end > begin:
        ctypes.memset(begin, 0, end - begin)
        text = title.encode()[: end - begin - 1]
        ctypes.memmove(begin, text, len(text))
