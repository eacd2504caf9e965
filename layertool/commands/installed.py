"""What is installed, from the packages' own metadata: nothing heavy is imported, so `--version` answers at once."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from layertool import __version__

NAME = "layertool"
SHOWN = ("torch", "transformers", "numpy", "h5py")  # those that decide numbers: stores record the same ones


@dataclass(frozen=True)
class Package:
    """One package that layertool asks for. ``installed``: its version, None where it is not there."""

    name: str
    wanted: str
    installed: str | None
    is_right: bool


def version_of(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def version_lines() -> list[str]:
    """What `layertool --version` prints: layertool first, a name and a version in each line."""
    found = [(NAME, __version__), ("Python", platform.python_version())]
    found += [(name, version_of(name) or "is not installed") for name in SHOWN]
    return [f"{name} {number}" for name, number in found]


def packages(extra: str | None = None) -> list[Package]:
    """What layertool needs (``extra`` None), or what an extra adds to it, with what is there."""
    return [
        Package(one.name, ",".join(sorted(map(str, one.specifier), reverse=True)), there := version_of(one.name),
                there is not None and one.specifier.contains(there, prereleases=True))
        for one in _requirements(extra)
    ]  # fmt: skip


def extras() -> list[str]:
    """The names of the extras, as the package's metadata has them."""
    try:
        return metadata(NAME).get_all("Provides-Extra") or []
    except PackageNotFoundError:  # a source tree that is not installed
        return []


def _requirements(extra: str | None) -> Iterator:
    """The requirements for this Python: those of an extra, or those that no extra has to be named for."""
    from packaging.requirements import Requirement

    try:
        lines = requires(NAME) or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        one = Requirement(line)
        marker = one.marker
        is_always = marker is None or marker.evaluate({"extra": ""})
        if is_always if extra is None else (not is_always and marker is not None and marker.evaluate({"extra": extra})):
            yield one
