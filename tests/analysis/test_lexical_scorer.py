"""Words on clips: every log-probability against transformers' own forward of one word at a time, in float64."""

from __future__ import annotations

import math
from functools import partialmethod
from itertools import pairwise
from pathlib import Path

import forced
import models
import numpy as np
import pytest
import references
import torch
from refusals import refused

import layertool.audio
from layertool.analysis.lexical import WhisperScorer, cmudict_words
from layertool.analysis.lexical.scorer import Variant
from layertool.errors import AudioError, CorpusError, ModelError

pytestmark = pytest.mark.slow  # networks are run, or trained

CLIP = models.speech_like(12_345, 1)
WRITE = {
    "lower": lambda word: [word],
    "capitalised": lambda word: [word[0].upper() + word[1:]],
    "sentence": lambda word: [word[0].upper() + word[1:] + "."],
    "marginal": lambda word: [form for name in ("lower", "capitalised", "sentence") for form in WRITE[name](word)],
}
VARIANTS = [
    Variant(),
    Variant(end_token=False),
    Variant(surface="capitalised", window="exact"),
    Variant(surface="sentence", end_token=False, window="clip"),
    Variant(surface="marginal"),
    Variant(surface="marginal", end_token=False, window="exact"),
    Variant(timestamps=True, window="exact"),
    Variant(window="clip"),
    Variant(window="exact"),
]


def prefix_of(folder: Path, *names: str) -> list[int]:
    return [token_of(folder, f"<|{name}|>") for name in names]


def token_of(folder: Path, piece: str) -> int:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(piece)


ENCODED: dict[tuple, torch.Tensor] = {}


def states_of(folder: Path, clip: np.ndarray, window: str) -> torch.Tensor:
    """What the decoder sees, in float64."""
    n = -(-len(clip) // 320)
    key = (folder, clip.tobytes(), n if window == "exact" else 1_500)
    if key not in ENCODED:
        ENCODED[key] = forced.cut_encoder(forced.load(folder), forced.log_mel(folder, clip), key[2])["final"]
    return ENCODED[key][:n] if window == "clip" else ENCODED[key]


@torch.no_grad()
def expected_log_p(folder: Path, states: torch.Tensor, words, variant: Variant, prefix: list[int]) -> np.ndarray:
    """Each word by itself: tokenised with a space before it, and forced behind the prefix."""
    from tokenizers import Tokenizer

    tokenizer, network, out = Tokenizer.from_file(str(folder / "tokenizer.json")), forced.load(folder), []
    end = token_of(folder, "<|endoftext|>") if variant.end_token else None
    for word in words:
        forms = [tokenizer.encode(f" {form}", add_special_tokens=False).ids for form in WRITE[variant.surface](word)]
        each = [float(forced.form_log_p(network, states, prefix, form, end)) for form in forms]
        out.append(math.log(sum(math.exp(p - max(each)) for p in each)) + max(each))
    return np.array(out)


def some_words(n: int, seed: int = 0) -> list[str]:
    """Random words, many of which begin alike."""
    random = np.random.default_rng(seed)
    made = ("".join(random.choice(list("the")) for _ in range(random.integers(1, 7))) for _ in range(20 * n))
    return list(dict.fromkeys(made))[:n]


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> Path:
    return models.whisper(tmp_path_factory.mktemp("english"), tokenizer="english")


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory) -> Path:
    return models.whisper(tmp_path_factory.mktemp("multilingual"), tokenizer="multilingual")


@pytest.fixture(scope="module")
def tiny(shared) -> Path:
    return shared / "models/whisper-tiny.en"


@pytest.fixture(scope="module")
def dictionary(tiny):
    """CMUdict in the real model's tokens."""
    return WhisperScorer(tiny, device="cpu").lexicon(cmudict_words())


@pytest.fixture(scope="module")
def noisy(shared) -> list[np.ndarray]:
    """Real noisy words as they were heard."""
    wavs = sorted((shared / "data/eccc/EnglishCCC_v1.2/confusionWavs").glob("T_*.wav"))[:3]
    return [layertool.audio.read(path, 16_000, channel="sum") for path in wavs]


def brute_force(scorer: WhisperScorer, clip, words: list[str]) -> list[tuple[str, float]]:
    scores = scorer.log_probs(clip, words)
    return [(words[k], scores[k]) for k in sorted(range(len(words)), key=lambda k: (-scores[k], k))]


def same_ranking(got, expected, n: int) -> None:
    """Word for word, but that words which are equally likely up to rounding may stand in any order."""
    assert len(got) == n
    assert len({word for word, _ in got}) == n
    np.testing.assert_allclose([p for _, p in got], [p for _, p in expected[:n]], atol=1e-4)
    assert all(a >= b for (_, a), (_, b) in pairwise(got))
    by_word = dict(expected)
    for (word, log_p), (other, _) in zip(got, expected, strict=False):
        assert abs(log_p - by_word[word]) < 1e-4, word
        assert word == other or abs(by_word[word] - by_word[other]) < 1e-4, (word, other)


# --- log-probabilities -------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_words_one_at_a_time(english, variant):
    names = ["startoftranscript"] if variant.timestamps else ["startoftranscript", "notimestamps"]
    scorer = WhisperScorer(english, variant, device="cpu")
    assert scorer.decoder.prefix == prefix_of(english, *names)
    words = ["the", "theme", "th", "a", "an", "cross-eyed", "author's", "ice cream", "the"]
    expected = expected_log_p(english, states_of(english, CLIP, variant.window), words, variant, scorer.decoder.prefix)
    got = scorer.log_probs(CLIP, words)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, atol=1e-4)
    upper = [word.upper() for word in words]
    np.testing.assert_allclose(scorer.log_probs(CLIP, upper), expected, atol=1e-4)
    np.testing.assert_allclose([scorer.log_probs(CLIP, [word])[0] for word in words], expected, atol=1e-4)
    turned = scorer.log_probs(CLIP, words, end_token=not variant.end_token)
    assert (turned > got).all() if variant.end_token else (turned < got).all()


@pytest.mark.parametrize(
    ("language", "timestamps", "names"),
    [
        (None, False, ["startoftranscript", "en", "transcribe", "notimestamps"]),
        ("fr", False, ["startoftranscript", "fr", "transcribe", "notimestamps"]),
        ("en", True, ["startoftranscript", "en", "transcribe"]),
    ],
)
def test_a_multilingual_model_is_told_language_and_task(multilingual, language, timestamps, names):
    variant = Variant(language=language, timestamps=timestamps, window="exact")
    scorer = WhisperScorer(multilingual, variant, device="cpu")
    assert scorer.decoder.prefix == prefix_of(multilingual, *names)
    words = ["the", "théâtre", "a"]
    states = states_of(multilingual, CLIP, "exact")
    expected = expected_log_p(multilingual, states, words, variant, prefix_of(multilingual, *names))
    np.testing.assert_allclose(scorer.log_probs(CLIP, words), expected, atol=1e-4)


def test_languages_that_are_not_there(english, multilingual):
    refused(
        "English-only checkpoint: leave out --language fr", WhisperScorer, english, Variant(language="fr"), device="cpu"
    )
    refused(
        "does not know the language 'tlh'",
        WhisperScorer,
        multilingual,
        Variant(language="tlh"),
        error=ModelError,
        device="cpu",
    )
    assert len(WhisperScorer(english, Variant(language="en"), device="cpu").decoder.prefix) == 2


def test_an_english_only_prefix_has_no_language_whatever_its_tokenizer_was_saved_with(english, tmp_path):
    """As fine-tuning recipes save it: WhisperProcessor.from_pretrained(..., language="English", task="transcribe")."""
    import shutil

    from transformers import WhisperTokenizer

    folder = shutil.copytree(english, tmp_path / "tuned")
    WhisperTokenizer.from_pretrained(english, language="English", task="transcribe").save_pretrained(folder)
    prefix = WhisperScorer(folder, device="cpu").decoder.prefix
    assert prefix == prefix_of(english, "startoftranscript", "notimestamps")


@pytest.mark.parametrize("window", ["30s", "clip", "exact"])
def test_layers_of_several_clips(english, window):
    """Encoder layers through the last norm, decoder layers through theirs; padded clips as if alone."""
    clips = [models.speech_like(n, n) for n in (9_000, 20_001, 300)]
    scorer, network = WhisperScorer(english, Variant(window=window), device="cpu"), forced.load(english)
    assert scorer.layers == ["T0", "T1", "T2", "final", "D0", "D1", "D2"]
    found = scorer.encode(clips, ["T0", "T1", "T2", "final"])
    for k, clip in enumerate(clips):
        n = -(-len(clip) // 320)
        layers = forced.cut_encoder(network, forced.log_mel(english, clip), n if window == "exact" else 1_500)
        for name in ("T0", "T1", "T2", "final"):
            with torch.no_grad():
                hidden = layers[name] if name == "final" else network.model.encoder.layer_norm(layers[name])
            hidden = hidden if window == "30s" else hidden[:n]
            assert references.worst_row(found[name][k], hidden) < 2e-5
        assert references.worst_row(found["T2"][k], found["final"][k]) < 1e-6
    with scorer.computing():
        got = scorer.score(scorer.read(found["T1"][1], "D1"), ["the", "a"])
    states = found["T1"][1].double()
    tokens = [*scorer.decoder.prefix, *scorer.tokenise(["a"])[0]]
    top = torch.from_numpy(references.whisper_decoder(network.model, tokens, states.numpy())["D1"])
    with torch.no_grad():
        rows = network.proj_out(network.model.decoder.layer_norm(top)).log_softmax(dim=-1)[1:]
    wanted = [*tokens[2:], token_of(english, "<|endoftext|>")]
    assert got[1] == pytest.approx(sum(float(rows[k, token]) for k, token in enumerate(wanted)), abs=1e-4)


def test_a_form_that_is_written_alike_counts_once(english):
    """A word that begins with an apostrophe has no capital: its three forms are two strings."""
    scorer = WhisperScorer(english, Variant(surface="marginal"), device="cpu")
    states, prefix = states_of(english, CLIP, "30s"), scorer.decoder.prefix
    each = [expected_log_p(english, states, [form], Variant(surface="lower"), prefix)[0] for form in ("'em", "'em.")]
    assert scorer.log_probs(CLIP, ["'em"])[0] == pytest.approx(np.logaddexp(*each), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_real_words_one_at_a_time(tiny, noisy, variant):
    prefix = [50257] if variant.timestamps else [50257, 50362]
    scorer = WhisperScorer(tiny, variant, device="cpu")
    assert scorer.decoder.prefix == prefix
    words = ["stance", "cross-eyed"]
    for clip in noisy[: 2 if variant == Variant() else 1]:
        expected = expected_log_p(tiny, states_of(tiny, clip, variant.window), words, variant, prefix)
        np.testing.assert_allclose(scorer.log_probs(clip, words), expected, atol=2e-4)


# --- the most likely words ---------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_top_words_are_those_of_single_forwards(english, variant):
    words = [*some_words(40), "a", "a.", "author's"]
    scorer = WhisperScorer(english, variant, device="cpu")
    states = states_of(english, CLIP, variant.window)
    log_p = expected_log_p(english, states, words, variant, scorer.decoder.prefix)
    ranked = sorted(zip(words, log_p.tolist(), strict=True), key=lambda entry: -entry[1])
    lexicon = scorer.lexicon(words)
    for n in (1, 2, 7, 42, 43, 500):
        same_ranking(scorer.top_words(CLIP, lexicon, n), ranked, min(n, len(words)))
    again = [f" {words[3].upper()}", *words, words[9]]  # each word counts once
    same_ranking(scorer.top_words(CLIP, again, 5), ranked, 5)


@pytest.mark.slow
@pytest.mark.parametrize("end_token", [True, False])
def test_real_top_words_are_those_of_brute_force(tiny, noisy, dictionary, end_token):
    """1000 words of CMUdict, the most likely ones of a clip among them."""
    scorer = WhisperScorer(tiny, Variant(end_token=end_token), device="cpu")
    clip = noisy[1 - end_token]
    likely = scorer.top_words(clip, dictionary, 100)
    random = np.random.default_rng(0).permutation(len(dictionary))
    words = list(dict.fromkeys([*(word for word, _ in likely), *(dictionary.words[k] for k in random[:900])]))
    ranked, lexicon = brute_force(scorer, clip, words), scorer.lexicon(words)
    for n in (1, 10, 300):
        same_ranking(scorer.top_words(clip, lexicon, n), ranked, n)
    same_ranking(likely, ranked, 100)  # no word of the whole dictionary that is drawn beats them


@pytest.mark.slow
def test_real_top_words_of_the_marginal(tiny, noisy):
    scorer = WhisperScorer(tiny, Variant(surface="marginal", window="exact"), device="cpu")
    words = [*cmudict_words()[::700], "about", "the", "you", "oh", "bye", "fun", "thanks"]
    ranked = brute_force(scorer, noisy[1], list(dict.fromkeys(words)))
    for n in (1, 12, 60):
        same_ranking(scorer.top_words(noisy[1], words, n), ranked, n)


@pytest.mark.slow
def test_with_the_end_token_words_share_a_probability_of_1(tiny, noisy, dictionary):
    """Without it a word has the probability of all that begins like it, so that a sum means nothing."""
    scorer = WhisperScorer(tiny, device="cpu")
    for clip in noisy:
        p = np.exp([log_p for _, log_p in scorer.top_words(clip, dictionary, 200)])
        assert 0.02 < p.sum() <= 1
    tokens = {word: forms[0] for word, forms in zip(dictionary.words, dictionary.forms, strict=True)}
    longer = [word for word, form in tokens.items() if form[0] == tokens["drink"][0]]
    assert len(tokens["drink"]) == 1
    assert "drink" in longer
    assert len(longer) > 3
    ended, begun = (np.exp(scorer.log_probs(noisy[0], longer, end_token=end)) for end in (True, False))
    whole = begun[longer.index("drink")]
    assert (ended < begun).all()
    assert ended.sum() < whole < begun.sum()  # what is counted twice


def test_a_model_that_knows_nothing_is_stopped_and_says_so(english, monkeypatch):
    scorer = WhisperScorer(english, device="cpu", random_init=0)
    words = [a + b + c for a in "ijklmn" for b in "ijklmn" for c in "ijklmn"]
    lexicon = scorer.lexicon(words)
    with scorer.computing():
        states = scorer.encode([CLIP])["final"][0]
        stopped = scorer.rank(scorer.read(states), lexicon, 5, most_prefixes=40)
        whole = scorer.rank(scorer.read(states), lexicon, 5)
    assert not stopped.exact
    assert 40 <= stopped.n_opened < whole.n_opened <= lexicon.n_prefixes - 1
    assert whole.exact
    ranked = brute_force(scorer, CLIP, words)
    same_ranking(list(zip(whole.words, whole.log_p, strict=True)), ranked, 5)
    monkeypatch.setattr(WhisperScorer, "rank", partialmethod(WhisperScorer.rank, most_prefixes=40))
    refused(
        r"so many words equally likely.*score the words with log_probs",
        scorer.top_words,
        CLIP,
        lexicon,
        5,
        error=ModelError,
    )


def test_coarser_computing_is_near(english):
    words = ["the", "theme", "a"]
    variant = Variant(window="exact")
    fine, coarse = (WhisperScorer(english, variant, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    expected = fine.log_probs(CLIP, words)
    got = coarse.log_probs(CLIP, words)
    np.testing.assert_allclose(got, expected, rtol=0.03)
    assert [word for word, _ in coarse.top_words(CLIP, words, 3)] == [
        word for word, _ in fine.top_words(CLIP, words, 3)
    ]


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("surface", list(WRITE))
@pytest.mark.parametrize("word", ["", " ", "<|endoftext|>", "<|startoftranscript|>", "<|en|>"])
def test_words_without_a_probability(english, word, surface):
    scorer = WhisperScorer(english, Variant(surface=surface, window="exact"), device="cpu")
    refused("take it out", scorer.log_probs, CLIP, ["the", word], error=CorpusError)
    if word.strip():
        refused("take it out", scorer.top_words, CLIP, ["the", word], 1, error=CorpusError)


def test_real_tokens_of_times_are_no_words(tiny, noisy):
    scorer = WhisperScorer(tiny, Variant(window="exact"), device="cpu")
    for word in ("<|endoftext|>", "<|0.00|>", "<|30.00|>"):
        refused("special token", scorer.log_probs, noisy[0], [word], error=CorpusError)


def test_a_network_that_gives_no_numbers_ranks_no_words(english):
    scorer = WhisperScorer(english, Variant(window="exact"), device="cpu")
    with torch.no_grad():
        scorer.decoder.decoder.layer_norm.weight[0] = math.nan
    with pytest.raises(ModelError):
        scorer.top_words(CLIP, ["the", "a"], 2)


def test_clips_that_are_none(english):
    scorer = WhisperScorer(english, Variant(window="exact"), device="cpu")
    for clip in (np.zeros(0), np.zeros((2, 400)), np.full(400, np.nan), np.float32(1), np.full(400, np.inf)):
        refused("a clip is a row of finite samples", scorer.log_probs, clip, ["the"])
        refused("a clip is a row of finite samples", scorer.top_words, clip, ["the"], 1)
    refused("longer than the 30 s", scorer.log_probs, models.speech_like(480_001, 0), ["the"], error=AudioError)
    for clip in (np.zeros(1), models.speech_like(1, 0)):
        assert np.isfinite(scorer.log_probs(clip, ["the"])).all()
    assert scorer.log_probs(CLIP, []).shape == (0,)


def test_the_text_of_a_variant_tells_it_from_any_other():
    texts = {
        str(Variant(end, surface, timestamps, window, language))
        for end in (True, False)
        for surface in WRITE
        for timestamps in (True, False)
        for window in ("30s", "clip", "exact")
        for language in ("en", "fr")
    }
    assert len(texts) == 2 * 4 * 2 * 3 * 2


def test_other_mistakes_are_said(english, tmp_path):
    refused(
        r"is of type 'wav2vec2'.*give a Whisper checkpoint",
        WhisperScorer,
        models.save("wav2vec2-base", tmp_path / "w2v"),
        error=ModelError,
    )
    refused("'upper' is no surface form: choose lower, capitalised, sentence, marginal", Variant, surface="upper")
    refused("'10s' is no window: choose 30s, clip, exact", Variant, window="10s")
    scorer = WhisperScorer(english, device="cpu")
    refused("ask for at least 1", scorer.top_words, CLIP, ["the"], 0)
    marginal = WhisperScorer(english, Variant(surface="marginal"), device="cpu").lexicon(["the"])
    refused("another model or surface form", scorer.top_words, CLIP, marginal, 1)
    refused("a lexicon without words", scorer.top_words, CLIP, [""], 1)
    refused("has no tokenizer", WhisperScorer, models.whisper(tmp_path / "mute"), error=ModelError, device="cpu")
