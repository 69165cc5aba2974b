"""How much main memory is free; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

import psutil

CPU_FRACTION = 0.25
"""Fraction of the free memory for activations; main memory is shared with other programs."""
CONTROL_GROUP = Path("/sys/fs/cgroup")


def free_main_memory() -> int:
    """Bytes that this process can still allocate, by the machine and by a job's limit."""
    # Of a container or a scheduler's job, in version 2 or 1 of control groups.
    files = (CONTROL_GROUP / x for x in ("memory.max", "memory/memory.limit_in_bytes"))
    limit = next((x.read_text().strip() for x in files if x.is_file()), "max")
    free = psutil.virtual_memory().available
    return free if limit == "max" else min(free, int(limit) - psutil.Process().memory_info().rss)
