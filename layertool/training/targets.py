"""What masked prediction predicts: the k-means cluster of every frame of a corpus (Hsu et al. 2021; spec speat.md 3.3).

Stage 1 clusters log mel energies, every 10 ms; stage 2 frames of a layer of a network that stage 1 trained, read from a
store.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash

from layertool.account import number
from layertool.analysis.mi import Clusters, fit_clusters
from layertool.audio import read_utterance
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, StoreError, UsageError
from layertool.files import whole_file
from layertool.geometry import FRAME_HOP, SAMPLE_RATE
from layertool.models import melhubert
from layertool.models.open import Model
from layertool.store import FeatureStore

FILE = "targets.npz"  # in the folder of a run
MAX_FRAMES = 500_000  # that clusters are fitted on, drawn from all there are
BATCH_SIZE, MAX_ITER = 10_000, 100  # of mini-batch k-means, as HuBERT's own (fairseq, simple_kmeans)
TOLERANCE = 2  # frames by which features and targets of one utterance may differ in number: the ends of their windows

_SAID = ("hop", "n_fitted", "distortion", "variance", "decided")  # of a file, beside its arrays


@dataclass(frozen=True)
class Frames:
    """Frames of a corpus that can be clustered.

    ``blocks()``: all of them, in the order of the corpus, as (rows, width) arrays; ``counts``: of each utterance;
    ``hop``: samples from one to the next; ``decided``: what decides their values.
    """

    blocks: Callable[[], Iterator[np.ndarray]]
    counts: dict[str, int]
    hop: int
    decided: dict


def mel_frames(corpus: Corpus, statistics: str = melhubert.DEFAULT_STATISTICS) -> Frames:
    """Stage 1: the 40 log mel energies of ``melhubert.features`` every 10 ms. Utterances under 25 ms have none."""
    geometry = melhubert.GEOMETRIES[10]
    rows = corpus.utterances.to_dict("records")
    counts = {row["utterance"]: geometry.n_frames(int(row["n_samples"])) for row in rows}

    def blocks() -> Iterator[np.ndarray]:
        for row in rows:
            if expected := counts[row["utterance"]]:
                values = melhubert.features(read_utterance(row), 10, statistics)
                check_count(row["utterance"], len(values), expected)
                yield values

    named = melhubert.name_statistics(statistics)
    return Frames(blocks, counts, FRAME_HOP, {"features": "log mel energies, 40, every 10 ms", "statistics": named})


def layer_frames(store: FeatureStore, layer: str, corpus: Corpus) -> Frames:
    """Stage 2: the frames of a layer in a store of the same corpus.

    Raises UsageError for a layer or unit that the store has not, and for one made with masked frames; StoreError for a
    store of another corpus.
    """
    if "frame" not in store.units:
        raise UsageError(
            f"{store.path} has no frames, only {', '.join(store.units)}: extract again with --units frame, into "
            "another store"
        )
    codes = store.row_table("frame", layer)["utterance"]  # refuses an unknown layer
    if store.is_masked:
        raise UsageError(f"{store.path} was made with masked frames: extract again without --mask-seed")
    if store.configuration["corpus"] != corpus.fingerprint:
        raise StoreError(
            f"{store.path} is of another corpus than {corpus.name}: targets need frames of the utterances that "
            "are trained on"
        )
    if (np.diff(codes) < 0).any():
        raise StoreError(f"{store.path} does not have its frames in the order of its utterances: extract it again")
    about, model = store.about["layers"][layer], store.configuration["model"]
    geometry = {"hop": FRAME_HOP} if about.get("frame_average") else about.get("geometry")  # fast ones have 10 ms
    if geometry is None:
        raise UsageError(f"layer {layer} of {store.path} has no frames of audio: choose another")
    ids = store.utterances["utterance"].tolist()
    counts = dict(zip(ids, np.bincount(codes, minlength=len(ids)).tolist(), strict=True))
    decided = {
        "features": f"layer {layer}",
        "store": {key: model.get(key) for key in ("id", "revision", "sha256", "step", "statistics")},
        "store_hash": store.about["configuration_hash"],
    }
    return Frames(lambda: store.blocks("frame", layer), counts, int(geometry["hop"]), decided)


@dataclass(frozen=True)
class Targets:
    """The cluster of every frame of a corpus.

    ``labels``: of all frames, one after the other; ``ends``: utterance -> (first, one past the last) of its own;
    ``hop``: samples between frames; ``n_clusters`` that there are, ``used`` by any frame; ``distortion``: mean squared
    distance of a frame from its centroid, over the ``n_fitted`` frames that clusters were fitted on, in squared units
    of the features; ``variance``: the same from their mean.
    """

    labels: np.ndarray
    ends: dict[str, tuple[int, int]]
    centroids: np.ndarray
    hop: int
    n_fitted: int
    distortion: float
    variance: float
    decided: dict

    @property
    def n_clusters(self) -> int:
        return len(self.centroids)

    @property
    def used(self) -> int:
        return len(np.unique(self.labels))

    def of(self, utterance: str, hop: int, n_frames: int) -> np.ndarray:
        """The clusters of an utterance for a network with a frame every ``hop`` samples, ``n_frames`` of them: every
        second one of labels at 100 Hz for a network at 50 Hz (spec 3.3). There may be up to ``TOLERANCE`` more or
        fewer.

        Raises CorpusError for an utterance without targets or with another number, UsageError for targets of another
        rate.
        """
        first, stop = self.ends.get(utterance, (0, 0))
        labels = self.labels[first:stop][:: _take_every(self.hop, hop)]
        _check_number(utterance, len(labels), n_frames, hop)
        return labels


def made_up(frames: Frames) -> Targets:
    """One cluster for all frames: for those who try out a training before its targets are made."""
    labels = np.zeros(sum(frames.counts.values()), np.int64)
    return Targets(labels, _ends(frames), np.zeros((1, 1)), frames.hop, 0, 0.0, 0.0, {})


def _take_every(hop: int, of_network: int) -> int:
    """Which of the targets with ``hop`` samples between them a network takes: each, every second, …"""
    if of_network % hop:
        raise UsageError(
            f"targets every {_ms(hop)} ms do not fit a network with frames every {_ms(of_network)} ms: take features "
            "at its rate or at twice that"
        )
    return of_network // hop


def check_fit(frames: Frames, utterances: Iterable[tuple[str, int]], hop: int, n_clusters: int) -> None:
    """Raise before anything is clustered what ``make_targets`` and ``Targets.of`` would raise.

    ``utterances``: ids, each with the number of the network's frames; ``hop``: samples between these.
    """
    n_frames = sum(frames.counts.values())
    if n_frames < n_clusters:
        raise UsageError(
            f"{n_clusters} clusters need at least as many frames, but the corpus has {n_frames}: type --clusters "
            f"{n_frames} or fewer, or take more audio"
        )
    every = _take_every(frames.hop, hop)
    for utterance, n in utterances:
        _check_number(utterance, -(-frames.counts.get(utterance, 0) // every), n, hop)


def _check_number(utterance: str, n_targets: int, n_frames: int, hop: int) -> None:
    if not n_targets:
        raise CorpusError(
            f"utterance '{utterance}' has no targets: it is missing from the store that they come from; extract it "
            "again, or leave the utterance out of the corpus"
        )
    if abs(n_targets - n_frames) > TOLERANCE:
        raise CorpusError(
            f"utterance '{utterance}' has {n_targets} targets, but {n_frames} frames (every {_ms(hop)} ms): make the "
            "targets from the same audio"
        )


def _ms(hop: int) -> str:
    return f"{1000 * hop / SAMPLE_RATE:g}"


def check_count(utterance: str, found: int, expected: int) -> None:
    """Raise CorpusError where the audio of an utterance is not as long as its corpus says."""
    if found != expected:
        raise CorpusError(
            f"utterance '{utterance}' gives {found} frames, but its corpus promises {expected}: its audio has "
            "changed; make the corpus again"
        )


def make_targets(
    frames: Frames,
    n_clusters: int,
    seed: int = 0,
    max_frames: int = MAX_FRAMES,
    say: Callable[[str], object] | None = None,
    known: Targets | None = None,
) -> Targets:
    """Cluster frames (``layertool.analysis.mi.fit_clusters``) and assign every one to its nearest centroid.

    Clusters are fitted on up to ``max_frames``, drawn without replacement from ``seed``; or they are those of ``known``
    targets, of the same features. Raises UsageError for fewer frames than clusters, FeatureError for values that are
    not finite.
    """
    check_fit(frames, [], frames.hop, 0 if known else n_clusters)
    if known is None and max_frames < n_clusters:
        raise UsageError(f"{n_clusters} clusters cannot be fitted on {max_frames} frames: take as many or more")
    n_frames = sum(frames.counts.values())
    drawn = _drawn(frames, n_frames, max_frames, seed)
    if known is not None:
        clusters = Clusters(known.centroids)
    else:
        if say:
            say(f"clustering {number(len(drawn))} of {number(n_frames)} frames")
        clusters = fit_clusters(drawn, n_clusters, batch_size=BATCH_SIZE, max_iter=MAX_ITER, seed=seed)
    made = Targets(
        np.empty(n_frames, np.min_scalar_type(-n_clusters)),
        _ends(frames),
        clusters.centroids,
        frames.hop,
        len(drawn),
        _distortion(clusters, drawn),
        float(drawn.var(axis=0, dtype=np.float64).sum()),
        decided(frames, n_clusters, seed, max_frames, known),
    )
    del drawn
    done = 0
    for block in frames.blocks():
        made.labels[done : done + len(block)] = clusters.assign(block)
        done += len(block)
    if say:
        say(describe(made))
    return made


def _ends(frames: Frames) -> dict[str, tuple[int, int]]:
    stops = np.cumsum(list(frames.counts.values())).tolist()
    return dict(zip(frames.counts, pairwise([0, *stops]), strict=True))


def decided(frames: Frames, n_clusters: int, seed: int, max_frames: int, known: Targets | None = None) -> dict:
    """What decides the targets that ``make_targets`` makes."""
    if known is not None:
        digest = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(known.centroids).tobytes())
        return {**frames.decided, "clusters": len(known.centroids), "centroids": digest}
    return {**frames.decided, "clusters": n_clusters, "max_frames": max_frames, "seed": seed}


def learned(model: Model, frames: Frames, n_clusters: int) -> Targets | None:
    """The targets that a MODEL was trained on, where it lies in the folder of its run: clusters are numbered at will,
    and a network tells their numbers. None where its run is not known.

    Raises UsageError where ``frames`` are other features than it learned clusters of, or the clusters are others in
    number.
    """
    path = model.path.resolve().parent / FILE
    if not model.path.is_dir() or not path.exists():
        return None
    known = load(path)
    features = [
        {key: of.get(key) for key in ("features", "statistics", "store")} for of in (known.decided, frames.decided)
    ]
    if features[0] != features[1]:
        raise UsageError(
            f"{model} learned clusters of {_named(known.decided)}, not of {_named(frames.decided)}: give the "
            "--targets and --statistics of its training"
        )
    if len(known.centroids) != n_clusters:
        raise UsageError(
            f"{model} tells {n_clusters} clusters, and {path} has {len(known.centroids)}: it is of another run"
        )
    return known


def _named(decided: dict) -> str:
    said, model = str(decided.get("features")), (decided.get("store") or {}).get("id")
    said += f" of {model}" if model else ""
    return said + (f", statistics {decided['statistics']}" if decided.get("statistics") else "")


def describe(targets: Targets) -> str:
    """How well clusters describe the frames, for a person."""
    share = targets.distortion / targets.variance if targets.variance else 0.0
    return (
        f"{targets.used} of {targets.n_clusters} clusters are used; mean squared distance from their centroids "
        f"{targets.distortion:.3g} ({100 * share:.0f} % of the variance)"
    )


def _drawn(frames: Frames, n_frames: int, max_frames: int, seed: int) -> np.ndarray:
    """Up to ``max_frames`` of all frames, in their order."""
    chosen = np.arange(n_frames)
    if n_frames > max_frames:
        random = np.random.default_rng([seed, 2])
        chosen = np.sort(random.choice(n_frames, max_frames, replace=False, shuffle=False))
    parts, done = [], 0
    for block in frames.blocks():
        first, stop = np.searchsorted(chosen, [done, done + len(block)])
        parts.append(block[chosen[first:stop] - done])
        done += len(block)
    if done != n_frames:
        raise StoreError(f"there are {done} frames instead of {n_frames}: make the store or the corpus again")
    return np.concatenate(parts)


def _distortion(clusters: Clusters, rows: np.ndarray) -> float:
    parts = (rows[start : start + 65536].astype(np.float64) for start in range(0, len(rows), 65536))
    return sum(float(((part - clusters.centroids[clusters.assign(part)]) ** 2).sum()) for part in parts) / len(rows)


def save(targets: Targets, path: Path) -> None:
    """Write targets as one .npz without pickles, whole or not at all."""
    about = {name: getattr(targets, name) for name in _SAID} | {"utterances": list(targets.ends)}
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    ends = np.array(list(targets.ends.values()), np.int64).reshape(-1, 2)
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, labels=targets.labels, ends=ends, centroids=targets.centroids, about=text)


def load(path: Path) -> Targets:
    """Read what ``save`` wrote. Raises StoreError for a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes().decode())
            ends = dict(zip(about["utterances"], map(tuple, file["ends"].tolist()), strict=True))
            return Targets(file["labels"], ends, file["centroids"], **{name: about[name] for name in _SAID})
    except (OSError, ValueError, KeyError, EOFError, RecursionError, zipfile.BadZipFile) as error:
        raise StoreError(
            f"{path} is not readable as targets ({error}): remove it, and the same command makes them again"
        ) from error
