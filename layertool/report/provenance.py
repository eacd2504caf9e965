"""Where the numbers come from: what each store says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from layertool.errors import StoreError
from layertool.files import read_json
from layertool.layers import summary
from layertool.report.inputs import Inputs

ABOUT = "store.json"


@dataclass(frozen=True)
class Store:
    """A store that rows name: ``about`` is what its store.json says, None with a ``problem`` where it cannot be
    read."""

    name: str
    n_rows: int
    about: dict[str, Any] | None
    problem: str | None

    def facts(self) -> list[tuple[str, str]]:
        """Names and values for a person."""
        if self.about is None:
            return []
        configuration = _part(self.about, "configuration")
        model, corpus = _part(configuration, "model"), _part(self.about, "corpus")
        units, parameters = _part(configuration, "units"), _part(self.about, "parameters")
        known = {
            "model": model.get("id"),
            "family": model.get("family"),
            "revision": model.get("revision"),
            "sha256 of the weights": model.get("sha256"),
            "weights drawn from seed": model.get("random_init"),
            "step": model.get("step"),
            "parameters": f"{parameters['all']:,}".replace(",", " ")
            if isinstance(parameters.get("all"), int)
            else None,
            "corpus": _joined(corpus.get("name"), _count(corpus)),
            "fingerprint of the corpus": configuration.get("corpus"),
            "layers": summary([str(layer) for layer in configuration.get("layers") or []]) or None,
            "units (pooling)": ", ".join(f"{unit} ({how})" for unit, how in units.items()) or None,
            "numbers": _joined(configuration.get("dtype"), f"stored as {configuration.get('store_dtype')}"),
            "configuration hash": self.about.get("configuration_hash"),
            "made with": ", ".join(f"{name} {version}" for name, version in _part(self.about, "versions").items())
            or None,
        }
        return [(name, str(value)) for name, value in known.items() if value is not None]


def _part(known: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of what a store says; a damaged file may have something else there."""
    found = known.get(name)
    return found if isinstance(found, dict) else {}


def _joined(*parts: object) -> str | None:
    return ", ".join(str(part) for part in parts if part) or None


def _count(corpus: dict[str, Any]) -> str | None:
    seconds = corpus.get("seconds")
    length = f", {seconds / 60:.1f} min" if isinstance(seconds, (int, float)) else ""
    return f"{corpus['n_utterances']} utterances{length}" if "n_utterances" in corpus else None


def stores_of(given: Inputs) -> list[Store]:
    """Every store that the rows name, in their order; paths are looked up from here and from the result file."""
    rows = given.rows[given.rows["store"].notna()]
    found = []
    for name, part in rows.groupby("store", sort=False):
        folders = [source.path.parent for k, source in enumerate(given.sources) if k in set(part["file"])]
        found.append(_store(str(name), part, [Path(str(name)), *(folder / str(name) for folder in folders)]))
    return found


def _store(name: str, rows: pd.DataFrame, places: Sequence[Path]) -> Store:
    there = next((place for place in places if (place / ABOUT).is_file()), None)
    if there is None:
        return Store(name, len(rows), None, "is not here: what made it is known from the rows only")
    try:
        about = read_json(there / ABOUT, "the description of a store")
    except (StoreError, OSError) as error:
        return Store(name, len(rows), None, f"cannot be read: {error}")
    if not isinstance(about, dict):
        return Store(name, len(rows), None, f"cannot be read: its {ABOUT} is no description of a store")
    return Store(name, len(rows), about, _contradiction(about, rows))


def _contradiction(about: dict[str, Any], rows: pd.DataFrame) -> str | None:
    """What the store says now and its rows do not: it was made anew after the analysis."""
    model, corpus = _part(_part(about, "configuration"), "model"), _part(about, "corpus")
    said = {"revision": (model.get("revision"), rows["revision"]), "corpus": (corpus.get("name"), rows["corpus"])}
    for name, (now, column) in said.items():
        known = set(column.dropna())
        if now is not None and known and known != {now}:
            return f"has {name} '{now}' now and '{sorted(map(str, known))[0]}' in the rows: it was made anew since"
    return None
