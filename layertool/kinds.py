"""What lies at a path, so that an error can say what was given in the place of something else."""

from __future__ import annotations

from pathlib import Path

STORE, CORPUS, MODEL = "feature store", "corpus", "model"
_MARKS = {
    STORE: ("store.json",),  # first, as it has a table of utterances too
    CORPUS: ("utterances.parquet", "utterances.csv", "utterances.tsv"),
    MODEL: ("config.json",),
}
_INSTEAD = {
    (CORPUS, STORE): "make a store of it with 'layertool extract MODEL {path} -o STORE'",
    (MODEL, STORE): "make a store with 'layertool extract {path} CORPUS -o STORE'",
    (STORE, CORPUS): "give the corpus that it was made of",
    (MODEL, CORPUS): "give the MODEL first, then the CORPUS",
    (STORE, MODEL): "give the model that it was made with",
    (CORPUS, MODEL): "give the MODEL first, then the CORPUS",
}


def kind(path: Path | str) -> str | None:
    """STORE, CORPUS or MODEL; None for files, other folders and where nothing is."""
    return next((name for name, marks in _MARKS.items() if any((Path(path) / mark).is_file() for mark in marks)), None)


def mistaken(path: Path | str, wanted: str) -> str | None:
    """A sentence where ``path`` is of another kind than ``wanted``, None where it is of none that is known."""
    found = kind(path)
    if found is None or found == wanted:
        return None
    return f"{path} is a {found}, not a {wanted}: {_INSTEAD[found, wanted].format(path=path)}"
