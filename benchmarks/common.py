"""What all benchmarks share: facts about the machine, rows of the table, and the check that comes before speed.

A benchmark is a script of this folder that takes ``-o FILE.json`` and ends with ``deliver``. Its rows are what
``run.py`` joins and ``compare.py`` compares.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

NOT_RUN = 77  # exit code of a benchmark that lacks what it needs (a model, a data set); as automake has it


@dataclass(frozen=True)
class Row:
    """One line of the table.

    ``ratio``: how many times as good as what it is measured against; higher is better. ``agreement``: how far both
    ways agree. ``ours``, ``theirs``: absolute figures by name, which ends in its unit; for those ending in ``_per_s``
    higher is better, for all others lower. ``bound``: what was asked for, and ``met``: whether it is kept.
    """

    name: str
    what: str
    against: str
    ratio: float | None = None
    agreement: str = ""
    ours: Mapping[str, float] = field(default_factory=dict)
    theirs: Mapping[str, float] = field(default_factory=dict)
    bound: str | None = None
    met: bool | None = None


def agree(what: str, difference: float, at_most: float) -> str:
    """How far two ways agree, in words. Ends the benchmark when they do not: then no speed is reported."""
    if not difference <= at_most:  # also when it is no number
        raise SystemExit(
            f"{what}: the two ways differ by {difference:.2e}, at most {at_most:g} passes: no speed is reported"
        )
    return f"differ by {difference:.1e} at most"


def cpu_name() -> str:
    """The name that the processor gives itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine(device: str = "auto") -> dict:
    """What figures depend on: processor, memory, system, versions, device, and how busy the machine was."""
    import numpy as np
    import torch
    import transformers

    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_GB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "os": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def deliver(report: dict, rows: Sequence[Row], output: Path | None) -> None:
    """Print a benchmark's report and write it with its rows."""
    unmet = [row.name for row in rows if row.met is False]
    whole = {**report, "rows": [asdict(row) for row in rows]}
    print(json.dumps(report, indent=2), flush=True)
    if output:
        output.write_text(json.dumps(_plain(whole), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if unmet:
        raise SystemExit(f"not met: {', '.join(unmet)}")


def _plain(value):
    """JSON has no NaN: None stands for it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
