"""MelHuBERT a second time: its forward and its filterbank in plain NumPy, and checkpoints as its own tool writes them.

Nothing here calls the package (spec speat.md 2, 3). Everything is float64, one utterance at a time, no padding.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from scipy.special import erf

# parameters of the base network with so many heads (spec speat.md 4)
HEADS_LEFT = {
    132: 87_869_824,
    120: 85_508_224,
    108: 83_146_624,
    96: 80_785_024,
    84: 78_423_424,
    72: 76_061_824,
    60: 73_700_224,
    48: 71_338_624,
    36: 68_977_024,
    24: 66_615_424,
    12: 64_253_824,
}
GOLDEN = {
    "feat_emb_dim": 8, "conv_pos": 8, "conv_pos_groups": 4, "encoder_layers": 3, "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24, "encoder_attention_heads": 4, "num_cluster": 6, "layer_norm_first": False,
}  # fmt: skip
SMALL = {**GOLDEN, "feat_emb_dim": 80, "encoder_embed_dim": 32, "encoder_layers": 2, "num_cluster": 5}  # 20 ms
LINEARS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "fc1", "fc2")


def shapes(settings: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a dense checkpoint, as the original tool spells them."""
    d, ffn = settings["encoder_embed_dim"], settings["encoder_ffn_embed_dim"]
    out = {"pre_extract_proj": (d, settings["feat_emb_dim"]), "final_proj": (settings["num_cluster"], d)}
    norms = ["encoder.layer_norm"]
    for k in range(settings["encoder_layers"]):
        block = f"encoder.layers.{k}"
        out |= {f"{block}.self_attn.{name}_proj": (d, d) for name in "qkv"}
        out |= {f"{block}.self_attn.out_proj": (d, d), f"{block}.fc1": (ffn, d), f"{block}.fc2": (d, ffn)}
        norms += [f"{block}.self_attn_layer_norm", f"{block}.final_layer_norm"]
    names = {f"{name}.weight": shape for name, shape in out.items()}
    names |= {f"{name}.bias": shape[:1] for name, shape in out.items()}
    names |= {f"{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}
    kernel = settings["conv_pos"]
    convolution = {"weight_g": (1, 1, kernel), "weight_v": (d, d // settings["conv_pos_groups"], kernel), "bias": (d,)}
    return names | {f"encoder.pos_conv.0.{part}": shape for part, shape in convolution.items()}


def golden_state() -> dict[str, torch.Tensor]:
    """The weights of the tiny model of spec 3.6."""
    state = {}
    for n, (name, shape) in enumerate(sorted(shapes(GOLDEN).items())):
        t = 0.3 * np.sin(0.7 * np.arange(math.prod(shape)) + 1.3 * n + 0.5).reshape(shape)
        state[name] = torch.from_numpy((1 + 0.1 * t if name.endswith("layer_norm.weight") else t).astype(np.float32))
    return state


def random_state(settings: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of which none is special."""
    random = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes(settings).items():
        value = random.standard_normal(shape) * (0.3 if len(shape) > 1 else 0.1)
        if name.endswith(("layer_norm.weight", "weight_g")):
            value = 1 + 0.3 * np.abs(value)
        state[name] = torch.from_numpy(value.astype(np.float32))
    return state


def write(path: Path, state: dict, settings: dict, key: str = "melhubert", step: int | None = 4000, **more) -> Path:
    """A checkpoint as the original runner pickles it."""
    checkpoint = {
        "model": state,
        "Optimizer": {"state": {}, "param_groups": []},
        "Args": argparse.Namespace(config="melhubert.yaml", seed=1337, device="cuda"),
        "Runner": {"n_epochs": 200, "gradient_clipping": 10.0},
        "Upstream_Config": {key: dict(settings), "task": {"sequence_length": 750}},
        **({} if step is None else {"Step": step}),
        **more,
    }
    torch.save(checkpoint, path)
    return path


def layers(state: dict, settings: dict, features: np.ndarray, head_dim: int) -> dict[str, np.ndarray]:
    """C1, T0 to TL (and final, logits) of one utterance, (frames, width) each; heads and rows as the weights have them."""
    p = {name: value.double().numpy() for name, value in state.items()}
    norm_first = settings.get("layer_norm_first", False)
    x = linear(p, "pre_extract_proj", np.asarray(features, np.float64))
    out = {"C1": x}
    x = x + positions(p, x)
    if not norm_first:
        x = norm(p, "encoder.layer_norm", x)
    out["T0"] = x
    n_blocks = len({name.split(".")[2] for name in p if name.startswith("encoder.layers.")})
    for k in range(n_blocks):
        block = f"encoder.layers.{k}"
        if norm_first:
            x = x + attention(p, block, norm(p, f"{block}.self_attn_layer_norm", x), head_dim)
            h = norm(p, f"{block}.final_layer_norm", x)
            x = x + linear(p, f"{block}.fc2", gelu(linear(p, f"{block}.fc1", h)))
        else:
            x = norm(p, f"{block}.self_attn_layer_norm", x + attention(p, block, x, head_dim))
            h = linear(p, f"{block}.fc2", gelu(linear(p, f"{block}.fc1", x)))
            x = norm(p, f"{block}.final_layer_norm", x + h)
        out[f"T{k + 1}"] = x
    if norm_first:
        x = out["final"] = norm(p, "encoder.layer_norm", x)
    if "final_proj.weight" in p:
        out["logits"] = linear(p, "final_proj", x)
    return out


def linear(p, name, x):
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def norm(p, name, x):
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(x):
    return x * 0.5 * (1 + erf(x / math.sqrt(2)))


def positions(p, x):
    g, v = p["encoder.pos_conv.0.weight_g"], p["encoder.pos_conv.0.weight_v"]
    weight = g * v / np.sqrt((v**2).sum(axis=(0, 1), keepdims=True))
    width, per_group, kernel = weight.shape
    padded = np.pad(x, ((kernel // 2, kernel // 2), (0, 0)))
    out = np.empty_like(x)
    for t in range(len(x)):
        for c in range(width):
            first = c // per_group * per_group
            out[t, c] = (padded[t : t + kernel, first : first + per_group] * weight[c].T).sum()
    return gelu(out + p["encoder.pos_conv.0.bias"])


def attention(p, block, x, head_dim):
    q, k, v = (linear(p, f"{block}.self_attn.{name}_proj", x) for name in "qkv")
    heads = []
    for first in range(0, q.shape[1], head_dim):
        part = slice(first, first + head_dim)
        scores = q[:, part] @ k[:, part].T / math.sqrt(head_dim)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
    return linear(p, f"{block}.self_attn.out_proj", np.concatenate(heads, axis=1))


def fbank(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's 40 log mel energies of the 16-bit scale, Hamming window, frame by frame (spec 2)."""
    samples = 32768 * np.asarray(waveform, np.float64)

    def mel(f):
        return 1127 * np.log(1 + f / 700)

    edges = np.linspace(mel(20), mel(8000), 42)
    bins = mel(np.arange(256) * 16000 / 512)
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(400) / 399)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400] - samples[start : start + 400].mean()
        frame = np.concatenate([[frame[0] - 0.97 * frame[0]], frame[1:] - 0.97 * frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)[:256]) ** 2
        row = []
        for left, peak, right in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            up, down = (bins - left) / (peak - left), (right - bins) / (right - peak)
            row.append(math.log(max((power * np.maximum(0, np.minimum(up, down))).sum(), 2.0**-23)))
        rows.append(row)
    return np.array(rows).reshape(-1, 40)


def inputs(waveform: np.ndarray, stride: int, mean, deviation) -> np.ndarray:
    """Features of one utterance, normalised and stacked frame by frame (spec 3.1)."""
    frames = [list((row - np.array(mean)) / np.array(deviation)) for row in fbank(waveform)]
    if stride == 10:
        return np.array(frames)
    if len(frames) % 2:
        frames.append([0.0] * 40)
    return np.array([frames[2 * t] + frames[2 * t + 1] for t in range(len(frames) // 2)])
