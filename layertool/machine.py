"""The machine that this runs on, and this process on it."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def memory_bytes() -> int:
    """Bytes of memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def there_is() -> int:
    """Bytes that this process may have: the machine's memory, or less where it runs in a container or under a limit."""
    found = [memory_bytes()]
    found += [
        limit for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) if (limit := resource.getrlimit(kind)[0]) > 0
    ]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of the two versions of control groups
        path = Path("/sys/fs/cgroup") / name
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            found.append(int(text))
    return min(found)


def resident(at_most: bool = False) -> int:
    """Bytes that this process has now, or with ``at_most`` has had at most; where the system does not tell, the latter.

    Not getrusage's, where there is another: that counts the process that started this one, too.
    """
    path = Path("/proc/self/status")
    if not path.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    name = "VmHWM:" if at_most else "VmRSS:"
    return next(1024 * int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))


def rank() -> int:
    """Which of the processes that a launcher (torchrun, accelerate) started this is; 0 without one."""
    return int(os.environ.get("RANK") or 0) if int(os.environ.get("WORLD_SIZE") or 1) > 1 else 0
