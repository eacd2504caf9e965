"""What labels become: the rules are chosen for all labels of a tier at once."""

import pandas as pd
import pytest

from layertool.corpora.labels import Rules
from layertool.non_speech import NOISE, SILENCE, is_speech, non_speech

CMUDICT = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH".split()
TIMIT = (
    "iy ih eh ey ae aa aw ay ah ao oy ow uh uw ux er ax ix axr ax-h b d g p t k dx q jh ch s sh z zh f th v dh m n "
    "ng em en eng nx "
    "l r w y hh hv el bcl dcl gcl pcl tcl kcl"
).split()
SAMPA = "S s T t I i N n { } 2: a: aI E@ OY @ ? p_h".split()
IPA = ["ɛ", "ɛː", "tʃ", "t", "ɡ", "a", "ã", "n̩", "ʔ"]
PINYIN = "a1 a2 a3 a4 i3 ao1 ao4 er2 b p sh zh ng".split()


def apply(labels, tier="phone", **options):
    """The labels of a corpus (None: left out), and what is noted."""
    table = pd.DataFrame({"tier": tier, "label": labels, "place": range(len(labels))})
    made, notes = Rules(**options).apply(table)
    kept = dict(zip(made["place"], made["label"], strict=True))
    return [kept.get(k) for k in range(len(labels))], notes


@pytest.mark.parametrize("labels", [SAMPA, IPA, PINYIN, TIMIT, ["S", "T", "N"], ["s", "t", "n"]])
def test_labels_of_other_alphabets_stay(labels):
    assert apply(labels)[0] == labels
    assert "notes" not in apply(labels)[1]


def test_arpabet_loses_stress_and_capitals():
    stressed = [f"{phone}{digit}" for phone in CMUDICT if phone[0] in "AEIOU" for digit in "012"]
    found, notes = apply([*CMUDICT, *stressed, "sil"])
    assert found == [*map(str.lower, CMUDICT), *(label[:-1].lower() for label in stressed), "SIL"]
    assert len(set(found)) == 40
    assert notes == {"labels": {"phone": "ARPABET"}, "non_speech": {"phone": ["sil"]}}  # what is usual is not told


@pytest.mark.parametrize(
    ("tier", "label", "kept"),
    [
        ("phone", "AH0", "ah"),
        ("phone", "  N ", "n"),
        ("phone", "sil", "SIL"),
        ("phone", "SIL", "SIL"),
        ("phone", "spn", None),
        ("phone", "sp", None),
        ("phone", "  ", None),
        ("phone", None, None),
        ("word", "spn", None),
        ("word", "sp", None),
        ("word", "<unk>", "<unk>"),
        ("word", "Hello", "Hello"),
        ("word", "route66", "route66"),
        ("word", "größer", "größer"),
        ("word", "noise", "noise"),
        ("word", "breath", "breath"),
        ("word", "<p:>", None),
    ],
)
def test_labels_follow_spec_2_2(tier, label, kept):
    assert apply(["IY1", "SH", label], tier)[0][2] == kept


@pytest.mark.parametrize("change", [str, str.lower])
def test_positions_of_kaldi(change):
    labels = list(map(change, ["AA1", "AA0", "AA2", "T"]))
    labels = [f"{labels[0]}_B", f"{labels[1]}_E", f"{labels[2]}_I", f"{labels[3]}_S", "SIL", "SIL_S", "SPN_S", "NSN_B"]
    found, notes = apply(labels)
    assert found == ["aa", "aa", "aa", "t", "SIL", "SIL", None, None]
    assert notes["labels"] == {"phone": "ARPABET, Kaldi's positions cut"}
    assert apply(["ɛ_B", "ɛ_E", "t_I", "a1_S", "a2_S", "SIL"])[0] == ["ɛ", "ɛ", "t", "a1", "a2", "SIL"]


def test_a_position_is_one_of_all_labels():
    labels = ["t_S", "a_B", "a", "n"]  # low tone of X-SAMPA
    assert apply(labels) == (labels, {"labels": {"phone": "as written"}})
    found, notes = apply(["AA1_B", "T_E", "N_I"] * 10 + ["XX"])
    assert "AA1_B" in found
    assert "keep their positions (_B, _E, _I), because 'XX' has none" in notes["notes"][0]
    assert "--non-speech XX" in notes["notes"][0]


@pytest.mark.parametrize("foreign", ["AP", "z", "aa1", "a"])
def test_a_label_that_keeps_the_set_from_being_arpabet_is_told(foreign):
    labels = ["AA1", "AA0", "S", "T", foreign]
    found, notes = apply(labels)
    assert found == labels
    (note,) = notes["notes"]
    assert "stress marks ('AA0')" in note
    assert f"'{foreign}' is not ARPABET in capitals" in note
    found, notes = apply(labels, non_speech=(foreign,))
    assert found == ["aa", "aa", "s", "t", None]
    assert "notes" not in notes
    assert notes["non_speech"] == {"phone": [foreign]}


def test_stress_in_small_letters_may_be_a_tone():
    found, notes = apply(["ao1", "ao2", "er2", "sh"])
    assert found == ["ao", "ao", "er", "sh"]
    assert "'ao1' and 'ao2' become 'ao'" in notes["notes"][0]
    assert "--raw-labels" in notes["notes"][0]


def test_noises_of_p2fa_are_known_beside_arpabet():
    assert apply(["AA1", "T", "sp", "ns", "br", "lg"])[0] == ["aa", "t", None, None, None, None]
    assert apply(["a", "mb", "ns", "br"])[0] == ["a", "mb", "ns", "br"]


@pytest.mark.parametrize("raw", [False, True])
def test_two_spellings_of_a_letter_are_one_label_and_told(raw):
    found, notes = apply(["e\u0301", "\u00e9", "a\u0303", "a"], raw=raw)
    assert found == ["\u00e9", "\u00e9", "\u00e3", "a"]
    (note,) = notes["notes"]
    assert "'e\u0301' (U+0065 U+0301) and '\u00e9' become '\u00e9'" in note


@pytest.mark.parametrize(
    ("tier", "labels"),
    [("phone", ["\u0261", "g", "t"]), ("phone", ["a\u02d0", "a:"]), ("word", ["don't", "don\u2019t"])],
)
def test_labels_that_look_alike_are_told_and_stay(tier, labels):
    found, notes = apply(labels, tier)
    assert found == labels
    (note,) = notes["notes"]
    assert f"'{labels[0]}'" in note
    assert f"'{labels[1]}'" in note
    assert "look alike and stay apart" in note


def test_silences_become_one_and_are_told():
    found, notes = apply(["iy", "h#", "pau", "epi", "<p:>", "SIL", "q"])
    assert found == ["iy", *["SIL"] * 5, "q"]
    assert notes["notes"] == ["the phone labels '<p:>', 'SIL', 'epi', 'h#' and 'pau' become 'SIL' (they are silences)"]
    assert notes["non_speech"] == {"phone": ["<p:>", "SIL", "epi", "h#", "pau"]}


def test_raw_labels_keep_all_but_the_spelling():
    labels = ["AA1_B", "sil", "spn", "h#", "S", "s", " "]
    found, notes = apply(labels, raw=True)
    assert found == [*labels[:-1], None]
    assert notes["labels"] == {"phone": "raw"}
    assert apply(["AA1", "AP"], raw=True, non_speech=("AP",))[0] == ["AA1", "<AP>"]


def test_a_users_list_of_no_speech():
    found, notes = apply(["AP", "AP_S", "GAP", "a", "t"], non_speech=("AP", "GAP", "XX"))
    assert found == [None, None, None, "a", "t"]
    assert notes["notes"] == ["no segment is labelled 'XX': correct --non-speech"]
    found, notes = apply(["xxx", "Noise", "a"], "word", non_speech=("xxx", "Noise"))
    assert found == ["<xxx>", "<Noise>", "a"]
    assert not is_speech("word", "<xxx>")
    assert apply(["e\u0301", "a"], non_speech=("\u00e9",))[0] == [None, "a"]


def test_names_of_silences_among_words_are_told():
    found, notes = apply(["pau", "yes", "noise"], "word")
    assert found == ["pau", "yes", "noise"]
    assert notes["notes"] == ["'pau' counts as a word: if it is no speech, type --non-speech pau"]


def test_tiers_have_rules_of_their_own():
    table = pd.DataFrame({"tier": ["phone", "word", "tone"] * 2, "label": ["AA1", "AA1", "AA1", "T", "sil", "pau"]})
    made, notes = Rules().apply(table)
    assert made["label"].tolist() == ["aa", "AA1", "AA1", "t", "sil", "pau"]
    assert notes["labels"] == {"phone": "ARPABET", "word": "as written", "tone": "as written"}


def test_labels_that_are_numbers():
    made, _ = Rules().apply(pd.DataFrame({"tier": ["word"] * 3, "label": [7.5, float("nan"), 1.0]}))
    assert made["label"].tolist() == ["7.5", "1.0"]


def test_no_segments():
    made, notes = Rules().apply(pd.DataFrame({"tier": [], "label": []}))
    assert made.empty
    assert notes == {}
    assert Rules(non_speech=("x",)).apply(made)[1]["notes"]


@pytest.mark.parametrize(
    "label",
    "SIL sil sp pau h# epi <p:> <eps> <s> </s> # _ (.) (0.5) ... {SL} {B_TRANS} {E_TRANS} [SIL] SIL_S sil_B "
    "silB ++SIL++ #0 !SIL .pau".split(),
)
def test_silences_of_phones(label):
    assert non_speech("phone", label) == SILENCE


@pytest.mark.parametrize(
    "label",
    "spn SPN NSN SPN_S NOISE VOCNOISE LAUGH IVER <usb> <nib> <unk> {B_THIRD_SPKR} {BR} "
    "[noise] +NSN+ breath OOV GBG".split(),
)
def test_noises_of_phones(label):
    assert non_speech("phone", label) == NOISE


@pytest.mark.parametrize(
    "label",
    ["{", "}", "<\\", ">\\", "b_<", "?", "@", "&", "[tS]", "[s]", "[p]", "{I", "=", "'", "ns", "br", "t_S", "*"],
)
def test_phones_that_look_like_brackets(label):
    assert is_speech("phone", label)


@pytest.mark.parametrize(
    "label", ["noise", "breath", "pause", "laughter", "silence", "Sil", "SP", "error", "epi", "I", "o'clock", "&", "%"]
)
def test_words(label):
    assert is_speech("word", label)


@pytest.mark.parametrize(
    "label", "<SIL> <VOCNOISE> <unk> [noise] [laughter] {B_TRANS} <CUTOFF-so> sil SIL sp spn # (.) !SIL".split()
)
def test_no_words(label):
    assert not is_speech("word", label)


def test_the_docs_have_the_whole_list():
    from pathlib import Path

    from layertool import non_speech as module
    from layertool.corpora import labels

    page = (Path(__file__).parents[2] / "docs" / "corpus.md").read_text(encoding="utf-8")
    table = page[page.index("| no speech") : page.index("A word may be")].casefold()
    names = (
        module._SILENCES
        | module._NOISES
        | module._NOISES_IN_BRACKETS
        | set(map(str.casefold, module._WORDS))
        | labels._NOISES_OF_P2FA
    )
    assert [name for name in sorted(names - {"iver-laugh"}) if f"`{name}`" not in table] == []
