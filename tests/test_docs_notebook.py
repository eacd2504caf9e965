"""docs/notebook.ipynb runs, cell by cell, in a folder where its corpus and its model lie."""

import ast
import json
from pathlib import Path

import models
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
LENGTHS = [24_000 + 1733 * ((5 * k) % 7) for k in range(12)]


def cells() -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


def shown(code: str, names: dict) -> object:
    """What a notebook would show below a cell: the value of its last line, unless it ends in a semicolon."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";") else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if last else None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    waveforms = [models.speech_like(n, k) for k, n in enumerate(LENGTHS)]
    speakers = [f"s{k % 4}" for k in range(len(LENGTHS))]
    models.corpus(tmp_path / "dev", waveforms, models.random_segments(LENGTHS), speaker=speakers).write(
        tmp_path / "dev"
    )
    models.save("wav2vec2-base", tmp_path / "facebook" / "wav2vec2-base")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    seen = [shown(code, names) for code in cells()]
    pages = [value._repr_html_() for value in seen if hasattr(value, "_repr_html_") and hasattr(value, "rows")]
    assert len(pages) == 2
    assert all("<table" in page and "<svg" in page for page in pages)
    for made in ("cca.csv", "mi.csv", "phones.pdf", "layers.png", "report.html"):
        assert (tmp_path / made).stat().st_size > 0
    assert set(names["phones"].rows["metric"]) == {"pwcca"}
    assert repr(names["corpus"]).count("\n") < 6
