"""Analyses run by their declarations in tests, with what was told."""

from __future__ import annotations

import json
import warnings

from layertool.errors import LayertoolWarning
from layertool.layerwise.rows import ALL

NAMES = {"n_trials": "trials", "variants": "variant", "n_clusters": "clusters", "n_neighbours": "neighbours"}


def asked(**given) -> dict:
    """Keywords of a declaration; a ``sampling`` is drawn by the options that say it."""
    sampling = given.pop("sampling", None)
    if sampling == ALL:
        given["sample"] = "all"
    elif sampling is not None:
        names = {"utterances": "max_utterances", "per_label": "per_label", "top_labels": "top_labels"}
        given |= {names[name]: value for name, value in vars(sampling).items() if value is not None}
    return {NAMES.get(name, name): value for name, value in given.items()}


def run(analysis, *inputs, say=None, **how):
    """Rows of ``analysis`` (a declaration); ``say`` is told the notes, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", LayertoolWarning)
        rows = analysis.run(*inputs, **how)
    for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, LayertoolWarning)):
        if say:
            say(text)
    return rows


def settings(row) -> dict:
    """What decided a row."""
    return json.loads(row.settings)
