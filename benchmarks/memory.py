"""Does memory stay flat? Extraction of a corpus ten times as large, and analyses of a store larger than the limit.

    python benchmarks/memory.py [--utterances 200] [--gigabytes 3] [--limit-gigabytes 1.5] [--quick] [-o FILE.json]

1. Peak resident memory (getrusage of a process of its own, as the kernel counted it) of ``layertool extract`` over a
   corpus of N and of 10 N utterances with words and phones, mel energies and a small random wav2vec 2.0. Less than a tenth more
   is asked for. Shards are of one minute, so that both corpora have several.
2. ``layertool cca``, ``cka``, ``mi`` and ``probe neighbours`` of a store of frames that is larger than RLIMIT_DATA of
   their process. RLIMIT_DATA counts private memory that can be written (heap and anonymous maps), not the pages of libraries
   nor the cache of files. Reading one layer whole must fail under it: else the limit would limit nothing.

Synthetic audio and store are written to a temporary folder (a little more than --gigabytes) and removed.
"""

from __future__ import annotations

import argparse
import json
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
WIDTH, N_FRAMES, N_SPEAKERS = 256, 1000, 20  # of the large store; frames of each utterance
LAYERS = ("T0", "T1")


def measured(command: list[str], limit_bytes: int | None = None) -> tuple[int, int, float, str]:
    """Exit code, peak resident bytes and seconds of a command, and the end of what it said."""

    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))

    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        # arenas that are set aside and never touched count for the limit: Arrow's own are a gigabyte
        plain = {} if limit_bytes is None else {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
        process = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, preexec_fn=limit, env={**os.environ, **plain}
        )
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


def make_store(path: Path, n_bytes: float) -> None:
    """Two layers of frames: T0 is noise about its speaker's place, T1 the same with more noise."""
    import numpy as np
    import pandas as pd

    from layertool import layers
    from layertool.store import StoreWriter, layout

    per_shard = 25
    n_shards = round(n_bytes / (per_shard * N_FRAMES * WIDTH * 4 * len(LAYERS)))
    n = per_shard * n_shards
    configuration = {
        "model": {"id": "large", "revision": None}, "store_dtype": "float32", "layer_convention": layers.CONVENTION,
        "layers": list(LAYERS), "units": {"frame": "none"}, "corpus": "none",
    }  # fmt: skip
    about = {
        "layers": {layer: {"width": WIDTH} for layer in LAYERS},
        "units": {"frame": {"layers": list(LAYERS), "rows": dict.fromkeys(LAYERS, "rows")}},
        "n_shards": n_shards,
        "corpus": {"name": "large", "n_utterances": n, "seconds": 0.02 * N_FRAMES * n},
        "audio": {"sample_rate": RATE, "columns": ["utterance", "audio", "n_samples"]},
    }
    names = [f"u{k:06d}" for k in range(n)]
    speakers = [f"s{k % N_SPEAKERS}" for k in range(n)]
    utterances = pd.DataFrame(
        {"utterance": names, "audio": "none", "n_samples": 320 * N_FRAMES + 80, "speaker": speakers}
    )
    random = np.random.default_rng(0)
    places = random.standard_normal((N_SPEAKERS, WIDTH), np.float32)
    with StoreWriter(path, configuration, about, utterances, {}) as writer:
        for shard in range(n_shards):
            table = np.zeros(per_shard * N_FRAMES, layout.ROW_DTYPE)
            table["utterance"] = shard * per_shard + np.repeat(np.arange(per_shard), N_FRAMES)
            table["start"] = np.tile(320 * np.arange(N_FRAMES), per_shard)
            table["end"], table["label"] = table["start"] + 400, layout.NO_LABEL
            part = writer.shard(shard, {"frame/rows": table}, {f"frame/{layer}": (WIDTH, "rows") for layer in LAYERS})
            rows = 2 * random.standard_normal((len(table), WIDTH), np.float32) + places[table["utterance"] % N_SPEAKERS]
            part.put("frame/T0", 0, rows)
            part.put("frame/T1", 0, rows + random.standard_normal(rows.shape, np.float32))
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


# --- the two parts


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
    _, seconds = succeed(child("store", store, n_bytes))
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    found: dict = {"store_bytes": size, "limit_bytes": limit, "limit": "RLIMIT_DATA", "writing_s": seconds}
    asked = {
        "reading a layer whole": child("read", store),
        "cca --with T0": layertool("cca", store, "--with", "T0", "--layers", "T1", "--unit", "frame"),
        "cka --sample all": layertool("cka", store, "--unit", "frame", "--sample", "all"),
        "mi --labels speaker": layertool(
            "mi", store, "--labels", "speaker", "--unit", "frame", "--layers", "T1", "--clusters", 100, "--repeats", 1
        ),
        "probe neighbours --labels speaker": layertool(
            "probe", "neighbours", store, "--labels", "speaker", "--unit", "frame", "--layers", "T1", "--workers", 1
        ),
    }
    for name, command in asked.items():
        code, peak, seconds, text = measured(command, limit)
        found[name] = {"finished": code == 0, "peak_bytes": peak, "seconds": seconds}
        if code:
            found[name]["said"] = text.splitlines()[-1] if text.splitlines() else f"exit code {code}"
        print(f"{name}: exit code {code}, {peak / 1e9:.2f} GB, {seconds:.0f} s", flush=True)
    return found


def rows(extraction: dict, analysis: dict) -> list[common.Row]:
    few, many = extraction["utterances"]
    out = []
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
            bound = "runs out of memory, as it should" if name.startswith("reading") else "finishes"
            figures = {"peak_bytes": mine["peak_bytes"], "seconds": mine["seconds"]}
            out.append(
                common.Row(
                    f"memory/analysis/{name}", what, "the store's size", ours=figures, bound=bound, met=mine["finished"]
                )
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=200, help="N of extraction")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="of the store")
    parser.add_argument("--limit-gigabytes", type=float, default=1.5)
    parser.add_argument("--quick", action="store_true", help="a small corpus, a store of 1.6 GB under 0.7 GB")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    if asked.child:
        part, path, *rest = asked.child
        if part == "inputs":
            make_inputs(Path(path), int(rest[0]))
        elif part == "store":
            make_store(Path(path), float(rest[0]))
        else:
            read_whole(Path(path))
        return
    if asked.quick:
        asked.utterances, asked.gigabytes, asked.limit_gigabytes = 60, 1.6, 0.7
    with tempfile.TemporaryDirectory() as temporary:
        extraction = extraction_part(Path(temporary), asked.utterances)
        print(json.dumps(extraction, indent=2), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        analysis = analysis_part(Path(temporary), asked.gigabytes * 1e9, round(asked.limit_gigabytes * 1e9))
    report = {"machine": common.machine("cpu"), "extraction": extraction, "analysis": analysis}
    common.deliver(report, rows(extraction, analysis), asked.output)


if __name__ == "__main__":
    main()
