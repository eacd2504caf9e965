"""Labels as a person meets them: the commands that make corpora, and analyses of what they made."""

import json
import unicodedata

import pandas as pd
import pytest
from commands import refused, succeeds
from small import sound

from layertool.corpora.corpus import Corpus

E_ONE, E_TWO = "\u00e9", "e\u0301"
SAMPA = "S s T t I i N n { <p:>".split()


def grid(path, **tiers):
    """A TextGrid of 2 s; each tier has its labels one after the other, as long as each other."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "2", "<exists>", str(len(tiers))]
    for name, labels in tiers.items():
        step = 2 / len(labels)
        lines += ['"IntervalTier"', f'"{name}"', "0", "2", str(len(labels))]
        for k, label in enumerate(labels):
            lines += [f"{k * step:.6f}", f"{(k + 1) * step:.6f}", f'"{label}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def talk(folder, labels, n_files=1, tier="phones", **tiers):
    for k in range(n_files):
        sound(folder / f"u{k}.wav", 32_000, seed=k)
        grid(folder / f"u{k}.TextGrid", **{tier: labels}, **tiers)
    return folder


def labels_of(corpus, tier="phone"):
    segments = Corpus.read(corpus).segments
    return segments["label"][segments["tier"] == tier].tolist()


def made(tmp_path, labels, *options, **tiers):
    """The phones of a corpus of these labels, and what was said on stderr."""
    done = succeeds("corpus", "folder", talk(tmp_path / "talk", labels, **tiers), "-o", tmp_path / "c", *options)
    return labels_of(tmp_path / "c"), done.stderr


def test_sampa_stays_as_written(tmp_path):
    talk(tmp_path / "X", SAMPA, tier="MAU", **{"ORT-MAU": ["Schiff", "<p:>", "sin"]})
    done = succeeds(
        "corpus", "folder", tmp_path / "X", "-o", tmp_path / "c", "--tier", "phone=MAU", "--tier", "word=ORT-MAU"
    )
    assert labels_of(tmp_path / "c") == [*SAMPA[:-1], "SIL"]
    assert labels_of(tmp_path / "c", "word") == ["Schiff", "sin"]
    assert "note" not in done.stderr
    assert "phone as written" in done.stdout


def test_kaldi_labels_and_silences(tmp_path):
    found, said = made(tmp_path, "AA1_B AA0_E T_S SIL_S SPN_S NSN pau h# epi <p:> sil".split())
    assert found == ["aa", "aa", "t", *["SIL"] * 6]
    assert "'<p:>', 'SIL', 'epi', 'h#', 'pau' and 'sil' become 'SIL'" in said


def test_what_keeps_stress_marks_is_told(tmp_path):
    labels = ["AA1", "AA0", "T", "AP"]
    found, said = made(tmp_path, labels)
    assert found == labels
    assert "'AP' is not ARPABET" in said
    succeeds("corpus", "folder", tmp_path / "talk", "-o", tmp_path / "c2", "--non-speech", "AP, xxx")
    assert labels_of(tmp_path / "c2") == ["aa", "aa", "t"]


def test_what_is_told_is_not_told_to_the_quiet(tmp_path):
    assert made(tmp_path, ["AA1", "T", "AP"], "--quiet")[1] == ""
    assert json.loads((tmp_path / "c" / "corpus.json").read_text())["notes"]


def test_raw_labels_are_spelled_in_one_way(tmp_path):
    found, said = made(tmp_path, ["AA1", E_ONE, E_TWO, "sil"], "--raw-labels")
    assert found == ["AA1", E_ONE, E_ONE, "sil"]
    assert "U+0065 U+0301" in said


def test_a_table_of_segments(tmp_path):
    sound(tmp_path / "a.wav", 32_000)
    (tmp_path / "u.csv").write_text("audio\na.wav\n")
    rows = [("phone", label) for label in ["S", "s", "pau", E_ONE, E_TWO, "AP"]] + [("word", "noise"), ("word", "<p:>")]
    lines = [f"a,{tier},{k / 10},{(k + 1) / 10},{label}" for k, (tier, label) in enumerate(rows)]
    (tmp_path / "s.csv").write_text("utterance,tier,start,end,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    done = succeeds(
        "corpus",
        "csv",
        tmp_path / "u.csv",
        "-o",
        tmp_path / "c",
        "--segments",
        tmp_path / "s.csv",
        "--non-speech",
        "AP",
    )
    assert labels_of(tmp_path / "c") == ["S", "s", "SIL", E_ONE, E_ONE]
    assert labels_of(tmp_path / "c", "word") == ["noise"]
    assert "U+0065 U+0301" in done.stderr


def test_lhotse_alignments(tmp_path):
    pytest.importorskip("lhotse")
    sound(tmp_path / "a.wav", 32_000)
    symbols = ["I", "i", "N", "n", "h#", "spn", E_TWO]
    cut = {
        "type": "MonoCut", "id": "a", "start": 0, "duration": 2.0, "channel": 0,
        "recording": {
            "id": "a", "sources": [{"type": "file", "channels": [0], "source": str(tmp_path / "a.wav")}],
            "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
        },
        "supervisions": [{
            "id": "a", "recording_id": "a", "start": 0, "duration": 2.0, "channel": 0, "text": f"caf{E_TWO}",
            "alignment": {"phones": [[symbol, k / 10, 0.1] for k, symbol in enumerate(symbols)]},
        }],
    }  # fmt: skip
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut) + "\n")
    succeeds("corpus", "lhotse", tmp_path / "cuts.jsonl", "-o", tmp_path / "c")
    assert labels_of(tmp_path / "c") == ["I", "i", "N", "n", "SIL", E_ONE]
    assert Corpus.read(tmp_path / "c").utterances["text"].tolist() == [f"caf{E_ONE}"]


def test_timit_keeps_its_labels_apart(tmp_path):
    labels = "h# sh iy hv ae dcl y er ax-h q ux epi pau".split()
    found, _ = made(tmp_path, labels)
    assert found == ["SIL", *labels[1:-2], "SIL", "SIL"]


def test_a_joined_corpus_tells_that_its_labels_have_two_rules(tmp_path):
    for name, labels in (("one", ["AA1", "T"]), ("two", ["aI", "S"])):
        succeeds("corpus", "folder", talk(tmp_path / name, labels), "-o", tmp_path / f"c-{name}")
    for name in ("one", "two"):  # ids have to differ
        table = pd.read_parquet(tmp_path / f"c-{name}" / "utterances.parquet")
        assert table["utterance"].tolist() == ["u0"]
    corpora = [Corpus.read(tmp_path / f"c-{name}") for name in ("one", "two")]
    corpora[1].utterances["utterance"] = "u1"
    corpora[1].segments["utterance"] = corpora[1].segments["utterance"].cat.rename_categories(["u1"])
    corpora[1].write(tmp_path / "c-two")
    done = succeeds("corpus", "join", tmp_path / "c-one", tmp_path / "c-two", "-o", tmp_path / "c")
    assert "phone labels of one are 'ARPABET', those of two 'as written'" in done.stderr
    corpora[1].provenance["labels"] = "spec 2.2"  # as 0.1.0 wrote it
    corpora[1].write(tmp_path / "c-two")
    assert (
        "note" not in succeeds("corpus", "join", tmp_path / "c-one", tmp_path / "c-two", "-o", tmp_path / "c2").stderr
    )
    assert "spec 2.2" in succeeds("corpus", "info", tmp_path / "c-two").stdout


# --- names and cells -------------------------------------------------------------------------------------


def test_files_and_ids_match_as_letters(tmp_path):
    """A name that a Mac wrote, a TextGrid and a table that people typed."""
    sound(tmp_path / "talk" / f"caf{E_TWO}.wav", 32_000)
    grid(tmp_path / "talk" / f"caf{E_ONE}.TextGrid", phones=["a", "t"])
    (tmp_path / "talk" / f"caf{E_ONE}.txt").write_text(f"caf{E_TWO}", encoding="utf-8")
    (tmp_path / "m.csv").write_text(f"id,ville,r{E_TWO}gion\ncaf{E_ONE}.wav,N{E_TWO}rac,x\n", encoding="utf-8")
    succeeds("corpus", "folder", tmp_path / "talk", "-o", tmp_path / "c", "--metadata", tmp_path / "m.csv")
    corpus = Corpus.read(tmp_path / "c")
    row = corpus.utterances.iloc[0]
    assert (row["utterance"], row["text"], row["ville"], row[f"r{E_ONE}gion"]) == (
        f"caf{E_ONE}", f"caf{E_ONE}", f"N{E_ONE}rac", "x",
    )  # fmt: skip
    assert len(corpus.segments) == 2
    assert unicodedata.is_normalized("NFD", row["audio"].rpartition("/")[2])  # what opens is what the disk has


def test_ids_that_differ_in_spelling_alone_are_two_of_one_name(tmp_path):
    for spelling in (E_ONE, E_TWO):
        sound(tmp_path / "talk" / f"caf{spelling}.wav", 32_000)
    assert "would both be the utterance" in refused("corpus", "folder", tmp_path / "talk", "-o", tmp_path / "c")
    (tmp_path / "u.csv").write_text(
        f"utterance,audio\n{E_ONE},talk/caf{E_ONE}.wav\n{E_TWO},talk/caf{E_TWO}.wav\n", encoding="utf-8"
    )
    assert "more than once" in refused("corpus", "csv", tmp_path / "u.csv", "-o", tmp_path / "c")


@pytest.mark.parametrize(("on_disk", "written"), [(E_ONE, E_TWO), (E_TWO, E_ONE)])
def test_a_table_names_audio_in_another_spelling(tmp_path, on_disk, written):
    sound(tmp_path / f"d{on_disk}" / f"{on_disk}.wav", 32_000)
    (tmp_path / "u.csv").write_text(f"audio\nd{written}/{written}.wav\n", encoding="utf-8")
    succeeds("corpus", "csv", tmp_path / "u.csv", "-o", tmp_path / "c")
    row = Corpus.read(tmp_path / "c").utterances.iloc[0]
    assert row["utterance"] == E_ONE
    assert row["audio"].endswith(f"d{on_disk}/{on_disk}.wav")


def test_tables_made_by_hand_are_spelled_in_one_way(tmp_path):
    sound(tmp_path / "c" / "a.wav", 32_000)
    (tmp_path / "c" / "utterances.csv").write_text(f"utterance,audio,text\n{E_TWO},a.wav,{E_TWO}\n", encoding="utf-8")
    (tmp_path / "c" / "segments.csv").write_text(
        f"utterance,tier,start,end,label\n{E_ONE},phone,0,1,{E_TWO}\n{E_TWO},phone,1,2,{E_ONE}\n", encoding="utf-8"
    )
    corpus = Corpus.read(tmp_path / "c")
    assert corpus.segments["label"].tolist() == [E_ONE, E_ONE]
    assert corpus.utterances[["utterance", "text"]].iloc[0].tolist() == [E_ONE, E_ONE]
    assert corpus.segments["utterance"].tolist() == [E_ONE, E_ONE]


# --- analyses ----------------------------------------------------------------------------------------------

PHONES = [*"aiuptk", "é", "sil"]


def stores(tmp_path, spellings, labels=PHONES, *options):
    """A store for each way of writing é; the file of the token says which is written where."""
    out = []
    for name, spelling in spellings.items():
        for k in range(6):
            sound(tmp_path / name / f"u{k}.wav", 32_000, seed=k)
            mine = [spelling(k) if label == "é" else label for label in (labels[k:] + labels[:k]) * 2]
            grid(tmp_path / name / f"u{k}.TextGrid", phones=mine)
        succeeds("corpus", "folder", tmp_path / name, "-o", tmp_path / f"c-{name}", "--name", "talk", "-q", *options)
        succeeds("extract", "mfcc", tmp_path / f"c-{name}", "-o", tmp_path / f"s-{name}", "--units", "phone", "-q")
        out.append(tmp_path / f"s-{name}")
    return out


def values(store, *options):
    done = succeeds("mi", store, "--labels", "phone", "--clusters", "10", "--json", "-q", *options)
    return [(row["variant"], row["value"], row["chance"], row["n"]) for row in json.loads(done.stdout)]


def test_mi_of_two_spellings_is_that_of_one(tmp_path):
    one, mixed = stores(tmp_path, {"one": lambda _k: E_ONE, "mixed": lambda k: (E_ONE, E_TWO)[k % 2]})
    assert values(mixed) == values(one)
    assert values(mixed, "--where", f"label={E_TWO}", "--where", "label=a") == values(
        one, "--where", f"label={E_ONE}", "--where", "label=a"
    )


def test_analyses_pass_over_what_is_no_speech(tmp_path):
    """Raw labels: silences keep their names, and no analysis counts them."""
    none = ["pau", "h#", "<p:>", "NSN", "SIL_S", "AP"]
    (raw,) = stores(tmp_path, {"raw": lambda _k: E_ONE}, [*"aiuptk", *none], "--raw-labels", "--non-speech", "AP")
    assert {n for *_, n in values(raw)} == {36}  # the half of 6 x 2 x 6 tokens that is scored
