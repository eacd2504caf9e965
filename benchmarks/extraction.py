"""How fast is extraction? Ratios in one run, each against the slow way, after checking that both agree.

    python benchmarks/extraction.py [--model base|small] [--utterances 200] [--reading 2000] [--device auto] [-o FILE.json]

1. ``extract`` (word and utterance rows of all layers) against a bare forward over the same batches.
2. ``extract`` against the usual loop: one utterance at a time, float32, np.save per layer and utterance.
3. Reading one layer of all utterances: the store against one HDF5 dataset per utterance.
4. CPU time of ``layertool --help``.

The weights are random: speed does not depend on them. Words are cut every 0.4 s.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import common
import h5py
import numpy as np
import soundfile
import torch
import transformers

import layertool
from layertool.corpora.corpus import Corpus
from layertool.extractors import plan
from layertool.extractors.prepare import BATCH_SECONDS, Options, prepare
from layertool.extractors.run import carry_out

RATE = 16_000
SIZES = {
    "base": {},  # transformers' defaults are wav2vec 2.0 base: 12 blocks of 768
    "small": {
        "hidden_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "conv_dim": [256] * 7,
    },
}


@contextmanager
def timed(times: dict, name: str, device: torch.device):
    synchronise(device)
    begun = time.perf_counter()
    yield
    synchronise(device)
    times[name] = time.perf_counter() - begun


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_model(folder: Path, size: str) -> Path:
    torch.manual_seed(0)
    transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SIZES[size])).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "do_normalize": false}'
    )
    return folder


def make_corpus(folder: Path, n_utterances: int) -> Corpus:
    """Noise of mixed length, 1 to 12 s (mean about 3 s), with a word every 0.4 s."""
    random = np.random.default_rng(0)
    utterances, segments = [], []
    for k in range(n_utterances):
        seconds = float(np.clip(random.lognormal(0.9, 0.6), 1, 12))
        path = folder / f"{k:04d}.flac"
        soundfile.write(path, 0.1 * random.standard_normal(int(seconds * RATE)), RATE)
        utterances.append({"utterance": f"{k:04d}", "audio": str(path)})
        cuts = np.arange(0, seconds - 0.4, 0.4)
        segments += [
            {"utterance": f"{k:04d}", "tier": "word", "start": s, "end": s + 0.4, "label": f"w{j % 7}"}
            for j, s in enumerate(cuts)
        ]
    return Corpus.build(utterances, segments, name="noise")


@torch.inference_mode()
def usual_loop(model: Path, corpus: Corpus, out: Path, device: torch.device) -> None:
    """What people write: a pass per utterance, every layer's frames to a file of its own."""
    network = transformers.AutoModel.from_pretrained(model).eval().to(device)
    for row in corpus.utterances.itertuples():
        waveform, _ = soundfile.read(row.audio, dtype="float32")
        states = network(torch.from_numpy(waveform)[None].to(device), output_hidden_states=True).hidden_states
        for layer, hidden in enumerate(states):
            np.save(out / f"{row.utterance}_{layer}.npy", hidden[0].cpu().numpy())


@torch.inference_mode()
def bare_forward(
    model: Path, corpus: Corpus, batches: list[list[int]], device: torch.device, times: dict, name: str
) -> None:
    """The same batches through the plain network, audio in memory, nothing kept."""
    network = transformers.AutoModel.from_pretrained(model).eval().to(device)
    waveforms = [torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in corpus.utterances["audio"]]
    with timed(times, name, device):
        for batch in batches:
            padded = torch.nn.utils.rnn.pad_sequence([waveforms[k] for k in batch], batch_first=True)
            mask = torch.zeros(padded.shape, dtype=torch.long)
            for row, k in enumerate(batch):
                mask[row, : len(waveforms[k])] = 1
            network(padded.to(device), attention_mask=mask.to(device))


def check_equal(store: layertool.FeatureStore, corpus: Corpus, arrays: Path) -> float:
    """Largest relative difference between the store's utterance rows and the loop's frames, averaged."""
    worst = 0.0
    names = [name for name in store.layers if name.startswith("T")]
    for layer, name in enumerate(names):
        rows = store.read("utterance", name)
        for k, utterance in enumerate(corpus.utterances["utterance"]):
            expected = np.load(arrays / f"{utterance}_{layer}.npy").mean(0, dtype=np.float64)
            worst = max(worst, float(np.linalg.norm(rows[k] - expected) / np.linalg.norm(expected)))
    if worst > 1e-4:
        raise SystemExit(f"the store and the loop differ by {worst:.2e}: no speed is reported")
    return worst


def reading(folder: Path, n_utterances: int, width: int = 768) -> dict:
    """One layer of frames of every utterance, from a store and from one dataset per utterance."""
    random = np.random.default_rng(0)
    utterances = []
    for k in range(n_utterances):
        path = folder / f"read{k}.wav"
        soundfile.write(path, random.uniform(-0.1, 0.1, int(RATE * random.uniform(1, 3))), RATE, subtype="PCM_16")
        utterances.append({"utterance": f"{k:05d}", "audio": str(path)})
    store = layertool.extract("mel", Corpus.build(utterances), folder / "reading", units=("frame",), shard_seconds=1200)
    rows = store.row_table("frame")["utterance"]
    layer = store.read("frame", "mel")
    usual = folder / "usual.h5"
    with h5py.File(usual, "w") as file:
        for k in range(n_utterances):
            file.create_dataset(f"{k:05d}", data=layer[rows == k])
    times: dict = {}
    cpu = torch.device("cpu")
    best = {"store": np.inf, "usual": np.inf}
    for _ in range(5):
        with timed(times, "store", cpu):
            one = layertool.FeatureStore(store.path).read("frame", "mel")
        with timed(times, "usual", cpu), h5py.File(usual) as file:
            other = np.concatenate([file[f"{k:05d}"][:] for k in range(n_utterances)])
        best = {name: min(best[name], times[name]) for name in best}
    if not np.array_equal(one, other):
        raise SystemExit("the store and the datasets differ: no speed is reported")
    return {
        "utterances": n_utterances,
        "rows": len(one),
        "store_s": best["store"],
        "per_utterance_s": best["usual"],
        "ratio": best["usual"] / best["store"],
    }


def help_seconds() -> float:
    """CPU seconds of `layertool --help`, the least of five."""
    command = [sys.executable, "-m", "layertool.cli", "--help"]
    least = np.inf
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return float(least)


def rows(report: dict) -> list[common.Row]:
    seconds, read = report["seconds"], report["reading_one_layer"]
    agreement = f"differ by {report['largest_relative_difference']:.1e} at most (relative)"
    audio_s = report["audio_s"]
    ours = {"extract_audio_s_per_s": audio_s / seconds["extract"]}
    bare = (seconds["bare, before"] + seconds["bare, after"]) / 2
    return [
        common.Row(
            "extract/bare", "extraction, word and utterance rows of all layers", "a bare forward over the same batches",
            report["extract_throughput_of_bare_forward"], agreement, ours, {"bare_audio_s_per_s": audio_s / bare},
        ),
        common.Row(
            "extract/loop", "extraction", "one pass per utterance, np.save per layer and utterance",
            report["extract_speed_over_usual_loop"], agreement, ours, {"loop_audio_s_per_s": audio_s / seconds["loop"]},
        ),
        common.Row(
            "read", f"reading one layer of {read['utterances']} utterances", "one dataset per utterance", read["ratio"], "equal",
            {"seconds": read["store_s"]}, {"seconds": read["per_utterance_s"]},
        ),
        common.Row("help", "layertool --help, CPU time", "nothing", ours={"seconds": report["help_cpu_s"]}),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="base")
    parser.add_argument("--utterances", type=int, default=200)
    parser.add_argument("--reading", type=int, default=2000, help="utterances of the reading part")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model, corpus = make_model(folder / "model", asked.model), make_corpus(folder, asked.utterances)
        prepared = prepare(str(model), corpus, Options(), device=asked.device)
        device = prepared.extractor.device
        batch_seconds = BATCH_SECONDS[device.type]
        lengths = corpus.utterances["n_samples"].to_numpy()
        batches = [
            group
            for shard in prepared.shards
            for group in plan.batches(
                range(shard.first, shard.last), dict(enumerate(lengths)), round(batch_seconds * RATE)
            )
        ]
        times: dict = {}
        bare_forward(model, corpus, batches[:2], device, {}, "warm-up")
        bare_forward(model, corpus, batches, device, times, "bare, before")
        with timed(times, "extract", device):
            store = carry_out(prepared, folder / "store")
        bare_forward(model, corpus, batches, device, times, "bare, after")
        (folder / "arrays").mkdir()
        with timed(times, "loop", device):
            usual_loop(model, corpus, folder / "arrays", device)
        bare = (times["bare, before"] + times["bare, after"]) / 2
        report = {
            "machine": common.machine(str(device)),
            "model": asked.model,
            "utterances": asked.utterances,
            "audio_s": corpus.seconds,
            "batch_seconds": batch_seconds,
            "seconds": times,
            "largest_relative_difference": check_equal(store, corpus, folder / "arrays"),
            "extract_throughput_of_bare_forward": bare / times["extract"],
            "extract_speed_over_usual_loop": times["loop"] / times["extract"],
            "reading_one_layer": reading(folder, asked.reading),
            "help_cpu_s": help_seconds(),
        }
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
