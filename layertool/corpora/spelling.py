"""The same as ``layertool.spelling``, for corpora."""

from layertool.spelling import nfc

__all__ = ["nfc"]
