"""Every bad input through the command line: one sentence that names it, and the right exit code."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import click
import h5py
import models
import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import small
import soundfile
import torch
from commands import run as layertool
from commands import succeeds

from layertool.cli import COMMANDS, cli
from layertool.commands.options import OLD
from layertool.corpora.corpus import Corpus
from layertool.store import FeatureStore, verify

USAGE, DATA = 2, 1


def fails(code: int, arguments, *says) -> str:
    """The command ends with ``code`` and one sentence that holds everything in ``says``; returns the sentence."""
    result = layertool(*arguments)
    assert result.exit_code == code, result.output
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: "), result.stderr
    assert sum(line.startswith("Error: ") for line in lines) == 1
    if "Usage: " not in result.stderr:  # click's own errors have two lines before
        assert all(line.startswith("note: ") for line in lines[:-1]), result.stderr
    for text in says:
        assert str(text) in lines[-1], lines[-1]
    return lines[-1]


@pytest.fixture(scope="session")
def network(tmp_path_factory) -> Path:
    return models.save("wav2vec2-base", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    return small.corpus(folder, 4, 8000).write(folder)


@pytest.fixture
def corpus(made, tmp_path) -> Path:
    """A copy to be damaged: u00 to u03 with words and phones, audio inside."""
    return shutil.copytree(made, tmp_path / "corpus")


@pytest.fixture
def checkpoint(network, tmp_path) -> Path:
    """A copy of a model to be damaged."""
    return shutil.copytree(network, tmp_path / "broken")


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


def by_hand(folder: Path, utterances: str, segments: str | None = None) -> Path:
    """A corpus of .csv tables."""
    folder.mkdir(exist_ok=True)
    (folder / "utterances.csv").write_text(utterances)
    if segments:
        (folder / "segments.csv").write_text("utterance,tier,start,end,label\n" + segments)
    return folder


# the command itself


def test_what_is_no_command():
    fails(USAGE, ["extrct"], "there is no command 'extrct'; did you mean extract or export?")
    fails(USAGE, ["xyz"], "there is no command 'xyz'; the commands are " + ", ".join(COMMANDS))
    fails(USAGE, ["compress", "headz"], "did you mean heads?")
    fails(USAGE, ["probe", "neighbors"], "did you mean neighbours?")


def test_a_group_alone_shows_its_help():
    result = layertool("probe")
    assert result.exit_code == USAGE
    assert "\n  sentences       Sentences that people call alike: Spearman" in result.output


@pytest.mark.parametrize(
    ("command", "old", "new"), [(command, old, new) for command, names in OLD.items() for old, new in names.items()]
)
def test_options_that_are_called_something_else_now(command, old, new):
    fails(
        USAGE,
        [*command.split(), "a", "b", "-o", "x", old, "1"],
        f"'layertool {command}' has no {old} any more: type {new}",
    )
    assert new.split()[0] in succeeds(*command.split(), "-h").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["extract", "mel"], "Missing argument 'CORPUS'"),
        (["extract", "mel", "corpus"], "Missing option '-o' / '--output'"),
        (["extract", "mel", "corpus", "-o", "s", "--layer", "T0"], "No such option '--layer'"),
        (["extract", "mel", "corpus", "-o", "s", "--dtype", "float64"], "'float64' is not one of"),
        (["extract", "mel", "corpus", "-o", "s", "--store-dtype", "bfloat16"], "'bfloat16' is not one of"),
        (["extract", "mel", "corpus", "-o", "s", "--shard-seconds", "0"], "'--shard-seconds'"),
        (["extract", "mel", "corpus", "-o", "s", "--batch-seconds", "many"], "'many' is not a valid float"),
        (["extract", "mel", "corpus", "-o", "s", "--max-failures", "-1"], "'--max-failures'"),
        (["extract", "mel", "corpus", "-o", "s", "--pooling", "mean"], "'mean' is not UNIT=HOW, e.g. phone=mean"),
        (["corpus", "folder", "x", "-o", "c", "--tier", "syllable=S"], "'syllable=S' is not word=NAME or phone=NAME"),
        (["corpus", "fold"], "there is no command 'fold'; did you mean folder?"),
        (["export", "s", "-o", "x", "--to", "mat"], "'mat' is not one of"),
    ],
)
def test_wrong_options(arguments, says):
    fails(USAGE, arguments, says)


def every_command(command: click.Command, path: tuple[str, ...] = ()):
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from every_command(command.get_command(context, name), (*path, name))


@pytest.mark.parametrize("path", list(every_command(cli)), ids=lambda path: " ".join(path) or "layertool")
def test_help(path):
    """What it does, and an example of whatever does something."""
    short, long = succeeds(*path, "-h"), succeeds(*path, "--help")
    assert short.stdout == long.stdout
    lines = short.stdout.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(('layertool', *path))} ")
    assert lines[2].strip()
    if path and len(list(every_command(cli.get_command(click.Context(cli), path[0])))) == 1:
        assert f"layertool {' '.join(path)}" in "\n".join(lines[2:]), "no example"


def test_help_does_not_wait_for_torch():
    program = (
        "import sys; from layertool.cli import main; sys.argv[1:] = ['-h']\ntry: main()\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "click" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "h5py", "numpy"}


# the corpus


def test_a_missing_corpus(tmp_path, store):
    fails(
        DATA,
        ["extract", "mel", tmp_path / "nowhere", "-o", store],
        tmp_path / "nowhere",
        "does not exist",
        "layertool corpus folder",
    )
    assert not store.exists()


def test_a_folder_of_audio_instead_of_a_corpus(corpus, store):
    fails(
        DATA,
        ["extract", "mel", corpus / "audio", "-o", store],
        "is not a corpus",
        f"layertool corpus folder {corpus / 'audio'} -o",
    )


@pytest.mark.parametrize("command", ["info", "align"])
def test_commands_on_a_missing_corpus(tmp_path, command):
    fails(DATA, ["corpus", command, tmp_path / "nowhere"], tmp_path / "nowhere", "does not exist")


def test_a_missing_source(tmp_path):
    for command in ("folder", "librispeech", "csv", "lhotse"):
        fails(DATA, ["corpus", command, tmp_path / "nowhere", "-o", tmp_path / "c"], tmp_path / "nowhere")
        assert not (tmp_path / "c").exists()


def test_a_corpus_that_is_there_already(corpus, tmp_path):
    made = tmp_path / "made"
    succeeds("corpus", "folder", corpus / "audio", "-o", made)
    fails(DATA, ["corpus", "folder", corpus / "audio", "-o", made], made, "holds a corpus already", "--overwrite")
    succeeds("corpus", "folder", corpus / "audio", "-o", made, "--overwrite")


def change_segments(corpus: Path, change) -> None:
    """Write a corpus again with other segments."""
    there = Corpus.read(corpus)
    replace(there, segments=change(there.segments).reset_index(drop=True)).write(corpus)


def test_a_tier_that_is_not_there(corpus, store):
    change_segments(corpus, lambda table: table[table["tier"] == "word"])
    fails(
        USAGE, ["extract", "mel", corpus, "-o", store, "--units", "word,phone"],
        "small has no phone segments (tiers there: word)", "layertool corpus align", "--tier",
    )  # fmt: skip


def test_a_unit_that_is_none(corpus, store):
    fails(
        USAGE,
        ["extract", "mel", corpus, "-o", store, "--units", "word,syllable"],
        "'syllable' is no unit: choose among frame, phone, word, utterance",
    )
    fails(USAGE, ["extract", "mel", corpus, "-o", store, "--units", ""], "--units names nothing")


def test_segments_outside_their_utterance(corpus, store):
    table = pd.read_parquet(corpus / "segments.parquet")
    table.loc[table["utterance"] == "u01", "end"] += 3
    table.to_parquet(corpus / "segments.parquet")
    fails(
        DATA,
        ["extract", "mel", corpus, "-o", store],
        "utterance 'u01' lasts 0.624 s",
        "(6 such segments)",
        "is this the right TextGrid",
    )
    assert not store.exists()


def test_audio_that_became_shorter(corpus, store):
    small.sound(corpus / "audio" / "u02.wav", 5000)
    fails(DATA, ["extract", "mel", corpus, "-o", store], corpus / "audio" / "u02.wav", "5000", "make the corpus again")


def test_audio_that_is_gone(corpus, store):
    (corpus / "audio" / "u02.wav").unlink()
    fails(DATA, ["extract", "mel", corpus, "-o", store], corpus / "audio" / "u02.wav", "does not exist")
    assert not list(store.glob("**/*.part"))
    assert not list(store.glob("shards/*"))


def test_stereo(tmp_path, store):
    audio = tmp_path / "audio"
    audio.mkdir()
    soundfile.write(audio / "a.wav", np.tile(small.noise(16000)[:, None], 2), 16000)
    command = ["corpus", "folder", audio, "-o", tmp_path / "c"]
    fails(DATA, command, audio / "a.wav", "has 2 channels", "--channel 0 (to 1)", "--channel mix")
    fails(USAGE, [*command, "--channel", "left"], "'left' is no channel", "'mix'")
    fails(DATA, [*command, "--channel", "2"], audio / "a.wav", "has no channel 2: it has 2")
    succeeds(*command, "--channel", "1")
    fails(USAGE, ["extract", "mel", tmp_path / "c", "-o", store, "--channel", "left"], "'left' is no channel")


def test_stereo_in_a_corpus_made_by_hand(tmp_path, store):
    """The remedy that the message names must work."""
    soundfile.write(tmp_path / "a.wav", np.tile(small.noise(16000)[:, None], 2), 16000)
    folder = by_hand(tmp_path / "c", "utterance,audio\na,../a.wav\n")
    command = ["extract", "mel", folder, "-o", store, "--units", "utterance"]
    fails(DATA, command, tmp_path / "a.wav", "has 2 channels", "--channel 0 (to 1)")
    succeeds(*command, "--channel", "0")


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("nan.wav", lambda p: soundfile.write(p, np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT"), "not finite (NaN or infinite)"),
        ("empty.wav", lambda p: p.write_bytes(b""), "is empty (0 bytes)"),
        ("text.wav", lambda p: p.write_text("hello " * 99), "cannot be read as audio"),
        ("none.wav", lambda p: soundfile.write(p, np.empty(0), 16000), "has no samples"),
        ("folder.wav", lambda p: p.mkdir(), "is a folder"),
        ("half.flac", lambda p: p.write_bytes(small.sound(p, 32000).read_bytes()[:30_000]), "breaks off or is damaged"),
        ("half.wav", lambda p: p.write_bytes(small.sound(p, 32000).read_bytes()[:30_000]), "is cut short"),
    ],
)  # fmt: skip
def test_audio_that_cannot_be_used(tmp_path, store, name, write, says):
    write(tmp_path / name)
    folder = by_hand(tmp_path / "c", f"utterance,audio\na,../{name}\n")
    fails(DATA, ["extract", "mel", folder, "-o", store, "--units", "utterance"], tmp_path / name, says)


def test_audio_shorter_than_a_frame(tmp_path, network, store):
    small.sound(tmp_path / "click.wav", 150)
    folder = by_hand(tmp_path / "c", "utterance,audio\nclick,../click.wav\n")
    for model, field in (("mel", "201 samples"), ("fbank", "400 samples"), (network, "400 samples, 25 ms")):
        fails(
            DATA, ["extract", model, folder, "-o", store / Path(model).name, "--units", "utterance"],
            "utterance 'click' has 150 samples (9.4 ms)", field, "--max-failures 1",
        )  # fmt: skip


def test_failures_that_are_tolerated_are_listed(corpus, store):
    (corpus / "audio" / "u01.wav").write_bytes(b"")
    command = ["extract", "mel", corpus, "-o", store]
    fails(DATA, command, "u01.wav is empty")
    result = succeeds(*command, "--max-failures", "1")
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("left out: ")]
    assert line.startswith("left out: u01: ")
    assert "is empty (0 bytes)" in line
    assert "3 utterances" in result.stdout
    assert line in succeeds("info", store).stdout
    assert json.loads(succeeds("info", store, "--json").stdout)["failures"][0]["utterance"] == "u01"
    assert succeeds("verify", store).stdout.startswith(f"{store} is sound: 1 shard,")


def test_more_failures_than_tolerated(corpus, store):
    for name in ("u01", "u03"):
        (corpus / "audio" / f"{name}.wav").write_bytes(b"")
    fails(DATA, ["extract", "mel", corpus, "-o", store, "--max-failures", "1"], "is empty (0 bytes)")
    assert succeeds("extract", "mel", corpus, "-o", store, "--max-failures", "2").exit_code == 0


# the model


def test_a_model_that_is_not_there(corpus, store, tmp_path):
    fails(
        DATA,
        ["extract", tmp_path / "nowhere", corpus, "-o", store],
        tmp_path / "nowhere",
        "does not exist: check the path of the model",
    )
    fails(DATA, ["extract", "./nowhere", corpus, "-o", store], "./nowhere does not exist")
    fails(
        DATA,
        ["extract", corpus / "corpus.json", corpus, "-o", store],
        "is a file; a Hugging Face checkpoint is a folder",
    )
    fails(
        DATA,
        ["extract", corpus, corpus, "-o", store],
        "is a corpus, not a model: give the MODEL first, then the CORPUS",
    )
    assert not store.exists()


@pytest.mark.slow
def test_a_hub_id_without_network(corpus, store, tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    for name in ("facebook/wav2vec2-base", "facebook/wav2vec2-base@main"):
        command = [sys.executable, "-m", "layertool.cli", "extract", name, corpus, "-o", store]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == DATA, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith("Error: facebook/wav2vec2-base")
        assert "without network it must be a local folder or already in the Hugging Face cache (HF_HOME)" in line


@pytest.mark.parametrize("name", ["mell:pasad", "fairsec:x.pt", "C:"])
def test_what_is_no_model(corpus, store, name):
    fails(USAGE, ["extract", name, corpus, "-o", store], f"'{name}' is no model", "acoustic feature (fbank, ")


def test_an_unknown_variant_of_a_feature(corpus, store):
    fails(
        USAGE,
        ["extract", "mel:htk", corpus, "-o", store],
        "'mel:htk' is no variant of mel: choose one of mel, mel:torchaudio",
    )


def test_layers_that_are_not_there(corpus, store, network):
    """Also those that another family has."""
    has = "it has C1-C7, T0-T3"
    for layer in ("T4", "D0", "final", "T0-T9", "t1", "4", "C0"):
        fails(
            USAGE,
            ["extract", network, corpus, "-o", store, "--layers", f"T0,{layer}"],
            f"'{layer}' is no layer of tiny: {has}",
        )
    fails(USAGE, ["extract", network, corpus, "-o", store, "--layers", "T3-T1"], "go backwards: type T1-T3")
    for layer in ("C7", "T0", "fbank"):
        fails(
            USAGE,
            ["extract", "mel", corpus, "-o", store, "--layers", layer],
            f"'{layer}' is no layer of mel: it has mel",
        )
    fails(USAGE, ["extract", "mel", corpus, "-o", store, "--layers", ","], "--layers names nothing")
    assert not store.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--pooling", "word=median"], "'median' is no pooling: choose mean, min, max, centre-third, position@Q"),
        (["--pooling", "phone=mean"], "pooling was given for 'phone', which is not among the pooled units asked for (word, utterance)"),
        (["--pooling", "frame=mean", "--units", "frame"], "frames are not pooled"),
        (["--cmvn"], "--cmvn makes the mean over time of every utterance 0"),
        (["--random-init", "0"], "--random-init is for networks that are drawn here; mel is an acoustic feature"),
        (["--window-seconds", "10", "--overlap-seconds", "9"], "windows of 10 s cannot overlap by 9 s"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(corpus, store, options, says):
    fails(USAGE, ["extract", "mel", corpus, "-o", store, *options], says)
    assert not store.exists()


def test_cmvn_without_utterances_is_fine(corpus, store):
    succeeds("extract", "mel", corpus, "-o", store, "--cmvn", "--units", "word")


def test_options_of_other_kinds_of_model(corpus, store, network):
    fails(
        USAGE,
        ["extract", network, corpus, "-o", store, "--cmvn", "--units", "word"],
        f"--cmvn is for acoustic features; {network} is of type 'wav2vec2'",
    )
    fails(
        USAGE,
        ["extract", network, corpus, "-o", store, "--device", "gpu"],
        "'gpu' is no device: choose auto, cpu, cuda:N or mps",
    )
    fails(
        USAGE,
        ["extract", network, corpus, "-o", store, "--device", "cuda:99"],
        "device 'cuda:99' is not on this machine",
    )
    fails(
        USAGE,
        ["extract", network, corpus, "-o", store, "--device", "cpu", "--dtype", "float16"],
        "--dtype float32 or bfloat16",
    )


# checkpoints that must not be trusted


def extract(checkpoint, corpus, store):
    return ["extract", checkpoint, corpus, "-o", store, "--layers", "T1"]


def configure(checkpoint: Path, **changes):
    path = checkpoint / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_checkpoint_that_brings_code(checkpoint, corpus, store, tmp_path):
    trace = tmp_path / "executed"
    (checkpoint / "mine.py").write_text(f"open({str(trace)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    configure(checkpoint, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    fails(
        DATA, extract(checkpoint, corpus, store),
        checkpoint, "wants to run code that comes with the checkpoint (mine.Config, mine.Model); layertool never does that",
    )  # fmt: skip
    configure(checkpoint, model_type="wav2vec2")  # a type that transformers has: the code is not needed, and not run
    succeeds(*extract(checkpoint, corpus, store))
    assert not trace.exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_checkpoint_that_is_a_bomb(checkpoint, corpus, store, tmp_path, kind):
    trace = tmp_path / "executed"
    (checkpoint / "model.safetensors").unlink()
    if kind == "pickle":
        (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"masked_spec_embed": Bomb(trace)}, protocol=2))
    else:
        torch.save({"masked_spec_embed": Bomb(trace)}, checkpoint / "pytorch_model.bin")
    line = fails(DATA, extract(checkpoint, corpus, store), checkpoint, "run code", "safetensors")
    assert not trace.exists()
    assert "weights_only" not in line, "nobody should be told to switch the safety off"
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists(), "the bomb was a dud"


def test_missing_weights(checkpoint, corpus, store):
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.0.attention" not in name}
    safetensors.torch.save_file(kept, checkpoint / "model.safetensors", metadata={"format": "pt"})
    missing = sorted(set(weights) - set(kept))
    fails(
        DATA, extract(checkpoint, corpus, store),
        checkpoint, f"lacks {len(missing)} weights of its own architecture (first: {missing[0]})", "--random-init SEED",
        "which T1 need",
    )  # fmt: skip
    assert not store.exists()
    succeeds("extract", checkpoint, corpus, "-o", store, "--layers", "C1-C7,T0")  # made of what is there


def test_weights_of_another_shape(checkpoint, corpus, store):
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    name = "encoder.layers.1.final_layer_norm.weight"
    weights[name] = torch.ones(7)
    safetensors.torch.save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    fails(DATA, extract(checkpoint, corpus, store), checkpoint, "weights of another shape", name)


def test_weights_that_are_not_finite(checkpoint, corpus, store):
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    weights["encoder.layers.0.final_layer_norm.weight"][3] = float("nan")
    safetensors.torch.save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    fails(DATA, extract(checkpoint, corpus, store), "layer T1 of utterance 'u0", "not finite", "checkpoint")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("model.safetensors", None),  # half of it
        ("pytorch_model.bin", b""),
        ("pytorch_model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        ("pytorch_model.bin", None),
        ("config.json", b'{"model_type": "wav2v'),
        ("config.json", b"[]"),
        ("config.json", b"\xff\xfe"),
        ("config.json", b'{"model_type": "wav2vec2", "hidden_size": "many"}'),
        ("config.json", b'{"model_type": "wav2vec2", "conv_dim": [1, 2]}'),
    ],
)
def test_damaged_checkpoints(checkpoint, corpus, store, name, content):
    if name == "pytorch_model.bin":
        torch.save(safetensors.torch.load_file(checkpoint / "model.safetensors"), checkpoint / name)
        (checkpoint / "model.safetensors").unlink()
    whole = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    fails(DATA, extract(checkpoint, corpus, store), checkpoint)
    assert not store.exists()


def test_a_checkpoint_without_weights(checkpoint, corpus, store):
    (checkpoint / "model.safetensors").unlink()
    fails(DATA, extract(checkpoint, corpus, store), checkpoint, "model.safetensors")


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("bert", "is of type 'bert', which has no extractor here (there are: wav2vec2, hubert, "),
        ("mine", "has the model type 'mine', which transformers does not know"),
        (None, "model type"),
    ],
)
def test_other_types_of_model(checkpoint, corpus, store, model_type, says):
    configure(checkpoint, model_type=model_type)
    fails(DATA, extract(checkpoint, corpus, store), checkpoint, says)


# the store


def test_another_configuration_is_refused_by_name(corpus, store, network):
    command = ["extract", network, corpus, "-o", store]
    succeeds(*command, "--layers", "T0,T1")
    said = fails(DATA, [*command, "--layers", "T1-T3"], store, "layers = T0 T1 (asked: T1 T2 T3)", "--overwrite")
    assert "units" not in said
    fails(DATA, [*command, "--layers", "T0,T1", "--units", "word"], "units.utterance = mean (asked: none)")
    fails(DATA, [*command, "--layers", "T0,T1", "--random-init", "1"], "model.random_init = none (asked: 1)")
    fails(DATA, ["extract", "mel", corpus, "-o", store], "model.id = tiny (asked: mel)")
    assert FeatureStore(store).layers == ["T0", "T1"]
    assert verify(FeatureStore(store)) == []
    succeeds(*command, "--layers", "T1-T3", "--overwrite")
    assert FeatureStore(store).layers == ["T1", "T2", "T3"]


def test_a_corpus_that_changed_is_refused(corpus, store):
    succeeds("extract", "mel", corpus, "-o", store)
    change_segments(corpus, lambda table: table.assign(label=["other", *table["label"][1:]]))
    fails(DATA, ["extract", "mel", corpus, "-o", store], store, "corpus = ", "(asked: ")


def test_places_that_cannot_be_a_store(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    fails(
        DATA, ["extract", "mel", corpus, "-o", tmp_path / "file"], tmp_path / "file", "is a file, a store is a folder"
    )
    fails(DATA, ["extract", "mel", corpus, "-o", tmp_path / "file" / "store"], tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    fails(DATA, ["extract", "mel", corpus, "-o", tmp_path / "full"], "holds other things (notes.txt)")
    fails(DATA, ["extract", "mel", corpus, "-o", corpus, "--overwrite"], corpus, "holds other things")
    assert (corpus / "corpus.json").exists()


def test_a_corpus_of_one_table_is_not_overwritten(tmp_path):
    folder = by_hand(tmp_path / "c", "utterance,audio\na,../a.wav\n")
    pd.DataFrame({"utterance": ["a"], "audio": [str(small.sound(tmp_path / "a.wav"))], "mine": [1]}).to_parquet(
        folder / "utterances.parquet"
    )
    (folder / "utterances.csv").unlink()
    before = (folder / "utterances.parquet").read_bytes()
    fails(
        DATA,
        ["extract", "mel", folder, "-o", folder, "--units", "utterance"],
        "holds other things (utterances.parquet)",
    )
    assert (folder / "utterances.parquet").read_bytes() == before


@pytest.mark.parametrize("command", ["info", "verify", "export"])
def test_what_is_no_store(tmp_path, command):
    more = ["-o", tmp_path / "out"] if command == "export" else []
    fails(
        DATA, [command, tmp_path / "nowhere", *more], tmp_path / "nowhere", "is not a feature store (it does not exist)"
    )
    fails(DATA, [command, tmp_path, *more], "it has no store.json", "layertool extract MODEL CORPUS -o")
    assert not (tmp_path / "out").exists()


def test_verify_says_what_is_damaged(corpus, store):
    succeeds("extract", "mel", corpus, "-o", store, "--shard-seconds", "1")
    shard = store / "shards" / "00001.h5"
    with h5py.File(shard) as file:
        offset = file["word/mel"].id.get_offset()
    content = bytearray(shard.read_bytes())
    content[offset + 40] ^= 16
    shard.write_bytes(content)
    result = layertool("verify", store)
    assert result.exit_code == DATA
    assert "shards/00001.h5, " in result.stdout
    assert "the checksum differs" in result.stdout
    assert result.stderr.startswith(f"Error: {store} has 1 problem (above): run the same extract command again")
    succeeds("extract", "mel", corpus, "-o", store, "--shard-seconds", "1")
    succeeds("verify", store)


def test_an_unfinished_store(corpus, store, tmp_path):
    succeeds("extract", "mel", corpus, "-o", store, "--shard-seconds", "1")
    lines = (store / "index.jsonl").read_text().splitlines(keepends=True)
    (store / "index.jsonl").write_text("".join(lines[1:]))
    n = len(lines)
    assert f"unfinished: {n - 1} of {n} shards" in succeeds("info", store).stdout
    fails(DATA, ["export", store, "-o", tmp_path / "out"], f"is unfinished ({n - 1} of {n} shards)")
    fails(DATA, ["verify", store], "problem")


def test_exports_that_cannot_be(corpus, store, tmp_path):
    succeeds("extract", "mel", corpus, "-o", store)
    export = ["export", store, "-o", tmp_path / "out"]
    fails(USAGE, [*export, "--layers", "T7"], "'T7' is no layer of", "it has mel")
    fails(USAGE, [*export, "--units", "phone"], "has no unit 'phone' (it has word, utterance)", "--units phone")
    succeeds(*export, "--to", "npz")
    fails(DATA, [*export, "--to", "npz"], "exists already", "--overwrite")


def test_a_dry_run_writes_nothing(corpus, store):
    result = succeeds("extract", "mel", corpus, "-o", store, "--dry-run")
    assert "(nothing was written)" in result.stdout
    assert not store.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission(corpus, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    fails(
        DATA,
        ["extract", "mel", corpus, "-o", tmp_path / "locked" / "s"],
        tmp_path / "locked",
        "check the path and its permissions",
    )


def every_command(command, name="layertool"):
    yield pytest.param(command, id=name)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for child in command.list_commands(context):
            yield from every_command(command.get_command(context, child), f"{name} {child}")


@pytest.mark.parametrize("command", list(every_command(cli)))
def test_help_fits_a_terminal_of_80_columns(command):
    """Prose is filled, an example that goes on can be pasted."""
    context = click.Context(command, info_name="layertool", terminal_width=80)
    lines = command.get_help(context).splitlines()
    assert max(map(len, lines)) <= 80
    for line, further in pairwise(lines):
        assert not line.strip().startswith("layertool ") or line.endswith("\\") == further.startswith(" " * 8)
