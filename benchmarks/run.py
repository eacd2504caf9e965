"""Run all benchmarks, each in a process of its own, and join what they found.

    python benchmarks/run.py [--only NAME ...] [--quick] [-o benchmarks/results]

Writes DATE-DEVICE.json, which compare.py reads, and DATE-DEVICE.md, a table, after every benchmark; the date is that
of the beginning, in UTC. A benchmark that fails stands in both under its name, and the exit code is 1. One that lacks
a model or data (lexical: Whisper and a corpus of listeners) is named as not run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import common

HERE = Path(__file__).resolve().parent
# name -> arguments of the full run, and of --quick, whose figures are for trying things out
BENCHMARKS: dict[str, tuple[list[str], list[str]]] = {
    "speat": ([], ["--layers", "5", "--permutations", "10000", "--slow-permutations", "500"]),
    "extraction": ([], ["--model", "small", "--utterances", "40", "--reading", "200"]),
    "precision": ([], ["--quick"]),
    "capacity": ([], ["--quick"]),
    "memory": ([], ["--quick"]),
    "correlation": ([], ["--rows", "8000", "--layers", "6", "--width", "96"]),
    "lexical": (["--stimuli", "6", "--sample", "1024"], ["--stimuli", "1", "--sample", "128", "--sample-slow", "64"]),
    "probes": (["--utterances", "30"], ["--tokens", "1500", "--words", "150", "--utterances", "4"]),
}
TAIL = 2000  # characters of a failed benchmark's last words


def run_one(script: Path, arguments: Sequence[str]) -> dict:
    """Run a benchmark: its status, its seconds, and its report or its last words."""
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / "report.json"
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, str(script), *arguments, "-o", str(output)], stderr=subprocess.PIPE, text=True, check=False
        )
        outcome: dict = {"arguments": list(arguments), "seconds": time.perf_counter() - begun}
        report = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    sys.stderr.write(done.stderr)
    return outcome | verdict(done.returncode, done.stderr, report)


def verdict(returncode: int, stderr: str, report: Mapping) -> dict:
    """What an exit code means: ok, not run, or failed. A report without rows is a failure too."""
    if returncode == common.NOT_RUN:
        return {"status": "not run", "error": stderr.strip()[-TAIL:], "rows": []}
    rows = report.get("rows", [])
    rest = {key: value for key, value in report.items() if key != "rows"}
    if returncode == 0 and rows:
        return {"status": "ok", "rows": rows, "report": rest}
    last_words = stderr.strip()[-TAIL:] or ("no rows" if returncode == 0 else "no last words")
    return {"status": "failed", "error": f"exit code {returncode}: {last_words}", "rows": rows, "report": rest}


def join(date: str, machine: Mapping, is_quick: bool, outcomes: Mapping[str, Mapping]) -> dict:
    """The one JSON of a run."""
    return {"date": date, "machine": dict(machine), "quick": is_quick, "benchmarks": dict(outcomes)}


def failed(joined: Mapping) -> list[str]:
    """Names of the benchmarks that failed."""
    return [name for name, outcome in joined["benchmarks"].items() if outcome["status"] == "failed"]


def markdown(joined: Mapping) -> str:
    """The run as a page: failures first, then the table, then the machine."""
    lines = [f"# Benchmarks of {joined['date']}", ""]
    if joined["quick"]:
        lines += ["Small sizes (`--quick`): these figures say that the benchmarks run, not how fast anything is.", ""]
    for name, outcome in joined["benchmarks"].items():
        if outcome["status"] != "ok":
            last = outcome["error"].splitlines()[-1] if outcome["error"] else ""
            lines += [f"**{name}: {outcome['status']}.** {cell(last)}", ""]
    lines += ["| what | against | ratio | agreement or bound | absolute |", "|---|---|---|---|---|"]
    for outcome in joined["benchmarks"].values():
        lines += [row_line(row) for row in outcome["rows"]]
    lines += [
        "",
        "The ratio is how many times as good as what it is measured against.",
        "",
        "| machine | |",
        "|---|---|",
    ]
    lines += [f"| {cell(key)} | {cell(str(value))} |" for key, value in joined["machine"].items()]
    seconds = ", ".join(f"{name} {outcome['seconds']:.0f}" for name, outcome in joined["benchmarks"].items())
    return "\n".join([*lines, "", f"Seconds of each benchmark: {seconds}.", ""])


def row_line(row: Mapping) -> str:
    """One line of the table."""
    agreement = row["agreement"]
    if row["bound"]:
        verdict = {True: "met", False: "**not met**", None: "not decided"}[row["met"]]
        agreement = "; ".join(filter(None, [agreement, f"{row['bound']}: {verdict}"]))
    absolute = ", ".join(f"{figure(name, value)}" for name, value in row["ours"].items())
    theirs = ", ".join(f"{figure(name, value)}" for name, value in row["theirs"].items())
    ratio = "" if row["ratio"] is None else f"{significant(row['ratio'])} ×"
    return f"| {cell(row['what'])} | {cell(row['against'])} | {ratio} | {cell(agreement)} | {cell(absolute)}{cell(f' (against {theirs})') if theirs else ''} |"


def figure(name: str, value: float | None) -> str:
    return f"{name.replace('_', ' ')} {'none' if value is None else significant(value)}"


def significant(value: float) -> str:
    """Three digits that mean something, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def cell(text: str) -> str:
    """Text that does not break a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def free_name(folder: Path, stem: str) -> str:
    """``stem``, or ``stem-2``, ... when a run of that name is there: nothing is overwritten."""
    name, number = stem, 1
    while (folder / f"{name}.json").exists():
        number += 1
        name = f"{stem}-{number}"
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all of them run")
    parser.add_argument("-o", "--output", type=Path, default=HERE / "results", help="folder of results")
    asked = parser.parse_args()
    machine = common.machine()
    now = datetime.datetime.now(datetime.UTC)
    device = "cpu" if machine["device"] == "cpu" else machine["device"].replace(" ", "-").lower()
    stem = f"{now:%Y-%m-%d}-{device}-{machine['cores']}-cores{'-quick' if asked.quick else ''}"
    asked.output.mkdir(parents=True, exist_ok=True)
    stem = free_name(asked.output, stem)
    outcomes: dict[str, dict] = {}
    for name in asked.only or BENCHMARKS:
        print(f"== {name}", flush=True)
        outcomes[name] = run_one(HERE / f"{name}.py", BENCHMARKS[name][asked.quick])
        joined = join(f"{now:%Y-%m-%dT%H:%MZ}", machine, asked.quick, outcomes)
        text = json.dumps(joined, indent=2) + "\n"
        (asked.output / f"{stem}.json").write_text(text, encoding="utf-8")
        (asked.output / f"{stem}.md").write_text(markdown(joined), encoding="utf-8")
        print(f"== {name}: {outcomes[name]['status']}, {outcomes[name]['seconds']:.0f} s", flush=True)
    print(markdown(joined))
    if failed(joined):
        raise SystemExit(f"failed: {', '.join(failed(joined))}")


if __name__ == "__main__":
    main()
