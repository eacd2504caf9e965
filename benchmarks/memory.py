"""Does memory stay flat? Planning, extraction of a corpus ten times as large, and analyses of a store larger than the limit.

    python benchmarks/memory.py [--planned 20000] [--utterances 200] [--gigabytes 1.6] [--limit-gigabytes 0.8] [--quick] [-o FILE.json]

1. Peak resident memory of reading, checking and planning a corpus of N utterances with 35 words and 122 phones each, as
   LibriSpeech has, beyond that of one of N / 10: bytes for an utterance. Less than 10 kB are asked for.
2. Peak resident memory (getrusage of a process of its own, as the kernel counted it) of ``layertool extract`` over a
   corpus of N and of 10 N utterances with words and phones, mel energies and a small random wav2vec 2.0. Less than a tenth more
   is asked for. Shards are of one minute, so that both corpora have several.
3. Analyses of a store that is larger than RLIMIT_DATA of their process: each must finish and give the rows that it gives without
   the limit. RLIMIT_DATA counts private memory that can be written (heap and anonymous maps), not the pages of libraries
   nor the cache of files. Reading one layer whole must fail under it: else the limit would limit nothing.

Synthetic audio and store are written to a temporary folder (a little more than --gigabytes) and removed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import common  # numpy and torch are imported by the children alone: this process stays small, so that none inherits its peak

RATE = 16_000
GROWTH = 0.10
FACTOR = 10
WORDS_PER_SECOND, PHONES_PER_WORD = 2.7, 3.5
KILOBYTES = 10  # of planning, for an utterance
PLANNED_WORDS, PLANNED_PHONES, PLANNED_SECONDS = 35, 122, 12.3  # of each utterance: LibriSpeech's mean
WIDTH, N_FRAMES, N_WORDS, N_SPEAKERS = 256, 1000, 40, 20  # of the large store; frames and words of each utterance
LAYERS = ("T0", "T1")
LEXICON = 300  # words of the large store


def measured(command: list[str], limit_bytes: int | None = None) -> tuple[int, int, float, str]:
    """Exit code, peak resident bytes and seconds of a command, and the end of what it said."""

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, preexec_fn=limit)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read()
    return process.returncode, 1024 * usage.ru_maxrss, time.perf_counter() - begun, text[-1500:]


def layertool(*arguments) -> list[str]:
    return [sys.executable, "-m", "layertool.cli", *map(str, arguments)]


def child(part: str, *arguments) -> list[str]:
    return [sys.executable, __file__, "--child", part, *map(str, arguments)]


def succeed(command: list[str]) -> tuple[int, float]:
    """Peak bytes and seconds of a command that must succeed."""
    code, peak, seconds, text = measured(command)
    if code:
        raise SystemExit(f"{' '.join(command[2:5])} failed: {text}")
    return peak, seconds


# --- what children do


def make_inputs(folder: Path, n: int) -> None:
    """A small model, and corpora of n and FACTOR n utterances: cuts of 1.5 to 3.5 s from files of a minute."""
    import numpy as np
    import soundfile
    import torch
    import transformers

    from layertool.corpora.corpus import Corpus

    small = {
        "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": [24] * 7,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    }  # fmt: skip
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**small)).save_pretrained(folder / "model")
    preprocessor = {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": False}
    (folder / "model/preprocessor_config.json").write_text(json.dumps(preprocessor))
    random = np.random.default_rng(0)
    minutes = [folder / f"{k}.wav" for k in range(10)]
    for path in minutes:
        soundfile.write(path, 0.1 * random.standard_normal(60 * RATE), RATE, subtype="PCM_16")
    for name, count in (("few", n), ("many", FACTOR * n)):
        utterances, segments = [], []
        for k in range(count):
            seconds = float(random.uniform(1.5, 3.5))
            start = float(random.uniform(0, 60 - seconds))
            utterances.append(
                {"utterance": f"{k:06d}", "audio": str(minutes[k % 10]), "start": start, "end": start + seconds}
            )
            for tier, rate in (("word", WORDS_PER_SECOND), ("phone", WORDS_PER_SECOND * PHONES_PER_WORD)):
                cuts = np.linspace(0, seconds - 0.01, max(2, round(rate * seconds) + 1))
                segments += [
                    {"utterance": f"{k:06d}", "tier": tier, "start": a, "end": b, "label": f"{tier}{j % 40}"}
                    for j, (a, b) in enumerate(pairwise(cuts))
                ]
        Corpus.build(utterances, segments, name=name).write(folder / name)


def make_planned(folder: Path, n: int) -> None:
    """Corpora of n and n / 10 utterances as large as LibriSpeech's; their audio is not there, and planning does not look."""
    import numpy as np
    import pandas as pd

    from layertool.corpora.corpus import Corpus

    random = np.random.default_rng(0)
    per_utterance = PLANNED_WORDS + PLANNED_PHONES
    is_word = np.arange(per_utterance) < PLANNED_WORDS
    cuts = [np.linspace(0, PLANNED_SECONDS - 0.01, k + 1).round(3) for k in (PLANNED_WORDS, PLANNED_PHONES)]
    for name, count in (("small", n // 10), ("large", n)):
        ids = [f"{k // 3000}-{100_000 + k // 30}-{k:06d}" for k in range(count)]
        utterances = pd.DataFrame({
            "utterance": ids, "audio": "/none.flac", "start": np.nan, "end": np.nan, "channel": None,
            "sample_rate": RATE, "n_samples": round(PLANNED_SECONDS * RATE), "speaker": [one.split("-")[0] for one in ids],
        })  # fmt: skip
        n_rows = count * per_utterance
        phones, words = random.integers(40, size=n_rows), np.minimum(random.zipf(1.3, n_rows), 90_000)
        labels = np.where(
            np.tile(is_word, count), np.char.add("word", words.astype(str)), np.char.add("P", phones.astype(str))
        )
        segments = pd.DataFrame({
            "utterance": np.repeat(ids, per_utterance), "tier": np.tile(np.where(is_word, "word", "phone"), count),
            "start": np.tile(np.concatenate([one[:-1] for one in cuts]), count),
            "end": np.tile(np.concatenate([one[1:] for one in cuts]), count), "label": labels,
        })  # fmt: skip
        Corpus(utterances, segments, name=name).write(folder / name)


def plan(folder: Path) -> None:
    """All that happens before the first audio file is read."""
    from layertool.extractors.prepare import Options, prepare

    prepare("mel", folder, Options(units=("phone", "word", "utterance")))


def make_store(path: Path, n_bytes: float) -> None:
    """Frames, words and utterances of two layers: T0 is noise about places of speaker and word, T1 the same with more noise.

    Four utterances after each other are a pair of sentences, said by two speakers each. The even ones are of women and men, the
    odd ones pleasant and unpleasant.
    """
    import numpy as np
    import pandas as pd

    from layertool import layers
    from layertool.store import StoreWriter, layout

    per_shard = 25
    rows_of = {"frame": N_FRAMES, "word": N_WORDS, "utterance": 1}
    n_shards = round(n_bytes / (per_shard * sum(rows_of.values()) * WIDTH * 4 * len(LAYERS)))
    n = per_shard * n_shards
    configuration = {
        "model": {"id": "large", "revision": None}, "store_dtype": "float32", "layer_convention": layers.CONVENTION,
        "layers": list(LAYERS), "units": {"frame": "none", "word": "mean", "utterance": "mean"}, "corpus": "none",
    }  # fmt: skip
    about = {
        "layers": {layer: {"width": WIDTH} for layer in LAYERS},
        "units": {unit: {"layers": list(LAYERS), "rows": dict.fromkeys(LAYERS, "rows")} for unit in rows_of},
        "n_shards": n_shards,
        "corpus": {"name": "large", "n_utterances": n, "seconds": 0.02 * N_FRAMES * n},
        "audio": {"sample_rate": RATE, "columns": ["utterance", "audio", "n_samples"]},
    }
    k = np.arange(n)
    random = np.random.default_rng(0)
    utterances = pd.DataFrame({
        "utterance": [f"u{one:06d}" for one in k], "audio": "none", "n_samples": 320 * N_FRAMES + 80,
        "speaker": [f"s{one % N_SPEAKERS}" for one in k],
        "pair": k // 4, "side": np.where(k // 2 % 2, "a", "b"), "similarity": random.uniform(0, 5, n // 4 + 1)[k // 4],
        "gender": np.where(k % 2, None, np.where(k // 2 % 2, "female", "male")),
        "valence": np.where(k % 2, np.where(k // 2 % 2, "positive", "negative"), None),
    })  # fmt: skip
    names = [f"lexeme{one:03d}" for one in range(LEXICON)]
    pairs = random.integers(0, LEXICON, (60, 2))
    rated = pd.DataFrame(
        {
            "word1": [names[i] for i in pairs[:, 0]],
            "word2": [names[i] for i in pairs[:, 1]],
            "similarity": random.uniform(0, 5, 60),
        }
    )
    rated.to_csv(path.with_name("rated.csv"), index=False)
    voices, meanings = (random.standard_normal((count, WIDTH), np.float32) for count in (N_SPEAKERS, LEXICON))
    with StoreWriter(path, configuration, about, utterances, {"word": names}) as writer:
        for shard in range(n_shards):
            tables = {}
            for unit, count in rows_of.items():
                table = tables[f"{unit}/rows"] = np.zeros(per_shard * count, layout.ROW_DTYPE)
                hop = 320 * N_FRAMES // count
                table["utterance"] = shard * per_shard + np.repeat(np.arange(per_shard), count)
                table["start"] = np.tile(hop * np.arange(count), per_shard)
                table["end"] = table["start"] + (400 if unit == "frame" else hop)
                table["label"] = random.integers(0, LEXICON, len(table)) if unit == "word" else layout.NO_LABEL
            widths = {f"{unit}/{layer}": (WIDTH, "rows") for unit in rows_of for layer in LAYERS}
            part = writer.shard(shard, tables, widths)
            for unit in rows_of:
                table = tables[f"{unit}/rows"]
                rows = (
                    2 * random.standard_normal((len(table), WIDTH), np.float32)
                    + voices[table["utterance"] % N_SPEAKERS]
                )
                if unit == "word":
                    rows += meanings[table["label"]]
                part.put(f"{unit}/T0", 0, rows)
                part.put(f"{unit}/T1", 0, rows + random.standard_normal(rows.shape, np.float32))
            part.finish((), utterances=[shard * per_shard, (shard + 1) * per_shard], seconds=1.0)
        writer.finish(n_shards)


def read_whole(path: Path) -> None:
    """Read a layer at once, which does not fit: exit code 0 when memory runs out as it should."""
    from layertool.store import FeatureStore

    try:
        FeatureStore(path).read("frame", "T0")
    except MemoryError:
        return
    raise SystemExit("a layer fits under the limit: it limits nothing")


# --- the three parts


def planning_part(folder: Path, n: int) -> dict:
    succeed(child("planned", folder, n))
    peaks, times = zip(*(succeed(child("plan", folder / name)) for name in ("small", "large")), strict=True)
    return {
        "utterances": [n // 10, n],
        "segments_per_utterance": PLANNED_WORDS + PLANNED_PHONES,
        "peak_bytes": peaks,
        "seconds": times,
        "bytes_per_utterance": (peaks[1] - peaks[0]) / (n - n // 10),
    }


def extraction_part(folder: Path, n: int) -> dict:
    succeed(child("inputs", folder, n))
    found: dict = {"utterances": [n, FACTOR * n], "shard_seconds": 60}
    for name, model in (("mel", "mel"), ("wav2vec2-small", folder / "model")):
        peaks, times = [], []
        for corpus in ("few", "many"):
            command = layertool(
                "extract", model, folder / corpus, "-o", folder / f"{name}-{corpus}", "--quiet", "--units",
                "phone,word,utterance", "--shard-seconds", 60, "--device", "cpu",
            )  # fmt: skip
            peak, seconds = succeed(command)
            peaks.append(peak)
            times.append(seconds)
        found[name] = {
            "peak_bytes": peaks,
            "seconds": times,
            "growth_percent": 100 * (peaks[1] / peaks[0] - 1),
            "bytes_per_utterance": (peaks[1] - peaks[0]) / ((FACTOR - 1) * n),
        }
    return found


def analysis_part(folder: Path, n_bytes: float, limit: int) -> dict:
    store = folder / "store"
    _, seconds = succeed(child("store", store, round(n_bytes)))
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    found: dict = {"store_bytes": size, "limit_bytes": limit, "limit": "RLIMIT_DATA", "writing_s": seconds}
    of_frames, one_layer = ("--unit", "frame"), ("--layers", "T1")
    asked: dict[str, tuple] = {
        "cca --with T0": ("cca", store, "--with", "T0", *one_layer, *of_frames, "--sample", "all"),
        "cka --sample all": ("cka", store, *of_frames, "--sample", "all"),
        "cka --measure rsa": ("cka", store, *of_frames, "--measure", "rsa"),
        "mi --labels speaker": (
            "mi", store, "--labels", "speaker", *of_frames, *one_layer, "--clusters", 100, "--repeats", 1,
        ),
        "mi --labels word": ("mi", store, "--labels", "word", "--clusters", 300, "--repeats", 1),
        "probe discrimination": ("probe", "discrimination", store, "--per-label", 20, "--workers", 1),
        "probe discrimination --distance dtw": (
            "probe", "discrimination", store, "--per-label", 2, "--distance", "dtw", "--where", "gender=female", "--workers", 1,
        ),
        "probe similarity": ("probe", "similarity", store, "--benchmark", folder / "rated.csv", "--workers", 1),
        "probe segmentation": (
            "probe", "segmentation", store, "--max-utterances", 50, "--distance", "cosine", "--window", 4, "--prominence", 0.03,
            "--workers", 1,
        ),
        "probe sentences": ("probe", "sentences", store, "--workers", 1),
        "probe neighbours --labels word": ("probe", "neighbours", store, "--labels", "word", "--workers", 1),
        "probe neighbours --labels speaker": (
            "probe", "neighbours", store, "--labels", "speaker", *of_frames, "--max-utterances", 20, "--workers", 1,
        ),
        "speat": ("speat", store, "--target", "gender=female:male", "--attribute", "valence=positive:negative"),
    }  # fmt: skip
    found["reading a layer whole"] = _analysed(child("read", store), limit)
    for name, command in asked.items():
        out = [folder / f"{kind}.json" for kind in ("limited", "free")]
        mine = found[name] = _analysed(layertool(*command, "-o", out[0], "--quiet"), limit)
        if mine["finished"]:
            succeed(layertool(*command, "-o", out[1], "--quiet"))
            mine["same_rows"] = _alike(*(json.loads(path.read_text()) for path in out))
        for path in out:
            path.unlink(missing_ok=True)
        print(name, mine, flush=True)
    return found


def _analysed(command: list[str], limit: int) -> dict:
    code, peak, seconds, text = measured(command, limit)
    found: dict = {"finished": code == 0, "peak_bytes": peak, "seconds": seconds}
    if code:
        found["said"] = text.splitlines()[-1] if text.splitlines() else f"exit code {code}"
    return found


def _alike(one, other) -> bool:
    """Whether two results are equal, numbers up to rounding."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return isinstance(other, float) and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)
    return one == other


def rows(planning: dict, extraction: dict, analysis: dict) -> list[common.Row]:
    few, many = extraction["utterances"]
    each = planning["bytes_per_utterance"] / 1000
    out = [
        common.Row(
            "memory/plan", f"peak memory of planning {planning['utterances'][1]} utterances", f"{planning['utterances'][0]} utterances",
            ours={"peak_bytes": planning["peak_bytes"][1]}, theirs={"peak_bytes": planning["peak_bytes"][0]},
            bound=f"{each:.1f} kB an utterance more, less than {KILOBYTES} asked for", met=each < KILOBYTES,
        )
    ]  # fmt: skip
    for name in ("mel", "wav2vec2-small"):
        mine = extraction[name]
        growth = mine["growth_percent"]
        out.append(
            common.Row(
                f"memory/extract/{name}", f"peak memory of extracting {many} utterances ({name})", f"{few} utterances",
                1 / (1 + growth / 100), "", {"peak_bytes": mine["peak_bytes"][1]}, {"peak_bytes": mine["peak_bytes"][0]},
                f"grows by {growth:.1f} %, less than {100 * GROWTH:.0f} % asked for", growth < 100 * GROWTH,
            )
        )  # fmt: skip
    limit, size = analysis["limit_bytes"], analysis["store_bytes"]
    for name, mine in analysis.items():
        if isinstance(mine, dict):
            what = f"{name}, a store of {size / 1e9:.1f} GB under {limit / 1e9:.1f} GB of {analysis['limit']}"
            bound = "runs out of memory, as it should" if name.startswith("reading") else "finishes with the same rows"
            figures = {"peak_bytes": mine["peak_bytes"], "seconds": mine["seconds"]}
            out.append(
                common.Row(
                    f"memory/analysis/{name}",
                    what,
                    "the store's size",
                    ours=figures,
                    bound=bound,
                    met=mine.get("same_rows", mine["finished"]),
                )
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planned", type=int, default=20_000, help="N of planning")
    parser.add_argument("--utterances", type=int, default=200, help="N of extraction")
    parser.add_argument("--gigabytes", type=float, default=1.6, help="of the store")
    parser.add_argument("--limit-gigabytes", type=float, default=0.8)
    parser.add_argument("--quick", action="store_true", help="small corpora; the store is not much smaller")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    if asked.child:
        part, path, *rest = asked.child
        work = {"planned": make_planned, "plan": plan, "inputs": make_inputs, "store": make_store, "read": read_whole}
        work[part](Path(path), *map(int, rest))
        return
    if asked.quick:
        asked.planned, asked.utterances = 4000, 60
    with tempfile.TemporaryDirectory() as temporary:
        planning = planning_part(Path(temporary), asked.planned)
        print(json.dumps(planning, indent=2), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        extraction = extraction_part(Path(temporary), asked.utterances)
        print(json.dumps(extraction, indent=2), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        analysis = analysis_part(Path(temporary), asked.gigabytes * 1e9, round(asked.limit_gigabytes * 1e9))
    report = {"machine": common.machine("cpu"), "planning": planning, "extraction": extraction, "analysis": analysis}
    common.deliver(report, rows(planning, extraction, analysis), asked.output)


if __name__ == "__main__":
    main()
