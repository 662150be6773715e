"""What of /proc and /sys an unprivileged container does not get to see or to write; docker's lists."""

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
