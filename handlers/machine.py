"""What this process may use of the machine: cores and memory, a container's limits included."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
# Turns that a thread of OpenMP waits for the others before it sleeps (libgomp's manual, GOMP_SPINCOUNT).
SPIN_VARIABLE, SPINS = "GOMP_SPINCOUNT", "1000"
POLICY_VARIABLE = "OMP_WAIT_POLICY"  # the same in words
THREADS_VARIABLE = "SIGHTLINE_THREADS"  # of one worker, as the server that started it worked out


def cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores: those that the process may run on, and no more than a container's quota, rounded up."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def share_cores() -> None:
    """Let threads of torch that wait for one another sleep, unless the environment says otherwise.

    By default they keep their cores, and a single busy program beside them slows training down to a third or less. Acts
    before torch is imported only.
    """
    if POLICY_VARIABLE not in os.environ:
        os.environ.setdefault(SPIN_VARIABLE, SPINS)


def memory(cgroup: Path = CGROUP) -> int:
    """Return how many bytes: the machine's, or a container's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(cgroup / "memory.max"), _number(cgroup / "memory" / "memory.limit_in_bytes")]
    return min([physical, *(limit for limit in limits if limit is not None and limit > 0)])


def _cpu_quota(cgroup: Path) -> float | None:
    """Return a quota in cores (Linux, cgroup-v2.rst and sched-bwc.rst), None without one."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        old = cgroup / "cpu"
        quota_us, period_us = _number(old / "cpu.cfs_quota_us"), _number(old / "cpu.cfs_period_us")
        return (
            quota_us / period_us
            if quota_us is not None and period_us is not None and quota_us > 0 and period_us > 0
            else None
        )
    return int(quota) / int(period) if quota.isdecimal() and int(period) else None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such limit, or "max"
        return None
