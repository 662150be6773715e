"""Whether the machine has IPv6. It may have been switched off, by the kernel's command line or a setting, since networks were made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydock.runtime.errors import Unsupported

if TYPE_CHECKING:
    from pydock.runtime.network.record import NetworkRecord

_SWITCH: Final = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")


def has_ipv6() -> bool:
    """Whether links that are made now have it."""
    try:
        return _SWITCH.read_text().strip() == "0"
    except OSError:
        return False


def check(networks: Iterable[NetworkRecord | None]) -> None:
    """Unsupported for one that has IPv6 where the machine has none."""
    for network in networks:
        if network is not None and network.subnet6 and not has_ipv6():
            raise Unsupported(
                f"network: {network.name} has IPv6, which this machine has not ({_SWITCH} is not 0): "
                "empty its subnet6, or write none or host"
            )
