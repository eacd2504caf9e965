"""Rows of a listening model: each number against transformers' own forward of one word at a time, in float64."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import forced
import heard
import models
import numpy as np
import pytest
import references
import scipy.stats
import spread
import torch

import layertool
from layertool.analysis.lexical.scorer import Variant, WhisperScorer
from layertool.errors import AudioError, UsageError
from layertool.layerwise.lexical import LexicalLens, LexicalRank, LexicalScore
from layertool.layerwise.lexical_rows import bootstrap_mean
from layertool.layerwise.listener import Listener, States
from layertool.layerwise.stimuli import stimuli_of

pytestmark = pytest.mark.slow  # networks are run, or trained

SURPLUS = "frequency minus probability of the target"
CLIPS = heard.CLIPS[4:]
EXACT = Variant(window="exact")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    small = models.whisper(folder / "small", tokenizer="english")
    corpus = heard.corpus(folder / "audio", CLIPS)
    return SimpleNamespace(small=small, corpus=corpus, folder=folder)


def scorer_of(made, variant=EXACT, **options) -> WhisperScorer:
    return WhisperScorer(made.small, variant, device="cpu", **options)


def rows_of(made, kind=LexicalScore, corpus=None, **options):
    options = {"encoder_window": "exact", "device": "cpu", **options}
    return kind(**options).run(str(made.small), corpus or made.corpus)


def table(rows) -> dict[tuple[str, str], object]:
    """(metric, target) -> row."""
    found = {(row.metric, row.target): row for row in rows}
    assert len(found) == len(rows)
    return found


def settings(row) -> dict:
    return json.loads(row.settings)


# --- references ---------------------------------------------------------------------------------------


def token_of(made, piece) -> int:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(made.small / "tokenizer.json")).token_to_id(piece)


def ids_of(made, word) -> list[int]:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(made.small / "tokenizer.json")).encode(f" {word}", add_special_tokens=False).ids


def waveform(made, k) -> np.ndarray:
    import soundfile

    return soundfile.read(made.folder / "audio" / f"u{k}.wav", dtype="float32")[0]


@torch.no_grad()
def log_p(made, k, words, window="exact", layer="final") -> list[float]:
    """Of words on clip k; ``layer``: an encoder layer for the whole decoder, or a decoder layer for the output."""
    network, clip = forced.load(made.small), waveform(made, k)
    n = -(-len(clip) // 320)
    found = forced.cut_encoder(network, forced.log_mel(made.small, clip), n if window == "exact" else 1_500)
    states = found["final"] if layer[0] in "fD" else network.model.encoder.layer_norm(found[layer])
    states = states[:n] if window == "clip" else states
    prefix = [token_of(made, "<|startoftranscript|>"), token_of(made, "<|notimestamps|>")]
    end, out = token_of(made, "<|endoftext|>"), []
    for word in words:
        ids = ids_of(made, word.lower())
        if layer[0] != "D":
            out.append(float(forced.form_log_p(network, states, prefix, ids, end)))
            continue
        hidden = references.whisper_decoder(network.model, [*prefix, *ids], states.numpy())[layer]
        rows = network.proj_out(network.model.decoder.layer_norm(torch.from_numpy(hidden))).log_softmax(-1)
        out.append(float(sum(rows[1 + j, token] for j, token in enumerate([*ids, end]))))
    return out


def expected(made, places=None, lexicon=None, **where) -> dict[str, dict[int, float]]:
    """metric -> number of the stimulus -> value."""
    out: dict = {}
    for k in places if places is not None else range(len(CLIPS)):
        words, counts = CLIPS[k][0].split("|"), [int(c) for c in CLIPS[k][1].split()]
        p = log_p(made, k, [*words, CLIPS[k][3]], **where)
        out.setdefault("log-likelihood", {})[k] = heard.multinomial(p[:-1], counts)
        if len(set(counts)) > 1:
            out.setdefault("Kendall tau-b", {})[k] = scipy.stats.kendalltau(p[:-1], counts).statistic
        share = sum(c for word, c in zip(words, counts, strict=True) if word.lower() == CLIPS[k][3]) / sum(counts)
        out.setdefault(SURPLUS, {})[k] = share - math.exp(p[-1])
        if lexicon:
            every = log_p(made, k, lexicon, **where)
            top = [word for _, word in sorted(zip(every, lexicon, strict=True), reverse=True)][: len(words)]
            out.setdefault("top-1 accuracy", {})[k] = float(heard.top_is_right(top[0], words, counts))
            out.setdefault("top-n coverage", {})[k] = heard.share_found(top, words)
    return out


# --- the model itself ---------------------------------------------------------------------------------


SLOW = [pytest.param(window, marks=pytest.mark.slow) for window in ("30s", "clip")]


@pytest.mark.parametrize("window", ["exact", *SLOW])
def test_every_number(made, window):
    lexicon = list(heard.LEXICON) if window == "exact" else None
    ranked = {"kind": LexicalRank, "lexicon": lexicon} if lexicon else {}
    rows = rows_of(made, encoder_window=window, **ranked)
    found, wanted = table(rows), expected(made, window=window, lexicon=lexicon)
    assert {metric for metric, _ in found} == set(wanted)
    for metric, values in wanted.items():
        for k in range(len(CLIPS)):
            assert ((metric, f"{CLIPS[k][2]}: u{k}") in found) == (k in values)
        for k, value in values.items():
            row = found[metric, f"{CLIPS[k][2]}: u{k}"]
            assert row.value == pytest.approx(value, abs=2e-3), (metric, k)
            assert row.n == sum(map(int, CLIPS[k][1].split()))
            assert (row.group, row.item) == (CLIPS[k][2], f"u{k}")
            assert row.ci_low is row.ci_high is None
        for masker in ("all", "SSN", "BMN3", "BAB4"):
            part = [value for k, value in values.items() if masker in ("all", CLIPS[k][2])]
            row = found.get((metric, masker))
            assert row is not None or not part
            if row is None:
                continue
            assert (row.n, row.value) == (len(part), pytest.approx(np.mean(part), abs=2e-3))
            assert (row.group, row.item) == (None if masker == "all" else masker, None)
            assert (row.ci_low is None) == (len(part) < 2)
            if len(part) > 1:
                assert min(part) - 2e-3 <= row.ci_low <= row.value <= row.ci_high <= max(part) + 2e-3
    row = found["log-likelihood", "all"]
    assert (row.analysis, row.unit, row.layer, row.layer_index) == ("lexical", "utterance", "D2", 6)
    assert (row.model, row.corpus, row.step, row.store, row.seed) == ("small", "synthetic", None, None, 0)
    asked = {"end_token": True, "surface": "lower", "timestamps": False, "encoder_window": window, "dtype": "float32"}
    assert settings(row).items() >= asked.items()


def test_chance(made):
    found = table(rows_of(made, LexicalRank, lexicon=heard.LEXICON))
    n_words = len({word.lower() for word in [*heard.LEXICON, *(w for c in CLIPS for w in [*c[0].split("|"), c[3]])]})
    each = {}
    for k, (responses, counts, masker, *_) in enumerate(CLIPS):
        n, counts = len(responses.split("|")), [int(c) for c in counts.split()]
        each[k] = heard.multinomial([math.log(1 / n_words)] * n, counts), n / n_words
        assert found["log-likelihood", f"{masker}: u{k}"].chance == pytest.approx(each[k][0])
        assert found["top-n coverage", f"{masker}: u{k}"].chance == pytest.approx(each[k][1])
    assert found["log-likelihood", "all"].chance == pytest.approx(np.mean([g for g, _ in each.values()]))
    assert found["top-n coverage", "all"].chance == pytest.approx(np.mean([share for _, share in each.values()]))
    assert found["top-1 accuracy", "SSN"].chance == 1 / n_words
    assert found["Kendall tau-b", "all"].chance == 0
    assert found[SURPLUS, "all"].chance is None
    assert settings(found["top-1 accuracy", "all"])["chance"] == f"a guess among {n_words} words"


def test_parts_conditions_and_seeds(made):
    asked = {"split": "test", "where": ["masker!=SSN"], "seed": 5}
    rows = rows_of(made, **asked)
    assert {row.target for row in rows} == {"all", "BMN3", "BAB4", "BMN3: u4", "BAB4: u5", "BMN3: u6"}
    assert {row.seed for row in rows} == {5}
    assert all((settings(row)["split"], settings(row)["where"]) == ("test", ["masker!=SSN"]) for row in rows)
    assert [row.item for row in rows if row.item and row.metric == "log-likelihood"] == ["u4", "u5", "u6"]
    assert rows_of(made, **asked) == rows


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_how_many_clips_at_once_changes_nothing(made, at_once):
    scorer, stimuli = scorer_of(made), stimuli_of(made.corpus)
    one, other = (
        Listener(scorer, made.corpus, at_once=n).listen(stimuli, [scorer.output_layer])["D2"] for n in (at_once, 4)
    )
    assert [o.log_likelihood for o in one] == pytest.approx([o.log_likelihood for o in other], abs=1e-4)


def test_a_corpus_with_holes(made):
    """A stimulus without masker is one of its group, and never a group of its own; targets may lack too."""
    corpus = made.corpus.utterances.astype({"masker": object, "target": object}).copy()
    corpus.loc[[0, 1], "masker"] = None
    corpus.loc[[0], "target"] = None
    rows = rows_of(made, corpus=layertool.Corpus(corpus, made.corpus.segments, "holed", {}))
    means = {row.target: row.n for row in rows if row.metric == "log-likelihood" and row.ci_low is not None}
    assert means == {"all": 7, "no masker": 2, "BMN3": 2, "SSN": 2}
    assert table(rows)[SURPLUS, "all"].n == 6
    assert sum(row.item is not None and row.metric == "log-likelihood" for row in rows) == 7


def test_a_masker_called_all(made):
    changed = made.corpus.utterances.assign(masker=["all", "all", "all", "x", "x", "x", "x"])
    rows = rows_of(made, corpus=layertool.Corpus(changed, made.corpus.segments, "c", {}))
    assert next(row.n for row in rows if row.target == "all" and row.metric == "log-likelihood") == 7


# --- settings -----------------------------------------------------------------------------------------


def test_precision_and_lexicon_are_named(made):
    one = {"where": "utterance=u0"}
    for dtype in ("bfloat16", "float32"):
        assert settings(rows_of(made, dtype=dtype, **one)[0])["dtype"] == dtype
    assert rows_of(made, random_init=3, **one)[0].model.endswith("(random init 3)")
    ranked = [table(rows_of(made, LexicalRank, lexicon=words, **one)) for words in (["the", "tea"], ["the", "he"])]
    for metric in ("top-1 accuracy", "top-n coverage"):
        assert ranked[0][metric, "all"].settings != ranked[1][metric, "all"].settings
        assert settings(ranked[0][metric, "all"])["lexicon"].startswith("2 words of a list (")
    assert "lexicon" not in settings(ranked[0]["log-likelihood", "all"])


def test_searches_cut_at_different_places_have_different_names(made):
    """What they found differs, so what they are called has to."""
    lexicon = [a + b for a in "ijklm" for b in "ijklm"]
    for most in (1, 2):
        rows = rows_of(made, LexicalRank, lexicon=lexicon, most_prefixes=most)
        assert {settings(row)["most_prefixes"] for row in rows if row.metric == "top-n coverage"} == {most}


def test_tables_beside_the_rows(made):
    """Each response, and each ranked word."""
    asked = {"encoder_window": "exact", "device": "cpu"}
    scored = layertool.lexical.score(str(made.small), made.corpus, **asked)
    responses = scored.tables["responses"]
    assert responses["response"].tolist() == [word for clip in CLIPS for word in clip[0].split("|")]
    assert responses["log_p"][0] == pytest.approx(log_p(made, 0, [CLIPS[0][0].split("|")[0]])[0], abs=2e-3)
    ranked = layertool.lexical.rank([str(made.small)], made.corpus, lexicon=["the", "tea"], **asked)
    assert set(ranked.tables["words"]["word"]) == {"the", "tea"}
    assert list(ranked.tables["words"]["rank"][:2]) == [1, 2]


def test_workers_are_for_ray(made):
    """One network, whose sums take all cores."""
    with pytest.raises(UsageError, match="--workers is for Ray"):
        LexicalScore().run(str(made.small), made.corpus, workers=2)


# --- the lens -----------------------------------------------------------------------------------------


def test_lens(made):
    layers = ["T0", "T1", "T2", "final", "D0", "D1", "D2"]
    rows = rows_of(made, LexicalLens, layers=layers, lexicon=list(heard.LEXICON))
    assert all(row.item is None for row in rows)
    assert {row.analysis for row in rows} == {"lexical lens"}
    assert [*dict.fromkeys((row.layer, row.layer_index) for row in rows)] == [
        (name, k) for k, name in enumerate(layers)
    ]
    assert len({row.metric for row in rows}) == 5
    for layer in layers:
        found = table([row for row in rows if row.layer == layer])
        for metric, values in expected(made, layer=layer, lexicon=list(heard.LEXICON)).items():
            assert found[metric, "all"].value == pytest.approx(np.mean(list(values.values())), abs=2e-3), (
                layer,
                metric,
            )
    by_layer = {row.layer: row for row in rows if row.metric == "log-likelihood" and row.target == "all"}
    itself = table(rows_of(made))["log-likelihood", "all"]
    for layer in ("T2", "final", "D2"):
        assert by_layer[layer].value == pytest.approx(itself.value, abs=1e-4)
        assert (by_layer[layer].ci_low, by_layer[layer].ci_high) == pytest.approx(
            (itself.ci_low, itself.ci_high), abs=1e-4
        )


# --- states out of a store ----------------------------------------------------------------------------


def store_of(made, name, window="exact", layers=("T0", "T1", "T2", "final"), corpus=None, model=None, **options):
    return layertool.extract(
        str(model or made.small), corpus or made.corpus, made.folder / name, units=("frame",), layers=layers,
        encoder_window=window, device="cpu", **options,
    )  # fmt: skip


@pytest.mark.parametrize("window", ["30s", "clip", "exact"])
def test_a_store_gives_the_same_numbers(made, window):
    store = store_of(made, f"states-{window}", window)
    asked = {"layers": "T1,T2,final,D1,D2", "top_words": False, "where": "utterance!=u0", "encoder_window": window}
    stored, direct = (rows_of(made, LexicalLens, states=states, **asked) for states in (store.path, None))
    assert [row.value for row in stored] == pytest.approx([row.value for row in direct], abs=2e-4)
    assert [row.settings for row in stored] == [row.settings for row in direct]
    assert {row.store for row in stored} == {str(store.path)}


def test_coarse_stores_are_named(made):
    full = rows_of(made)[0]
    store = store_of(made, "coarse", store_dtype="float16")
    row = rows_of(made, states=store.path)[0]
    assert row.value == pytest.approx(full.value, abs=2)
    assert row.value != full.value
    assert settings(row) == settings(full) | {"states": "float16"}
    computed = store_of(made, "computed", dtype="bfloat16")
    with pytest.raises(UsageError, match="computed in bfloat16, asked for is float32"):
        States(computed, scorer_of(made), made.corpus, ["final"])


def test_an_untrained_store_is_of_the_same_untrained_model(made):
    """The same seed has to draw the same weights for the extractor and for the scorer."""
    store = store_of(made, "untrained", random_init=4)
    stored, direct = (rows_of(made, states=states, random_init=4) for states in (store.path, None))
    assert [row.value for row in stored] == pytest.approx([row.value for row in direct], abs=2e-4)


def test_stores_that_do_not_fit(made):
    scorer = scorer_of(made)
    store = store_of(made, "fits", layers=("T1", "final"))

    def refused(store, says, corpus=made.corpus, layers=("final",), scorer=scorer):
        with pytest.raises(UsageError, match=says):
            States(store, scorer, corpus, layers)

    States(store, scorer, made.corpus, ["final"])
    other = models.whisper(made.folder / "other", seed=1, tokenizer="english")
    refused(store_of(made, "of-other", layers=("final",), model=other), "of another model")
    refused(store, "of another model", scorer=scorer_of(made, random_init=1))
    refused(store_of(made, "of-30s", "30s", ("final",)), "--encoder-window 30s, asked for is exact")
    refused(store, "no frames of layer T2", layers=("T1", "T2", "final"))
    shorter = heard.corpus(made.folder / "shorter", CLIPS[:3])
    refused(store, "another corpus", corpus=shorter)
    pooled = layertool.extract(str(made.small), made.corpus, made.folder / "pooled", units=("utterance",), layers="T1")
    refused(pooled, "window clip", scorer=scorer)
    refused(pooled, "no frames of layer final", scorer=scorer_of(made, Variant(window="clip")))


def test_an_utterance_that_was_left_out(made):
    """A clip went missing when the store was made: it is named, and no other clip's states are taken for it."""
    corpus = heard.corpus(made.folder / "gone", CLIPS[:4])
    (made.folder / "gone" / "u1.wav").unlink()
    store = store_of(made, "left", layers=("final",), corpus=corpus, max_failures=1)
    with pytest.raises(UsageError, match=r"no rows of 'u1' \(it was left out\)"):
        rows_of(made, corpus=corpus, states=store.path)
    rows = rows_of(made, corpus=corpus, states=store.path, where="utterance!=u1")
    wanted = expected(made, places=(0, 2, 3))["log-likelihood"]
    found = {row.item: row.value for row in rows if row.metric == "log-likelihood" and row.item}
    assert found == {f"u{k}": pytest.approx(value, abs=2e-3) for k, value in wanted.items()}


def test_a_clip_over_30_s_is_named(tmp_path, made):
    waves = [models.speech_like(4_000, 1), models.speech_like(480_001, 2)]
    corpus = models.corpus(tmp_path, waves, **heard.columns(CLIPS[:2]))
    with pytest.raises(AudioError, match=r"'u1' lasts 30\.0001 s.*30 s"):
        rows_of(made, corpus=corpus)


# --- intervals ----------------------------------------------------------------------------------------


def test_bootstrap():
    values = np.random.default_rng(0).gamma(2, 3, 40)
    random = np.random.RandomState(1)
    means = sorted(values[random.randint(0, 40, 40)].mean() for _ in range(20_000))
    low, high = bootstrap_mean(values, 20_000, seed=9)
    assert (low, high) == pytest.approx(np.quantile(means, spread.ends(40)), abs=0.06)
    assert bootstrap_mean(values, 20_000, seed=9) == (low, high)
    assert bootstrap_mean(values, 500, seed=1) != bootstrap_mean(values, 500, seed=2)
    assert bootstrap_mean(values[:1]) == (None, None)
    assert bootstrap_mean(np.full(5, 2.0), 100) == (2.0, 2.0)


@pytest.mark.parametrize(
    ("n", "impossible", "ends"), [(100, 1, (True, False)), (5, 4, (True, True)), (3, 3, (True, True))]
)
def test_bootstrap_with_impossible_ones(n, impossible, ends):
    """One of 100 is in 63 % of the resamples: the lower end is -inf, the upper one a number."""
    values = np.r_[np.full(impossible, -np.inf), np.linspace(-3, -1, n - impossible)]
    with np.errstate(all="raise"):
        found = bootstrap_mean(values, 2_000)
    assert tuple(end == -np.inf for end in found) == ends
