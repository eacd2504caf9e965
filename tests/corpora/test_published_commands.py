"""The commands that read the corpora of SpEAT, up to a table of d."""

from __future__ import annotations

import inspect
from importlib import import_module
from itertools import product

import models
import numpy as np
import pytest
import soundfile
from commands import run

import layertool
import layertool.analysis.speat
from layertool.corpora import readers
from layertool.errors import UsageError


@pytest.fixture
def folders(tmp_path):
    """MESS without ratings, and an archive of eight US natives of two ages."""
    mess, archive = tmp_path / "MESS", tmp_path / "archive"
    mess.mkdir()
    archive.mkdir()
    for k, (emotion, gender) in enumerate(product("ACHS", "FM")):
        soundfile.write(mess / f"{emotion}{gender}1M01_SCR.wav", models.speech_like(9000, k), 16_000)
    lines = ["id,name,birth_place,native_language,age,sex"]
    for k in range(1, 9):
        soundfile.write(archive / f"{k}.wav", models.speech_like(9500, 20 + k), 16_000)
        lines.append(f'{k},english{k},"x, ohio, usa",english,{20 + 40 * (k > 4)},{"female" if k % 2 else "male"}')
    (archive / "speakers.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_from_both_corpora_to_a_table(folders):
    steps = [
        ("corpus", "mess", folders / "MESS", "-o", folders / "emotions"),
        ("corpus", "speech-accent-archive", folders / "archive", "-o", folders / "accents", "--selection", "all"),
        ("corpus", "join", folders / "accents", folders / "emotions", "-o", folders / "both"),
        ("extract", "mfcc", folders / "both", "-o", folders / "mfcc", "--units", "utterance"),
    ]
    for step in steps:
        done = run(*step)
        assert done.exit_code == 0, done.output
    both = layertool.Corpus.read(folders / "both")
    assert both.utterances["valence"].value_counts().to_dict() == {"positive": 4, "negative": 4}
    told = run(
        "speat",
        folders / "mfcc",
        "--target",
        "sex=female:male",
        "--attribute",
        "valence=positive:negative",
        "--where",
        "part=speech-accent-archive-all",
    )
    assert told.exit_code == 2  # the condition leaves no attributes
    assert "no utterance row has part=speech-accent-archive-all and valence=positive" in told.stderr
    told = run("speat", folders / "mfcc", "--target", "age=20:60", "--attribute", "valence=positive:negative", "-q")
    assert told.exit_code == 0, told.output
    assert "relabellings 70, exact" in told.stdout  # all of 4 and 4
    store = layertool.FeatureStore(folders / "mfcc")
    table = store.utterances
    rows = store.read("utterance", "mfcc").astype(float)
    x, y = (rows[(table["age"] == age).to_numpy()] for age in (20, 60))
    a, b = (rows[(table["valence"] == value).to_numpy()] for value in ("positive", "negative"))
    d = layertool.analysis.speat.association_test(x, y, a, b).d
    assert f"{d:.2f} [" in told.stdout
    assert np.isfinite(d)


def test_python_makes_what_the_command_makes(folders):
    options = {"n_per_speaker": 1, "name": "set", "max_failures": 0, "seed": None}
    made = readers.make("mess", folders / "MESS", **options)
    done = run("corpus", "mess", folders / "MESS", "-o", folders / "c", "--n-per-speaker", "1", "--name", "set")
    assert done.exit_code == 0, done.output
    read = layertool.Corpus.read(folders / "c")
    assert (read.fingerprint, read.provenance["seed"]) == (made.fingerprint, made.provenance["seed"])
    with pytest.raises(UsageError, match="there is no reader 'mss': choose from folder, csv, "):
        readers.make("mss", folders / "MESS")
    with pytest.raises(UsageError, match="'best' is nothing that --selection takes: choose rated, all"):
        readers.make("mess", folders / "MESS", selection="best")
    with pytest.raises(UsageError, match="the reader 'mess' has no option 'sed': choose from ratings, selection, "):
        readers.make("mess", folders / "MESS", sed=3)


@pytest.mark.parametrize("layout", readers.READERS)
def test_the_function_of_a_reader_takes_what_is_declared(layout):
    reader = readers.READERS[layout]
    module, function = reader.function.split(":")
    taken = set(inspect.signature(getattr(import_module(f"layertool.corpora.{module}"), function)).parameters)
    declared = {option.about["keyword"] for option in reader.all_options}
    if readers.RAW_LABELS in reader.options:
        declared = declared - {"raw_labels", "non_speech"} | {"rules"}
    own = {"source", *(["progress"] if reader.counted else []), *(["out"] if reader.writes_audio else [])}
    assert taken == declared | own


def test_part_of_a_corpus(folders):
    assert run("corpus", "mess", folders / "MESS", "-o", folders / "c", "-q").exit_code == 0
    done = run("corpus", "subset", folders / "c", "-o", folders / "part", "--where", "emotion=sad", "--first", "1")
    assert done.exit_code == 0, done.output
    assert "1, 0.6 s" in done.stdout
    assert layertool.Corpus.read(folders / "part").utterances["emotion"].tolist() == ["sad"]
    for words, code in (
        ([], 1),
        (["--overwrite", "--first", "1", "--sample", "1"], 2),
        (["--overwrite", "--where", "x=1"], 2),
    ):
        assert run("corpus", "subset", folders / "c", "-o", folders / "part", *words).exit_code == code
    same = run("corpus", "subset", folders / "c", "-o", folders / "c", "--overwrite")
    assert same.exit_code == 2
    assert f"the corpus {folders / 'c'} lies in {folders / 'c'}, which is to be written" in same.stderr


def test_what_is_not_the_papers_is_said(folders):
    done = run("corpus", "mess", folders / "MESS", "-o", folders / "emotions")
    assert "not the" in done.stdout
    assert layertool.Corpus.read(folders / "emotions").name == "mess-by-emotion"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mess", "archive"], "AF1M01_SCR.wav"),
        (["speech-accent-archive", "MESS"], "no table of the speakers"),
        (["speech-accent-archive", "archive", "--selection", "best"], "best"),
        (["mess", "MESS", "--n-per-speaker", "0"], "n-per-speaker"),
        (["mess", "nowhere"], "nowhere"),
    ],
)
def test_errors(folders, arguments, says):
    kind, source, *rest = arguments
    done = run("corpus", kind, folders / source, "-o", folders / "out", *rest)
    assert done.exit_code in (1, 2)
    assert says in done.stderr
    assert "Traceback" not in done.output
    assert not (folders / "out").exists()
