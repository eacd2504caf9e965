"""One MODEL text and one waveform through everything that takes a MODEL: one input, one normalisation, one refusal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import fairseq_writer
import heard
import melhuberts
import models
import numpy as np
import pytest
import safetensors.torch
from commands import refused, run, succeeds

from layertool import Model
from layertool.audio import read_utterance
from layertool.errors import LayertoolError, UsageError
from layertool.extractors.base import Item
from layertool.extractors.load import open_extractor
from layertool.geometry import Window
from layertool.models.convert import convert
from layertool.models.open import OPTIONS
from layertool.training import compression_run, plans
from layertool.training.encoders import open_encoder
from layertool.training.pretraining_data import Examples, Spans
from layertool.training.pretraining_networks import reopen

CLUSTERS = 5
MEL = {**melhuberts.SMALL, "num_cluster": CLUSTERS}
# name of a folder -> whether its waveforms are normalised, and what is added to their variance
NORMALISED = {"hubert": (True, 1e-7), "plain": (False, 1e-7), "converted": (True, 1e-5), "transformers5": (True, 1e-7)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models that differ in what they are given, and a corpus of quiet speech, on which an epsilon shows."""
    folder = tmp_path_factory.mktemp("models")
    models.save("hubert-large", folder / "hubert")
    models.save("hubert-base", folder / "plain")
    models.save("hubert-large", folder / "transformers5")  # says it where transformers 5 does, and nowhere else
    said = json.loads((folder / "transformers5" / "preprocessor_config.json").read_text())
    (folder / "transformers5" / "preprocessor_config.json").unlink()
    (folder / "transformers5" / "processor_config.json").write_text(json.dumps({"feature_extractor": said}))
    (folder / "files").mkdir()
    file = fairseq_writer.write("hubert-large", folder / "files")
    file.rename(folder / "files" / "hubert.pt")
    convert(f"fairseq:{folder}/files/hubert.pt", folder / "converted")
    melhuberts.write(folder / "files" / "mel.ckpt", melhuberts.random_state(MEL), MEL)
    convert(f"melhubert:{folder}/files/mel.ckpt", folder / "mel-folder")
    models.corpus(folder / "audio", [0.02 * models.speech_like(n, k) for k, n in enumerate((9_000, 6_000))]).write(
        folder / "corpus"
    )
    (folder / "link").symlink_to(folder / "hubert")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def row(folder: Path) -> dict:
    return {
        "utterance": "u0",
        "audio": str(folder / "audio" / "u0.wav"),
        "n_samples": 9_000,
        "start": None,
        "end": None,
        "channel": None,
    }


def extracted(model, waveform) -> np.ndarray:
    """What extraction gives the network of one utterance."""
    extractor = open_extractor(model, "cpu")
    item = Item(0, "u0", len(waveform), Window(0, len(waveform), 0, len(waveform)), extractor.normalise(waveform))
    extractor.prepare(item)
    return item.samples if item.model_input is None else item.model_input


def pretrained(model, where: dict) -> np.ndarray:
    """What pre-training gives it that goes on from a MODEL."""
    opened = Model.open(model)
    network, _ = reopen("melhubert" if opened.kind == "melhubert" else "hubert", opened, CLUSTERS)
    item = Examples(network, [where], 10_000, Spans(0.5, 2), None).make(0, np.random.default_rng(0))
    return item["features" if opened.kind == "melhubert" else "waveforms"]


SPELLINGS = ["hubert", "./hubert", "hubert/", "link", "files/../hubert", "{folder}/hubert", "{folder}/link/"]
TEXTS = [
    *NORMALISED,
    *SPELLINGS[1:],
    "fairseq:files/hubert.pt",
    "fairseq:{folder}/files/hubert.pt",
    "mel-folder",
    "melhubert:mel-folder",
    "melhubert:files/mel.ckpt",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_model_hears_the_same_everywhere(folder, text):
    text = text.format(folder=folder)
    where = row(folder)
    waveform = read_utterance(where)
    expected = Model.open(text).hear(waveform)
    inputs = {"extract": extracted(text, waveform), "train": open_encoder(text).hear(where)}
    if not text.startswith("fairseq"):  # which is converted before it is gone on with
        inputs["pretrain"] = pretrained(text, where)
    for path, given in inputs.items():
        whole = (
            given if len(given) == len(expected) else np.concatenate([given, expected[len(given) :]])
        )  # its frames' samples
        assert np.array_equal(whole, expected), path
        assert len(given) > 0.95 * len(expected)


@pytest.mark.parametrize(("name", "normalises", "epsilon"), [(name, *what) for name, what in NORMALISED.items()])
def test_the_normalisation_is_that_of_the_checkpoint(folder, name, normalises, epsilon):
    waveform = read_utterance(row(folder))
    model = Model.open(name)
    assert (model.normalises, model.epsilon) == (normalises, epsilon)
    wide = waveform.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + epsilon) if normalises else wide
    assert np.abs(model.hear(waveform) - expected).max() < 1e-6
    if normalises:
        assert (model.hear(waveform).std() < 0.9) == (epsilon == 1e-5)  # it shows on quiet audio


def test_a_file_of_fairseq_and_its_conversion_hear_the_same(folder):
    waveform = read_utterance(row(folder))
    assert np.array_equal(Model.open("fairseq:files/hubert.pt").hear(waveform), Model.open("converted").hear(waveform))
    assert not np.array_equal(Model.open("hubert").hear(waveform), Model.open("converted").hear(waveform))


@pytest.mark.parametrize("name", [*NORMALISED, "mel-folder"])
def test_what_is_made_of_a_model_hears_what_it_heard(folder, name, tmp_path):
    """Pre-training that goes on, a student or a fine-tuned network, a pruned one: their folders say the same."""
    waveform = read_utterance(row(folder))
    expected, opened = Model.open(name).hear(waveform), open_encoder(name)
    reopen("melhubert" if name == "mel-folder" else "hubert", name, CLUSTERS)[0].save(tmp_path / "pretrained", 0)
    opened.save(opened.encoder, tmp_path / "trained", 3, "a test")
    pruning = plans.Pruning("heads", plans.usual_plan("heads", plans.look(name))[0], 0, trains=False)
    pruned = compression_run.compress(name, None, tmp_path / "pruned", pruning, device="cpu").models[-1].path
    for made in (tmp_path / "pretrained", tmp_path / "trained", pruned):
        assert np.array_equal(Model.open(made).hear(waveform), expected), made.name


@pytest.mark.parametrize("text", ["hubert", "mel-folder", "fairseq:files/hubert.pt", "mel"])
def test_layers_and_provenance_are_those_of_the_extractor(text):
    model, extractor = Model.open(text), open_extractor(text, "cpu")
    assert model.layers == extractor.layers
    assert model.provenance == extractor.provenance
    assert repr(model) == f"Model('{text}')"
    assert model.geometry == list(extractor.layers.values())[-1].geometry


def test_weights_are_read_when_they_are_needed(folder, tmp_path):
    """A folder whose weights are gone says what it is, and a network only where there is one."""
    (tmp_path / "bare").mkdir()
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / "bare" / file).write_bytes((folder / "hubert" / file).read_bytes())
    model = Model.open(tmp_path / "bare")
    assert list(model.layers) == list(Model.open("hubert").layers)
    assert model.normalises is True
    with pytest.raises(LayertoolError, match="no weights"):
        model.load()


# --- refusals --------------------------------------------------------------------------------------

# Every command that takes a MODEL; {} is where it stands.
COMMANDS = {
    "extract": "extract {} corpus -o out --units utterance",
    "distill": "compress distill {} corpus -o out",
    "heads": "compress heads {} corpus -o out",
    "pretrain": "pretrain corpus --model hubert --init {} -o out",
    "ctc": "finetune ctc {} corpus -o out",
    "lexical finetune": "lexical finetune {} eccc -o out",
    "lexical score": "lexical score {} eccc",
}
REFUSED = {
    "melx": (2, "'melx' is no model (did you mean mel?)"),
    "kind:file.pt": (2, "'kind:file.pt' is no model"),
    "fairseq:": (2, "'fairseq:' names no file: type fairseq:FILE"),
    "./nowhere": (1, "./nowhere does not exist: check the path of the model"),
    "empty": (1, "empty has no config.json: it is empty"),
    "corpus": (1, "corpus is a corpus, not a model"),
    "files/mel.ckpt": (
        1,
        "files/mel.ckpt is a file of PyTorch; give fairseq:files/mel.ckpt or melhubert:files/mel.ckpt",
    ),
}


@pytest.fixture(scope="module")
def eccc(folder) -> Path:
    heard.corpus(folder / "listening").write(folder / "eccc")
    return folder / "eccc"


@pytest.mark.parametrize("command", [*COMMANDS, "convert"])
@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_model_is_refused_alike(folder, eccc, command, text):
    if command == "convert" and REFUSED[text][0] == 1:
        pytest.skip("convert takes no folders at all")
    result = run(*(part.replace("{}", text) for part in COMMANDS.get(command, "convert {} -o out").split()))
    code, says = REFUSED[text]
    assert result.exit_code == code, result.output
    assert f"Error: {says}" in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "RUN/step-2",
        "RUN/step-2/",
        "RUN/step-2@main",
        "./RUN/../RUN/step-2",
        "melhubert:RUN/step-2",
        "inside",
        "melhubert:inside",
    ],
)
@pytest.mark.parametrize("command", ["distill", "heads", "pretrain", "ctc", "lexical finetune"])
def test_a_run_is_not_written_over_the_model_that_it_starts_from(folder, eccc, tmp_path, monkeypatch, command, text):
    """However the model is spelled, and whatever would be made of it: the folder stays as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("corpus", "eccc"):
        os.symlink(folder / name, name)
    convert(f"melhubert:{folder}/files/mel.ckpt", "RUN/step-2")
    Path("inside").symlink_to("RUN/step-2")
    before = safetensors.torch.load_file("RUN/step-2/model.safetensors")
    asked = (
        COMMANDS[command]
        .replace("{}", text)
        .replace("--model hubert", "--model melhubert")
        .replace("-o out", "-o RUN --overwrite")
    )
    assert f"the model {text} lies in RUN, which is to be written: choose another -o" in refused(*asked.split())
    after = safetensors.torch.load_file("RUN/step-2/model.safetensors")
    assert all((after[name] == value).all() for name, value in before.items())


# One option each that is asked for, and models whose it is.
ASKED = {
    "random_init": 1,
    "normalise": True,
    "cmvn": True,
    "language": "fr",
    "encoder_window": "exact",
    "statistics": "100",
    "mask_seed": 0,
    "dtype": "bfloat16",
}
KINDS = {
    "mel": "acoustic",
    "mel-folder": "melhubert",
    "hubert": "waveforms",
    "fairseq:files/hubert.pt": "fairseq",
    "whisper": "whisper",
}


@pytest.mark.parametrize("text", KINDS)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_for_the_models_of_the_table(folder, option, text):
    if text == "whisper" and not Path("whisper").exists():
        models.whisper(folder / "whisper", tokenizer="multilingual")
    whose, kinds = OPTIONS[option]
    given = {option: ASKED[option]}
    if KINDS[text] in kinds:
        open_extractor(text, "cpu", **given)
        return
    with pytest.raises(UsageError) as error:
        open_extractor(text, "cpu", **given)
    assert str(error.value).startswith(f"--{option.replace('_', '-')} is for {whose}; {text} is ")
    assert str(error.value).endswith(": leave it out")


def test_a_model_that_was_opened_is_taken_where_its_text_is(folder, tmp_path):
    import layertool

    asked = Model.open("hubert", random_init=3)
    one = layertool.extract(asked, "corpus", tmp_path / "one", units=("utterance",), device="cpu")
    other = layertool.extract("hubert", "corpus", tmp_path / "other", units=("utterance",), device="cpu", random_init=3)
    assert one.configuration == other.configuration
    assert succeeds(
        "extract", "hubert/", "corpus", "-o", tmp_path / "third", "--units", "utterance", "--random-init", 3
    )
    assert layertool.FeatureStore(tmp_path / "third").configuration == one.configuration
