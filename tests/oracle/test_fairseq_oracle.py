"""fairseq itself as the oracle: checkpoints that it wrote, read without it, and every layer that it computed.

Needs the environment that ``.ci/fairseq-env FOLDER`` builds: LAYERTOOL_FAIRSEQ_PYTHON names its python.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import references

from layertool.errors import MissingExtraError, ModelError
from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window
from layertool.models import fairseq
from layertool.models.open import Model

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("LAYERTOOL_FAIRSEQ_PYTHON")
needs_fairseq = pytest.mark.skipif(
    not PYTHON, reason="the original fairseq is not here: set LAYERTOOL_FAIRSEQ_PYTHON=$(.ci/fairseq-env FOLDER)"
)
HERE = Path(__file__).parent
TOLERANCE = 1e-4
# name -> (family, normalise, is_finetuned)
WRITTEN = {
    "wav2vec2-base": ("wav2vec2", False, False),
    "wav2vec2-base-args": ("wav2vec2", False, False),
    "wav2vec2-base-omegaconf": ("wav2vec2", False, False),
    "wav2vec2-no-projection": ("wav2vec2", False, False),
    "wav2vec2-large": ("wav2vec2", True, False),
    "wav2vec2-large-args": ("wav2vec2", True, False),
    "wav2vec2-mixed": ("wav2vec2", False, False),
    "hubert-base": ("hubert", False, False),
    "hubert-base-omegaconf": ("hubert", False, False),
    "hubert-large": ("hubert", True, False),
    "hubert-batch-norm": ("hubert", False, False),
    "data2vec-audio": ("data2vec-audio", True, False),
    "data2vec-audio-args": ("data2vec-audio", True, False),
    "wav2vec2-base-ctc": ("wav2vec2", False, True),
    "wav2vec2-large-ctc": ("wav2vec2", True, True),
    "wav2vec2-base-ctc-args": ("wav2vec2", False, True),
    "hubert-base-ctc": ("hubert", False, True),
    "data2vec-audio-ctc": ("data2vec-audio", True, True),
}
# fairseq's padded batches give what its single clips give. Not so: GroupNorm families, whose statistics are over the
# padding too, HuBERT, which takes the frame that reaches into the padding for a valid one, and data2vec-audio, whose
# second positional convolution sees what the first made of the padding.
BATCHED_LIKE_SINGLE = {"wav2vec2-large", "wav2vec2-large-args", "wav2vec2-large-ctc"}


def run_there(script: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(PYTHON), str(HERE / script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """The folder with what fairseq wrote and computed."""
    folder = tmp_path_factory.mktemp("fairseq")
    run_there("write_and_run.py", str(folder))
    return folder


def errors(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """The worst absolute error of a number, the worst relative error of a frame."""
    return float(np.abs(got - expected).max(initial=0.0)), references.worst_row(got, expected)


def clips_of(file) -> list[np.ndarray]:
    return [file[f"waveform/{k}"] for k in range(sum(name.startswith("waveform/") for name in file.files))]


def layers_in(file, start: str) -> list[str]:
    return [name.removeprefix(start) for name in file.files if name.startswith(start)]


def extract(network, clips) -> list[dict[str, np.ndarray]]:
    """The clips as one batch through the extractor of transformers' models."""
    extractor = open_extractor(Model.of(network, "written by fairseq", False), "cpu")
    batch: dict[str, np.ndarray] = {}
    items = [Item(k, f"clip{k}", len(clip), Window(0, len(clip), 0, len(clip)), clip) for k, clip in enumerate(clips)]
    extractor.forward(items, list(extractor.layers), lambda name, frames: batch.update({name: frames.clone().numpy()}))
    return [
        {name: frames[k, : extractor.layers[name].geometry.n_frames(len(clip))] for name, frames in batch.items()}
        for k, clip in enumerate(clips)
    ]


@needs_fairseq
@pytest.mark.parametrize("name", WRITTEN)
def test_every_layer_equals_fairseqs(name, written, record_property):
    """One clip at a time, with odd and even numbers of frames; and one batch of ours against fairseq's single clips."""
    network, facts = fairseq.read(written / f"{name}.pt")
    assert (facts.family, facts.normalise, facts.is_finetuned) == WRITTEN[name]
    assert facts.step is not None
    assert facts.step >= 1000
    file = np.load(written / f"{name}.npz")
    clips = clips_of(file)
    assert {(len(clip) - 400) // 320 % 2 for clip in clips} == {0, 1}
    together = extract(fairseq.load(written / f"{name}.pt"), clips)
    worst: dict[str, tuple[float, float]] = {}
    for k, clip in enumerate(clips):
        names = layers_in(file, f"single/{k}/")
        assert [layer for layer in names if layer != "final"] == [
            *(f"C{i}" for i in range(1, 8)),
            "T0",
            "T1",
            "T2",
            "T3",
        ]
        assert ("final" in names) == bool(getattr(network.config, "do_stable_layer_norm", False))
        alone = extract(network, [clip])[0]
        assert set(alone) == set(names)
        for layer in names:
            expected = file[f"single/{k}/{layer}"]
            worst[f"{layer} alone"] = max(worst.get(f"{layer} alone", (0.0, 0.0)), errors(alone[layer], expected))
            worst[f"{layer} batched"] = max(
                worst.get(f"{layer} batched", (0.0, 0.0)), errors(together[k][layer], expected)
            )
            assert max(errors(alone[layer], expected)) < TOLERANCE, (layer, len(clip))
            assert max(errors(together[k][layer], expected)) < TOLERANCE, (layer, len(clip))
    record_property("worst", max(max(pair) for pair in worst.values()))


@needs_fairseq
@pytest.mark.parametrize("name", WRITTEN)
def test_fairseqs_own_padded_batches(name, written):
    file = np.load(written / f"{name}.npz")
    worst = 0.0
    for k in range(len(clips_of(file))):
        for layer in layers_in(file, f"single/{k}/"):
            expected = file[f"single/{k}/{layer}"]
            worst = max(worst, *errors(file[f"batch/{layer}"][k, : len(expected)], expected))
    assert (worst < TOLERANCE) == (name in BATCHED_LIKE_SINGLE), worst


@needs_fairseq
def test_other_weights_do_not_agree(written):
    """The comparison can fail: another checkpoint of the same shapes."""
    file = np.load(written / "wav2vec2-base.npz")
    got = references.speech_layers(fairseq.load(written / "wav2vec2-base-ctc.pt").double(), file["waveform/0"])
    assert min(errors(got[layer], file[f"single/0/{layer}"])[1] for layer in layers_in(file, "single/0/")) > 0.1


@needs_fairseq
def test_the_native_extractor_gives_what_fairseq_gives(written):
    names = [*WRITTEN, "wav2vec2-conformer"]
    run_there("run_native.py", str(written), *names)
    for name in names:
        file, native = np.load(written / f"{name}.npz"), np.load(written / f"{name}.native.npz")
        for k in range(len(clips_of(file))):
            layers = layers_in(file, f"single/{k}/")
            assert {*layers, "step"} == set(native.files)
            for layer in layers:
                expected = file[f"single/{k}/{layer}"]
                assert max(errors(native[layer][k, : len(expected)], expected)) < 1e-6, (name, layer)
                assert not native[layer][k, len(expected) :].any()


@needs_fairseq
def test_what_only_the_native_extractor_reads_says_so(written):
    with pytest.raises(ModelError, match=r"layer_type is 'conformer'.*fairseq-native:FILE"):
        fairseq.load(written / "wav2vec2-conformer.pt")


def test_without_fairseq_the_extra_is_named(tmp_path, monkeypatch):
    import fairseq_writer

    path = fairseq_writer.write("wav2vec2-base", tmp_path)
    monkeypatch.setitem(sys.modules, "fairseq", None)
    with pytest.raises(MissingExtraError, match=r"layertool\[fairseq\]"):
        open_extractor(f"fairseq-native:{path}", "cpu")


def test_native_refuses_what_is_refused_before_fairseq_is_asked(tmp_path):
    """The one setting that fairseq evaluates never reaches it as it stands in the file."""
    import fairseq_writer

    code = "__import__('pathlib').Path('exploded').touch() or [(24,10,5)]"
    cfg = fairseq_writer.settings("wav2vec2-base", "cfg", conv_feature_layers=code)
    path = fairseq_writer.write("wav2vec2-base", tmp_path, cfg=cfg)
    with pytest.raises(ModelError, match="conv_feature_layers"):
        open_extractor(f"fairseq-native:{path}", "cpu")
