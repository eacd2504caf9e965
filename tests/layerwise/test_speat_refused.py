"""What SpEAT of stores refuses: groups, embeddings and layers that give no number, or another than it is called."""

from __future__ import annotations

import json
import shutil

import models
import numpy as np
import pytest
from running import run, settings

import layertool
from layertool import FeatureStore
from layertool.conditions import parse_where
from layertool.errors import FeatureError, LayertoolError, UsageError
from layertool.layerwise.speat import SpEAT, parse_groups

N, N_TARGETS = 18, 10
GENDER, VALENCE = "gender=female:male", "valence=positive:negative"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    waveforms = [models.speech_like(4_000 + 177 * k, k) for k in range(N)]
    table = {
        "gender": [("female", "male")[k % 2] if k < N_TARGETS else None for k in range(N)],
        "valence": [("positive", "negative")[k % 2] if k >= N_TARGETS else None for k in range(N)],
        "split": [("dev", "train")[k % 3 > 0] for k in range(N)],
        "who": ["me" if k == 0 else "others" if k < N_TARGETS else None for k in range(N)],
        "native": [("us", "korean", "uk")[k % 3] if k < N_TARGETS else None for k in range(N)],
        "pair": [f"p{k // 2}" for k in range(N)],
        "alone": ["q0" if k == 1 else "q1" if k == 0 else f"p{k // 2}" for k in range(N)],
        "sex": [("f", "m")[k % 2] for k in range(N)],
    }
    corpus = models.corpus(folder / "audio", waveforms, **table)
    networks = {name: str(models.save(name, folder / name)) for name in ("hubert-base", "wav2vec2-base")}
    out = {"w2v2": layertool.extract(networks["wav2vec2-base"], corpus, folder / "w2v2", ("utterance",))}
    for name, layers in (("hubert", "all"), ("few", "T0-T1"), ("holes", "T1-T3"), ("convolutions", "C6,C7")):
        out[name] = layertool.extract(networks["hubert-base"], corpus, folder / name, ("utterance",), layers)
    out["largest"] = layertool.extract(
        "mfcc", corpus, folder / "largest", ("utterance",), cmvn=True, pooling={"utterance": "max"}
    )
    return {**out, "corpus": corpus, "folder": folder}


@pytest.fixture
def store(made):
    return made["hubert"]


def ask(store, target=GENDER, attribute=VALENCE, say=None, **options):
    options = {"permutations": 100, "n_resamples": 100, "aggregate": ("mean",), **options}
    return run(SpEAT(target=target, attribute=attribute, **options), store, say=say)


def d_of(found):
    (row,) = [row for row in found if row.metric == "d"]
    return row.value


# --- groups -----------------------------------------------------------------------------------------------

# fmt: off
REFUSED = [
    ("gender=woman:male", VALENCE, {}, ["gender=woman", "female", "male"]),
    ("gender=female:man", VALENCE, {}, ["gender=man", "female", "male"]),
    (GENDER, "valence=good:negative", {}, ["valence=good", "negative", "positive"]),
    ("gendre=female:male", VALENCE, {}, ["no column 'gendre'", "gender", "valence"]),
    ("gender=female:female", VALENCE, {}, ["overlap", "gender=female", "5 items", "'u0'"]),
    (GENDER, "valence=positive:positive", {}, ["overlap", "valence=positive", "4 items", "'u10'"]),
    (GENDER, "native=us:korean", {}, ["overlap", "gender=female", "native=us", "'u0'"]),
    (GENDER, "sex=f:m", {}, ["overlap", "gender=female", "sex=f"]),
    ("who=me:others", VALENCE, {}, ["who=me has 1 item", "two or more"]),
    ("who=others:me", VALENCE, {}, ["who=me has 1 item", "two or more"]),
    (GENDER, VALENCE, {"where": ["split=test"]}, ["split=test", "dev", "train"]),
    (GENDER, VALENCE, {"where": ["native=us"]}, ["valence=positive"]),
    (GENDER, VALENCE, {"unit": "word"}, ["no word rows", "it has utterance"]),
    (GENDER, VALENCE, {"layers": "T9"}, ["'T9' is no layer", "T0-T3"]),
    (GENDER, VALENCE, {"layers": "C7,T0"}, ["widths 24, 48", "only concat"]),
    (GENDER, VALENCE, {"aggregate": ("mode",)}, ["'mode'", "--aggregate", "normalized-mean", "each"]),
    (GENDER, VALENCE, {"alternative": "more"}, ["'more'", "--alternative", "greater, less, two-sided"]),
    (GENDER, VALENCE, {"resample": "some"}, ["'some'", "--resample", "targets, all, none"]),
    (GENDER, VALENCE, {"strata": "sx"}, ["no column 'sx'", "sex"]),
    (GENDER, VALENCE, {"pairs": "pear"}, ["no column 'pear'", "pair"]),
    (GENDER, VALENCE, {"pairs": "split"}, ["stands more than once in one group"]),
    (GENDER, VALENCE, {"pairs": "alone"}, ["'q0' has nobody in the other group", "--where"]),
    (GENDER, VALENCE, {"pairs": "pair", "strata": "sex"}, ["different strata"]),
    ("native=us:korean", VALENCE, {"pairs": "pair"}, ["nobody in the other group"]),
]
# fmt: on


@pytest.mark.parametrize(("target", "attribute", "options", "says"), REFUSED)
def test_requests(store, target, attribute, options, says):
    if "where" in options:
        options = {**options, "where": parse_where(options["where"])}
    with pytest.raises(UsageError) as caught:
        ask(store, target, attribute, **options)
    assert all(text in str(caught.value) for text in says), caught.value


@pytest.mark.parametrize(
    "text", ["gender", "gender=", "gender=female", "=female:male", "gender=:male", "gender=female:", "", "gender:a=b"]
)
def test_bad_groups(text):
    with pytest.raises(UsageError, match=r"names no two groups: type COLUMN=VALUE:VALUE, .* or NAME=@FILE:@FILE"):
        parse_groups(text)


# --- lists of utterances ----------------------------------------------------------------------------------


def lists(folder, **contents):
    for name, content in contents.items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return "who=" + ":".join(f"@{folder / name}.txt" for name in contents)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ("u0\nu2\nu99\nu98\n", "u1\nu3\n", ["no utterance 'u99'", "list 'x'", "2 such ids"]),
        ("u0\nu2\n", "", ["list 'y'"]),
        ("u0\nu2\n", "u1\nu2\n", ["overlap in 1 items", "'u2'", "who=x", "who=y"]),
        ("u0\n", "u1\nu2\n", ["who=x has 1 item"]),
        ("u0\nu10\n", "u1\nu2\n", ["overlap", "who=x", "valence=positive", "'u10'"]),
    ],
)
def test_bad_lists(store, tmp_path, x, y, says):
    with pytest.raises(UsageError) as caught:
        ask(store, lists(tmp_path, x=x, y=y))
    assert all(text in str(caught.value) for text in says), caught.value


def test_files_that_are_no_lists(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere.txt does not exist: a list of utterances is a text file"):
        parse_groups(f"who=@{tmp_path}/nowhere.txt:@{tmp_path}/nowhere.txt")
    with pytest.raises(LayertoolError, match=r"x\.txt"):
        parse_groups(lists(tmp_path, x=b"\xff\xfe\x00u0\x93\n", y="u1\nu2\n"))


def test_lists_of_other_systems(store, tmp_path):
    """A list that Windows wrote: a byte order mark and two characters at the end of each line."""
    expected = d_of(ask(store, lists(tmp_path, x="u0\nu2\n", y="u1\nu3\n")))
    assert d_of(ask(store, lists(tmp_path, x=b"\xef\xbb\xbfu0\r\nu2\r\n", y=b"u1\r\nu3\r\n"))) == expected


# --- embeddings -------------------------------------------------------------------------------------------


def damage(monkeypatch, layer, row, value):
    blocks = FeatureStore.blocks

    def damaged(self, unit, name, max_rows, first):
        wrong = np.atleast_1d(np.arange(self.n_rows(unit))[row])
        for block in blocks(self, unit, name, max_rows, first):
            block = block.copy()
            if name == layer:
                block[wrong[(wrong >= first) & (wrong < first + len(block))] - first] = value
            first += len(block)
            yield block

    monkeypatch.setattr(FeatureStore, "blocks", damaged)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("row", [4, 12, 13])  # a target, one of A, one of B
def test_embeddings_without_a_direction(store, monkeypatch, value, row):
    damage(monkeypatch, "T2", row, value)
    says = "is all zeros, which have no direction" if value == 0 else "is not all finite"
    utterance = store.utterances["utterance"].iloc[row]
    with pytest.raises(FeatureError) as caught:
        ask(store, aggregate=("each",))
    told = str(caught.value)
    assert all(text in told for text in (says, f"'{utterance}'", "layer T2", str(store.path))), told
    assert len(ask(store, layers="T0-T1")) == 4  # other layers are sound


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("how", ["mean", "normalized-mean", "max", "concat"])
def test_layers_together_that_are_not_finite(store, monkeypatch, value, how):
    """No warning of numpy comes before the sentence."""
    damage(monkeypatch, "T2", 4, value)
    with pytest.raises(FeatureError, match=r"layer T2 of .* not all finite"):
        ask(store, aggregate=(how,))


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_the_utterance_of_a_bad_embedding_is_named(store, monkeypatch, value):
    """It is to be left out: without its name nobody could do that."""
    damage(monkeypatch, "T2", 4, value)
    with pytest.raises(FeatureError, match="'u4'"):
        ask(store, aggregate=("each",))


def test_other_rows_do_not_matter(store, monkeypatch):
    expected = d_of(ask(store, "native=us:korean"))
    damage(monkeypatch, "T2", 2, np.nan)  # from the UK
    assert d_of(ask(store, "native=us:korean")) == expected


def test_targets_all_alike(store, monkeypatch):
    damage(monkeypatch, "T2", slice(0, N_TARGETS), 1.0)
    with pytest.raises(FeatureError, match="associated alike, so that the effect size is undefined") as caught:
        ask(store, aggregate=("each",))
    assert "T2" in str(caught.value)


# --- layers -----------------------------------------------------------------------------------------------


def test_layers_that_are_missing(made):
    with pytest.raises(UsageError, match=r"lacks T0 of T0 to T3, .* extract them, or say --layers T1,T2,T3"):
        ask(made["holes"])
    assert len(ask(made["holes"], layers="T1,T2,T3")) == 4
    with pytest.raises(
        UsageError, match=r"no transformer layers at unit utterance: choose among its layers with --layers"
    ):
        ask(made["convolutions"])
    assert len(ask(made["convolutions"], layers="C7")) == 4


def test_a_mean_of_some_layers_is_not_called_that_of_all(made):
    """T1 and T3 that were asked for; T0 and T1 of a network that has T3."""
    assert settings(ask(made["hubert"], layers="T1,T3")[0])["over"] == "T1, T3"
    with pytest.raises(UsageError, match="lacks T2-T3 of T0 to T3, so a mean over layers would not be that of all"):
        ask(made["few"])
    assert settings(ask(made["few"], layers="T0-T1")[0])["over"] == "T0-T1"


@pytest.mark.parametrize("layers", ["T1-T3", "T3", "T0-T2", "T0,T3"])
def test_other_layers_are_not_the_original_ones(store, layers):
    with pytest.raises(UsageError, match=r"speat-compat stands for T0 to T3 of HuBERT, .* leave out --layers"):
        ask(store, aggregate=("speat-compat",), layers=layers)


def test_the_original_layers_of_other_families(made):
    """wav2vec 2.0: T0 stands for what stores do not hold, which is said once."""
    notes = []
    found = ask(made["w2v2"], aggregate=("speat-compat",), say=notes.append)
    assert d_of(found) == d_of(ask(made["w2v2"]))
    assert len(notes) == 1
    assert "projection before positions" in notes[0]


# --- normalised features ----------------------------------------------------------------------------------


def test_means_of_normalised_features(made, tmp_path):
    """Refused when they are extracted, and in a store that has them nevertheless; their largest values are no noise."""
    with pytest.raises(UsageError, match=r"--cmvn makes the mean over time of every utterance 0 up to rounding"):
        layertool.extract("mfcc", made["corpus"], tmp_path / "refused", ("utterance",), cmvn=True)
    assert not (tmp_path / "refused").exists()
    assert np.isfinite(d_of(ask(made["largest"])))
    copy = shutil.copytree(made["largest"].path, tmp_path / "mean")
    about = json.loads((copy / "store.json").read_text())
    about["configuration"]["units"]["utterance"] = "mean"
    (copy / "store.json").write_text(json.dumps(about))
    with pytest.raises(
        UsageError, match=r"normalised in every utterance: .* numerical noise; extract them without --cmvn"
    ):
        ask(FeatureStore(copy))
