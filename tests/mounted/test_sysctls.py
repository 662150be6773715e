"""The kernel's parameters of a container's network: docker's defaults, what ``sysctls`` say, and those of others left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Make = Callable[..., Path]
SETTINGS = Path("/proc/sys/net/ipv4")
NAMES = ("ip_unprivileged_port_start", "ping_group_range")
SHOW = f"cat {SETTINGS / NAMES[0]} {SETTINGS / NAMES[1]}"
PORTS, GROUPS = ["0"], ["0", "2147483647"]
NOBODY = ["65534", "65534"]  # how the kernel shows ids that the user namespace does not have
OWN = {
    "bridge": ({}, [PORTS, GROUPS]),
    "none": ({"network": "none"}, [PORTS, GROUPS]),
    "privileged": ({"privileged": "1"}, [PORTS, GROUPS]),
    "userns": ({"userns": "auto"}, [PORTS, NOBODY]),
    "userns-none": ({"userns": "auto", "network": "none"}, [PORTS, NOBODY]),
    "ports-set": ({"sysctls": "net.ipv4.ip_unprivileged_port_start=80\n"}, [["80"], GROUPS]),
    "groups-set": ({"network": "none", "sysctls": "net.ipv4.ping_group_range=5 6\n"}, [PORTS, ["5", "6"]]),
}


def shown(c: Path) -> list[list[str]]:
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n"
    return [line.split() for line in (c / "log").read_text().splitlines()[-2:]]


@pytest.mark.parametrize("name", OWN)
def test_docker_s_defaults_hold_in_a_network_namespace_of_its_own(make: Make, name: str) -> None:
    settings, expected = OWN[name]
    c = make(command=SHOW, **settings)
    assert [shown(c), shown(c)] == [expected, expected]  # the second time in what was made ahead
    assert (c / "sysctls").read_text() == settings.get("sysctls", "")


def test_the_machine_s_own_stay_as_they_are(make: Make) -> None:
    before = [(SETTINGS / name).read_text().split() for name in NAMES]
    assert before[0] != PORTS
    assert shown(make("a", command=SHOW)) != before
    assert shown(make("b", command=SHOW, network="host")) == before
    assert [(SETTINGS / name).read_text().split() for name in NAMES] == before


def test_any_user_listens_at_a_low_port(make: Make) -> None:
    c = make(command="sh -c 'timeout 1 nc -l -p 80; [ $? = 143 ]'", user="1000", capabilities="KILL\n")
    (c / "ctl").write_text("start")
    assert (c / "wait").read_text() == "0\n", (c / "log").read_text()
