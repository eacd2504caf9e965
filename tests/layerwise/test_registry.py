"""What holds for every analysis alike: its declaration, its command, its Python function, and its rows of small stores."""

from __future__ import annotations

import inspect
import json
import shlex
import warnings
from unittest import mock

import click
import numpy as np
import pandas as pd
import planted
import pytest
from commands import run, succeeds
from golden import inputs

from layertool import Results, figures
from layertool.commands import analyses, delivery
from layertool.commands.options import engine_options
from layertool.declared import MISSING, options_of
from layertool.errors import LayertoolWarning, RowError, UsageError
from layertool.functions import COMMON, named
from layertool.layerwise import ANALYSES, declared
from layertool.report.references import REFERENCES
from layertool.result_rows import BASELINE, COLUMNS, FORMATS, records

each = pytest.mark.parametrize("words", ANALYSES)
OF_STORES = [words for words in ANALYSES if not words.startswith("lexical")]
each_run = pytest.mark.parametrize(
    "words", [pytest.param(words, marks=[] if words in OF_STORES else pytest.mark.slow) for words in ANALYSES]
)
each_of_stores = pytest.mark.parametrize("words", OF_STORES)
LISTENING = {"encoder_window": "exact", "device": "cpu"}
PROPER = ("F1", "R-value", "Spearman", "tau-b")  # what the field writes so
# Options with which each takes less than a second; paths are those of ``made``.
ASKED = {
    "cca": {"target": "phone", "n_folds": 4, "trials": 1, "device": "cpu"},
    "cka": {"unit": "phone", "device": "cpu"},
    "mi": {"labels": "phone", "clusters": 8, "repeats": 1},
    "probe discrimination": {"min_seconds": 0.3},
    "probe similarity": {"benchmark": "tasks"},
    "probe segmentation": {"window": (1, 4), "prominence": (0.1, 1)},
    "probe sentences": {},
    "probe neighbours": {"labels": "phone", "method": "centroid"},
    "speat": {
        "target": "gender=female:male",
        "attribute": "valence=positive:negative",
        "aggregate": "each",
        "permutations": 200,
        "n_resamples": 100,
    },
    "lexical score": LISTENING | {"split": "test"},
    "lexical rank": LISTENING | {"lexicon": "words.txt", "split": "test"},
    "lexical baselines": LISTENING | {"lexicon": "words.txt"},
    "lexical lens": LISTENING | {"lexicon": "words.txt", "split": "test"},
}


def given(words: str, *stores: str) -> list:
    """The inputs of an analysis: stores, or what stands for them."""
    return ["small", "corpus"] if words.startswith("lexical") else list(stores or ("one",))


def function(words: str, *stores: str, **options) -> Results:
    """What the Python function gives. Several stores are a list, but where the function names each."""
    parts = given(words, *stores)
    if "..." in declared(words).inputs[0] and not words.startswith("lexical"):
        parts = [parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LayertoolWarning)
        return named(words)(*parts, **{**ASKED[words], **options})


def typed(words: str, **options) -> list[str]:
    """Options as a person types them."""
    flags = {one.name: one.flag for one in options_of(declared(words))}
    out = []
    for name, value in options.items():
        if value is True:
            out.append(flags[name])
        elif value is not False:
            out += [flags[name], ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return out


def command(words: str, *stores: str, **options) -> list[str]:
    return [*words.split(), *given(words, *stores), *typed(words, **{**ASKED[words], **options})]


def same(found: pd.DataFrame, expected: pd.DataFrame, **how) -> None:
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, **({"check_exact": True} | how))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Stores of one corpus; ``damaged``, whose utterance u5 has no numbers in T1; ``frames``, without labels; two Whispers."""
    folder = tmp_path_factory.mktemp("registry")
    inputs.planted_stores(folder)
    inputs.lexical(folder)
    (folder / "series").mkdir()
    for name, store in (("step-10", "checkpoint-2000"), ("step-2", "checkpoint-1000")):
        (folder / "series" / name).symlink_to(folder / store)
    with mock.patch.object(planted, "store", damaged(planted.store)):
        inputs._planted(folder / "damaged", "org/damaged", {"T0": 320, "T1": 320}, 1)
    clips = {"T0": [planted.matrix(99, 4, k) for k in range(6)]}
    planted.store(folder / "frames", [32_000] * 6, frames=clips, speaker=list("aabbcc"))
    return folder


def damaged(write):
    """``planted.store``, whose utterance u5 is not finite in T1 at any unit."""

    def store(path, lengths, segments, frames, rows, *rest, **columns):
        frames["T1"][5][:] = np.nan
        rows["utterance"]["T1"][5] = np.nan
        for unit in ("phone", "word"):
            of = [utterance for utterance, tier, *_ in segments if tier == unit]
            rows[unit]["T1"][np.array(of) == 5] = np.nan
        return write(path, lengths, segments, frames, rows, *rest, **columns)

    return store


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made)


@pytest.fixture(scope="module")
def alone(made):
    """The rows of each analysis of one store, made when they are first asked for."""
    kept: dict[str, pd.DataFrame] = {}

    def rows_of(words: str) -> pd.DataFrame:
        if words not in kept:
            kept[words] = function(words).rows
        return kept[words]

    return rows_of


# --- declarations -----------------------------------------------------------------------------------------------


def test_every_analysis_is_run_here():
    assert set(ASKED) == set(ANALYSES)


@each
def test_help_of_options_reads_alone(words):
    for one in options_of(declared(words)):
        text = one.about["help"]
        assert text[:1].isupper(), text
        assert text.endswith("."), text
        assert not text.startswith(("Of ", "As ")), text


@each
def test_what_it_measures_and_cites(words):
    analysis = declared(words)
    assert analysis.command == words
    assert analysis.name
    names = [metric.name for metric in analysis.metrics]
    assert len({name.lower() for name in names}) == len(names)
    assert all(name == name.lower() or name.endswith(PROPER) for name in names)
    assert all(metric.label and metric.better in ("higher", "lower", "") for metric in analysis.metrics)
    assert analysis.cites
    assert set(analysis.cites) <= set(REFERENCES)


@each
def test_examples_are_commands(words, here):
    """Each line that the help shows is taken by the parser."""
    _, _, text = inspect.cleandoc(declared(words).__doc__).partition("Examples:\n")
    examples = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    assert examples
    for example in examples:
        assert example[: 1 + len(words.split())] == ["layertool", *words.split()]
        analyses.named(words).make_context("", example[1 + len(words.split()) :])


@each
def test_the_function_has_the_options_of_the_declaration(words):
    analysis, call = declared(words), named(words)
    parameters = inspect.signature(call).parameters
    expected = {
        one.name: inspect.Parameter.empty if one.default is MISSING else one.default for one in options_of(analysis)
    }
    inputs_of = [name.strip(".[]").lower() for name in analysis.inputs]
    assert list(parameters) == [*inputs_of, *expected, *COMMON]
    assert {name: parameters[name].default for name in expected} == expected
    assert {name: parameters[name].default for name in COMMON} == COMMON
    assert call.__doc__.startswith(analysis.__doc__.splitlines()[0])
    for one in options_of(analysis):
        assert f"    {one.name}: {one.about['help']}" in call.__doc__.splitlines()


@each
def test_the_command_has_the_options_of_the_declaration(words):
    """And the common ones, which are the same everywhere."""
    analysis = declared(words)
    common = [flag for one in _click_options(delivery.options, engine_options) for flag in one.opts]
    assert {"-o", "--plot", "--x", "--reference", "--names", "--brief", "--json", "-q"} < set(common)
    assert {"--workers", "--engine", "--address"} < set(common)
    beside = [f"--{name}" for name in getattr(analysis, "tables", {})]
    own = [flag for one in options_of(analysis) for flag in one.flags]
    found = [flag for one in analyses.named(words).params if isinstance(one, click.Option) for flag in one.opts]
    assert sorted(found) == sorted([*own, *beside, *common])
    required = {one.name for one in analyses.named(words).params if one.required and isinstance(one, click.Option)}
    assert required == {one.name for one in options_of(analysis) if one.default is MISSING}


def _click_options(*bundles) -> list[click.Option]:
    def nothing() -> None: ...

    for decorate in bundles:
        decorate(nothing)
    return nothing.__click_params__


@each
def test_help_fits_a_terminal(words):
    lines = succeeds(*words.split(), "-h").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Usage: layertool") for line in lines)


# --- what is refused --------------------------------------------------------------------------------------------


def wrong_values(words: str):
    """(option, a value that it cannot have) of everything that a declaration says about values."""
    for one in options_of(declared(words)):
        low, high = one.about["low"], one.about["high"]
        if one.about["parse"]:
            continue
        if one.choices or (one.kind in (int, float) and one.kind is not bool):
            yield one, "nonsense"
        if one.many:
            yield one, "," if one.choices or one.kind in (int, float) else ""
        if one.kind is int:
            yield one, "1.5"
        if low is not None:
            yield one, str(low - 1)
        if high is not None:
            yield one, str(high + 1)


@each
def test_wrong_values_are_one_sentence(words, here):
    """With the name of the option, exit code 2, before any store is opened: from the command as in Python."""
    for one, value in wrong_values(words):
        with pytest.raises(UsageError) as caught:
            declared(words)(**ASKED[words] | {one.name: value})
        assert one.flag in str(caught.value)
        assert "\n" not in str(caught.value)
        result = run(*command(words, "nowhere", **{one.name: value}))
        assert (result.exit_code, result.stdout) == (2, ""), (one.flag, value, result.output)
        sentence = result.stderr.strip().splitlines()[-1]
        assert sentence.startswith("Error: ")
        assert one.flag in sentence, (value, sentence)


@each
@pytest.mark.parametrize("options", [["-o", "x.xlsx"], ["-o", "x"], ["--plot", "x.jpg"], ["--plot", "one"]])
def test_formats_are_refused_before_any_work(words, options, here, monkeypatch):
    monkeypatch.setattr(declared(words), "run", lambda *_, **__: pytest.fail("it began to work"))
    result = run(*command(words), *options)
    assert (result.exit_code, result.stdout) == (2, "")
    known = FORMATS if options[0] == "-o" else figures.FORMATS
    assert all(text in result.stderr for text in (options[1], *known))


@each
def test_there_is_no_such_option(words, here):
    with pytest.raises(UsageError, match="has no option 'nonsense'"):
        function(words, nonsense=1)
    assert run(*command(words), "--nonsense", "1").exit_code == 2


@each_of_stores
def test_stores_that_cannot_be_analysed(words, here):
    """One that is missing, and one without the rows that are asked for."""
    for store, code, says in (("nowhere", 1, "nowhere is not a feature store"), ("frames", 2, "frames has no")):
        result = run(*command(words, store))
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        assert says in result.stderr.strip().splitlines()[-1]


@each_of_stores
def test_layers_that_the_store_has_not(words, here):
    result = run(*command(words, layers="T9"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'T9' is no layer of one" in result.stderr


@each_of_stores
def test_the_row_that_is_not_finite_is_named(words, here):
    with pytest.raises(RowError) as caught:
        function(words, "damaged")
    told = str(caught.value)
    assert told.startswith("layer T1 of damaged: the ")
    assert " row of utterance 'u5' " in told
    assert "is not all finite" in told


@each
def test_engines_that_there_are_not(words, here):
    with pytest.raises(UsageError, match="'cloud' is no engine: choose local or ray"):
        function(words, engine="cloud")
    with pytest.raises(UsageError, match="--address is for Ray"):
        function(words, address="auto")
    assert "--address is for Ray" in run(*command(words), "--address", "auto").stderr


# --- rows -------------------------------------------------------------------------------------------------------


@each_run
def test_rows_say_what_they_are(words, here, alone):
    rows, analysis = alone(words), declared(words)
    assert len(rows)
    assert list(rows.columns) == COLUMNS
    assert set(rows["metric"]) <= {metric.name for metric in analysis.metrics}
    assert set(rows["analysis"]) == {analysis.name}
    for metric, variant, settings in zip(rows["metric"], rows["variant"], rows["settings"], strict=True):
        assert variant.startswith(metric)
        assert isinstance(json.loads(settings), dict)
    shares = {metric.name for metric in analysis.metrics if metric.is_share}
    assert rows[rows["metric"].isin(shares)]["value"].between(-1 - 1e-9, 1 + 1e-9).all()


@each_run
def test_the_command_gives_the_rows_of_the_function(words, here, alone, tmp_path):
    """On stdout as JSON and nothing else, in the file to the last digit; -q is silent, --brief no longer."""
    expected = alone(words)
    done = succeeds(*command(words), "--json", "-o", tmp_path / "rows.csv")
    assert json.loads(done.stdout, parse_constant=pytest.fail) == records(expected)
    assert f"in {tmp_path / 'rows.csv'}" in done.stderr
    same(Results.read(tmp_path / "rows.csv").rows, expected)
    quiet, brief = succeeds(*command(words), "-q"), succeeds(*command(words), "-q", "--brief")
    assert quiet.stderr == brief.stderr == ""
    assert 0 < len(brief.stdout) <= len(quiet.stdout)


@each_run
@pytest.mark.parametrize("suffix", FORMATS)
def test_files_hold_the_very_rows(words, suffix, here, alone, tmp_path):
    results = Results(alone(words))
    results.write(tmp_path / f"new/folder/rows{suffix}")
    same(Results.read(tmp_path / f"new/folder/rows{suffix}").rows, results.rows)


@each_run
def test_a_figure(words, here, alone, tmp_path):
    Results(alone(words)).plot(tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")


@each_run
def test_workers_change_nothing(words, here, alone):
    if not getattr(declared(words), "in_threads", True):
        with pytest.raises(UsageError, match="--workers is for Ray"):
            function(words, workers=2)
        return
    told = []
    found = function(words, workers=2, progress=lambda done, total: told.append((done, total))).rows
    same(found, alone(words), check_exact=False, rtol=1e-9, atol=1e-12)
    done = [share / total for share, total in told]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1)


@each_of_stores
def test_several_stores_and_patterns(words, here):
    """Several stores in one run, each once; a pattern names its stores in natural order, to the command as to the function."""
    listed, pattern = (function(words, *stores).rows for stores in (("series/step-2", "series/step-10"), ("series/*",)))
    same(pattern, listed)
    assert records(listed) == json.loads(succeeds(*command(words, "series/*"), "--json", "-q").stdout)
    if words != "cka":  # whose second store is compared with
        assert list(dict.fromkeys(listed["store"].dropna())) == ["series/step-2", "series/step-10"]
        twice = function(words, "one", "one").rows
        same(twice, function(words, "one").rows)


@each_of_stores
def test_layers_are_chosen(words, here, alone):
    found = function(words, layers="T1").rows
    assert set(found["layer"]) - {BASELINE, "model"} == {"T1"}
    own = alone(words)
    values = own[own["layer"] == "T1"] if words != "cka" else own[(own["layer"] == "T1") & (own["target"] == "T1")]
    mine = found[found["layer"] == "T1"]
    assert mine["value"].tolist() == pytest.approx(values["value"].tolist(), rel=1e-9) or words == "speat"


@each_run
def test_rows_are_chosen(words, here, alone):
    where = "masker=SSN" if words.startswith("lexical") else "speaker!=s3"
    found = function(words, where=where).rows
    same(function(words, where=(where,)).rows, found)
    assert len(found) > 0
    assert not found[["value", "n"]].equals(alone(words)[["value", "n"]])
    assert json.loads(succeeds(*command(words, where=where), "--json", "-q").stdout) == records(found)


@pytest.fixture(scope="module")
def cluster(made):
    pytest.importorskip("ray")
    from layertool.cluster import Cluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(made)  # where workers are begun
            with Cluster.open(n_workers=2) as cluster:
                yield cluster


@pytest.mark.slow
@each
def test_a_cluster_changes_nothing(words, here, alone, cluster, monkeypatch):
    expected, spread, run_on = alone(words), [], type(cluster).each
    monkeypatch.setattr(type(cluster), "each", lambda self, *work: spread.append(work) or run_on(self, *work))
    found = function(words, engine="ray", workers=2).rows
    assert spread
    same(found, expected, check_exact=False, rtol=1e-5, atol=1e-7)


@each
def test_wrong_calls_are_one_sentence(words):
    call = named(words)
    parts, asked = given(words), dict.fromkeys(ASKED[words])
    with pytest.raises(
        UsageError, match=rf"layertool\.{words.replace(' ', '.')} has no option 'worker'; did you mean workers"
    ):
        call(*parts, worker=2)
    with pytest.raises(UsageError, match="has no option 'zzz'; the options are "):
        call(*parts, zzz=2)
    with pytest.raises(UsageError, match=r"takes .*, not 4 inputs"):
        call("a", "b", "c", "d", **asked)
    for one in options_of(declared(words)):
        if one.default is MISSING:
            with pytest.raises(UsageError, match=f"needs the option {one.name}: "):
                call(*parts, **{name: ASKED[words].get(name) for name in ASKED[words] if name != one.name})


@pytest.mark.parametrize("workers", [0, "two"])
def test_workers_that_cannot_be(here, workers):
    with pytest.raises(UsageError, match=f"--workers {workers} cannot be"):
        function("cka", workers=workers)


@pytest.mark.parametrize("stores", [3, None, [3]])
def test_what_is_no_store_at_all(stores):
    with pytest.raises(UsageError, match="is no store: give a folder"):
        named("mi")(stores, labels="phone")


@pytest.mark.parametrize("target", ["phone", "two"])
def test_a_layer_that_one_of_the_stores_lacks_is_said_before_the_work(here, target):
    told = []
    with pytest.raises(UsageError, match="'T1' is no layer of mel"):
        named("cca")(["one", "mel"], target=target, layers="T1", unit="phone", progress=lambda *done: told.append(done))
    assert not told
