"""Everything that is checked and decided before the first audio file is read."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import transformers
import xxhash

import layertool
from layertool import audio, columns
from layertool import layers as layer_names
from layertool.corpora.corpus import AUDIO_COLUMNS, Corpus
from layertool.errors import CorpusError, UsageError, tell
from layertool.extractors import plan
from layertool.extractors.base import Extractor
from layertool.extractors.extraction import Extraction
from layertool.extractors.load import open_extractor
from layertool.extractors.masking import TimeMask
from layertool.extractors.pooling import Pooler
from layertool.extractors.unit_rows import CorpusRows
from layertool.geometry import DEFAULT_POOLING, SAMPLE_RATE, Pooling, Window, sees_beyond, window_grid, windows
from layertool.models.open import Model
from layertool.store import layout

BATCH_SECONDS = {"cpu": 8.0, "mps": 60.0, "cuda": 400.0}  # by kind of device


@dataclass(frozen=True)
class Prepared:
    """A run that has been checked and planned but not begun."""

    extractor: Extractor
    corpus: Corpus
    layers: list[str]
    pooler: Pooler
    rows: CorpusRows
    shards: list[plan.Shard]
    configuration: dict
    about: dict
    options: Extraction
    mask: TimeMask | None = None

    @cached_property
    def n_rows(self) -> dict[str, int]:
        """Rows of the whole store, by "unit/table"; no audio is read for it."""
        lengths, frames = self.corpus.utterances["n_samples"].tolist(), self.pooler.frame_tables()
        return {
            f"{unit}/{table}": sum(map(frames[table].n_frames, lengths)) if unit == "frame" else self.rows.counts[unit]
            for unit, table in dict.fromkeys((unit, table) for (unit, _), table in self.pooler.table.items())
        }

    @property
    def n_bytes(self) -> int:
        """Bytes of all layers and rows of the store."""
        itemsize, is_masked = np.dtype(self.options.store_dtype).itemsize, self.mask is not None
        return sum(
            self.n_rows[f"{unit}/{table}"] * self.pooler.layers[name].width * itemsize
            for (unit, name), table in self.pooler.table.items()
        ) + sum(n * layout.row_dtype(name.split("/")[0], is_masked).itemsize for name, n in self.n_rows.items())

    def batch_seconds(self, asked: float | None) -> float:
        """Padded audio in one batch: what was asked, or what is usual on the device."""
        return asked or BATCH_SECONDS[self.extractor.device.type]

    def batch_size(self, n_samples: int, asked: float | None) -> int:
        """Items of this length in one batch of ``asked`` seconds."""
        return max(1, round(self.batch_seconds(asked) * SAMPLE_RATE) // self.extractor.padded_samples(n_samples))

    @cached_property
    def grid(self) -> int:
        """Samples between the places where windows may start: a multiple of all layers' hops and of the mask's."""
        geometries = [*self.pooler.geometry.values(), *(layer.geometry for layer in self.pooler.layers.values())]
        hops = {geometry.hop for geometry in geometries if geometry is not None}
        return window_grid(hops | ({self.mask.geometry.hop} if self.mask else set()))

    @cached_property
    def longest_window(self) -> int:
        """Samples of the longest stretch that the model is given."""
        lengths = self.corpus.utterances["n_samples"]
        asked = int(lengths.max()) if self.extractor.is_acoustic else round(self.options.window_seconds * SAMPLE_RATE)
        return min(asked, self.extractor.max_window or asked)

    @property
    def overlap(self) -> int:
        """Samples that two windows share; frames of acoustic features do not depend on how many."""
        return SAMPLE_RATE if self.extractor.is_acoustic else round(self.options.overlap_seconds * SAMPLE_RATE)

    def windows(self, n_samples: int) -> list[Window]:
        """The windows of an utterance. Raises UsageError where no windows give every layer whole and exact frames."""
        found = windows(n_samples, self.longest_window, self.overlap, self.grid)
        for name, geometry in ((name, g) for (_, name), g in self.pooler.geometry.items() if g is not None):
            if len(found) > 1 and any(sees_beyond(geometry, window, n_samples) for window in found):
                reach = max(geometry.field + geometry.offset, -geometry.offset) + self.grid
                raise UsageError(
                    f"frames of layer {name} see {geometry.field / SAMPLE_RATE:g} s of audio, and windows that "
                    f"overlap by "
                    f"{self.options.overlap_seconds:g} s would cut some of them: make --overlap-seconds at least "
                    f"{-(-2 * reach // SAMPLE_RATE)}"
                )
        return found


def prepare(
    model: str | Model | Extractor,
    corpus: Corpus | Path | str,
    options: Extraction,
    device: str = "auto",
    dtype: str = "float32",
    **asked: Any,
) -> Prepared:
    """Check everything that can be checked before the first audio file is read.

    ``asked``: see ``models.open.Asked``.
    """
    if not isinstance(corpus, Corpus):
        corpus = Corpus.read(corpus, options.channel)
    else:
        corpus.check()
    # what a store cannot hold is told now; where the audio is stays as the disk has it
    utterances, notes = columns.settled(corpus.utterances, what=f"the utterances of {corpus.name}", leave=("audio",))
    for note in notes:
        tell(note)
    corpus = replace(corpus, utterances=utterances)
    units: Sequence[str] = options.units
    audio.check_channel(options.channel)
    if options.overlap_seconds <= 0:
        # the last frame of a window would see beyond its end, and so would be in no window
        raise UsageError(
            f"windows must overlap, not by {options.overlap_seconds:g} s: give --overlap-seconds 1 or more"
        )
    if options.window_seconds < 2 * options.overlap_seconds:
        raise UsageError(
            f"windows of {options.window_seconds:g} s cannot overlap by {options.overlap_seconds:g} s: make "
            "--window-seconds at least twice --overlap-seconds"
        )
    if options.mask_seed is None and (options.mask_prob is not None or options.mask_length is not None):
        raise UsageError("--mask-prob and --mask-length change the mask that --mask-seed N puts on: add --mask-seed")
    pooling = _pooling(units, options.poolings)
    rows = CorpusRows(corpus, units)
    if asked.get("cmvn") and "utterance" in units and pooling["utterance"].name == "mean":
        raise UsageError(
            "--cmvn makes the mean over time of every utterance 0 up to rounding, so its utterance rows would be "
            "numerical noise: leave out --cmvn or the unit utterance"
        )
    extractor = (
        model if isinstance(model, Extractor) else open_extractor(model, device, dtype, options.mask_seed, **asked)
    )
    if extractor.only_unit and set(units) != {extractor.only_unit}:
        raise UsageError(
            f"--encoder-window 30s keeps frames of silence, which no segment holds: type --units {extractor.only_unit}"
        )
    mask = None
    if options.mask_seed is not None:
        mask = extractor.time_mask(options.mask_seed, options.mask_prob, options.mask_length)
    chosen = layer_names.select(options.layers, list(extractor.layers), extractor.provenance["id"])
    units = [unit for unit in ("frame", "phone", "word", "utterance") if unit in units]
    extractor.restrict(chosen)
    pooler = Pooler({name: extractor.layers[name] for name in chosen}, units, pooling)
    lengths = corpus.utterances["n_samples"].to_numpy()
    shards = plan.shards(lengths, round(options.shard_seconds * SAMPLE_RATE))
    configuration = {
        "model": extractor.provenance,
        "dtype": dtype,
        "store_dtype": options.store_dtype,
        "layer_convention": layer_names.CONVENTION,
        "layers": chosen,
        "units": {unit: pooling[unit].name if unit in pooling else "none" for unit in units},
        "channel": options.channel,
        "window_seconds": None if extractor.is_acoustic else options.window_seconds,
        "overlap_seconds": None if extractor.is_acoustic else options.overlap_seconds,
        "shard_seconds": options.shard_seconds,
        "corpus": corpus.fingerprint,
    }
    if mask is not None:  # without a mask nothing is said of it: stores from before there were masks are the same
        configuration |= {"mask_seed": mask.seed, "mask_prob": mask.probability, "mask_length": mask.length}
    if any(name.startswith("D") for name in chosen):  # decoder layers are states on the text
        _check_texts(corpus, rows if "word" in units else None)
        configuration["texts"] = xxhash.xxh3_128_hexdigest(json.dumps(corpus.utterances["text"].tolist()).encode())
    about = _about(corpus, extractor, pooler, units, chosen, len(shards), rows.n_empty)
    prepared = Prepared(extractor, corpus, chosen, pooler, rows, shards, configuration, about, options, mask)
    for n_samples in np.unique(lengths[lengths > prepared.longest_window]):
        prepared.windows(int(n_samples))
    return prepared


def _pooling(units: Sequence[str], asked: Mapping[str, str]) -> dict[str, Pooling]:
    for unit in asked:
        if unit == "frame":
            raise UsageError("frames are not pooled: leave --pooling frame=… out")
        if unit not in DEFAULT_POOLING or unit not in units:
            raise UsageError(
                f"pooling was given for '{unit}', which is not among the pooled units asked for ({', '.join(units)})"
            )
    return {unit: Pooling(asked.get(unit, default)) for unit, default in DEFAULT_POOLING.items() if unit in units}


def _about(corpus, extractor, pooler: Pooler, units, chosen, n_shards: int, empty: int) -> dict:
    rates = corpus.utterances["sample_rate"].value_counts().to_dict()
    return {
        "layers": {
            name: {
                "width": extractor.layers[name].width,
                "geometry": g.to_json() if (g := extractor.layers[name].geometry) else None,
                "frame_average": pooler.averaging.get(name),
            }
            for name in chosen
        },
        "units": {
            unit: {
                "layers": [name for name in chosen if (unit, name) in pooler.table],
                "rows": {name: pooler.table[unit, name] for name in chosen if (unit, name) in pooler.table},
            }
            for unit in units
        },
        "network_layers": list(extractor.layers),
        "n_shards": n_shards,
        "parameters": {"all": extractor.n_parameters, "nonzero": extractor.n_nonzero},
        "corpus": {"name": corpus.name, "n_utterances": len(corpus.utterances), "seconds": corpus.seconds},
        "zero_length_segments": empty,
        "audio": {
            "sample_rate": SAMPLE_RATE,
            "source_rates": {str(rate): int(count) for rate, count in rates.items()},
            "resampler": audio.RESAMPLER if set(rates) - {SAMPLE_RATE} else None,
            "columns": AUDIO_COLUMNS,
        },
        "versions": {
            "layertool": layertool.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "h5py": h5py.__version__,
            "numpy": np.__version__,
        },
    }


def _check_texts(corpus: Corpus, rows: CorpusRows | None) -> None:
    """Decoder layers: every utterance has a text, and its words are the word segments, one by one."""
    if "text" not in corpus.utterances:
        raise CorpusError(
            f"the corpus {corpus.name} has no column 'text', which decoder layers need: make the corpus with "
            "--metadata TABLE that has one, or with .txt files beside the audio; or leave the D layers out"
        )
    for k, (utterance, text) in enumerate(zip(corpus.utterances["utterance"], corpus.utterances["text"], strict=True)):
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(
                f"utterance '{utterance}' has no text, which decoder layers need: fill in its 'text', or leave the D "
                f"layers out"
            )
        if rows is not None:
            words, segments = text.split(), [rows.labels["word"][code] for code in rows.of(k)["word"].label]
            if [_plain(w) for w in words] != [_plain(s) for s in segments]:
                raise CorpusError(
                    f"the text of utterance '{utterance}' and its word segments differ ({len(words)} and "
                    f"{len(segments)} words): "
                    "decoder layers at unit word need them equal; correct one, or take --units utterance"
                )


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())
