"""Label normalisation of Pasad et al.'s preparation (spec layerwise.md 2.2)."""

from __future__ import annotations

TIERS = ("phone", "word")
# Montreal Forced Aligner: spoken noise and short pause are no speech units.
_DROPPED = frozenset({"spn", "sp"})


def normalise(tier: str, label: str) -> str | None:
    """The label as analyses should see it, or None when the interval is to be left out.

    Both tiers: surrounding space is cut, empty labels, ``spn`` and ``sp`` are left out. Phones: one
    trailing stress digit 0, 1 or 2 is cut, lower case, and silence (``sil``) becomes ``SIL``: the
    39 phones of CMUdict plus SIL. Words keep their spelling.
    """
    label = label.strip()
    if not label or label in _DROPPED:
        return None
    if tier != "phone":
        return label
    if len(label) > 1 and label[-1] in "012":
        label = label[:-1]
    label = label.lower()
    return "SIL" if label == "sil" else label


def raw(tier: str, label: str) -> str | None:
    """The label as it stands in the file; only empty intervals are left out."""
    return label if label.strip() else None
