"""Several corpora as one, so that one store holds the utterances of all."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from layertool import columns
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError


def join(corpora: Sequence[Corpus], name: str | None = None) -> Corpus:
    """The utterances and segments of all corpora, in their order, with a column ``part`` that names the corpus of each.

    Metadata columns that a corpus lacks are empty for its utterances; one that holds numbers here and text there
    becomes text, which ``provenance["notes"]`` says. Raises CorpusError for fewer than two corpora, names that are
    the same, an utterance id that two of them have, and a column ``part`` that is there.
    """
    if len(corpora) < 2:
        raise CorpusError("one corpus has nothing to be joined with: name two or more")
    names = [corpus.name for corpus in corpora]
    if repeated := [one for one in names if names.count(one) > 1]:
        raise CorpusError(
            f"two of the corpora are called '{repeated[0]}': give one another name when you make it (--name)"
        )
    owners: dict[str, str] = {}
    for corpus in corpora:
        if "part" in corpus.utterances:
            raise CorpusError(
                f"the corpus {corpus.name} has a column 'part', where the name of each corpus goes: rename it"
            )
        if again := [one for one in corpus.utterances["utterance"] if one in owners]:
            raise CorpusError(
                f"'{again[0]}' is an utterance of {owners[again[0]]} and of {corpus.name}: ids have to differ, "
                "so that a row says whose it is"
            )
        owners |= dict.fromkeys(corpus.utterances["utterance"], corpus.name)
    parts = [corpus.utterances.assign(part=corpus.name) for corpus in corpora]
    utterances, notes = columns.settled(*parts, what=f"the utterances of {' and '.join(names)}")
    segments = pd.concat([corpus.segments for corpus in corpora], ignore_index=True)
    provenance: dict = {"reader": "join", "parts": {corpus.name: corpus.provenance for corpus in corpora}}
    made = Corpus(utterances, segments, name or "+".join(names), provenance).noting([*_other_labels(corpora), *notes])
    made.check()
    return made


def _other_labels(corpora: Sequence[Corpus]) -> list[str]:
    """A sentence for each tier of which one corpus has labels by another rule than the first, where both are known."""
    first: dict[str, tuple[str, str]] = {}  # of each tier, the corpus and its rule
    notes: dict[str, str] = {}
    tiers = {tier for corpus in corpora for tier in corpus.tiers}
    for corpus in corpora:
        rules = corpus.provenance.get("labels")
        # aligned corpora, and those that layertool 0.1.0 made, have no rules by tier
        for tier, rule in rules.items() if isinstance(rules, dict) else ():
            whose, known = first.setdefault(tier, (corpus.name, rule))
            if rule != known and tier in tiers:
                notes.setdefault(
                    tier,
                    f"the {tier} labels of {whose} are '{known}', those of {corpus.name} '{rule}': one {tier} may "
                    "have two labels",
                )
    return [notes[tier] for tier in sorted(notes)]
