"""Folders of pruned networks: what is written is what is read, by us, by extraction, and never by others unawares."""

from __future__ import annotations

import copy
import json

import models
import numpy as np
import pytest
import safetensors.torch
import torch
from melhuberts import GOLDEN, golden_state, write

import layertool
from layertool.errors import ModelError, StoreError, UsageError
from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window
from layertool.models import checkpoints, melhubert, pruned
from layertool.models.open import Model
from layertool.training import compression

pytestmark = pytest.mark.slow

FAMILIES = (
    "wav2vec2-base",
    "wav2vec2-large",
    "hubert-base",
    "hubert-batch-norm",
    "data2vec-audio",
    "unispeech-sat-base",
)


def opened(tmp_path, name="wav2vec2-base", kind="AutoModel"):
    import transformers

    folder = tmp_path / f"dense-{name}"
    if not folder.exists():
        models.save(name, folder)
    network = getattr(transformers, kind).from_pretrained(folder)
    return network.eval()


def cut(network):
    """Unlike numbers of heads and rows in the blocks, and masks."""
    n = len(pruned.blocks(network))
    if network.config.model_type != "wavlm":
        compression.prune_heads(network, 1, scores=[k + torch.arange(4.0).flip(0) for k in range(n)], by="whole")
    for k, block in enumerate(pruned.blocks(network)):
        pruned.cut_rows(block, range(3, 3 + 5 * k))
    compression.prune_weights(network, 0.3)
    return network


@torch.no_grad()
def heard(network, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return network(torch.randn(2, 4_000, generator=generator))[0]


@pytest.mark.parametrize("name", [*FAMILIES, "wavlm-base", "wavlm-large"])
def test_what_is_saved_is_loaded(tmp_path, name):
    network = cut(opened(tmp_path, name))
    folder = pruned.save(network, tmp_path / "pruned")
    back = pruned.load(folder)
    assert type(back) is type(network)
    assert pruned.sizes(back) == pruned.sizes(network)
    assert len(set(pruned.sizes(back)[1])) == len(pruned.sizes(back)[1])
    assert torch.allclose(heard(back), heard(network), atol=1e-6)
    assert compression.n_parameters(back) == compression.n_parameters(network)
    assert not back.training
    assert {key: tensor.tolist() for key, tensor in back.state_dict().items()} == {
        key: tensor.tolist() for key, tensor in pruned.plain_state(network).items()
    }
    # and again, further
    compression.prune_rows(back, 2)
    assert pruned.sizes(pruned.load(pruned.save(back, tmp_path / "further"))) == pruned.sizes(back)


@pytest.mark.parametrize("kind", ["AutoModelForCTC", "AutoModelForPreTraining"])
def test_what_stands_on_the_encoder_is_saved(tmp_path, kind):
    network = opened(tmp_path, kind=kind)
    compression.prune_heads(network)
    back = pruned.load(pruned.save(network, tmp_path / "pruned"))
    assert type(back) is type(network)
    assert torch.equal(heard(back.base_model), heard(network.base_model))
    for one, other in zip(back.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    extractor = open_extractor(str(tmp_path / "pruned"))  # its layers are those of the encoder
    assert list(extractor.layers)[-1] == "T3"


@pytest.mark.parametrize("where", ["AutoModel", "AutoConfig", "own class"])
def test_transformers_refuses(tmp_path, where, capfd):
    """It would make the sizes of config.json: no layer is ever one of random numbers."""
    import transformers

    network = opened(tmp_path)
    compression.prune_heads(network)
    folder = pruned.save(network, tmp_path / "pruned")
    opener = type(network) if where == "own class" else getattr(transformers, where)
    with pytest.raises((ValueError, RuntimeError), match=r"layertool-pruned-wav2vec2|ignore_mismatched_sizes"):
        opener.from_pretrained(folder)


def test_transformers_opens_what_it_has_a_place_for(tmp_path):
    """Zeros, and as many rows in each block."""
    import transformers

    network = opened(tmp_path)
    compression.prune_weights(network, 0.5)
    compression.prune_rows(network, 16)
    folder = pruned.save(network, tmp_path / "pruned")
    assert not pruned.is_folder(folder)
    back = transformers.AutoModel.from_pretrained(folder).eval()
    assert back.config.intermediate_size == 48
    assert torch.allclose(heard(back), heard(network), atol=1e-6)
    assert torch.equal(heard(pruned.load(folder)), heard(back))


def frames(extractor, waveforms) -> dict[str, np.ndarray]:
    items = []
    for k, waveform in enumerate(waveforms):
        window = Window(0, len(waveform), 0, len(waveform))
        items.append(Item(k, f"clip{k}", len(waveform), window, extractor.normalise(waveform)))
    out = {}
    extractor.forward(items, list(extractor.layers), lambda name, value: out.update({name: value.clone().numpy()}))
    return out


@pytest.mark.parametrize("name", [*FAMILIES, "wavlm-base"])
def test_extraction_of_a_pruned_folder(tmp_path, name):
    network = cut(opened(tmp_path, name))
    normalises = models.FAMILIES[name][2]
    folder = pruned.save(
        network, tmp_path / "pruned", normalise=normalises, facts={"step": 26_000, "normalisation_epsilon": 1e-5}
    )
    extractor = open_extractor(str(folder))
    assert (extractor.normalises, extractor.epsilon, extractor.provenance["step"]) == (normalises, 1e-5, 26_000)
    counts = compression.n_parameters(network)
    assert (extractor.n_parameters, extractor.n_nonzero) == counts
    waveforms = [models.speech_like(n, seed) for seed, n in enumerate((8_000, 4_321))]
    got = frames(extractor, waveforms)
    hidden = {}
    for k, block in enumerate(network.encoder.layers, start=1):
        block.register_forward_hook(
            lambda _m, _i, out, k=k: hidden.update({f"T{k}": out[0] if isinstance(out, tuple) else out})
        )
    with torch.no_grad():
        network(torch.from_numpy(extractor.normalise(waveforms[0]))[None])
    assert set(hidden) == {f"T{k}" for k in range(1, len(hidden) + 1)} <= set(got)
    for layer, expected in hidden.items():
        assert np.abs(got[layer][0] - expected[0].numpy()).max() < 1e-4
    # with padding, all layers equal those of the network in memory
    own = frames(open_extractor(Model.of(network, "memory", normalises, 1e-5), "cpu"), waveforms)
    assert list(own) == list(got)
    assert all(np.abs(own[layer] - got[layer]).max() < 1e-5 for layer in own)


def test_layertool_extract(tmp_path):
    network = opened(tmp_path)
    compression.prune_heads(network, 2)
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(9_000, 1), models.speech_like(6_000, 2)])
    folder = pruned.save(network, tmp_path / "pruned", normalise=False)
    store = layertool.extract(str(folder), corpus, tmp_path / "store", units=("utterance",), layers="all")
    assert store.layers == [f"C{k}" for k in range(1, 8)] + [f"T{k}" for k in range(4)]
    dense = layertool.extract(
        str(tmp_path / "dense-wav2vec2-base"), corpus, tmp_path / "s2", units=("utterance",), layers="all"
    )
    with torch.no_grad():
        expected = network(torch.from_numpy(models.speech_like(9_000, 1))[None]).last_hidden_state[0].mean(0)
    assert np.abs(store.read("utterance", "T3")[0] - expected.numpy()).max() < 1e-3
    assert np.array_equal(store.read("utterance", "T0"), dense.read("utterance", "T0"))
    assert np.abs(store.read("utterance", "T1") - dense.read("utterance", "T1")).max() > 1e-2


def test_untrained_control_has_the_same_sizes(tmp_path):
    network = cut(opened(tmp_path))
    folder = pruned.save(network, tmp_path / "pruned")
    extractor = open_extractor(str(folder), random_init=3)
    assert extractor.n_parameters == compression.n_parameters(network).all
    assert extractor.provenance["random_init"] == 3
    one, other = (checkpoints.draw_anew(checkpoints.read_config(str(folder)), seed) for seed in (3, 4))
    assert pruned.sizes(one) == pruned.sizes(network)
    assert not torch.equal(heard(one), heard(other))


# --- MelHuBERT -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["layer", "whole"])
def test_melhubert_goes_out_and_comes_back(tmp_path, by):
    model, _ = melhubert.load(write(tmp_path / "g.ckpt", golden_state(), GOLDEN))
    compression.prune_heads(model, by=by)
    compression.prune_rows(model, 4)
    if by == "whole":
        pruned.cut_rows(pruned.blocks(model)[1], [0, 7])
        pruned.fit_config(model)
    with torch.no_grad():
        out = model(features := torch.randn(2, 9, 8)).hidden_states
    melhubert.save(model, model.config, tmp_path / "own")
    back, config = melhubert.load(tmp_path / "own")
    assert config == model.config
    assert (config.encoder_ffn_embed_dim, config.ffn_rows) == ((20, None) if by == "layer" else (20, (20, 18, 20)))
    with torch.no_grad():
        assert all(map(torch.equal, back(features).hidden_states, out))
    compression.prune_weights(model, 0.25)
    there = pruned.load(pruned.save(model, tmp_path / "masked", facts={"step": 5}))
    with torch.no_grad():
        assert torch.equal(there(features).last_hidden_state, model(features).last_hidden_state)
    assert compression.n_parameters(there) == compression.n_parameters(model)
    assert json.loads((tmp_path / "masked" / "source.json").read_text()) == {"step": 5}


def test_resize(tmp_path):
    model, _ = melhubert.load(write(tmp_path / "g.ckpt", golden_state(), GOLDEN))
    pruned.resize(model, [4, 2, 1], [24, 24, 3])
    assert (model.config.heads, model.config.ffn_rows) == ((4, 2, 1), (24, 24, 3))
    with torch.device("meta"):
        twin = melhubert.MelHuBERT(model.config)
    assert [p.shape for p in twin.parameters()] == [p.shape for p in model.parameters()]
    for heads, rows in (([4, 2], [24] * 3), ([5, 1, 1], [3] * 3), ([0, 1, 1], [3] * 3), ([1] * 3, [25] * 3)):
        with pytest.raises(UsageError, match="cannot be made of the"):
            pruned.resize(model, heads, rows)


def test_wavlm_cannot_be_resized_in_heads(tmp_path):
    network = opened(tmp_path, "wavlm-base")
    with pytest.raises(ModelError, match="cannot lose heads"):
        pruned.resize(network, [3] * 3, [64] * 3)
    pruned.resize(network, [4] * 3, [3] * 3)


# --- errors ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    network = opened(tmp_path)
    compression.prune_heads(network)
    return pruned.save(network, tmp_path / "pruned")


def change(folder, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layertool_pruned": {"heads": [3, 3], "ffn_rows": [64] * 3}}, r"says heads = \[3, 3\]"),
        ({"layertool_pruned": {"heads": [3, 3, 0], "ffn_rows": [64] * 3}}, r"says heads = \[3, 3, 0\]"),
        ({"layertool_pruned": {"heads": [3] * 3, "ffn_rows": [64, 64, 65]}}, "says ffn_rows"),
        ({"layertool_pruned": {"heads": [3] * 3}}, "says ffn_rows = None"),
        ({"layertool_pruned": {"heads": "333", "ffn_rows": [64] * 3}}, "says heads = 333"),
        ({"layertool_pruned": None}, "says heads = None"),
        (
            {"layertool_pruned": {"heads": [3, 3, 2], "ffn_rows": [64] * 3}},
            r"has other weights .*weight \(36, 48\) instead of",
        ),
        ({"architectures": ["HubertModel"]}, "says the architecture 'HubertModel'"),
        ({"architectures": ["os"]}, "says the architecture 'os'"),
        ({"architectures": []}, "says the architecture None"),
        ({"model_type": "layertool-pruned-bert"}, "no config.json of a pruned network"),
        ({"hidden_size": "wide"}, "makes no network"),
        ({"conv_dim": [3]}, "makes no network"),
        ({"num_hidden_layers": None}, "makes no network|says heads"),
    ],
)
def test_damaged_descriptions(folder, settings, message):
    change(folder, **settings)
    with pytest.raises(ModelError, match=message):
        pruned.load(folder)
    with pytest.raises(ModelError, match=message):
        open_extractor(str(folder))


@pytest.mark.parametrize("damage", ["missing file", "cut file", "missing", "more"])
def test_damaged_weights(folder, damage):
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    if damage == "missing file":
        path.unlink()
    elif damage == "cut file":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        tensors = {**tensors, "more": torch.ones(1)} if damage == "more" else dict(list(tensors.items())[1:])
        safetensors.torch.save_file(tensors, path)
    with pytest.raises(ModelError, match=r"missing, cut short|has other weights than"):
        open_extractor(str(folder))


def test_other_folders(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"no config\.json of a pruned network"):
            pruned.load(path)


def test_nothing_is_overwritten_and_nothing_is_half(tmp_path, monkeypatch):
    network = opened(tmp_path)
    compression.prune_heads(network)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    for path in (tmp_path / "full", tmp_path / "full" / "mine"):
        with pytest.raises(StoreError, match="is there already"):
            pruned.save(network, path)
    with pytest.raises(ModelError, match="Linear is no network"):
        pruned.save(torch.nn.Linear(1, 1), tmp_path / "new")

    def fail(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pruned, "write_json", fail)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        pruned.save(network, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_half_precision_is_loaded_whole(tmp_path):
    network = cut(opened(tmp_path)).half()
    back = pruned.load(pruned.save(network, tmp_path / "pruned"))
    assert {parameter.dtype for parameter in back.parameters()} == {torch.float32}
    assert compression.n_parameters(back) == compression.n_parameters(network)


def test_saving_changes_nothing(tmp_path):
    network = cut(opened(tmp_path))
    found, before = compression.masks(network), copy.deepcopy(network.config.to_dict())
    out = heard(network)
    pruned.save(network, tmp_path / "pruned")
    assert torch.equal(heard(network), out)
    assert network.config.to_dict() == before
    assert all(torch.equal(mask, found[name]) for name, mask in compression.masks(network).items())
