"""Utterances that cannot be used: how many a person allows, and what is said where there are more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from layertool.errors import AudioError, CorpusError


class Failures(dict[str, str]):
    """Utterances that cannot be used, with the reasons; ``most``: how many there may be."""

    def __init__(self, most: int, known: Mapping[str, str] | None = None):
        super().__init__(known or {})
        self.most = most

    @contextmanager
    def tolerated(self, one: str) -> Iterator[None]:
        """Keep a CorpusError or AudioError of the body as the reason of ``one``; raise that which is one too many."""
        try:
            yield
        except (CorpusError, AudioError) as error:
            self[one] = str(error)
            if len(self) > self.most:
                raise

    def check(self, n_usable: int, error: type[CorpusError] | type[AudioError] = CorpusError) -> None:
        """Raise the first that is one too many, and say how to go on; or the first at all where nothing can be used."""
        n, reasons = len(self), list(self.values())
        if n > self.most:
            hint = (
                f" ({n} utterance{'s' if n > 1 else ''} cannot be used; "
                f"'layertool corpus' leaves {'them' if n > 1 else 'it'} out with --max-failures {n})"
            )
            raise error(reasons[self.most] + (hint if n_usable else ""))
        if n and not n_usable:
            raise CorpusError(f"none of the utterances can be used; the first: {reasons[0]}")
