"""What the commands of all analyses share: opening stores, notes, where products are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import click

from layertool.commands import output

STORES = click.Path(path_type=Path)


def place_of(device: str) -> str:
    """Where float64 products are computed: a GPU of CUDA, or the CPU (others have no float64)."""
    if device == "cpu":
        return device
    from layertool.models.computing import choose_device

    place = choose_device(device)
    return str(place) if place.type == "cuda" else "cpu"


def open_all(paths: Iterable[Path]) -> list:
    from layertool.store import FeatureStore

    return [FeatureStore(path) for path in paths]


def say_to_person(quiet: bool) -> Callable[[str], None]:
    return lambda text: output.note(text, quiet)
