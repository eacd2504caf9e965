"""The machine that this runs on."""

from __future__ import annotations

import os


def memory_bytes() -> int | None:
    """Bytes of memory of the machine; None where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def rank() -> int:
    """Which of the processes that a launcher (torchrun, accelerate) started this is; 0 without one."""
    return int(os.environ.get("RANK") or 0)
