"""What the golden cases read: stores of planted arrays, of small random networks, of real speech; corpora of tones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import heard
import models
import numpy as np
import planted
import tones
from commands import succeeds

import layertool

WORDS = ("longer", "another", "speech", "hello", "listen", "morning", "window", "garden", "seven", "yellow")
N, N_TARGETS = 36, 24  # utterances of a planted store; those of speakers, before those of attributes


def planted_stores(folder: Path) -> None:
    """Stores of one made-up corpus, of which words, phones, genders and sentences are in the layers, more or less."""
    layers = {"T0": 320, "T1": 320, "T2": 320}
    _planted(folder / "one", "org/one", layers, 1)
    _planted(folder / "two", "org/two", layers, 2)
    _planted(folder / "mel", "mel", {"mel": 160}, 3)
    _planted(folder / "tune", "org/one", layers, 4, longer=50)
    for k, step in enumerate((1000, 2000, 4000)):
        _planted(folder / f"checkpoint-{step}", f"org/checkpoint-{step}", layers, 5 + k)
    for name, removed in (("base", 0), ("p20", 200), ("p50", 500)):
        _planted(folder / name, f"org/{name}", layers, 8 + removed)
        about = json.loads((folder / name / "store.json").read_text())
        about["parameters"] = {"all": 1000, "nonzero": 1000 - removed}
        (folder / name / "store.json").write_text(json.dumps(about))
    random = np.random.default_rng(7)
    vectors = {word: random.standard_normal(3).round(3) for word in WORDS}
    lines = [f"{word} {' '.join(map(str, vector))}" for word, vector in vectors.items()]
    (folder / "glove.txt").write_text("\n".join(lines) + "\n")
    (folder / "tasks").mkdir()
    pairs = [(a, b) for k, a in enumerate(WORDS) for b in WORDS[:k]]
    for name, some in (("men", pairs[::2]), ("rare", [*pairs[1::3], ("never", "hello")])):
        rated = [f"{a},{b},{round(float(random.uniform(0, 10)), 2)}" for a, b in some]
        (folder / "tasks" / f"{name}.csv").write_text("\n".join(["word1,word2,similarity", *rated]) + "\n")
    for name, some in (("x", range(0, N_TARGETS, 3)), ("y", range(1, N_TARGETS, 3))):
        (folder / f"{name}.txt").write_text("\n".join(f"u{k}" for k in some) + "\n")


def _planted(path: Path, model: str, layers: dict[str, int], seed: int, longer: int = 0) -> None:
    random = np.random.default_rng(0)
    lengths, segments = [32_000 + longer + 321 * k for k in range(N)], []
    for k in range(N):
        for i in range(4):
            word = WORDS[int(len(WORDS) * random.random() ** 1.7)]
            start = 500 + 7_500 * i
            end = start + 5_000 + 300 * int(random.integers(6))
            middle = start + 1_500 + 100 * int(random.integers(6))
            segments += [(k, "word", start, end, word), (k, "phone", start, middle, word[0])]
            segments += [(k, "phone", middle, end, word[-1])]
    segments.append((0, "phone", 30_500, 31_500, "SIL"))
    segments.sort(key=lambda s: s[0])
    centre = {name: random.standard_normal(6) for name in sorted({*WORDS, *"".join(WORDS)})}
    tables = [_facts(k) for k in range(N)]
    random = np.random.default_rng(seed)
    voice = {name: random.standard_normal(6) for name in ("f", "m", "positive", "negative", *"0123")}
    frames, rows = {}, {unit: {} for unit in ("phone", "word", "utterance")}
    for depth, (name, hop) in enumerate(layers.items()):
        frames[name] = [random.standard_normal((planted.n_frames(n, hop), 6)) for n in lengths]
        for k, tier, start, end, label in segments:
            if tier == "word":
                frames[name][k][start // hop : end // hop] += (1 + depth) * centre[label]
        for unit in ("phone", "word"):
            own = [(s[0], s[4]) for s in segments if s[1] == unit]
            means = [(0.5 + depth) * centre.get(label, np.zeros(6)) + 0.5 * voice[str(k % 4)] for k, label in own]
            rows[unit][name] = np.stack(means) + random.standard_normal((len(own), 6))
        kinds = [voice[str(t["valence"] or t["gender"])[: None if t["valence"] else 1]] for t in tables]
        rows["utterance"][name] = np.stack(kinds) + random.standard_normal((N, 6)) + 1
    columns = {name: [table[name] for table in tables] for name in tables[0]}
    planted.store(path, lengths, segments, frames, rows, layers, model=model, **columns)


def _facts(k: int) -> dict:
    """Metadata of an utterance."""
    voice = k < N_TARGETS
    return {
        "speaker": f"s{k % 4}",
        "gender": ("female", "male")[k % 2] if voice else None,
        "age": ("young", "old")[k // 2 % 2] if voice else None,
        "sex": "fm"[k // 4 % 2],
        "twin": f"t{k // 2}",
        "valence": None if voice else ("positive", "negative")[k % 2],
        "split": ("dev", "train")[k // 2 % 2],
        "pair": f"p{k // 4}",
        "side": "ab"[k % 2],
        "similarity": round(float((k // 4 * 3.5) % 5), 2),
    }


def network_stores(folder: Path) -> None:
    """Stores of two small random networks over noise with words and phones; and embeddings of the words."""
    n = 14
    lengths = [16_000 + 1733 * ((5 * k) % 7) for k in range(n)]
    segments = models.random_segments(lengths)
    phones = [k for k, segment in enumerate(segments) if segment[1] == "phone"]
    for k, label in ((7, "SIL"), (11, "alone"), (40, "lone"), (80, "SIL")):
        segments[phones[k]] = (*segments[phones[k]][:4], label)
    columns = {"speaker": [f"s{k % 4}" for k in range(n)], "split": [("dev", "train")[k % 2] for k in range(n)]}
    columns["gender"] = [("female", "male")[k % 2] if k < 8 else None for k in range(n)]
    columns["valence"] = [None if k < 8 else ("positive", "negative")[k // 2 % 2] for k in range(n)]
    corpus = models.corpus(
        folder / "audio", [models.speech_like(n, k) for k, n in enumerate(lengths)], segments, **columns
    )
    units = ("frame", "phone", "word", "utterance")
    for seed, name in enumerate(("one", "two")):
        network = models.save("wav2vec2-base", folder / "models" / name, seed, hidden_size=16, conv_dim=(8,) * 7)
        layertool.extract(str(network), corpus, folder / name, units, "C7,T0-T3")
    (folder / "words.txt").write_text("w0 1 0 3\nw1 0 1 1\nw2 1 1 2\nw3 -1 0 4\nw4 0 2 0\n")


def speech_stores(folder: Path) -> None:
    """Whisper's encoder and mel over the real English utterances."""
    speech = "shared/data/speech/english"
    succeeds("corpus", "folder", speech, "--metadata", f"{speech}/manifest.tsv", "-o", folder / "corpus", "-q")
    for model, name, layers in (("shared/models/whisper-tiny.en", "whisper", "T0,T2,T4"), ("mel", "mel", "all")):
        asked = ["--units", "frame,phone,word", "--layers", layers, "--device", "cpu", "-q"]
        succeeds("extract", model, folder / "corpus", "-o", folder / name, *asked)


def files(folder: Path) -> None:
    """Files of results."""
    _planted(folder / "one", "org/one", {"T0": 320, "T1": 320}, 1)
    asked = ["--device", "cpu", "-q"]
    succeeds("cca", folder / "one", "--with", "phone", "--with", "word", *asked, "-o", folder / "cca.json")
    succeeds("mi", folder / "one", "--labels", "phone", "--clusters", 8, "-q", "-o", folder / "mi.csv")


def lexical(folder: Path) -> None:
    """Two small random Whispers, clips that listeners heard, and words to rank."""
    models.whisper(folder / "small", tokenizer="english")
    models.whisper(folder / "other", seed=2, tokenizer="english")
    heard.corpus(folder / "audio").write(folder / "corpus")
    (folder / "words.txt").write_text("\n".join(heard.LEXICON))


def eccc(folder: Path) -> None:
    """Real words in noise, for Whisper itself."""
    succeeds("corpus", "eccc", "shared/data/eccc", "-o", folder / "corpus", "-q")
    words = ("stance", "stars", "modern", "suggest", "finished", "finish", *heard.LEXICON)
    (folder / "words.txt").write_text("\n".join(words))


def ctc(folder: Path) -> None:
    """Tones for letters, and two checkpoints of a small random network."""
    splits = ["train"] * 4 + ["dev"] * 2 + ["test"] * 2
    tones.corpus(folder / "audio", [*tones.texts(6), "abc de", "cab"], splits).write(folder / "corpus")
    for step in (10, 20):
        models.save("wav2vec2-base", folder / f"run/step-{step}", seed=step)
        (folder / f"run/step-{step}/source.json").write_text(json.dumps({"step": step}))


BUILDERS: dict[str, Callable[[Path], None]] = {
    "planted": planted_stores,
    "networks": network_stores,
    "speech": speech_stores,
    "files": files,
    "lexical": lexical,
    "eccc": eccc,
    "ctc": ctc,
}
