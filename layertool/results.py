"""Results: the rows of analyses, which show, draw, write and report themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layertool import result_rows, tables
from layertool.declared import listed
from layertool.errors import UsageError
from layertool.outline import check_axis
from layertool.result_rows import COLUMNS, Result, read, table, write
from layertool.spelling import meant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "Result", "Results", "read", "table", "write"]


SHOWN = ("x", "reference", "names")  # how


class Results:
    """Result rows, one a number. ``rows``: the DataFrame (``result_rows.Result`` describes its columns).

    ``tables``: those that an analysis gives beside its rows, by name. In a notebook it shows itself as table and
    figure; ``shown``: how, unless ``text`` or ``plot`` are told otherwise.
    """

    def __init__(
        self,
        rows: Iterable[Result] | pd.DataFrame,
        tables: Mapping[str, list[dict[str, Any]]] | None = None,
        **shown: Any,
    ):
        self.rows = rows if isinstance(rows, pd.DataFrame) else table(rows)
        for name in shown:
            if name not in SHOWN:
                raise UsageError(f"nothing of results is called '{name}'; {meant(name, SHOWN, 'options')}")
        if shown.get("names") is not None:
            shown["names"] = list(listed(shown["names"]))
        check_axis(shown.get("x", "layer"))
        self.tables = {name: pd.DataFrame(lines) for name, lines in (tables or {}).items()}
        self.shown = shown

    @classmethod
    def read(cls, files: Path | str | Sequence[Path | str]) -> Results:
        """Results of one file or several. Raises UsageError, in one sentence, for files that hold none."""
        return cls(read([files] if isinstance(files, (str, Path)) else files))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        from layertool import figures

        return tables.html(self.rows) + figures.svg(self.rows)

    def over(self, **how: Any) -> Results:
        """The same rows, shown as ``plot`` says; over parameters also rows that say how large each store's model is."""
        found = Results(self.rows, **{**self.shown, **how})
        if found.shown.get("x") == "parameters":
            from layertool.comparison import with_sizes

            found.rows = with_sizes(found.rows)
        found.tables = self.tables
        return found

    def text(self, brief: bool = False, **how: Any) -> str:
        """The rows as tables of 80 columns for a terminal. ``brief``: without intervals; ``how``: see ``plot``."""
        asked = self.over(**how)
        return tables.text(asked.rows, brief, **asked.shown)

    def write(self, file: Path | str) -> Path:
        """Write the rows as .csv, .parquet or .json, whole or not at all."""
        return result_rows.write(self.rows, file)

    def plot(self, file: Path | str | None = None, **how: Any) -> Figure:
        """The figure; with ``file`` it is written, too, as .png, .pdf or .svg.

        ``how``: ``x`` is the axis ("layer", "depth", "step" or "parameters" removed from the store ``reference``),
        ``names`` are labels of the stores, in their order.
        """
        from layertool import figures

        asked = self.over(**how)
        return figures.draw(asked.rows, file, **asked.shown)

    def report(self, file: Path | str, title: str | None = None) -> Path:
        """One HTML page of the rows (.html): figures, tables, methods and provenance."""
        from layertool.report import TITLE
        from layertool.report import write as write_page

        return write_page(self.rows, file, TITLE if title is None else title, self.shown.get("names"))
