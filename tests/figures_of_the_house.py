"""How large the house is: ``python -m tests.figures_of_the_house`` prints it, test_figures_of_the_house.py keeps it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINE, FILE, COMMANDS_FILE, PARAMETERS = 120, 400, 120, 8
STATEMENTS, TRAINING = "statements of the package without training/", "statements of training/"
TESTS = "statements of tests"
SKIPS, LONG_LINES = "formatting switched off", f"lines over {LINE} characters"
COMMANDS_FILES = f"modules of commands/ over {COMMANDS_FILE} lines"
FILES = f"modules over {FILE} lines"
FUNCTIONS = f"functions with {PARAMETERS} parameters or more"
SKIPS_OF_TESTS, LONG_LINES_OF_TESTS = f"{SKIPS} in tests", f"{LONG_LINES} in tests"
_SKIP = re.compile(r"# *fmt: *(skip|off)")


def figures() -> dict[str, int]:
    """Name -> count. Of the package, but where the name says tests."""
    package, tests = list(_modules("layertool")), list(_modules("tests"))
    by_folder = statements_by_folder()
    sources = [source for _, source in package]
    of_tests = [source for _, source in tests]
    return {
        STATEMENTS: sum(n for folder, n in by_folder.items() if folder != "training"),
        TRAINING: by_folder["training"],
        SKIPS: _n_skips(sources),
        LONG_LINES: _n_long_lines(sources),
        COMMANDS_FILES: sum(
            path.parent.name == "commands" and source.count("\n") > COMMANDS_FILE for path, source in package
        ),
        FILES: sum(source.count("\n") > FILE for source in sources),
        FUNCTIONS: sum(_n_parameters(function) >= PARAMETERS for source in sources for function in _functions(source)),
        TESTS: sum(map(_n_statements, of_tests)),
        SKIPS_OF_TESTS: _n_skips(of_tests),
        LONG_LINES_OF_TESTS: _n_long_lines(of_tests),
    }


def statements_by_folder() -> Counter[str]:
    """Folder of the package ('' for its own modules) -> number of statements."""
    counts: Counter[str] = Counter()
    for path, source in _modules("layertool"):
        parts = path.relative_to(ROOT / "layertool").parts
        counts[parts[0] if len(parts) > 1 else ""] += _n_statements(source)
    return counts


def _modules(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path, path.read_text(encoding="utf-8")


def _n_statements(source: str) -> int:
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(source)))


def _functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def _n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without self and cls."""
    asked = function.args
    names = [one.arg for one in (*asked.posonlyargs, *asked.args, *asked.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _n_skips(sources: list[str]) -> int:
    return sum(len(_SKIP.findall(source)) for source in sources)


def _n_long_lines(sources: list[str]) -> int:
    return sum(len(line) > LINE for source in sources for line in source.splitlines())


def main() -> None:
    """Print every figure, and statements by folder."""
    for name, count in figures().items():
        print(f"{count:7}  {name}")
        if name == TRAINING:
            for folder, n in statements_by_folder().most_common():
                print(f"{n:14}  {f'{folder}/' if folder else 'modules in no folder'}")


if __name__ == "__main__":
    main()
