"""cca, cka, mi, compare: what is typed is what the Python functions are asked; bad input gets one sentence."""

from __future__ import annotations

import json
import shlex

import models
import pandas as pd
import pytest
from commands import run, succeeds
from running import asked

import layertool
from layertool import FeatureStore, result_rows, results
from layertool.layerwise.rows import ALL, Sampling

USAGE, DATA, N = 2, 1, 14
CHECKPOINTS = ("checkpoint-1000", "checkpoint-2000", "checkpoint-4000")
FILES = ("series.csv", "curves.parquet")
SOME = ["--layers", "T0,T1"]
PHONES = ["--with", "phone", "--n-folds", 6, "--device", "cpu"]
PAIR = ["one", CHECKPOINTS[0], "--unit", "phone", "--device", "cpu", *SOME]
PLAIN = {"cca": ["one", *PHONES, *SOME], "cka": PAIR, "compare": PAIR}
PLAIN["mi"] = ["one", "--labels", "phone", "--clusters", 8, *SOME]


def in_python(command: str, **options) -> pd.DataFrame:
    """What the arguments of ``PLAIN`` ask for."""
    options = {"layers": "T0,T1", **asked(**options)}
    if command == "cca":
        return layertool.cca("one", **{"target": "phone", "n_folds": 6, "device": "cpu", **options}).rows
    if command == "mi":
        return layertool.mi("one", **{"labels": "phone", "clusters": 8, **options}).rows
    if command == "cka":
        return layertool.cka("one", CHECKPOINTS[0], unit="phone", device="cpu", **options).rows
    return layertool.compare(["one", CHECKPOINTS[0]], unit="phone", device="cpu", **options).rows


def fails(code: int, arguments, *says) -> str:
    """It ends with ``code``, one sentence that holds everything in ``says`` and, but for figures, no result."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == "" or "--plot" in arguments
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert all(text in last for text in says), last
    return last


def rows_of(*arguments) -> list[dict]:
    """What ``--json`` prints, by a parser that knows no NaN."""
    return json.loads(succeeds(*arguments, "--json", "-q").stdout, parse_constant=pytest.fail)


def same(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True), check_dtype=False, check_exact=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stores of one corpus, ``one`` and three checkpoints; ``short``, frames of four utterances; files of results."""
    folder = tmp_path_factory.mktemp("analyses")
    lengths = [16_000 + 1733 * ((5 * k) % 7) for k in range(N)]
    segments = models.random_segments(lengths)
    phones = [k for k, segment in enumerate(segments) if segment[1] == "phone"]
    for k, label in ((7, "SIL"), (11, "alone"), (40, "lone"), (80, "SIL")):
        segments[phones[k]] = (*segments[phones[k]][:4], label)
    waveforms = [models.speech_like(n, k) for k, n in enumerate(lengths)]
    columns = {"speaker": [f"s{k % 4}" for k in range(N)], "split": [("dev", "train")[k % 2] for k in range(N)]}
    whole = models.corpus(folder / "corpus", waveforms, segments, **columns)
    few = models.corpus(folder / "few", waveforms[:4])
    for seed, name in enumerate(("one", *CHECKPOINTS)):
        shape = {"hidden_size": 16, "conv_dim": (8,) * 7}
        network = str(models.save("wav2vec2-base", folder / "models" / name, seed=seed, **shape))
        layertool.extract(network, whole, folder / name, ("frame", "phone", "word", "utterance"), "C7,T0-T2")
        if name == "one":
            layertool.extract(network, few, folder / "short", ("frame",), "C7,T0-T2")
    # 3 stores x 2 layers x 7 metrics; and 2 variants x (4 layers with phone, 3 with T0)
    stores, both = [folder / name for name in CHECKPOINTS], ["--with", "T0", "--variant", "pwcca,mean"]
    succeeds("mi", *stores, *PLAIN["mi"][1:], "--repeats", 2, "-o", folder / "series.csv")
    succeeds("cca", folder / "one", *PHONES, *both, "-o", folder / "curves.parquet")
    assert [len(results.read([folder / name])) for name in FILES] == [42, 14]
    return folder


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """A folder of the test's own, from which the stores have short names; and a few bad files."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "short", *CHECKPOINTS, *FILES):
        (tmp_path / name).symlink_to(made / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.txt").write_text("w0 0.1 0.2\nw1 x 1\nw2 1 2\nw3 1 2\nw4 3 4\n")
    (tmp_path / "cover.txt").write_text("w0 0.1 0.2\nother 1 2\n")
    (tmp_path / "words.txt").write_text("w0 1 0 3\nw1 0 1 1\nw2 1 1 2\nw3 -1 0 4\nw4 0 2 0\n")
    for name in ("none.csv", "broken.json", "broken.parquet", "notes.txt"):
        (tmp_path / name).write_text("" if name == "none.csv" else '{"some text')
    return tmp_path


def test_notes_on_stderr():
    """Labels that occur once, and a number of clusters that nobody asked for."""
    assert "left out: 2 phone labels that occur once (alone, lone)" in succeeds("cca", "one", *PHONES).stderr
    assert "instead of 500" in succeeds("mi", "one", "--labels", "phone", *SOME).stderr


# fmt: off
OPTIONS = [
    ("cca", "--protocol in-sample --eps 1e-3", {"protocol": "in-sample", "eps": (1e-3,)}),
    ("cca", "--variant pwcca-x,mean --variant legacy", {"variants": ("pwcca-x", "mean", "legacy")}),
    ("cca", "--variant svcca --share 0.7", {"variants": ("svcca",), "share": 0.7}),
    ("cca", "--folds random --n-folds 8 --trials 2", {"folds": "random", "n_folds": 8, "n_trials": 2}),
    ("cca", "--folds speaker-disjoint --n-folds 4 --trials 2",
     {"folds": "speaker-disjoint", "n_folds": 4, "n_trials": 2}),
    ("cca", "--trials 1", {"n_trials": 1}),
    ("cca", "--eps published", {"eps": "published"}),
    ("cca", "--eps 1e-3,1e-1", {"eps": (1e-3, 1e-1)}),
    ("cca", "--draws 2 --seed 5", {"draws": 2, "seed": 5}),
    ("cca", "--sample all", {"sampling": ALL}),
    ("cca", "--per-label 25 --top-labels 5 --max-utterances 12", {"sampling": Sampling(12, 5, 25)}),
    ("cca", "--where speaker!=s0 --where label=p7 --where label=p6",
     {"where": ["speaker!=s0", "label=p7", "label=p6"]}),
    *((command, *rest) for command in ("cka", "compare") for rest in (
        ("--biased", {"biased": True}),
        *((f"--measure {name}", {"measure": name}) for name in ("cka-rbf", "procrustes", "cca")),
        ("--measure rsa --distance cosine --max-rows 90", {"measure": "rsa", "distance": "cosine", "max_rows": 90}),
        ("--per-label 20 --seed 3", {"sampling": Sampling(per_label=20), "seed": 3}),
        ("--where split=dev", {"where": "split=dev"}),
    )),
    ("mi", "--clusters 5 --batch-size 20", {"n_clusters": 5, "batch_size": 20}),
    ("mi", "--repeats 2 --seed 4", {"repeats": 2, "seed": 4}),
    ("mi", "--sample all", {"sample": "all"}),
    ("mi", "--fit-where split=train --where split=dev",
     {"fit_where": "split=train", "where": "split=dev"}),
]
# fmt: on


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments", "options"), OPTIONS)
def test_options(command, arguments, options):
    found = rows_of(command, *PLAIN[command], *arguments.split())
    assert found == result_rows.records(in_python(command, **options))
    usual = result_rows.records(in_python(command))
    assert [(row["value"], row["settings"]) for row in found] != [(row["value"], row["settings"]) for row in usual]


def test_targets_and_stores_of_cca():
    stores, other = ("one", CHECKPOINTS[0]), CHECKPOINTS[1]
    targets = ["T0", "word", "embedding:words.txt", other, f"{other}:T2"]
    expected = layertool.cca(stores, target=targets, n_folds=6, device="cpu").rows
    typed = [part for text in targets for part in ("--with", text)]
    assert rows_of("cca", *stores, *typed, *PHONES[2:]) == result_rows.records(expected)
    assert list(dict.fromkeys(expected["target"])) == targets


def test_one_store_and_other_layers_of_cka():
    assert rows_of("cka", "one", "--device", "cpu") == result_rows.records(layertool.cka("one", device="cpu").rows)
    found = rows_of("cka", "one", CHECKPOINTS[0], "--layers", "T1", "--other-layers", "C7,T2", "--device", "cpu")
    expected = layertool.cka("one", CHECKPOINTS[0], layers="T1", other_layers="C7,T2", device="cpu")
    assert found == result_rows.records(expected.rows)
    assert [row["target"] for row in found] == [f"{CHECKPOINTS[0]}:C7", f"{CHECKPOINTS[0]}:T2"]


def test_clusters_of_another_store_and_other_labels():
    """Here the same store, of which other rows are scored."""
    arguments = [*PLAIN["mi"], "--where", "split=dev", "--fit-where", "split=train"]
    found = rows_of("mi", *arguments, "--fit-on", "one"), rows_of("mi", *arguments)
    assert [row["value"] for row in found[0]] == [row["value"] for row in found[1]]
    for labels, unit in (("word", None), ("speaker", None), ("speaker", "phone")):
        typed = ["--labels", labels, "--clusters", 3, *(["--unit", unit] if unit else [])]
        expected = layertool.mi("one", labels=labels, unit=unit, clusters=3).rows
        assert rows_of("mi", "one", *typed) == result_rows.records(expected)


def test_result_files_are_joined():
    both = pd.concat([results.read([path]) for path in FILES], ignore_index=True)
    succeeds("compare", *FILES, "-o", "both.csv")
    same(results.read(["both.csv"]), both)
    succeeds("compare", *FILES, FILES[0], "-o", "twice.csv")
    same(results.read(["twice.csv"]), both)


def test_columns_of_one_score_made_in_two_ways_say_which_is_which(tmp_path):
    """As 0.1.0 and this version make CCA, or MI with and without --standardise."""
    of = {"analysis": "mi", "model": "m", "corpus": "c", "unit": "phone", "layer": "T1", "layer_index": 1, "store": "s"}
    asked = [("adjusted mi", {"clusters": 9}), ("adjusted mi", {"clusters": 9, "standardise": True}), ("v-measure", {})]
    rows = [result_rows.row(*one, **of, target="phone", value=0.5, chance=0.0, n=9) for one in asked]
    results.write(rows[:1], tmp_path / "old.csv")
    results.write(rows[1:], tmp_path / "new.json")
    shown = succeeds("compare", tmp_path / "old.csv", tmp_path / "new.json").stdout
    heads = " ".join(shown.partition("T1")[0].split())
    assert "standardise" in heads
    assert heads.lower().count("adjusted mi") == 2


def test_results_in_all_formats_are_joined_once():
    for suffix in result_rows.FORMATS:
        succeeds("compare", FILES[1], "-q", "-o", f"x{suffix}")
    assert len(rows_of("compare", *(f"x{suffix}" for suffix in result_rows.FORMATS))) == 14


CHOICES = {
    "--analysis cca": lambda t: t["analysis"] == "cca",
    "--target T0": lambda t: t["target"] == "T0",
    "--metric 'adjusted mi'": lambda t: t["metric"] == "adjusted mi",
    "--metric mi": lambda t: t["metric"] == "mi",
    "--layers T1-T2": lambda t: t["layer"].isin(["T1", "T2"]),
    "--unit frame --layers C7": lambda t: (t["unit"] == "frame") & (t["layer"] == "C7"),
}


@pytest.mark.parametrize(("arguments", "keep"), CHOICES.items())
def test_results_are_chosen(arguments, keep):
    both = results.read(FILES)
    kept = keep(both)
    assert 0 < kept.sum() < len(both)
    succeeds("compare", *FILES, *shlex.split(arguments), "-q", "-o", "chosen.parquet")
    same(results.read(["chosen.parquet"]), both[kept])


def test_stores_are_each_compared_with_the_first():
    others = CHECKPOINTS[:2]
    expected = pd.concat([layertool.cka("one", other, device="cpu").rows for other in others], ignore_index=True)
    assert rows_of("compare", "one", *others, "--device", "cpu") == result_rows.records(expected)


@pytest.mark.parametrize("arguments", [["--same-layer"], ["--x", "step"]])
def test_layers_of_the_same_name(arguments):
    one = FeatureStore("one")
    found = rows_of("compare", "one", *CHECKPOINTS, "--unit", "phone", "--device", "cpu", *arguments)
    expected = [(name, int(name[-4:]), layer) for name in CHECKPOINTS for layer in one.layers]
    assert [(row["store"], row["step"], row["layer"]) for row in found] == expected
    assert {row["target"] for row in found} == {"the same layer of one"}
    for row in found:
        how = {"layers": row["layer"], "unit": "phone", "device": "cpu"}
        alone = layertool.cka(row["store"], one, **how).rows.iloc[0]
        assert (row["value"], row["ci_low"], row["n"]) == (alone["value"], alone["ci_low"], alone["n"])
    fewer = rows_of("compare", "one", *CHECKPOINTS, "--unit", "phone", "--device", "cpu", *arguments, "--layers", "T1")
    assert fewer == [row for row in found if row["layer"] == "T1"]


SHORT = {"CCA": "cca one --with phone --n-folds 6", "CKA": "cka one", "MI": "mi one --labels phone"}
SHORT |= {"COMPARE": "compare one checkpoint-1000", "FILES": "compare series.csv curves.parquet"}
# exit code 1: the data are at fault
BROKEN = """
cca one nowhere --with phone | nowhere is not a feature store (it does not exist) | extract MODEL CORPUS -o nowhere
MI --fit-on nowhere | nowhere is not a feature store (it does not exist) | extract MODEL CORPUS -o nowhere
cka empty | empty is not a feature store (it has no store.json) | extract MODEL CORPUS -o empty
compare one empty | empty is not a feature store (it has no store.json) | extract MODEL CORPUS -o empty
cca one --with embedding:missing.txt | missing.txt does not exist | check the path of the embeddings
cca one --with embedding:bad.txt | bad.txt, line 2 has 'x' | finite numbers
cca one --with embedding:notes.txt | notes.txt is in neither format | word 0.1 -0.2
CKA -o notes.txt/x.csv | notes.txt | check the path
CKA --plot notes.txt/x.svg | notes.txt | check the path
"""
# exit code 2: the request is at fault
REFUSED = """
cca one --with embedding: | embedding:glove.txt
CCA --layers T9 | 'T9' is no layer of one | it has C7, T0-T2
CKA --layers T0-T9 | 'T0-T9' is no layer of one | it has C7, T0-T2
cka one checkpoint-1000 --other-layers T9 | 'T9' is no layer of checkpoint-1000 | it has C7, T0-T2
CCA --variant pwca | 'pwca' | pwcca, pwcca-x, pwcca-y, mean, mean-square, svcca, legacy
CCA --variant "" | --variant names nothing
cca one --with phones | 'phones' | mel, fbank | C7 to T2 | phone, word, embedding:FILE | another store
cca one --with checkpoint-1000:T9 | checkpoint-1000 has no layer 'T9' | C7, T0, T1, T2
cca short --with T0 --unit word | short has no word rows (it has frame) | --units word,frame
CCA --n-folds 2 | 2 folds are too few for training, development and test | --n-folds 3
CCA --n-folds 20 | fewer utterances (14) than folds (20) | --n-folds 14
CCA --folds speaker-disjoint | fewer values of speaker (4) than folds (6) | --n-folds 4
cca one --with word --where speaker=s0 --where speaker=s1 --n-folds 3 --trials 1 | layer T0 | more rows than dimensions
CCA --where label=alone --where label=lone --where label=p0 | fewer than two phone labels occur twice
MI --where label=alone --where label=lone | one: no phone occurs twice
MI --where utterance=u0 | one utterance | --fit-on, --fit-where
MI --clusters 9999 | 9999 clusters | --clusters 1
MI --fit-on checkpoint-1000 | checkpoint-1000 and one hold different models
cca one --with short | one and short hold different corpora | 14 utterances | 4 utterances | from one corpus
compare one short | one and short hold different corpora | from one corpus
CCA --where speaker | 'speaker' is no condition | --where COLUMN=VALUE
COMPARE --where speeker=s1 | one has no column 'speeker' | it has utterance, start, end, speaker, split
CCA --where speaker=s9 | no phone row has speaker=s9 | s0, s1, s2, s3
CCA --eps small | 'small' | 1e-8,1e-6
CCA --eps 1e-6,0 | eps has to be positive | --eps 1e-8,1e-6
CCA --eps nan | eps | --eps 1e-8,1e-6
CCA --share 1.5 | --share | 1.5 is not in the range
cca one --with embedding:cover.txt | 1 of 5 words | embedding:cover.txt (not: w1, w2 | --min-coverage 0.
cka one --unit utterance --where utterance=u0 --measure rsa | needs at least 3 rows, not 1 | take more rows
cka one --unit utterance --where utterance=u0 | needs at least 4 rows, not 1 | take more rows
cka one --unit utterance --measure cca | layer T0 of one | 14 rows of 16 dimensions
compare one | one store | layertool cka STORE
compare one other.csv | other.csv is a file and one a folder
COMPARE --x stepp | stepp
compare other.csv | other.csv is no result file | 'analysis'
compare notes.txt | notes.txt is no result file | .csv, .parquet, .json
FILES missing.csv | missing.csv
FILES none.csv | none.csv
FILES broken.json | broken.json
FILES broken.parquet | broken.parquet
FILES --analysis cca --x model --plot x.svg | 'model' | step
FILES --analysis cca --x step --plot x.svg | no result has a step
FILES --where speaker=s1 | --where | --analysis, --target, --metric
FILES --same-layer | --same-layer does nothing for result files
COMPARE --metric mi | --metric does nothing for stores
COMPARE --same-layer --other-layers T0 | --same-layer and --other-layers exclude each other
COMPARE --reference one | --x parameters
COMPARE --x parameters | --x parameters is for result files
cka one checkpoint-1000 checkpoint-2000 | unexpected extra argument
FILES --variant adjusted | 'layertool compare' has no --variant any more | --metric NAME
FILES --analysis cka | the analysis 'cka' | mi, cca
FILES --metric nothing | no result has the metric 'nothing' | adjusted mi, corrected mi
FILES --x stepp | stepp | step"""
CASES = [(code, line) for code, text in ((DATA, BROKEN), (USAGE, REFUSED)) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("code", "line"), CASES)
def test_what_is_refused(code, line):
    typed, *says = line.split(" | ")
    first, *rest = shlex.split(typed)
    fails(code, [*SHORT.get(first, first).split(), *rest], *says)


def test_remedies_work():
    """A store of frames alone has no phones to label them with: --unit frame is no way out."""
    for command in (["cca", "short", *PHONES], ["mi", "short", "--labels", "phone"]):
        if "--unit frame" in fails(USAGE, command, "short has no phone rows (it has frame)", "--units"):
            succeeds(*command, "--unit", "frame")


def test_the_remedy_for_one_utterance_is_not_what_was_typed():
    few = ["--n-folds", 3, "--trials", 1, "--where", "utterance=u0"]
    told = fails(USAGE, [*SHORT["CCA"].split(), *few], "utterances (1)", "folds (3)")
    assert "--n-folds 3" not in told, told
