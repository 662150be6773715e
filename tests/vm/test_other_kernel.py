"""The tests marked ``cgroup``, ``device`` or ``mount`` again, on another kernel and with cgroup v2: in a virtual machine.

There is one boot for all of them. It goes on beside the tests of this machine from the first one on, and this is the last.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest


@pytest.mark.timeout(3100)
def test_what_depends_on_the_kernel_holds_on_another_one_with_cgroup_v2(other_kernel: Callable[[], str]) -> None:
    said = other_kernel()
    last = said.splitlines()[-1]
    assert " passed" in last, said
    assert not any(word in last for word in ("failed", "error", "skipped", "xfailed")), said
