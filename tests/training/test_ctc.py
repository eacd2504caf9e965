"""CTC against all its paths, re-initialised layers, and what learns of an encoder."""

from __future__ import annotations

import itertools
import math

import melhuberts
import models
import numpy as np
import pytest
import torch

from layertool.errors import CorpusError, ModelError, UsageError
from layertool.models import melhubert
from layertool.training.ctc import CTC, PhoneProbe, ctc_loss, needed_frames, reinitialise_top, unreachable
from layertool.training.ctc_data import greedy
from layertool.training.encoders import collate

pytestmark = pytest.mark.slow

NAMES = ["melhubert", "wav2vec2-base", "wav2vec2-large", "hubert-base", "wavlm-base", "wavlm-large"]


def network(name: str, folder, **changes):
    if name == "melhubert":
        torch.manual_seed(3)
        return melhubert.MelHuBERT(melhubert.Config(**{**melhuberts.SMALL, "encoder_layers": 3, **changes})).eval()
    import transformers

    return transformers.AutoModel.from_pretrained(models.save(name, folder / name, seed=3, **changes)).eval()


def items(model, targets=((2, 3, 3), (4,), (2, 5, 1, 2))) -> list[dict]:
    random = np.random.default_rng(0)
    if isinstance(model, melhubert.MelHuBERT):
        inputs = [random.standard_normal((n, 80)).astype(np.float32) for n in (19, 7, 30)]
    else:
        inputs = [models.speech_like(n, k) for k, n in enumerate((5_000, 3_237, 9_300))]
    return [{"input": x, "target": list(target)} for x, target in zip(inputs, targets, strict=True)]


def all_paths(log_p: np.ndarray, target: list[int], blank: int = 0) -> float:
    """-log of the probability of all paths that collapse to the target, one by one."""
    total = 0.0
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        if [token for token, _ in itertools.groupby(path) if token != blank] == target:
            total += math.exp(sum(log_p[t, token] for t, token in enumerate(path)))
    return -math.log(total) if total else math.inf


@pytest.mark.parametrize("blank", [0, 3])
def test_the_loss_by_all_paths(blank):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 5, 4, generator=generator, dtype=torch.float64)
    n_frames = torch.tensor([5, 3, 4, 2])
    targets = [[1, 2, 2], [2], [], [2, 1]]
    labels = torch.tensor([[*target, *[-100] * (3 - len(target))] for target in targets])
    log_p = torch.log_softmax(logits, -1).numpy()
    each = [all_paths(log_p[k, : n_frames[k]], target, blank) for k, target in enumerate(targets)]
    by_utterance = sum(loss / max(len(target), 1) for loss, target in zip(each, targets, strict=True)) / 4
    by_token = sum(each) / (3 + 1 + 1 + 2)
    assert float(ctc_loss(logits, n_frames, labels, blank=blank)) == pytest.approx(by_utterance, rel=1e-12)
    assert float(ctc_loss(logits, n_frames, labels, "token", blank)) == pytest.approx(by_token, rel=1e-12)
    spoilt = logits.masked_fill(torch.arange(5)[None, :, None] >= n_frames[:, None, None], 77.0)
    assert float(ctc_loss(spoilt, n_frames, labels, blank=blank)) == pytest.approx(by_utterance, rel=1e-12)
    assert float(ctc_loss(logits.half(), n_frames, labels, blank=blank)) == pytest.approx(by_utterance, rel=1e-3)


def test_targets_that_frames_cannot_tell():
    """Their loss is 0, without gradients, and they are found before training."""
    logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([[1, 1, 2], [1, 2, 1]])
    whole = ctc_loss(logits, torch.tensor([3, 3]), labels)
    alone = ctc_loss(logits[1:], torch.tensor([3]), labels[1:])
    assert whole.item() == pytest.approx(alone.item() / 2)
    whole.backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()
    assert logits.grad.isfinite().all()
    assert [needed_frames(target) for target in ([], [1], [1, 1], [1, 2, 1], [1, 1, 1, 2, 2])] == [0, 1, 3, 3, 8]
    n_frames, targets = {"a": 3, "b": 3, "c": 9}, {"a": [1, 1, 2], "b": [1, 2, 1], "c": [1]}
    with pytest.raises(CorpusError, match=r"'a' has 3 frames, but its 3 tokens need 4 \(1 such utterances\)"):
        unreachable(n_frames, {"a": targets["a"]})
    assert unreachable(n_frames, targets) == ["a"]
    assert unreachable(n_frames, {"b": [1, 2, 1]}) == []
    for n in range(1, 6):  # the rule agrees with the paths
        for target in ([1], [1, 1], [1, 2], [2, 2, 1]):
            reachable = math.isfinite(all_paths(np.full((n, 3), -1.0), target))
            assert reachable == (needed_frames(target) <= n)


@pytest.mark.parametrize(
    "wrong",
    [
        {"labels": torch.tensor([[1, 0]])},
        {"labels": torch.tensor([[1, 4]])},
        {"labels": torch.tensor([[-100, 1]])},
        {"labels": torch.tensor([[1], [1]])},
        {"per": "batch"},
        {"n_frames": torch.tensor([3, 3])},
    ],
    ids=str,
)
def test_losses_that_cannot_be(wrong):
    given = {"logits": torch.zeros(1, 3, 4), "n_frames": torch.tensor([3]), "labels": torch.tensor([[1, 2]])}
    ctc_loss(**given)
    with pytest.raises(UsageError):
        ctc_loss(**given | wrong)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [CTC, PhoneProbe])
def test_a_padded_batch_is_its_utterances(name, kind, tmp_path):
    encoder = network(name, tmp_path)
    learner = kind(encoder, 6).eval()
    clips = items(encoder)
    with torch.no_grad():
        out = learner(**collate(clips))
        alone = [learner(**collate([clip])) for clip in clips]
    for k, one in enumerate(alone):
        n = int(one["n_frames"][0])
        assert n == int(out["n_frames"][k]) == one["logits"].shape[1]
        torch.testing.assert_close(out["logits"][k, :n], one["logits"][0], atol=2e-5, rtol=1e-4)
    assert out["loss"].item() == pytest.approx(np.mean([one["loss"].item() for one in alone]), rel=1e-4)
    n_tokens = np.array([len(clip["target"]) for clip in clips])
    learner.per = "token"
    nats = (n_tokens * [one["loss"].item() for one in alone]).sum()
    assert learner(**collate(clips))["loss"].item() == pytest.approx(nats / n_tokens.sum(), rel=1e-4)
    batch = collate(clips)
    batch.pop("labels")
    assert "loss" not in learner(**batch)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_convolutions_are_frozen(name, tmp_path):
    changes = {} if name == "melhubert" else {"layerdrop": 0.0}
    encoder = network(name, tmp_path, **changes)
    learner = CTC(encoder, 6).train()
    learner(**collate(items(encoder)))["loss"].backward()
    for key, parameter in learner.named_parameters():
        frozen = ".feature_extractor." in key or "final_proj" in key or "masked_spec_embed" in key
        learns = parameter.grad is not None and bool(parameter.grad.any())
        assert parameter.requires_grad != frozen, key
        # keys' biases shift all scores alike; some of WavLM's first weights have no gradient at their start
        if not key.endswith("k_proj.bias") and "gru" not in key:
            assert learns != frozen, key


def test_augmentation_is_the_encoders_own_and_off_by_default(tmp_path):
    still = dict.fromkeys(
        ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop"), 0.0
    )
    for augment in (False, True):
        encoder = network("wav2vec2-base", tmp_path, mask_time_prob=0.5, mask_time_length=4, **still)
        learner = CTC(encoder, 6, augment=augment).train()
        losses = {learner(**collate(items(encoder)))["loss"].item() for _ in range(3)}
        assert (len(losses) > 1) == augment
        assert encoder.masked_spec_embed.requires_grad == augment
    encoder.config.mask_time_length = 40
    with pytest.raises(UsageError, match=r"shorter \(28 frames at most\) than the 40 frames"):
        learner(**collate(items(encoder)))
    learner.eval()(**collate(items(encoder)))
    with pytest.raises(UsageError, match="nothing to put at hidden frames"):
        CTC(network("melhubert", tmp_path), 6, augment=True)


def test_an_encoder_that_was_frozen_learns_again(tmp_path):
    encoder = network("hubert-base", tmp_path)
    PhoneProbe(encoder, 6)
    learner = CTC(encoder, 6)
    assert learner.encoder.encoder.layers[0].feed_forward.output_dense.weight.requires_grad


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("name", ["melhubert", "wav2vec2-large"])
def test_the_weighted_sum(name, normalise, tmp_path):
    """By s3prl's definition, with weights that differ."""
    encoder = network(name, tmp_path)
    probe = PhoneProbe(encoder, 6, normalise=normalise)
    assert list(probe.layer_weights.values()) == pytest.approx([0.25] * 4)
    with torch.no_grad():
        probe.mixture.copy_(torch.tensor([0.3, -1.0, 2.0, 0.1]))
    clip = items(encoder)[:1]
    x = torch.from_numpy(clip[0]["input"])[None]
    with torch.no_grad():
        out = encoder(x) if name == "melhubert" else encoder(x, output_hidden_states=True)
        states = [*out.hidden_states[:-1], out.last_hidden_state]
        if normalise:
            states = [
                (s - s.mean(-1, keepdim=True)) / (s.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt() for s in states
            ]
        weights = [math.exp(w) / sum(map(math.exp, (0.3, -1.0, 2.0, 0.1))) for w in (0.3, -1.0, 2.0, 0.1)]
        mixed = sum(w * s for w, s in zip(weights, states, strict=True))
        expected = mixed @ probe.head.weight.T + probe.head.bias
        torch.testing.assert_close(probe(**collate(clip))["logits"], expected, atol=1e-5, rtol=1e-4)
    names = ["C1", "T1", "T2", "T3"] if name == "melhubert" else ["T0", "T1", "T2", "final"]
    assert list(probe.layer_weights) == names
    assert list(probe.layer_weights.values()) == pytest.approx(weights)


@pytest.mark.parametrize("name", ["melhubert", "hubert-base"])
def test_the_probed_encoder_does_not_learn(name, tmp_path):
    encoder = network(name, tmp_path)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    probe = PhoneProbe(encoder.train(), 6).train()
    assert set(probe.state_dict()) == {"mixture", "head.weight", "head.bias"}
    optimizer = torch.optim.Adam(probe.parameters(), 0.02)
    batch, losses = collate(items(encoder)), []
    for _ in range(60):
        optimizer.zero_grad()
        out = probe(**batch)
        losses.append(out["loss"].item())
        out["loss"].backward()
        optimizer.step()
    assert not encoder.training
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    weights = probe.layer_weights
    assert sum(weights.values()) == pytest.approx(1)
    assert max(weights.values()) > min(weights.values()) + 1e-3


def test_ctc_learns_what_it_is_told(tmp_path):
    encoder = network("melhubert", tmp_path)
    learner = CTC(encoder, 6, seed=1)
    clips = items(encoder)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        learner(**collate(clips))["loss"].backward()
        optimizer.step()
    out = learner.eval()(**collate(clips))
    assert greedy(out["logits"], out["n_frames"]) == [clip["target"] for clip in clips]


def layer_of(key: str) -> int | None:
    parts = key.split(".")
    return int(parts[2]) if parts[:2] == ["encoder", "layers"] else None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 3])
def test_reinitialised_layers(name, n, tmp_path):
    """The top ones as the library draws them from the seed; everything else bit for bit."""
    model = network(name, tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected_random = torch.rand(2)
    torch.manual_seed(1)
    reinitialise_top(model, n, seed=7)
    assert torch.equal(torch.rand(2), expected_random)
    torch.manual_seed(7)
    drawn = type(model)(model.config).state_dict()
    for key, value in model.state_dict().items():
        layer = layer_of(key)
        is_top = layer is not None and layer >= 3 - n
        assert torch.equal(value, (drawn if is_top else before)[key]), key
        if is_top and key.endswith("proj.weight"):
            assert not torch.equal(value, before[key])
    if n:
        top = [
            value
            for key, value in model.state_dict().items()
            if (layer_of(key) == 2 and "fc1.weight" in key) or "intermediate_dense.weight" in key
        ]
        assert top[-1].std().item() == pytest.approx(0.02, rel=0.1)


def test_reinitialisation_by_seed_and_errors(tmp_path):
    drawn = []
    for seed in (0, 0, 1):
        model = network("melhubert", tmp_path, heads=(4, 4, 2), ffn_rows=(24, 24, 10))
        reinitialise_top(model, 1, seed)
        drawn.append(model.encoder.layers[2].self_attn.q_proj.weight)
    assert drawn[0].shape == (16, 32)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    for n in (-1, 4):
        with pytest.raises(UsageError, match="from 0 to 3"):
            reinitialise_top(model, n)
    torch.nn.utils.parametrize.register_parametrization(model.encoder.layers[2].fc1, "weight", torch.nn.Identity())
    with pytest.raises(ModelError, match="block 3 has other weights"):
        reinitialise_top(model, 1)


@pytest.mark.parametrize("kind", [CTC, PhoneProbe])
def test_transformers_trainer_takes_it(kind, tmp_path):
    """Training and evaluation, with the loss of the dev part."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    encoder = network("hubert-base", tmp_path)
    data = items(encoder)
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=4,
        per_device_train_batch_size=2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        eval_strategy="steps",
        eval_steps=2,
        prediction_loss_only=True,
    )
    learner = kind(encoder, 6)
    run = Trainer(model=learner, args=arguments, train_dataset=data, eval_dataset=data, data_collator=collate)
    run.train()
    evaluated = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 2
    assert evaluated[1] < evaluated[0]
