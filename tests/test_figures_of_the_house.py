"""The house does not grow: a figure that has fallen is lowered here, in this one table."""

from __future__ import annotations

import figures_of_the_house as house
import pytest

LIMITS = {
    house.STATEMENTS: 20_282,
    house.TRAINING: 3_787,
    house.SKIPS: 2,
    house.LONG_LINES: 0,
    house.COMMANDS_FILES: 5,
    house.FILES: 8,
    house.FUNCTIONS: 31,
    house.SKIPS_OF_TESTS: 125,
    house.LONG_LINES_OF_TESTS: 161,
}


@pytest.fixture(scope="module")
def figures() -> dict[str, int]:
    return house.figures()


@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, figures):
    assert figures[name] <= LIMITS[name], f"{figures[name]} {name}, {LIMITS[name]} are the most: make it smaller"


def test_how_it_is_counted(tmp_path, monkeypatch):
    """Of a house of two rooms."""
    room = tmp_path / "layertool" / "training"
    room.mkdir(parents=True)
    (tmp_path / "layertool" / "x.py").write_text(
        "def f(a, b, /, c, d, *e, f, g, h, i, **j):\n    return 1\n"
        "class X:\n    def f(self, b, c, d, e, f, g, h):\n        pass\n"
        "y = 1  # fmt: " + "skip\n# fmt: " + f"off\nz = '{'z' * house.LINE}'\n" + "#\n" * house.FILE
    )
    (room / "y.py").write_text("if True:\n    x = 1\n")
    monkeypatch.setattr(house, "ROOT", tmp_path)
    expected = {house.STATEMENTS: 7, house.TRAINING: 2, house.SKIPS: 2, house.LONG_LINES: 1, house.FILES: 1}
    found = house.figures()
    assert {name: found[name] for name in expected} == expected
    assert (found[house.FUNCTIONS], found[house.COMMANDS_FILES], found[house.TESTS]) == (1, 0, 0)
