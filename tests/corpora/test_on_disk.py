"""A corpus on the disk is one thing: killed, changed by hand, or with audio of its own."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import small
from commands import refused, succeeds

from layertool.corpora import on_disk
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, StoreError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks and limits as Linux has them")
# Every rename of the making of a corpus from a table.
POINTS = [
    f"{name}.{suffix} {when}"
    for name, suffix in (
        ("utterances", "next.parquet"),
        ("segments", "next.parquet"),
        ("corpus", "json"),
        ("utterances", "parquet"),
        ("segments", "parquet"),
    )
    for when in ("before rename", "renamed")
]


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A table of three utterances, and one of segments with labels that are normalised."""
    folder = tmp_path_factory.mktemp("source")
    for k in range(3):
        small.sound(folder / f"u{k}.wav", 8000, seed=k)
    (folder / "utterances.csv").write_text("utterance,audio\n" + "".join(f"u{k},u{k}.wav\n" for k in range(3)))
    lines = [f"u{k},phone,{i / 10},{(i + 1) / 10},{label}\n" for k in range(3) for i, label in enumerate(("AH0", "T"))]
    (folder / "segments.csv").write_text("utterance,tier,start,end,label\n" + "".join(lines))
    return folder


def command(source: Path, out: Path, *options: str) -> list:
    return ["corpus", "csv", source / "utterances.csv", "--segments", source / "segments.csv", "-o", out, *options]


def assert_is(out: Path, whole: Path) -> None:
    """One corpus is the other, and nothing else lies in its folder."""
    read, other = Corpus.read(out, in_full=True), Corpus.read(whole)
    assert (read.fingerprint, read.provenance) == (other.fingerprint, other.provenance)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory) -> tuple[Path, Path]:
    """The corpus with labels normalised, and with raw ones."""
    folder = tmp_path_factory.mktemp("whole")
    succeeds(*command(source, folder / "normalised"))
    succeeds(*command(source, folder / "raw", "--raw-labels"))
    assert set(Corpus.read(folder / "raw").segments["label"]) == {"AH0", "T"}
    assert set(Corpus.read(folder / "normalised").segments["label"]) == {"ah", "t"}
    return folder / "normalised", folder / "raw"


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_step(forks, source, whole, tmp_path, point):
    """A new corpus is there or said to be unfinished, and the same command finishes it."""
    assert forks.run(command(source, tmp_path / "c"), kill_at=(point, 1)).killed
    try:
        assert Corpus.read(tmp_path / "c").fingerprint == Corpus.read(whole[0]).fingerprint
    except CorpusError as error:
        unfinished = f"{tmp_path / 'c'} is an unfinished corpus: run the command that makes it again"
        assert unfinished in str(error)  # noqa: PT017
        assert POINTS.index(point) < POINTS.index("corpus.json renamed")
    again = forks.run(command(source, tmp_path / "c"))
    assert again.code == 0, again.stderr
    assert_is(tmp_path / "c", whole[0])


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_while_it_is_replaced(forks, source, whole, tmp_path, point):
    """The old corpus or the new one, with its own provenance: never raw labels that are said to be normalised."""
    normalised, raw = whole
    out = shutil.copytree(normalised, tmp_path / "c")
    assert forks.run(command(source, out, "--raw-labels", "--overwrite"), kill_at=(point, 1)).killed
    is_new = POINTS.index(point) >= POINTS.index("corpus.json renamed")
    there, wanted = Corpus.read(out, in_full=True), Corpus.read(raw if is_new else normalised)
    assert (there.fingerprint, there.provenance) == (wanted.fingerprint, wanted.provenance)
    if not is_new:  # nobody asked to replace the old one
        unasked = forks.run(command(source, out))
        assert unasked.code == 1
        assert "holds a corpus already" in unasked.stderr
    assert forks.run(command(source, out, "--raw-labels", "--overwrite")).code == 0
    assert_is(out, raw)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("limit", [400, 1500, 3000])
def test_no_room(forks, source, whole, tmp_path, limit):
    out = tmp_path / "c"
    told = forks.run(command(source, out), file_limit=limit)
    assert told.code == 1
    assert len(told.stderr.splitlines()) == 1
    assert (
        "could not be written: the file-size limit is reached; free some room and run the same command" in told.stderr
    )
    assert "Traceback" not in told.stderr
    with pytest.raises(CorpusError, match="is an unfinished corpus"):
        Corpus.read(out)
    assert forks.run(command(source, out)).code == 0
    assert_is(out, whole[0])


def test_tables_of_another_corpus_are_refused(whole, tmp_path):
    normalised, raw = whole
    out = shutil.copytree(normalised, tmp_path / "c")
    shutil.copy(raw / "segments.parquet", out / "segments.parquet")
    said = refused("corpus", "info", out)
    assert f"{out} holds other utterances or segments than its corpus.json describes" in said
    assert f"delete {out / 'corpus.json'} to take the tables as they are" in said
    (out / "corpus.json").unlink()
    assert set(Corpus.read(out).segments["label"]) == {"AH0", "T"}


def test_a_fingerprint_that_was_changed(whole, tmp_path):
    """The tables are as they were: the record itself is of another corpus."""
    out = shutil.copytree(whole[0], tmp_path / "c")
    about = json.loads((out / "corpus.json").read_text())
    (out / "corpus.json").write_text(json.dumps(about | {"fingerprint": "0" * 32}))
    with pytest.raises(CorpusError, match="holds other utterances or segments"):
        Corpus.read(out)


def test_metadata_may_be_added_by_hand(whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "c")
    table = pd.read_parquet(out / "utterances.parquet")
    table.assign(speaker="s").to_parquet(out / "utterances.parquet")
    assert set(Corpus.read(out, in_full=True).utterances["speaker"]) == {"s"}
    assert "speaker" in succeeds("corpus", "info", out, "--check").stdout


def test_a_corpus_of_0_1_0(whole, tmp_path):
    """Its record has the fingerprint alone, and its ids have whatever form of Unicode they had."""
    out = shutil.copytree(whole[0], tmp_path / "c")
    about = json.loads((out / "corpus.json").read_text())
    del about["tables"]
    (out / "corpus.json").write_text(json.dumps(about))
    assert Corpus.read(out).fingerprint == about["fingerprint"]
    tables = {name: pd.read_parquet(out / f"{name}.parquet") for name in on_disk.TABLES}
    for name, table in tables.items():
        table["utterance"] = table["utterance"].replace("u0", "e\u0301")
        table.to_parquet(out / f"{name}.parquet")
    with pytest.raises(CorpusError, match="holds other utterances or segments"):
        Corpus.read(out)
    old = Corpus(**tables).fingerprint
    (out / "corpus.json").write_text(json.dumps(about | {"fingerprint": old}))
    read = Corpus.read(out)
    assert read.utterances["utterance"][0] == "\xe9"
    assert read.fingerprint != old


def test_a_corpus_is_not_made_of_what_it_replaces(whole, tmp_path):
    out = shutil.copytree(whole[0], tmp_path / "a")
    (tmp_path / "link").symlink_to(out)
    for spelled in (out, tmp_path / "link", tmp_path / "a" / ".." / "a"):
        said = refused("corpus", "join", out, whole[1], "-o", spelled, "--overwrite")
        assert f"the corpus {out} lies in {spelled}, which is to be written: choose another -o" in said
    assert_is(out, whole[0])


def test_two_processes_do_not_write_one_corpus(whole, tmp_path):
    import fcntl

    corpus = Corpus.read(whole[0])
    (tmp_path / "c").mkdir()
    with open(tmp_path / "c" / on_disk.LOCK, "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="is being written by another layertool process"):
            corpus.write(tmp_path / "c")
    corpus.write(tmp_path / "c")
    assert_is(tmp_path / "c", whole[0])


def test_a_new_corpus_leaves_the_audio_of_the_old_one_alone_until_it_is_there(tmp_path):
    out = tmp_path / "c"

    def fill(*names: str) -> Corpus:
        with on_disk.CorpusFolder(out) as folder:
            audio = folder.new_audio()
            paths = [small.sound(audio / f"{name}.wav", 4000) for name in names]
        return Corpus.build([{"utterance": path.stem, "audio": str(path)} for path in paths])

    fill("a", "b").write(out)
    assert sorted(path.name for path in out.iterdir()) == [
        "audio",
        "corpus.json",
        "segments.parquet",
        "utterances.parquet",
    ]
    new = fill("c")
    assert list(Corpus.read(out).utterances["utterance"]) == ["a", "b"]
    assert all(Path(audio).exists() for audio in Corpus.read(out).utterances["audio"])
    new.write(out)
    assert Corpus.read(out).utterances["audio"].tolist() == [str(out / "audio-2" / "c.wav")]
    assert not (out / "audio").exists()
    Corpus.read(out).write(out)  # as an alignment does: the audio is that of the corpus
    assert Path(Corpus.read(out).utterances["audio"][0]).exists()


def test_audio_of_a_stopped_command_is_written_again(tmp_path):
    out = tmp_path / "c"
    (out / "audio").mkdir(parents=True)
    (out / "audio" / "mine.wav").write_bytes(b"recorded by somebody")
    with suppress(KeyboardInterrupt), on_disk.CorpusFolder(out) as folder:
        small.sound(folder.new_audio() / "a.wav", 4000)
        raise KeyboardInterrupt
    with on_disk.CorpusFolder(out) as folder:
        audio = folder.new_audio()
    assert (audio.name, os.listdir(audio)) == ("audio-2", [])
    assert (out / "audio" / "mine.wav").read_bytes() == b"recorded by somebody"


@pytest.mark.parametrize("text", ["..", "../x", "/tmp", "audio/..", "audio-"])
def test_a_lock_names_no_folder_of_others(tmp_path, text):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("kept")
    out = tmp_path / "c"
    out.mkdir()
    (out / on_disk.LOCK).write_text(text)
    with on_disk.CorpusFolder(out) as folder:
        assert folder.new_audio() == out / "audio"
    assert (tmp_path / "x" / "mine").read_text() == "kept"
