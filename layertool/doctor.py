"""What is installed, where models compute, what is missing: from the packages' own metadata, so that it is known at
once.
"""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any

from layertool import __version__
from layertool.account import Account, Table, size
from layertool.machine import memory_bytes

NAME = "layertool"
SHOWN = ("torch", "transformers", "numpy", "h5py")  # those that decide numbers: stores record the same ones
SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # of the hub's library: nothing is downloaded
SHOWN_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", *SWITCHES, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
LITTLE_DISK = 5e9  # bytes: less than a large model and a small store take


@dataclass(frozen=True)
class Package:
    """One package that layertool asks for. ``installed``: its version, None where it is not there."""

    name: str
    wanted: str
    installed: str | None
    is_right: bool

    @property
    def state(self) -> str:
        """What is wrong with it, nothing if it is right."""
        return "" if self.is_right else "missing" if self.installed is None else "another version"


def version_of(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """What `layertool --version` prints: layertool first, then what decides its numbers."""
    return {NAME: __version__, "Python": platform.python_version()} | {
        name: version_of(name) or "is not installed" for name in SHOWN
    }


def packages(extra: str | None = None) -> list[Package]:
    """What layertool needs (``extra`` None), or what an extra adds to it, with what is there."""
    found = []
    for one in _requirements(extra):
        installed = version_of(one.name)
        is_right = installed is not None and one.specifier.contains(installed, prereleases=True)
        wanted = ",".join(sorted(map(str, one.specifier), reverse=True))
        found.append(Package(one.name, wanted, installed, is_right))
    return found


def _requirements(extra: str | None) -> Iterator:
    """The requirements for this Python: those of an extra, or those that no extra has to be named for."""
    from packaging.requirements import Requirement

    for one in map(Requirement, (requires(NAME) or []) if version_of(NAME) else []):
        is_always = one.marker is None or one.marker.evaluate({"extra": ""})
        of_extra = one.marker is not None and not is_always and one.marker.evaluate({"extra": extra or ""})
        if is_always if extra is None else of_extra:
            yield one


def examine() -> dict[str, Any]:
    """Everything there is to say, as plain values; ``problems``: sentences with what to do."""
    needed = packages()
    names = (metadata(NAME).get_all("Provides-Extra") or []) if version_of(NAME) else []
    extras = {name: packages(name) for name in names}
    device, problems = _device()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wrong = [
        f"{one.name} {'is missing' if one.installed is None else f'is {one.installed}, {one.wanted} is wanted'}: "
        f"pip install '{one.name}{one.wanted}'"
        for one in needed
        if not one.is_right
    ]
    if not needed:
        wrong = ["layertool is not installed, so what it needs is not known: type pip install -e . in its folder"]
    return {
        "layertool": versions(),
        "machine": {
            "layertool": __version__,
            "Python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "cores": str(cores),
            "memory": size(memory_bytes()),
        },
        "device": device,
        "packages": [asdict(one) | {"state": one.state} for one in needed],
        "extras": {
            name: {
                "packages": [asdict(one) for one in parts],
                "install": None if all(one.is_right for one in parts) else f"pip install '{NAME}[{name}]'",
            }
            for name, parts in extras.items()
        },
        "environment": _environment(),
        "problems": [*wrong, *problems, *_environment_problems()],
    }


def accounts(found: dict[str, Any]) -> list[Account]:
    """What ``examine`` found, for a person."""
    needed = [(one["name"], one["installed"] or "", one["wanted"], one["state"]) for one in found["packages"]]
    extras = [
        (
            name,
            "missing" if extra["install"] else "installed",
            extra["install"] or "",
            ", ".join(p["name"] for p in extra["packages"]),
        )
        for name, extra in found["extras"].items()
    ]
    tables = [
        Table("Packages", ("package", "installed", "wanted", ""), needed),
        Table("Extras", ("extra", "state", "installs what is missing", "packages"), extras),
    ]
    last = [
        "",
        "To look at:" if found["problems"] else "Nothing to repair.",
        *(f"  {one}" for one in found["problems"]),
    ]
    return [
        Account("Machine", list(found["machine"].items())),
        Account("Device that --device auto takes", list(found["device"].items()), tables),
        Account("Environment", list(found["environment"].items()), lines=last),
    ]


def _device() -> tuple[dict[str, str], list[str]]:
    """The device that models run on unless another is asked for, and what is wrong with it."""
    try:
        import torch

        from layertool.models.computing import choose_device
    except (ImportError, OSError) as error:  # OSError: a library of the system that torch links to is not there
        return {"device": "none"}, [f"torch cannot be loaded ({error}): install it again (pip install torch)"]
    device = choose_device("auto")
    facts = {"device": str(device), "threads": str(torch.get_num_threads())}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        facts |= {
            "name": torch.cuda.get_device_name(device),
            "memory": f"{size(total)}, {size(free)} of it free",
            "CUDA of torch": str(torch.version.cuda),
            "devices": str(torch.cuda.device_count()),
        }
    elif Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        return facts, [
            f"there is an NVIDIA GPU here, but torch {torch.__version__} cannot use it (it {built}): install the build "
            "for your driver (nvidia-smi shows which CUDA that is)"
        ]
    return facts, []


def _environment() -> dict[str, str]:
    folder = _hub_cache()
    return {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ} | {
        "models of the hub": f"{folder}{'' if folder.exists() else ' (is made by the first download)'}",
        "encoding": locale.getpreferredencoding(False),
        "free disk here": size(shutil.disk_usage(".").free),
    }


def _hub_cache() -> Path:
    """Where the hub's library keeps models, by its own rules; asked without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _environment_problems() -> Iterator[str]:
    encoding, cache = locale.getpreferredencoding(False), _hub_cache()
    if encoding.lower().replace("-", "") != "utf8":
        yield f"text files are read as {encoding} here, so transcripts with accents may fail: export PYTHONUTF8=1"
    offline = [name for name in SWITCHES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    folder = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if offline:
        yield (
            f"{' and '.join(offline)} is set: models of the hub open only if they are in {cache} already; unset it to "
            "download"
        )
    elif not os.access(folder, os.W_OK):
        yield f"{folder} cannot be written to, so models of the hub cannot be kept: set HF_HOME to another folder"
    if (free := shutil.disk_usage(".").free) < LITTLE_DISK:
        yield f"only {size(free)} are free in this folder: write stores to another disk with -o"
