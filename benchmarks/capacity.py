"""How large and how long is LibriSpeech? The plan of ``extract --dry-run`` over 960 hours, checked against small runs.

    python benchmarks/capacity.py [--quick] [-o FILE.json]

1. A corpus table without audio, with the numbers of train-clean-100 (28 539 utterances, 100.6 h), goes through
   ``prepare``, the code behind --dry-run, with wav2vec 2.0 base and large and Whisper small (random weights), units
   phone, word and utterance, float32 and float16. Bytes are multiplied up to the 960.9 h of all training parts.
   Assumed: 9.4 million words in 960.9 h as published, evenly spread, and 3.5 phones a word.
2. Small runs of the same models over noise: bytes on the disk against the plan (2 % are asked for), seconds against
   the forecast of --dry-run.
3. GPUs: multiplications and additions of a second of audio, counted by torch, divided by an assumed sustained speed. Not measured.
4. Peak memory and seconds of planning for a tenth of the table and for the whole, in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import common

RATE = 16_000
UTTERANCES_100, HOURS_100 = 28_539, 100.6
UTTERANCES_960, HOURS_960, WORDS_960 = 281_241, 960.9, 9.4e6
PHONES_PER_WORD = 3.5  # assumed
N_WORD_TYPES, N_PHONE_TYPES = 30_000, 40
UNITS = ("phone", "word", "utterance")
DTYPES = ("float32", "float16")
WITHIN = 0.02  # of the plan, the store's size
# Sustained speeds that are assumed, in 1e12 operations a second: an A100's peak is 312 in bfloat16 and 19.5 in float32
GPU_TFLOPS = {"float32": 10.0, "bfloat16": 100.0}
LARGE = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
}  # fmt: skip
WHISPER_SMALL = {
    "d_model": 768, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072, "num_mel_bins": 80,
}  # fmt: skip


def tables(n_utterances: int, hours: float, audio: list[tuple[str, float]] | None = None):
    """A corpus of so many utterances and hours: without audio, or of the (path, seconds) that are given."""
    import numpy as np
    import pandas as pd

    from layertool.corpora.corpus import Corpus

    random = np.random.default_rng(0)
    # lengths of train-clean-100: most between 12 and 17 s, the rest spread below
    seconds = np.where(random.random(n_utterances) < 0.75, random.uniform(12, 16.5, n_utterances), random.uniform(1.5, 12, n_utterances))  # fmt: skip
    n_samples = np.round(seconds * hours * 3600 / seconds.sum() * RATE).astype(np.int64)
    if audio is not None:
        n_samples = np.array([round(length * RATE) for _, length in audio])
    ids = np.array([f"{k // 100:04d}-{k % 100:06d}" for k in range(len(n_samples))], dtype=object)
    utterances = pd.DataFrame(
        {
            "utterance": ids, "audio": "none" if audio is None else [path for path, _ in audio], "start": np.nan, "end": np.nan,
            "channel": None, "sample_rate": RATE, "n_samples": n_samples,
        }
    )  # fmt: skip
    parts = []
    words_per_second = WORDS_960 / (HOURS_960 * 3600)
    for tier, rate, n_types in (
        ("phone", words_per_second * PHONES_PER_WORD, N_PHONE_TYPES),
        ("word", words_per_second, N_WORD_TYPES),
    ):
        counts = np.maximum(1, np.round(rate * n_samples / RATE)).astype(np.int64)
        owner = np.repeat(np.arange(len(ids)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        length = (n_samples / RATE / counts)[owner]
        names = np.array([f"{tier}{k}" for k in range(n_types)], dtype=object)
        parts.append(
            pd.DataFrame(
                {
                    "utterance": ids[owner], "tier": tier, "start": within * length, "end": (within + 1) * length,
                    "label": names[random.integers(0, n_types, len(owner))],
                }
            )
        )  # fmt: skip
    segments = pd.concat(parts)
    segments = segments.sort_values(["utterance", "tier", "start"], kind="stable").reset_index(drop=True)
    return Corpus(utterances, segments, "librispeech-sized")


def open_random(name: str, folder: Path):
    """An extractor with random weights of a published size."""
    import torch
    import transformers

    from layertool.extractors.load import open_extractor
    from layertool.models.open import Model

    torch.manual_seed(0)
    place = folder / name
    if name == "whisper-small":
        config = transformers.WhisperConfig(**WHISPER_SMALL)
        config.save_pretrained(place)
        transformers.WhisperFeatureExtractor().save_pretrained(place)
        return open_extractor(str(place), "cpu", random_init=0)
    config = transformers.Wav2Vec2Config(**(LARGE if name == "wav2vec2-large" else {}))
    network = transformers.Wav2Vec2Model(config).eval()
    return open_extractor(Model.of(network, name, False), "cpu")


def operations(extractor, n_samples: int) -> float:
    """Multiplications and additions, counted apart, of one utterance."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from layertool.extractors.forecast import _item

    for module in extractor.network.modules():
        if torch.nn.utils.parametrize.is_parametrized(
            module
        ):  # weight norm of the positions, which the counter stumbles over
            torch.nn.utils.parametrize.remove_parametrizations(module, "weight")
    extractor.network.set_attn_implementation("eager")  # the counter passes over SDPA on a CPU
    item = _item(extractor, 0, torch.zeros(n_samples).numpy(), None)
    with FlopCounterMode(display=False) as counter:
        extractor.forward([item], [list(extractor.layers)[-1]], lambda _name, _frames: None)
    return float(counter.get_total_flops())


def small_run(extractor, folder: Path, n_utterances: int, is_both: bool) -> dict:
    """Bytes and seconds of a real run over noise, with what was planned and forecast."""
    import numpy as np
    import soundfile

    from layertool.extractors.forecast import forecast
    from layertool.extractors.prepare import Options, prepare
    from layertool.extractors.run import carry_out

    random = np.random.default_rng(1)
    mean = HOURS_100 * 3600 / UTTERANCES_100
    audio = []
    for k in range(n_utterances):
        seconds = mean * (0.9 + 0.2 * k / max(1, n_utterances - 1))
        path = folder / f"noise{k}.wav"
        soundfile.write(path, 0.1 * random.standard_normal(round(seconds * RATE)), RATE, subtype="PCM_16")
        audio.append((str(path), seconds))
    corpus = tables(n_utterances, 1.0, audio)
    found: dict = {"utterances": n_utterances, "audio_s": corpus.seconds}
    for dtype in DTYPES if is_both else ["float32"]:
        prepared = prepare(extractor, corpus, Options(UNITS, store_dtype=dtype))
        expected = forecast(prepared)
        begun = time.perf_counter()
        store = carry_out(prepared, folder / f"{extractor.provenance['id']}-{dtype}")
        seconds = time.perf_counter() - begun
        on_disk = sum(path.stat().st_size for path in Path(store.path).rglob("*") if path.is_file())
        found[dtype] = {
            "planned_bytes": prepared.n_bytes, "bytes": on_disk, "forecast_s": expected, "seconds": seconds,
            "audio_s_per_s": corpus.seconds / seconds,
        }  # fmt: skip
    return found


def plan_bytes(extractor, corpus) -> dict:
    """Rows, and bytes in each dtype, of the whole store."""
    from layertool.extractors.prepare import Options, prepare

    prepared = prepare(extractor, corpus, Options(UNITS))
    bytes_of = {
        dtype: replace(prepared, options=replace(prepared.options, store_dtype=dtype)).n_bytes for dtype in DTYPES
    }
    assumed = {"layers": len(prepared.layers), "rows": prepared.n_rows, "shards": len(prepared.shards)}
    return {**assumed, "bytes": bytes_of, "computed_s": _computed_seconds(prepared)}


def _computed_seconds(prepared) -> float:
    """Seconds of audio that the model is given, with padding."""
    from layertool.extractors.forecast import computed_samples

    lengths = prepared.corpus.utterances["n_samples"]
    longest = min(60 * RATE, prepared.extractor.max_window or 60 * RATE)
    return computed_samples(prepared.extractor, lengths, longest, 10 * RATE) / RATE


def planning(n_utterances: int, hours: float) -> None:
    """In a process of its own: print bytes and seconds of reading the tables and of planning mel energies."""
    import resource

    from layertool.corpora.corpus import Corpus
    from layertool.extractors.prepare import Options, prepare

    with tempfile.TemporaryDirectory() as folder:
        if n_utterances:
            subprocess.run([sys.executable, __file__, "--child", "write", str(n_utterances), str(hours), folder], check=True)  # fmt: skip
        prepare("mel", small_corpus(), Options(UNITS))  # libraries that load late
        before = _status("VmRSS")
        begun = time.perf_counter()
        corpus = Corpus.read(folder)
        read = time.perf_counter() - begun
        after_reading = _status("VmRSS")
        prepared = prepare("mel", corpus, Options(UNITS))
        seconds = time.perf_counter() - begun
        found = {
            "utterances": n_utterances, "segments": len(corpus.segments), "before_bytes": before, "tables_bytes": after_reading - before,
            "kept_bytes": _status("VmRSS") - before, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            "reading_s": read, "seconds": seconds, "rows": sum(prepared.n_rows.values()),
        }  # fmt: skip
    print(json.dumps(found))


def small_corpus():
    return tables(10, 0.03)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def planning_part(is_quick: bool) -> dict:
    found = {}
    for name, share in (("tenth", 100 if is_quick else 10), ("whole", 10 if is_quick else 1)):
        done = subprocess.run(
            [sys.executable, __file__, "--child", "plan", str(UTTERANCES_100 // share), str(HOURS_100 / share)],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        found[name] = json.loads(done.stdout)
    few, many = found["tenth"], found["whole"]
    found["growth_percent"] = 100 * (many["peak_bytes"] / few["peak_bytes"] - 1)
    n_more = many["utterances"] - few["utterances"]
    found["bytes_per_utterance"] = (many["peak_bytes"] - few["peak_bytes"]) / n_more
    found["peak_bytes_960_h"] = few["before_bytes"] + found["bytes_per_utterance"] * UTTERANCES_960
    found["seconds_960_h"] = many["seconds"] / many["utterances"] * UTTERANCES_960
    return found


def rows(models: dict, plan: dict) -> list[common.Row]:
    out = []
    for name, mine in models.items():
        run = mine["run"]
        for dtype in (dtype for dtype in DTYPES if dtype in run):
            measured = run[dtype]
            off = measured["bytes"] / measured["planned_bytes"] - 1
            out.append(
                common.Row(
                    f"capacity/{name}/{dtype}/bytes", f"bytes of {name} in {dtype}, 960 h, phones, words and utterances",
                    "a small run's files", None, "", {"GB": mine["960_h"]["bytes"][dtype] / 1e9}, {},
                    f"{100 * off:+.2f} % from the plan, within {100 * WITHIN:.0f} % asked for", abs(off) <= WITHIN,
                )
            )  # fmt: skip
        measured = run["float32"]
        out.append(
            common.Row(
                f"capacity/{name}/seconds", f"time of {name} as --dry-run says", "a small run", None,
                f"forecast is {measured['forecast_s'] / measured['seconds']:.2f} of the time measured",
                {"audio_s_per_s": measured["audio_s_per_s"]},
            )
        )  # fmt: skip
    few, many = plan["tenth"], plan["whole"]
    out.append(
        common.Row(
            "capacity/planning", f"peak memory of planning {many['utterances']} utterances, {many['segments']} segments",
            f"{few['utterances']} utterances", few["peak_bytes"] / many["peak_bytes"], f"grows by {plan['growth_percent']:.0f} %",
            {"peak_bytes": many["peak_bytes"], "seconds": many["seconds"], "bytes_per_utterance": plan["bytes_per_utterance"]},
            {"peak_bytes": few["peak_bytes"], "seconds": few["seconds"]},
        )
    )  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="base alone, a tenth of the table, two utterances")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    if asked.child:
        part, n, hours, *rest = asked.child
        if part == "write":
            tables(int(n), float(hours)).write(rest[0])
        else:
            planning(int(n), float(hours))
        return
    plan = planning_part(asked.quick)
    print(json.dumps(plan, indent=2), flush=True)
    share = 10 if asked.quick else 1
    corpus = tables(UTTERANCES_100 // share, HOURS_100 / share)
    scale = HOURS_960 * 3600 / corpus.seconds
    n_small = {"wav2vec2-base": 4, "wav2vec2-large": 2, "whisper-small": 2}
    models: dict = {}
    for name in ["wav2vec2-base"] if asked.quick else n_small:
        with tempfile.TemporaryDirectory() as temporary:
            extractor = open_random(name, Path(temporary))
            planned = plan_bytes(extractor, corpus)
            n_samples = (
                30 * RATE if name.startswith("whisper") else round(RATE * corpus.seconds / len(corpus.utterances))
            )
            computed_960 = scale * planned["computed_s"]
            run = small_run(extractor, Path(temporary), 2 if asked.quick else n_small[name], name == "wav2vec2-base")
            per_second = operations(extractor, n_samples) * RATE / n_samples
        models[name] = {
            "operations_per_computed_second": per_second,
            "960_h": {
                "layers": planned["layers"],
                "rows": {unit: round(scale * count) for unit, count in planned["rows"].items()},
                "bytes": {dtype: scale * n for dtype, n in planned["bytes"].items()},
                "shards": round(scale * planned["shards"]),
                "computed_hours": computed_960 / 3600,
                "cpu_hours_here": HOURS_960 / run["float32"]["audio_s_per_s"],
                "gpu_hours_by_formula_not_measured": {
                    dtype: per_second * computed_960 / (1e12 * tflops) / 3600 for dtype, tflops in GPU_TFLOPS.items()
                },
            },
            "run": run,
        }
        print(json.dumps({name: models[name]}, indent=2), flush=True)
    report = {
        "machine": common.machine("cpu"), "planning": plan, "models": models, "assumed_tflops": GPU_TFLOPS,
        "assumed_phones_per_word": PHONES_PER_WORD,
    }  # fmt: skip
    common.deliver(report, rows(models, plan), asked.output)


if __name__ == "__main__":
    main()
