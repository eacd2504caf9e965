"""What Python is asked wrongly is said in one sentence, as on the command line: options, axes, names, notes."""

from __future__ import annotations

import warnings

import pytest

import layertool
from layertool import Results
from layertool.errors import LayertoolWarning, UsageError, tell, telling_once
from layertool.result_rows import Result

ROW = Result(
    "mi",
    "adjusted mi",
    "a/b",
    None,
    None,
    "corpus",
    "phone",
    "T1",
    1,
    "phone",
    0.5,
    store="one",
    metric="adjusted mi",
    settings="{}",
)


def test_what_results_are_asked(tmp_path):
    shown = Results([ROW])
    with pytest.raises(UsageError, match="no result file is named"):
        Results.read([])
    with pytest.raises(UsageError, match=r"is called 'name'; did you mean names\?"):
        shown.plot(name="a")
    with pytest.raises(UsageError, match="'dept' is no axis"):
        shown.text(x="dept")
    with pytest.raises(UsageError, match="--names has 2 labels for 1 store:"):
        shown.plot(names="a,b")
    with pytest.raises(UsageError, match=r"page\.pdf is no page: end it in \.html"):
        shown.report(tmp_path / "page.pdf")


def test_options_that_no_function_has(tmp_path):
    with pytest.raises(UsageError, match=r"layertool\.extract has no option 'unit'; did you mean units\?"):
        layertool.extract("mel", tmp_path, tmp_path / "store", unit="word")
    with pytest.raises(UsageError, match=r"layertool\.compare has no option 'sam_layer'; did you mean same_layer"):
        layertool.compare(["one", "two"], sam_layer=True)
    with pytest.raises(UsageError, match="'dept' is no axis"):
        layertool.compare(Results([ROW]), x="dept")
    with pytest.raises(UsageError, match="nothing is named to compare"):
        layertool.compare([])
    with pytest.raises(AttributeError, match="did you mean neighbours"):
        layertool.probe.neighbors  # noqa: B018


def test_a_note_is_told_once_and_at_the_line_of_the_program():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with telling_once():
            for text in ("a", "b", "a"):
                tell(text)
        tell("a")
    assert [str(one.message) for one in told] == ["a", "b", "a"]
    assert {one.category for one in told} == {LayertoolWarning}
    assert {one.filename for one in told} == {__file__}
