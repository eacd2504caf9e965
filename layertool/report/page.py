"""The page itself: one file that needs no network, in which nothing of a result file can run.

All text is escaped; the numbers stand in a block of JSON that is not code; and the page's own policy lets a browser run
only the scripts that are named there by their hash.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from layertool import __version__, outline
from layertool.errors import MissingExtraError
from layertool.files import whole_file
from layertool.report import TITLE, inputs, methods, provenance, references, sections, traces
from layertool.report.inputs import Inputs, Run
from layertool.report.provenance import Store
from layertool.report.sections import Section, Shown
from layertool.result_rows import COLUMNS, records
from layertool.tables import Table, escaped, html_table

KEYS = "Arrow keys read the points; the numbers are in the table below."


def check_plotly() -> None:
    """Raise MissingExtraError where plotly is not installed; nothing is imported."""
    if importlib.util.find_spec("plotly") is None:
        raise MissingExtraError("plotly", "report", "a report")


def write(
    given: pd.DataFrame | Sequence[Path | str], out: Path, title: str = TITLE, names: Sequence[str] | None = None
) -> Path:
    """See ``layertool.report.write``."""
    check_plotly()
    text = page(inputs.of_rows(given) if isinstance(given, pd.DataFrame) else inputs.read(given), title, names)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def page(given: Inputs, title: str = TITLE, names: Sequence[str] | None = None) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    rows = outline.tidy(given.rows, names) if len(given.rows) else given.rows
    parts = sections.of_results(rows) if len(rows) else []
    training, points = sections.of_runs(given.runs)
    parts += training
    stores = provenance.stores_of(given)
    said = methods.paragraph(rows, stores, given.runs)
    figures = [shown for part in parts for shown in part.figures]
    numbers = {id(shown): k for k, shown in enumerate(figures, 1)}
    data = {
        "rows": _columns(records(given.rows[COLUMNS]), COLUMNS),
        "losses": _columns(records(points), list(points.columns)),
        "figures": [traces.plain(one.figure, f"figure-{k}", one.source) for k, one in enumerate(figures, 1)],
    }
    scripts = [get_plotlyjs(), _asset("page.js")]
    return Template(_asset("page.html")).substitute(
        title=html.escape(title),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src {' '.join(map(_hash, scripts))}",
                "style-src 'unsafe-inline'",
                "img-src data: blob:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=_asset("page.css"),
        contents=_contents(parts),
        what=_what(given),
        sections="\n".join(_section(part, k, numbers) for k, part in enumerate(parts, 1)),
        methods=html.escape(said),
        references="\n".join(f"<li>{html.escape(entry)}</li>" for entry in references.entries(said)),
        provenance=_provenance(given, stores),
        version=html.escape(__version__),
        plotly=scripts[0],
        data=_json(data),
        script=scripts[1],
    )


def _asset(name: str) -> str:
    return (resources.files("layertool.report") / "data" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """A script as the page's policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _json(value: Any) -> str:
    """JSON that can stand in a script element: it has no character that could end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _columns(records: list[dict], names: list[str]) -> dict[str, Any]:
    return {"columns": names, "data": [[_whole(record[name], name) for name in names] for record in records]}


def _whole(value: Any, name: str) -> Any:
    """Counts are whole numbers, also where others of their column are missing."""
    if name in ("n", "seed", "step", "layer_index") and isinstance(value, float) and value.is_integer():
        return int(value)
    return value.item() if hasattr(value, "item") else value


def _what(given: Inputs) -> str:
    """The line under the title."""
    rows = given.rows
    parts = [f"{len(rows)} numbers" if len(rows) else ""]
    for one, several in (("analysis", "analyses"), ("model", "models"), ("corpus", "corpora")):
        if len(rows):
            n = rows[one].nunique()
            parts.append(f"{n} {one if n == 1 else several}")
    if given.runs:
        parts.append(f"{len(given.runs)} training run{'s' if len(given.runs) > 1 else ''}")
    return html.escape(", ".join(filter(None, parts)))


def _contents(parts: Sequence[Section]) -> str:
    links = [(f"section-{k}", part.title) for k, part in enumerate(parts, 1)]
    links += [("methods", "Methods"), ("provenance", "Provenance")]
    return "\n".join(f'<li><a href="#{place}">{html.escape(name)}</a></li>' for place, name in links)


def _section(part: Section, number: int, numbers: dict[int, int]) -> str:
    made = [f'<section aria-labelledby="section-{number}">\n<h2 id="section-{number}">{html.escape(part.title)}</h2>']
    made += [f'<p class="note">{html.escape(note)}</p>' for note in part.notes]
    made += [_figure(figure, numbers[id(figure)]) for figure in part.figures]
    made += [_folded(table) if len(table.lines) > 60 else _table(table) for table in part.tables]
    return "\n".join([*made, "</section>"])


def _figure(shown: Shown, number: int) -> str:
    """A heading, legend, panels (drawn by the script), buttons, and the same numbers as tables."""
    figure, name = shown.figure, f"figure-{number}"
    panels = "\n".join(
        f'<div class="panel"><h4>{html.escape(panel.title).replace(chr(10), "<br>")}</h4>'
        f'<div class="plot" id="{name}-{k}" tabindex="0" role="group" aria-roledescription="chart" '
        f'aria-label="{html.escape(f"{figure.title}, {panel.title or figure.caption}. {KEYS}")}"></div></div>'
        for k, panel in enumerate(figure.panels)
    )
    wide = " one" if len(figure.panels) == 1 else ""
    tables = "\n".join(map(_table, shown.tables))
    return f"""<figure id="{name}" class="figure" aria-labelledby="{name}-title">
<h3 id="{name}-title">{html.escape(f"Figure {number}. {figure.title}")}</h3>
<p class="caption">{html.escape(figure.caption)}</p>
<div class="legend" role="group" aria-label="Series: press to hide or show"></div>
<div class="panels{wide}">
{panels}
</div>
<p class="live" role="status" aria-live="polite"></p>
<div class="tools"><button type="button" data-save="svg">Save as SVG</button>
<button type="button" data-save="csv">Save rows as CSV</button></div>
{_table(shown.short) if shown.short else ""}
<details><summary>The numbers of figure {number} as a table</summary>
{tables}
</details>
</figure>"""


def _table(table: Table) -> str:
    notes = "".join(f'<p class="note">{escaped(note)}</p>' for note in table.notes)
    if not table.head:
        return f"<p>{escaped(table.caption)}</p>{notes}"
    return (
        '<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escaped(table.caption)}">{html_table(table)}</div>{notes}'
    )


def _folded(table: Table) -> str:
    return (
        f"<details><summary>{html.escape(table.caption)} ({len(table.lines)} "
        f"lines)</summary>\n{_table(table)}\n</details>"
    )


def _provenance(given: Inputs, stores: Sequence[Store]) -> str:
    made = []
    if given.sources:
        lines = [[str(source.path), str(source.n_rows), source.sha256] for source in given.sources]
        made.append(_table(Table("Result files", ["file", "rows", "sha256"], lines)))
    if stores:
        made.append("<h3>Feature stores</h3>")
        made += [_store(store) for store in stores]
    without = given.rows[given.rows["store"].isna()]
    if len(without):
        known = without.drop_duplicates(["analysis", "model", "revision", "corpus"])
        lines = [
            [
                str(row["analysis"]),
                str(row["model"]),
                "" if pd.isna(row["revision"]) else str(row["revision"]),
                str(row["corpus"]),
            ]
            for _, row in known.iterrows()
        ]
        made.append(_table(Table("Numbers that name no store", ["analysis", "model", "revision", "corpus"], lines)))
    if given.runs:
        made.append("<h3>Training runs</h3>")
        made += [_run(run, name) for run, name in zip(given.runs, sections.names_of(given.runs), strict=True)]
    return "\n".join(made)


def _store(store: Store) -> str:
    rows = f"{store.n_rows} row{'s' if store.n_rows != 1 else ''}"
    facts = store.facts()
    model = " · ".join(value for name, value in facts if name in ("model", "revision", "corpus", "step"))
    problem = f'<p class="note">This store {html.escape(store.problem)}.</p>' if store.problem else ""
    if store.about is None:
        return f"<div class='store'><h4>{html.escape(store.name)} ({rows})</h4>{problem}</div>"
    lines = [[name, value] for name, value in facts]
    summary = html.escape(f"{store.name} ({rows}): {model}")
    return (
        f"{problem}<details class='store'><summary>{summary}</summary>\n"
        f"{_table(Table(f'What {store.name} says of itself', ['fact', 'value'], lines))}\n"
        f"<h4>Configuration</h4><pre tabindex='0'>{_pretty(store.about.get('configuration'))}</pre></details>"
    )


def _run(run: Run, name: str) -> str:
    shown = {key: value for key, value in run.record.items() if key not in ("losses", "history", "parts", "split")}
    if not shown:
        return (
            f"<div class='store'><h4>{html.escape(name)}</h4><p class='note'>This run has no record beside its "
            "losses.</p></div>"
        )
    done = "finished" if run.record.get("finished") else "not finished"
    summary = html.escape(f"{name}: {run.kind}, {done}")
    return f"<details class='store'><summary>{summary}</summary><pre tabindex='0'>{_pretty(shown)}</pre></details>"


def _pretty(value: Any) -> str:
    return html.escape(json.dumps(value, indent=2, ensure_ascii=False))
