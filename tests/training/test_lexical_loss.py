"""The loss of a batch of stimuli, and its gradients, against transformers' own teacher-forced forward."""

from __future__ import annotations

import math

import forced
import models
import numpy as np
import pytest
import torch
import tuning
from torch.nn import functional

from layertool.analysis.lexical.scorer import Variant
from layertool.layerwise.stimuli import stimuli_of
from layertool.models import whisper
from layertool.training.lexical import _scorer
from layertool.training.responses import StimulusData, batch

pytestmark = pytest.mark.slow  # networks are run, or trained

CHECKED = (
    "model.decoder.embed_tokens.weight",
    "model.decoder.embed_positions.weight",
    "model.decoder.layer_norm.weight",
    "model.decoder.layers.0.self_attn.k_proj.weight",
    "model.decoder.layers.1.encoder_attn.v_proj.weight",
    "model.encoder.layers.0.fc1.weight",
    "model.encoder.layers.1.self_attn.q_proj.bias",
    "model.encoder.layer_norm.bias",
    "model.encoder.conv1.weight",
    "model.encoder.conv2.bias",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.whisper(tmp_path_factory.mktemp("model") / "tiny", seed=3, tokenizer="english")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tuning.corpus(tmp_path_factory.mktemp("corpus"))


def learner(model, objective: str = "all", **variant):
    """A network set up to learn with everything free, and its scorer."""
    scorer = _scorer(str(model), tuning.recipe(Variant(**variant), objective=objective))
    scorer.network.set_up(scorer, ("decoder", "encoder", "convolutions"), objective)
    return scorer.network.train(), scorer


def items(corpus, scorer, objective: str, part: str = "train") -> list[dict]:
    data = StimulusData(corpus, stimuli_of(corpus, part), scorer.mel, objective == "top")
    return [data[k] for k in range(len(data))]


def loss_and_gradients(network, inputs: dict) -> tuple[float, dict[str, torch.Tensor]]:
    network.zero_grad()
    loss = network(**inputs)["loss"]
    loss.backward()
    named = dict(network.named_parameters())
    return loss.item(), {name: named[name].grad.clone() for name in CHECKED}


def ways(word: str, surface: str) -> list[str]:
    capital = word.capitalize()
    return [f" {word}"] if surface == "lower" else [f" {word}", f" {capital}", f" {capital}."]


def plain(model, scorer, chosen, surface: str, end: bool, objective: str) -> tuple[float, dict[str, torch.Tensor]]:
    """The paper's loss, one form at a time, by transformers' forward in float64. 30 s window."""
    from transformers import WhisperForConditionalGeneration

    network = WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float64, attn_implementation="eager")
    prefix = scorer.decoder.prefix
    eos = scorer.tokenizer.eos_token_id
    total, n_tokens = torch.zeros((), dtype=torch.float64), 0
    for item in chosen:
        heard = network.model.encoder(item["features"][None].double())  # transformers' own, once for all words
        log_p = []
        for word in item["words"]:
            forms = []
            for k, text in enumerate(ways(word, surface)):
                tokens = scorer.tokenizer(text, add_special_tokens=False)["input_ids"] + [eos] * end
                logits = network(
                    encoder_outputs=heard, decoder_input_ids=torch.tensor([[*prefix, *tokens[:-1]]])
                ).logits
                rows = logits[0, len(prefix) - 1 :]
                forms.append(-functional.cross_entropy(rows, torch.tensor(tokens), reduction="sum"))
                n_tokens += len(tokens) if k == 0 else 0
            log_p.append(torch.logsumexp(torch.stack(forms), 0))
        if objective == "top":
            total = total - log_p[0]
        else:
            share = [count / sum(item["counts"]) for count in item["counts"]]
            total = total + sum(abs(one - math.log(own)) for one, own in zip(log_p, share, strict=True))
    loss = total / (n_tokens if objective == "top" else len(chosen))
    loss.backward()
    named = dict(network.named_parameters())
    return loss.item(), {name: named[name].grad for name in CHECKED}


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 2e-4) -> None:
    for name in CHECKED:
        difference = (one[name].double() - other[name].double()).norm()
        assert difference <= tolerance * other[name].double().norm(), name
        assert other[name].norm() > 0, name


@pytest.mark.parametrize("objective", ["all", "top"])
@pytest.mark.parametrize(
    ("surface", "end"),
    [("lower", True), ("lower", False), ("marginal", True), pytest.param("marginal", False, marks=pytest.mark.slow)],
)
def test_a_batch_is_the_plain_computation(model, corpus, objective, surface, end):
    network, scorer = learner(model, objective, surface=surface, end_token=end)
    chosen = items(corpus, scorer, objective)[:3]
    assert sorted(len(item["words"]) for item in chosen) == ([1, 1, 1] if objective == "top" else [1, 2, 3])
    value, gradients = loss_and_gradients(network, batch(chosen))
    expected, wanted = plain(model, scorer, chosen, surface, end, objective)
    assert value == pytest.approx(expected, rel=1e-5)
    assert_close(gradients, wanted)


def test_top_is_transformers_own_loss(model, corpus):
    """Labels, padded with -100, and the mean over every token of the batch: what a Whisper fine-tuning script does."""
    network, scorer = learner(model, "top")
    chosen = items(corpus, scorer, "top")
    eos = scorer.tokenizer.eos_token_id
    rows = [scorer.tokenizer(f" {item['words'][0]}", add_special_tokens=False)["input_ids"] + [eos] for item in chosen]
    assert len({len(row) for row in rows}) > 1  # else the mean of means would be the same
    longest, prefix = max(map(len, rows)), scorer.decoder.prefix
    inputs = torch.tensor([[*prefix, *row[:-1], *[eos] * (longest - len(row))] for row in rows])
    labels = torch.tensor([[-100] * (len(prefix) - 1) + row + [-100] * (longest - len(row)) for row in rows])
    reference = forced.load(model)
    logits = reference(input_features=batch(chosen)["features"].double(), decoder_input_ids=inputs).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    assert network(**batch(chosen))["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_top_takes_the_most_common_response(model, corpus):
    """Counts 4 5 2: the second; of equal ones the first."""
    _, scorer = learner(model, "top")
    stimuli = stimuli_of(corpus, "train")
    for stimulus, item in zip(stimuli, items(corpus, scorer, "top"), strict=True):
        assert item["words"] == [stimulus.responses[0 if len(stimulus.responses) == 1 else 1]]


@pytest.mark.parametrize("window", ["exact", "clip", "30s"])
@pytest.mark.parametrize("objective", ["all", "top"])
def test_a_ragged_batch_is_its_clips_one_by_one(model, corpus, window, objective):
    network, scorer = learner(model, objective, window=window)
    chosen = items(corpus, scorer, objective)
    assert len({item["positions"] for item in chosen}) > 3
    whole, gradients = loss_and_gradients(network, batch(chosen))
    sizes = [1.0 if objective == "all" else len(scorer.tokenise(item["words"])[0]) + 1 for item in chosen]
    alone = [loss_and_gradients(network, batch([item])) for item in chosen]
    share = [size / sum(sizes) for size in sizes]
    assert whole == pytest.approx(sum(w * value for w, (value, _) in zip(share, alone, strict=True)), rel=1e-5)
    mean = {name: sum(w * own[name] for w, (_, own) in zip(share, alone, strict=True)) for name in CHECKED}
    assert_close(gradients, mean)


@pytest.mark.parametrize("window", ["exact", "clip"])
def test_other_windows_are_the_plain_encoder_cut(model, corpus, window):
    """The decoder reads the clip's positions only; with "exact" the encoder saw nothing else."""
    network, scorer = learner(model, window=window)
    item = items(corpus, scorer, "all")[2]
    reference, n = forced.load(model), item["positions"]
    assert n == -(-(3000 + 613 * 2) // 320)
    if window == "exact":
        states = forced.cut_encoder(reference, item["features"].numpy(), n)["final"]
    else:
        states = reference.model.encoder(item["features"][None].double()).last_hidden_state[0, :n]
    end = scorer.tokenizer.eos_token_id
    log_p = [
        forced.form_log_p(reference, states, scorer.decoder.prefix, form, end).item()
        for form in scorer.tokenise(item["words"])
    ]
    frequency = np.array(item["counts"]) / sum(item["counts"])
    expected = np.abs(np.array(log_p) - np.log(frequency)).sum()
    assert network(**batch([item]))["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_prefix_of_multilingual_models_and_timestamps(tmp_path, corpus):
    """The prefix is the variant's, not a constant."""
    model = models.whisper(tmp_path / "m", tokenizer="multilingual")
    network, scorer = learner(model, language="de", timestamps=True)
    named = scorer.tokenizer.convert_ids_to_tokens(scorer.decoder.prefix)
    assert named == ["<|startoftranscript|>", "<|de|>", "<|transcribe|>"]
    chosen = items(corpus, scorer, "all")[:1]
    assert network(**batch(chosen))["loss"].item() == pytest.approx(
        plain(model, scorer, chosen, "lower", True, "all")[0], rel=1e-5
    )


def test_the_loss_is_what_scoring_says(model, corpus):
    """From the log-probabilities of a fresh scorer, which are tested against brute force elsewhere."""
    from layertool import audio
    from layertool.analysis.lexical.scorer import WhisperScorer

    network, scorer = learner(model)
    fresh = WhisperScorer(model)
    expected = []
    for stimulus in stimuli_of(corpus, "train"):
        waveform = audio.read_utterance(corpus.utterances.iloc[stimulus.place])
        log_p = fresh.log_probs(waveform, stimulus.responses)
        counts = np.array(stimulus.counts)
        expected.append(np.abs(log_p - np.log(counts / counts.sum())).sum())
    value = network(**batch(items(corpus, scorer, "all")))["loss"].item()
    assert value == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_target_distribution_counts_every_listener(model, corpus):
    """The same words with other counts are another loss; doubled counts are the same one."""
    network, scorer = learner(model)
    item = next(item for item in items(corpus, scorer, "all") if len(item["words"]) == 3)
    once = network(**batch([item]))["loss"].item()
    assert network(**batch([item | {"counts": [2 * k for k in item["counts"]]}]))["loss"].item() == pytest.approx(once)
    assert network(**batch([item | {"counts": [9, 1, 1]}]))["loss"].item() != pytest.approx(once, abs=1e-3)


def test_clips_that_are_too_long_are_refused(model, tmp_path):
    from layertool.errors import AudioError

    long = models.corpus(
        tmp_path, [np.zeros(16_000 * 30 + 1, np.float32)], responses=["drink"], counts=["3"], split=["train"]
    )
    _, scorer = learner(model)
    with pytest.raises(AudioError, match="longer than the 30 s"):
        items(long, scorer, "all")
    assert whisper.n_positions(16_000 * 30) == 1500
