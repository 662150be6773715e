"""The kernel's side of the tree: inode numbers, look-up counts, handles, and the guard around every request.

The one module (with ``__main__``) that knows pyfuse3. Requests are dispatched to nodes and handles; whatever they raise
becomes an errno here. Rules that hold throughout:

- A handler that may be followed by a dependent request (release before a later open) takes its lock before its first
  await; requests are started in the order in which the kernel sent them.
- Names and attributes are cached by the kernel for long and invalidated when pydock itself changes them; files whose writes
  may block get an inode number of their own for every look-up, as the kernel serialises writers of one inode.
- mkdir, rmdir and rename are short: look-ups in that directory wait for them.
- ``invalidate_entry`` (the synchronous one) is never called in the loop: it can deadlock with a pending request.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pydock.fs import file as files
from pydock.fs.errors import translate
from pydock.fs.handle import Handle, shown, truncate
from pydock.fs.inodes import Inodes, Removal
from pydock.fs.nearest import unknown
from pydock.fs.node import (
    Directory,
    File,
    Link,
    Node,
    Refused,
    Scratch,
    Subject,
)
from pydock.fs.opens import Opens, Writer
from pydock.fs.scratch import ScratchHandle, may_scratch, new_scratch, resize
from pydock.fs.status import BLOCK, is_fleeting, of_its_own, stat_of
from pydock.fs.waiting import ControlHandle
from pydock.runtime.errors import Forbidden
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FileNameT, FlagT, InodeT, ModeT, RequestContext

P = ParamSpec("P")
R = TypeVar("R")

_LONG: Final = 86400.0
_HIDDEN: Final = 2.0
_INVALIDATION: Final = 2.0  # seconds; so long only when a request on that directory hangs


def guarded(
    handler: Callable[Concatenate[Operations, P], Coroutine[object, object, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[object, object, R]]:
    """Let nothing but a FUSEError (and trio's cancellation) leave *handler*."""

    async def guard(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            number, _ = translate(error)
            raise pyfuse3.FUSEError(number) from None

    return guard


class Operations(pyfuse3.Operations):
    """The tree below *root* as pyfuse3 wants it. *nursery* is for what outlives a request."""

    enable_writeback_cache = False

    def __init__(self, root: Directory, nursery: trio.Nursery) -> None:
        super().__init__()
        self.root = root
        self.nursery = nursery
        self.inodes = Inodes(root)
        self.opens = Opens(self.inodes)
        self.ended = False  # the session has: nobody can be told anything any more
        self.directories: dict[int, list[tuple[str, Node]]] = {}
        self._removals: dict[int, Removal] = {}  # by process
        self.supports_dot_lookup = True

    # attributes

    def entry_of(self, node: Node, number: int) -> EntryAttributes:
        """The attributes of *node* under inode number *number*."""
        found = stat_of(node)
        self.inodes.told(number, found.size)
        entry = EntryAttributes()
        entry.st_ino = number
        entry.generation = 0
        entry.entry_timeout = 0 if found.name_fleeting else _LONG
        entry.attr_timeout = 0 if found.fleeting else _LONG
        entry.st_mode, entry.st_nlink = found.mode, found.links
        entry.st_uid, entry.st_gid = found.uid, found.gid
        entry.st_blksize = found.block
        entry.st_size = found.size
        entry.st_blocks = (found.size + 511) // 512
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = found.mtime
        return entry

    def _looked_up(self, node: Node) -> EntryAttributes:
        number = self.inodes.new(node) if of_its_own(node) else self.inodes.number(node)
        entry = self.entry_of(node, number)
        self.inodes.looked_up(number)
        return entry

    # changes that pydock makes itself

    def changed(self, node: Node) -> None:
        """The attributes of *node* changed without the kernel's doing. It then believes no answer that is on its way, and
        so is told nothing of a file that it asks for each time."""
        if self.inodes.kernel_knows(node) and not (isinstance(node, File) and is_fleeting(node)):
            with suppress(OSError):  # the kernel has just dropped it
                pyfuse3.invalidate_inode(node.number, attr_only=True)
            self.inodes.invalidated(node.number)

    def gone(self, directory: Directory, name: str) -> None:
        """The entry *name* of *directory* went, or became another, without the kernel's doing."""
        if self.inodes.kernel_knows(directory):
            pyfuse3.invalidate_entry_async(directory.number, os.fsencode(name), ignore_enoent=True)

    async def gone_by_now(self, directory: Directory, name: str) -> None:
        """:meth:`gone`, and the kernel knows when this returns: for what whoever is answered next must not see any more.

        In a thread, as the kernel waits there for requests on that directory, which are answered meanwhile. Not for a handler of
        such a request.
        """
        if self.inodes.kernel_knows(directory):
            number, raw = directory.number, os.fsencode(name)

            def invalidate() -> None:
                with suppress(OSError):  # it did not know the name
                    pyfuse3.invalidate_entry(InodeT(number), FileNameT(raw))

            with trio.move_on_after(_INVALIDATION):
                await trio.to_thread.run_sync(invalidate, abandon_on_cancel=True)

    # errors

    async def _reporting(self, subject: Subject, action: Callable[[], Awaitable[R]]) -> R:
        """Run a changing *action*; its failure goes into the object's ``error``."""
        try:
            return await action()
        except Exception as error:
            number, words = translate(error)
            if words and number != errno.EINTR:
                subject.failed(words)
            raise pyfuse3.FUSEError(number) from None

    @staticmethod
    def _only_root(ctx: RequestContext) -> None:
        if ctx.uid != 0:
            raise Refused(errno.EPERM, "only root may write here")

    def _directory(self, number: int) -> Directory:
        node = self.inodes[number]
        if not isinstance(node, Directory):
            raise Refused(errno.ENOTDIR, "")
        return node

    @staticmethod
    def _name(raw: bytes) -> str:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return os.fsdecode(raw)

    # look-up

    @staticmethod
    async def _settled(node: Node) -> None:
        """Wait for what closes of the object's files have still to store: editors take a size or time that changes once more for
        somebody else's change."""
        if isinstance(node, File):
            await node.subject.metadata.settled()

    @guarded
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        directory = self._directory(parent_inode)
        if name == b".":
            return self._looked_up(directory)
        if name == b"..":
            return self._looked_up(directory.parent or directory)
        await directory.settled()
        node = directory.child(self._name(name))
        if node is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        await self._settled(node)
        return self._looked_up(node)

    async def forget(self, inode_list: list[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        for number, count in inode_list:
            self.inodes.forget(number, count)

    @guarded
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self.inodes[inode]
        await self._settled(node)
        return self.entry_of(node, inode)

    @guarded
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self.inodes[inode]
        if not isinstance(node, File) or not isinstance(node.entry, Link):
            raise Refused(errno.EINVAL, "")
        entry, subject = node.entry, node.subject

        async def read() -> str:
            return await entry.target(subject)

        return os.fsencode(await self._reporting(subject, read))

    @guarded
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self.inodes[inode]
        self._only_root(ctx)  # an owner by chown has no say yet
        handle = self.opens.get(fh)
        if isinstance(node, Scratch):
            if fields.update_size:
                resize(node, attr.st_size)
            if fields.update_mode:
                node.mode = stat.S_IFREG | stat.S_IMODE(attr.st_mode)
            node.uid = attr.st_uid if fields.update_uid else node.uid
            node.gid = attr.st_gid if fields.update_gid else node.gid
            node.mtime = attr.st_mtime_ns if fields.update_mtime else node.mtime
            return self.entry_of(node, inode)
        assert isinstance(node, File | Directory)
        if fields.update_size:
            if not isinstance(node, File):
                raise Refused(errno.EISDIR, "")
            self._only_root(ctx)
            file, size = node, attr.st_size

            async def cut() -> None:
                if size == 0:
                    files.ask(file)
                await (truncate(file, size) if handle is None else handle.truncate(size))

            await self._reporting(node.subject, cut)
        elif fields.update_mtime and isinstance(node, File) and node.entry.changed is not None:
            place = node.directory.place(node.name)

            async def set_time() -> None:
                raise Forbidden(f"{place}: its time is that of its last change and can't be set")

            await self._reporting(node.subject, set_time)
        own = node.attributes
        if fields.update_mode:
            own.mode = stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            own.uid = attr.st_uid
        if fields.update_gid:
            own.gid = attr.st_gid
        if fields.update_mtime:
            own.mtime = attr.st_mtime_ns
        node.subject.metadata.changed()
        return self.entry_of(node, inode)

    # directories

    @guarded
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = self._directory(inode)
        await directory.settled()
        number = self.opens.new()
        self.directories[number] = list(directory.children())
        self._removals = {pid: each for pid, each in self._removals.items() if each.fresh()}
        self._removals.setdefault(ctx.pid, Removal()).listed.add(directory)
        return number

    @guarded
    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        found = self.directories[fh]
        for index in range(start_id, len(found)):
            name, node = found[index]
            await self._settled(node)
            number = self.inodes.new(node) if of_its_own(node) else self.inodes.number(node)
            entry = self.entry_of(node, number)
            if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, index + 1):
                if self.inodes.known[number].count == 0:
                    self.inodes.forget(number, 0)
                break
            self.inodes.looked_up(number)

    @guarded
    async def releasedir(self, fh: FileHandleT) -> None:
        self.directories.pop(fh, None)

    @guarded
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        pass

    @guarded
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        directory, text = self._directory(parent_inode), self._name(name)

        async def make() -> Node:
            self._only_root(ctx)
            if directory.child(text) is not None:
                raise Refused(errno.EEXIST, f"{directory.place(text)} exists")
            await directory.make(text)
            node = directory.child(text)
            assert node is not None
            return node

        return self._looked_up(await self._reporting(directory.subject, make))

    @guarded
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory, text = self._directory(parent_inode), self._name(name)
        child = directory.child(text)
        if child is None:
            raise Refused(errno.ENOENT, "")
        if not isinstance(child, Directory):
            raise Refused(errno.ENOTDIR, "")

        async def remove() -> None:
            self._only_root(ctx)
            if (removal := self._removals.get(ctx.pid)) is not None:
                if removal.goes_on_to(child):
                    raise Forbidden(
                        f"{directory.place(text)} can't be removed with what is in it; it goes with rmdir alone"
                    )
                removal.emptying.add(directory)
            await directory.remove(text)

        owner = child.subject if directory.dynamic(text) is child else directory.subject
        await self._reporting(owner, remove)

    @guarded
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory, text = self._directory(parent_inode), self._name(name)

        async def link() -> EntryAttributes:
            self._only_root(ctx)
            if directory.child(text) is not None:
                raise Refused(errno.EEXIST, f"{directory.place(text)} exists")
            to = self._name(target)
            await directory.link(text, to)
            return self._linked(directory, text, to)

        return await self._reporting(directory.subject, link)

    def _linked(self, directory: Directory, name: str, target: str) -> EntryAttributes:
        """What symlink(2) must be answered with, a symlink; whoever looks again sees what has become of it."""

        async def read(subject: Subject) -> str:
            return target

        node = File(Link(name=name, target=read, doc=""), directory)
        number = self.inodes.new(node)
        entry = self.entry_of(node, number)
        entry.entry_timeout = 0
        self.inodes.looked_up(number)
        return entry

    @guarded
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        directory, text = self._directory(parent_inode), self._name(name)

        async def make() -> EntryAttributes:
            self._only_root(ctx)
            if not stat.S_ISREG(mode):
                raise Forbidden(f"{directory.place(text)}: only plain files live here")
            return self._looked_up(await self._created(directory, text, mode, ctx))

        return await self._reporting(directory.subject, make)

    @guarded
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        raise Refused(errno.EPERM, "")

    @guarded
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory, text = self._directory(parent_inode), self._name(name)
        node = directory.child(text)
        if node is None:
            raise Refused(errno.ENOENT, "")

        known = self._removals.get(ctx.pid)
        removal = known if known is not None and directory in known.listed else Removal()

        async def remove() -> None:
            self._only_root(ctx)
            if isinstance(node, Scratch):
                del directory.scratch[text]
            elif directory.growing and not removal.refused and not removal.comes_down_to(directory):
                await directory.unlink(text)
            elif isinstance(node, File) and node.settable and not removal.refused:
                removal.hidden.append(node)
                self._hide(node)
            elif isinstance(node, Directory):
                raise Refused(errno.EISDIR, f"{directory.place(text)} is a directory: use rmdir")
            else:
                removal.refuse()
                raise Forbidden(f"{directory.place(text)} can't be removed; an object goes with rmdir of its directory")

        await self._reporting(directory.subject, remove)

    def _hide(self, node: File) -> None:
        """An unlinked setting keeps its value and is out of sight for two seconds, or until it is created again."""
        node.hidden = trio.current_time() + _HIDDEN
        node.number = 0  # the kernel takes the inode it knew for deleted

    @guarded
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        source, target = self._directory(parent_inode_old), self._directory(parent_inode_new)
        old, new = self._name(name_old), self._name(name_new)
        node = source.child(old)
        if node is None:
            raise Refused(errno.ENOENT, "")

        async def move() -> None:
            self._only_root(ctx)
            if source is not target:
                raise Forbidden(f"{source.place(old)} can't be moved to another directory: {target.place(new)}")
            present = target.child(new)
            if flags == pyfuse3.RENAME_NOREPLACE and present is not None:
                raise Refused(errno.EEXIST, f"{target.place(new)} exists")
            if flags not in (0, pyfuse3.RENAME_NOREPLACE):
                raise Refused(errno.EINVAL, "names can't be exchanged")
            if isinstance(node, Directory):
                await source.rename(old, new)
            elif isinstance(node, Scratch):
                await self._rename_scratch(target, node, new, ctx)
            elif isinstance(node, File) and node.settable:
                self._set_aside(target, node, new, ctx)
            elif source.growing:
                await source.rename(old, new)
            else:
                raise Forbidden(f"{source.place(old)} can't be renamed")

        owner = node.subject if isinstance(node, Directory) and source.dynamic(old) is node else source.subject
        await self._reporting(owner, move)

    async def _rename_scratch(self, directory: Directory, scratch: Scratch, new: str, ctx: RequestContext) -> None:
        setting = directory.static(new) or directory.dynamic(new)
        if setting is None and directory.growing and not may_scratch(directory, new):
            await directory.create(new)
            setting = directory.child(new)
        if isinstance(setting, File) and setting.settable:
            await files.replace(setting, bytes(scratch.content), ctx.pid)
            own = setting.attributes
            own.mode, own.uid, own.gid = stat.S_IMODE(scratch.mode), scratch.uid, scratch.gid
            own.mtime = scratch.mtime
            setting.hidden = 0.0
            del directory.scratch[scratch.name]
            self.inodes.rebind(scratch.number, setting)
            scratch.number = 0
            return
        if setting is not None:
            raise Forbidden(f"{directory.place(new)} is no setting and can't be replaced")
        if not may_scratch(directory, new):
            raise unknown(directory, new)
        del directory.scratch[scratch.name]
        scratch.name = new
        directory.scratch[new] = scratch

    def _set_aside(self, directory: Directory, node: File, new: str, ctx: RequestContext) -> None:
        """An editor moves a setting to a back-up name: a scratch file takes that name, the setting keeps its value, unseen."""
        if not may_scratch(directory, new):
            raise Forbidden(f"{directory.place(node.name)} can't be renamed to {new}")
        scratch = new_scratch(directory, new, stat.S_IMODE(node.mode), ctx.uid, ctx.gid)
        scratch.content += shown(node)
        if node.number:
            self.inodes.rebind(node.number, scratch)
        self._hide(node)

    # files

    async def _created(self, directory: Directory, name: str, mode: int, ctx: RequestContext, flags: int = 0) -> Node:
        """The node that an O_CREAT open, or mknod, of a name that is out of sight makes."""
        setting = directory.static(name)
        if isinstance(setting, File) and setting.settable:
            setting.hidden = 0.0
            return setting
        if may_scratch(directory, name, exclusive=bool(flags & os.O_EXCL)):
            return new_scratch(directory, name, stat.S_IMODE(mode) & ~ctx.umask, ctx.uid, ctx.gid)
        if directory.growing:
            await directory.create(name)
            node = directory.child(name)
            assert node is not None
            return node
        raise unknown(directory, name)

    @guarded
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        directory, text = self._directory(parent_inode), self._name(name)

        async def make() -> tuple[FileInfo, EntryAttributes]:
            self._only_root(ctx)
            node = directory.child(text)
            if node is not None and flags & os.O_EXCL:
                raise Refused(errno.EEXIST, f"{directory.place(text)} exists")
            if node is None:
                # A tool that unlinked a setting creates it anew and expects it empty.
                fresh = isinstance(directory.static(text), File)
                node = await self._created(directory, text, mode, ctx, flags)
                fresh = fresh or directory.growing
            else:
                fresh = False
            entry = self._looked_up(node)
            return await self._opened(node, flags, ctx, entry.st_ino, fresh=fresh), entry

        return await self._reporting(directory.subject, make)

    @guarded
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self.inodes[inode]
        if flags & os.O_TRUNC:
            self.inodes.told(inode, None)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            handle = await self.opens.to_read(node, ctx.pid, inode, lambda: self._handle(node, flags, ctx, inode))
            return FileInfo(fh=self.opens.add(handle), direct_io=True, keep_cache=False)

        async def opened() -> FileInfo:
            if not isinstance(node, Scratch):
                self._only_root(ctx)
            return await self._opened(node, flags, ctx, inode)

        subject = node.subject if isinstance(node, File | Directory) else cast(Directory, node.parent).subject
        return await self._reporting(subject, opened)

    async def _opened(
        self, node: Node, flags: int, ctx: RequestContext, number: int, *, fresh: bool = False
    ) -> FileInfo:
        handle = await self._handle(node, flags, ctx, number, fresh=fresh)
        return FileInfo(fh=self.opens.add(handle, Writer(ctx.pid, number)), direct_io=True, keep_cache=False)

    async def _handle(self, node: Node, flags: int, ctx: RequestContext, number: int, *, fresh: bool = False) -> Handle:
        if isinstance(node, Scratch):
            return ScratchHandle(node, truncated=bool(flags & os.O_TRUNC))
        if not isinstance(node, File):
            raise Refused(errno.EISDIR, "")
        await self._settled(node)
        return await files.open_file(node, flags, ctx.pid, number, self.nursery, fresh=fresh)

    def _subject(self, handle: Handle) -> Subject | None:
        """Whom it tells of what fails; None when a close does nothing, as with whoever only reads (a fifth of such a round)."""
        return None if type(handle) is Handle or isinstance(handle, ScratchHandle) else handle.file.subject

    @guarded
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return await self.opens[fh].read(off, size)

    @guarded
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self.opens.writes(fh)
        subject = handle.subject
        if isinstance(handle, ControlHandle):
            await subject.metadata.settled()
        return await self._reporting(subject, lambda: handle.write(off, buf))

    @guarded
    async def flush(self, fh: FileHandleT) -> None:
        handle = self.opens[fh]
        subject = self._subject(handle)
        if subject is None or not handle.unfinished:
            return
        if not await self.opens.is_held(fh):
            await self._reporting(subject, handle.flush)

    @guarded
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is half written, and what is taken is as safe as it gets: what waits for the close waits for that."""

    @guarded
    async def release(self, fh: FileHandleT) -> None:
        handle = self.opens.pop(fh)
        subject = self._subject(handle)
        if subject is None:
            return
        closing = subject.metadata.closing if handle.file.settable else set()
        done = trio.Event()
        closing.add(done)
        try:
            await self._reporting(subject, handle.release)
        finally:
            closing.discard(done)
            done.set()
        self.changed(handle.file)

    @guarded
    async def poll(
        self, inode: InodeT, fh: FileHandleT, poll_handle: pyfuse3.PollHandle | None, ctx: RequestContext
    ) -> int:
        handle = self.opens.get(fh)
        if handle is None:
            return 0
        if poll_handle is not None:
            wake = poll_handle.notify

            def told() -> None:
                if not self.ended:
                    wake()

            handle.on_ready(told)
        return handle.poll()

    # the file system

    @guarded
    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK
        data.f_namemax = 255
        return data

    @guarded
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True
