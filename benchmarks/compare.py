"""What changed between two runs of run.py?

    python benchmarks/compare.py OLD.json NEW.json [--fail]

A table of ratios and absolute figures of both. Ratios that fell by more than 10 % are flagged, and so are absolute
figures that got worse by more than 10 %, when both runs are of one machine: between two machines only ratios say
something. What is in only one of the runs, or failed in the new one, is named. --fail: exit code 1 when something is flagged.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from run import cell, significant

WORSE = 0.10  # what is more is flagged
SAME = ("cpu", "cores", "memory_GB", "device", "threads")  # facts that make a machine another


@dataclass(frozen=True)
class Change:
    """One figure in two runs; ``worse``: by how much of the old one, negative when it got better."""

    row: str
    figure: str
    old: float | None
    new: float | None
    worse: float | None
    is_flagged: bool


def machine_differences(old: Mapping, new: Mapping) -> list[str]:
    """What makes the machines of two runs different ones."""
    before, after = old["machine"], new["machine"]
    return [f"{key}: {before.get(key)} and {after.get(key)}" for key in SAME if before.get(key) != after.get(key)]


def version_differences(old: Mapping, new: Mapping) -> list[str]:
    """Versions and system, which may be what is compared."""
    before, after = old["machine"], new["machine"]
    others = [key for key in {**before, **after} if key not in SAME and key != "load_before"]
    return [f"{key}: {before.get(key)} and {after.get(key)}" for key in others if before.get(key) != after.get(key)]


def changes(old: Mapping, new: Mapping) -> list[Change]:
    """Every figure of either run, in the order of the new one."""
    is_same = not machine_differences(old, new)
    before, after = _figures(old), _figures(new)
    out = []
    for key in [*after, *(key for key in before if key not in after)]:
        row, figure = key
        was, now = before.get(key), after.get(key)
        worse = None
        if was and now is not None:
            worse = (was - now) / was if _higher_is_better(figure) else (now - was) / was
        # a figure that is no longer there is a loss as well
        is_flagged = (key not in after) or (
            worse is not None and worse > WORSE and (figure == "ratio" or (is_same and not figure.startswith("theirs")))
        )
        out.append(Change(row, figure, was, now, worse, is_flagged))
    return out


def _figures(run: Mapping) -> dict[tuple[str, str], float | None]:
    found: dict[tuple[str, str], float | None] = {}
    for row in (row for outcome in run["benchmarks"].values() for row in outcome["rows"]):
        if row["ratio"] is not None:
            found[row["name"], "ratio"] = row["ratio"]
        for side in ("ours", "theirs"):
            found |= {(row["name"], f"{side}: {name}"): value for name, value in row[side].items()}
    return found


def _higher_is_better(figure: str) -> bool:
    return figure == "ratio" or figure.endswith("_per_s")


def unfinished(new: Mapping) -> list[str]:
    """Benchmarks of the new run that have no result."""
    return [f"{name}: {outcome['status']}" for name, outcome in new["benchmarks"].items() if outcome["status"] != "ok"]


def text(old: Mapping, new: Mapping) -> str:
    """The comparison as Markdown."""
    lines = [f"{old['date']} (old) and {new['date']} (new)", ""]
    if differences := machine_differences(old, new):
        lines += [f"Different machines ({'; '.join(differences)}): only ratios are judged.", ""]
    if versions := version_differences(old, new):
        lines += [f"Also different: {'; '.join(versions)}.", ""]
    if old["quick"] != new["quick"]:
        lines += ["One of them is of --quick, with other sizes: nothing here can be compared.", ""]
    lines += [f"**{name}**\n" for name in unfinished(new)]
    lines += ["| what | figure | old | new | change | |", "|---|---|---|---|---|---|"]
    for change in changes(old, new):
        was, now = ("" if v is None else significant(v) for v in (change.old, change.new))
        moved = ""
        if change.worse is not None:
            moved = f"{100 * abs(change.worse):.0f} % {'worse' if change.worse > 0 else 'better'}"
            moved = "same" if round(100 * abs(change.worse)) == 0 else moved
        lines.append(f"| {cell(change.row)} | {cell(change.figure)} | {was} | {now} | {moved} | {'**worse**' if change.is_flagged else ''} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fail", action="store_true", help="exit code 1 when something got worse")
    asked = parser.parse_args()
    old, new = (json.loads(path.read_text(encoding="utf-8")) for path in (asked.old, asked.new))
    for path, run in ((asked.old, old), (asked.new, new)):
        if "benchmarks" not in run:
            raise SystemExit(f"{path} is of a single benchmark: give what run.py wrote")
    print(text(old, new))
    n_flagged = sum(change.is_flagged for change in changes(old, new)) + len(unfinished(new))
    print(f"{n_flagged} got worse by more than {100 * WORSE:.0f} %, or are gone" if n_flagged else "nothing got worse")
    if asked.fail and n_flagged:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
