"""What the kernel's log says of processes that it kills for want of memory."""

from __future__ import annotations

import pytest
from pydock.runtime.oom import Kills

A, B = "a" * 64, "0b" * 32
REPORT = "6,1,2,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),oom_memcg=/p/{0},task_memcg=/p/{0}{1},task=x,pid=7,uid=0\n"
KILLED = "3,1,2,-;Memory cgroup out of memory: Killed process 7 (x) total-vm:1kB, UID:0 pgtables:72kB\n"


@pytest.mark.parametrize(
    ("records", "ids", "somewhere"),
    [
        ([REPORT.format(A, ""), KILLED], {A}, False),
        ([REPORT.format(A, "/below/it"), KILLED], {A}, False),
        ([REPORT.format(A, ""), KILLED, REPORT.format(B, ""), KILLED], {A, B}, False),
        ([REPORT.format(A, "")], set(), False),  # the counter has not gone up yet
        ([KILLED], set(), True),  # the report was one too many for the kernel
        ([REPORT.format(A, ""), KILLED, KILLED], {A}, True),
        ([f"6,1,2,-;Tasks in /p/{A} are going to be killed due to memory.oom.group set\n", KILLED], {A}, False),
        ([f"6,1,2,-;Task in /p/{A} killed as a result of limit of /p\n", KILLED], {A}, False),
        (
            ["6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE,global_oom,task_memcg=/,task=x,pid=7,uid=0\n", KILLED],
            set(),
            True,
        ),
        ([f"12,1,2,-;a word about /p/{A}\n", "30,1,2,-;systemd[1]: a word\n SUBSYSTEM=x\n"], set(), False),
    ],
)
def test_whose_counters_are_to_be_looked_at(records: list[str], ids: set[str], somewhere: bool) -> None:
    kills = Kills()
    assert [kills.take(record.encode()) for record in records] == [None] * len(records)
    assert (kills.ids, kills.somewhere) == (ids, somewhere)
