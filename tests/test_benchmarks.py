"""The parts of the benchmarks that compute nothing: joining, the table, comparing two runs."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
MACHINE = {"cpu": "x", "cores": 2, "memory_GB": 8.0, "device": "cpu", "threads": 2, "torch": "2.0", "load_before": 0.1}


@pytest.fixture(scope="module")
def modules():
    """common, run and compare, imported as the scripts import each other."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield {name: importlib.import_module(name) for name in ("common", "run", "compare")}
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in ("common", "run", "compare"):
            sys.modules.pop(name, None)


def row(name="read", ratio=10.0, ours=None, theirs=None, **others):
    empty = {"what": f"{name} | all", "against": "slow", "agreement": "equal", "bound": None, "met": None}
    return {"name": name, "ratio": ratio, "ours": ours or {}, "theirs": theirs or {}, **empty, **others}


def joined(modules, *rows, machine=None, is_quick=False, **others):
    outcomes = {"reading": {"status": "ok", "seconds": 1.0, "rows": list(rows)}, **others}
    return modules["run"].join("2026-01-02T03:04Z", {**MACHINE, **(machine or {})}, is_quick, outcomes)


def test_every_script_of_the_folder_is_run(modules):
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - {"common", "run", "compare"}
    assert set(modules["run"].BENCHMARKS) == scripts


@pytest.mark.parametrize(
    ("returncode", "report", "status"),
    [
        (0, {"rows": [row()], "n": 1}, "ok"),
        (0, {}, "failed"),
        (0, {"rows": []}, "failed"),
        (1, {}, "failed"),
        (-9, {}, "failed"),
        (1, {"rows": [row(met=False)]}, "failed"),
        (77, {}, "not run"),
    ],
)
def test_what_an_exit_code_means(modules, returncode, report, status):
    found = modules["run"].verdict(returncode, "words\nlast words\n", report)
    assert found["status"] == status
    assert found["rows"] == report.get("rows", [])
    if status != "ok":
        assert "last words" in found["error"]


def test_a_failed_benchmark_is_named_and_keeps_its_rows(modules, tmp_path):
    script = tmp_path / "unmet.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom pathlib import Path\nimport common\n"
        "rows = [common.Row('growth', 'memory', 'less', ratio=float('nan'), bound='flat', met=False)]\n"
        "common.deliver({'n': 3}, rows, Path(sys.argv[sys.argv.index('-o') + 1]))\n"
    )
    outcome = modules["run"].run_one(script, ["--asked"])
    assert outcome["status"] == "failed"
    assert "not met: growth" in outcome["error"]
    assert outcome["report"] == {"n": 3}
    assert outcome["rows"][0]["ratio"] is None  # JSON has no NaN
    run = joined(modules, unmet=outcome)
    assert modules["run"].failed(run) == ["unmet"]
    page = modules["run"].markdown(run)
    assert "**unmet: failed.**" in page
    assert "flat: **not met**" in page


def test_a_script_that_dies_is_a_failure(modules, tmp_path):
    (tmp_path / "dies.py").write_text("raise SystemExit('no speed is reported')\n")
    outcome = modules["run"].run_one(tmp_path / "dies.py", [])
    assert outcome["status"] == "failed"
    assert "no speed is reported" in outcome["error"]
    assert outcome["rows"] == []


def test_ways_that_differ_have_no_speed(modules):
    agree = modules["common"].agree
    assert agree("values", 1e-9, 1e-6) == "differ by 1.0e-09 at most"
    for difference in (1e-3, float("nan")):
        with pytest.raises(SystemExit, match="no speed is reported"):
            agree("values", difference, 1e-6)


def test_the_table(modules):
    run = joined(
        modules, row(ratio=1234.5, ours={"seconds": 0.012345}, theirs={"seconds": 2.0}), row("help", ratio=None)
    )
    lines = modules["run"].markdown(run).splitlines()
    assert r"| read \| all | slow | 1 234 × | equal | seconds 0.0123 (against seconds 2) |" in lines
    assert r"| help \| all | slow |  | equal |  |" in lines
    assert "| cpu | x |" in lines
    assert "--quick" not in "\n".join(lines)
    assert "--quick" in modules["run"].markdown(joined(modules, row(), is_quick=True))


def test_nothing_is_overwritten(modules, tmp_path):
    names = []
    for _ in range(3):
        names.append(modules["run"].free_name(tmp_path, "day"))
        (tmp_path / f"{names[-1]}.json").write_text("{}")
    assert names == ["day", "day-2", "day-3"]


def flagged(modules, old, new):
    return {(change.row, change.figure) for change in modules["compare"].changes(old, new) if change.is_flagged}


def test_what_got_worse_is_flagged(modules):
    old = joined(
        modules,
        row("a", 10.0, {"seconds": 1.0}, {"seconds": 10.0}),
        row("b", 10.0, {"audio_s_per_s": 8.0}),
        row("c", 10.0, {"seconds": 1.0}),
        row("gone", 10.0),
    )
    new = joined(
        modules,
        row("a", 8.9, {"seconds": 1.2}, {"seconds": 20.0}),
        row("b", 9.1, {"audio_s_per_s": 7.0}),
        row("c", 20.0, {"seconds": 0.1}),
        row("more", 10.0),
    )
    expected = {("a", "ratio"), ("a", "ours: seconds"), ("b", "ours: audio_s_per_s"), ("gone", "ratio")}
    assert flagged(modules, old, new) == expected  # not that the slow way got slower
    assert flagged(modules, old, old) == set()


def test_another_machine_is_said_and_only_ratios_count(modules):
    old = joined(modules, row("a", 10.0, {"seconds": 1.0}))
    new = joined(modules, row("a", 8.0, {"seconds": 9.0}), machine={"cores": 64, "torch": "3.0"})
    assert flagged(modules, old, new) == {("a", "ratio")}
    text = modules["compare"].text(old, new)
    assert "cores: 2 and 64" in text.splitlines()[2]
    assert "torch: 2.0 and 3.0" in text
    assert "| a | ratio | 10 | 8 | 20 % worse | **worse** |" in text
    assert "Different machines" not in modules["compare"].text(old, old)


@pytest.mark.parametrize(("ratio", "code"), [(10.0, 0), (5.0, 1)])
def test_the_command_fails_when_asked_to(modules, tmp_path, ratio, code):
    paths = []
    for name, value in (("old", 10.0), ("new", ratio)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(joined(modules, row("a", value))))
    command = [sys.executable, str(BENCHMARKS / "compare.py"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("**worse**" in done.stdout) == bool(code)
    assert subprocess.run([*command, "--fail"], capture_output=True, check=False).returncode == code


def test_a_failed_benchmark_counts_as_worse(modules):
    failing = {"status": "failed", "seconds": 1.0, "error": "x", "rows": []}
    assert modules["compare"].unfinished(joined(modules, row(), cka=failing)) == ["cka: failed"]
