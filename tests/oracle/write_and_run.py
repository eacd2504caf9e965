"""Run by the python of the fairseq environment: writes checkpoints with fairseq itself and what its networks compute.

    FAIRSEQ_PYTHON write_and_run.py FOLDER

Networks are built by fairseq's own tasks from seeded weights, every parameter drawn so that no norm is the identity;
the files are put together as fairseq's trainer does and written by its checkpoint_utils. For each one a .npz of the
same name holds the waveforms and every layer of each, single and in a padded batch.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fairseq import checkpoint_utils, tasks
from fairseq.data.dictionary import Dictionary
from fairseq.dataclass.configs import FairseqConfig
from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioConfig
from fairseq.logging.meters import AverageMeter, TimeMeter
from fairseq.models.hubert import HubertConfig, HubertCtcConfig
from fairseq.models.wav2vec import Wav2Vec2Config, Wav2Vec2CtcConfig
from fairseq.tasks.audio_finetuning import AudioFinetuningConfig
from fairseq.tasks.audio_pretraining import AudioPretrainingConfig
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from omegaconf import OmegaConf, open_dict

CONVOLUTIONS = "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]"
SMALL = {
    "encoder_layers": 3,
    "encoder_embed_dim": 48,
    "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4,
    "final_dim": 16,
    "conv_feature_layers": CONVOLUTIONS,
    "conv_pos": 32,
    "conv_pos_groups": 4,
    "encoder_layerdrop": 0.5,
    "dropout_input": 0.5,
}
QUANTIZED = {"quantize_targets": True, "latent_vars": 8, "latent_dim": 16}
STABLE = {"layer_norm_first": True, "extractor_mode": "layer_norm", "conv_bias": True}
LENGTHS = (8_000, 8_320, 5_003, 400, 719)  # 24, 25, 15, 1 and 1 frames: fairseq pads odd numbers of them
NORMAL = {"normalize": True}
# name -> (model, its settings, task settings, how the settings are stored)
PRETRAINED = {
    "wav2vec2-base": ("wav2vec2", {**SMALL, **QUANTIZED}, {}, "cfg"),
    "wav2vec2-base-args": ("wav2vec2", {**SMALL, **QUANTIZED, "activation_fn": "relu"}, {}, "args"),
    "wav2vec2-base-omegaconf": ("wav2vec2", {**SMALL, "activation_fn": "gelu_accurate"}, {}, "omegaconf"),
    "wav2vec2-no-projection": ("wav2vec2", {**SMALL, "encoder_embed_dim": 32}, {}, "cfg"),
    "wav2vec2-large": ("wav2vec2", {**SMALL, **QUANTIZED, **STABLE}, NORMAL, "cfg"),
    "wav2vec2-large-args": ("wav2vec2", {**SMALL, **STABLE, "conv_pos": 31}, NORMAL, "args"),
    "wav2vec2-mixed": ("wav2vec2", {**SMALL, "layer_norm_first": True}, {}, "cfg"),
    "hubert-base": ("hubert", SMALL, {}, "cfg"),
    "hubert-base-omegaconf": ("hubert", SMALL, {}, "omegaconf"),
    "hubert-large": ("hubert", {**SMALL, **STABLE}, NORMAL, "cfg"),
    "hubert-batch-norm": ("hubert", {**SMALL, "conv_pos_batch_norm": True}, {}, "cfg"),
    "data2vec-audio": (
        "data2vec_audio",
        {**SMALL, "extractor_mode": "layer_norm", "pos_conv_depth": 5, "conv_pos": 95},
        NORMAL,
        "cfg",
    ),
    # only fairseq-native reads this one
    "wav2vec2-conformer": (
        "wav2vec2",
        {**SMALL, "layer_type": "conformer", "depthwise_conv_kernel_size": 7},
        {},
        "cfg",
    ),
    "data2vec-audio-args": (
        "data2vec_audio",
        {**SMALL, "extractor_mode": "layer_norm", "pos_conv_depth": 3, "conv_pos": 24},
        NORMAL,
        "args",
    ),
}
# name -> (the pre-trained one, how the settings are stored)
FINETUNED = {
    "wav2vec2-base-ctc": ("wav2vec2-base", "cfg"),
    "wav2vec2-large-ctc": ("wav2vec2-large", "omegaconf"),
    "wav2vec2-base-ctc-args": ("wav2vec2-base", "args"),
    "hubert-base-ctc": ("hubert-base", "cfg"),
    "data2vec-audio-ctc": ("data2vec-audio", "cfg"),
}
CONFIGURATIONS = {"wav2vec2": Wav2Vec2Config, "hubert": HubertConfig, "data2vec_audio": Data2VecAudioConfig}


def structured(dataclass_, name: str, **values):
    """A structured configuration, with the name under which fairseq registered it, as hydra makes it."""
    config = OmegaConf.structured(dataclass_)
    with open_dict(config):
        config._name = name
        for key, value in values.items():
            config[key] = value
    return config


def draw(model: torch.nn.Module, seed: int) -> None:
    """Seeded parameters, none of which is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not isinstance(value, torch.Tensor) or not value.dtype.is_floating_point:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if "running_var" in name:
                value.copy_(0.5 + 0.2 * noise.abs())
            elif value.dim() > 1 and not name.endswith("weight_g"):
                value.copy_(noise * (1.5 / value[0].numel()) ** 0.5)
            else:
                value.add_(0.2 * noise)


def state_of(model, task, config, style: str, steps: int) -> dict:
    """A checkpoint as the trainer of fairseq puts it together: old ones have a namespace, some omegaconf's objects."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    average, clock = AverageMeter(round=3), TimeMeter(round=2)
    average.update(torch.tensor(2.5), 1)
    clock.update(2)
    return {
        "args": flat(config) if style == "args" else None,
        "cfg": {
            "args": None,
            "cfg": OmegaConf.to_container(config, resolve=True, enum_to_str=True) if style == "cfg" else None,
            "omegaconf": OmegaConf.create(OmegaConf.to_container(config, enum_to_str=True)),  # with its ${...}
        }[style],
        "model": model.state_dict(),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": "Wav2vecCriterion",
                "optimizer_name": "FairseqAdam",
                "lr_scheduler_state": {"best": None},
                "num_updates": steps,
            }
        ],
        "task_state": task.state_dict(),
        "extra_state": {
            "metrics": OrderedDict(
                default=[(0, "loss", "AverageMeter", average.state_dict()), (1, "wps", "TimeMeter", clock.state_dict())]
            ),
            "previous_training_time": 12.5,
            "train_iterator": {"version": 2, "epoch": 3, "iterations_in_epoch": 0, "shuffle": True},
            "val_loss": np.float64(3.25),
            "best": np.float32(1.5),
        },
        "last_optimizer_state": optimizer.state_dict(),
    }


def flat(config) -> Namespace:
    """The settings as fairseq kept them before hydra: one namespace, also of the pre-trained network."""
    plain = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    values = {**plain["task"], **plain["model"], "arch": plain["model"]["_name"], "task": plain["task"]["_name"]}
    values.pop("_name")
    if values.get("w2v_args"):
        values["w2v_args"] = flat(OmegaConf.create(values["w2v_args"]))
    return Namespace(**values)


def whole(model, task):
    """fairseq's configuration of everything, to which models and tasks refer."""
    config = OmegaConf.create(OmegaConf.to_container(OmegaConf.structured(FairseqConfig), enum_to_str=True))
    with open_dict(config):
        config.task = task
        config.model = model
    return config


def pretrained_task(kind: str, options: dict, folder: Path):
    if kind == "hubert":
        values = {"data": str(folder), "labels": ["km"], "label_rate": 50.0, **options}
        return structured(HubertPretrainingConfig, "hubert_pretraining", **values)
    return structured(AudioPretrainingConfig, "audio_pretraining", data=str(folder), **options)


def build(config):
    task = tasks.setup_task(config.task)
    return task.build_model(config.model), task


def pretrained(name: str, seed: int, folder: Path):
    kind, options, task_options, _ = PRETRAINED[name]
    model_config = structured(CONFIGURATIONS[kind], kind, **options)
    config = whole(model_config, pretrained_task(kind, task_options, folder))
    model, task = build(config)
    draw(model, seed)
    if kind == "data2vec_audio":
        model.set_num_updates(5)  # makes the teacher, which is stored as _ema
    return model, task, config


def finetuned(name: str, seed: int, folder: Path):
    source, _ = FINETUNED[name]
    kind, _, task_options, _ = PRETRAINED[source]
    task_config = structured(AudioFinetuningConfig, "audio_finetuning", data=str(folder), labels="ltr", **task_options)
    model_dataclass, model_name = (
        (HubertCtcConfig, "hubert_ctc") if kind == "hubert" else (Wav2Vec2CtcConfig, "wav2vec_ctc")
    )
    options = {"w2v_path": str(folder / f"{source}.pt"), "apply_mask": True, "layerdrop": 0.1, **task_options}
    if kind == "hubert":
        options["autoregressive"] = False  # this fairseq asks for it and does not declare it
    config = whole(structured(model_dataclass, model_name, data=str(folder), **options), task_config)
    model, task = build(config)
    draw(model, seed)
    return model, task, config


def core(model):
    """The network of the layers, also inside a fine-tuned one."""
    return model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model


@torch.no_grad()
def layers_of(model, source: torch.Tensor, padding: torch.Tensor | None) -> dict[str, np.ndarray]:
    """Every layer by forward hooks, (clips, frames, width); fairseq's extra frame is cut off."""
    network, found, hooks = core(model), {}, []

    def keep(name, value, order):
        found[name] = value.permute(order).clone()

    for k, block in enumerate(network.feature_extractor.conv_layers, start=1):
        hooks.append(block.register_forward_hook(lambda _m, _i, out, k=k: keep(f"C{k}", out, (0, 2, 1))))
    blocks = network.encoder.layers
    hooks.append(blocks[0].register_forward_pre_hook(lambda _m, given: keep("T0", given[0], (1, 0, 2))))
    for k, block in enumerate(blocks, start=1):
        hooks.append(block.register_forward_hook(lambda _m, _i, out, k=k: keep(f"T{k}", out[0], (1, 0, 2))))
    if network.encoder.layer_norm_first:
        norm = network.encoder.layer_norm
        hooks.append(norm.register_forward_hook(lambda _m, _i, out: keep("final", out, (0, 1, 2))))
    if network is model:
        model.extract_features(source=source, padding_mask=padding, mask=False)
    else:
        model(source=source, padding_mask=padding)
    for hook in hooks:
        hook.remove()
    n_frames = found["C7"].shape[1]
    return {name: (value if name[0] == "C" else value[:, :n_frames]).numpy() for name, value in found.items()}


def speech_like(n_samples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    envelope = 0.05 + np.abs(np.sin(np.arange(n_samples) / (900 + 37 * seed)))
    return (0.1 * envelope * random.standard_normal(n_samples) + 0.01 * seed).astype(np.float32)


def run(model, path: Path) -> None:
    model.eval()
    clips = [speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    arrays = {f"waveform/{k}": clip for k, clip in enumerate(clips)}
    for k, clip in enumerate(clips):
        for name, value in layers_of(model, torch.from_numpy(clip)[None], None).items():
            arrays[f"single/{k}/{name}"] = value[0]
    batch, padding = torch.zeros(len(clips), max(LENGTHS)), torch.ones(len(clips), max(LENGTHS), dtype=torch.bool)
    for k, clip in enumerate(clips):
        batch[k, : len(clip)] = torch.from_numpy(clip)
        padding[k, : len(clip)] = False
    for name, value in layers_of(model, batch, padding).items():
        arrays[f"batch/{name}"] = value
    np.savez(path, **arrays)


def main(folder: Path) -> None:
    # fairseq reads the pre-trained ones again, with what is now torch's default: nothing but known names
    numbers = [np._core.multiarray.scalar, np.dtype, np.dtypes.Float32DType, np.dtypes.Float64DType]
    torch.serialization.add_safe_globals([Dictionary, *numbers])
    for label, symbols in (("km", "0 1 2 3"), ("ltr", "| E T A")):
        (folder / f"dict.{label}.txt").write_text("".join(f"{symbol} 1\n" for symbol in symbols.split()))
    for seed, name in enumerate([*PRETRAINED, *FINETUNED]):
        is_pretrained = name in PRETRAINED
        model, task, config = (pretrained if is_pretrained else finetuned)(name, seed, folder)
        style = PRETRAINED[name][3] if is_pretrained else FINETUNED[name][1]
        path = folder / f"{name}.pt"
        checkpoint_utils.torch_persistent_save(state_of(model, task, config, style, 1000 + seed), str(path))
        run(model, path.with_suffix(".npz"))
        print(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
