"""The time mask of pre-training: its statistics, where it is put, what the store says of it.

Relative errors are those of the worst row. References are transformers' own forwards in float64.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import forking
import h5py
import models
import numpy as np
import pytest
import references
import safetensors.torch
import small
import torch
from click.testing import CliRunner

import layertool
from layertool.cli import cli
from layertool.errors import ModelError, StoreError, UsageError
from layertool.extractors import masking
from layertool.extractors.acoustic import AcousticExtractor
from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.extractors.masking import TimeMask
from layertool.geometry import FrameGeometry, Window, windows
from layertool.models.families import WAVEFORMS
from layertool.models.open import Model
from layertool.store import FeatureStore, layout, verify

MODEL_FRAMES = FrameGeometry(320, 400)
LENGTHS = (16_000, 400, 23_456, 719, 5_003, 40_000, 15_999, 8_080)
SEED = 7


def samples(n_frames: int) -> int:
    return 320 * (n_frames - 1) + 400


def mask(seed: int = SEED, probability: float = 0.65, length: int = 10) -> TimeMask:
    return TimeMask(seed, probability, length, MODEL_FRAMES)


def runs(masked: np.ndarray) -> np.ndarray:
    """Lengths of the stretches of masked frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], masked, [False]]).astype(int)))
    return edges[1::2] - edges[::2]


# --- the draw --------------------------------------------------------------------------------------


def test_the_mask_of_an_utterance_stays_what_it_was():
    """Golden: a store that is taken up by a later version must get the same mask."""
    masked = mask(0).frames("u0", samples(40))
    assert masked.dtype == bool
    assert np.flatnonzero(masked).tolist() == list(range(14, 27))


def test_as_many_frames_are_masked_as_in_the_papers():
    """wav2vec 2.0: 49% of 15 s, spans of 14.7 frames on average (appendix A); HuBERT: p = 8%."""
    drawn = [mask().frames(f"u{k}", samples(749)) for k in range(1_000)]
    assert np.mean(drawn) == pytest.approx(0.49, abs=0.005)
    assert np.mean(np.concatenate([runs(one) for one in drawn])) == pytest.approx(14.7, abs=0.15)
    hubert = [mask(probability=0.80).frames(f"u{k}", samples(749)) for k in range(1_000)]
    assert np.mean(hubert) == pytest.approx(1 - 0.92**10, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("probability", "length", "n_frames"), [(0.65, 10, 99), (0.8, 10, 61), (0.3, 7, 40)])
def test_frame_by_frame_as_often_masked_as_by_transformers(probability, length, n_frames):
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    np.random.seed(0)  # transformers draws from it
    n = 20_000
    # one call each: their rounding is shared by a batch
    theirs = np.mean([_compute_mask_indices((1, n_frames), probability, length)[0] for _ in range(n)], axis=0)
    ours = np.mean([mask(1, probability, length).frames(f"u{k}", samples(n_frames)) for k in range(n)], axis=0)
    assert np.abs(ours - theirs).max() < 6 * np.sqrt(0.5 / n)  # six standard errors of a difference


def test_the_number_of_spans_is_rounded_at_random():
    counts = [mask(probability=0.33, length=1).frames(f"u{k}", samples(50)).sum() for k in range(2_000)]
    assert set(counts) == {16, 17}
    assert np.mean(counts) == pytest.approx(16.5, abs=0.05)


def test_spans_are_whole_and_inside():
    for k in range(300):
        n_frames = 1 + k % 60
        masked = mask(probability=1.0).frames(f"u{k}", samples(n_frames))
        assert len(masked) == n_frames
        assert (runs(masked) >= 10).all()
        assert masked.any() == (n_frames >= 10)
    assert mask(probability=1.0, length=1).frames("u", samples(30)).all()
    assert mask().frames("u", 399).shape == (0,)


def test_the_mask_depends_on_seed_id_and_length_only():
    n_samples = samples(200)

    def draw(seed, utterance, n_samples=n_samples):
        return mask(seed).frames(utterance, n_samples)

    assert np.array_equal(draw(0, "u0"), draw(0, "u0"))
    assert np.array_equal(draw(0, "u0"), draw(0, "u0", n_samples + 319))  # as many frames
    others = [draw(0, "u0"), draw(0, "u1"), draw(1, "u0"), draw(-1, "u0"), draw(1, "0u"), draw(0, "é")]
    assert len({one.tobytes() for one in others}) == len(others)


def test_windows_see_their_part():
    for n_samples in (160_000, 163_217, 250_007):
        masked = mask().frames("u", n_samples)
        for window in windows(n_samples, 64_000, 16_000):
            part = mask().of_window(masked, window)
            assert len(part) == MODEL_FRAMES.n_frames(window.end - window.start)
            for i, value in enumerate(part):
                assert value == masked[window.start // 320 + i]


def test_rows_of_other_rates_go_with_the_frame_of_their_centre():
    n_samples = 9_999
    masked = mask().frames("u", n_samples)
    assert 0 < masked.sum() < len(masked)
    assert np.array_equal(mask().of_rows(masked, *MODEL_FRAMES.spans(len(masked))), masked)
    fast = FrameGeometry(160, 400)
    got = mask().of_rows(masked, *fast.spans(fast.n_frames(n_samples)))
    for i, value in enumerate(got):
        centre = 160 * i + 200
        covering = [j for j in range(len(masked)) if 320 * j + 40 <= centre < 320 * j + 360]  # 20 ms around 320j + 200
        assert value == masked[covering[0] if covering else -1]
    assert not mask().of_rows(np.zeros(0, bool), np.array([0]), np.array([240])).any()


def test_every_family_has_the_probability_of_its_pre_training():
    assert set(masking.PROBABILITY) == set(WAVEFORMS)
    assert masking.LENGTH == 10
    contrastive = {"wav2vec2", "data2vec-audio", "unispeech", "wav2vec2-conformer"}
    assert {name for name, value in masking.PROBABILITY.items() if value == 0.65} == contrastive
    assert {value for name, value in masking.PROBABILITY.items() if name not in contrastive} == {0.80}


# --- every family ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=list(models.FAMILIES))
def family(request, tmp_path_factory):
    """(name, extractor, the same weights as transformers loads them)."""
    folder = models.save(request.param, tmp_path_factory.mktemp(request.param))
    return request.param, open_extractor(str(folder)), references.load(folder)


def forward(extractor, waveforms, masks) -> list[dict[str, np.ndarray]]:
    """One batch through an extractor; each clip's own frames of each layer."""
    items = []
    for k, (waveform, masked) in enumerate(zip(waveforms, masks, strict=True)):
        item = Item(
            k, f"u{k}", len(waveform), Window(0, len(waveform), 0, len(waveform)), extractor.normalise(waveform)
        )
        item.masked = masked
        items.append(item)
    batch = {}
    extractor.forward(items, list(extractor.layers), lambda name, frames: batch.update({name: frames.clone().numpy()}))
    return [
        {name: batch[name][k, : layer.geometry.n_frames(len(waveform))] for name, layer in extractor.layers.items()}
        for k, waveform in enumerate(waveforms)
    ]


def transformers_layers(network, waveform, masked) -> dict[str, np.ndarray]:
    """T0, T1, ... and what comes out last, by transformers' own masking."""
    with torch.no_grad():
        out = network(
            torch.from_numpy(waveform.astype(np.float64))[None],
            mask_time_indices=None if masked is None else torch.from_numpy(masked)[None],
            output_hidden_states=True,
        )
    layers = {f"T{k}": state[0].numpy() for k, state in enumerate(out.hidden_states[:-1])}
    return {**layers, "last": out.last_hidden_state[0].numpy()}


@pytest.mark.slow
def test_masked_as_transformers_does(family, record_property):
    name, extractor, network = family
    waveform = models.speech_like(20_000, seed=3)
    masked = extractor.time_mask(SEED).frames("u", len(waveform))
    assert 10 <= masked.sum() < len(masked)
    got = forward(extractor, [waveform], [masked])[0]
    given = references.standardised(waveform) if models.FAMILIES[name][2] else waveform
    expected = transformers_layers(network, given, masked)
    last = "final" if "final" in extractor.layers else f"T{network.config.num_hidden_layers}"
    assert set(expected) == {"last"} | {f"T{k}" for k in range(network.config.num_hidden_layers)}
    errors = {key: references.worst_row(got[last if key == "last" else key], expected[key]) for key in expected}
    record_property("worst", max(errors.values()))
    assert max(errors.values()) < 1e-5, errors
    plain = transformers_layers(network, given, None)
    assert references.worst_row(got["T0"][masked], plain["T0"][masked]) > 0.1  # it would have been noticed


def test_a_masked_batch_equals_single_clips(family, record_property):
    _, extractor, _ = family
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    time_mask = extractor.time_mask(SEED)
    masks = [time_mask.frames(f"u{k}", len(waveform)) for k, waveform in enumerate(waveforms)]
    masks[2] = None  # an item without a mask among the others
    largest = 0.0
    for waveform, masked, got in zip(waveforms, masks, forward(extractor, waveforms, masks), strict=True):
        alone = forward(extractor, [waveform], [masked])[0]
        largest = max(largest, *(references.worst_row(got[name], alone[name]) for name in alone))
    record_property("worst", largest)
    assert largest < 1e-4


def test_no_mask_is_left_behind(family):
    _, extractor, _ = family
    waveform = models.speech_like(8_000, seed=3)
    before = forward(extractor, [waveform], [None])[0]
    masked = extractor.time_mask(SEED).frames("u", len(waveform))
    between = forward(extractor, [waveform], [masked])[0]
    after = forward(extractor, [waveform], [None])[0]
    for name in before:
        assert np.array_equal(before[name], after[name])
        assert np.array_equal(before[name], between[name]) == name.startswith("C")


def test_a_configuration_that_turns_masks_off_in_training_has_no_say(tmp_path):
    """transformers leaves mask_time_indices aside where apply_spec_augment is off."""
    waveform = models.speech_like(8_000, seed=3)
    extractors = [
        open_extractor(str(models.save("hubert-base", tmp_path / str(on), apply_spec_augment=on)))
        for on in (True, False)
    ]
    masked = extractors[0].time_mask(SEED).frames("u", len(waveform))
    on, off = (forward(extractor, [waveform], [masked])[0] for extractor in extractors)
    assert all(np.array_equal(on[name], off[name]) for name in on)


# --- whole runs ------------------------------------------------------------------------------------

UNITS = ("frame", "phone", "word", "utterance")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    waveforms = [models.speech_like(n_samples, seed) for seed, n_samples in enumerate(LENGTHS)]
    return models.corpus(tmp_path_factory.mktemp("corpus"), waveforms, models.random_segments(LENGTHS))


@pytest.fixture(scope="module")
def plain(model, corpus, tmp_path_factory):
    return layertool.extract(model, corpus, tmp_path_factory.mktemp("store") / "store", UNITS)


@pytest.fixture(scope="module")
def store(model, corpus, tmp_path_factory):
    """Every layer at every unit with the mask on."""
    return layertool.extract(model, corpus, tmp_path_factory.mktemp("store") / "store", UNITS, mask_seed=SEED)


def of_utterance(store, layer: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """utterance -> (flags, values) of its frames."""
    rows, values = store.rows("frame", layer), store.read("frame", layer)
    return {
        utterance: (rows["masked"].to_numpy()[rows["utterance"] == utterance], values[rows["utterance"] == utterance])
        for utterance in rows["utterance"].unique()
    }


def test_the_store_says_which_frames_are_masked(store):
    rows = store.rows("frame")
    assert list(rows.columns)[:5] == ["utterance", "start", "end", "label", "masked"]
    assert rows["masked"].dtype == bool
    assert store.row_table("frame").dtype == layout.MASKED_ROW_DTYPE
    for k, n_samples in enumerate(LENGTHS):
        mine = rows["masked"].to_numpy()[rows["utterance"] == f"u{k}"]
        assert np.array_equal(mine, mask().frames(f"u{k}", n_samples))
    assert 0.3 < rows["masked"].mean() < 0.7
    for unit in ("phone", "word", "utterance"):
        assert store.row_table(unit).dtype == layout.ROW_DTYPE
        assert "masked" not in store.rows(unit)


def test_frames_at_10_ms_say_so_too(store):
    ours = of_utterance(store, "T1")
    for utterance, (fast, _) in of_utterance(store, "C3").items():
        slow = ours[utterance][0]
        assert len(fast) > 1.9 * len(slow) or len(slow) == 1
        # frame 2j lies on model frame j; 2j + 1 half way to j + 1, which counts where there is one
        assert fast.tolist() == [slow[min((i + 1) // 2, len(slow) - 1)] for i in range(len(fast))]


def test_masked_rows_differ_and_convolutions_do_not(store, plain):
    for unit in UNITS:
        for layer in ("C1", "C5", "C7"):
            assert np.array_equal(store.read(unit, layer), plain.read(unit, layer)), (unit, layer)
    masked = store.rows("frame")["masked"].to_numpy()
    with_mask, without = store.read("frame", "T0"), plain.read("frame", "T0")
    assert (
        np.linalg.norm((with_mask - without)[masked], axis=1) > 0.05 * np.linalg.norm(without[masked], axis=1)
    ).all()
    assert not np.array_equal(store.read("word", "T3"), plain.read("word", "T3"))


@pytest.mark.parametrize(
    "options", [{"batch_seconds": 0.5}, {"batch_seconds": 1_000}, {"shard_seconds": 2.0, "workers": 5}]
)
def test_batches_shards_and_threads_change_nothing(model, corpus, store, tmp_path, options):
    other = layertool.extract(model, corpus, tmp_path / "store", UNITS, mask_seed=SEED, **options)
    assert np.array_equal(other.row_table("frame"), store.row_table("frame"))
    assert np.array_equal(other.row_table("frame", "C1"), store.row_table("frame", "C1"))
    for unit in UNITS:
        for layer in other.layers:
            assert references.worst_row(other.read(unit, layer), store.read(unit, layer)) < 1e-4, (unit, layer)


def test_the_order_of_the_corpus_changes_nothing(model, corpus, store, tmp_path):
    table = corpus.utterances[["utterance", "audio"]].iloc[[6, 2, 5, 0]]
    other = layertool.Corpus.build(table.to_dict("records"), [], "reordered")
    got = layertool.extract(model, other, tmp_path / "store", ["frame"], mask_seed=SEED)
    assert list(dict.fromkeys(got.rows("frame")["utterance"])) == ["u6", "u2", "u5", "u0"]
    for layer in ("C2", "T0", "T3"):
        expected = of_utterance(store, layer)
        for utterance, (flags, values) in of_utterance(got, layer).items():
            assert np.array_equal(flags, expected[utterance][0])
            assert references.worst_row(values, expected[utterance][1]) < 1e-4


def test_long_utterances_have_one_mask(tmp_path):
    """T0 of a layer-norm model sees 16 frames: away from cuts, a window gives what the whole does."""
    folder = str(models.save("wav2vec2-large", tmp_path / "model"))
    corpus = models.corpus(tmp_path / "corpus", [models.speech_like(n, seed=n % 7) for n in (170_001, 9_000, 200_345)])
    options = {"units": ["frame"], "layers": "T0", "mask_seed": SEED, "batch_seconds": 10}
    whole = layertool.extract(folder, corpus, tmp_path / "whole", **options)
    cut = layertool.extract(folder, corpus, tmp_path / "cut", window_seconds=4, overlap_seconds=1, **options)
    assert np.array_equal(cut.row_table("frame"), whole.row_table("frame"))
    assert whole.row_table("frame")["masked"].any()
    assert references.worst_row(cut.read("frame", "T0"), whole.read("frame", "T0")) < 1e-4


def test_another_seed_probability_and_length(model, corpus, store, tmp_path):
    rates = {}
    for name, options in {
        "seed": {"mask_seed": SEED + 1},
        "probability": {"mask_seed": SEED, "mask_prob": 0.2},
        "length": {"mask_seed": SEED, "mask_length": 3},
    }.items():
        got = layertool.extract(model, corpus, tmp_path / name, ["frame"], "T0", **options)
        masked = got.rows("frame")["masked"].to_numpy()
        assert not np.array_equal(masked, store.rows("frame")["masked"])
        rates[name] = masked.mean()
    assert rates["probability"] < 0.3 < rates["seed"]
    assert got.configuration["mask_length"] == 3
    assert got.configuration["mask_prob"] == 0.65


def test_bfloat16_masks_too(model, corpus, store, tmp_path):
    got = layertool.extract(model, corpus, tmp_path / "store", ["frame"], "T0-T1", mask_seed=SEED, dtype="bfloat16")
    assert np.array_equal(got.row_table("frame"), store.row_table("frame"))
    expected = store.read("frame", "T0")
    error = np.linalg.norm(got.read("frame", "T0") - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert np.median(error) < 0.02


def test_an_untrained_control_may_be_masked(model, corpus, tmp_path):
    got = layertool.extract(model, corpus, tmp_path / "store", ["frame"], "T0", mask_seed=SEED, random_init=3)
    assert got.rows("frame")["masked"].any()
    assert got.configuration["model"]["random_init"] == 3


def test_utterances_that_fail_take_their_flags_along(model, corpus, store, tmp_path):
    Path(tmp_path / "audio").mkdir()
    records = corpus.utterances[["utterance", "audio"]].to_dict("records")
    for record in records:
        record["audio"] = shutil.copy(record["audio"], tmp_path / "audio")
    other = layertool.Corpus.build(records, [], "one is bad")
    Path(records[2]["audio"]).write_bytes(b"no audio")
    got = layertool.extract(model, other, tmp_path / "store", ["frame"], mask_seed=SEED, max_failures=1)
    assert verify(got) == []
    rows = store.rows("frame")
    expected = rows["masked"][rows["utterance"] != "u2"]
    assert got.rows("frame")["masked"].tolist() == expected.tolist()


# --- the store -------------------------------------------------------------------------------------


def test_the_configuration_records_the_mask_only_when_it_is_on(store, plain):
    recorded = {"mask_seed": SEED, "mask_prob": 0.65, "mask_length": 10}
    assert store.is_masked
    assert not plain.is_masked
    # what a store of before there were masks has: its hash must stay
    assert list(plain.configuration) == [
        "model",
        "dtype",
        "store_dtype",
        "layer_convention",
        "layers",
        "units",
        "channel",
        "window_seconds",
        "overlap_seconds",
        "shard_seconds",
        "corpus",
    ]
    assert store.configuration == {**plain.configuration, **recorded}
    assert (
        plain.row_table("frame").dtype
        == layout.ROW_DTYPE
        == np.dtype([("utterance", "<i4"), ("start", "<i8"), ("end", "<i8"), ("label", "<i4")])
    )
    assert "masked" not in plain.rows("frame")


def test_a_plain_store_is_gone_on_with_and_never_mixed(model, corpus, plain, tmp_path):
    folder = shutil.copytree(plain.path, tmp_path / "store")
    before = small.contents(folder)
    (folder / "shards" / "00000.h5").unlink()
    layertool.extract(model, corpus, folder, UNITS)
    assert small.contents(folder) == before
    with pytest.raises(StoreError, match=r"mask_seed = none \(asked: 7\)"):
        layertool.extract(model, corpus, folder, UNITS, mask_seed=SEED)


def test_sound_shown_and_exported(store, tmp_path):
    assert verify(store) == []
    with h5py.File(store.path / "store.h5") as view:
        assert np.array_equal(view["frame/rows"]["masked"], store.row_table("frame")["masked"])
        assert np.array_equal(view["frame/rows_160_400"]["masked"], store.row_table("frame", "C1")["masked"])
        assert "masked" not in view["word/rows"].dtype.names
    shown = CliRunner().invoke(cli, ["info", str(store.path)])
    assert shown.exit_code == 0
    assert "spans of 10 frames, probability 0.65, seed 7" in " ".join(shown.output.split())
    for layout_name in ("npz", "npy"):
        out = tmp_path / layout_name
        arguments = ["export", str(store.path), "-o", str(out), "--to", layout_name, "--layers", "C1,T0", "-q"]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
    for name, layer in (("frame", "T0"), ("frame_10ms", "C1")):
        with np.load(tmp_path / "npz" / f"{name}.npz", allow_pickle=False) as arrays:
            assert arrays["masked"].dtype == bool
            assert np.array_equal(arrays["masked"], store.row_table("frame", layer)["masked"])
            assert np.array_equal(arrays[layer], store.read("frame", layer))
    with np.load(tmp_path / "npz" / "word.npz", allow_pickle=False) as arrays:
        assert "masked" not in arrays
    (table,) = (tmp_path / "npy").glob("**/contextualized/frame_level/frames.tsv")
    lines = [line.split("\t") for line in table.read_text().splitlines()]
    flags = [line[lines[0].index("masked")] == "True" for line in lines[1:]]
    assert flags == store.rows("frame")["masked"].tolist()


def test_info_says_nothing_of_a_mask_that_was_not(plain):
    shown = CliRunner().invoke(cli, ["info", str(plain.path)])
    assert shown.exit_code == 0
    assert "mask" not in shown.output


def test_verify_notices_flags_that_the_configuration_does_not_know(plain, store, tmp_path):
    """The flags of a masked run under the description of a plain one, and the other way round."""
    for kept, other in ((store, plain), (plain, store)):
        folder = shutil.copytree(kept.path, tmp_path / kept.path.parent.name)
        about = json.loads((folder / "store.json").read_text())
        about["configuration"] = other.configuration
        (folder / "store.json").write_text(json.dumps(about))
        assert any("frame/rows: rows of utterance, start" in problem for problem in verify(FeatureStore(folder)))


def test_an_unfinished_store_without_rows_has_the_field(store, tmp_path):
    folder = shutil.copytree(store.path, tmp_path / "store")
    (folder / "index.jsonl").unlink()
    opened = FeatureStore(folder, allow_unfinished=True)
    assert opened.row_table("frame").dtype == layout.MASKED_ROW_DTYPE
    assert opened.rows("frame")["masked"].dtype == bool


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks as Linux has them")
def test_a_killed_run_goes_on_with_the_same_mask(model, tmp_path):
    corpus = small.corpus(tmp_path / "corpus", 12, 6_500).write(tmp_path / "corpus")
    options = ["--units", "frame,word", "--shard-seconds", "1", "--mask-seed", SEED]
    forks = forking.Forks(tmp_path)
    try:
        stores = [tmp_path / "whole", tmp_path / "killed"]
        assert forks.run(["extract", model, corpus, "-o", stores[0], *options]).code == 0
        for point in (("shard renamed", 2), ("index line half written", 2)):
            assert forks.run(["extract", model, corpus, "-o", stores[1], *options], kill_at=point).killed
        assert 1 <= len(layout.read_index(stores[1])) < len(layout.read_index(stores[0]))
        assert forks.run(["extract", model, corpus, "-o", stores[1], *options]).code == 0
    finally:
        forks.close()
    assert small.contents(stores[1]) == small.contents(stores[0])
    assert FeatureStore(stores[1]).rows("frame")["masked"].any()
    assert verify(FeatureStore(stores[1])) == []


# --- through the command line, and what it refuses -------------------------------------------------


def run(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command_gives_what_the_function_does(model, corpus, store, tmp_path):
    corpus.write(tmp_path / "corpus")
    asked = ["extract", model, tmp_path / "corpus", "-o", tmp_path / "store", "--units", "frame", "--layers", "T0"]
    asked += ["--mask-seed", SEED]
    planned = run(*asked, "--dry-run")
    assert "spans of 10 frames, probability 0.65, seed 7" in " ".join(planned.output.split())
    assert run(*asked).exit_code == 0
    got = FeatureStore(tmp_path / "store")
    assert np.array_equal(got.row_table("frame"), store.row_table("frame"))
    assert np.array_equal(got.read("frame", "T0"), store.read("frame", "T0"))
    other = run(*asked[:-2], "--mask-seed", SEED, "--mask-prob", 0.5, "--mask-length", 5, "--dry-run")
    assert "spans of 5 frames, probability 0.5, seed 7" in " ".join(other.output.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask_prob": 0.5}, "add --mask-seed"),
        ({"mask_length": 5}, "add --mask-seed"),
        ({"mask_seed": 0, "mask_prob": 0.0}, "--mask-prob above 0 and at most 1"),
        ({"mask_seed": 0, "mask_prob": 1.5}, "--mask-prob 1.5 cannot be"),
        ({"mask_seed": 0, "mask_prob": float("nan")}, "--mask-prob takes a number"),
        ({"mask_seed": 0, "mask_length": 0}, "--mask-length 0 cannot be"),
    ],
)
def test_options_that_mean_nothing_are_refused(model, corpus, tmp_path, options, says):
    with pytest.raises(UsageError, match=says):
        layertool.extract(model, corpus, tmp_path / "store", ["frame"], **options)
    assert not (tmp_path / "store").exists()


def test_the_command_refuses_them_in_one_sentence(model, corpus, tmp_path):
    corpus.write(tmp_path / "corpus")
    asked = ["extract", model, tmp_path / "corpus", "-o", tmp_path / "store"]
    for options in (("--mask-prob", 0.5), ("--mask-seed", 0, "--mask-prob", 0), ("--mask-seed", 0, "--mask-length", 0)):
        result = run(*asked, *options)
        assert result.exit_code == 2
        assert result.stderr.strip().splitlines()[-1].startswith("Error: ")


def test_features_and_whisper_have_no_mask(corpus, tmp_path):
    with pytest.raises(
        UsageError, match=r"--mask-seed is for models of the wav2vec 2.0 kind.*; mel is an acoustic feature"
    ):
        layertool.extract("mel", corpus, tmp_path / "store", ["frame"], mask_seed=0)
    with pytest.raises(UsageError, match=r"--mask-seed is for models of the wav2vec 2.0 kind.*mel is not one"):
        layertool.extract(AcousticExtractor(Model.open("mel")), corpus, tmp_path / "store", ["frame"], mask_seed=0)
    whisper = str(models.whisper(tmp_path / "whisper"))
    with pytest.raises(UsageError, match=r"--mask-seed is for models of the wav2vec 2.0 kind.*type 'whisper'"):
        layertool.extract(whisper, corpus, tmp_path / "store", ["frame"], mask_seed=0)


def test_a_checkpoint_without_an_embedding_is_refused(corpus, tmp_path):
    folder = str(models.save("wavlm-base", tmp_path / "model", mask_time_prob=0.0, mask_feature_prob=0.0))
    with pytest.raises(ModelError, match=r"has nothing to put at masked frames .*leave out --mask-seed"):
        layertool.extract(folder, corpus, tmp_path / "store", ["frame"], mask_seed=0)
    assert layertool.extract(folder, corpus, tmp_path / "store", ["frame"], "T0").n_rows("frame")


@pytest.mark.parametrize("name", ["wav2vec2-base", "hubert-large", "unispeech-sat-base"])
def test_an_embedding_that_would_be_random_is_refused(name, corpus, tmp_path):
    folder = models.save(name, tmp_path / "model")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    del weights["masked_spec_embed"]
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has no masked_spec_embed among its weights.*leave out --mask-seed"):
        layertool.extract(str(folder), corpus, tmp_path / "store", ["frame"], mask_seed=0)
    with pytest.raises(ModelError, match="has no masked_spec_embed"):
        layertool.extract(open_extractor(str(folder)), corpus, tmp_path / "store", ["frame"], mask_seed=0)
    assert layertool.extract(str(folder), corpus, tmp_path / "store", ["frame"], "T0").n_rows("frame")
