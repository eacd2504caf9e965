"""What a model says to stimuli: from audio, or from a store of encoder states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layertool import audio
from layertool.analysis.lexical.lexicon import Lexicon
from layertool.analysis.lexical.metrics import log_likelihood
from layertool.analysis.lexical.scorer import WhisperScorer
from layertool.analysis.lexical.search import MOST_PREFIXES
from layertool.corpora.corpus import Corpus
from layertool.errors import AudioError, UsageError
from layertool.geometry import SAMPLE_RATE
from layertool.layerwise.engine import Watch
from layertool.layerwise.stimuli import Stimulus
from layertool.models.whisper import WINDOW_SAMPLES, Reading
from layertool.store import FeatureStore

AT_ONCE = {"cpu": 4, "mps": 8, "cuda": 32}  # clips in one encoder batch


@dataclass(frozen=True)
class Outcome:
    """What a model says to one stimulus.

    ``log_p`` of each response; ``target_p``: probability of the word that was spoken, nan where none is known;
    ``top``: as many words as there are responses, the most likely ones, None where nothing was ranked; ``exact``: they
    are surely; ``n_opened``: prefixes that were opened to find them.
    """

    stimulus: Stimulus
    log_p: np.ndarray
    target_p: float = math.nan
    top: Sequence[str] | None = None
    exact: bool = True
    n_opened: int | None = None

    @classmethod
    def of(cls, stimulus: Stimulus, log_p: np.ndarray, top: Sequence[str] | None = None, **search: Any) -> Outcome:
        """``log_p``: of ``stimulus.words``, the responses and the target; ``search``: ``exact``, ``n_opened``."""
        n = len(stimulus.responses)
        return cls(stimulus, log_p[:n], float(np.exp(log_p[n])) if stimulus.target else math.nan, top, **search)

    @property
    def log_likelihood(self) -> float:
        """Of what the listeners said; log-probabilities can be above 0 by rounding."""
        return log_likelihood(np.minimum(self.log_p, 0), self.stimulus.counts)


class States:
    """Encoder layers of every utterance, out of a store that holds their frames."""

    def __init__(self, store: FeatureStore, scorer: WhisperScorer, corpus: Corpus, layers: Iterable[str]):
        """Raises UsageError for a store of another model, window or corpus, or one that lacks layers."""
        self.store = store
        made = store.configuration["model"]
        drawn = made.get("random_init") is not None  # then the hashes are of networks with and without an output layer
        for key in ("id", "revision", "random_init", *(() if drawn else ("sha256",))):
            if made.get(key) != scorer.provenance.get(key):
                raise UsageError(
                    f"{store.path} is of another model ({key} {made.get(key)}, here {scorer.provenance.get(key)}): "
                    "give the store of this one, or a new folder"
                )
        dtype = str(scorer.dtype).removeprefix("torch.")
        if store.configuration["dtype"] != dtype:
            raise UsageError(
                f"{store.path} was computed in {store.configuration['dtype']}, asked for is {dtype}: type --dtype "
                f"{store.configuration['dtype']}, or give a new folder"
            )
        if (window := made.get("encoder_window", "clip")) != scorer.variant.window:
            raise UsageError(
                f"{store.path} holds states of --encoder-window {window}, asked for is {scorer.variant.window}: type "
                f"--encoder-window {window}, or give a new folder"
            )
        if store.configuration["corpus"] != corpus.fingerprint:
            raise UsageError(f"{store.path} is of another corpus than {corpus.name}: give its store, or a new folder")
        there = store.layers_of("frame") if "frame" in store.units else []
        lacking = [layer for layer in layers if layer not in there]
        if lacking:
            raise UsageError(
                f"{store.path} has no frames of layer {lacking[0]} (it has {', '.join(there) or 'none'}): extract "
                f"again with --units frame --layers {','.join(layers)}, or give a new folder"
            )
        codes = store.row_table("frame", there[0])["utterance"]
        names = store.utterances["utterance"].to_numpy()
        first = np.searchsorted(codes, np.arange(len(names) + 1))
        self.spans = {name: (int(a), int(b)) for name, a, b in zip(names, first[:-1], first[1:], strict=True) if b > a}

    def of(self, utterance: str, layer: str, scorer: WhisperScorer) -> torch.Tensor:
        """States of one utterance as the decoder reads them, (positions, width)."""
        if utterance not in self.spans:
            raise UsageError(f"{self.store.path} has no rows of '{utterance}' (it was left out): extract it again")
        first, last = self.spans[utterance]
        rows = np.concatenate(list(self._rows(layer, first, last)))
        states = torch.from_numpy(rows.astype(np.float32)).to(scorer.device)
        return states if layer == "final" else scorer.encoder.layer_norm(states)

    def _rows(self, layer: str, first: int, last: int) -> Iterator[np.ndarray]:
        for block in self.store.blocks("frame", layer, last - first, first):
            yield block[: last - first]
            first += len(block)
            if first >= last:
                return


@dataclass
class Listener:
    """A scorer that goes through stimuli. ``lexicon``: to rank; ``states``: instead of the audio.

    ``opened`` makes one like it in another process: what is sent there is this, not the network.
    """

    scorer: WhisperScorer
    corpus: Corpus
    lexicon: Lexicon | None = None
    states: States | None = None
    most_prefixes: int = MOST_PREFIXES
    at_once: int | None = None
    opened: Callable[[], Listener] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"opened": self.opened} if self.opened else vars(self)

    @property
    def precision(self) -> str | None:
        """What states were kept in, where that is not float32."""
        kept = self.states.store.configuration["store_dtype"] if self.states else "float32"
        return None if kept == "float32" else kept

    @property
    def source(self) -> str | None:
        """The store that states are taken from."""
        return str(self.states.store.path) if self.states else None

    def listen(
        self, stimuli: Sequence[Stimulus], layers: Sequence[str], watch: Watch | None = None
    ) -> dict[str, list[Outcome]]:
        """What each of ``layers`` says to each stimulus.

        Raises AudioError for a clip over 30 s: before the work, not in the midst of it.
        """
        check_lengths(self.corpus, stimuli)
        self.scorer.tokenise(list(dict.fromkeys(word.lower() for one in stimuli for word in one.responses)))
        at_once = self.at_once or AT_ONCE[self.scorer.device.type]
        blocks = [(stimuli[first : first + at_once], layers) for first in range(0, len(stimuli), at_once)]
        watch = (watch or Watch(1)).counting(len(stimuli))
        parts = watch.each(self.hear, blocks, "a block of stimuli")
        return {layer: [one for part in parts for one in part[layer]] for layer in layers}

    def hear(self, block: Sequence[Stimulus], layers: Sequence[str]) -> dict[str, list[Outcome]]:
        """The same of a few stimuli; the encoder runs once for all of them and all layers.

        Encoder layers are read by the whole decoder, decoder layers read the encoder's final layer.
        """
        if self.opened and "scorer" not in vars(self):  # in another process, once
            vars(self).update(vars(self.opened()))
        # each layer by the encoder layer that is heard and the decoder layer that is read: "final" is the last of these
        whole = self.scorer.output_layer
        ways = {layer: ("final", layer) if layer.startswith("D") else (layer, whole) for layer in layers}
        of_encoder = list(dict.fromkeys(source for source, _ in ways.values()))
        found: dict[str, list[Outcome]] = {layer: [] for layer in layers}
        states = self._states(block, of_encoder)
        with self.scorer.computing():
            for k, stimulus in enumerate(block):
                heard = {source: self.scorer.decoder.hear(states[source][k]) for source in of_encoder}
                outcomes = {
                    way: self._outcome(stimulus, self.scorer.read(heard[way[0]], way[1]))
                    for way in dict.fromkeys(ways.values())
                }
                for layer, way in ways.items():
                    found[layer].append(outcomes[way])
        return found

    def _states(self, block: Sequence[Stimulus], layers: list[str]) -> dict[str, list[torch.Tensor]]:
        states = self.states
        if states is not None:
            with self.scorer.computing():
                return {name: [states.of(one.utterance, name, self.scorer) for one in block] for name in layers}
        rows = (self.corpus.utterances.iloc[one.place] for one in block)
        return self.scorer.encode([audio.read_utterance(row) for row in rows], layers)

    def _outcome(self, stimulus: Stimulus, reading: Reading) -> Outcome:
        log_p = self.scorer.score(reading, stimulus.words)
        if self.lexicon is None:
            return Outcome.of(stimulus, log_p)
        ranked = self.scorer.rank(reading, self.lexicon, len(stimulus.responses), self.most_prefixes)
        return Outcome.of(stimulus, log_p, ranked.words, exact=ranked.exact, n_opened=ranked.n_opened)


def check_lengths(corpus: Corpus, stimuli: Sequence[Stimulus]) -> None:
    """Raise AudioError for a clip that is longer than Whisper takes."""
    lengths = corpus.utterances["n_samples"].to_numpy()
    for one in stimuli:
        if lengths[one.place] > WINDOW_SAMPLES:
            raise AudioError(
                f"utterance '{one.utterance}' lasts {lengths[one.place] / SAMPLE_RATE:.4f} s, Whisper takes up to "
                "30 s: cut it"
            )
