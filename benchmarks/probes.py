"""How fast are the probes? Word discrimination and the segmentation grid against the plain routes.

    python benchmarks/probes.py [--tokens 10000] [--words 1000] [--width 768] [--utterances 100] [-o FILE.json]

Discrimination: all pairs by scipy's ``pdist`` and scikit-learn's ``average_precision_score``. Each way runs in a process
of its own, which says how much memory it took above what its data take. Segmentation: 180 cells one by one, each with
z-scores, distances, smoothing, ``find_peaks`` and matching of its own, utterance by utterance; and the same with z-scores
kept. Both give the same numbers, which is checked first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import common
import numpy as np
from scipy.signal import find_peaks
from scipy.spatial.distance import pdist
from sklearn.metrics import average_precision_score

from layertool.probes import segmentation, word_discrimination
from layertool.probes.segmentation import Speech

TOLERANCE = segmentation.TOLERANCE


def tokens(n: int, n_words: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    words = random.integers(0, n_words, n)
    centres = random.standard_normal((n_words, width), np.float32)
    return 0.4 * centres[words] + random.standard_normal((n, width), np.float32), words


def fast(vectors, words, clusters=None) -> float:
    return word_discrimination.average_precision(word_discrimination.Cosine(vectors), words, clusters=clusters).value


def with_interval(vectors, words) -> float:
    return fast(vectors, words, words)


def slow(vectors, words) -> float:
    first, second = np.triu_indices(len(words), 1)
    return average_precision_score(words[first] == words[second], -pdist(vectors, "cosine"))


def measured(way, *arguments) -> tuple[float, float, float]:
    """What ``way`` gives, its seconds and its bytes above what there was before, in a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(_measured, (way, arguments))


def _measured(way, arguments) -> tuple[float, float, float]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    value = way(*arguments)
    return value, time.perf_counter() - start, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def speech(n_utterances: int, n_frames: int, width: int) -> tuple[np.ndarray, Speech]:
    """Frames that drift within words and jump between them, at wav2vec 2.0's rate."""
    random = np.random.default_rng(1)
    frames, utterance, centres, words = [], [], [], []
    for u in range(n_utterances):
        ends = np.cumsum(random.integers(8, 25, n_frames // 8))
        ends = ends[ends < n_frames - 8]
        which = np.searchsorted(ends, np.arange(n_frames), side="right")
        means = random.standard_normal((len(ends) + 1, width), np.float32)
        frames.append(means[which] + 0.7 * random.standard_normal((n_frames, width), np.float32))
        utterance.append(np.full(n_frames, u))
        centres.append(320.0 * np.arange(n_frames) + 200)
        edges = np.concatenate([[0], 320 * ends + 40, [320 * n_frames + 80]])
        words.append(np.column_stack([np.full(len(edges) - 1, u), edges[:-1], edges[1:]]))
    lengths = np.full(n_utterances, 320 * n_frames + 80)
    return np.concatenate(frames), Speech(
        np.concatenate(utterance), np.concatenate(centres), lengths, np.concatenate(words).astype(float)
    )


def cell_by_cell(frames: np.ndarray, of: Speech, keep_scores: bool) -> list[tuple[int, int, int]]:
    """(hits, predictions, references) of each cell, matched one to one."""
    scaled = (frames - frames.mean(0, dtype=np.float64)) / frames.std(0, dtype=np.float64)
    out = []
    for cell in segmentation.grid():
        if not keep_scores:
            scaled = (frames - frames.mean(0, dtype=np.float64)) / frames.std(0, dtype=np.float64)
        total = np.zeros(3, int)
        for u in range(len(of.lengths)):
            mine = scaled[of.utterance == u]
            if cell.distance == "euclidean":
                differences = np.linalg.norm(mine[1:] - mine[:-1], axis=1)
            else:
                length = np.linalg.norm(mine, axis=1)
                differences = 1 - (mine[1:] * mine[:-1]).sum(1) / (length[1:] * length[:-1])
            smooth = np.convolve(differences, np.ones(cell.window) / cell.window, "valid")
            found = find_peaks(smooth, prominence=cell.prominence)[0]
            times = 320 * (found + (cell.window - 1) / 2) + 360
            words = of.words[of.words[:, 0] == u]
            references = np.unique(words[:, 1:])
            times, references = (t[(t > TOLERANCE) & (t < of.lengths[u] - TOLERANCE)] for t in (times, references))
            total += (_matched(times, references), len(times), len(references))
        out.append(tuple(int(n) for n in total))
    return out


def _matched(times, references) -> int:
    i = j = hits = 0
    while i < len(times) and j < len(references):
        if abs(times[i] - references[j]) <= TOLERANCE:
            i, j, hits = i + 1, j + 1, hits + 1
        elif times[i] < references[j]:
            i += 1
        else:
            j += 1
    return hits


def rows(report: dict) -> list[common.Row]:
    pairs, grid = report["discrimination"], report["segmentation"]
    agreement = common.agree("average precision", pairs["difference"], 1e-6)
    own, slowly = pairs["ours"], pairs["slow"]
    seconds = grid["seconds"]
    return [
        common.Row(
            "discrimination/time", f"word discrimination of {pairs['tokens']} tokens", "pdist and average_precision_score",
            pairs["ratio_of_time"], agreement, {"seconds": own["seconds"]}, {"seconds": slowly["seconds"]},
        ),
        common.Row(
            "discrimination/memory", "the same, memory", "pdist and average_precision_score", pairs["ratio_of_memory"], agreement,
            {"bytes": own["bytes"]}, {"bytes": slowly["bytes"]},
        ),
        common.Row(
            "segmentation", f"the segmentation grid of {grid['cells']} cells", "cell by cell", grid["ratio"],
            f"{max(grid['cells_that_differ'].values())} cells differ", {"seconds": seconds["ours"]}, {"seconds": seconds["cell_by_cell"]},
        ),
        common.Row(
            "segmentation/z-scores", "the same", "cell by cell, z-scores kept", grid["ratio_with_z_scores_kept"],
            f"{max(grid['cells_that_differ'].values())} cells differ", {"seconds": seconds["ours"]},
            {"seconds": seconds["cell_by_cell_with_z_scores_kept"]},
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--words", type=int, default=1000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--frames", type=int, default=500, help="of each utterance: 500 are 10 s")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()

    vectors, words = tokens(asked.tokens, asked.words, asked.width)
    discrimination = {
        name: dict(zip(("value", "seconds", "bytes"), measured(way, vectors, words), strict=True))
        for name, way in (("ours", fast), ("ours_with_interval", with_interval), ("slow", slow))
    }
    difference = abs(discrimination["ours"]["value"] - discrimination["slow"]["value"])
    if difference > 1e-6:
        raise SystemExit(f"the two ways differ by {difference}: {discrimination}")
    frames, of = speech(asked.utterances, asked.frames, asked.width)
    start = time.perf_counter()
    counts = [
        (int(c.strict.sum()), int(c.predicted.sum()), int(c.references.sum()))
        for _, c, _ in segmentation.sweep(frames, of, segmentation.grid())
    ]
    seconds = {"ours": time.perf_counter() - start}
    differ = {}
    for name, keep in (("cell_by_cell", False), ("cell_by_cell_with_z_scores_kept", True)):
        start = time.perf_counter()
        slowly = cell_by_cell(frames, of, keep)
        seconds[name] = time.perf_counter() - start
        differ[name] = sum(a != b for a, b in zip(counts, slowly, strict=True))
    # rounding of a moving average by convolution can make or lose a peak of prominence 0
    if max(differ.values()) > len(counts) // 20:
        raise SystemExit(f"the two ways differ in {differ} of {len(counts)} cells")
    report = {
        "machine": common.machine("cpu"),
        "discrimination": {
            "tokens": asked.tokens, "width": asked.width, "pairs": asked.tokens * (asked.tokens - 1) // 2, **discrimination,
            "difference": difference,
            "ratio_of_time": discrimination["slow"]["seconds"] / discrimination["ours"]["seconds"],
            "ratio_of_time_with_interval": discrimination["slow"]["seconds"] / discrimination["ours_with_interval"]["seconds"],
            "ratio_of_memory": discrimination["slow"]["bytes"] / discrimination["ours"]["bytes"],
        },
        "segmentation": {
            "cells": len(counts), "frames": len(frames), "width": asked.width, "seconds": seconds,
            "cells_that_differ": differ,
            "ratio": seconds["cell_by_cell"] / seconds["ours"],
            "ratio_with_z_scores_kept": seconds["cell_by_cell_with_z_scores_kept"] / seconds["ours"],
        },
    }  # fmt: skip
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
