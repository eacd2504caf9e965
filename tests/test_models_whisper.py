"""Whisper in two halves against plain float64 forwards: padded clips, and trees of tokens."""

from __future__ import annotations

from pathlib import Path

import forced
import models
import numpy as np
import pytest
import references
import torch

from layertool.analysis.lexical.search import forms_log_p, score_words
from layertool.errors import AudioError, ModelError
from layertool.models import whisper

pytestmark = pytest.mark.slow  # networks are run, or trained

LENGTHS = (16_000, 16_001, 161, 1, 70_003, 321)
LAYERS = ["T0", "T1", "T2", "final"]
PREFIX, END = [260, 366], 256  # of the small English-only tokenizer: start, notimestamps; end-of-text


def ceil_div(n: int, d: int) -> int:
    return n // d + (1 if n % d else 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return models.whisper(tmp_path_factory.mktemp("whisper"), tokenizer="english")


@pytest.fixture(scope="module")
def exact(folder):
    """The network in float64, whose forwards are the references."""
    return forced.load(folder)


@pytest.fixture(scope="module")
def network(folder):
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def clips(folder) -> tuple[torch.Tensor, list[int]]:
    """Log-mel of clips, and their positions."""
    waveforms = [models.speech_like(n, seed) for seed, n in enumerate(LENGTHS)]
    mel = np.stack([forced.log_mel(folder, waveform) for waveform in waveforms])
    return torch.from_numpy(mel), [ceil_div(n, 320) for n in LENGTHS]


@pytest.fixture(scope="module")
def states(network, clips) -> torch.Tensor:
    with torch.no_grad():
        return network.model.encoder(clips[0][:1]).last_hidden_state[0]


# --- the encoder -------------------------------------------------------------------------------------


def test_positions_are_20_ms_begun():
    for n in (1, 319, 320, 321, 640, 641, 479_999, 480_000):
        assert whisper.n_positions(n) == ceil_div(n, 320)
    assert whisper.WINDOW_POSITIONS == 1_500


def test_log_mel_is_that_of_transformers(folder):
    waveforms = [models.speech_like(n, 1) for n in (16_000, 1, 480_000)]
    got = whisper.log_mel(forced.mel_of(folder), waveforms)
    assert torch.equal(got, torch.from_numpy(np.stack([forced.log_mel(folder, w) for w in waveforms])))
    with pytest.raises(AudioError, match="longer than the 30 s"):
        whisper.log_mel(forced.mel_of(folder), [models.speech_like(480_001, 1)])


@torch.no_grad()
def test_30_seconds_are_transformers_encoder(network, exact, clips):
    mel = clips[0][:2]
    got = whisper.encode(network.model.encoder, mel)
    expected = exact.model.encoder(mel.double()).last_hidden_state
    assert got.shape == (2, 1_500, 32)
    for mine, theirs in zip(got, expected, strict=True):
        assert references.worst_row(mine, theirs) < 1e-5
    whole = whisper.encode(network.model.encoder, mel, [1_500, 1_500])
    assert references.worst_row(whole.flatten(0, 1), expected.flatten(0, 1)) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 4], [5, 2, 1], [4, 0, 3], [0, 0], [3]])
def test_a_padded_batch_is_each_clip_alone(network, exact, clips, order):
    """Also what lies behind a clip in the log-mel is not heard, whatever it is."""
    mel, positions = clips
    batch, own = mel[order].clone(), [positions[k] for k in order]
    got = whisper.encode(network.model.encoder, batch, own)
    assert got.shape[1] == max(own)
    for row, n in enumerate(own):
        batch[row, :, 2 * n :] = 1e3 * torch.randn(80, 3_000 - 2 * n)
    loud = whisper.encode(network.model.encoder, batch, own)
    for row, (k, n) in enumerate(zip(order, own, strict=True)):
        expected = forced.cut_encoder(exact, mel[k].numpy(), n)["final"]
        alone = whisper.encode(network.model.encoder, mel[k : k + 1], [n])[0]
        assert alone.shape == (n, 32)
        for mine in (got[row, :n], loud[row, :n], alone):
            assert references.worst_row(mine, expected) < 2e-5


@torch.no_grad()
def test_cutting_changes_the_numbers(network, clips):
    mel, positions = clips
    whole = whisper.encode(network.model.encoder, mel[:1])[0, : positions[0]]
    assert references.worst_row(whisper.encode(network.model.encoder, mel[:1], positions[:1])[0], whole) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("window", ["30s", "exact"])
@pytest.mark.parametrize("layers", [LAYERS, ["final", "T0"], ["T1"], ["T2", "T2", "T0"]])
def test_encoder_layers_are_the_inputs_and_outputs_of_blocks(network, exact, clips, window, layers):
    mel, positions = clips
    if window == "30s":
        mel, positions = mel[:1], positions[:1]
    own = positions if window == "exact" else None
    found = whisper.encoder_layers(network.model.encoder, mel, own, layers)
    assert list(found) == list(dict.fromkeys(layers))
    for row, n in enumerate(positions):
        n = n if own else 1_500
        expected = forced.cut_encoder(exact, mel[row].numpy(), n)
        for name in found:
            assert references.worst_row(found[name][row, :n], expected[name]) < 2e-5, (name, row)
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in network.model.encoder.layers)


@torch.no_grad()
def test_hooks_are_gone_after_an_error(network):
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        whisper.encoder_layers(network.model.encoder, torch.zeros(1, 79, 3_000), None, ["T0", "T1", "final"])
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in network.model.encoder.layers)


# --- the decoder -------------------------------------------------------------------------------------


def random_tree(seed: int, n: int = 40) -> list[tuple[int, int]]:
    """(token, parent) of nodes 1 to n; children of one node may have the same token."""
    random = np.random.default_rng(seed)
    reach = int(random.integers(1, n))  # 1 makes a chain, more makes a bush
    return [(int(random.integers(400)), int(random.integers(max(0, k - reach), k + 1))) for k in range(n)]


def path_of(tree: list[tuple[int, int]], node: int) -> list[int]:
    return [] if node == 0 else [*path_of(tree, tree[node - 1][1]), tree[node - 1][0]]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("prefix", [PREFIX, [260], [260, 267, 362, 366]])
def test_every_node_of_a_tree_reads_as_its_path_alone(network, exact, states, seed, prefix):
    tree, random = random_tree(seed), np.random.default_rng(seed)
    decoder = whisper.ForcedDecoder(network, prefix)
    reading = decoder.read(states)
    assert reading.n_nodes == 1
    read = [reading.start]
    while reading.n_nodes <= len(tree):  # in parts of any size, parents in the same part or an earlier one
        part = tree[reading.n_nodes - 1 :][: int(random.integers(1, 15))]
        first = reading.n_nodes
        read.append(reading.extend(*zip(*part, strict=True)))
        assert reading.n_nodes == first + len(part)
    got = reading.log_probs(torch.cat(read))
    assert got.dtype == torch.float32
    assert got.shape == (len(tree) + 1, 400)
    for node in range(len(tree) + 1):
        expected = forced.next_token(exact, states.double(), [*prefix, *path_of(tree, node)])[-1]
        assert (got[node] - expected).abs().max() < 2e-5, node


@torch.no_grad()
def test_the_order_of_nodes_is_no_difference(network, states):
    """The same tree by depth, and child before sibling."""
    tree = [(5, 0), (6, 0), (7, 1), (8, 2), (9, 3), (7, 2), (5, 0)]
    decoder = whisper.ForcedDecoder(network, PREFIX)
    reading = decoder.read(states)
    at_once = reading.extend(*zip(*tree, strict=True))
    assert torch.allclose(at_once[0], at_once[6], atol=1e-5)  # the same token below the same node
    reading, number, rows = decoder.read(states), {0: 0}, {}
    for node in (2, 4, 6, 1, 3, 5, 7):
        number[node] = reading.n_nodes
        rows[node] = reading.extend([tree[node - 1][0]], [number[tree[node - 1][1]]])[0]
    assert references.worst_row(torch.stack([rows[k] for k in range(1, 8)]), at_once) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [0, 1, 2, None])
@pytest.mark.parametrize("n_states", [1_500, 60, 1])
def test_a_layer_is_read_through_the_last_norm_and_the_projection(network, exact, states, n_layers, n_states):
    """Against a decoder written out, that needs no transformers forward; also on states that were cut."""
    tree, kept = random_tree(7, 12), states[:n_states]
    reading = whisper.ForcedDecoder(network, PREFIX).read(kept, n_layers)
    got = reading.log_probs(torch.cat([reading.start, reading.extend(*zip(*tree, strict=True))]))
    decoder = exact.model.decoder
    for node in range(len(tree) + 1):
        tokens = [*PREFIX, *path_of(tree, node)]
        layers = references.whisper_decoder(exact.model, tokens, kept.numpy())
        top = torch.from_numpy(layers[f"D{2 if n_layers is None else n_layers}"][-1])
        expected = (decoder.layer_norm(top) @ decoder.embed_tokens.weight.T).log_softmax(dim=-1)
        assert (got[node] - expected).abs().max() < 2e-5, node


@torch.no_grad()
@pytest.mark.parametrize("end", [END, None])
def test_words_share_their_beginnings_and_a_reading_goes_on(network, exact, states, end):
    """Words that are beginnings of others or stand twice; more of them on a tree that has grown."""
    forms = [(5,), (5, 6), (5, 6, 7), (6,), (5, 7), (5, 6), (9, 9, 9, 9), (END, 3)]
    expected = [forced.form_log_p(exact, states.double(), PREFIX, form, end).item() for form in forms]
    reading = whisper.ForcedDecoder(network, PREFIX).read(states)
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 0], [2], [0, 3], [0]):
        got = score_words(reading, [[forms[k]] for k in order], end)
        np.testing.assert_allclose(got, [expected[k] for k in order], atol=5e-5)
        reading.extend([11, 12], [0, reading.n_nodes])


@torch.no_grad()
def test_the_longest_word_fits_and_a_longer_one_is_refused(network, exact, states):
    room = 448 - len(PREFIX)
    form = np.random.default_rng(0).integers(0, 400, room + 1).tolist()
    reading = whisper.ForcedDecoder(network, PREFIX).read(states[:50])
    read = reading.extend(form[:room], list(range(room)))
    expected = forced.next_token(exact, states[:50].double(), [*PREFIX, *form[:room]])[len(PREFIX) :]
    assert (reading.log_probs(read) - expected).abs().max() < 1e-4
    with pytest.raises(ModelError, match=r"a word of 449 tokens \(with the prefix\) is more than the decoder takes"):
        reading.extend([5], [room])


@torch.no_grad()
def test_a_reading_is_as_it_was_after_a_word_was_refused(network, exact, states):
    reading = whisper.ForcedDecoder(network, PREFIX).read(states[:50])
    with pytest.raises(ModelError):
        reading.extend([5] * 447, list(range(447)))
    assert reading.n_nodes == 1
    got = reading.log_probs(reading.extend([9], [0]))[0]
    assert (got - forced.next_token(exact, states[:50].double(), [*PREFIX, 9])[-1]).abs().max() < 2e-5


def test_gradients_are_those_of_transformers(folder, exact, clips):
    """Of words that share beginnings, down to the first convolution, through a cut encoder; both in float64."""
    from transformers import WhisperForConditionalGeneration

    forms = [(5, 6, 7), (5, 6), (8,)]
    mine = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    theirs = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float64).eval()
    mel, n = clips[0][:1].double(), 1_500
    reading = whisper.ForcedDecoder(mine, PREFIX).read(whisper.encode(mine.model.encoder, mel, [n])[0])
    weights = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    got = forms_log_p(reading, forms, END)
    (got * weights).sum().backward()
    encoded = theirs.model.encoder(mel).last_hidden_state[0]
    expected = torch.stack([forced.form_log_p(theirs, encoded, PREFIX, form, END) for form in forms])
    (expected * weights).sum().backward()
    assert torch.allclose(got.double(), expected, atol=1e-4)
    named = dict(theirs.named_parameters())
    checked = 0
    for name, parameter in mine.named_parameters():
        gradient = named[name].grad
        if gradient is None or not gradient.any():
            assert parameter.grad is None or parameter.grad.abs().max() < 1e-9, name
            continue
        error = (parameter.grad - gradient).norm() / gradient.norm()
        assert error < 1e-5 or gradient.norm() < 1e-6, (name, error)
        checked += 1
    assert checked > 80
    assert named["model.encoder.conv1.weight"].grad.norm() > 1e-6


# --- real weights ------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.slow
def test_real_weights(shared):
    """The end of a ragged batch and a tree of real tokens, on a real noisy word."""
    import layertool.audio

    folder = shared / "models/whisper-tiny.en"
    wavs = sorted((shared / "data/eccc/EnglishCCC_v1.2/confusionWavs").glob("T_*.wav"))[:3]
    waveforms = [layertool.audio.read(path, 16_000, channel="sum") for path in wavs]
    exact, positions = forced.load(folder), [ceil_div(len(waveform), 320) for waveform in waveforms]
    network = type(exact).from_pretrained(folder, dtype=torch.float32).eval()
    mel = np.stack([forced.log_mel(folder, waveform) for waveform in waveforms])
    got = whisper.encode(network.model.encoder, torch.from_numpy(mel), positions)
    states = [forced.cut_encoder(exact, mel[k], n)["final"] for k, n in enumerate(positions)]
    for k, n in enumerate(positions):
        assert references.worst_row(got[k, :n], states[k]) < 1e-4
    tree = random_tree(3, 25)
    reading = whisper.ForcedDecoder(network, [50257, 50362]).read(got[1, : positions[1]])
    log_p = reading.log_probs(reading.extend(*zip(*tree, strict=True)))
    for node in range(1, len(tree) + 1):
        expected = forced.next_token(exact, states[1], [50257, 50362, *path_of(tree, node)])[-1]
        assert (log_p[node - 1] - expected).abs().max() < 1e-3
