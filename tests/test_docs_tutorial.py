"""The tutorial and the README run: every command and every block of Python, in their order, in one empty folder."""

import re
import shlex
from pathlib import Path

import pytest
from commands import run as layertool

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```", re.DOTALL)


def steps(text: str) -> list[tuple[str, str]]:
    """(language, code) of what a reader would run, in order: a command, or a block of Python."""
    found = []
    for language, code in BLOCK.findall(text):
        if language == "python":
            found.append((language, code))
        else:
            found += [(language, line) for line in code.splitlines() if line.strip()]
    return found


def test_the_tutorial_shows_more_than_commands():
    languages = [language for language, _ in steps((DOCS / "tutorial.md").read_text(encoding="utf-8"))]
    assert languages.count("bash") >= 15
    assert languages.count("python") >= 3


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_tutorial_runs(tmp_path, monkeypatch):
    for package in ("espeakng_loader", "pocketsphinx", "plotly"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    for language, code in steps((DOCS / "tutorial.md").read_text(encoding="utf-8")):
        if language == "python":
            exec(code, {"__name__": "tutorial"})
            continue
        words = shlex.split(code)
        assert words[0] == "layertool", code
        done = layertool(*words[1:])
        assert done.exit_code == 0, f"{code}\n{done.output}"
    for made in ("phones.png", "layers.png", "both.png", "report.html", "mine-melhubert/store.json"):
        assert (tmp_path / made).stat().st_size > 0


WORDS = ("wonder", "garden", "yellow", "thunder", "window", "river")
PHONES = ("W", "AH1", "N", "D", "ER0", "IY1", "G", "AA1")
WORD_SAMPLES, N_WORDS = 8800, 5  # 0.55 s: what word discrimination takes
STIMULUS = {
    "Length": "1600", "Masker": "SSN", "Onset": "77", "SNR": "-4.25", "Speaker": "s1", "Target": "hat", "Raw": "the|tea|he|the",
    "Responses": "the|tea|he", "N-Listeners": "4", "Counts": "2 1 1", "Confusion": "the", "Consistency": "2",
    "Target-frequency": "4.97", "Confusion-frequency": "6.1", "Phoneme-distance": "10",
}  # fmt: skip


def librispeech(folder: Path, alignments: Path) -> None:
    """A corpus in LibriSpeech's layout, with alignments: four speakers, six utterances of five words each."""
    import small

    lines = []
    for k, speaker in enumerate((84, 174, 251, 422)):
        lines.append(f"{speaker} | {'FM'[k % 2]} | dev-clean | 8.00 | Somebody")
        chapter = folder / "dev-clean" / str(speaker) / "1"
        chapter.mkdir(parents=True)
        texts = []
        for n in range(6):
            name = f"{speaker}-1-{n:04}"
            said = [WORDS[(n + i + k) % len(WORDS)] for i in range(N_WORDS)]
            texts.append(f"{name} {' '.join(said).upper()}")
            small.sound(chapter / f"{name}.flac", N_WORDS * WORD_SAMPLES, seed=10 * k + n, format="FLAC")
            grid = alignments / "dev-clean" / str(speaker) / "1" / f"{name}.TextGrid"
            grid.parent.mkdir(parents=True, exist_ok=True)
            grid.write_text(text_grid(said, n + k))
        (chapter / f"{speaker}-1.trans.txt").write_text("\n".join(texts) + "\n")
    (folder / "SPEAKERS.TXT").write_text("\n".join(lines) + "\n")


def text_grid(said: list[str], first: int) -> str:
    """A TextGrid in the short format: words, and four phones in each."""
    end = N_WORDS * WORD_SAMPLES / 16_000
    phones = [PHONES[(first + i) % len(PHONES)] for i in range(4 * len(said))]
    tiers = ""
    for name, labels in (("words", said), ("phones", phones)):
        step = end / len(labels)
        marks = "".join(f'{i * step:.4f}\n{(i + 1) * step:.4f}\n"{label}"\n' for i, label in enumerate(labels))
        tiers += f'"IntervalTier"\n"{name}"\n0\n{end}\n{len(labels)}\n{marks}'
    return f'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n{end}\n<exists>\n2\n{tiers}'


def confusions(folder: Path) -> None:
    """Six stimuli in the layout of the English Consistent Confusion Corpus."""
    import csv

    import numpy as np
    import small
    import soundfile

    (folder / "confusionWavs").mkdir(parents=True)
    with open(folder / "confusionCorpus_v1.2.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["ID", *STIMULUS])
        writer.writeheader()
        for number in range(1, 7):
            writer.writerow({"ID": str(number), **STIMULUS, "Masker": ("SSN", "BAB4")[number % 2]})
            sound = np.stack([small.noise(8_000, seed=k + number) for k in range(2)], axis=1)
            soundfile.write(folder / "confusionWavs" / f"T_{number}.wav", sound, 16_000)


def rate_valence(corpus: Path) -> None:
    """The column that the question of bias asks for, of utterances that are in no group of speakers."""
    import pandas as pd

    table = pd.read_parquet(corpus / "utterances.parquet")
    rated = [k % 3 == 0 for k in range(len(table))]
    table["valence"] = [("positive", "negative")[k // 3 % 2] if yes else None for k, yes in enumerate(rated)]
    table.loc[rated, "gender"] = None
    table.to_parquet(corpus / "utterances.parquet")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_readmes_session_runs(tmp_path, monkeypatch):
    """Word by word, on small stand-ins: folders that are called like the models, corpora of their published layouts."""
    import models

    pytest.importorskip("plotly")
    monkeypatch.chdir(tmp_path)
    models.save("wav2vec2-base", tmp_path / "facebook" / "wav2vec2-base")
    models.whisper(tmp_path / "openai" / "whisper-small", tokenizer="english")
    librispeech(tmp_path / "LibriSpeech", tmp_path / "librispeech_alignments")
    confusions(tmp_path / "EnglishCCC_v1.2")
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    session = text.split("## A first real session\n")[1].split("\n## ")[0]
    lines = [line.strip() for line in session.splitlines() if line.startswith("    layertool ")]
    assert len(lines) >= 15
    for line in lines:
        done = layertool(*shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        if line.startswith("layertool corpus librispeech"):
            rate_valence(tmp_path / "dev")
    found: dict = {}
    for block in re.findall(r"```python\n(.*?)```", session, re.DOTALL):
        exec(block.replace('"T7"', '"T3"'), found)  # the stand-in has three blocks
    assert len(found["x"]) == len(found["rows"]) == 4 * 6 * N_WORDS
    assert {"label", "speaker", "gender"} <= set(found["rows"])
    examples_from_python(tmp_path)


def examples_from_python(folder: Path) -> None:
    """The Python on the pages of the store, of the analyses and of extraction, where the README's session has been."""
    import numpy as np

    def first_block(page: str) -> str:
        return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)[0]

    plain: dict = {}
    exec(first_block("store.md").replace("T7", "T3"), plain)
    assert len(plain["words"]) == len(plain["x"]) == len(plain["seconds"]) == len(plain["spoken_in"])
    assert set(plain["words"]) == set(WORDS)
    random = np.random.default_rng(0)
    views = {name: random.standard_normal((200, 5)) for name in ("x", "y", "x2", "y2")}
    exec(first_block("analyses.md"), views)
    assert set(views["r"].rows["analysis"]) == {"cca"}
    (folder / "mel").rename(folder / "mel of the README")  # another configuration than the next one's
    (folder / "dev").rename(folder / "corpus")
    made: dict = {}
    exec(first_block("extract.md"), made)
    assert made["store"].units == ["phone", "word"]
