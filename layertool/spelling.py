"""One spelling of a text: the same letters are the same code points, wherever they were typed."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def nfc(text: str) -> str:
    """``text`` in Unicode's composed form (NFC): an é of one code point and of two are one letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def nfc_values(values: pd.Series) -> pd.Series:
    """The same values with texts in NFC; each text that occurs is looked at once, and a column without any is returned as it is."""
    if values.dtype != object:
        return values
    spelled = {text: nfc(text) for text in values.unique() if isinstance(text, str)}
    changed = {text: new for text, new in spelled.items() if new != text}
    return (
        values.map(lambda value: changed.get(value, value) if isinstance(value, str) else value) if changed else values
    )


def on_disk(path: Path) -> Path:
    """The file that a path means: as written if it is there, else the one whose name differs in its spelling alone.

    Names on the disk are bytes: files that were copied from a Mac have é as two code points, what people type has one.
    Where there is none the path is returned as written, for whoever opens it to say so.
    """
    if path.exists() or str(path).isascii():
        return path
    folder = on_disk(path.parent)
    if not folder.is_dir():
        return path
    wanted = nfc(path.name)
    return next((there for there in sorted(folder.iterdir()) if nfc(there.name) == wanted), path)
