"""lexical: score, rank, baselines, lens on a small random model; what they print, write, draw, and refuse."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import commands
import heard
import models
import pandas as pd
import pytest
from commands import run

from layertool import results

pytestmark = pytest.mark.slow  # networks are run, or trained

DATA, USAGE = 1, 2
FAST = ["--encoder-window", "exact"]
WORDS = ["--lexicon", "words.txt"]
COMMANDS = {
    "score": ["score", "small", "corpus", *FAST],
    "rank": ["rank", "small", "corpus", *FAST, *WORDS],
    "baselines": ["baselines", "small", "corpus", *FAST, *WORDS],
    "lens": ["lens", "small", "corpus", *FAST, *WORDS, "--split", "test"],
}


def succeeds(*arguments):
    return commands.succeeds("lexical", *arguments)


def rows_of(*arguments) -> pd.DataFrame:
    """Rows as another program reads them: JSON has no Infinity and no NaN."""
    return pd.DataFrame(json.loads(succeeds(*arguments, "--json", "-q").stdout, parse_constant=pytest.fail))


def means(rows) -> dict[tuple, float]:
    """(model, metric, layer) -> mean over all stimuli."""
    rows = rows[rows["target"] == "all"]
    metrics, layers = rows["metric"], rows["layer"].fillna("")
    keys = zip(rows["model"], metrics, layers, strict=True)
    return dict(zip(keys, rows["value"], strict=True))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lexical")
    models.whisper(folder / "small", tokenizer="english")
    models.whisper(folder / "b" / "small", seed=1, tokenizer="english")
    models.whisper(folder / "other", seed=2, tokenizer="english")
    models.save("wav2vec2-base", folder / "wav2vec2")
    heard.corpus(folder / "audio").write(folder / "corpus")
    plain = heard.corpus(folder / "audio2", heard.CLIPS[:3], without=["split", "split_by_target", "masker"])
    plain.write(folder / "plain")
    models.corpus(folder / "audio3", [models.speech_like(2_000, 1)]).write(folder / "speech")
    heard.corpus(folder / "audio4", heard.CLIPS[:2], counts=["1 2", "3"]).write(folder / "broken")
    over = models.corpus(folder / "audio5", [models.speech_like(480_001, 1)], responses=["the"], counts=["3"])
    over.write(folder / "long")
    (folder / "words.txt").write_text("\n".join(heard.LEXICON))
    (folder / "empty.txt").write_text("\n")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00\x81")
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A fresh folder with everything in it."""
    for path in made.iterdir():
        if path.name != "corpus":
            (tmp_path / path.name).symlink_to(path)
    shutil.copytree(made / "corpus", tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- what works ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["score", "rank", *(pytest.param(n, marks=pytest.mark.slow) for n in ("baselines", "lens"))]
)
def test_tables_files_figures(name):
    """The same rows printed, as JSON, and in files of every kind; a figure of every kind; and nothing else said."""
    told = succeeds(*COMMANDS[name], "-o", "new/x.csv", "--plot", "figures/x.svg")
    rows = results.read(["new/x.csv"])
    assert list(rows.columns) == results.COLUMNS
    assert f"{len(rows)} rows in new/x.csv" in told.stderr
    assert "figure in figures/x.svg" in told.stderr
    assert Path("figures/x.svg").read_text().startswith("<?xml")
    assert set(rows["analysis"]) == {"lexical lens" if name == "lens" else "lexical"}
    metrics = {"log-likelihood", "Kendall tau-b", "frequency minus probability of the target"}
    metrics |= {"top-1 accuracy", "top-n coverage"} if name != "score" else set()
    assert set(rows["metric"]) == metrics
    assert set(rows[~rows["target"].str.contains(":")]["target"]) == {"all", "SSN", "BMN3", "BAB4"}
    assert rows["target"].str.contains(":").any() == (name != "lens")
    assert "nan" not in told.stdout.lower()
    assert rows["value"].notna().all()
    for key, value in means(rows).items():
        if key[0] == "small" and key[1] == "log-likelihood" and name != "lens":
            assert f"{value:.1f} [" in told.stdout
    for suffix in (".json", ".parquet"):
        again = succeeds(*COMMANDS[name], "-o", f"x{suffix}", "-q", "--json")
        assert again.stderr == ""
        found = pd.DataFrame(json.loads(again.stdout, parse_constant=pytest.fail))
        assert found["value"].tolist() == pytest.approx(rows["value"].tolist(), abs=1e-9)
        kept = results.read([f"x{suffix}"])
        for column in results.COLUMNS:
            numeric = column in ("value", "ci_low", "ci_high", "chance")
            one, other = (table[column].astype(object).fillna(-1 if numeric else "").tolist() for table in (kept, rows))
            assert one == (pytest.approx(other, abs=1e-9) if numeric else other), column


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_responses(suffix):
    told = succeeds(*COMMANDS["score"], "--responses", f"r{suffix}", "-o", "x.csv")
    table = pd.read_csv("r.csv") if suffix == ".csv" else pd.read_parquet("r.parquet")
    assert f"{len(table)} rows in r{suffix}" in told.stderr
    assert table["response"].tolist() == [word for clip in heard.CLIPS for word in clip[0].split("|")]
    assert table["count"].tolist() == [int(k) for clip in heard.CLIPS for k in clip[1].split()]
    rows = results.read(["x.csv"]).query("item.notna() and metric == 'log-likelihood'")
    for (utterance, part), value in zip(table.groupby("utterance", sort=False), rows["value"], strict=True):
        assert heard.multinomial(part["log_p"], part["count"]) == pytest.approx(value), utterance


def test_words_that_were_ranked():
    succeeds(*COMMANDS["rank"], "--words", "w.csv", "-o", "x.csv", "-q")
    table = pd.read_csv("w.csv")
    assert table["utterance"].drop_duplicates().tolist() == [f"u{k}" for k in range(len(heard.CLIPS))]
    rows = results.read(["x.csv"])
    for k, (_, part) in enumerate(table.groupby("utterance", sort=False)):
        words, counts = heard.CLIPS[k][0].split("|"), [int(c) for c in heard.CLIPS[k][1].split()]
        assert part["rank"].tolist() == list(range(1, len(words) + 1))
        assert set(part["word"]) <= set(heard.LEXICON)
        own = rows[rows["target"].str.endswith(f": u{k}")]
        mine = dict(zip(own["metric"], own["value"], strict=True))
        assert mine["top-n coverage"] == pytest.approx(heard.share_found(list(part["word"]), words))
        assert mine["top-1 accuracy"] == heard.top_is_right(part["word"].iloc[0], words, counts)


def test_parts():
    for split, by_target, column in (("test", [], 4), ("dev", ["--target-disjoint"], 5)):
        rows = rows_of(*COMMANDS["score"], "--split", split, *by_target)
        kept = {f"{clip[2]}: u{k}" for k, clip in enumerate(heard.CLIPS) if clip[column] == split}
        assert {target for target in rows["target"] if ":" in target} == kept


def test_a_model_that_is_drawn_anew_and_coarser_computing():
    before = means(rows_of(*COMMANDS["score"]))
    anew = means(rows_of(*COMMANDS["score"], "--random-init", 3))
    assert {key[0] for key in anew} == {"small (random init 3)"}
    coarse = rows_of(*COMMANDS["score"], "--dtype", "bfloat16")
    assert coarse["settings"].str.contains("bfloat16").all()
    key = ("small", "log-likelihood", "D2")
    assert 0 < abs(means(coarse)[key] - before[key]) < 10


@pytest.mark.slow
def test_the_paper_s_table():
    rows = rows_of(*COMMANDS["baselines"], "--smoothing", 0.5)
    assert list(dict.fromkeys(rows["model"])) == ["random", "multinomial", "small (random init 0)", "small", "oracle"]
    found = means(rows)
    assert found["oracle", "top-1 accuracy", ""] == 1
    alone = means(rows_of(*COMMANDS["rank"], "--split", "test"))
    assert {k: v for k, v in found.items() if k[0] == "small"} == pytest.approx(alone, abs=1e-6)
    told = succeeds(*COMMANDS["baselines"], "--split", "all")
    assert "no multinomial" in told.stderr
    assert "multinomial" not in told.stdout


def test_impossible_responses():
    """-inf in a table, a file, JSON that other programs read, and a figure."""
    told = succeeds(*COMMANDS["baselines"], "--smoothing", 0, "-o", "x.csv", "--plot", "x.svg")
    assert "3 of 4 stimuli have a response of probability 0" in told.stderr + told.stdout
    assert means(results.read(["x.csv"]))["multinomial", "log-likelihood", ""] == float("-inf")
    assert "3 at −∞" in Path("x.svg").read_text()
    rows_of(*COMMANDS["baselines"], "--smoothing", 0)


@pytest.mark.slow
def test_models_whose_folders_have_one_name():
    rows = rows_of("score", "small", "b/small", "corpus", *FAST)
    found = means(rows)
    assert {key[0] for key in found} == {"small", "b/small"}
    for model in ("small", "b/small"):
        alone = means(rows_of("score", model, "corpus", *FAST))
        assert found[model, "log-likelihood", "D2"] == pytest.approx(alone["small", "log-likelihood", "D2"], abs=1e-6)
    table = succeeds("score", "small", "b/small", "corpus", *FAST, "--plot", "x.svg").stdout
    assert "b/small" in table


def test_a_model_twice_is_one():
    rows = rows_of("score", "small", "small", "corpus", *FAST)
    assert not rows.duplicated(["model", "metric", "target"]).any()


@pytest.mark.parametrize("command", ["score", "lens"])
def test_states_are_kept(here, made, command):
    """The second run takes them from the store: the audio is not there any more."""
    before = rows_of(*COMMANDS[command])
    first = succeeds(*COMMANDS[command], "--states", "states", "-o", "x.csv")
    assert "keeping the encoder's states of synthetic in states" in first.stderr
    audio = made / "audio"
    audio.rename(made / "away")
    try:
        second = succeeds(*COMMANDS[command], "--states", "states", "-o", "y.csv")
    finally:
        (made / "away").rename(audio)
    assert "keeping" not in second.stderr
    pd.testing.assert_frame_equal(results.read(["x.csv"]), results.read(["y.csv"]))
    assert results.read(["x.csv"])["value"].tolist() == pytest.approx(before["value"].tolist(), abs=1e-3)


def test_states_of_an_untrained_model(here):
    asked = [*COMMANDS["score"], "--random-init", 4]
    kept = means(rows_of(*asked, "--states", "states"))
    assert kept == pytest.approx(means(rows_of(*asked)), abs=1e-3)


def test_states_that_were_computed_coarsely_are_not_taken_for_others():
    asked = [*COMMANDS["score"], "--states", "states"]
    coarse = rows_of(*asked, "--dtype", "bfloat16")
    result = run("lexical", *asked, "--json", "-q")  # float32 now: refused, or named
    if result.exit_code == 0:
        fine = pd.DataFrame(json.loads(result.stdout))
        assert fine["value"].tolist() != coarse["value"].tolist()
        alone = rows_of(*COMMANDS["score"])
        if fine["value"].tolist() != pytest.approx(alone["value"].tolist(), abs=1e-3):
            assert not set(fine["settings"]) & set(alone["settings"])


def test_layers_of_the_lens():
    rows = rows_of(*COMMANDS["lens"], "--layers", "T0-T1,D2", "--no-top-words")
    assert list(dict.fromkeys(rows["layer"])) == ["T0", "T1", "D2"]
    assert not rows["metric"].str.startswith("top-").any()
    itself = means(rows_of(*COMMANDS["score"], "--split", "test"))
    assert means(rows)["small", "log-likelihood", "D2"] == pytest.approx(
        itself["small", "log-likelihood", "D2"], abs=1e-4
    )


def test_a_corpus_without_maskers_and_parts():
    told = succeeds("score", "small", "plain", *FAST, "--plot", "x.svg", "-o", "x.csv")
    assert "masker" not in told.stdout
    assert set(results.read(["x.csv"])["target"]) == {"all", "no masker: u0", "no masker: u1", "no masker: u2"}


@pytest.mark.slow
def test_real_stimuli(shared, here):
    from layertool.corpora import eccc

    eccc.read(shared / "data/eccc").write(here / "real")
    tiny = shared / "models/whisper-tiny.en"
    chosen = [part for name in ("T_3892", "T_3998") for part in ("--where", f"utterance={name}")]
    rows = rows_of("score", tiny, "real", *FAST, *chosen)
    found = means(rows)
    assert {key[0] for key in found} == {"whisper-tiny.en"}
    assert -400 < found["whisper-tiny.en", "log-likelihood", "D4"] < -40
    assert rows[rows["target"] == "all"]["n"].max() == 2


# --- mistakes -----------------------------------------------------------------------------------------

BROKEN = """
score small nowhere | nowhere does not exist
score small words.txt | is a file, a corpus is a folder
score ./nowhere corpus FAST | nowhere
score wav2vec2 corpus | 'wav2vec2' | give a Whisper checkpoint
rank small speech WORDS | no column 'responses' | layertool corpus eccc
baselines small speech WORDS | no column 'responses'
lens small speech WORDS | no column 'responses'
score small broken FAST | utterance 'u0' has 3 responses and the counts '1 2'
score small long FAST | utterance 'u0' lasts 30.0001 s
score small corpus -o words.txt/x.csv | words.txt
score small corpus --states words.txt FAST | words.txt
"""
REFUSED = """
score small | MODEL
score small plain --split test | no column 'split'
score small plain --split test --target-disjoint | no column 'split_by_target'
baselines small plain WORDS | no column 'split'
score small corpus --target-disjoint | --target-disjoint | --split
score small corpus --split tset | 'tset'
score small corpus --where masker=XYZ | masker=XYZ | SSN
score small corpus --where maskr=SSN | no column 'maskr'
score small corpus --where SSN | 'SSN' is no condition
score small other corpus --states x FAST | --states | one MODEL
score small corpus --surface upper | 'upper'
score small corpus --encoder-window 5s | '5s'
score small corpus --language fr | English-only | --language fr
score small corpus --device gpu | gpu
score small corpus --dtype float8 | float8
score small corpus -o x.xlsx | x.xlsx | .csv, .parquet, .json
score small corpus --plot x.bmp | x.bmp | .png, .pdf, .svg
score small corpus --responses r.json | r.json | .csv or .parquet
score small corpus --seed -1 | -1
rank small corpus --words w.txt WORDS | w.txt | .csv or .parquet
rank small corpus --lexicon no.txt | no.txt does not exist | one word a line
rank small corpus --lexicon empty.txt | empty.txt has no words
rank small corpus --lexicon binary.txt | binary.txt is no text in UTF-8
rank small corpus --lexicon corpus | corpus is a folder
rank small corpus --most-prefixes 0 WORDS | most-prefixes
baselines small corpus --smoothing -1 WORDS | smoothing
baselines small corpus --lexicon no.txt | no.txt does not exist
lens small corpus --layers T9 WORDS FAST | 'T9' is no layer of small | T0-T2, final, D0-D2
lens small corpus --layers C1 WORDS FAST | 'C1' is no layer of small
"""
CASES = [(code, line) for code, text in ((DATA, BROKEN), (USAGE, REFUSED)) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("code", "line"), CASES)
def test_what_is_refused(code, line):
    """One sentence on stderr, nothing on stdout, nothing written."""
    typed, *says = line.split(" | ")
    typed = typed.replace("FAST", shlex.join(FAST)).replace("WORDS", shlex.join(WORDS))
    before = {path.name for path in Path().iterdir()}
    result = run("lexical", *shlex.split(typed))
    last = result.stderr.strip().splitlines()[-1]
    assert result.exit_code in (DATA, USAGE), result.output
    assert result.stdout == ""
    assert last.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert all(text in last for text in says), last
    assert {path.name for path in Path().iterdir()} == before
    assert result.exit_code == code, last


def test_one_file_for_two_tables_is_refused():
    """Else the second would take the place of the first."""
    assert run("lexical", *COMMANDS["score"], "-o", "x.csv", "--responses", "x.csv").exit_code == USAGE


def test_a_store_of_another_model():
    succeeds(*COMMANDS["score"], "--states", "states", "-q")
    result = run("lexical", "score", "other", "corpus", *FAST, "--states", "states")
    assert (result.exit_code, "is of another model" in result.stderr) == (USAGE, True)
    result = run("lexical", "score", "small", "corpus", "--states", "states")
    assert (result.exit_code, "--encoder-window exact" in result.stderr) == (USAGE, True)
