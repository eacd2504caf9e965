"""The one printer of result rows."""

from __future__ import annotations

from typing import Any

import pandas as pd


def text(rows: pd.DataFrame, brief: bool = False, **_how: Any) -> str:
    """Rows for a terminal."""
    return rows[["layer", "target", "metric", "value", "ci_low", "ci_high", "chance", "n"]].to_string(index=False)


def html(rows: pd.DataFrame) -> str:
    """Rows for a notebook."""
    return rows.to_html(index=False)
