"""Results: the rows of analyses, which show, draw, write and report themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from layertool import result_rows, tables
from layertool.result_rows import COLUMNS, Result, read, table, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "Result", "Results", "read", "table", "write"]


class Results:
    """Result rows, one a number. ``rows``: the DataFrame (``result_rows.Result`` describes its columns).

    ``tables``: those that an analysis gives beside its rows, by name. In a notebook it shows itself as table and figure;
    ``shown``: how, unless ``text`` or ``plot`` are told otherwise.
    """

    def __init__(
        self,
        rows: Iterable[Result] | pd.DataFrame,
        tables: Mapping[str, list[dict[str, Any]]] | None = None,
        **shown: Any,
    ):
        self.rows = rows if isinstance(rows, pd.DataFrame) else table(rows)
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
        how = {**self.shown, **how}
        rows = self.rows
        if how.get("x") == "parameters":
            from layertool.comparison import with_sizes

            rows = with_sizes(rows)
        found = Results(rows, **how)
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

        ``how``: ``x`` is the axis ("layer", "depth", "step" or "parameters" removed from the store ``reference``), ``names`` are
        labels of the stores, in their order.
        """
        from layertool import figures

        asked = self.over(**how)
        return figures.draw(asked.rows, file, **asked.shown)

    def report(self, file: Path | str) -> Path:
        """One HTML page of the rows: figures, tables, methods and provenance."""
        from layertool.report import write as write_page

        return write_page(self.rows, file, names=self.shown.get("names"))
