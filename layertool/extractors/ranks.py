"""Which part of the shards a process of a job array writes: as it is told, or as Slurm or a launcher says."""

from __future__ import annotations

from collections.abc import Mapping

from layertool.errors import UsageError
from layertool.store.writer import Part

ARRAY, LAUNCHER = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"), ("RANK", "WORLD_SIZE")


def part_of(nshard: int | None, rank: int | None) -> Part | None:
    """The part that was asked for, None for all shards. Raises UsageError for one number without the other."""
    if (nshard is None) != (rank is None):
        given, lacking = ("--nshard", "--rank") if rank is None else ("--rank", "--nshard")
        raise UsageError(f"{given} needs {lacking}: e.g. --nshard 8 --rank 0 for the first of 8 processes")
    return None if nshard is None or rank is None or (nshard, rank) == (1, 0) else Part(rank, nshard)


def part_of_job(nshard: int | None, rank: int | None, environment: Mapping[str, str]) -> tuple[Part | None, str | None]:
    """The part of this process, and which variables said so, None where nobody asked the environment.

    Slurm's job arrays (any first index and step; SLURM_ARRAY_TASK_ID and the like) and launchers that set RANK and
    WORLD_SIZE (torchrun, accelerate). ``--nshard`` alone takes the rank from there, ``--nshard 1`` is all of the work.
    Raises UsageError for numbers that do not fit together.
    """
    if rank is not None or nshard == 1:
        return part_of(nshard, 0 if nshard == 1 and rank is None else rank), None
    array, launcher = _of_array(environment), _of_launcher(environment)
    if array and launcher:
        raise UsageError(
            f"both {ARRAY[0]} and {LAUNCHER[0]} say which part of the work this is: give --nshard and --rank (or "
            "--nshard 1 for all of it)"
        )
    if not (found := array or launcher):
        return part_of(nshard, rank), None
    own_rank, n_ranks, source = found
    return part_of(nshard or n_ranks, own_rank), source


def _of_array(environment: Mapping[str, str]) -> tuple[int, int, str] | None:
    """Rank, ranks in all and where that stands, for a task of a job array."""
    if not all(environment.get(name) for name in ARRAY):
        return None
    task, count = (_number(environment, name) for name in ARRAY)
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    rank, rest = divmod(task - first, max(1, step))
    if rest or not 0 <= rank < count or (last - first) // max(1, step) + 1 != count:
        raise UsageError(
            f"task {task} of a job array from {first} to {last} with {count} tasks has no clear rank: use an array "
            "without gaps, e.g. --array=0-7, or give --nshard and --rank"
        )
    return (rank, count, ARRAY[0]) if count > 1 else None


def _of_launcher(environment: Mapping[str, str]) -> tuple[int, int, str] | None:
    """The same for a process that a launcher started."""
    if not all(environment.get(name) for name in LAUNCHER):
        return None
    rank, size = (_number(environment, name) for name in LAUNCHER)
    return (rank, size, LAUNCHER[0]) if size > 1 else None


def _number(environment: Mapping[str, str], name: str, usual: int = 0) -> int:
    try:
        return int(environment.get(name, usual))
    except ValueError as error:
        raise UsageError(f"{name}={environment[name]!r} is no number: give --nshard and --rank") from error
