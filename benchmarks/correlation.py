"""How fast are CCA and CKA? Ratios in one run, each against the slow way, after checking that both agree.

    python benchmarks/correlation.py [--rows 50000] [--layers 13] [--width 768] [--device auto] [-o FILE.json]

1. The held-out protocol (10 folds, 3 trials, all pairs of eps) of layers against 80 mel energies: moments of
   folds, against covariances, projections and QR from the rows of each fold, trial and eps.
2. The matrix of in-sample PWCCA between all layers, against two QR decompositions for each cell.
3. Debiased linear CKA from d x d products, against n x n Gram matrices, at 7000 rows.

The slow ways are timed on ``--slow-layers`` layers and ``--slow-cells`` cells and multiplied up: their cost is the
same for every one. Rows are smooth in time and have the spectrum of hidden states (eigenvalues over four decades);
values do not depend on the machine beyond rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
import torch

from layertool.analysis import cca, cka, matrix, protocols
from layertool.analysis.moments import fold_moments

N_FOLDS, N_TRIALS, SEED = 10, 3, 0
BLOCK = 8192


def hidden_states(n_rows: int, width: int, n_layers: int) -> Iterator[np.ndarray]:
    """Layers (n_rows, width), float32, each a mixture of the one before and of something new."""
    random = np.random.default_rng(SEED)
    scale = np.logspace(0, -2, width).astype(np.float32)
    layer = random.standard_normal((n_rows, width), dtype=np.float32)
    for _ in range(n_layers):
        mixing = np.linalg.qr(random.standard_normal((width, width)))[0].astype(np.float32)
        layer = 0.8 * layer + 0.6 * random.standard_normal((n_rows, width), dtype=np.float32)
        yield (layer * scale) @ mixing


def blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for first in range(0, len(rows), BLOCK):
        yield rows[first : first + BLOCK]


# --- 1. held-out protocol


def fast_protocol(x: np.ndarray, y: np.ndarray, folds: np.ndarray, device: str) -> protocols.Estimate:
    """With the chance level, which the slow way does without."""
    moments, control = fold_moments(folds, N_FOLDS, blocks(x), blocks(y), blocks(np.roll(y, len(y) // 2, 0)), device)
    return protocols.held_out(moments, control, ["pwcca"], n_trials=N_TRIALS, seed=SEED)["pwcca"]


def slow_protocol(x: np.ndarray, y: np.ndarray, folds: np.ndarray) -> list[float]:
    """Everything from the rows, for every trial and pair of eps, as the published code goes about it (spec 3.2, 10.2).

    It scores the training rows as well as the development rows. Columns are standardised, as here.
    """
    scores = []
    for dev, test in protocols.trials(N_FOLDS, N_TRIALS, SEED):
        train = (folds != dev) & (folds != test)
        x, y = (view / view[train].std(0, dtype=np.float64, ddof=1) for view in (x, y))
        best: tuple = (-np.inf, None)
        for eps_x in protocols.EPS_GRID:
            for eps_y in protocols.EPS_GRID:
                directions = fit_rows(x[train].astype(np.float64), y[train].astype(np.float64), eps_x, eps_y)
                pwcca_rows(x[train], y[train], *directions)
                score = pwcca_rows(x[folds == dev], y[folds == dev], *directions)
                best = max(best, (score, directions), key=lambda pair: pair[0])
        scores.append(pwcca_rows(x[folds == test], y[folds == test], *best[1]))
    return scores


def fit_rows(x: np.ndarray, y: np.ndarray, eps_x: float, eps_y: float) -> tuple[np.ndarray, np.ndarray]:
    covariance, d = np.cov(x.T, y.T), x.shape[1]
    sxx, syy, sxy = covariance[:d, :d], covariance[d:, d:], covariance[:d, d:]
    roots = []
    for own, eps in ((sxx, eps_x), (syy, eps_y)):
        scale = np.abs(own).max()
        values, vectors = np.linalg.eigh(np.linalg.pinv(own / scale + eps * np.eye(len(own)), hermitian=True))
        roots.append((vectors * np.sqrt(values)) @ vectors.T / np.sqrt(scale))
    u, _, vt = np.linalg.svd(roots[0] @ sxy @ roots[1], full_matrices=False)
    return roots[0] @ u, roots[1] @ vt.T


def pwcca_rows(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    x, y = x - x.mean(0, dtype=np.float64), y - y.mean(0, dtype=np.float64)
    left, right = x @ a, y @ b
    rho = (left * right).sum(0) / np.sqrt((left**2).sum(0) * (right**2).sum(0))
    scores = []
    for variates, view in ((left, x), (right, y)):
        weights = np.abs(np.linalg.qr(variates)[0].T @ view).sum(1)
        scores.append(weights @ rho / weights.sum())
    return sum(scores) / 2


# --- 2. layer by layer


def slow_cell(x: np.ndarray, y: np.ndarray) -> float:
    """PWCCA of one pair by QR of both views, as scripts do it in a double loop."""
    x, y = ((view - view.mean(0, dtype=np.float64)) / view.std(0, dtype=np.float64) for view in (x, y))
    qx, qy = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    u, rho, vt = np.linalg.svd(qx.T @ qy)
    weights = [np.abs(u.T @ (qx.T @ x)).sum(1), np.abs(vt @ (qy.T @ y)).sum(1)]
    return sum(float(w @ rho / w.sum()) for w in weights) / 2


# --- 3. CKA


def gram_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA from Gram matrices."""
    grams = [view @ view.T for view in (x - x.mean(0), y - y.mean(0))]
    n = len(x)
    for gram in grams:
        np.fill_diagonal(gram, 0.0)

    def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
        rows_k, rows_l = k.sum(0), l.sum(0)
        ends = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
        return (np.vdot(k, l) + ends - 2 / (n - 2) * (rows_k @ rows_l)) / (n * (n - 3))

    return hsic(*grams) / np.sqrt(hsic(grams[0], grams[0]) * hsic(grams[1], grams[1]))


def timed(call, *arguments, best_of: int = 1):
    """(seconds of the fastest call, its result)."""
    times = []
    for _ in range(best_of):
        begun = time.perf_counter()
        result = call(*arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times), result


def protocol_part(asked, device: str) -> dict:
    random = np.random.default_rng(SEED + 1)
    folds = np.repeat(random.permutation(np.arange(250) % N_FOLDS), -(-asked.rows // 250))[: asked.rows]
    fast_all, slow, fast_same, worst = 0.0, 0.0, 0.0, 0.0
    y = None
    for k, x in enumerate(hidden_states(asked.rows, asked.width, asked.layers)):
        if y is None:  # the target is what the first layer hears, and noise
            y = (x[:, :80] * 20 + random.standard_normal((asked.rows, 80))).astype(np.float32)
        seconds, estimate = timed(fast_protocol, x, y, folds, device)
        fast_all += seconds
        if k < asked.slow_layers:
            slow_seconds, scores = timed(slow_protocol, x, y, folds)
            slow, fast_same = slow + slow_seconds, fast_same + seconds
            worst = max(worst, float(np.abs(np.array(scores) - np.array(estimate.trials)).max()))
        print(f"layer {k + 1}: {estimate.value:.4f} (chance {estimate.chance:.4f}) in {seconds:.2f} s", flush=True)
    return {
        "fast_s_all_layers": fast_all,
        "slow_s_of_slow_layers": slow,
        "slow_layers": asked.slow_layers,
        "largest_difference": worst,
        "ratio": slow / fast_same,
    }


def matrix_part(asked, device: str) -> dict:
    layers = list(hidden_states(asked.rows, asked.width, asked.layers))
    measure = cca.InSampleCCA(needs_control=False)
    seconds, found = timed(
        lambda: matrix.fill(lambda _, k: blocks(layers[k]), range(len(layers)), None, measure, device=device)
    )
    cells = [(0, 1), (asked.layers // 2, asked.layers - 1), (2, 0), (5, 5)][: asked.slow_cells]
    slow = [timed(slow_cell, layers[i], layers[j]) for i, j in cells]
    difference = max(abs(value - found.value[cell]) for (_, value), cell in zip(slow, cells, strict=True))
    per_cell = sum(s for s, _ in slow) / len(slow)
    n_cells, n_pairs = len(layers) ** 2, len(layers) * (len(layers) + 1) // 2
    return {
        "fast_s": seconds,
        "slow_s_per_cell": per_cell,
        "slow_cells": len(cells),
        "largest_difference": float(difference),
        "ratio_to_all_cells": per_cell * n_cells / seconds,
        "ratio_to_half_of_the_cells": per_cell * n_pairs / seconds,
    }


def cka_part(asked) -> dict:
    x, y = (layer.astype(np.float64) for layer in hidden_states(7000, asked.width, 2))
    fast, value = timed(cka.linear, x, y, best_of=5)
    slow, expected = timed(gram_cka, x, y, best_of=5)
    return {"fast_s": fast, "slow_s": slow, "difference": abs(value - expected), "ratio": slow / fast}


def rows(report: dict) -> list[common.Row]:
    one, cells, folds = report["cka"], report["matrix"], report["held_out_protocol"]
    n = report["layers"]
    per_layer = folds["slow_s_of_slow_layers"] / folds["slow_layers"]
    return [
        common.Row(
            "cca/held-out", f"held-out CCA of a layer ({report['rows']} × {report['width']}) with 80 mel energies, and the chance level",
            "from the rows of each fold and eps", folds["ratio"], common.agree("held-out CCA", folds["largest_difference"], 1e-6),
            {"seconds": per_layer / folds["ratio"]}, {"seconds": per_layer},
        ),
        common.Row(
            "cca/matrix", f"{n} × {n} layers by in-sample PWCCA", "each cell by QR", cells["ratio_to_all_cells"],
            common.agree("PWCCA", cells["largest_difference"], 1e-6), {"seconds": cells["fast_s"]}, {"seconds": cells["slow_s_per_cell"] * n**2},
        ),
        common.Row(
            "cka", "debiased CKA of 7000 rows", "7000 × 7000 Gram matrices", one["ratio"], common.agree("CKA", one["difference"], 1e-9),
            {"seconds": one["fast_s"]}, {"seconds": one["slow_s"]},
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=13)
    parser.add_argument("--slow-layers", type=int, default=1)
    parser.add_argument("--slow-cells", type=int, default=3)
    parser.add_argument("--device", default="auto", help="cpu, cuda:0; of the fast ways")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    device = asked.device
    if device == "auto":
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
    report: dict = {"machine": common.machine(device), "rows": asked.rows, "width": asked.width, "layers": asked.layers}
    for name, part in (("cka", lambda: cka_part(asked)), ("matrix", lambda: matrix_part(asked, device)),
                       ("held_out_protocol", lambda: protocol_part(asked, device))):  # fmt: skip
        report[name] = part()
        print(json.dumps({name: report[name]}, indent=2), flush=True)
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
