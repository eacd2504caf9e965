"""Students, their heads and loss against spec speat.md 4.4 and plain loops; padded batches against single clips."""

from __future__ import annotations

import math

import melhuberts
import models
import numpy as np
import pytest
import torch

from layertool.errors import ModelError, UsageError
from layertool.models import melhubert
from layertool.training.distillation import Distillation, SplitLinear, distillation_loss, student_of
from layertool.training.encoders import collate, encode, layer_names

pytestmark = pytest.mark.slow

FAMILIES = [name for name in models.FAMILIES if "conformer" not in name]
TEACHERS = ["melhubert", "hubert-base", "hubert-large", "wav2vec2-base", "wav2vec2-large"]


def mel(**changes) -> melhubert.MelHuBERT:
    settings = {**melhuberts.SMALL, "encoder_layers": 4, **changes}
    torch.manual_seed(3)
    return melhubert.MelHuBERT(melhubert.Config(**settings)).eval()


def network(name: str, folder, **changes):
    if name == "melhubert":
        return mel(**changes)
    import transformers

    return transformers.AutoModel.from_pretrained(models.save(name, folder / name, seed=3, **changes)).eval()


def items(model, seed: int = 0) -> list[dict]:
    random = np.random.default_rng(seed)
    if isinstance(model, melhubert.MelHuBERT):
        return [{"input": random.standard_normal((n, 80)).astype(np.float32)} for n in (19, 7, 30)]
    return [{"input": models.speech_like(n, k)} for k, n in enumerate((5_000, 9_237, 1_300), start=seed)]


def same(left: torch.nn.Module, right: torch.nn.Module, names=None) -> list[bool]:
    theirs = right.state_dict()
    return [torch.equal(v, theirs[n]) for n, v in left.state_dict().items() if names is None or names(n)]


def test_golden_loss():
    i = torch.arange(48, dtype=torch.float64).reshape(2, 2, 3, 4)
    predicted, target = torch.sin(0.9 * i), torch.cos(0.4 * i + 0.2)
    distance = float(distillation_loss(predicted, target, cosine_weight=0.0))
    total = float(distillation_loss(predicted, target))
    assert abs(distance - 0.7862475126765297) < 1e-12
    assert abs(total - distance - 0.7137083241004505) < 1e-12
    assert abs(total - 1.49995583677698) < 1e-12


def test_golden_split_linear():
    layer = SplitLinear(2, 3, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.sin(0.7 * torch.arange(12, dtype=torch.float64)).reshape(2, 3, 2))
        layer.bias.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    out = layer(torch.cos(0.3 * torch.arange(6, dtype=torch.float64)).reshape(1, 1, 6))
    assert out.shape == (1, 1, 2, 2)
    np.testing.assert_allclose(out[0, 0].detach(), [[1.3179137, 1.3793592], [-0.4240512, -0.1347094]], atol=1e-6)


def plain_loss(predicted, target, valid, weight) -> float:
    distances, angles = [], []
    for b, n, t in np.ndindex(predicted.shape[:3]):
        if valid[b][t]:
            p, q = predicted[b, n, t].tolist(), target[b, n, t].tolist()
            distances += [abs(x - y) for x, y in zip(p, q, strict=True)]
            norms = math.sqrt(sum(x * x for x in p)) * math.sqrt(sum(y * y for y in q))
            cosine = sum(x * y for x, y in zip(p, q, strict=True)) / norms
            angles.append(math.log(1 + math.exp(-cosine)))
    return sum(distances) / len(distances) + weight * sum(angles) / len(angles)


def test_the_loss_by_loops_with_padding():
    generator = torch.Generator().manual_seed(1)
    predicted, target = (torch.randn(3, 2, 6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    valid = torch.arange(6) < torch.tensor([6, 2, 3])[:, None]
    for weight in (1.0, 0.3):
        expected = plain_loss(predicted, target, valid, weight)
        assert abs(float(distillation_loss(predicted, target, valid, weight)) - expected) < 1e-12
        everything = plain_loss(predicted, target, torch.ones(3, 6, dtype=torch.bool), weight)
        assert abs(float(distillation_loss(predicted, target, None, weight)) - everything) < 1e-12
    spoilt = target.transpose(1, 2).masked_fill(~valid[..., None, None], math.nan).transpose(1, 2)
    assert abs(float(distillation_loss(predicted, spoilt, valid)) - plain_loss(predicted, target, valid, 1)) < 1e-12


def test_losses_that_cannot_be():
    x = torch.ones(2, 2, 5, 3)
    with pytest.raises(UsageError, match="frame rate"):
        distillation_loss(x, x[:, :, :4])
    with pytest.raises(UsageError, match="no frame"):
        distillation_loss(x, x, torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(UsageError, match="not that of"):
        distillation_loss(x, x, torch.ones(2, 2, dtype=torch.bool))


@pytest.mark.parametrize(
    ("n_layers", "of_mel", "of_hubert"),
    [
        (2, (18_958_976, 21_321_344), (23_491_200, 25_853_568)),
        (4, (33_134_720, 35_497_088), (37_666_944, 40_029_312)),
        (6, (47_310_464, 49_672_832), (51_842_688, 54_205_056)),
    ],
)
def test_parameters_of_the_papers_students(n_layers, of_mel, of_hubert):
    """Spec 4.4; only shapes are made."""
    from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model

    with torch.device("meta"):
        teachers = {
            melhubert.MelHuBERT(melhubert.PRESETS["base"]): of_mel,
            HubertModel(HubertConfig()): of_hubert,
            Wav2Vec2Model(Wav2Vec2Config()): of_hubert,
        }
    for teacher, expected in teachers.items():
        student = student_of(teacher, n_layers)
        assert (count(student), count(Distillation(teacher, student))) == expected
    if n_layers == 2:
        assert count(Distillation(teacher, student, targets=(4, 8, 12))) == 27_034_752


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", TEACHERS)
def test_what_a_student_has_of_its_teacher(name, tmp_path):
    teacher = network(name, tmp_path)
    with torch.no_grad():
        teacher.encoder.layer_norm.weight.mul_(1.5)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student, anew, again, other = (
        student_of(teacher, 2, **options)
        for options in ({}, {"from_teacher": False}, {"from_teacher": False}, {"from_teacher": False, "seed": 1})
    )
    assert len(student.encoder.layers) == 2
    assert student.training
    assert all(same(student, teacher, lambda key: not key.startswith("encoder.layer_norm.")))
    assert torch.equal(student.encoder.layer_norm.weight, torch.ones_like(student.encoder.layer_norm.weight))
    assert all(same(anew, again))
    for drawn in (other, teacher):
        differ = same(anew, drawn, lambda key: key.endswith("weight") and "norm" not in key)
        assert not any(differ)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    names = set(student.state_dict())
    assert not any(key.startswith(("final_proj", "feature_projection.layer_norm", "masked_spec")) for key in names)


def test_a_student_is_a_model_to_extract(tmp_path):
    """Saved by its own library, read by the extractors, with the same states."""
    from transformers import HubertModel

    from layertool.extractors.load import open_extractor

    teacher = mel()
    student = student_of(teacher, 2).eval()
    melhubert.save(student, student.config, tmp_path / "mel")
    loaded, config = melhubert.load(tmp_path / "mel")
    assert (config.encoder_layers, config.num_cluster, config.heads, config.ffn_rows) == (2, 0, None, None)
    x = collate(items(teacher))["inputs"]
    assert torch.equal(loaded(x).last_hidden_state, student(x).last_hidden_state)

    student = student_of(network("wav2vec2-base", tmp_path), 2).eval()
    assert isinstance(student, HubertModel)
    student.save_pretrained(tmp_path / "hubert")
    waveform = torch.from_numpy(models.speech_like(6_000, 1))[None]
    loaded = HubertModel.from_pretrained(tmp_path / "hubert").eval()
    assert torch.equal(loaded(waveform).last_hidden_state, student(waveform).last_hidden_state)
    for name in (f"melhubert:{tmp_path / 'mel'}", str(tmp_path / "hubert")):
        assert "T2" in open_extractor(name).layers


def test_pruned_teachers():
    """A student's blocks have the heads and rows of the teacher's first ones."""
    teacher = mel(heads=(3, 2, 4, 4), ffn_rows=(20, 24, 5, 6))
    student = student_of(teacher, 2)
    assert (student.config.heads, student.config.ffn_rows) == ((3, 2), (20, 24))
    assert all(same(student, teacher, lambda key: not key.startswith("encoder.layer_norm.")))


@pytest.mark.parametrize("name", ["melhubert", *FAMILIES])
def test_a_padded_batch_gives_what_single_clips_give(name, tmp_path):
    model = network(name, tmp_path)
    clips = items(model)
    batch = collate(clips)
    untouched = batch["inputs"].clone()
    with torch.no_grad():
        heard = encode(model, **batch, states=True)
        assert torch.equal(batch["inputs"], untouched)
        names = layer_names(model)
        assert len(heard.states) == len(names) == len(model.encoder.layers) + 1
        for k, clip in enumerate(clips):
            x = torch.from_numpy(clip["input"])[None]
            alone = model(x, output_hidden_states=True) if name != "melhubert" else model(x)
            n = int(heard.n_frames[k])
            assert n == alone.last_hidden_state.shape[1] == int(heard.valid[k].sum())
            assert heard.valid[k, :n].all()
            torch.testing.assert_close(heard.last[k, :n], alone.last_hidden_state[0], atol=2e-5, rtol=1e-4)
            for own, wanted in zip(heard.states[:-1], alone.hidden_states[:-1], strict=True):
                torch.testing.assert_close(own[k, :n], wanted[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(heard.states[-1], heard.last)
    norm_last = name != "melhubert" and getattr(model.config, "do_stable_layer_norm", False)
    assert names[-1] == ("final" if norm_last else f"T{len(names) - 1}")
    assert names[0] == ("C1" if name == "melhubert" else "T0")
    before = n_hooks(model)  # transformers has some of its own
    encode(model, **batch, states=True, front_gradient=0.1)
    assert n_hooks(model) == before


def n_hooks(model: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", ["melhubert", "hubert-base", "wav2vec2-large"])
def test_padding_is_not_in_the_loss(name, tmp_path):
    """The loss of a batch is that of its clips by their frames; the original counted padding."""
    teacher = network(name, tmp_path)
    n_blocks = len(teacher.encoder.layers)
    learner = Distillation(teacher, student_of(teacher, 2), targets=(1, n_blocks)).eval()
    clips = items(teacher)
    with torch.no_grad():
        whole = learner(**collate(clips))["loss"]
        frames = encode(teacher, **collate(clips)).n_frames
        each = torch.stack([learner(**collate([clip]))["loss"] for clip in clips])
        assert float(whole) == pytest.approx(float((each * frames).sum() / frames.sum()), rel=1e-5)
        learner.pad = "count"
        assert abs(float(learner(**collate(clips))["loss"]) - float(whole)) > 1e-4
        assert float(learner(**collate(clips[:1]))["loss"]) == pytest.approx(float(each[0]), rel=1e-6)


def test_the_forward_step_by_step():
    """Targets are the outputs of the named blocks; heads see the student's last layer."""
    teacher = mel()
    student = student_of(teacher, 2)
    learner = Distillation(teacher, student, targets=(4, 1), cosine_weight=0.5).eval()
    batch = collate(items(teacher)[:1])
    with torch.no_grad():
        states = teacher(batch["inputs"]).hidden_states
        first, _, split = learner.output_layer
        hidden = torch.nn.functional.gelu(first(student(batch["inputs"]).last_hidden_state))[0]
        parts = [hidden[:, n * 32 : (n + 1) * 32] @ split.weight[n] + split.bias[0, 0, n] for n in range(2)]
        target = torch.stack([states[4][0], states[1][0]])[None]
        expected = plain_loss(torch.stack(parts)[None], target, np.ones((1, 19)), 0.5)
        assert float(learner(**batch)["loss"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["melhubert", "hubert-base"])
def test_the_teacher_does_not_learn_and_is_not_saved(name, tmp_path):
    teacher = network(name, tmp_path, **({} if name == "melhubert" else {"hidden_dropout": 0.5}))
    student = student_of(teacher, 2)
    learner = Distillation(teacher, student, targets=(len(teacher.encoder.layers),)).train()
    assert not teacher.training
    batch = collate(items(teacher))
    learner(**batch)["loss"].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    missing = [
        key for key, parameter in learner.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert [key for key in missing if not key.endswith("k_proj.bias")] == []
    assert {key.split(".")[0] for key in learner.state_dict()} == {"student", "output_layer"}
    assert {"output_layer.0.weight", "output_layer.2.weight"} <= set(learner.state_dict())
    learner.double()
    assert next(teacher.parameters()).dtype == torch.float64  # moved along
    with torch.no_grad():
        once, twice = (learner.hidden_states(batch["inputs"].double(), batch["lengths"]).last for _ in range(2))
    assert torch.equal(once, twice)


def test_a_tenth_of_the_gradient_reaches_the_convolutions(tmp_path):
    gradients = {}
    for part in (1.0, 0.1):
        teacher = network("hubert-base", tmp_path)
        learner = Distillation(teacher, student_of(teacher, 2), targets=(3,), front_gradient=part).eval()
        loss = learner(**collate(items(teacher)))["loss"]
        loss.backward()
        own = learner.student
        found = own.feature_extractor.conv_layers[2].conv.weight.grad, own.feature_projection.projection.weight.grad
        gradients[part] = (*found, loss.item())
    torch.testing.assert_close(gradients[0.1][0], 0.1 * gradients[1.0][0], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(gradients[0.1][1], gradients[1.0][1])
    assert gradients[0.1][2] == gradients[1.0][2]


def test_seeds_and_the_processs_own_generator():
    teacher = mel()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    student = student_of(teacher, 2, seed=5)
    learners = [Distillation(teacher, student, (4,), seed=seed) for seed in (5, 5, 6)]
    assert torch.equal(torch.rand(3), expected)
    one, same_seed, other = (learner.output_layer[2].weight for learner in learners)
    assert torch.equal(one, same_seed)
    assert not torch.equal(one, other)


def test_transformers_trainer_takes_it(tmp_path):
    """Loss falls, the checkpoint has no teacher, and training goes on from it."""
    pytest.importorskip("accelerate")
    from safetensors.torch import load_file
    from transformers import Trainer, TrainingArguments

    teacher = mel()
    data = [item for seed in range(4) for item in items(teacher, seed)]
    learner = Distillation(teacher, student_of(teacher, 1, from_teacher=False), targets=(2, 4))

    def trainer(model, steps: int) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=steps,
            per_device_train_batch_size=4,
            learning_rate=3e-3,
            logging_steps=6,
            save_steps=6,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )
        return Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate)

    run = trainer(learner, 24)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    saved = load_file(tmp_path / "checkpoint-24" / "model.safetensors")
    assert set(saved) == set(learner.state_dict())
    other = Distillation(teacher, student_of(teacher, 1, from_teacher=False, seed=9), targets=(2, 4))
    resumed = trainer(other, 24)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-12"))
    assert resumed.state.log_history[-2]["loss"] == pytest.approx(losses[-1], rel=1e-6)


def test_requests_that_cannot_be(tmp_path):
    teacher = mel()
    for n_layers in (0, 5):
        with pytest.raises(UsageError, match="from 1 to 4"):
            student_of(teacher, n_layers)
    with pytest.raises(ModelError, match="WavLMModel can be no teacher"):
        student_of(network("wavlm-base", tmp_path), 2)
    student = student_of(teacher, 2)
    with pytest.raises(UsageError, match="no layer 12 to predict"):
        Distillation(teacher, student)
    with pytest.raises(UsageError, match="none or repeated"):
        Distillation(teacher, student, targets=(4, 4))
    with pytest.raises(UsageError, match="choose mask or count"):
        Distillation(teacher, student, targets=(4,), pad="drop")
    hubert = network("hubert-base", tmp_path)
    with pytest.raises(UsageError, match="too short"):
        encode(hubert, torch.zeros(2, 500), torch.tensor([500, 399]))
    with pytest.raises(UsageError, match="hears waveforms"):
        encode(hubert, torch.zeros(2, 500, 80), torch.tensor([500, 399]))
    with pytest.raises(UsageError, match="none longer"):
        encode(hubert, torch.zeros(2, 500), torch.tensor([500, 501]))
    with pytest.raises(UsageError, match="evaluation mode"):
        encode(hubert.train(), torch.zeros(1, 500), torch.tensor([500]), states=True)
    torch.nn.utils.parametrize.register_parametrization(teacher.encoder.layers[0].fc1, "weight", torch.nn.Identity())
    with pytest.raises(ModelError, match="before its pruning"):
        student_of(teacher, 2)
