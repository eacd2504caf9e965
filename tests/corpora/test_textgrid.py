import time

import praatio.textgrid
import pytest

from layertool.corpora import textgrid
from layertool.errors import CorpusError

WORDS = [(0, 0.3, ""), (0.3, 0.5, "Hello"), (0.5, 1.0, "world")]
PHONES = [(0, 0.3, "sil"), (0.3, 0.4, "HH"), (0.4, 0.5, "AH0"), (0.5, 0.7, "spn"), (0.7, 1.0, "ER1")]


def short(tiers, n_tiers=None, announced=None, kind="IntervalTier"):
    """A TextGrid of the short form; ``announced`` replaces the true number of intervals."""
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "0",
        "1.0",
        "<exists>",
        str(n_tiers or len(tiers)),
    ]
    for name, intervals in tiers.items():
        lines += [f'"{kind}"', f'"{name}"', "0", "1.0", str(announced or len(intervals))]
        for *times, label in intervals:
            lines += [*map(str, times), f'"{label}"']
    return "\n".join(lines) + "\n"


def long(tiers):
    """The same file in the form that Praat writes by default."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0 ", "xmax = 1.0 "]
    lines += ["tiers? <exists> ", f"size = {len(tiers)} ", "item []: "]
    for k, (name, intervals) in enumerate(tiers.items(), start=1):
        lines += [f"    item [{k}]:", '        class = "IntervalTier" ', f'        name = "{name}" ']
        lines += ["        xmin = 0 ", "        xmax = 1.0 ", f"        intervals: size = {len(intervals)} "]
        for i, (start, end, label) in enumerate(intervals, start=1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start} ", f"            xmax = {end} "]
            lines += [f'            text = "{label}" ']
    return "\n".join(lines) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "a.TextGrid"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def labelled(path, tiers=None):
    """Tier, start, end, label of the intervals with a label, in a file of one speaker."""
    [voice] = textgrid.voices(path, tiers)
    return [(tier, *entry) for tier, (_, entries) in voice.tiers.items() for entry in entries if entry[2]]


EXPECTED = [
    ("word", 0.3, 0.5, "Hello"),
    ("word", 0.5, 1.0, "world"),
    *(("phone", *interval) for interval in PHONES),  # as they stand: what is done to labels depends on all of a corpus
]


@pytest.mark.parametrize("form", [short, long])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_form_of_the_file_gives_the_same_segments(write, form, encoding, newline):
    path = write(form({"words": WORDS, "phones": PHONES}).replace("\n", newline), encoding)
    assert labelled(path) == EXPECTED


def test_last_interval_is_read_without_a_final_newline(write):
    assert labelled(write(short({"words": WORDS}).rstrip("\n"))) == EXPECTED[:2]


@pytest.mark.parametrize("label", ["AH0", "sil", "  N ", "<unk>", 'say ""hi""', "größer"])
def test_labels_stand_as_in_the_file(write, label):
    path = write(short({"words": [(0, 0.5, label), (0.5, 0.7, ""), (0.7, 1, "  ")]}))
    assert [row[3] for row in labelled(path)] == [label.strip().replace(chr(34) * 2, chr(34))]


@pytest.mark.parametrize(("asked", "written"), [("La\u0308ute", "Läute"), ("Läute", "Mary - La\u0308ute")])
def test_names_of_tiers_are_compared_as_letters(write, asked, written):
    path = write(short({written: PHONES}))
    assert labelled(path, {"phone": asked}) == EXPECTED[2:]


def test_zero_length_overlapping_and_backward_intervals_stand_as_they_are(write):
    # openTextgrid refuses each of these files; Corpus.build counts the first and refuses the last
    intervals = [(0, "0.30000000000000004", "a"), ("0.3", 0.3, "b"), (0.2, 0.8, "c"), (0.9, 0.8, "d")]
    path = write(short({"words": intervals}))
    assert labelled(path) == [
        ("word", 0.0, 0.30000000000000004, "a"),
        ("word", 0.3, 0.3, "b"),
        ("word", 0.2, 0.8, "c"),
        ("word", 0.9, 0.8, "d"),
    ]


@pytest.mark.parametrize("form", [short, long])
def test_tiny_times_with_an_exponent(write, form):
    path = write(form({"words": [("5.551115123125783e-17", 0.5, "a"), (0.5, 1, "b")]}))
    assert labelled(path) == [("word", 5.551115123125783e-17, 0.5, "a"), ("word", 0.5, 1.0, "b")]


def test_hyphens_in_labels_are_no_negative_times(write):
    path = write(short({"words": [(0, 0.5, "-5"), (0.5, 1, "e-mail")]}))
    assert [row[3] for row in labelled(path)] == ["-5", "e-mail"]


def test_one_of_the_two_default_tiers_is_enough(write):
    assert labelled(write(short({"notes": WORDS, "words": WORDS}))) == EXPECTED[:2]


def test_named_tiers_replace_the_default(write):
    path = write(short({"ORT": WORDS, "words": WORDS, "MAU": PHONES}))
    assert labelled(path, {"word": "ORT"}) == EXPECTED[:2]
    assert labelled(path, {"word": "ORT", "phone": "MAU"}) == EXPECTED


def test_the_tiers_of_a_single_speaker_are_found(write):
    path = write(short({"Mary - words": WORDS, "Mary - phones": PHONES}))
    assert labelled(path) == EXPECTED


def test_each_speaker_is_a_voice(write):
    path = write(short({"Ann - words": WORDS, "Mary - phones": PHONES, "Mary - words": WORDS}))
    ann, mary = textgrid.voices(path)
    assert (ann.speaker, list(ann.tiers)) == ("Ann", ["word"])
    assert (mary.speaker, list(mary.tiers)) == ("Mary", ["word", "phone"])
    assert labelled(path, {"word": "Mary - words"}) == EXPECTED[:2]


@pytest.mark.parametrize(
    ("pattern", "names", "speakers"),
    [
        ("* : w", ["A : w", "B : w", "A : p"], ["A", "B"]),
        ("w_*", ["w_A", "x", "w_B"], ["A", "B"]),
        ("*", ["A", "B"], ["A", "B"]),
        ("(*) [w]+", ["(A) [w]+", "(A) w"], ["A"]),
    ],
)
def test_a_pattern_names_speakers(write, pattern, names, speakers):
    path = write(short(dict.fromkeys(names, WORDS)))
    assert [voice.speaker for voice in textgrid.voices(path, {"word": pattern})] == speakers


def test_tiers_of_nobody_beside_those_of_two_speakers_are_refused(write):
    path = write(short({"Ann - words": WORDS, "Mary - words": WORDS, "phones": PHONES}))
    with pytest.raises(
        CorpusError, match=r"a\.TextGrid has tiers of Ann and Mary and others of nobody .*--tier word='\* - words'"
    ):
        textgrid.voices(path)


def test_two_tiers_of_one_name_are_refused(write):
    path = write(short({"words": WORDS, "wordz": WORDS}).replace("wordz", "words"))
    with pytest.raises(CorpusError, match=r"a\.TextGrid has several tiers for 'words' \(words, words\): rename one"):
        textgrid.voices(path)


def test_no_wanted_tier_names_those_there_and_the_option(write):
    path = write(short({"ORT": WORDS, "MAU": PHONES}))
    message = (
        r"a\.TextGrid has no interval tier 'words' or 'phones' \(tiers there: 'ORT', 'MAU'\): "
        r"say which to take with --tier word=NAME or --tier phone=NAME"
    )
    with pytest.raises(CorpusError, match=message):
        textgrid.voices(path)


def test_a_named_tier_must_be_there(write):
    path = write(short({"words": WORDS, "phones": PHONES}))
    with pytest.raises(CorpusError, match=r"a\.TextGrid has no interval tier 'Words' .*--tier word=NAME$"):
        textgrid.voices(path, {"word": "Words", "phone": "phones"})


def test_a_point_tier_is_no_interval_tier(write):
    path = write(short({"words": [(0.5, "a")]}, kind="TextTier"))
    with pytest.raises(CorpusError, match=r"tiers there: 'words' with points\)"):
        textgrid.voices(path)


@pytest.mark.parametrize(
    "text",
    [
        short({"words": WORDS, "phones": PHONES}, n_tiers=3),
        short({"words": WORDS}, announced=4),
        short({"words": WORDS, "phones": PHONES})[:-40],
        long({"words": WORDS, "phones": PHONES})[:-150],
        long({"words": WORDS}).replace("xmin = 0.5", "xmin = half"),
        short({"words": WORDS}).replace("0.5", "half"),
        'File type = "ooTextFile"\nObject class = "TextGrid"\n',
    ],
)
def test_damaged_files_are_refused(write, text):
    with pytest.raises(CorpusError, match=r"a\.TextGrid is damaged .*: export it again"):
        textgrid.voices(write(text))


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "the lazy dog", 'File type = "ooTextFile"\nObject class = "PitchTier"\n']
)
def test_other_files_are_refused(write, text):
    with pytest.raises(CorpusError, match=r"a\.TextGrid is no TextGrid in text form: .*Save as text file"):
        textgrid.voices(write(text))


def test_other_encodings_are_refused(write):
    with pytest.raises(CorpusError, match=r"a\.TextGrid, line \d+ is not UTF-8"):
        textgrid.voices(write(short({"words": [(0, 1, "größer")]}), "latin-1"))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"gone\.TextGrid cannot be read .*: check the path"):
        textgrid.voices(tmp_path / "gone.TextGrid")


def test_reading_prints_nothing(write, capsys):
    textgrid.voices(write(short({"words": [(0, 0.5, "a"), (0.5, 1.5, "b")]})))
    assert capsys.readouterr() == ("", "")


def test_other_writers(write):
    # comments, no blanks around the sign, points with their times, a tier without entries
    text = long({"words": WORDS, "none": []}).replace("xmin = 0.3", "xmin=0.3").replace("item []:", "item []: ! 99")
    assert labelled(write(text)) == EXPECTED[:2]
    points = short({"points": [(0.5, "a")]}, kind="TextTier")
    [tier] = textgrid.read(write(points))
    assert (tier.name, tier.has_intervals, tier.entries) == ("points", False, [(0.5, 0.5, "a")])


def test_twenty_thousand_blank_lines_cost_nothing(write):
    start = time.perf_counter()
    path = write(short({"words": WORDS}) + "\n" * 20_000)
    assert labelled(path) == EXPECTED[:2]
    labelled(write(short({"words": WORDS}).replace('"Hello"', '"' + '""' * 20_000 + 'x"' + " \n" * 20_000)))
    with pytest.raises(CorpusError, match="is damaged"):
        textgrid.voices(write(short({"words": WORDS}) + '"' + '""' * 20_000 + " \n" * 20_000))
    assert time.perf_counter() - start < 2


def test_the_same_as_praatio_reads(shared):
    files = sorted((shared / "data" / "speech").rglob("*.TextGrid"))
    assert files
    for path in files[:40]:
        theirs = praatio.textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
        ours = {tier.name: tier.entries for tier in textgrid.read(path)}
        assert list(ours) == list(theirs.tierNames)
        assert all(ours[name] == [tuple(entry) for entry in theirs.getTier(name).entries] for name in ours)
