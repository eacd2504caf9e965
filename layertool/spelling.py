"""One spelling of a text: the same letters are the same code points, wherever they were typed."""

from __future__ import annotations

import unicodedata


def nfc(text: str) -> str:
    """``text`` in Unicode's composed form (NFC): an é of one code point and of two are one letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)
