"""MelHuBERT's input against the golden numbers of spec speat.md 2 and 3.1, and plain NumPy (melhuberts.py)."""

from __future__ import annotations

import json
import math

import melhuberts
import numpy as np
import pytest

from layertool.errors import AudioError, ModelError, UsageError
from layertool.models import melhubert
from layertool.models.melhubert import input as melhubert_input


def near(values, expected, tolerance=1e-5) -> bool:
    return np.abs(np.asarray(values) - np.asarray(expected)).max() < tolerance


def chirp() -> np.ndarray:
    n = np.arange(16_000)
    wave = 0.3 * np.sin(2 * np.pi * (200 + 300 * n / 16_000) * n / 16_000) + 0.1 * np.sin(
        2 * np.pi * 1234.5 * n / 16_000
    )
    return wave.astype(np.float32)


@pytest.fixture(scope="module")
def tables() -> dict:
    return json.loads(melhubert_input._TABLES.read_text())


def test_the_statistics_are_the_published_ones(tables, shared):
    assert tables == json.loads((shared / "spec" / "data" / "melhubert_mean_std.json").read_text())
    for hours, of in tables.items():
        mean, deviation = melhubert_input.table(hours)
        assert mean.dtype == np.float64
        assert (mean.tolist(), deviation.tolist()) == (of["mean"], of["std"])
    assert near(tables["960"]["mean"][:3], [11.8576, 12.9643, 13.795], 1e-4)
    assert near(tables["360"]["std"][:3], [3.4008, 4.0265, 4.4414], 1e-4)


@pytest.mark.parametrize("stride", [10, 20])
@pytest.mark.parametrize("statistics", ["100", "360", "960"])
def test_features_equal_plain_numpy(tables, stride, statistics):
    got = melhubert.features(chirp(), stride, statistics)
    expected = melhuberts.inputs(chirp(), stride, tables[statistics]["mean"], tables[statistics]["std"])
    assert got.dtype == np.float32
    assert got.shape == expected.shape == {10: (98, 40), 20: (49, 80)}[stride]
    assert near(got, expected, 2e-4)


def test_golden_energies(tables):
    of = tables["960"]
    raw = melhubert.features(chirp(), 10) * np.array(of["std"]) + np.array(of["mean"])
    assert near([raw.mean(), raw.std(ddof=1)], [14.559062, 3.810639])
    assert near(raw[0, :6], [12.799132, 17.997492, 21.948395, 23.040615, 20.454409, 14.030913], 2e-4)
    assert near(raw[50, :6], [12.620795, 13.499604, 13.222257, 13.716401, 14.432179, 13.477414], 2e-4)
    assert near(raw[97, 36:], [12.733665, 12.736114, 12.748143, 12.793207], 2e-4)


def test_frames_are_stacked_two_by_two_and_an_odd_last_one_with_zeros():
    wave = chirp()[: 400 + 4 * 160]
    fast, slow = melhubert.features(wave, 10), melhubert.features(wave, 20)
    assert (fast.shape, slow.shape) == ((5, 40), (3, 80))
    assert np.array_equal(slow[:, :40], fast[0::2])
    assert np.array_equal(slow[:2, 40:], fast[1::2])
    assert not slow[2, 40:].any()  # of normalised frames


def test_the_geometry_tells_the_number_of_frames_of_every_length():
    wave = chirp()
    for n in range(400, 4_001):
        n_fast = 1 + (n - 400) // 160
        assert melhubert.GEOMETRIES[10].n_frames(n) == n_fast
        assert melhubert.GEOMETRIES[20].n_frames(n) == math.ceil(n_fast / 2)
    for n in [*range(400, 4_001, 53), *(400 + 160 * k - 1 for k in range(1, 22)), *(400 + 160 * k for k in range(22))]:
        for stride in (10, 20):
            assert len(melhubert.features(wave[:n], stride)) == melhubert.GEOMETRIES[stride].n_frames(n), (n, stride)
    assert [g.n_frames(399) for g in melhubert.GEOMETRIES.values()] == [0, 0]
    assert (melhubert.GEOMETRIES[20].hop, melhubert.GEOMETRIES[20].field) == (320, 560)


def test_long_audio_is_computed_in_blocks_that_do_not_show():
    wave = np.tile(chirp(), 45)  # more than 4096 frames
    got = melhubert.features(wave, 10)
    for first in (0, 4_090, 4_400):
        part = melhubert.features(wave[160 * first : 160 * first + 400 + 160 * 9], 10)
        assert np.array_equal(got[first : first + 10], part)


@pytest.mark.parametrize("wave", [np.zeros(399, np.float32), np.zeros((2, 800), np.float32), np.zeros(800, np.int16)])
def test_waveforms_that_are_none(wave):
    with pytest.raises(AudioError, match="MelHuBERT"):
        melhubert.features(wave)


def test_statistics_and_strides_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="choose 100, 360, 960"):
        melhubert.features(chirp(), 20, "500")
    with pytest.raises(UsageError, match="choose 10 or 20"):
        melhubert.features(chirp(), 15)
    with pytest.raises(UsageError, match="cannot be read"):
        melhubert.features(chirp(), 20, tmp_path / "none.npy")
    np.save(tmp_path / "objects.npy", np.array([{}]))
    np.save(tmp_path / "turned.npy", np.ones((40, 2)))
    for name in ("objects.npy", "turned.npy"):
        with pytest.raises(UsageError, match=r"\(2, 40\)"):
            melhubert.features(chirp(), 20, tmp_path / name)
    np.save(tmp_path / "own.npy", np.stack(melhubert_input.table("360")))
    assert np.array_equal(melhubert.features(chirp(), 20, tmp_path / "own.npy"), melhubert.features(chirp(), 20, "360"))
    assert melhubert.name_statistics(tmp_path / "own.npy").startswith("sha256:")
    melhubert_input._tables.cache_clear()
    monkeypatch.setattr(melhubert_input, "_TABLES", tmp_path / "gone.json")
    with pytest.raises(ModelError, match="install layertool again"):
        melhubert.features(chirp())
    melhubert_input._tables.cache_clear()
