"""Whisper that learns listeners' responses: the loss of a batch of stimuli, and the batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration

from layertool import audio
from layertool.analysis.lexical.lexicon import in_tokens
from layertool.analysis.lexical.scorer import WhisperScorer
from layertool.analysis.lexical.search import forms_log_p
from layertool.corpora.corpus import Corpus
from layertool.layerwise.stimuli import Stimulus, top_response
from layertool.models import whisper

OBJECTIVES = {
    "all": "sum over responses of |log p - log relative frequency|",
    "top": "cross-entropy of the most common response",
}
MODULES = ("decoder", "encoder", "convolutions")  # that can be trained


class Network(WhisperForConditionalGeneration):
    """Whisper whose forward is the loss of a batch of stimuli."""

    def set_up(self, scorer: WhisperScorer, modules: Sequence[str], objective: str) -> None:
        """Freeze what is not trained (``modules``: see MODULES). ``scorer``: of this network; ``objective``: see
        OBJECTIVES."""
        self.scorer_of = [scorer]  # in a list: torch would take it for a part of the network
        self.objective = objective
        encoder = self.model.encoder
        parts = {
            "decoder": [self.model.decoder, self.proj_out],
            "encoder": [encoder.layers, encoder.layer_norm],
            "convolutions": [encoder.conv1, encoder.conv2],
        }
        self.requires_grad_(False)
        for name in modules:
            for part in parts[name]:
                part.requires_grad_(True)
        self.encoder_learns = any(p.requires_grad for p in encoder.parameters())

    def forward(
        self, features: torch.Tensor, positions: list[int], words: list[list[str]], counts: list[list[int]]
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch: features (clips, mel bands, 3000), and what listeners said to each clip."""
        (scorer,) = self.scorer_of
        window = scorer.variant.window
        with torch.set_grad_enabled(self.encoder_learns and torch.is_grad_enabled()):
            states = whisper.encode(self.model.encoder, features, positions if window == "exact" else None)
        losses, n = [], 0
        for k, (own, given) in enumerate(zip(words, counts, strict=True)):
            reading = scorer.decoder.read(states[k] if window == "30s" else states[k, : positions[k]])
            forms = in_tokens(own, scorer.variant.surface, scorer.tokenise)
            log_p = words_log_p(reading, forms, scorer.end)
            if self.objective == "all":
                frequency = torch.tensor(given, dtype=torch.float32, device=log_p.device)
                losses.append((log_p - torch.log(frequency / frequency.sum())).abs().sum())
                n += 1
            else:
                losses.append(-log_p.sum())
                n += len(forms[0][0]) + (scorer.end is not None)
        return {"loss": torch.stack(losses).sum() / n}


def words_log_p(reading: whisper.Reading, forms: list[list[list[int]]], end: int | None) -> torch.Tensor:
    """Log-probability of words, (len(forms),), with gradients."""
    each = forms_log_p(reading, [form for ways in forms for form in ways], end)
    return torch.stack([torch.logsumexp(part, 0) for part in each.split([len(ways) for ways in forms])])


class StimulusData(torch.utils.data.Dataset):
    """Stimuli with their log-mel input. ``top``: only the most common response."""

    def __init__(self, corpus: Corpus, stimuli: Sequence[Stimulus], mel: Any, top: bool):
        self.table, self.stimuli, self.mel, self.top = corpus.utterances, stimuli, mel, top

    def __len__(self) -> int:
        return len(self.stimuli)

    def __getitem__(self, k: int) -> dict:
        stimulus = self.stimuli[k]
        waveform = audio.read_utterance(self.table.iloc[stimulus.place])
        words, counts = list(stimulus.responses), list(stimulus.counts)
        if self.top:
            words, counts = [top_response(stimulus)], [max(counts)]
        features = whisper.log_mel(self.mel, [waveform])[0]
        return {"features": features, "positions": whisper.n_positions(len(waveform)), "words": words, "counts": counts}


def batch(items: list[dict]) -> dict:
    return {
        "features": torch.stack([item["features"] for item in items]),
        **{name: [item[name] for item in items] for name in ("positions", "words", "counts")},
    }
