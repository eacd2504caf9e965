"""Pruning in memory against golden numbers (spec speat.md 3.6, 4.5), slow loops, and what must not change."""

from __future__ import annotations

import copy
import itertools

import models
import numpy as np
import pytest
import torch
from melhuberts import GOLDEN, HEADS_LEFT, LINEARS, golden_state, random_state, write
from torch import nn
from torch.nn.utils import prune

from layertool.errors import ModelError, UsageError
from layertool.models import melhubert, pruned
from layertool.training import compression

pytestmark = pytest.mark.slow

FAMILIES = ("wav2vec2-base", "wav2vec2-large", "hubert-base", "data2vec-audio", "unispeech", "unispeech-sat-large")


@pytest.fixture(scope="module")
def golden(tmp_path_factory) -> melhubert.MelHuBERT:
    return melhubert.load(write(tmp_path_factory.mktemp("golden") / "g.ckpt", golden_state(), GOLDEN))[0]


@pytest.fixture
def tiny(golden) -> melhubert.MelHuBERT:
    return copy.deepcopy(golden)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.sin(0.37 * torch.arange(2 * 11 * 8, dtype=torch.float64)).float().view(2, 11, 8)
    features[1, 7:] = 0
    mask = torch.ones(2, 11)
    mask[1, 7:] = 0
    return features, mask


@torch.no_grad()
def run(model) -> torch.Tensor:
    features, mask = inputs()
    return model(features, attention_mask=mask).last_hidden_state


def near(values, expected, tolerance=1e-5) -> bool:
    return np.abs(np.asarray(values) - np.asarray(expected)).max() < tolerance


def speech(name="wav2vec2-base", kind="AutoModel", seed=0, **changes):
    """A small random model of transformers in which no weight is 0."""
    import transformers

    config, options, _ = models.FAMILIES[name]
    torch.manual_seed(seed)
    made = getattr(transformers, config)(**{**models.SMALL, **options, **changes})
    network = (
        getattr(transformers, kind).from_config(made) if kind == "AutoModel" else getattr(transformers, kind)(made)
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@torch.no_grad()
def heard(network, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return network.base_model(torch.randn(2, 4_000, generator=generator)).last_hidden_state


# --- golden numbers --------------------------------------------------------------------------------


def test_golden_heads(tiny):
    expected = [
        [39.07488, 38.99154, 38.80375, 39.00131],
        [38.81002, 38.97304, 39.00692, 38.84692],
        [39.03816, 38.91605, 39.02284, 39.11521],
    ]
    assert near(torch.stack(compression.head_scores(tiny)), expected, 5e-5)  # sums of 204 in float32
    assert compression.prune_heads(tiny) == [[2], [0], [1]]
    assert near(run(tiny)[0, 0, :4], [-1.321845, 0.020361, 1.003583, -1.282607])
    assert tiny.config.heads == (3, 3, 3)
    assert (tiny.config.encoder_attention_heads, tiny.config.head_dim) == (4, 4)
    attention = tiny.encoder.layers[0].self_attn
    assert (attention.num_heads, attention.q_proj.out_features, attention.out_proj.in_features) == (3, 12, 12)


def test_golden_rows(tiny):
    assert compression.prune_rows(tiny, 4) == [[22, 13, 4, 8], [5, 14, 19, 23], [2, 11, 20, 16]]
    assert near(run(tiny)[0, 0, :4], [-1.627303, 0.379161, 1.668752, -0.907942])
    assert compression.n_parameters(tiny) == (6_298, 6_298)
    assert (tiny.config.encoder_ffn_embed_dim, tiny.config.ffn_rows, tiny.config.heads) == (20, None, None)


def test_golden_weights(tiny):
    assert compression.prune_weights(tiny, 0.2) == 1_138
    assert near(run(tiny)[0, 0, :4], [-1.618073, 0.258781, 1.819111, -0.96564])
    assert compression.n_parameters(tiny) == (6_694, 6_694 - 1_138)
    found = compression.masks(tiny)
    assert sum(mask.numel() for mask in found.values()) == 5_688
    assert sorted(found) == sorted(
        f"encoder.layers.{k}.{name}.{part}" for k in range(3) for name in LINEARS for part in ("weight", "bias")
    )


# --- numbers of parameters (3.4, 4.5) --------------------------------------------------------------

TABLE_2 = {  # width, blocks, rows, heads; MelHuBERT, wav2vec 2.0, HuBERT
    "small": (640, 3, 2048, 8, 16_461_824, 21_252_352, 20_905_344),
    "slim": (384, 12, 768, 8, 15_615_616, 20_360_832, 20_013_824),
    "base": (768, 12, 3072, 12, 90_231_424, 95_044_608, 94_697_600),
}


def big(name: str, kind: str = "melhubert"):
    """A network of Table 2 without values."""
    import transformers

    width, n_blocks, rows, heads, *_ = TABLE_2[name]
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": n_blocks,
        "intermediate_size": rows,
        "num_attention_heads": heads,
    }
    with torch.device("meta"):
        if kind == "melhubert":
            return melhubert.MelHuBERT(melhubert.PRESETS[name])
        if kind == "wav2vec2":
            return transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**sizes))
        return transformers.HubertModel(transformers.HubertConfig(**sizes))


def number(model) -> int:
    counts = compression.n_parameters(model)
    assert counts.nonzero is None  # nothing is there to be 0
    return counts.all


@pytest.mark.parametrize("name", TABLE_2)
def test_the_sizes_of_table_2(name):
    width, *_, of_melhubert, of_wav2vec2, of_hubert = TABLE_2[name]
    assert number(big(name)) == of_melhubert
    assert number(big(name, "wav2vec2")) == of_wav2vec2
    # transformers has no pre-training of HuBERT: its projection to 256, and 504 clusters
    assert number(big(name, "hubert")) + width * 256 + 256 + 504 * 256 == of_hubert


def any_scores(model, what):
    heads, rows = pruned.sizes(model)
    return [torch.arange(float(size)) for size in (heads if what == "heads" else rows)]


def test_heads_left_in_base():
    model = big("base")
    for n_heads, n_left in HEADS_LEFT.items():
        assert compression.prune_heads(model, scores=any_scores(model, "heads")) == [[0]] * 12
        assert sum(pruned.sizes(model)[0]) == n_heads
        assert number(model) == n_left
    with pytest.raises(UsageError, match="block 1 has 1 heads"):
        compression.prune_heads(model, scores=any_scores(model, "heads"))


def test_rows_left_in_base():
    model, found = big("base"), {}
    for _ in range(20):
        compression.prune_rows(model, scores=any_scores(model, "rows"))
        found[model.config.encoder_ffn_embed_dim] = number(model)
    assert 90_231_424 - found[2944] == 2_360_832
    assert (found[1536], found[1024], found[512]) == (61_901_440, 52_458_112, 43_014_784)


@pytest.mark.parametrize(
    ("heads", "rows", "n_left"),
    [(6, 3072, 80_875_008), (1, 3072, 69_067_008), (12, 1536, 66_714_624), (12, 512, 47_827_968)],
)
def test_what_is_left_of_wav2vec2(heads, rows, n_left):
    model = big("base", "wav2vec2")
    pruned.resize(model, [heads] * 12, [rows] * 12)
    assert number(model) == n_left


@pytest.mark.parametrize(("name", "of_head", "of_row"), [("small", 205_040, 1_281), ("slim", 73_872, 769)])
def test_a_head_and_a_row_of_the_small_ones(name, of_head, of_row):
    n_all, n_blocks = TABLE_2[name][4], TABLE_2[name][1]
    model = big(name)
    compression.prune_heads(model, scores=any_scores(model, "heads"))
    assert n_all - number(model) == n_blocks * of_head
    before = number(model)
    compression.prune_rows(model, 1, scores=any_scores(model, "rows"))
    assert before - number(model) == n_blocks * of_row


def test_weights_of_the_small_one():
    torch.manual_seed(0)
    model = melhubert.MelHuBERT(melhubert.PRESETS["small"])  # biases begin with 0: they are the first to go
    n_prunable = 12_795_264
    for sparsity in (0.2, 0.675):
        assert compression.prune_weights(model, sparsity) == round(sparsity * n_prunable)
        assert compression.n_parameters(model).nonzero == 16_461_824 - round(sparsity * n_prunable)


@pytest.mark.parametrize(("name", "expected"), [("small", 12_795_264), ("slim", 14_188_032), ("base", 85_017_600)])
def test_how_many_weights_can_be_pruned(name, expected):
    linears = [linear for block in pruned.blocks(big(name)) for linear in block.linears]
    assert sum(linear.weight.numel() + linear.bias.numel() for linear in linears) == expected


def test_weights_left_in_base():
    model = melhubert.MelHuBERT(melhubert.PRESETS["base"])
    left = {0.2: 73_227_904, 0.4: 56_224_384, 0.5: 47_722_624, 0.65: 34_969_984, 0.7: 30_719_104, 0.8: 22_217_344}
    for sparsity, n_left in left.items():
        compression.prune_weights(model, sparsity)
        assert compression.n_parameters(model) == (90_231_424, n_left)


# --- heads and rows --------------------------------------------------------------------------------


def slow_head_scores(block) -> list[float]:
    width = block.attention.head_dim
    scores = []
    for head in range(block.n_heads):
        total = 0.0
        for name, row in itertools.product("qkv", range(head * width, (head + 1) * width)):
            linear = getattr(block.attention, f"{name}_proj")
            total += sum(abs(value) for value in linear.weight[row].tolist()) + abs(linear.bias[row].item())
        scores.append(total)
    return scores


def slow_row_scores(block) -> list[float]:
    return [
        sum(map(abs, block.fc1.weight[row].tolist()))
        + abs(block.fc1.bias[row].item())
        + sum(map(abs, block.fc2.weight[:, row].tolist()))
        for row in range(block.n_rows)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_by_loops(name):
    network = speech(name)
    of = pruned.blocks(network)
    assert near(torch.stack(compression.head_scores(network)), [slow_head_scores(block) for block in of], 1e-3)
    assert near(torch.stack(compression.row_scores(network)), [slow_row_scores(block) for block in of], 1e-3)


@torch.no_grad()
def silence_heads(network, gone) -> None:
    """Heads whose outputs go nowhere."""
    for block, heads in zip(pruned.blocks(network), gone, strict=True):
        width = block.attention.head_dim
        for head in heads:
            block.attention.out_proj.weight[:, head * width : (head + 1) * width] = 0


@torch.no_grad()
def silence_rows(network, gone) -> None:
    for block, rows in zip(pruned.blocks(network), gone, strict=True):
        block.fc2.weight[:, rows] = 0


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("what", ["heads", "rows"])
def test_removing_is_silencing(name, what):
    """What a part gave is gone, and nothing else has changed: not the order, not the scale of what is left."""
    network = speech(name)
    silent = copy.deepcopy(network)
    before = heard(network)
    n = {"heads": 2, "rows": 20}[what]
    gone = compression.prune_heads(network, n) if what == "heads" else compression.prune_rows(network, n)
    assert all(len(set(of_block)) == n for of_block in gone)
    silence_heads(silent, gone) if what == "heads" else silence_rows(silent, gone)
    assert torch.allclose(heard(network), heard(silent), atol=1e-5)
    assert (heard(network) - before).abs().max() > 1e-3
    left, full = pruned.sizes(network), pruned.sizes(silent)
    assert [list(map(int.__sub__, a, b)) for a, b in zip(full, left, strict=True)] == (
        [[2] * 3, [0] * 3] if what == "heads" else [[0] * 3, [20] * 3]
    )


@pytest.mark.parametrize("what", ["heads", "rows"])
def test_removing_is_silencing_in_melhubert(tiny, what):
    silent = copy.deepcopy(tiny)
    for _ in range(2):
        gone = compression.prune_heads(tiny, 1) if what == "heads" else compression.prune_rows(tiny, 5)
        first = copy.deepcopy(tiny)
        silence_heads(silent, gone) if what == "heads" else silence_rows(silent, gone)
        assert torch.allclose(run(first), run(silent), atol=1e-5)
        silent = first


def test_numbers_of_heads_count_from_where_they_stand(tiny):
    """Relative indices: the same heads go one by one as all at once."""
    at_once = copy.deepcopy(tiny)
    all_gone = compression.prune_heads(at_once, 3)
    left = [list(range(4)) for _ in range(3)]
    absolute: list[list[int]] = [[], [], []]
    for _ in range(3):
        for k, gone in enumerate(compression.prune_heads(tiny)):
            absolute[k].append(left[k].pop(gone[0]))
    assert absolute == all_gone
    for one, other in zip(tiny.parameters(), at_once.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", ["Wav2Vec2ForPreTraining", "Wav2Vec2ForCTC", "Wav2Vec2Model"])
def test_what_stands_on_the_encoder_stays(kind):
    network = speech(kind=kind)
    others = [name for name in network.state_dict() if ".layers." not in name]
    before = {name: network.state_dict()[name].clone() for name in others}
    compression.prune_heads(network)
    compression.prune_rows(network, 8)
    compression.prune_weights(network, 0.3)
    assert pruned.sizes(network) == ([3] * 3, [56] * 3)
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in others)


def test_ties_go_to_the_first(tiny):
    same = [torch.ones(4)] * 3
    assert compression.prune_heads(tiny, 2, scores=same) == [[0, 1]] * 3
    assert compression.prune_rows(tiny, 2, scores=[torch.ones(24)] * 3) == [[0, 1]] * 3


def test_the_lowest_of_the_whole_network(tiny):
    scores = [torch.tensor(of) for of in ([0.1, 0.2, 0.3, 0.4], [5.0, 6.0, 7.0, 8.0], [9.0, 0.25, 9.0, 9.5])]
    # 0.4 is lower than all of the second block, but the best of its own
    assert compression.prune_heads(tiny, 2, scores=scores, by="whole") == [[0, 1, 2], [0, 1], [1]]
    assert tiny.config.heads == (1, 2, 3)
    assert run(tiny).isfinite().all()
    with pytest.raises(UsageError, match="6 heads cannot be removed from blocks with"):
        compression.prune_heads(tiny, 2, by="whole")
    assert pruned.sizes(tiny)[0] == [1, 2, 3]
    gone = compression.prune_heads(tiny, 1, by="whole")
    assert gone[0] == []
    assert sum(map(len, gone)) == 3
    assert tiny.config.heads == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: compression.prune_heads(m, 4), "block 1 has 4 heads, and 4 of them cannot be removed"),
        (lambda m: compression.prune_heads(m, 0), "0 heads of each block cannot be removed"),
        (lambda m: compression.prune_heads(m, 1.5), "1.5 heads"),
        (lambda m: compression.prune_heads(m, by="row"), "choose layer or whole"),
        (lambda m: compression.prune_heads(m, scores=[torch.ones(4)] * 2), "give one tensor a block"),
        (lambda m: compression.prune_heads(m, scores=[torch.ones(5)] * 3), "give one tensor a block"),
        (lambda m: compression.prune_rows(m, 24), "block 1 has 24 rows"),
        (lambda m: compression.prune_rows(m), "block 1 has 24 rows, and 128"),
        (lambda m: compression.prune_weights(m, 0), "between 0 and 1"),
        (lambda m: compression.prune_weights(m, 1.0), "between 0 and 1"),
        (lambda m: compression.prune_weights(m, float("nan")), "between 0 and 1"),
    ],
)
def test_wrong_requests(tiny, call, message):
    before = run(tiny)
    with pytest.raises(UsageError, match=message):
        call(tiny)
    assert torch.equal(run(tiny), before)
    assert pruned.sizes(tiny) == ([4] * 3, [24] * 3)


def test_networks_that_cannot_be_pruned():
    for call in (compression.prune_heads, compression.prune_rows, compression.head_scores, compression.DataDrivenScore):
        with pytest.raises(ModelError, match="Linear is no network that can be pruned"):
            call(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="Wav2Vec2ConformerModel is no network"):
        compression.prune_weights(speech("conformer-rotary"), 0.2)


def test_a_network_that_has_diverged(tiny):
    with torch.no_grad():
        tiny.encoder.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
        tiny.encoder.layers[1].fc1.bias[3] = float("inf")
    for call in (compression.prune_heads, lambda m: compression.prune_rows(m, 1)):
        with pytest.raises(ModelError, match="block 2 is not finite"):
            call(tiny)
    with pytest.raises(ModelError, match="not finite"):
        compression.prune_weights(tiny, 0.2)


def test_meta_networks_have_no_scores():
    with pytest.raises(UsageError, match="give scores"):
        compression.prune_heads(big("small"))
    with pytest.raises(UsageError, match="load the network first"):
        compression.prune_weights(big("small"), 0.2)


def test_wavlm_keeps_its_heads():
    network = speech("wavlm-base")
    with pytest.raises(ModelError, match="WavLMModel cannot lose heads"):
        compression.prune_heads(network)
    with pytest.raises(ModelError, match="cannot lose heads"):
        compression.DataDrivenScore(network)
    silent = copy.deepcopy(network)
    silence_rows(silent, compression.prune_rows(network, 10))
    assert torch.allclose(heard(network), heard(silent), atol=1e-5)
    # transformers hands WavLM's projections to a function: a mask that only acts in their forward would do nothing
    before, dense = heard(network), copy.deepcopy(network)
    compression.prune_weights(network, 0.5)
    assert (heard(network) - before).abs().max() > 1e-3
    dense.load_state_dict(pruned.plain_state(network))
    assert torch.allclose(heard(dense), heard(network), atol=1e-6)


def test_pruning_of_torch_stands_in_the_way(tiny):
    prune.l1_unstructured(tiny.encoder.layers[0].fc1, "weight", 0.5)
    with pytest.raises(ModelError, match="no plain weight: undo"):
        compression.prune_weights(tiny, 0.6)
    with pytest.raises(ModelError, match="no plain weight: undo"):
        compression.prune_rows(tiny, 2)


# --- going on training -----------------------------------------------------------------------------


def loss_of(model) -> torch.Tensor:
    features, mask = inputs()
    return model(features, attention_mask=mask).last_hidden_state.square()[..., :3].mean()


def train(model, optimizer, n_steps=3) -> torch.Tensor:
    for _ in range(n_steps):
        loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss


def test_an_optimizer_goes_on(tiny):
    """What it has gathered of the weights that stay is what it had; the loss of before is still alive."""
    optimizer = torch.optim.Adam(tiny.parameters(), lr=1e-3)
    loss = train(tiny, optimizer)
    linear = tiny.encoder.layers[0].self_attn.q_proj
    moments = optimizer.state[linear.weight]["exp_avg"].clone()
    others = optimizer.state[tiny.final_proj.weight]
    gone = compression.prune_heads(tiny, optimizer=optimizer)[0][0]
    compression.prune_rows(tiny, 4, optimizer=optimizer)
    rows = [row for row in range(16) if row // 4 != gone]
    assert torch.equal(optimizer.state[linear.weight]["exp_avg"], moments[rows])
    assert int(optimizer.state[linear.weight]["step"]) == 3
    assert optimizer.state[tiny.final_proj.weight] is others
    parameters = {id(parameter) for parameter in tiny.parameters()}
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == parameters
    assert {id(parameter) for parameter in optimizer.state} <= parameters
    before = linear.weight.detach().clone()
    train(tiny, optimizer, 1)
    assert not torch.equal(linear.weight, before)
    assert loss.requires_grad


def test_zeros_stay_while_the_rest_is_trained(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters(), lr=1e-2, weight_decay=0.1)
    train(tiny, optimizer)  # momentum would move what is masked
    compression.prune_weights(tiny, 0.4)
    found = compression.masks(tiny)
    names = list(found)
    before = {name: value(tiny, name).clone() for name in names}
    train(tiny, optimizer)
    for name in names:
        assert not value(tiny, name)[~found[name]].any()
        assert not torch.equal(value(tiny, name), before[name])
    # to more: all that was 0 still is
    train(tiny, optimizer)
    n_gone = compression.prune_weights(tiny, 0.6)
    assert n_gone == round(0.6 * 5_688) == sum(int((~mask).sum()) for mask in compression.masks(tiny).values())
    assert all(not (mask & ~found[name]).any() for name, mask in compression.masks(tiny).items())
    train(tiny, optimizer)
    assert compression.n_parameters(tiny) == (6_694, 6_694 - n_gone)
    dense = plain(tiny)
    assert torch.equal(run(dense), run(tiny))
    assert compression.masks(dense) == {}
    assert compression.n_parameters(dense) == (6_694, 6_694 - n_gone)


def plain(masked) -> melhubert.MelHuBERT:
    """The same network with zeros instead of masks."""
    network = melhubert.MelHuBERT(masked.config)
    network.load_state_dict(pruned.plain_state(masked))
    return network.eval()


def value(model, name: str) -> torch.Tensor:
    module, _, part = name.rpartition(".")
    return getattr(model.get_submodule(module), part).detach()


def slow_masks(model, sparsity: float) -> dict[str, list[bool]]:
    """True where a weight stays: all by size, of equals the later first."""
    entries = []
    for k, name, part in itertools.product(range(3), LINEARS, ("weight", "bias")):
        key = f"encoder.layers.{k}.{name}.{part}"
        entries += [(abs(x), -len(entries) - i, key, i) for i, x in enumerate(value(model, key).flatten().tolist())]
    kept = {key: [True] * value(model, key).numel() for *_, key, _ in entries}
    for _, _, key, i in sorted(entries)[: round(sparsity * len(entries))]:
        kept[key][i] = False
    return kept


@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("decimals", [1, 8])
def test_masks_by_sorting(tmp_path, sparsity, decimals):
    """Rounded weights are full of ties."""
    state = {
        name: (10**decimals * tensor).round() / 10**decimals for name, tensor in random_state(GOLDEN, seed=4).items()
    }
    model = melhubert.load(write(tmp_path / "m.ckpt", state, GOLDEN))[0]
    for key in ("encoder.layers.0.fc1.weight", "encoder.layers.2.fc2.weight"):
        module, _, part = key.rpartition(".")
        with torch.no_grad():
            getattr(model.get_submodule(module), part).abs_().clamp_(min=0.1)
    n_zeros = sum(int((value(model, key) == 0).sum()) for key in slow_masks(model, 0.5))
    expected = slow_masks(model, sparsity)
    if round(sparsity * 5_688) < n_zeros:
        with pytest.raises(UsageError, match=f"less than there is: {n_zeros} of 5688"):
            compression.prune_weights(model, sparsity)
        return
    compression.prune_weights(model, sparsity)
    assert {name: mask.flatten().tolist() for name, mask in compression.masks(model).items()} == expected


def test_less_than_there_is(tiny):
    compression.prune_weights(tiny, 0.3)
    found = compression.masks(tiny)
    with pytest.raises(UsageError, match=r"a sparsity of 0\.2 is less than there is: 1706 of 5688"):
        compression.prune_weights(tiny, 0.2)
    assert compression.prune_weights(tiny, 0.3) == 1_706  # the same again changes nothing
    assert all(torch.equal(mask, found[name]) for name, mask in compression.masks(tiny).items())
    with pytest.raises(UsageError, match="less than there is"):
        compression.prune_weights(plain(tiny), 0.1)


def test_masks_come_back(tiny):
    """A run that was stopped: the network without masks, and the masks."""
    whole = copy.deepcopy(tiny)
    compression.prune_weights(tiny, 0.3)
    compression.put_masks(whole, compression.masks(tiny))
    assert torch.equal(run(whole), run(tiny))
    assert set(whole.state_dict()) == set(tiny.state_dict())
    for wrong in ({"final_proj.weight": torch.ones(6, 16)}, {"encoder.layers.0.fc1.bias": torch.ones(3)}):
        with pytest.raises(UsageError, match="a mask does not fit the network"):
            compression.put_masks(whole, wrong)


def test_copies_of_masked_networks_are_their_own(tiny):
    compression.prune_weights(tiny, 0.3)
    out, twin = run(tiny), copy.deepcopy(tiny)
    compression.prune_weights(tiny, 0.5)
    assert torch.equal(run(twin), out)
    compression.prune_weights(twin, 0.5)
    assert torch.equal(run(twin), run(tiny))


def test_heads_and_rows_of_masked_networks(tiny):
    optimizer = torch.optim.Adam(tiny.parameters(), lr=1e-3)
    compression.prune_weights(tiny, 0.3)
    train(tiny, optimizer)
    dense = plain(tiny)
    for model, of in ((tiny, optimizer), (dense, None)):
        compression.prune_heads(model, optimizer=of)
        compression.prune_rows(model, 3, optimizer=of)
    assert torch.equal(run(tiny), run(dense))
    assert compression.n_parameters(tiny) == compression.n_parameters(dense)
    train(tiny, optimizer)
    assert compression.n_parameters(tiny) == compression.n_parameters(dense)


# --- scores from data ------------------------------------------------------------------------------


def slow_data_scores(model, batches) -> list[list[float]]:
    """Gradients of contexts by hand: one tensor at a time is put in the place of what goes into out_proj."""
    totals = [[0.0] * 4 for _ in range(3)]
    for features, mask in batches:
        for k in range(3):
            kept = []

            def keep(_module, inputs, kept=kept):
                context = inputs[0].detach().requires_grad_()
                kept.append(context)
                return (context,)

            hook = model.encoder.layers[k].self_attn.out_proj.register_forward_pre_hook(keep)
            out = model(features, attention_mask=mask).last_hidden_state.square()[..., :3].mean()
            hook.remove()
            (gradient,) = torch.autograd.grad(out, kept)
            for clip, frame, head in itertools.product(range(features.shape[0]), range(features.shape[1]), range(4)):
                part = slice(4 * head, 4 * head + 4)
                totals[k][head] += abs(float((gradient[clip, frame, part] * kept[0].detach()[clip, frame, part]).sum()))
    means = [[total / len(batches) for total in of_block] for of_block in totals]
    return [[x / sum(y * y for y in of_block) ** 0.5 for x in of_block] for of_block in means]


def test_scores_from_data(tiny):
    features, mask = inputs()
    batches = [(features, mask), (features[:1].flip(1), mask[:1])]  # of unlike sizes
    expected = slow_data_scores(tiny, batches)
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    with compression.DataDrivenScore(tiny) as found:
        for features, mask in batches:
            tiny(features, attention_mask=mask).last_hidden_state.square()[..., :3].mean().backward()
            found.step()
    assert near(torch.stack(found.scores()), expected, 1e-5)
    assert found.n_steps == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny.state_dict().items())
    assert not tiny.encoder.layers[0].self_attn.out_proj._forward_pre_hooks
    gone = compression.prune_heads(tiny, scores=found.scores(), by="whole")
    assert sum(map(len, gone)) == 3


def test_what_was_frozen_and_what_was_zero_stay_so(tiny):
    tiny.encoder.layers[0].fc1.weight.requires_grad_(False)
    compression.prune_rows(tiny, 2)
    assert not tiny.encoder.layers[0].fc1.weight.requires_grad
    assert tiny.encoder.layers[1].fc1.weight.requires_grad
    compression.prune_weights(tiny, 0.3)
    out = run(tiny)
    compression.put_masks(tiny, {name: torch.ones_like(mask) for name, mask in compression.masks(tiny).items()})
    assert torch.equal(run(tiny), out)


def test_a_step_may_have_several_backwards(tiny):
    """Gradient accumulation: as if they were one."""
    found = []
    for parts in ([loss_of], [loss_of, lambda model: 3 * loss_of(model)]):
        with compression.DataDrivenScore(tiny) as scored:
            for part in parts:
                part(tiny).backward()
            scored.step()
        found.append(scored._sums)
    assert all(torch.allclose(4 * one, other, rtol=1e-5) for one, other in zip(*found, strict=True))


def test_scores_from_data_of_transformers():
    network = speech()
    with compression.DataDrivenScore(network) as found:
        network(torch.randn(2, 4_000)).last_hidden_state.square().mean().backward()
        found.step()
    assert [tuple(one.shape) for one in found.scores()] == [(4,)] * 3
    assert all(abs(float(one.norm()) - 1) < 1e-9 for one in found.scores())


def test_scores_from_data_want_gradients(tiny):
    with compression.DataDrivenScore(tiny) as found:
        with pytest.raises(UsageError, match="no batch has been scored"):
            found.scores()
        run(tiny)
        with pytest.raises(UsageError, match="call backward"):
            found.step()
        compression.prune_heads(tiny)
        with pytest.raises(UsageError, match="block 1 lost heads"):
            run(tiny)
