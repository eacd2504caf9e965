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
        "audio_files",
        "cluster",
        "columns",
        "declared",
        "files",
        "geometry",
        "kinds",
        "layers",
        "machine",
        "non_speech",
        "resampling",
        "waveforms",
    },
    {"conditions", "folders"},
    {"audio", "models", "result_rows", "store"},
    {"analysis", "corpora", "probes"},
    {"extractors"},
    {"layerwise"},
    {"outline", "training"},
    {"figures"},
    {"tables"},
    {"report"},
    # what a person calls: on these floors, rooms may open each other's doors
    {"comparison", "functions", "lexical", "probe", "results"},
    {"cli", "commands", "demo", "doctor", "recipes", "rehearsal"},
]
FRONT = FLOORS[-2:]
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
        beside = any({own, room} <= floor for floor in FRONT)
        assert FLOOR[room] < FLOOR[own] or beside, f"{path.name} ({own}) imports {room}"


def test_every_floor_has_its_rooms():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert set(FLOOR) == rooms


@pytest.mark.parametrize("folder", ["analysis", "probes"])
def test_what_computes_takes_arrays(folder):
    """It knows no store and no corpus."""
    for path in (PACKAGE / folder).rglob("*.py"):
        assert not imports(path) & {"corpora", "extractors", "layerwise", "store"}, path


def test_extractors_know_no_analysis():
    for path in (PACKAGE / "extractors").rglob("*.py"):
        assert not imports(path) & {"analysis", "layerwise", "probes"}, path


# An option of CCA, and how Whisper is asked for words, have the name of the column.
OTHER_VARIANTS = (
    "self.variant",
    "scorer.variant",
    "options.variant",
    "self.options.variant",
    "(known.get('recipe') or {}).get('variant')",
)


def of_rows(node: ast.AST):
    """The node and those in it, without what has the name of the column only."""
    if not (isinstance(node, (ast.Attribute, ast.Call)) and ast.unparse(node) in OTHER_VARIANTS):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from of_rows(child)


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.name != "result_rows.py"], ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_the_words_of_a_row_are_for_people(path):
    """``variant`` is written by ``result_rows.row`` and read by nothing: whoever asks what a row is asks its columns."""
    text = path.read_text(encoding="utf-8")
    for node in of_rows(ast.parse(text)) if "variant" in text else ():
        if isinstance(node, ast.Attribute):
            assert node.attr != "variant", f"{path.name}:{node.lineno} reads {ast.unparse(node)}"
        elif isinstance(node, ast.Constant):
            assert node.value != "variant", f"{path.name}:{node.lineno} names the column variant"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "Result",
            "assign",
            "replace",
        ):
            names = [keyword.arg for keyword in node.keywords]
            assert "variant" not in names, f"{path.name}:{node.lineno} writes the column variant"


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
