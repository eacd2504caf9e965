"""What do lower precision, SDPA attention and torch.compile give, and what does lower precision cost?

    python benchmarks/precision.py [--model WHISPER] [--speech FOLDER] [--quick] [-o FILE.json]

1. Drift of every layer in bfloat16 and float16 autocast against float32: RMS of the difference over RMS of the layer, of
   wav2vec 2.0 base with random weights over noise, and of a real Whisper over real speech when both are there.
2. The attention that transformers chooses by itself, family by family, and SDPA against eager attention.
3. torch.compile of the encoder's blocks against eager ones, without and with the time of compiling.

SDPA and compiled blocks are compared with the eager outputs before their speed is spoken of.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import common
import numpy as np
import torch
import transformers

from layertool import audio
from layertool.extractors.forecast import _item
from layertool.extractors.load import open_extractor
from layertool.models.open import Model

RATE = 16_000
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILIES = ["Wav2Vec2", "Hubert", "WavLM", "Data2VecAudio", "UniSpeech", "UniSpeechSat", "Wav2Vec2Conformer", "Whisper"]
SMALL = {
    "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": (24,) * 7,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def timed(call, repeats: int) -> float:
    """Seconds of the fastest call."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def layers_of(extractor, items) -> tuple[dict[str, np.ndarray], float]:
    """Every layer of the encoder, and the seconds that they took."""
    names = [name for name in extractor.layers if not name.startswith("D")]
    found: dict[str, np.ndarray] = {}
    begun = time.perf_counter()
    extractor.forward(items, names, lambda name, frames: found.update({name: frames.float().cpu().numpy().copy()}))
    seconds = time.perf_counter() - begun
    return {name: found[name] for name in names}, seconds


def drift_part(extractor, items) -> dict:
    """Relative drift of each layer and seconds of a batch, for each dtype that runs here."""
    layers_of(extractor, items)  # warm
    exact, seconds = layers_of(extractor, items)
    out: dict = {"audio_s": sum(item.n_samples for item in items) / RATE, "float32": {"seconds": seconds}}
    for name, dtype in DTYPES.items():
        extractor.dtype = dtype
        try:
            rough, seconds = layers_of(extractor, items)
        except RuntimeError as error:  # an operation that this device has not in this dtype
            out[name] = {"does_not_run": str(error).splitlines()[0]}
            continue
        finally:
            extractor.dtype = torch.float32
        drift = {layer: _relative(rough[layer], values) for layer, values in exact.items()}
        out[name] = {"drift": drift, "seconds": seconds}
    return out


def _relative(rough: np.ndarray, exact: np.ndarray) -> float:
    difference = rough.astype(np.float64) - exact
    return float(np.sqrt((difference**2).mean() / (exact.astype(np.float64) ** 2).mean()))


def noise_items(extractor, n_items: int, n_samples: int) -> list:
    random = np.random.default_rng(0)
    return [_item(extractor, k, 0.1 * random.standard_normal(n_samples, np.float32), None) for k in range(n_items)]


def attention_of_families() -> dict[str, dict]:
    """What transformers takes when nothing is said, and whether the family has SDPA at all."""
    found = {}
    for name in FAMILIES:
        config = getattr(transformers, f"{name}Config")
        if name == "Whisper":
            small = config(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                           encoder_ffn_dim=48, decoder_ffn_dim=48)  # fmt: skip
        else:
            changes = {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 19} if name == "Data2VecAudio" else {}
            small = config(**{**SMALL, **changes})
        network = transformers.AutoModel.from_config(small)
        found[name] = {
            "chosen": network.config._attn_implementation,
            "has_sdpa": bool(getattr(network, "_supports_sdpa", False)),
        }
    return found


@torch.inference_mode()
def attention_part(config, n_items: int, n_samples: int, repeats: int) -> dict:
    """One network with each kind of attention, the same weights."""
    out: dict = {}
    batch = 0.1 * torch.randn(n_items, n_samples, generator=torch.Generator().manual_seed(0))
    states = {}
    networks = {}
    for kind in ("eager", "sdpa"):
        torch.manual_seed(0)
        networks[kind] = transformers.AutoModel.from_config(config, attn_implementation=kind).eval()
        states[kind] = networks[kind](batch).last_hidden_state
    times: dict[str, list[float]] = {"eager": [], "sdpa": []}
    for _ in range(repeats):  # in turn, so that a busy moment hits both
        for kind, network in networks.items():
            times[kind].append(timed(lambda network=network: network(batch), 1))
    for kind, seconds in times.items():
        out[f"{kind}_s"] = min(seconds)
    out["relative_difference"] = _relative(states["sdpa"].numpy(), states["eager"].numpy())
    out["ratio"] = out["eager_s"] / out["sdpa_s"]
    out["items"], out["seconds_each"] = n_items, n_samples / RATE
    return out


def compile_part(config, n_items: int, n_samples: int, repeats: int) -> dict:
    """The blocks of an encoder, eager and compiled, with the time that compiling takes."""
    torch.manual_seed(0)
    network = transformers.AutoModel.from_config(config).eval()
    batch = 0.1 * torch.randn(n_items, n_samples, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # not inference mode, which compiled code does not take
        eager = network(batch).last_hidden_state
        eager_s = timed(lambda: network(batch), repeats)
        for block in network.encoder.layers:
            block.compile(dynamic=True)
        begun = time.perf_counter()
        try:
            compiled = network(batch).last_hidden_state
        except RuntimeError as error:  # no compiler, or one that inductor cannot use
            return {"does_not_run": str(error).splitlines()[0]}
        first_s = time.perf_counter() - begun
        # another length: compiling for changing lengths has to hold
        other_s = timed(lambda: network(batch[:, : int(0.8 * n_samples)]), 1)
        compiled_s = timed(lambda: network(batch), repeats)
    gain = eager_s - compiled_s
    return {
        "eager_s": eager_s, "compiled_s": compiled_s, "first_call_s": first_s, "another_length_s": other_s,
        "relative_difference": _relative(compiled.numpy(), eager.numpy()), "ratio": eager_s / compiled_s,
        "batches_until_compiling_pays": (first_s - compiled_s) / gain if gain > 0 else None,
        "ratio_of_100_batches_with_compiling": 100 * eager_s / (first_s + 99 * compiled_s),
        "items": n_items, "seconds_each": n_samples / RATE,
    }  # fmt: skip


def whisper_part(model: str, speech: Path) -> dict:
    """Drift of real weights over real speech."""
    extractor = open_extractor(model, "cpu")
    paths = sorted(path for path in speech.rglob("*") if path.suffix in (".wav", ".flac"))[:1]
    waveforms = [audio.read(str(path), RATE)[: 30 * RATE] for path in paths]
    items = [_item(extractor, k, waveform, None) for k, waveform in enumerate(waveforms)]
    return {"utterances": len(items), **drift_part(extractor, items)}


def rows(report: dict) -> list[common.Row]:
    out = []
    for name, mine in report["drift"].items():
        for dtype in DTYPES:
            if "drift" in mine.get(dtype, {}):
                worst = max(mine[dtype]["drift"], key=mine[dtype]["drift"].get)
                out.append(
                    common.Row(
                        f"precision/{name}/{dtype}", f"{dtype} autocast, {name}", "float32",
                        mine["float32"]["seconds"] / mine[dtype]["seconds"],
                        f"layers drift by {mine[dtype]['drift'][worst]:.1e} at most ({worst})",
                        {"seconds": mine[dtype]["seconds"]}, {"seconds": mine["float32"]["seconds"]},
                    )
                )  # fmt: skip
    sdpa, compiled = report["sdpa"], report["compile"]
    out.append(
        common.Row(
            "precision/sdpa", "SDPA attention, wav2vec 2.0", "eager attention", sdpa["ratio"],
            common.agree("attention", sdpa["relative_difference"], 1e-4), {"seconds": sdpa["sdpa_s"]}, {"seconds": sdpa["eager_s"]},
        )
    )  # fmt: skip
    if "ratio" in compiled:
        agreement = common.agree("compiled blocks", compiled["relative_difference"], 1e-4)
        out.append(
            common.Row(
                "precision/compile", "torch.compile of the blocks, compiled already", "eager blocks", compiled["ratio"], agreement,
                {"seconds": compiled["compiled_s"], "compiling_s": compiled["first_call_s"]}, {"seconds": compiled["eager_s"]},
            )
        )  # fmt: skip
        out.append(
            common.Row(
                "precision/compile/100", "100 batches with compiling", "100 eager batches",
                compiled["ratio_of_100_batches_with_compiling"], agreement,
            )
        )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("LAYERTOOL_SHARED", "../shared"))
    parser.add_argument("--model", default=str(shared / "models/whisper-tiny.en"))
    parser.add_argument("--speech", type=Path, default=shared / "data/speech/english")
    parser.add_argument("--quick", action="store_true", help="a small network, short noise")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    config = transformers.Wav2Vec2Config(**(SMALL if asked.quick else {}))
    seconds, repeats = (1, 1) if asked.quick else (8, 3)
    torch.manual_seed(0)
    extractor = open_extractor(Model.of(transformers.Wav2Vec2Model(config).eval(), "base", False), "cpu")
    report: dict = {"machine": common.machine("cpu"), "attention": attention_of_families()}
    items = noise_items(extractor, 1, RATE)  # a second: processors without bfloat16 take ten times as long
    report["drift"] = {"wav2vec2-random": drift_part(extractor, items)}
    if not asked.quick and Path(asked.model).exists() and asked.speech.exists():
        report["drift"]["whisper-tiny.en"] = whisper_part(asked.model, asked.speech)
    print(json.dumps(report, indent=2), flush=True)
    report["sdpa"] = attention_part(config, 1, seconds * RATE, repeats)
    report["compile"] = compile_part(config, 1, seconds * RATE, repeats)
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
