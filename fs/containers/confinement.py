"""How a container is confined: capabilities, the filter of system calls, devices, limits, kernel parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydock.fs.containers.rows import C, boolean, own_items, parsed, show_list, spec_of, store_list
from pydock.fs.node import Entry, List, Value
from pydock.runtime import launching
from pydock.runtime.confine import capabilities, devices, rlimits, seccomp, sysctls
from pydock.runtime.confine.seccomp_profile import read_profile
from pydock.runtime.paths import checked_source


async def _store_seccomp(subject: C, text: str | None, caller: int) -> None:
    def checked(text: str) -> str:
        profile = seccomp.parse(text)
        if profile.startswith("/"):
            checked_source(profile, outside=subject.engine.mountpoint)
            read_profile(Path(profile))
        return profile

    await subject.container.configuration.change("seccomp", parsed("seccomp", checked, text))


def _show_capabilities(subject: C) -> Sequence[str]:
    spec = spec_of(subject)
    if spec.privileged and spec.capabilities is None:
        return capabilities.in_order(capabilities.from_mask(capabilities.bounding()))
    return launching.capability_names(spec)


async def _store_capabilities(subject: C, items: tuple[str, ...] | None) -> None:
    if items is not None:
        items = capabilities.in_order(items)
    await subject.container.configuration.change("capabilities", items)


def _device(subject: C, line: str) -> tuple[str, ...]:
    device = devices.parse(line)
    devices.look_up(device, outside=subject.engine.mountpoint)
    return (str(device),)


def _ulimit(subject: C, line: str) -> tuple[str, ...]:
    return (str(rlimits.parse(line)),)


def _sysctl(subject: C, line: str) -> tuple[str, ...]:
    sysctl = sysctls.parse(line)
    own = launching.own_namespaces(spec_of(subject))
    sysctls.check(sysctl, own_network="net" in own, own_ipc="ipc" in own, own_uts="uts" in own)
    return (str(sysctl),)


def _name(item: str) -> str:
    return item.partition("=")[0]


CONFINEMENT: tuple[Entry[C], ...] = (
    boolean(
        "privileged",
        "1 lifts the confinement: all capabilities, all devices, nothing masked, and no seccomp filter unless seccomp is "
        "set. The default is 0.",
    ),
    boolean("no_new_privileges", "1 keeps set-user-ID programs from gaining privileges (prctl(2)). The default is 0."),
    List(
        name="capabilities",
        show=_show_capabilities,
        own=own_items("capabilities"),
        parse=lambda c, line: capabilities.in_order(capabilities.parse(line)),
        store=_store_capabilities,
        doc="The whole set of capabilities(7), a name a line. ``echo NET_ADMIN >>`` adds, ``echo -CHOWN >>`` takes away, ``ALL`` is "
        "all of them. The default is docker's 14. Unset with privileged, which gives all whatever is set here, it shows all; what "
        "is added to or taken from them then is a set like any other, which stays when privileged is 0 again.",
    ),
    Value(
        name="seccomp",
        show=lambda c: launching.seccomp_profile(spec_of(c), privileged=bool(spec_of(c).privileged)),
        store=_store_seccomp,
        doc="The filter of system calls: ``default`` (docker's allow-list), ``unconfined``, or the absolute path of a profile in "
        "docker's JSON format; EINVAL for one that is none, or names an action, a comparison or an architecture that is not known. "
        "System calls that are not known are passed over. Unset it is default, and unconfined with privileged (for those in "
        "exec/ also with their own); what is set holds for all.",
    ),
    List(
        name="devices",
        show=show_list("devices"),
        own=own_items("devices"),
        parse=_device,
        store=store_list("devices"),
        doc="Devices of the machine, SOURCE[:TARGET[:rwm]] a line, besides the usual ones (null, zero, full, random, urandom, tty).",
    ),
    List(
        name="ulimits",
        show=show_list("ulimits"),
        own=own_items("ulimits"),
        parse=_ulimit,
        store=store_list("ulimits"),
        key=_name,
        doc="Resource limits, NAME=SOFT[:HARD] a line, names as in setrlimit(2) without ``RLIMIT_``, in lower case; ``unlimited`` is "
        "no limit. A raise that the engine has no right to is reported in error and does not fail the start.",
    ),
    List(
        name="sysctls",
        show=show_list("sysctls"),
        own=own_items("sysctls"),
        parse=_sysctl,
        store=store_list("sysctls"),
        key=_name,
        doc="Kernel parameters of the container's own namespaces, NAME=VALUE a line: kernel.msg*, kernel.sem, kernel.shm*, "
        "fs.mqueue.*, and net.* unless the network is the host's or another container's. Where net.* can be set, and nothing else is, "
        "net.ipv4.ip_unprivileged_port_start is 0 (any user may listen at any port) and, without userns, net.ipv4.ping_group_range is "
        "``0 2147483647`` (and may ping without NET_RAW), as in docker; what is shown here is what was set.",
    ),
)
