"""The spelling of texts, under the name that readers of corpora know it by."""

from layertool.spelling import nfc as nfc
