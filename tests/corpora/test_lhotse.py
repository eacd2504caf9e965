import builtins
import copy
import gzip
import json

import numpy as np
import pytest
import soundfile

from layertool.columns import texts
from layertool.corpora import labels
from layertool.corpora import lhotse as reader
from layertool.errors import AudioError, CorpusError, MissingExtraError, UsageError

pytest.importorskip("lhotse")


@pytest.fixture
def root(tmp_path):
    """audio/mono.wav (2 s), audio/stereo.wav (2 s, 8 kHz)"""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "mono.wav", np.full(32000, 0.1), 16000)
    soundfile.write(tmp_path / "audio" / "stereo.wav", np.full((16000, 2), 0.1), 8000)
    return tmp_path


def recording(path, channels=(0,), rate=16000, **more):
    source = {"type": "file", "channels": list(channels), "source": str(path)}
    n = 2 * rate
    return {"id": "rec", "sources": [source], "sampling_rate": rate, "num_samples": n, "duration": 2.0, **more}


def supervision(**more):
    return {"id": "s", "recording_id": "rec", "start": 0.0, "duration": 1.0, "channel": 0, **more}


def cut(identity="a", start=0.0, duration=2.0, channel=0, audio="audio/mono.wav", **more):
    return {
        "id": identity,
        "start": start,
        "duration": duration,
        "channel": channel,
        "recording": recording(audio),
        "supervisions": [],
        "type": "MonoCut",
        **more,
    }


def manifest(path, *lines):
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def test_cuts_become_utterances(root):
    first = supervision(
        text="the first",
        speaker="ann",
        gender="F",
        language="en",
        custom={"age": 31, "start": "x", "vector": [1, 2]},
        alignment={
            "word": [["the", 0.0, 0.25, None], [" ", 0.25, 0.05], ["first", 0.3, 0.4]],
            "phones": [["DH", 0.0, 0.1], ["AH0", 0.1, 0.15], ["sil", 0.25, 0.05], ["spn", 0.3, 0.1]],
            "tone": [["H", 0.1, 0.2]],
        },
    )
    source = manifest(
        root / "my.cuts.jsonl.gz",
        cut("whole", supervisions=[first], custom={"snr": 12.5, "age": 99}),
        "\n",
        cut("part", 0.5, 1.0),
        cut("right", channel=1, recording=recording(root / "audio" / "stereo.wav", (0, 1), 8000)),
    )
    corpus = reader.read(source)
    got = corpus.utterances
    assert corpus.name == "my"
    assert list(got["utterance"]) == ["whole", "part", "right"]
    assert list(got["audio"]) == [str((root / "audio" / f"{n}.wav").resolve()) for n in ("mono", "mono", "stereo")]
    np.testing.assert_array_equal(got["start"], [np.nan, 0.5, np.nan])
    np.testing.assert_array_equal(got["end"], [np.nan, 1.5, np.nan])
    assert list(got["channel"]) == [None, None, "1"]
    assert list(got["n_samples"]) == [32000, 16000, 32000]
    assert corpus.metadata_columns == ["text", "speaker", "gender", "language", "age", "source_start", "snr"]
    assert list(got.loc[0, corpus.metadata_columns]) == ["the first", "ann", "F", "en", 31, "x", 12.5]
    assert got.loc[1:, corpus.metadata_columns].isna().all(axis=None)
    assert list(corpus.segments.itertuples(index=False, name=None)) == [
        ("whole", "phone", 0.0, 0.1, "dh"),
        ("whole", "phone", 0.1, 0.25, "ah"),
        ("whole", "phone", 0.25, 0.3, "SIL"),
        ("whole", "tone", 0.1, pytest.approx(0.3), "H"),
        ("whole", "word", 0.0, 0.25, "the"),
        ("whole", "word", 0.3, 0.7, "first"),
    ]
    assert corpus.provenance == {
        "reader": "lhotse",
        "source": str(source.resolve()),
        "labels": {"word": "as written", "phone": "ARPABET", "tone": "as written"},
        "non_speech": {"phone": ["sil", "spn"]},
        "segments_left_out": 2,
    }
    unchanged = reader.read(source, rules=labels.Rules(raw=True), name="raw")
    assert list(unchanged.segments["label"]) == ["DH", "AH0", "sil", "spn", "H", "the", "first"]
    assert (unchanged.name, unchanged.provenance["labels"]["phone"]) == ("raw", "raw")


def test_manifest_written_by_lhotse(root, monkeypatch):
    import lhotse

    monkeypatch.chdir(root)  # its relative paths start from the working folder, not from the manifest's
    source = lhotse.Recording.from_file("audio/mono.wav", recording_id="r")
    words = [lhotse.supervision.AlignmentItem("hi", 0.6, 0.3), lhotse.supervision.AlignmentItem("you", 1.1, 0.4)]
    spoken = lhotse.SupervisionSegment("s", "r", 0.5, 1.2, text="hi you", speaker="bob", alignment={"word": words})
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings([source]), lhotse.SupervisionSet.from_segments([spoken])
    ).trim_to_supervisions()
    (root / "manifests").mkdir()
    cuts.to_file("manifests/cuts.jsonl.gz")
    corpus = reader.read("manifests/cuts.jsonl.gz")
    assert list(corpus.utterances[["start", "end", "text", "speaker"]].loc[0]) == [0.5, 1.7, "hi you", "bob"]
    assert corpus.utterances["n_samples"][0] == 19200
    got = corpus.segments[["start", "end"]].to_numpy()
    np.testing.assert_allclose(got, [[0.1, 0.4], [0.6, 1.0]], atol=1e-9)


def test_custom_values_stay_what_they_are(root):
    """Among cuts that lack one, and where two are equal to Python only."""
    big = 10**18 + 1  # no float is this number
    cuts = [
        cut("a", supervisions=[supervision(custom={"person": big, "native": 1}), supervision(custom={"native": True})]),
        cut("b", supervisions=[supervision(custom={"native": True})]),
        cut("c", supervisions=[supervision(custom={"person": big + 1, "native": False})]),
    ]
    corpus = reader.read(manifest(root / "cuts.jsonl", *cuts))
    assert texts(corpus.utterances["person"]).tolist() == [str(big), None, str(big + 1)]
    assert texts(corpus.utterances["native"]).tolist() == [None, "True", "False"]
    assert corpus.provenance["supervisions_disagree"] == {"native": 1}


def test_supervisions_of_one_cut(root):
    """Texts are joined in the order of time; what contradicts is left empty and counted; far segments are left out."""
    late = supervision(start=1.0, text="b", speaker="bob", language="en", custom={"mood": "calm"})
    early = supervision(
        text="a",
        speaker="ann",
        language="en",
        alignment={
            "word": [
                ["in", -0.01, 0.2],
                ["cut", 0.9, 0.2],
                ["out", 3.0, 0.1],
                ["at", 0.8, 0.205],
                ["just before", -0.01, 0.005],
            ]
        },
    )
    corpus = reader.read(manifest(root / "cuts.jsonl", cut(duration=1.0, supervisions=[late, early])))
    assert corpus.utterances.loc[0, corpus.metadata_columns].to_dict() == {
        "text": "a b",
        "language": "en",
        "mood": "calm",
    }
    assert corpus.provenance["supervisions_disagree"] == {"speaker": 1}
    assert corpus.provenance["segments_outside_cuts"] == 3
    assert list(corpus.segments[["label", "start", "end"]].itertuples(index=False, name=None)) == [
        ("in", 0.0, pytest.approx(0.19)),
        ("at", 0.8, 1.0),
    ]


def test_channels(root):
    stereo = recording("audio/stereo.wav", (0, 1), 8000)
    source = manifest(root / "cuts.jsonl", cut("mono"), cut("multi", channel=[0, 1], recording=stereo, type="MultiCut"))
    with pytest.raises(
        CorpusError, match=r"'multi' of .* has the channels 0, 1: say which .* --channel 0, or --channel mix"
    ):
        reader.read(source)
    assert list(reader.read(source, channel="mix").utterances["channel"]) == ["mix", "mix"]
    with pytest.raises(UsageError, match=r"'left' is no channel"):
        reader.read(source, channel="left")
    two_files = copy.deepcopy(stereo)
    two_files["sources"] = [recording("audio/mono.wav", (k,))["sources"][0] for k in (0, 1)]
    one_each = manifest(root / "2.jsonl", cut("x", channel=1, recording=two_files))
    assert list(reader.read(one_each).utterances["channel"]) == [None]
    both = manifest(root / "3.jsonl", cut("x", channel=[0, 1], recording=two_files, type="MultiCut"))
    with pytest.raises(CorpusError, match=r"'x' of .*3.jsonl has its channels in 2 files: save its audio"):
        reader.read(both, channel="mix")
    with pytest.raises(AudioError, match=r"stereo.wav has 2 channels: say which"):
        reader.read(manifest(root / "4.jsonl", cut(audio="audio/stereo.wav")))


def test_resampling_is_allowed(root):
    def changed(name, **kwargs):
        return cut(recording=recording("audio/mono.wav", transforms=[{"name": name, "kwargs": kwargs}]))

    up = changed("Resample", source_sampling_rate=8000, target_sampling_rate=16000)
    assert len(reader.read(manifest(root / "1.jsonl", up)).utterances) == 1
    down = changed("Resample", source_sampling_rate=16000, target_sampling_rate=8000)
    for line, name in ((down, "Resample"), (changed("Speed", factor=1.1), "Speed")):
        source = manifest(root / "2.jsonl", line)
        with pytest.raises(CorpusError, match=rf"'a' of .* changes its audio .* \({name}\): save its audio"):
            reader.read(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "m", "type": "MixedCut", "tracks": []}, r"line 1: the cut 'm' is mixed or padded \(MixedCut\)"),
        (
            {"id": "p", "type": "PaddingCut"},
            r"the cut 'p' is mixed or padded \(PaddingCut\).*cuts.save_audios\(FOLDER\)",
        ),
        (recording("x.wav"), "line 1 is no cut but one of recordings: make cuts with 'lhotse cut simple"),
        (supervision(), "line 1 is no cut but one of supervisions"),
        ([1], "line 1 is no cut: make cuts"),
        (cut(recording=None), "line 1, cannot be read as a cut"),
        ({"id": "a", "type": "MonoCut"}, "line 1, cannot be read as a cut .TypeError"),
        ('{"id": "a"', r"line 1, cannot be read as a cut \(JSONDecodeError"),
        (
            cut(audio="nowhere.wav"),
            "'a' of .* names the audio file nowhere.wav, which does not exist .looked for .* and",
        ),
        (cut(audio="/no/where.wav"), r"file /no/where.wav, which does not exist \(looked for /no/where.wav\)"),
        ("", "cuts.jsonl has no cuts: check"),
    ],
)
def test_unusable_cuts(root, line, message):
    with pytest.raises(CorpusError, match=message):
        reader.read(manifest(root / "cuts.jsonl", line))


def test_no_recording_or_no_file(root):
    no_recording = cut()
    del no_recording["recording"]
    with pytest.raises(CorpusError, match=r"the cut 'a' of .* has no recording"):
        reader.read(manifest(root / "cuts.jsonl", no_recording))
    for kind in ("url", "command"):
        other = cut()
        other["recording"]["sources"][0] |= {"type": kind, "source": "touch /tmp/ran"}
        with pytest.raises(
            CorpusError, match=f"the cut 'a' of .* source of type '{kind}', not from a file: save its audio"
        ):
            reader.read(manifest(root / "cuts.jsonl", other))


def test_damaged_or_wrong_files(root):
    (root / "cuts.json").write_text("[]")
    with pytest.raises(
        CorpusError, match=r"cuts.json is no .jsonl or .jsonl.gz manifest: convert it with 'lhotse copy"
    ):
        reader.read(root / "cuts.json")
    with pytest.raises(CorpusError, match=r"cuts.jsonl does not exist: check the path"):
        reader.read(root / "cuts.jsonl")
    whole = manifest(root / "cuts.jsonl.gz", *[cut(str(k)) for k in range(50)])
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(CorpusError, match=r"cuts.jsonl.gz, line \d+, cannot be read as a cut \(EOFError"):
        reader.read(whole)
    whole.write_bytes(b"no gzip")
    with pytest.raises(CorpusError, match=r"cuts.jsonl.gz, line 1, cannot be read as a cut \(BadGzipFile"):
        reader.read(whole)
    with pytest.raises(CorpusError, match=r"the utterance id 'a' more than once"):
        reader.read(manifest(root / "twice.jsonl", cut(), cut()))


def test_without_lhotse(root, monkeypatch):
    original = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "lhotse":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtraError, match=r"manifest of cuts needs .* pip install 'layertool\[lhotse\]'"):
        reader.read(root / "cuts.jsonl")


def test_unusable_cuts_are_left_out_and_listed(root):
    (root / "audio" / "bad.wav").write_bytes(b"no audio")
    lines = [
        cut("a"),
        cut("b", audio="audio/gone.wav"),
        cut("c", audio="audio/bad.wav"),
        cut("d", start=0.5, duration=1.0),
    ]
    path = manifest(root / "cuts.jsonl", *lines)
    with pytest.raises(CorpusError, match=r"cut 'b' .*gone\.wav, which does not exist"):
        reader.read(path)
    with pytest.raises(AudioError, match=r"bad\.wav cannot be read"):
        reader.read(path, max_failures=1)
    made = reader.read(path, max_failures=2)
    assert list(made.utterances["utterance"]) == ["a", "d"]
    assert list(made.provenance["left_out"]) == ["b", "c"]
    with pytest.raises(CorpusError, match="none of the utterances can be used; the first: the cut 'b'"):
        reader.read(manifest(root / "one.jsonl", lines[1]), max_failures=1)
