"""pydockd: mounts the tree and serves it until it is unmounted.

``pydockd MOUNTPOINT [-o NAME=VALUE,…]`` runs in the foreground; with NOTIFY_SOCKET in its environment it tells systemd when it is
ready (sd_notify(3)). This is the one place that composes the packages: what runs, what it runs on, and what shows it.

Order at the start: lock; read what is on disk and undo what was half done; start, or find again, the small processes; adopt what
lives; then mount. At the end nothing is stopped but this process, and, when no container is left, the small ones.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

import pyfuse3
import trio
from pydock.fs import library
from pydock.fs.containers.directory import ContainersDirectory
from pydock.fs.errors import leaves
from pydock.fs.imagefiles import Images
from pydock.fs.imageroots import ImageRoots
from pydock.fs.images import collect, images_directory, prune_images
from pydock.fs.intake import taking_in
from pydock.fs.library import Library, chains, recover
from pydock.fs.mounting import (
    GivenUp,
    locked,
    mount_points,
    notify,
    prepare_directories,
    prepare_mountpoint,
    prepare_process,
    release_mountpoint,
    tell_ending,
    tell_ready,
    watch_mount,
)
from pydock.fs.networks import NetworksDirectory
from pydock.fs.node import Directory
from pydock.fs.operations import Operations
from pydock.fs.options import Options, from_file, from_mount
from pydock.fs.registries import Accounts, RegistriesDirectory
from pydock.fs.root import Root, RootDirectory, root_metadata, version
from pydock.fs.volumes import VolumesDirectory
from pydock.overlay.errors import OverlayError
from pydock.overlay.host import HostImage
from pydock.overlay.registry.client import Registries
from pydock.overlay.registry.endpoint import Proxies
from pydock.overlay.registry.settings import Settings
from pydock.overlay.registry.transfers import Transfers
from pydock.overlay.store import Store
from pydock.runtime.cgroup import HELPERS, Hierarchy
from pydock.runtime.companion import Companion, Link, Persistent
from pydock.runtime.container import Container
from pydock.runtime.containers import Containers
from pydock.runtime.engine import Engine, trivial
from pydock.runtime.errors import Busy, Invalid, PydockError, Taken
from pydock.runtime.events import Events
from pydock.runtime.execs import Exec
from pydock.runtime.keeper import Keeper
from pydock.runtime.logger.client import Logger
from pydock.runtime.monitor.client import Monitor
from pydock.runtime.network.attaching import Attachments
from pydock.runtime.network.store import NetworkStore
from pydock.runtime.process import GRACE
from pydock.runtime.settler import Settler
from pydock.runtime.volumestore import VolumeStore
from pydock.runtime.wire import Message

log = logging.getLogger("pydockd")

_TASKS: Final = 4096  # requests at once: a blocked reader holds one
_PARTING: Final = 1.0  # seconds from the unmount to the end for those who have files open, and for what is done yet
_COMMANDS: Final = 15.0  # seconds more for commands that are carried out yet: a stop waits ten by itself


class Daemon:
    """The parts, put together."""

    def __init__(
        self, mountpoint: str, options: Options, read_options: Callable[[], Options], hierarchy: Hierarchy
    ) -> None:
        self.mountpoint = mountpoint
        self.options = options
        self.read_options = read_options  # again
        self.store = Store(options.root / "images")
        self.host = HostImage(options.root / "host")
        self.hierarchy = hierarchy
        self.helpers = hierarchy.create(HELPERS)
        self._stopping = trio.Event()
        self._alive = True

    async def run(self) -> None:
        """Serve until the unmount."""
        events = Events(self.options.root / "journal")
        settler = Settler(self.options.root)
        try:
            # The small processes are talked to until everything else has ended.
            async with trio.open_nursery() as attending:
                await self._work(events, settler, attending)
                attending.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await settler.settle()
            settler.close()
            events.close()
        if not self._alive:
            await trio.to_thread.run_sync(self._clean_up)

    async def _work(self, events: Events, settler: Settler, attending: trio.Nursery) -> None:
        options, run, join = self.options, str(self.options.run), self.helpers.join_files
        containers: Containers | None = None

        async def monitor_connected(link: Link, fresh: bool) -> None:
            if not fresh:
                await monitor.agree(link)
            if containers is not None:
                (containers.monitor_died if fresh else containers.take_missed)()

        async def logger_connected(link: Link, fresh: bool) -> None:
            if fresh and containers is not None:
                await containers.logger_is_new(Logger(link))

        def logger_said(message: Message) -> None:
            if containers is not None:
                containers.logger_said(message)

        async def keeper_connected(link: Link, fresh: bool) -> None:
            if fresh and containers is not None:
                await containers.keeper_is_new(Keeper(link))

        companions = [
            Companion("monitor", run, join=join, on_connect=monitor_connected),
            Companion("logger", run, join=join, on_connect=logger_connected),
            Companion("keeper", run, join=join, on_connect=keeper_connected),
        ]
        monitor = Monitor(companions[0])
        companions[0].subscribe(monitor.event)
        companions[1].subscribe(logger_said)
        async with trio.open_nursery() as nursery:
            engine = Engine(
                root=options.root,
                run=options.run,
                mountpoint=self.mountpoint,
                log_max=options.log_max,
                hierarchy=self.hierarchy,
                images=Library(self.store, self.host, options.root / "places", self.mountpoint),
                attachments=Attachments(NetworkStore(options.root / "networks", events, settler, options.addressing)),
                volumes=VolumeStore(options.root / "volumes", options.run / "empty", events, settler),
                events=events,
                settler=settler,
                monitor=monitor,
                logger=Logger(companions[1]),
                keeper=Keeper(Persistent(companions[2])),
                nursery=nursery,
            )
            containers = Containers(engine)
            await trio.to_thread.run_sync(engine.volumes.read)
            await trio.to_thread.run_sync(engine.attachments.read)
            await trio.to_thread.run_sync(containers.read)
            await trio.to_thread.run_sync(recover, self.store, self.host, options, containers)
            async with trio.open_nursery() as starting:
                for companion in companions:
                    starting.start_soon(attending.start, companion.run)
            nursery.start_soon(settler.run)
            await containers.adopt()
            await engine.attachments.names.ask(options.dns)
            await engine.attachments.names.begin(
                Companion("names", run, join=join, on_connect=engine.attachments.names.connected), attending
            )
            await self._filter(engine)
            attending.start_soon(engine.attachments.pool.run)
            attending.start_soon(engine.attachments.watch)
            nursery.start_soon(containers.take_exits)
            async with trio.open_nursery() as commands:
                await self._serve(engine, containers, nursery, commands)
                commands.cancel_scope.deadline = trio.current_time() + _COMMANDS
            nursery.cancel_scope.cancel()
        with trio.move_on_after(GRACE):
            await containers.let_go(ending=True)
        self._alive = any(container.alive or container.secrets.any for container in containers)
        if not any(container.alive for container in containers):
            await trio.to_thread.run_sync(engine.attachments.take_down)

    @staticmethod
    async def _filter(engine: Engine) -> None:
        """The packet filter may be another's since, or nobody's."""
        if len(engine.attachments.store):
            try:
                await engine.attachments.filter()
            except (OSError, Taken) as error:
                log.error("networks: %s", error)

    def _proxies(self) -> Proxies:
        return self.options.proxies or Proxies.from_environment()

    async def _serve(
        self, engine: Engine, containers: Containers, nursery: trio.Nursery, commands: trio.Nursery
    ) -> None:
        image_roots = ImageRoots(self.store, self.options.run / "images", nursery)

        transfers = Transfers()
        registries = Registries(self.store, lambda host: accounts.endpoint(host), self._proxies, transfers)
        settings = Settings(self.options.root / "registries", self.options.run / "registries")
        await trio.to_thread.run_sync(settings.read)
        accounts = Accounts(settings, registries, engine, lambda host: self.options.mirrors.get(host, ()))
        images = Images(
            self.store,
            engine,
            image_roots,
            registries,
            transfers,
            partial(library.users, containers, self.store),
            partial(library.asking, containers),
            containers.renaming.image,
            lambda: chains(containers),
            lambda: prune(),
        )

        async def reload() -> str:
            fresh = await trio.to_thread.run_sync(self.read_options)
            engine.log_max = fresh.log_max
            self.options = replace(self.options, mirrors=fresh.mirrors, proxies=fresh.proxies)
            await engine.attachments.names.ask(fresh.dns)
            return "read /etc/pydock.toml: log_max, dns, registries and proxies hold from now on, the others from the next mount on"

        async def prune() -> int:
            removed = await prune_images(images)
            for reference in removed:
                directory: Directory = images_tree
                for part in reference.split("/"):
                    inner = directory.dynamic(part)
                    if not isinstance(inner, Directory):
                        operations.gone(directory, part)
                        break
                    directory = inner
            return len(removed)

        async def prune_in(tree: VolumesDirectory | NetworksDirectory) -> int:
            removed = await tree.prune()
            for name in removed:
                operations.gone(tree, name)
            return len(removed)

        root = RootDirectory(
            Root(
                engine,
                containers,
                partial(library.counts, self.store, engine),
                prune,
                lambda: prune_in(volumes_tree),
                lambda: prune_in(networks_tree),
                lambda: collect(images),
                reload,
                self._shutdown,
                root_metadata(),
            )
        )
        containers_directory = ContainersDirectory(containers, images, root)
        root.add(containers_directory)
        images_tree = images_directory(images)
        root.add(images_tree)
        volumes_tree = VolumesDirectory(containers, containers_directory.settled_all, root)
        root.add(volumes_tree)
        networks_tree = NetworksDirectory(containers, containers_directory.settled_all, root)
        root.add(networks_tree)
        root.add(RegistriesDirectory(accounts, root))
        operations = Operations(root, commands)

        def changed(what: object) -> None:
            assert isinstance(what, Container | Exec)
            for node in containers_directory.files_of(what):
                operations.changed(node)

        async def removed(what: object) -> None:
            assert isinstance(what, Container)
            if containers_directory.forget(what):
                await operations.gone_by_now(containers_directory, what.name)

        engine.on_change = changed
        engine.on_removed = removed
        fuse = {"fsname=pydock", "subtype=pydock", "allow_other", "default_permissions"}
        pyfuse3.init(operations, self.mountpoint, fuse)
        try:
            async with trio.open_nursery() as serving:
                serving.start_soon(self._signals)
                serving.start_soon(watch_mount, self.mountpoint, self._shutdown)
                serving.start_soon(self._end, serving.cancel_scope)
                log.info("pydock %s serves %s", version(), self.mountpoint)
                tell_ready()
                pyfuse3.trio = taking_in()  # type: ignore[attr-defined]
                await pyfuse3.main(min_tasks=4, max_tasks=_TASKS)
                serving.cancel_scope.cancel()
        finally:
            notify("STOPPING=1")
            operations.ended = True
            pyfuse3.close(unmount=self.mountpoint in mount_points())
            tell_ending(self.options)
            engine.on_change, engine.on_removed = lambda _: None, trivial
            await image_roots.detach_all()
            for container in containers:
                try:
                    await container.root.detach()
                except Busy:
                    continue

    async def _signals(self) -> None:
        hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]  # else nohup(1) began it
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as received:
            async for _ in received:
                self._shutdown()

    def _shutdown(self) -> None:
        """Begin the end: the mount leaves the tree at once, whoever stands in it."""
        if not self._stopping.is_set():
            self._stopping.set()
            release_mountpoint(self.mountpoint)

    async def _end(self, serving: trio.CancelScope) -> None:
        """The loop ends by itself when nobody holds a file open any more; whoever asked for the end is to get the answer first. Those
        who wait for something yet (``cat events``) get ECONNABORTED from the kernel, when it is over."""
        await self._stopping.wait()
        await trio.sleep(_PARTING)
        pyfuse3.terminate()
        await trio.sleep(_PARTING)
        serving.cancel()

    def _clean_up(self) -> None:
        """Nothing runs: the small processes end by themselves, and then their cgroup can go."""
        deadline = time.monotonic() + 10
        while self.helpers.procs() and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            self.helpers.remove()
            self.hierarchy.remove_parent()
        except (PydockError, OSError) as error:
            log.debug("the cgroup stays: %s", error)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of pydockd(8)."""
    parser = argparse.ArgumentParser(
        prog="pydockd", description="Serve containers as a file system, in the foreground."
    )
    parser.add_argument("mountpoint", metavar="MOUNTPOINT", help="an existing directory, usually /mnt/pydock")
    parser.add_argument("-o", metavar="NAME=VALUE,…", dest="options", action="append", default=[], help="mount options")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step")
    parser.add_argument("--version", action="version", version=f"pydock {version()}")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """The program; its exit status."""
    given = arguments(argv)

    def read_options() -> Options:
        return from_mount(from_file(), ",".join(given.options))

    logging.basicConfig(
        level=logging.DEBUG if given.verbose else logging.INFO,
        format="pydockd: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    logging.getLogger("pyfuse3").addFilter(GivenUp())
    if not given.verbose:
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for each request
    try:
        if os.geteuid() != 0:
            raise Invalid("only root can run containers")
        mountpoint = os.path.realpath(given.mountpoint)  # as mountinfo tells it
        options = read_options()
        prepare_directories(options)
        prepare_process()
        with locked(options) as hierarchy:
            prepare_mountpoint(mountpoint)
            trio.run(Daemon(mountpoint, options, read_options, hierarchy).run)
    except (PydockError, OverlayError, OSError, RuntimeError) as error:
        log.error("%s", error)
        return 1
    except BaseExceptionGroup as group:
        known, others = group.split((PydockError, OverlayError, OSError, RuntimeError))
        if others is not None:
            raise others from None
        for leaf in leaves(known):
            log.error("%s", leaf)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
