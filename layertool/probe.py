"""What can be read from a layer without training: ``layertool.probe.neighbours(stores, labels="phone")`` and the
others."""

from __future__ import annotations

from layertool.functions import of_group

__getattr__, __dir__ = of_group("probe")
