"""The feature store: every layer of one model on one corpus, pooled to units of speech.

On the disk (readable with plain h5py; see docs/store.md)::

    STORE/
      store.json          what made it: model, layers, units, geometry, versions, configuration and its hash
      utterances.parquet  the corpus's utterance table; `utterance` codes in rows are positions in it
      labels.json         the labels of each tier; `label` codes in rows are positions in them
      shards/00000.h5 …   /{unit}/{layer} (rows, width) and /{unit}/rows; never changed once in place
      index.jsonl         one line per finished shard, appended after the shard is in place
      store.h5            virtual datasets over all shards, written when the run ends
"""

from layertool.store.reader import FeatureStore, matching
from layertool.store.verify import verify
from layertool.store.writer import StoreWriter

__all__ = ["FeatureStore", "StoreWriter", "matching", "verify"]
