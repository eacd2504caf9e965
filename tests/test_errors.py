"""What is told stands at the line of the person, however deep it was found."""

import runpy

import planted
import pytest

from layertool.errors import LayertoolWarning


def test_a_note_names_the_line_of_the_caller(tmp_path):
    labels = [f"p{k % 3}" for k in range(11)] + ["alone"]
    segments = [(k, "phone", 0, 900, label) for k, label in enumerate(labels)]
    planted.store(tmp_path / "s", [1000] * 12, segments, rows={"phone": {"T0": planted.matrix(12)}})
    script = tmp_path / "mine.py"
    script.write_text(f"import layertool\n\nlayertool.probe.neighbours({str(tmp_path / 's')!r}, labels='phone')\n")
    with pytest.warns(LayertoolWarning, match="occurs once") as caught:
        runpy.run_path(str(script))
    assert {(one.filename, one.lineno) for one in caught} == {(str(script), 3)}
