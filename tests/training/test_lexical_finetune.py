"""A whole run: what is kept is the best, is a model like any other, and follows from its seed."""

from __future__ import annotations

import json

import models
import numpy as np
import pytest
import torch
import tuning

from layertool.analysis.lexical.scorer import Variant
from layertool.errors import CorpusError
from layertool.layerwise.lexical import LexicalScore
from layertool.layerwise.lexical_rows import LIKELIHOOD
from layertool.training.lexical import fine_tune

pytestmark = pytest.mark.slow  # networks are run, or trained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.whisper(tmp_path_factory.mktemp("model") / "tiny", tokenizer="english")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tuning.corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def tuned(model, corpus, tmp_path_factory):
    return fine_tune(str(model), corpus, tmp_path_factory.mktemp("tuned") / "o", tuning.recipe())


def scored(model, corpus, variant: Variant, by_target: bool = False) -> float:
    """As ``layertool lexical score`` does it on the dev part, with a model opened anew."""
    asked = {"end_token": variant.end_token, "surface": variant.surface, "timestamps": variant.timestamps}
    asked |= {"encoder_window": variant.window, "language": variant.language, "device": "cpu"}
    rows = LexicalScore(split="dev", target_disjoint=by_target, **asked).run(str(model), corpus)
    (value,) = (row.value for row in rows if row.target == "all" and row.metric == LIKELIHOOD.name)
    return value


@pytest.mark.parametrize(
    "variant",
    [tuning.EXACT, Variant(), Variant(end_token=False, surface="marginal", window="clip"), Variant(timestamps=True)],
    ids=str,
)
def test_history_is_what_score_says(model, corpus, tmp_path, variant):
    """Before training, and of the model that was kept."""
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=2, variant=variant))
    assert tuned.history[0].dev == pytest.approx(scored(model, corpus, variant), rel=1e-6)
    assert tuned.best.dev == max(epoch.dev for epoch in tuned.history[1:])
    assert scored(tuned.folder, corpus, variant) == pytest.approx(tuned.best.dev, rel=1e-6)


def test_a_later_epoch_that_is_worse_is_not_kept(model, tmp_path):
    """The listeners of dev say another word than those of train: what is learned is wrong there."""
    said = ["drink"] * 6 + ["qq"] * 5
    corpus = tuning.corpus(tmp_path / "c", responses=said, counts=["5"] * 11)
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=6, learning_rate=1e-2, warmup=0.0))
    dev = [epoch.dev for epoch in tuned.history]
    assert tuned.best.dev == max(dev[1:])
    assert tuned.best.epoch < 5, dev  # so that the best is not among the last two, which are kept anyway
    assert tuned.best == tuned.history[tuned.best.epoch]
    assert tuned.best.dev > dev[-1] + 1
    assert scored(tuned.folder, corpus, tuning.EXACT) == pytest.approx(tuned.best.dev, rel=1e-6)


def test_no_epoch_is_better_than_before(model, corpus, tmp_path):
    """Epoch 0 is in the history and not a candidate; the run says so through its numbers."""
    first = fine_tune(str(model), corpus, tmp_path / "good", tuning.recipe(epochs=8, learning_rate=1e-2))
    worse = fine_tune(
        str(first.folder), corpus, tmp_path / "bad", tuning.recipe(epochs=1, learning_rate=0.5, warmup=0.0)
    )
    assert worse.best.epoch == 1
    assert worse.best.dev < worse.history[0].dev == pytest.approx(first.best.dev, rel=1e-6)


def test_the_other_split(model, corpus, tmp_path):
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1, target_disjoint=True))
    record = tuning.record(tuned.folder)["split"]
    table = corpus.utterances
    assert record["by_target"] is True
    for part in ("train", "dev", "test"):
        assert record[part] == table["utterance"][table["split_by_target"] == part].tolist()
    assert tuned.best.dev == pytest.approx(scored(tuned.folder, corpus, tuning.EXACT, by_target=True), rel=1e-6)


def test_the_record(tuned, corpus):
    record = tuning.record(tuned.folder)
    table = corpus.utterances
    for part in ("train", "dev", "test"):
        assert record["split"][part] == table["utterance"][table["split"] == part].tolist()
    assert record["finished"] is True
    assert record["settings"]["learning_rate"] == 3e-3
    assert record["recipe"]["variant"]["window"] == "exact"
    assert [epoch["dev"] for epoch in record["history"]] == [epoch.dev for epoch in tuned.history]
    assert record["best_step"] == tuned.best.step


def test_the_folder_is_a_model_and_nothing_else(tuned):
    files = {path.name for path in tuned.folder.iterdir() if path.name != ".lock"}
    assert files == {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json",
        "tokenizer_config.json", "finetune.json", "losses.csv",
    }  # fmt: skip


def test_transformers_opens_the_folder(tuned, model):
    from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, AutoTokenizer, WhisperForConditionalGeneration

    network, report = AutoModelForSpeechSeq2Seq.from_pretrained(tuned.folder, output_loading_info=True)
    assert type(network) is WhisperForConditionalGeneration
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert network.dtype == torch.float32
    processor = AutoProcessor.from_pretrained(tuned.folder)
    features = processor(models.speech_like(8000, 1), sampling_rate=16_000, return_tensors="pt").input_features
    assert features.shape == (1, 80, 3000)
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (model, tuned.folder))
    for text in (" drink", "Think.", " é"):
        assert new(text)["input_ids"] == old(text)["input_ids"]
    assert new.eos_token_id == old.eos_token_id
    assert new.prefix_tokens == old.prefix_tokens


def test_the_configuration_is_as_before(tuned, model):
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (model, tuned.folder))
    assert new["architectures"] == ["WhisperForConditionalGeneration"]
    differ = {key: (old.get(key), new.get(key)) for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    assert differ.keys() <= {"architectures", "transformers_version"}, differ


def test_generation_configuration_is_as_before(tmp_path, corpus, model):
    """With what real checkpoints say there."""
    import shutil

    folder = shutil.copytree(model, tmp_path / "m")
    said = {"is_multilingual": False, "no_timestamps_token_id": 360, "suppress_tokens": [1, 2], "max_length": 44}
    (folder / "generation_config.json").write_text(json.dumps(said))
    tuned = fine_tune(str(folder), corpus, tmp_path / "o", tuning.recipe(epochs=1))
    kept = json.loads((tuned.folder / "generation_config.json").read_text())
    assert {key: kept.get(key) for key in said} == said


def test_one_seed_one_result(tuned, model, corpus, tmp_path):
    torch.manual_seed(99)  # what a program did before must not count
    np.random.seed(99)
    again = fine_tune(str(model), corpus, tmp_path / "again", tuning.recipe())
    assert again.history == tuned.history
    assert tuning.same_bits(tuning.weights(again.folder), tuning.weights(tuned.folder))
    other = fine_tune(str(model), corpus, tmp_path / "other", tuning.recipe(seed=1))
    assert other.history[0] == tuned.history[0]
    assert other.history[1] != tuned.history[1]


def test_tuned_models_can_be_tuned(tuned, corpus, tmp_path):
    again = fine_tune(str(tuned.folder), corpus, tmp_path / "o", tuning.recipe(epochs=1, seed=4))
    assert again.history[0].dev == pytest.approx(tuned.best.dev, rel=1e-6)


@pytest.mark.parametrize("language", ["de", "en"])
def test_multilingual_and_its_language(corpus, tmp_path, language):
    model = models.whisper(tmp_path / "m", tokenizer="multilingual")
    variant = Variant(window="exact", language=language)
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1, variant=variant))
    assert scored(tuned.folder, corpus, variant) == pytest.approx(tuned.best.dev, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 5, 6, 100])
def test_batch_sizes(model, corpus, tmp_path, batch_size):
    tuned = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1, batch_size=batch_size))
    assert tuned.history[1].step == -(-6 // batch_size)


def test_bfloat16_keeps_float32_weights(model, corpus, tuned, tmp_path):
    """And scores the dev part in float32: the history is comparable."""
    half = fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(dtype="bfloat16"))
    assert {value.dtype for value in tuning.weights(half.folder).values()} == {torch.float32}
    assert half.history[0] == tuned.history[0]
    assert half.history[1] != tuned.history[1]
    assert scored(half.folder, corpus, tuning.EXACT) == pytest.approx(half.best.dev, rel=1e-6)


def test_a_corpus_without_a_test_part(model, tmp_path):
    """train and dev are all that the help asks for."""
    split = ["train"] * 7 + ["dev"] * 4
    tuned = fine_tune(str(model), tuning.corpus(tmp_path / "c", split=split), tmp_path / "o", tuning.recipe(epochs=1))
    assert tuned.history[1].step == 2


@pytest.mark.parametrize("lacks", ["train", "dev"])
def test_a_corpus_without_a_part_it_needs(model, tmp_path, lacks):
    split = [part if part != lacks else "test" for part in tuning.table()["split"]]
    with pytest.raises(CorpusError, match=lacks):
        fine_tune(str(model), tuning.corpus(tmp_path / "c", split=split), tmp_path / "o", tuning.recipe())
    assert not (tmp_path / "o").exists()


def test_weights_that_diverge_are_not_kept(model, corpus, tmp_path):
    from layertool.errors import ModelError

    recipe = tuning.recipe(epochs=2, learning_rate=1e30, warmup=0.0)
    with pytest.raises(ModelError, match="learning rate"):
        fine_tune(str(model), corpus, tmp_path / "o", recipe)
    assert not (tmp_path / "o" / "model.safetensors").exists()
    assert tuning.record(tmp_path / "o")["finished"] is False


def test_the_callers_random_numbers_go_on(model, corpus, tmp_path):
    """A library call is no place to seed the program's generators."""
    torch.manual_seed(7)
    np.random.seed(7)
    wanted = torch.rand(1).item(), np.random.rand()
    torch.manual_seed(7)
    np.random.seed(7)
    fine_tune(str(model), corpus, tmp_path / "o", tuning.recipe(epochs=1))
    assert (torch.rand(1).item(), np.random.rand()) == wanted


@pytest.mark.slow
def test_real_speech_and_weights_learn(shared, tmp_path):
    """tiny.en, decoder only: dev rises by more than 25 nats a stimulus (575 stimuli: from -161 to -85 in one epoch)."""
    from dataclasses import replace

    from layertool.corpora import eccc

    whole = eccc.read(shared / "data/eccc")
    table = whole.utterances.iloc[np.linspace(0, len(whole.utterances) - 1, 66).astype(int)].reset_index(drop=True)
    table["split"] = [("dev" if k % 4 == 3 else "train") if k < 64 else "test" for k in range(66)]
    kept = whole.segments[whole.segments["utterance"].isin(table["utterance"])].reset_index(drop=True)
    corpus = replace(whole, utterances=table, segments=kept)
    recipe = tuning.recipe(epochs=3, batch_size=8, learning_rate=1e-4, modules=("decoder",))
    tuned = fine_tune(str(shared / "models/whisper-tiny.en"), corpus, tmp_path / "o", recipe)
    print([(epoch.loss, epoch.dev) for epoch in tuned.history])
    assert [len(tuning.record(tuned.folder)["split"][part]) for part in ("train", "dev", "test")] == [48, 16, 2]
    assert tuned.best.dev > tuned.history[0].dev + 25
    assert tuned.history[3].loss < tuned.history[1].loss
    assert scored(tuned.folder, corpus, tuning.EXACT) == pytest.approx(tuned.best.dev, rel=1e-4)
