"""How fast is SpEAT? Permutation tests of all layers at once against a loop over permutations and layers.

    python benchmarks/speat.py [--layers 25] [--permutations 100000] [--items 60] [-o FILE.json]

The slow way is what scripts do: cosines once, then one relabelling after another for every layer. It is timed on
``--slow-permutations`` of each layer and multiplied up, as its cost is the same for every one. Both p agree within
Monte Carlo error (largest difference in standard errors is reported), d to rounding.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import common
import numpy as np

from layertool.analysis import speat

WIDTH = 1024


def embeddings(n_layers: int, n: int) -> tuple[np.ndarray, ...]:
    """Layers (n_layers, n, WIDTH) of X, Y, A, B with a small planted bias."""
    random = np.random.default_rng(0)
    parts = [random.standard_normal((n_layers, n, WIDTH)) for _ in range(4)]
    for part, shift in zip(parts, (0.004, 0.0, 0.2, -0.2), strict=True):
        part += shift
    return tuple(parts)


def fast(x, y, a, b, n_permutations: int) -> tuple[np.ndarray, np.ndarray]:
    s = speat.associations(np.concatenate([x, y], axis=1), a, b)
    return speat.effect_sizes(s, x.shape[1]), speat.permutation_p(s, x.shape[1], n_permutations, "greater", 0)[0]


def slow_associations(x, y, a, b) -> np.ndarray:
    w = np.concatenate([x, y])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (w, a, b)]
    return (unit[0] @ unit[1].T).mean(1) - (unit[0] @ unit[2].T).mean(1)


def slow_layer(s: np.ndarray, n: int, n_permutations: int) -> tuple[float, float]:
    observed = s[:n].mean() - s[n:].mean()
    random = np.random.default_rng(1)
    hits = 1
    for _ in range(n_permutations - 1):
        order = random.permutation(len(s))
        hits += s[order[:n]].mean() - s[order[n:]].mean() >= observed
    return observed / s.std(ddof=1), hits / n_permutations


def rows(report: dict) -> list[common.Row]:
    agreement = common.agree("d", report["largest_difference_of_d"], 1e-9)
    common.agree("p, in standard errors", report["largest_difference_of_p_in_standard_errors"], 5)
    return [
        common.Row(
            "speat", f"{report['permutations']} SpEAT permutations of {report['layers']} layers", "permutations one by one",
            report["ratio"], f"d: {agreement}, p within Monte Carlo error", {"seconds": report["fast_s"]}, {"seconds": report["slow_s"]},
        )
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--permutations", type=int, default=100_000)
    parser.add_argument("--slow-permutations", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    parts = embeddings(asked.layers, asked.items)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        d, p = fast(*parts, asked.permutations)
        times.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    s = [slow_associations(*layer) for layer in zip(*parts, strict=True)]
    once = time.perf_counter() - begun
    begun = time.perf_counter()
    slow = np.array([slow_layer(layer, asked.items, asked.slow_permutations) for layer in s])
    slow_s = once + (time.perf_counter() - begun) * asked.permutations / asked.slow_permutations
    error = np.sqrt(p * (1 - p) * (1 / asked.permutations + 1 / asked.slow_permutations))
    report = {
        "machine": common.machine("cpu"),
        "layers": asked.layers,
        "permutations": asked.permutations,
        "items_per_group": asked.items,
        "fast_s": min(times),
        "slow_s": slow_s,
        "ratio": slow_s / min(times),
        "largest_difference_of_d": float(np.abs(d - slow[:, 0]).max()),
        "largest_difference_of_p_in_standard_errors": float((np.abs(p - slow[:, 1]) / error).max()),
        "p_from": float(p.min()),
        "p_to": float(p.max()),
    }
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
