"""One spelling of a text: the same letters are the same code points, wherever they were typed."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs, which UTF-8 cannot write


def nfc(text: str) -> str:
    """``text`` in Unicode's composed form (NFC): an é of one code point and of two are one letter."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def nfc_values(values: pd.Series) -> pd.Series:
    """The same values, texts among them in NFC; the same series where nothing changes."""
    if values.dtype.kind != "O":
        return values
    # what is not all text may hold lists, which have no hash
    texts = {text for text in (values if values.dtype == object else values.unique()) if isinstance(text, str)}
    new = {text: nfc(text) for text in texts if nfc(text) != text}
    return values.map(lambda value: new.get(value, value) if isinstance(value, str) else value) if new else values


def visible(text: str, keep: str = "", spell: Callable[[str], str] = ascii) -> str:
    """``text`` with everything that a terminal would obey or hide spelled out, as Python does: \\x1b, \\u202e, \\n.

    That is what ``str.isprintable`` says is none: control characters, changes of the direction of writing, characters
    without width, blanks that are not the space bar's, halves of surrogate pairs. ``keep``: characters that stay;
    ``spell``: the spelling of one character, between quotes.
    """
    unseen = {ord(letter): spell(letter)[1:-1] for letter in set(text) if not (letter.isprintable() or letter in keep)}
    return text.translate(unseen) if unseen else text


def meant(word: str, known: Iterable[str], what: str) -> str:
    """What somebody may have meant who typed ``word``, else all that there is: ``what``, in the plural."""
    words = list(known)
    near = " or ".join(get_close_matches(word, words))
    return f"did you mean {near}?" if near else f"the {what} are {', '.join(words)}"


def natural(text: str) -> list:
    """Sorts texts by the numbers in them: step-900 before step-1000."""
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]


def is_text(text: str) -> bool:
    """Whether files can hold ``text``: names of files that are no UTF-8 come as halves of surrogate pairs, which
    are none."""
    return _HALVES.search(text) is None


def is_number(text: str | bytes) -> bool:
    """Whether Python reads ``text`` as a float; nan and inf are such texts, too."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def percent(text: str, unwanted: re.Pattern) -> str:
    """``text`` with %XX, as in web addresses, for each byte (UTF-8) of what ``unwanted`` finds."""
    return unwanted.sub(lambda found: "".join(f"%{byte:02X}" for byte in found.group().encode()), text)


def on_disk(path: Path) -> Path:
    """The file that a path means: as written if it is there, else the one whose name differs in its spelling alone.

    Names on the disk are bytes: files that were copied from a Mac have é as two code points, what people type has one.
    Where there is none the path is returned as written, for whoever opens it to say so.
    """
    if str(path).isascii() or path.exists():
        return path
    folder = on_disk(path.parent)
    there = _by_spelling(folder, folder.stat().st_mtime_ns) if folder.is_dir() else {}
    return folder / there.get(nfc(path.name), path.name)


@lru_cache(maxsize=64)
def _by_spelling(folder: Path, _changed: int) -> dict[str, str]:
    """The names in a folder by their NFC; ``_changed``: when the folder was, so that it is read anew after that."""
    return {nfc(name): name for name in sorted(os.listdir(folder), reverse=True)}
