"""MelHuBERT against the golden numbers of spec speat.md 2 to 4, and a second implementation (melhuberts.py)."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import melhuberts
import numpy as np
import pytest
import torch
from melhuberts import GOLDEN, HEADS_LEFT, LINEARS, SMALL, golden_state, random_state, write

from layertool.errors import UsageError
from layertool.models import melhubert

# --- the golden tiny model (3.6) -------------------------------------------------------------------


def golden_input() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.sin(0.37 * torch.arange(2 * 11 * 8, dtype=torch.float64)).float().view(2, 11, 8)
    features[1, 7:] = 0
    mask = torch.ones(2, 11)
    mask[1, 7:] = 0
    return features, mask


@torch.no_grad()
def run(path) -> melhubert.Output:
    features, mask = golden_input()
    return melhubert.load(path)[0](features, attention_mask=mask)


def near(values, expected, tolerance=1e-5) -> bool:
    return np.abs(np.asarray(values) - np.asarray(expected)).max() < tolerance


def test_the_golden_model(tmp_path):
    path = write(tmp_path / "golden.ckpt", golden_state(), GOLDEN)
    out, (_, mask) = run(path), golden_input()
    assert sum(p.numel() for p in melhubert.load(path)[0].parameters()) == 6_694
    assert len(out.hidden_states) == 4
    projection, first, second, _ = out.hidden_states
    assert near(projection[0, 0, :4], [0.575325, -0.025449, -0.61204, -0.918051])
    assert not projection[1, 7:].any()
    assert near(first[0, 0, :4], [1.140465, 0.918725, 0.125431, -1.056739])
    assert near(first[1, 6, :4], [0.297363, 0.692885, 0.704333, -0.668533])
    assert near(first[mask.bool()].abs().mean(), 0.904877)
    assert near(second[0, 0, :4], [-0.63067, 0.567808, 0.746505, -1.907209])
    assert near(second[1, 6, :4], [-0.962641, 0.705768, 0.906582, -1.75017])
    assert near(second[mask.bool()].abs().mean(), 0.897408)
    assert near(out.logits[0, 0], [-0.229839, 0.216792, 0.598749, 0.361214, -0.22068, -0.431732])
    assert torch.equal(out.last_hidden_state, out.hidden_states[-1])


def head_scores(state, k: int) -> list[float]:
    return [
        sum(
            float(state[f"encoder.layers.{k}.self_attn.{name}_proj.{part}"][4 * h : 4 * h + 4].abs().sum())
            for name in "qkv"
            for part in ("weight", "bias")
        )
        for h in range(4)
    ]


def without_heads(state, gone) -> dict:
    """Without these heads, of width 4, of each block."""
    state = dict(state)
    for k, heads in enumerate(gone):
        prefix = f"encoder.layers.{k}.self_attn."
        keep = [row for row in range(len(state[f"{prefix}q_proj.bias"])) if row // 4 not in heads]
        for name in (f"{prefix}{name}_proj.{part}" for name in "qkv" for part in ("weight", "bias")):
            state[name] = state[name][keep]
        state[f"{prefix}out_proj.weight"] = state[f"{prefix}out_proj.weight"][:, keep]
    return state


def without_rows(state, gone) -> dict:
    state = dict(state)
    for k, rows in enumerate(gone):
        prefix = f"encoder.layers.{k}."
        keep = [row for row in range(len(state[f"{prefix}fc1.bias"])) if row not in rows]
        for part in ("weight", "bias"):
            state[f"{prefix}fc1.{part}"] = state[f"{prefix}fc1.{part}"][keep]
        state[f"{prefix}fc2.weight"] = state[f"{prefix}fc2.weight"][:, keep]
    return state


def test_the_golden_model_without_a_head_in_each_block(tmp_path):
    state = golden_state()
    scores = [head_scores(state, k) for k in range(3)]
    expected = [
        [39.07488, 38.99154, 38.80375, 39.00131],
        [38.81002, 38.97304, 39.00692, 38.84692],
        [39.03816, 38.91605, 39.02284, 39.11521],
    ]
    assert near(scores, expected, 5e-5)
    gone = [[int(np.argmin(of))] for of in scores]
    assert gone == [[2], [0], [1]]
    # the list of heads that such files carry counts from wherever the last pruning left off: it is not applied
    stale = {"Pruned_heads": [{0: [2], 1: [0], 2: [1]}, {0: [0]}]}
    path = write(tmp_path / "states_prune_9.ckpt", without_heads(state, gone), GOLDEN, **stale)
    model, config = melhubert.load(path)
    assert config.heads == (3, 3, 3)
    assert config.head_dim == 4
    assert [block.self_attn.num_heads for block in model.encoder.layers] == [3, 3, 3]
    assert near(run(path).last_hidden_state[0, 0, :4], [-1.321845, 0.020361, 1.003583, -1.282607])


def test_the_golden_model_without_rows(tmp_path):
    state, gone = golden_state(), []
    for k in range(3):
        p = {name: state[f"encoder.layers.{k}.{name}"] for name in ("fc1.weight", "fc1.bias", "fc2.weight")}
        scores = p["fc1.weight"].abs().sum(1) + p["fc1.bias"].abs() + p["fc2.weight"].abs().sum(0)
        gone.append(scores.argsort()[:4].tolist())
    assert gone == [[22, 13, 4, 8], [5, 14, 19, 23], [2, 11, 20, 16]]
    settings = {**GOLDEN, "encoder_ffn_embed_dim": 20}
    path = write(tmp_path / "states_prune_20.ckpt", without_rows(state, gone), settings)
    model, config = melhubert.load(path)
    assert (config.encoder_ffn_embed_dim, config.ffn_rows) == (20, None)
    assert sum(p.numel() for p in model.parameters()) == 6_298
    assert near(run(path).last_hidden_state[0, 0, :4], [-1.627303, 0.379161, 1.668752, -0.907942])


def masked_state(state, share: float) -> tuple[dict, int, int]:
    """X_orig and X_mask for X, the smallest weights of all linears masked; how many there are, and are masked."""
    names = [f"encoder.layers.{k}.{name}.{part}" for k in range(3) for name in LINEARS for part in ("weight", "bias")]
    values = torch.cat([state[name].flatten() for name in names]).abs()
    n_masked = round(share * len(values))
    kept = torch.ones(len(values), dtype=torch.bool)
    # three are the same at the threshold; the golden numbers are those of masking the later ones
    kept[len(values) - 1 - values.flip(0).argsort(stable=True)[:n_masked]] = False
    masks = dict(zip(names, kept.split([state[name].numel() for name in names]), strict=True))
    out = {name: value for name, value in state.items() if name not in names}
    for name in names:
        mask = masks[name].view_as(state[name])
        # what is masked may hold anything: it is not used
        out[f"{name}_orig"], out[f"{name}_mask"] = torch.where(mask, state[name], state[name] + 7), mask
    return out, len(values), n_masked


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_the_golden_model_without_weights(tmp_path, dtype):
    state, n_all, n_masked = masked_state(golden_state(), 0.2)
    assert (n_all, n_masked) == (5_688, 1_138)
    state = {name: value.to(dtype) if name.endswith("_mask") else value for name, value in state.items()}
    random = np.random.RandomState(3)  # such files carry states of random numbers
    more = {"RandomState": {"numpy": random.get_state(), "torch": torch.get_rng_state()}, "TotalStep": 10**6}
    path = write(tmp_path / "states-1000-sparsity-0.2.ckpt", state, GOLDEN, **more)
    model, _ = melhubert.load(path)
    dense = melhubert.load(write(tmp_path / "dense.ckpt", golden_state(), GOLDEN))[0]
    assert sum(int((p == 0).sum()) for p in model.parameters()) == 1_138
    assert sum(int((p == 0).sum()) for p in dense.parameters()) == 0
    assert near(run(path).last_hidden_state[0, 0, :4], [-1.618073, 0.258781, 1.819111, -0.96564])


# --- numbers of parameters -------------------------------------------------------------------------


def n_parameters(config: melhubert.Config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in melhubert.MelHuBERT(config).parameters())


TABLE_2 = {  # width, blocks, ffn, heads: parameters; those of wav2vec 2.0 and HuBERT are in test_models_fairseq.py
    "small": (640, 3, 2048, 8, 16_461_824),
    "slim": (384, 12, 768, 8, 15_615_616),
    "base": (768, 12, 3072, 12, 90_231_424),
}


@pytest.mark.parametrize("name", TABLE_2)
def test_parameters_of_table_2(name):
    config = melhubert.PRESETS[name]
    sizes = (
        config.encoder_embed_dim,
        config.encoder_layers,
        config.encoder_ffn_embed_dim,
        config.encoder_attention_heads,
    )
    assert (*sizes, n_parameters(config)) == TABLE_2[name]
    assert (config.feat_emb_dim, config.stride, config.num_cluster) == (80, 20, 512)


def test_parameters_at_10_ms():
    config = replace(melhubert.PRESETS["base"], feat_emb_dim=40)
    assert (n_parameters(config), config.stride) == (90_200_704, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("n_heads", "expected"), HEADS_LEFT.items())
def test_parameters_with_fewer_heads(n_heads, expected):
    config = melhubert.PRESETS["base"]
    assert n_parameters(replace(config, heads=(n_heads // 12,) * 12)) == expected
    uneven = tuple(k % 3 + 1 for k in range(12))
    assert n_parameters(replace(config, heads=uneven)) == 64_253_824 + 196_800 * 12


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "expected"), {1536: 61_901_440, 1024: 52_458_112, 512: 43_014_784}.items())
def test_parameters_with_fewer_rows(rows, expected):
    assert n_parameters(replace(melhubert.PRESETS["base"], ffn_rows=(rows,) * 12)) == expected
    assert n_parameters(replace(melhubert.PRESETS["base"], encoder_ffn_embed_dim=rows)) == expected


@pytest.mark.parametrize(("name", "per_head", "per_row"), [("small", 205_040, 1_281), ("slim", 73_872, 769)])
def test_what_a_head_and_a_row_of_small_and_slim_cost(name, per_head, per_row):
    config, n = melhubert.PRESETS[name], melhubert.PRESETS[name].encoder_layers
    fewer = replace(config, heads=(7,) * n)
    assert n_parameters(config) - n_parameters(fewer) == n * per_head
    fewer = replace(config, ffn_rows=(config.encoder_ffn_embed_dim - 1,) * n)
    assert n_parameters(config) - n_parameters(fewer) == n * per_row


# --- the forward pass ------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["post-norm", "pre-norm"])
def settings(request) -> dict:
    return {**SMALL, "layer_norm_first": request.param, "encoder_attention_heads": 8}


def uneven(state) -> dict:
    """Another number of heads (of width 4) and rows in each block."""
    state = without_rows(state, [[1, 5], [0, 2, 23]])
    return without_heads(state, [[0, 3], [6]])


@pytest.mark.parametrize("is_pruned", [False, True])
def test_every_state_equals_the_plain_reference(tmp_path, settings, is_pruned):
    state = uneven(random_state(settings)) if is_pruned else random_state(settings)
    model, config = melhubert.load(write(tmp_path / "a.ckpt", state, settings))
    assert (config.heads, config.ffn_rows) == (((6, 7), (22, 21)) if is_pruned else (None, None))
    features = np.random.default_rng(1).standard_normal((23, 80))
    expected = melhuberts.layers(state, settings, features, head_dim=4)
    with torch.no_grad():
        out = model.double()(torch.from_numpy(features)[None])
    for got, name in zip(out.hidden_states, ["C1", "T1", "T2"], strict=True):
        assert near(got[0], expected[name], 1e-10), name
    assert near(out.last_hidden_state[0], expected["final" if settings["layer_norm_first"] else "T2"], 1e-10)
    assert near(out.logits[0], expected["logits"], 1e-10)


@torch.no_grad()
def test_a_padded_batch_equals_single_utterances(tmp_path, settings):
    model, _ = melhubert.load(write(tmp_path / "a.ckpt", random_state(settings), settings))
    lengths = (31, 1, 12, 30)
    batch = torch.randn(4, 31, 80, generator=torch.Generator().manual_seed(0))  # padding is not even zero
    mask = torch.arange(31) < torch.tensor(lengths)[:, None]
    before = batch.clone()
    together = model(batch, attention_mask=mask.long())
    assert torch.equal(batch, before)  # the caller's input stays as it is
    for k, n in enumerate(lengths):
        alone = model(batch[k : k + 1, :n])
        for one, many in zip(alone.hidden_states, together.hidden_states, strict=True):
            assert near(many[k, :n], one[0], 1e-6 * max(1, float(one.abs().max())))
        assert near(together.logits[k, :n], alone.logits[0], 1e-6 * max(1, float(alone.logits.abs().max())))


@torch.no_grad()
def test_hidden_frames_are_zeros_before_the_projection(tmp_path):
    model, _ = melhubert.load(write(tmp_path / "a.ckpt", random_state(SMALL), SMALL))
    features = torch.randn(2, 9, 80)
    masked = torch.rand(2, 9) < 0.5
    before = features.clone()
    zeroed = features * ~masked[..., None]
    assert torch.equal(model(features, masked=masked).last_hidden_state, model(zeroed).last_hidden_state)
    assert torch.equal(features, before)
    after = melhubert.MelHuBERT(replace(model.config, mask_before_proj=False)).eval()
    assert not after(features, masked=masked).hidden_states[0][masked].any()


def test_dropout_is_for_training_only(tmp_path):
    model, _ = melhubert.load(write(tmp_path / "a.ckpt", random_state(SMALL), SMALL))
    features = torch.randn(1, 9, 80)
    assert not model.training
    evaluated = model(features).last_hidden_state
    assert torch.equal(evaluated, model(features).last_hidden_state)
    trained = copy.deepcopy(model).train()  # with parametrizations this works
    assert not torch.allclose(trained(features).last_hidden_state, evaluated, atol=0.01)
    trained(features).logits.sum().backward()
    assert all(p.grad is not None for p in trained.parameters())


def test_the_first_weights():
    torch.manual_seed(0)
    state = melhubert.MelHuBERT(replace(melhubert.PRESETS["small"], encoder_layers=1)).state_dict()
    attention = state["encoder.layers.0.self_attn.k_proj.weight"]
    assert abs(float(attention.std()) - 0.02) < 2e-4
    positions = state["encoder.pos_conv.0.parametrizations.weight.original1"]
    assert abs(float(positions.std()) - math.sqrt(4 / (128 * 640))) < 1e-4
    expected = positions.norm(dim=(0, 1), keepdim=True)
    assert torch.allclose(state["encoder.pos_conv.0.parametrizations.weight.original0"], expected)
    assert not any(state[name].any() for name in state if name.endswith("bias") and name.startswith("encoder"))


@pytest.mark.parametrize(
    ("given", "words"), [(((1, 9, 40), None), "80"), (((9, 80), None), "80"), (((1, 9, 80), (1, 8)), "mask of shape")]
)
def test_input_of_another_shape(given, words):
    model = melhubert.MelHuBERT(melhubert.Config(feat_emb_dim=80, encoder_embed_dim=32, encoder_attention_heads=4))
    features, mask = given
    with pytest.raises(UsageError, match=words):
        model(torch.zeros(features), attention_mask=None if mask is None else torch.ones(mask))
