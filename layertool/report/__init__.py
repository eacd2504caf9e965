"""One page for a set of results: figures, tables, where they come from, and how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from layertool.errors import UsageError

TITLE = "layertool report"
PAGES = (".html", ".htm")


def check_name(out: Path) -> None:
    """Raise UsageError for a file whose name is not that of a page."""
    if out.suffix not in PAGES:
        raise UsageError(f"{out} is no page: end it in {' or '.join(PAGES)}")


def write(
    given: pd.DataFrame | Sequence[Path | str], out: Path | str, title: str = TITLE, names: Sequence[str] | None = None
) -> Path:
    """Write the page of result rows, or of result files and training runs, whole or not at all.

    ``names``: labels of the stores, in their order. The same input gives the same bytes. Raises UsageError for what is
    no result and no run, MissingExtraError without plotly.
    """
    check_name(Path(out))
    from layertool.report import page

    return page.write(given, Path(out), title, names)
