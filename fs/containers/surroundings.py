"""What a container is made of and what it sees of the machine: image, volumes, file systems in memory, network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydock.fs.containers.rows import C, boolean, own_items, refuse_alive, show_list, spec_of, store_field, store_list
from pydock.fs.node import Entry, List, Value
from pydock.runtime import launching, volumes
from pydock.runtime.errors import Invalid
from pydock.runtime.formats import parse_size
from pydock.runtime.network import etc, ports
from pydock.runtime.network.words import DEFAULT, is_shared, memberships, parse, settled
from pydock.runtime.paths import checked_source


async def _store_image(subject: C, text: str | None, caller: int) -> None:
    container = subject.container
    reference = text.strip() if text is not None else ""
    if not reference:
        await container.configuration.change_image(None)
        return
    await container.configuration.change_image(container.engine.images.find(reference).reference)


def _shm_size(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise Invalid('"0" is too small for a size of /dev/shm: at least 1')
    return size


def _show_shm_size(subject: C) -> str:
    own = spec_of(subject).shm_size
    return str(launching.DEFAULT_SHM if own is None else own)


def _volume(subject: C, line: str) -> tuple[str, ...]:
    volume = volumes.Volume.parse(line)
    volumes.checked_target(volume.target)
    if volume.named:
        subject.engine.volumes.find(volume.source)
    else:
        checked_source(volume.source, outside=subject.engine.mountpoint)
    return (str(volume),)


async def _store_volumes(subject: C, items: tuple[str, ...] | None) -> None:
    await subject.container.configuration.change_volumes(items)


def _volume_key(item: str) -> str:
    return item.split(":")[1] if ":" in item else item


def _tmpfs(subject: C, line: str) -> tuple[str, ...]:
    tmpfs = volumes.Tmpfs.parse(line)
    volumes.checked_target(tmpfs.target)
    return (str(tmpfs),)


def _network(subject: C, line: str) -> tuple[str, ...]:
    container = subject.container
    item = parse(line, container.name, container.engine.find)
    for each in memberships((item,)):
        store = container.engine.attachments.store
        network = store.get(DEFAULT) if each.network == DEFAULT else store.find(each.network)
        if network is not None:
            network.asked(each)
    return (item,)


async def _store_network(subject: C, items: tuple[str, ...] | None) -> None:
    await subject.container.configuration.change_network("network", settled(items))


def _network_ready(subject: C) -> None:
    """Of one that runs a network that is not its own can't change."""
    if is_shared(spec_of(subject).network):
        refuse_alive(subject, "network")


async def _store_ports(subject: C, items: tuple[str, ...] | None) -> None:
    await subject.container.configuration.change_network("ports", items)


def _names(name: str, parse_line: Callable[[str], str], doc: str) -> List[C]:
    async def store(subject: C, items: tuple[str, ...] | None) -> None:
        await subject.container.configuration.change_network(name, items)

    return List(
        name=name,
        show=show_list(name),
        own=own_items(name),
        parse=lambda c, line: (parse_line(line),),
        store=store,
        doc=doc,
    )


def _show_network(subject: C) -> Sequence[str]:
    own = spec_of(subject).network
    return (DEFAULT,) if own is None else own


SURROUNDINGS: tuple[Entry[C], ...] = (
    Value(
        name="image",
        mode=0o644,
        show=lambda c: spec_of(c).image,
        store=_store_image,
        doc="What the container is made of: a reference in images/, the absolute path of a directory, whose tree is then the "
        "lower layer, or ``host``: the machine's own /usr, with a small /etc and nothing else "
        "of the machine. Reads in canonical form. ENOENT if there is no such image; EBUSY while a writable layer exists "
        "(``reset`` discards it).",
    ),
    boolean(
        "readonly",
        "1 makes the root file system read-only, with /etc/hosts, hostname and resolv.conf; volumes and tmpfs stay as they are. "
        "The default is 0.",
    ),
    List(
        name="tmpfs",
        show=show_list("tmpfs"),
        own=own_items("tmpfs"),
        parse=_tmpfs,
        store=store_list("tmpfs"),
        key=lambda item: item.partition(":")[0],
        doc="File systems in memory, TARGET[:OPTION,…] a line: size=BYTES or size=N% of the memory, nr_inodes=N, nr_blocks=N, "
        "mode=OCTAL, uid=, gid=, mpol= (a policy of memory nodes), ro, exec, suid, dev, noatime, nodiratime, strictatime and their "
        "opposites; see tmpfs(5) and mount(8). The defaults are noexec,nosuid,nodev, and the mode of the directory that is there; "
        "one that is missing is made, with 1777. None may be in /proc.",
    ),
    Value(
        name="shm_size",
        show=_show_shm_size,
        store=store_field("shm_size", _shm_size),
        doc="The size of /dev/shm in bytes. The default is 67108864 (64M).",
    ),
    List(
        name="volumes",
        show=show_list("volumes"),
        own=own_items("volumes"),
        parse=_volume,
        store=_store_volumes,
        key=_volume_key,
        doc="SOURCE:TARGET[:ro,rprivate,…] a line; SOURCE is the absolute path of a directory or file, or a name in volumes/. "
        "``-TARGET`` or the whole line takes one away. ENOENT if there is no such source (a name is not made by its use: mkdir "
        "volumes/NAME), EINVAL if it leads into the mount itself. Live: a line comes to and goes from the running container, or is "
        "refused and changes nothing; EBUSY if a process uses what is to go, as with umount(8), or if the new one would cover "
        "another. TARGET is resolved inside the container and made where it is missing (EROFS if it can't be); EINVAL for what "
        "is in /proc, but for files that only count, such as /proc/cpuinfo and /proc/meminfo. An empty named "
        "volume is filled, at its first use, with what the image has at TARGET, its owner and mode as well. What an image declares "
        "as VOLUME gets none by itself: it is a directory of the writable layer, made at the start where it is missing.",
    ),
    List(
        name="network",
        show=_show_network,
        own=own_items("network"),
        parse=_network,
        store=_store_network,
        ready=_network_ready,
        key=lambda item: item.split()[0],
        doc="``bridge``, the default, and NAME of networks/ are networks that it is a member of, with ``ip=ADDRESS``, ``mac=ADDRESS`` "
        "and ``alias=NAME`` as options, a line each. ``none`` is a network of its own with nothing but lo; ``host`` is the machine's, "
        "``container:NAME`` that of another container, which must run. Live: networks are joined and left, all of them too (that is "
        "``none``), while it runs, with its ``ports``; EBUSY for other addresses in one, and to or from ``host`` and "
        "``container:NAME``.",
    ),
    List(
        name="ports",
        show=show_list("ports"),
        own=own_items("ports"),
        parse=lambda c, line: (ports.parse(line),),
        store=_store_ports,
        key=ports.key,
        doc="``[IP:]HOST[-END]:CONTAINER[-END][/tcp|udp|sctp]`` a line: ports of the machine that lead to the container's, from "
        "outside, which keeps its addresses, from the machine itself (127.0.0.1 and ::1 too) and from other containers. An IPv6 "
        "address is in brackets; HOST 0 is any port that is free, HOST-END with one CONTAINER "
        "the first of these that is; ``auto`` publishes what the image exposes, each at such a "
        "port. Claimed at the start: EADDRINUSE when somebody listens there, or has published it, and ``error`` tells who. Live. "
        "A range with other numbers inside has 16384 ports at most, of ports that are free 1000. Where "
        "net.bridge.bridge-nf-call-ip6tables is 1 "
        "the kernel drops what comes back to ::1: there that address refuses, and publishing it is EOPNOTSUPP.",
    ),
    _names(
        "dns",
        etc.parse_server,
        "Addresses of DNS servers, one a line, that come behind the one of its networks in /etc/resolv.conf, for when that fails; most "
        "programs ask three in all. Live: the file is written anew, whatever the container has made of it.",
    ),
    _names(
        "hosts",
        etc.parse_host,
        "``NAME ADDRESS`` a line, for /etc/hosts. Live, as ``dns``.",
    ),
)
