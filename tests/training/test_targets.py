"""The cluster of every frame: nearest centroids one by one, rates and numbers of frames, stores."""

from __future__ import annotations

import models
import numpy as np
import pytest

import layertool
from layertool.analysis.mi import fit_clusters
from layertool.errors import AudioError, CorpusError, StoreError, UsageError
from layertool.geometry import FrameGeometry
from layertool.models import melhubert
from layertool.training import targets as module
from layertool.training.targets import Frames, check_fit, layer_frames, load, make_targets, mel_frames, save

W2V2 = FrameGeometry(320, 400)
LENGTHS = [4000, 7919, 399, 16001, 5600]


def corpus(folder):
    return models.corpus(folder, [models.speech_like(n, k) for k, n in enumerate(LENGTHS)])


def frames(n=(3, 0, 40, 17), width=3, hop=160, seed=0) -> Frames:
    random = np.random.default_rng(seed)
    blocks = [random.standard_normal((k, width)).astype(np.float32) + 3 * random.integers(0, 3, (k, 1)) for k in n]
    return Frames(lambda: iter(blocks), {f"u{k}": length for k, length in enumerate(n)}, hop, {"features": "made up"})


def nearest(rows, centroids) -> list[int]:
    """One by one, in float64."""
    return [min(range(len(centroids)), key=lambda k: sum((row.astype(float) - centroids[k]) ** 2)) for row in rows]


def test_every_frame_has_its_nearest_centroid(tmp_path):
    given = frames()
    made = make_targets(given, 5, seed=3)
    rows = np.concatenate(list(given.blocks()))
    assert made.labels.tolist() == nearest(rows, made.centroids)
    assert made.ends == {"u0": (0, 3), "u1": (3, 3), "u2": (3, 43), "u3": (43, 60)}
    assert made.distortion == pytest.approx(
        np.mean([sum((r - made.centroids[k]) ** 2) for r, k in zip(rows, made.labels, strict=True)]), rel=1e-6
    )
    assert made.variance == pytest.approx(((rows - rows.mean(0)) ** 2).sum(1).mean(), rel=1e-5)
    assert made.distortion < 0.5 * made.variance
    assert (made.used, made.n_clusters, made.n_fitted) == (len(set(made.labels.tolist())), 5, 60)
    again = make_targets(frames(), 5, seed=3)
    assert (again.labels == made.labels).all()
    assert (make_targets(frames(), 5, seed=4).centroids != made.centroids).any()
    save(made, tmp_path / "t.npz")
    there = load(tmp_path / "t.npz")
    assert (there.labels == made.labels).all()
    assert there.labels.dtype == made.labels.dtype == np.int8
    assert (there.centroids == made.centroids).all()
    assert (there.ends, there.hop, there.decided, there.distortion) == (made.ends, 160, made.decided, made.distortion)
    assert there.decided["clusters"] == 5


def test_clusters_are_fitted_on_frames_drawn_from_all():
    given = frames((100, 0, 300, 77), seed=1)
    rows = np.concatenate(list(given.blocks()))
    made = make_targets(given, 4, seed=9, max_frames=50)
    chosen = sorted(np.random.default_rng([9, 2]).choice(477, 50, replace=False, shuffle=False))
    assert len(set(chosen)) == 50
    assert min(chosen) < 100
    assert max(chosen) >= 400
    wanted = fit_clusters(rows[chosen], 4, batch_size=module.BATCH_SIZE, max_iter=module.MAX_ITER, seed=9)
    assert (made.centroids == wanted.centroids).all()
    assert made.n_fitted == 50
    assert made.labels.tolist() == nearest(rows, made.centroids)
    told = []
    make_targets(given, 4, max_frames=50, say=told.append)
    assert told[0] == "clustering 50 of 477 frames"
    assert "4 of 4 clusters are used" in told[1]


def test_frames_of_stage_1_are_the_input_of_a_10_ms_network(tmp_path):
    speech = corpus(tmp_path)
    given = mel_frames(speech, "100")
    assert given.counts == {"u0": 23, "u1": 47, "u2": 0, "u3": 98, "u4": 33}
    blocks = list(given.blocks())
    assert [len(block) for block in blocks] == [23, 47, 98, 33]
    assert (blocks[1] == melhubert.features(models.speech_like(LENGTHS[1], 1), 10, "100")).all()
    assert given.decided["statistics"] == "100"
    made = make_targets(given, 6)
    assert made.of("u3", 160, 98).tolist() == made.labels[70:168].tolist()


def test_a_network_at_50_hz_takes_every_second_label():
    made = make_targets(frames((9, 40, 3)), 4)
    assert made.of("u0", 320, 5).tolist() == made.labels[[0, 2, 4, 6, 8]].tolist()
    assert made.of("u1", 320, 20).tolist() == made.labels[9:49:2].tolist()
    assert made.of("u0", 160, 9).tolist() == made.labels[:9].tolist()
    with pytest.raises(UsageError, match="targets every 20 ms do not fit a network with frames every 10 ms"):
        make_targets(frames(hop=320), 3).of("u0", 160, 3)


@pytest.mark.parametrize(
    "geometry", [melhubert.GEOMETRIES[10], melhubert.GEOMETRIES[20], W2V2], ids=["10", "20", "w2v2"]
)
def test_labels_of_mel_frames_are_as_many_as_the_frames_of_every_network(geometry):
    """Nothing has to be cut or made up, whatever the length."""
    lengths = np.arange(400, 3000)
    for n in lengths.tolist():
        labels = np.arange(melhubert.GEOMETRIES[10].n_frames(n))
        assert len(labels[:: geometry.hop // 160]) == geometry.n_frames(n)


@pytest.mark.parametrize("off", [-3, -2, -1, 0, 1, 2, 3])
def test_up_to_two_frames_more_or_fewer_pass(off):
    given = frames((30, 40))
    made = make_targets(given, 4)
    if abs(off) < 3:
        assert len(made.of("u1", 160, 40 + off)) == 40
        check_fit(given, [("u1", 40 + off)], 160, 4)
        return
    for attempt in (
        lambda: made.of("u1", 160, 40 + off),
        lambda: check_fit(given, [("u0", 30), ("u1", 40 + off)], 160, 4),
    ):
        with pytest.raises(CorpusError, match=rf"'u1' has 40 targets, but {40 + off} frames \(every 10 ms\)"):
            attempt()


def test_an_utterance_without_targets_is_named():
    made = make_targets(frames(), 4)
    for utterance in ("u1", "elsewhere"):
        with pytest.raises(CorpusError, match=f"'{utterance}' has no targets"):
            made.of(utterance, 160, 10)
    with pytest.raises(CorpusError, match="'elsewhere' has no targets"):
        check_fit(frames(), [("u0", 3), ("elsewhere", 4)], 160, 4)


def test_more_clusters_than_frames():
    for attempt in (lambda: make_targets(frames(), 61), lambda: check_fit(frames(), [], 160, 61)):
        with pytest.raises(
            UsageError, match="61 clusters need at least as many frames, but the corpus has 60: type --clusters 60"
        ):
            attempt()
    with pytest.raises(UsageError, match="20 clusters cannot be fitted on 10 frames"):
        make_targets(frames(), 20, max_frames=10)


def test_frames_of_a_layer_in_a_store(tmp_path):
    speech = corpus(tmp_path / "c")
    speech = layertool.Corpus.build(speech.utterances[speech.utterances["n_samples"] >= 400][["utterance", "audio"]])
    store = layertool.extract("fbank", speech, tmp_path / "s", units=("frame", "utterance"), shard_seconds=1.0)
    (layer,) = store.layers
    given = layer_frames(store, layer, speech)
    assert given.hop == 160
    assert given.counts == {"u0": 23, "u1": 47, "u3": 98, "u4": 33}
    made = make_targets(given, 6)
    rows = store.read("frame", layer)
    assert made.labels.tolist() == nearest(rows, made.centroids)
    of_u3 = store.rows("frame")["utterance"] == "u3"
    assert made.of("u3", 160, 98).tolist() == made.labels[of_u3].tolist()
    with pytest.raises(UsageError, match=r"no layer 'T7' at unit frame \(it has"):
        layer_frames(store, "T7", speech)
    other = layertool.Corpus.build(speech.utterances.iloc[:2][["utterance", "audio"]], name="other")
    with pytest.raises(StoreError, match="of another corpus than other"):
        layer_frames(store, layer, other)
    pooled = layertool.extract("fbank", speech, tmp_path / "p", units=("utterance",))
    with pytest.raises(UsageError, match="has no frames, only utterance: extract again with --units frame"):
        layer_frames(pooled, layer, speech)


def test_audio_that_changed_or_is_not_finite(tmp_path):
    import soundfile

    speech = corpus(tmp_path)
    path = speech.utterances["audio"][1]
    soundfile.write(path, models.speech_like(6000, 1), 16000, subtype="FLOAT")
    with pytest.raises(CorpusError, match="'u1' gives 36 frames, but its corpus promises 47"):
        make_targets(mel_frames(speech), 4)
    waveform = models.speech_like(LENGTHS[1], 1)
    waveform[77] = np.nan
    soundfile.write(path, waveform, 16000, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        make_targets(mel_frames(speech), 4)


def test_a_damaged_file_of_targets(tmp_path):
    save(make_targets(frames(), 4), tmp_path / "t.npz")
    whole = (tmp_path / "t.npz").read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"x" * 100):
        (tmp_path / "t.npz").write_bytes(broken)
        with pytest.raises(StoreError, match="not readable as targets"):
            load(tmp_path / "t.npz")
