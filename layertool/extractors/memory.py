"""How much memory a run will need, before it begins."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layertool.extractors.prepare import Prepared
from layertool.extractors.reading import AHEAD
from layertool.store import layout

# Bytes that the libraries take at the first forward pass and the first shard, measured on Linux
_LIBRARIES = 70_000_000
_TABLE_COPIES = 3  # of a shard's table of frames while it is made and written


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, estimated.

    Of this process as a whole, and on the device where that is another than the CPU.
    """

    process: int
    on_device: int = 0


def needed(prepared: Prepared, batch_seconds: float | None = None) -> Memory:
    """What a prepared run takes: what this process has already (weights, corpus), the largest batch, what is read
    ahead.
    """
    extractor = prepared.extractor
    device = extractor.device
    lengths = prepared.corpus.utterances["n_samples"].to_numpy()
    longest = min(int(lengths.max()), prepared.longest_window)
    cost = extractor.padded_samples(longest)
    n_items = prepared.batch_size(longest, batch_seconds)
    n_windows = sum(len(prepared.windows(int(n))) for n in lengths[np.argsort(lengths)[-n_items * (AHEAD + 2) :]])
    n_items = min(n_items, n_windows)
    held = 4 * longest + extractor.prepared_bytes(longest)
    waiting = held * min(n_windows, n_items * (AHEAD + 2))
    if lengths.max() > longest and not extractor.is_streaming:
        waiting += 4 * int(lengths.max()) * min(len(lengths), AHEAD + 1)
    frames = sum(
        layout.row_dtype("frame", prepared.mask is not None).itemsize
        * max(geometry.n_frames(shard.n_samples) for shard in prepared.shards)
        for geometry in prepared.pooler.frame_tables().values()
    )
    activations = n_items * extractor.activation_bytes(cost)
    process = resident() + _LIBRARIES + waiting + _TABLE_COPIES * frames
    if device.type == "cpu":
        return Memory(process + activations)
    return Memory(process, 4 * (extractor.n_parameters or 0) + activations)


def there_is() -> int:
    """Bytes that this process may have: the machine's memory, or less where it runs in a container or under a limit."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    found += [
        limit for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA) if (limit := resource.getrlimit(kind)[0]) > 0
    ]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of the two versions of control groups
        path = Path("/sys/fs/cgroup") / name
        if path.is_file() and (text := path.read_text().strip()).isdecimal():
            found.append(int(text))
    return min(found)


def resident(at_most: bool = False) -> int:
    """Bytes that this process has now; the most it has had, where that is asked or the system does not tell."""
    path = Path("/proc/self/statm")
    if path.is_file() and not at_most:
        return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
