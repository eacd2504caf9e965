"""doctor: what is installed, where models compute, what is missing."""

from __future__ import annotations

import locale
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from layertool.commands import installed, output
from layertool.commands.options import HELP, json_option

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # of the hub's library: nothing is downloaded
SHOWN_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", *SWITCHES, "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
LITTLE_DISK = 5e9  # bytes: less than a large model and a small store take


@click.command(context_settings=HELP)
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, which device is used, and which extras are missing.

    \b
    For each missing package there is the command that installs it. Nothing is changed, and nothing is downloaded.
    Example:
      layertool doctor
      layertool doctor --json
    """
    found = examine()
    if as_json:
        output.as_json(found)
        return
    output.facts("Machine", list(found["machine"].items()))
    output.facts("Device that --device auto takes", list(found["device"].items()))
    output.table("Packages", ("package", "installed", "wanted", ""),
                 [(p["name"], p["installed"] or "", p["wanted"], _state(p)) for p in found["packages"]])  # fmt: skip
    output.table("Extras", ("extra", "state", "installs what is missing", "packages"),
                 [(name, "missing" if extra["install"] else "installed", extra["install"] or "",
                   ", ".join(p["name"] for p in extra["packages"]))
                  for name, extra in found["extras"].items()])  # fmt: skip
    output.facts("Environment", list(found["environment"].items()))
    output.echo("", "To look at:" if found["problems"] else "Nothing to repair.")
    for problem in found["problems"]:
        output.echo(f"  {problem}")


def _state(package: dict[str, Any]) -> str:
    return "" if package["is_right"] else "missing" if package["installed"] is None else "another version"


def examine() -> dict[str, Any]:
    """Everything that the command prints, as plain values; ``problems``: sentences with what to do."""
    needed = installed.packages()
    extras = {name: installed.packages(name) for name in installed.extras()}
    device, device_problems = _device()
    problems = [
        f"{one.name} {'is missing' if one.installed is None else f'is {one.installed}, {one.wanted} is wanted'}: "
        f"pip install '{one.name}{one.wanted}'"
        for one in needed
        if not one.is_right
    ]
    if not needed:
        problems.append(
            "layertool is not installed, so what it needs is not known: type pip install -e . in its folder"
        )
    return {
        "layertool": dict(line.split(" ", 1) for line in installed.version_lines()),
        "machine": _machine(),
        "device": device,
        "packages": [vars(one) for one in needed],
        "extras": {
            name: {
                "packages": [vars(one) for one in parts],
                "install": None if all(p.is_right for p in parts) else f"pip install '{installed.NAME}[{name}]'",
            }
            for name, parts in extras.items()
        },
        "environment": _environment(),
        "problems": [*problems, *device_problems, *_environment_problems()],
    }


def _machine() -> dict[str, str]:
    return {
        "layertool": installed.version_lines()[0].split(" ", 1)[1],
        "Python": f"{platform.python_version()} ({sys.executable})",
        "platform": platform.platform(),
        "cores": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}",
        "memory": output.size(memory) if (memory := _memory()) else "unknown",
    }


def _memory() -> int | None:
    """Bytes of the machine; None where the system does not say (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _device() -> tuple[dict[str, str], list[str]]:
    """The device that models run on unless another is asked for, and what is wrong with it."""
    try:
        import torch

        from layertool.models.computing import choose_device
    except (ImportError, OSError) as error:  # OSError: a library of the system that torch links to is not there
        return {"device": "none"}, [f"torch cannot be loaded ({error}): install it again (pip install torch)"]
    device = choose_device("auto")
    found = {"device": str(device), "threads": str(torch.get_num_threads())}
    problems = []
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "name": torch.cuda.get_device_name(device),
            "memory": f"{output.size(total)}, {output.size(free)} of it free",
            "CUDA of torch": str(torch.version.cuda),
            "devices": str(torch.cuda.device_count()),
        }
    elif Path("/dev/nvidiactl").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        built = f"was built for CUDA {torch.version.cuda}" if torch.version.cuda else "was built without CUDA"
        problems.append(
            f"there is an NVIDIA GPU here, but torch {torch.__version__} cannot use it (it {built}): install the build for "
            "your driver (nvidia-smi shows which CUDA that is)"
        )
    return found, problems


def _environment() -> dict[str, str]:
    found = {name: os.environ[name] for name in SHOWN_VARIABLES if name in os.environ}
    folder = _hub_cache()
    found["models of the hub"] = f"{folder}{'' if folder.exists() else ' (is made by the first download)'}"
    found["encoding"] = locale.getpreferredencoding(False)
    found["free disk here"] = output.size(shutil.disk_usage(".").free)
    return found


def _hub_cache() -> Path:
    """Where the hub's library keeps models, by its own rules; asked without importing it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def _environment_problems() -> list[str]:
    problems = []
    encoding = locale.getpreferredencoding(False)
    if encoding.lower().replace("-", "") != "utf8":
        problems.append(
            f"text files are read as {encoding} here, so transcripts with accents may fail: export PYTHONUTF8=1"
        )
    offline = [name for name in SWITCHES if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if offline:
        problems.append(
            f"{' and '.join(offline)} is set: models of the hub open only if they are in {_hub_cache()} already; unset it to download"
        )
    cache = _hub_cache()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not offline and not os.access(there, os.W_OK):
        problems.append(
            f"{there} cannot be written to, so models of the hub cannot be kept: set HF_HOME to another folder"
        )
    if (free := shutil.disk_usage(".").free) < LITTLE_DISK:
        problems.append(f"only {output.size(free)} are free in this folder: write stores to another disk with -o")
    return problems
