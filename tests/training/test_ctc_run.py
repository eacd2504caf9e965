"""Runs of CTC: what they keep, going on after a stop, sweeps of re-initialised layers, frozen layers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import melhuberts
import models
import numpy as np
import pytest
import spread
import tones
import torch
from kills import Killed, killer
from safetensors.torch import load_file

import layertool
from layertool.errors import CorpusError, ModelError, StoreError, UsageError
from layertool.models import melhubert
from layertool.result_rows import table as table_of
from layertool.training import ctc_models
from layertool.training.ctc_data import Writing
from layertool.training.ctc_rates import WEIGHT, assess, bootstrap_rate, difference, rows, sweep_rows
from layertool.training.ctc_run import Options, Point, assess_run, fine_tune
from layertool.training.ctc_sweep import sweep_reinit

pytest.importorskip("accelerate")
pytest.importorskip("jiwer")

pytestmark = pytest.mark.slow
PARTS = {"test_where": "split=test"}
SPLITS = ["train"] * 6 + ["dev"] * 2 + ["test"] * 2
SHORT = {"steps": 6, "batch_size": 2, "save_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0, "seed": 3}
QUICK = Options(**SHORT, **PARTS)
LEARNS = Options(steps=300, batch_size=4, save_steps=100, learning_rate=3e-3, keep_models=True, **PARTS)
OF_FROZEN = {"tokens": "phone", "freeze": True, "weighted_sum": True}
FROZEN = Options(**OF_FROZEN, steps=60, batch_size=4, accumulation=1, save_steps=20, **PARTS)
QUICK_FROZEN = replace(QUICK, **OF_FROZEN)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    return tones.corpus(tmp_path_factory.mktemp("speech"), tones.texts(10), SPLITS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(models.save("wav2vec2-base", tmp_path_factory.mktemp("model") / "w2v2"))


@pytest.fixture(scope="module")
def mel(tmp_path_factory):
    torch.manual_seed(3)
    config = melhubert.Config(**{**melhuberts.SMALL, "encoder_layers": 2})
    folder = tmp_path_factory.mktemp("mel") / "mel"
    melhubert.save(melhubert.MelHuBERT(config), config, folder)
    return str(folder)


@pytest.fixture(scope="module")
def learned(model, speech, tmp_path_factory):
    """A run that has learned the tones."""
    out = tmp_path_factory.mktemp("learned") / "run"
    return fine_tune(model, speech, out, LEARNS, device="cpu")


@pytest.fixture(scope="module")
def frozen(model, speech, tmp_path_factory):
    return fine_tune(model, speech, tmp_path_factory.mktemp("frozen") / "run", FROZEN, device="cpu")


def quick(model, speech, out, options=QUICK, **more):
    return fine_tune(model, speech, out, options, device="cpu", **more)


def weights(folder):
    return load_file(folder / "model.safetensors")


# Learning, and what is kept


def test_tones_are_learned_and_new_ones_written_down(learned, speech):
    assert learned.best.rate < 0.1
    assert learned.losses[-1].loss < learned.losses[0].loss - 2
    found = assess_run(learned.folder, speech, QUICK)
    assert found["test"].rate.value < 0.1
    assert found["test"].hypotheses[0].isupper()
    assert set(found) == {"dev", "test"}


def test_a_run_reloaded_gives_the_same_rates(learned, speech):
    found = assess_run(learned.folder, speech, QUICK)
    assert (found["dev"].rate.value, found["dev"].characters.value) == (learned.best.rate, learned.best.characters)
    lines = list(csv.DictReader((learned.folder / "transcripts.csv").open()))
    assert [line["utterance"] for line in lines] == ["u6", "u7", "u8", "u9"]
    assert sum(int(line["errors"]) for line in lines[:2]) == found["dev"].rate.errors.sum()
    assert lines[0]["reference"] == speech.utterances["text"][6].upper()


def test_transformers_reads_it_with_its_tokens(learned, speech):
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

    network = Wav2Vec2ForCTC.from_pretrained(learned.folder).eval()
    own, opened, vocabulary, _ = ctc_models.load(learned.folder)
    heard = torch.from_numpy(opened.hear(speech.utterances.to_dict("records")[8]))[None]
    with torch.no_grad():
        logits = network(heard).logits
        torch.testing.assert_close(logits, own(heard, torch.tensor([heard.shape[1]]))["logits"], atol=1e-5, rtol=1e-5)
    tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(learned.folder)
    written = tokenizer.decode(logits[0].argmax(dim=-1))
    assert written == assess_run(learned.folder, speech, QUICK)["test"].hypotheses[0]
    assert vocabulary.tokens == ("<pad>", "<unk>", "A", "B", "C", "D", "E", "|")


def test_its_layers_are_extracted(learned, model, speech, tmp_path):
    store = layertool.extract(str(learned.folder), speech, tmp_path / "store", units=("utterance",), device="cpu")
    before = layertool.extract(model, speech, tmp_path / "before", units=("utterance",), device="cpu")
    assert store.layers == before.layers
    # the convolutions are frozen, all above them has moved
    assert np.array_equal(store.read("utterance", "C7"), before.read("utterance", "C7"))
    for layer in ("T0", "T1", "T3"):
        assert not np.allclose(store.read("utterance", layer), before.read("utterance", layer), atol=1e-3)


def test_the_best_step_is_kept(learned):
    best = min(learned.history, key=lambda point: (point.rate, point.characters, point.step))
    assert learned.best == best
    assert [point.step for point in learned.history] == [100, 200, 300]
    kept, of_step = weights(learned.folder), weights(learned.folder / f"step-{best.step}")
    assert all(torch.equal(value, of_step[name]) for name, value in kept.items())
    source = json.loads((learned.folder / "source.json").read_text())
    assert source["step"] == best.step
    assert Point(9, 0.5, 0.2).order < Point(3, 0.5, 0.3).order < Point(4, 0.5, 0.3).order < Point(1, 0.6, 0.0).order


def test_a_finished_run_is_returned_and_its_models_stay(learned, model, speech):
    again = fine_tune(model, speech, learned.folder, replace(LEARNS, keep_models=False), device="cpu")
    assert again.was_there
    assert (again.history, again.best, again.losses) == (learned.history, learned.best, learned.losses)
    assert len(list(learned.folder.glob("step-*"))) == 3
    with pytest.raises(StoreError, match="trained otherwise"):
        fine_tune(model, speech, learned.folder, replace(LEARNS, reinit_top=(1,)), device="cpu")


@pytest.mark.parametrize("kind", ["melhubert", "hubert-large"])
def test_other_networks_reload_too(kind, mel, speech, tmp_path):
    name = mel if kind == "melhubert" else str(models.save(kind, tmp_path / "hubert"))
    run = quick(name, speech, tmp_path / "run")
    found = assess_run(run.folder, speech, QUICK)
    assert (found["dev"].rate.value, found["dev"].characters.value) == (run.best.rate, run.best.characters)
    assert not list(run.folder.glob("*step-*"))
    store = layertool.extract(str(run.folder), speech, tmp_path / "store", units=("utterance",), device="cpu")
    assert "T2" in store.layers


# Going on


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(model, mel, speech, tmp_path):
    for name, stops, options in ((model, (1, 5), replace(QUICK, reinit_top=(1,))), (mel, (3,), QUICK_FROZEN)):
        whole = quick(name, speech, tmp_path / f"whole-{options.freeze}", options)
        for at in stops:
            out = tmp_path / f"part-{options.freeze}-{at}"
            with pytest.raises(Killed):
                quick(name, speech, out, options, progress=killer(at))
            (out / "step-5").mkdir()  # as if it had been killed between the network of step 5 and its checkpoint
            run = quick(name, speech, out, options)
            assert run.facts == whole.facts
            file = "head.safetensors" if options.freeze else "model.safetensors"
            one, other = load_file(run.folder / file), load_file(whole.folder / file)
            assert all(torch.equal(value, other[key]) for key, value in one.items())
            assert not [path for path in run.folder.iterdir() if path.name.startswith(("step-", "checkp"))]


# Re-initialised layers


def test_only_top_layers_differ_before_training(model, speech, tmp_path):
    still = replace(QUICK, steps=1, learning_rate=1e-30)
    folders = {n: quick(model, speech, tmp_path / str(n), replace(still, reinit_top=(n,))).folder for n in (0, 1, 3)}
    found = {n: weights(folder) for n, folder in folders.items()}
    original = load_file(f"{model}/model.safetensors")
    for n in (0, 1, 3):
        other = [
            name
            for name, value in found[n].items()
            if name.startswith("wav2vec2.") and not torch.equal(value, original[name.removeprefix("wav2vec2.")])
        ]
        blocks = {int(name.split(".")[3]) for name in other if name.startswith("wav2vec2.encoder.layers.")}
        assert blocks == set(range(3 - n, 3))
        assert len([name for name in other if "encoder.layers" not in name]) == 0
        assert torch.equal(found[n]["lm_head.weight"], found[0]["lm_head.weight"])
    top = "wav2vec2.encoder.layers.2.attention.q_proj.weight"
    assert torch.equal(found[1][top], found[3][top])  # drawn alike whatever the number


def test_a_sweep_compares_standard_and_modified(model, speech, tmp_path):
    told = []
    found = sweep_reinit(model, speech, tmp_path / "sweep", QUICK, device="cpu", say=told.append)
    assert list(found.runs) == [0, 1, 2, 3]
    assert found.chosen == min((1, 2, 3), key=lambda n: (found.runs[n].best.rate, found.runs[n].best.characters, n))
    assert {n for n, parts in found.assessed.items() if "test" in parts} == {0, found.chosen}
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == [f"reinit-{n}" for n in range(4)]
    assert [
        json.loads((run.folder / "ctc.json").read_text())["recipe"]["reinit_top"] for run in found.runs.values()
    ] == [[0], [1], [2], [3]]
    again = sweep_reinit(model, speech, tmp_path / "sweep", replace(QUICK, reinit_top=(2,)), device="cpu")
    assert list(again.runs) == [0, 2]
    assert all(run.was_there for run in again.runs.values())
    assert found.is_better == (found.runs[found.chosen].best.order[:2] < found.runs[0].best.order[:2])
    table = table_of(sweep_rows(found, "tones", model))
    dev = table[(table["target"] == "dev") & (table["metric"] == "word error rate")]
    assert len(dev) == 5
    by = dict(zip([json.loads(one)["layers"] for one in dev["settings"]], dev["value"], strict=True))
    standard = next(value for treatment, value in by.items() if treatment.startswith("standard (all"))
    modified = by[f"top {found.chosen} layers re-initialised"]
    gain = next(value for treatment, value in by.items() if "standard minus" in treatment)
    assert gain == pytest.approx(standard - modified)
    assert (table["analysis"] == "ctc").all()
    assert (table["layer"] == "model").all()
    with pytest.raises(StoreError, match="single run"):
        sweep_reinit(model, speech, found.runs[0].folder, QUICK, device="cpu")


def test_sweeps_that_cannot_be(model, speech, tmp_path):
    with pytest.raises(UsageError, match="choose from 0 to 3"):
        sweep_reinit(model, speech, tmp_path / "a", replace(QUICK, reinit_top=(0, 4)), device="cpu")
    with pytest.raises(UsageError, match="0,1,3"):
        sweep_reinit(model, speech, tmp_path / "a", replace(QUICK, reinit_top=(0,)), device="cpu")
    with pytest.raises(UsageError, match="from 0 to 3"):
        quick(model, speech, tmp_path / "a", replace(QUICK, reinit_top=(4,)))
    assert not (tmp_path / "a").exists()


# Frozen layers


def test_frozen_layers_are_weighted(frozen, model, speech):
    assert sum(frozen.facts["weights"].values()) == pytest.approx(1)
    assert list(frozen.facts["weights"]) == ["T0", "T1", "T2", "T3"]
    assert len(set(frozen.facts["weights"].values())) == 4  # learned
    assert frozen.best.rate < 0.5
    assert frozen.losses[-1].loss < frozen.losses[0].loss - 1
    assert frozen.facts["parameters"] == 4 + 48 * 7 + 7  # 5 phones, the blank and the unknown token
    assert not (frozen.folder / "model.safetensors").exists()
    found = assess_run(frozen.folder, speech, QUICK)
    assert found["dev"].rate.value == frozen.best.rate
    assert found["dev"].characters is None
    head = load_file(frozen.folder / "head.safetensors")
    assert torch.softmax(head["mixture"].double(), 0).tolist() == pytest.approx(list(frozen.facts["weights"].values()))


def test_states_computed_once_or_for_every_batch(frozen, model, speech, tmp_path):
    told = []
    run = quick(model, speech, tmp_path / "run", replace(FROZEN, cache_gb=0), say=told.append)
    assert "for every batch" in told[0]
    assert run.best.rate == frozen.best.rate
    for layer, weight in run.facts["weights"].items():
        assert weight == pytest.approx(frozen.facts["weights"][layer], abs=1e-3)
    told.clear()
    quick(model, speech, tmp_path / "once", QUICK_FROZEN, say=told.append)
    # 5 kinds of tones of 0.2 s: the frames of 8 utterances, 4 states of 48 numbers, 4 bytes each
    n_frames = sum((int(n) - 80) // 320 for n in speech.utterances["n_samples"][:8])
    assert "computed once" in told[0]
    assert f"{n_frames * 4 * 48 * 4 / 1e9:.2f} GB for 8 utterances" in told[0]


def test_rows_of_a_frozen_run(frozen, model, speech):
    found = assess_run(frozen.folder, speech, QUICK)
    table = table_of(rows(frozen, found, "tones", model))
    of_layers = table[table["metric"] == WEIGHT]
    assert list(of_layers["layer"]) == ["T0", "T1", "T2", "T3"]
    assert list(of_layers["layer_index"]) == [0, 1, 2, 3]
    assert of_layers["value"].sum() == pytest.approx(1)
    assert (of_layers["chance"] == 0.25).all()
    rates = table[table["metric"] != WEIGHT]
    assert list(rates["target"]) == ["dev", "test"]
    assert set(rates["metric"]) == {"phone error rate"}
    (settings,) = {text: json.loads(text) for text in rates["settings"]}.values()
    assert settings == {
        "layers": "frozen, learned weighted sum of all layers",
        "head": "linear CTC on labels of the tier phone, greedy decoding",
        "best_on_dev_of_steps": 60,
    }
    assert (rates["ci_low"] <= rates["value"]).all()
    assert (rates["value"] <= rates["ci_high"]).all()


def test_a_frozen_run_needs_its_model(frozen, speech, tmp_path):
    other = str(models.save("wav2vec2-base", tmp_path / "other", seed=5))
    with pytest.raises(ModelError, match="other weights than the model"):
        assess_run(frozen.folder, speech, QUICK, other)


# Rates


def test_the_interval_is_that_of_resampled_utterances():
    errors, n_tokens = np.array([0, 3, 5, 1]), np.array([4, 4, 20, 2])
    drawn = []
    for times in np.random.default_rng(7).multinomial(4, [1 / 4] * 4, 1000):
        k = np.repeat(np.arange(4), times)
        drawn.append(sum(int(errors[i]) for i in k) / sum(int(n_tokens[i]) for i in k))
    wanted = np.quantile(drawn, spread.ends(4))
    assert bootstrap_rate(errors, n_tokens, seed=7) == pytest.approx(tuple(wanted))
    assert bootstrap_rate(errors[:1], n_tokens[:1]) == (None, None)
    assert bootstrap_rate(0 * errors, n_tokens) == (0.0, 0.0)
    with pytest.raises(UsageError):
        bootstrap_rate(errors, n_tokens[:2])


def test_words_characters_and_phones_are_counted():
    found = assess("dev", ["a", "b"], ["THE CAT", "SAT"], ["THE CUT", "SAT"])
    assert found.rate.value == pytest.approx(1 / 3)
    assert found.characters.value == pytest.approx(1 / 10)
    of_phones = assess("dev", ["a"], [["ah", "b", "k"]], [["ah", "k"]])
    assert of_phones.rate.value == pytest.approx(1 / 3)
    assert of_phones.characters is None
    other = assess("dev", ["a", "b"], ["THE CAT", "SAT"], ["THE CAT", "SAT"])
    assert difference(found.rate, other.rate)[0] == pytest.approx(1 / 3)
    assert difference(other.rate, found.rate)[0] == pytest.approx(-1 / 3)
    assert difference(found.rate, found.rate) == (0.0, 0.0, 0.0)  # paired: no resample differs


# What cannot be


def with_texts(tmp_path, said, splits=None):
    return tones.corpus(tmp_path / "corpus", said, splits or ["train", "train", "dev"])


def test_unknown_tokens_are_refused_or_counted(model, tmp_path):
    for part in ("dev", "test"):
        corpus = with_texts(
            tmp_path / part, ["a b", "b a", "c", "a"], ["train", "train", part, {"dev": "test", "test": "dev"}[part]]
        )
        with pytest.raises(CorpusError, match=r"'C'.*in no training text"):
            quick(model, corpus, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    told = []
    run = quick(model, corpus, tmp_path / "run", replace(QUICK, unknown="count"), say=told.append)
    assert told[:1] == ["1 tokens outside training are in no training utterance and count as errors: 'C'"]
    assert assess_run(run.folder, corpus, replace(QUICK, unknown="count"))["test"].rate.value >= 1


def test_corpora_that_cannot_be_learned(model, speech, tmp_path):
    bare = models.corpus(
        tmp_path / "bare", [models.speech_like(8000, k) for k in range(3)], split=["train", "train", "dev"]
    )
    with pytest.raises(CorpusError, match="has no texts"):
        quick(model, bare, tmp_path / "run", Options(**SHORT))
    with pytest.raises(CorpusError, match="no segments of the tier 'phone'"):
        quick(model, bare, tmp_path / "run", Options(**SHORT, tokens="phone"))
    with pytest.raises(UsageError, match=r"there is no dev part.*values of split.*--dev-where"):
        quick(model, speech, tmp_path / "run", replace(QUICK, dev_where="split=x"))
    with pytest.raises(UsageError, match=r"there is no train part.*no column 'part'"):
        quick(model, speech, tmp_path / "run", replace(QUICK, train_where="part=x"))
    with pytest.raises(CorpusError, match=r"'u6' is in the dev part and in the test part \(2 such"):
        quick(model, speech, tmp_path / "run", replace(QUICK, test_where="split!=train"))
    short = models.corpus(
        tmp_path / "short",
        [models.speech_like(n, 1) for n in (8000, 300, 8000)],
        text=["a", "a", "a"],
        split=["train", "train", "dev"],
    )
    with pytest.raises(CorpusError, match="'u1' is too short for a frame"):
        quick(model, short, tmp_path / "run", Options(**SHORT))
    assert not (tmp_path / "run").exists()


def test_texts_longer_than_their_frames_are_counted(model, tmp_path):
    waveforms = [models.speech_like(n, k) for k, n in enumerate((8000, 2000, 8000))]
    texts = ["a b", "aaaaaaaaaa", "b a"]  # 5 frames tell no ten tokens
    corpus = models.corpus(tmp_path / "c", waveforms, text=texts, split=["train", "train", "dev"])
    told = []
    run = quick(model, corpus, tmp_path / "run", Options(**SHORT), say=told.append)
    assert run.facts["unreachable"] == ["u1"]
    assert "1 of 2 training utterances are left out" in told[0]
    assert "u1" in told[0]
    assert run.facts["utterances"]["train"] == 1
    hopeless = models.corpus(tmp_path / "h", waveforms[1:], text=[*texts[1:2], "a"], split=["train", "dev"])
    with pytest.raises(CorpusError, match="need 19"):
        quick(model, hopeless, tmp_path / "x", Options(**SHORT))


def test_requests_that_cannot_be(model, speech, learned, tmp_path):
    for changes in (
        {"reinit_top": (1,)},
        {"normalise_layers": True, "freeze": False, "weighted_sum": False},
        {"augment": True},
    ):
        with pytest.raises(UsageError):
            Options(**OF_FROZEN | changes)
    for writing in ({"units": "words"}, {"case": "x"}):
        with pytest.raises(UsageError):
            Writing(**writing).of(speech, ["u0"])
    with pytest.raises(UsageError, match="1 or more"):
        replace(QUICK, steps=0)
    with pytest.raises(StoreError, match=r"no ctc\.json"):
        ctc_models.load(tmp_path)
    with pytest.raises(UsageError, match="other tokens"):
        assess_run(learned.folder, speech, replace(QUICK, train_where="utterance=u0", unknown="count"))


def test_augmentation_hides_frames(model, speech, tmp_path):
    plain, hidden = (quick(model, speech, tmp_path / str(on), replace(QUICK, augment=on)) for on in (False, True))
    assert plain.losses != hidden.losses


def test_the_loss_falls_on_real_speech(shared, tmp_path):
    """Phones of 19 utterances from frozen layers of an untrained network, and characters from all of it."""
    import pandas as pd

    from layertool.corpora import folder

    source = shared / "data/speech/english"
    table = pd.read_csv(source / "manifest.tsv", sep="\t")[["utt", "text"]].rename(columns={"utt": "id"})
    table["split"] = ["dev" if k % 5 == 0 else "train" for k in range(len(table))]
    table.to_csv(tmp_path / "texts.csv", index=False)
    speech = folder.read(source, metadata=tmp_path / "texts.csv")
    torch.manual_seed(0)
    config = melhubert.Config(feat_emb_dim=80, encoder_layers=2, encoder_embed_dim=64, encoder_ffn_embed_dim=128, encoder_attention_heads=4)  # fmt: skip
    melhubert.save(melhubert.MelHuBERT(config), config, tmp_path / "mel")
    how = Options(**OF_FROZEN, steps=60, batch_size=4, accumulation=1, save_steps=15, unknown="count")
    run = fine_tune(str(tmp_path / "mel"), speech, tmp_path / "phones", how, device="cpu")
    assert run.losses[-1].loss < run.losses[0].loss - 3  # from 9.4 to 4.0 nats a phone
    how = Options(steps=60, batch_size=4, save_steps=15, learning_rate=2e-3, unknown="count")
    run = fine_tune(str(tmp_path / "mel"), speech, tmp_path / "characters", how, device="cpu")
    assert run.losses[-1].loss < run.losses[0].loss - 2  # from 5.8 to 2.9 nats a character
