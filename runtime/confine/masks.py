"""What of /proc and /sys a container does not get to see or to write, and what of it may be mounted on; docker's and runc's lists."""

from __future__ import annotations

from typing import Final

# Hidden under an empty file or directory: they tell of the machine, or reach into it. A path may be a glob(7), since
# the number of processors is the machine's; one that the kernel lacks is passed over.
MASKED: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)

READ_ONLY: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)

# All of /proc where a volume may be. What the program itself, and who executes another in the container, reads and writes of a
# process there (attr, mountinfo, ns, fd) must be the kernel's; these only count, and some like to tell a container its own figures.
COVERABLE: Final = (
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
)
