"""Whisper and what listeners heard: ``layertool.lexical.score(model, corpus)``, ``rank``, ``baselines`` and
``lens``."""

from __future__ import annotations

from layertool.functions import of_group

__getattr__, __dir__ = of_group("lexical")
