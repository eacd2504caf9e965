"""The import rules of the design: a module imports from lower floors or its own folder only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "layertool"
FLOORS = [
    {"errors", "spelling"},
    {
        "account",
        "declared",
        "files",
        "kinds",
        "layers",
        "geometry",
        "cluster",
        "machine",
        "non_speech",
        "columns",
        "audio_files",
        "resampling",
        "waveforms",
    },
    {"folders", "conditions"},
    {"audio", "store", "results", "models"},
    {"corpora", "analysis", "probes", "figures"},
    {"feed"},
    {"extractors", "training", "report"},
    {"commands", "cli", "demo", "doctor", "recipes", "rehearsal"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "layertool" and len(parts) > 1 else None


def imports(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            rooms |= {room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "layertool":
                rooms |= {alias.name for alias in node.names if alias.name in FLOOR}
            else:
                rooms.add(room_of(node.module))
    return {room for room in rooms if room}


MODULES = sorted(p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in FLOOR, f"{own} has no floor"
    for room in imports(path) - {own}:
        # cli's shared option texts live with the commands, on its own floor
        same_floor_top = FLOOR[own] == FLOOR[room] == len(FLOORS) - 1
        assert FLOOR[room] < FLOOR[own] or same_floor_top, f"{path.name} ({own}) imports {room}"


def test_analysis_and_probes_never_import_an_extractor():
    for folder in ("analysis", "feed", "probes"):
        for path in (PACKAGE / folder).glob("**/*.py"):
            assert "extractors" not in imports(path)
    for path in (PACKAGE / "extractors").glob("**/*.py"):
        assert not imports(path) & {"analysis", "feed", "probes"}


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from layertool.cli import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pandas', 'h5py', 'scipy', 'rich', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "extract" in done.stdout


def test_nothing_read_from_a_file_may_run_code():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for forbidden in ("weights_only=False", "trust_remote_code=True", "allow_pickle=True", "pickle.load"):
            assert forbidden not in text, f"{path} has {forbidden}"
