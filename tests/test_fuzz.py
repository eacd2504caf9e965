"""Files of strangers, damaged at random: each ends in a sentence or is read, soon, in little memory, and touches nothing else.

Every case is made from a number, which the failure names: ``python tests/test_fuzz.py KIND NUMBER FOLDER`` does it again.
A batch of cases runs in a process of its own, whose address space may grow by LARGEST bytes and in which no file outside its
folder is written, no process started, no address connected to, and no code run that is not of an installed package.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import resource
import signal
import struct
import subprocess
import sys
import traceback
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import models
import numpy as np
import pytest
import small
import soundfile
import torch

import layertool
from layertool import audio, results
from layertool.analysis import embeddings
from layertool.analysis.lexical.lexicon import read_words
from layertool.corpora import label_files, textgrid
from layertool.corpora.align import read_dictionary
from layertool.corpora.table_files import read_table
from layertool.errors import LayertoolError
from layertool.extractors.load import open_extractor
from layertool.models.foreign import check_tensors, read_checkpoint
from layertool.store import FeatureStore, verify

LARGEST = 2**30  # bytes that a batch may take beyond what torch and transformers take
SECONDS = 10  # of one case; most take some milliseconds
NUMBERS = (
    -1,
    0,
    1,
    2**31 - 1,
    2**31,
    2**53,
    2**63 - 1,
    2**64,
    10**30,
    -(2**63),
    1e308,
    float("nan"),
    float("inf"),
    0.5,
)
WORDS = (
    None, True, False, "", "../../x", "/etc/passwd", "a\nb", "\x00", "\x1b[31m", "someone/kernel", "é", "x" * 5000, [], {}, [[]],
    [1, 2], {"a": 1}, "nan", "1e400", ",", '"', "!x",
)  # fmt: skip
PIECES = (
    b"\x00", b"\xff" * 8, b"\xff\xfe", b"PK\x03\x04", b"\n", b'"', b'""', b",", b"[" * 5000, b'{"a":' * 5000, b"cos\nsystem\n", b"R", b"\x85R",
    b"r\xff\xff\xff\xff", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"h\x00h\x00\x86", b"0", b"99999999999999999999", b"-1", b"NaN",
    b"RIFF", b"data", b"fLaC", b"\r", b"\t", b"1e999", b"\xc3\x28",
)  # fmt: skip


def damaged(content: bytes, dice: random.Random, within: int | None = None) -> bytes:
    """Some bytes changed, cut, doubled, moved or put between, all in the first ``within``."""
    out = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        end = min(len(out), within or len(out))
        at, n = dice.randrange(end + 1), dice.choice((1, 2, 4, 8, 64))
        kind = dice.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del out[at : dice.choice((at + n, len(out)))]
        elif kind == 2:
            out[at:at] = dice.choice(PIECES)
        elif kind == 3:
            out[at : at + n] = dice.randbytes(n)
        elif kind == 4:
            out[at:at] = out[at : at + n] * dice.choice((1, 3, 100))
        else:
            out[at : at + n] = dice.choice((b"\xff" * n, b"\x00" * n, b"\x7f" * n))
    return bytes(out)


def other_json(content: bytes, dice: random.Random) -> bytes:
    """JSON with values of other types and sizes, fields taken away, doubled or put elsewhere; or damaged bytes."""
    if dice.random() < 0.2:
        return damaged(content, dice)
    said = json.loads(content)
    for _ in range(dice.choice((1, 1, 2, 4))):
        place = said
        while isinstance(place, (dict, list)) and place:
            keys = sorted(place) if isinstance(place, dict) else range(len(place))
            telling = [
                key
                for key in keys
                if dice.random() < 0.5 and re.search("num|size|layers|type|shape|offsets|count|n_", str(key))
            ]
            key = dice.choice(telling or keys)
            if isinstance(place[key], (dict, list)) and place[key] and dice.random() < 0.6:
                place = place[key]
                continue
            new = dice.choice((*NUMBERS, *WORDS))
            if dice.random() < 0.3 and isinstance(place[key], int):
                new = place[key] * dice.choice((-1, 2, 10**6, 10**12))
            if dice.random() < 0.2 and isinstance(place, dict):
                del place[key]
            else:
                place[key] = new
            break
    return json.dumps(said).encode()


def program(dice: random.Random) -> bytes:
    """A pickle of opcodes that fit together more or less: calls of names with absurd arguments, loops, storages, tensors."""

    def number() -> bytes:
        n = dice.choice((0, 1, 3, 12, 2**31 - 1, -1, 10**13, 2**63, 10**30))
        raw = n.to_bytes(16, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def value(depth: int) -> bytes:
        kind = dice.randrange(12) if depth < 4 else dice.randrange(5)
        if kind < 5:
            text = dice.choice((b"", b"latin1", b"cpu", b"0", b"storage", b"x" * 300))
            return dice.choice(
                (number(), b"N", b"\x88", b"]", b"}", b")", b"\x8c" + bytes([len(text) % 256]) + text[:255])
            )
        if kind == 5:
            return (
                b"("
                + b"".join(value(depth + 1) for _ in range(dice.randrange(5)))
                + dice.choice((b"t", b"l", b"d", b"\x91"))
            )
        if kind == 6:
            return (
                value(depth + 1)
                + b"q\x01"
                + b"h\x01h\x01\x86" * dice.choice((1, 3, 60))
                + dice.choice((b"0", b"1", b"2", b""))
            )
        if kind == 7:
            return b"]q\x02" + b"(" + value(depth + 1) + b"h\x02e"
        if kind == 8:
            return b"}(" + value(depth + 1) + value(depth + 1) + b"u"
        if kind == 9:
            row = (
                b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
                + dice.choice((b"0", b"1", b"9"))
                + b"X\x03\0\0\0cpu"
            )
            sizes = b"(" + number() + number() + b"t"
            tensor = row + number() + b"tQ" + number() + sizes + sizes + b"\x89N"
            return b"ctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tR"
        name = dice.choice((
            b"__builtin__ bytes", b"__builtin__ bytearray", b"__builtin__ set", b"__builtin__ list", b"builtins str", b"builtins getattr",
            b"collections OrderedDict", b"collections defaultdict", b"argparse Namespace", b"numpy dtype", b"torch Size",
            b"numpy.core.multiarray scalar", b"numpy.core.multiarray _reconstruct", b"_codecs encode", b"os system", b"torch Tensor",
            b"torch._utils _rebuild_parameter", b"torch._tensor _rebuild_from_type_v2", b"fairseq.x Y", b"copyreg _reconstructor",
        ))  # fmt: skip
        call = dice.choice((b"R", b"\x81", b"R" + value(depth + 1) + b"b"))
        return (
            b"c"
            + name.replace(b" ", b"\n")
            + b"\n("
            + b"".join(value(depth + 1) for _ in range(dice.randrange(4)))
            + b"t"
            + call
        )

    return (
        b"\x80\x02}("
        + b"".join(b"X\x01\0\0\0" + bytes([97 + k]) + value(0) for k in range(dice.randrange(1, 5)))
        + b"u."
    )


# --- kinds: what makes a valid folder, and what damages and opens it ------------------------------------


def checkpoint(folder: Path) -> None:
    value = {
        "model": {"w": torch.arange(12.0).reshape(3, 4), "b": torch.ones(3, dtype=torch.float16)},
        "args": Namespace(lr=0.1, layers=[1, 2], name="x"),
        "cfg": {"optimizer": {"betas": (0.9, 0.98)}},
        "step": np.int64(7),
        "state": np.random.RandomState(0).get_state(),
    }
    torch.save(value, folder / "zip.pt")
    torch.save(value, folder / "row.pt", _use_new_zipfile_serialization=False)


def open_pickle(folder: Path, dice: random.Random) -> None:
    which, path = dice.choice(("zip", "pickle", "row", "program")), folder / "x.pt"
    source = (folder / f"{'row' if which == 'row' else 'zip'}.pt").read_bytes()
    if which in ("pickle", "program"):  # the archive is whole
        with zipfile.ZipFile(io.BytesIO(source)) as archive, zipfile.ZipFile(path, "w") as out:
            for name in archive.namelist():
                content = archive.read(name)
                if name.endswith("data.pkl"):
                    content = program(dice) if which == "program" else damaged(content, dice)
                out.writestr(name, content)
    else:
        path.write_bytes(damaged(source, dice, 3000 if which == "row" else None))
    found = read_checkpoint(path)
    for state in (found.get("model"), found):
        if isinstance(state, dict):
            check_tensors(state, path)
            sum(value.float().sum() for value in state.values())


def network(folder: Path) -> None:
    models.save("wav2vec2-base", folder / "m")


def open_network(folder: Path) -> None:
    extractor = open_extractor(str(folder / "m"), device="cpu")
    extractor.restrict([name for name in extractor.layers if not name.startswith("D")])


def open_settings(folder: Path, dice: random.Random) -> None:
    name = dice.choice(("config.json", "config.json", "config.json", "preprocessor_config.json"))
    with restored(folder / "m" / name) as file:
        file.write_bytes(other_json(file.read_bytes(), dice))
        open_network(folder)


def open_untrained(folder: Path, dice: random.Random) -> None:
    with restored(folder / "m/config.json") as file:
        file.write_bytes(other_json(file.read_bytes(), dice))
        open_extractor(str(folder / "m"), device="cpu", random_init=0)


def open_weights(folder: Path, dice: random.Random) -> None:
    with restored(folder / "m/model.safetensors") as file:
        content = file.read_bytes()
        (n,) = struct.unpack("<Q", content[:8])
        if dice.random() < 0.7:
            header = other_json(content[8 : 8 + n], dice)
            content = struct.pack("<Q", dice.choice((len(header),) * 6 + (2**60, 2**63, 0))) + header + content[8 + n :]
        else:
            content = damaged(content, dice, n + 100)
        file.write_bytes(content)
        open_network(folder)


def store(folder: Path) -> None:
    corpus = small.corpus(folder / "c", n_utterances=2)
    layertool.extract("mfcc", corpus, folder / "s", ("phone", "utterance"), shard_seconds=0.1)


def open_store(folder: Path, dice: random.Random) -> None:
    names = sorted(path.relative_to(folder / "s") for path in (folder / "s").glob("*.json*"))
    with restored(folder / "s" / dice.choice(names)) as file:
        content = file.read_bytes()
        lines = content.splitlines(keepends=True)
        if file.suffix == ".jsonl" and dice.random() < 0.8:
            k = dice.randrange(len(lines))
            lines[k] = other_json(lines[k], dice) + b"\n"
            file.write_bytes(b"".join(dice.choice((lines, lines[::-1], lines * 2))))
        else:
            file.write_bytes(other_json(content, dice) if file.suffix == ".json" else damaged(content, dice))
        opened = FeatureStore(folder / "s")
        verify(opened)
        for unit in opened.units:
            for layer in opened.layers_of(unit):
                opened.read(unit, layer)
            opened.rows(unit)


GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.5
tiers? <exists>
size = 1
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2.5
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "a ""b"" é"
        intervals [2]:
            xmin = 1
            xmax = 2.5
            text = ""
"""
TEXTS = {
    "x.TextGrid": GRID,
    "x.csv": 'utterance,age,note\nu1,27,"a, b"\nu2,,c\nu3,1.5,é\n',
    "x.tsv": "utterance\tx\nu1\t1\nu2\t-3\n",
    "x.ctm": "u1 1 0.00 0.50 the 0.9\nu1 1 0.50 0.25 cat\n",
    "x.lab": "0 1000000 a\n1000000 2000000 b\n",
    "results.csv": "analysis,value\ncca,0.5\n",
    "results.json": '[{"analysis": "cca", "value": 0.5}]',
    "x.vec": "2 2\nthe 0.5 1\ncat 1 -2e3\n",
    "attributes.txt": 'the\t{"noun": 0.5}\ncat\t{"verb": 1}\n',
    "words.txt": "the\ncat\n",
    "dictionary.txt": "the DH AH0\ncat K AE1 T\n",
}


def open_text(folder: Path, dice: random.Random) -> None:
    name = dice.choice(sorted(TEXTS))
    file = folder / name
    text = TEXTS[name].encode(dice.choice(("utf-8", "utf-16", "latin-1")), errors="replace")
    file.write_bytes(damaged(text, dice))
    if name == "x.TextGrid":
        textgrid.voices(file)
    elif name == "x.ctm":
        label_files.of_many(file)
    elif name == "x.lab":
        label_files.voices({"word": file}, file.with_suffix(".wav"))
    elif file.stem == "results":
        results.read([file])
    elif name in ("x.vec", "attributes.txt"):
        embeddings.read(file, ["the", "cat"])
    elif name == "words.txt":
        read_words(file)
    elif name == "dictionary.txt":
        read_dictionary(file)
    else:
        read_table(file)


def sounds(folder: Path) -> None:
    samples = small.noise(2000)
    for name, options in (("a.wav", {}), ("f.wav", {"subtype": "FLOAT"}), ("b.flac", {}), ("c.ogg", {}), ("d.mp3", {})):
        soundfile.write(folder / name, samples, 16000, **options)


def open_sound(folder: Path, dice: random.Random) -> None:
    source = dice.choice(sorted(path for path in folder.iterdir() if path.stem in "afbcd"))
    file = folder / f"x{source.suffix}"
    file.write_bytes(damaged(source.read_bytes(), dice, 200))
    audio.probe(file)
    audio.read(file, 16_000)


KINDS = {  # name: (what is made first, one case, cases of a short run, of a long one)
    "pickle": (checkpoint, open_pickle, 150, 2000),
    "settings": (network, open_settings, 40, 600),
    "untrained": (network, open_untrained, 20, 300),
    "weights": (network, open_weights, 30, 500),
    "store": (store, open_store, 40, 600),
    "text": (lambda folder: None, open_text, 150, 2000),
    "audio": (sounds, open_sound, 100, 1000),
}


class restored:
    """A file that is as it was when the block is left."""

    def __init__(self, path: Path):
        self.path, self.content = path, path.read_bytes()

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_) -> None:
        self.path.write_bytes(self.content)


# --- the process that runs them -------------------------------------------------------------------------


def guard(folder: Path, broken: list[str]) -> None:
    """Write into ``broken`` what a reader of data has no business with."""
    own = (str(folder), "/dev/null", "/tmp/torchinductor", "/proc/self")
    installed = tuple(
        {sys.prefix, sys.base_prefix, str(Path(layertool.__file__).parent), str(Path(__file__).parent), "<frozen"}
    )

    def hook(event: str, arguments: tuple) -> None:
        if event == "subprocess.Popen" and arguments[0] == sys.executable and "problems_of_view" in arguments[1][2]:
            return  # verify has a view that HDF5 may crash on read by another process of ours
        if event in (
            "os.system",
            "os.exec",
            "os.posix_spawn",
            "subprocess.Popen",
            "socket.connect",
            "socket.getaddrinfo",
            "os.fork",
        ):
            broken.append(f"{event} {arguments}")
        elif event == "exec" and not getattr(arguments[0], "co_filename", "").startswith(installed):
            if sys._getframe(1).f_globals.get("__name__") not in (
                "collections",
                "dataclasses",
            ):  # they write classes so
                broken.append(f"exec of {getattr(arguments[0], 'co_filename', arguments[0])}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)) and isinstance(arguments[2], int):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if arguments[2] & (os.O_WRONLY | os.O_RDWR) and not path.startswith(own):
                broken.append(f"written to {path}")

    sys.addaudithook(hook)


def run(kind: str, numbers: range, folder: Path, say) -> None:
    """Do the cases; ``say`` what is wrong with one."""
    make, case, *_ = KINDS[kind]
    make(folder)
    warnings.simplefilter("ignore")
    if kind in ("settings", "weights", "untrained"):
        open_network(folder)  # what is imported and compiled once
        open_extractor(str(folder / "m"), device="cpu", random_init=0)
    for number in range(-3, 0):
        case_quietly(case, folder, number)
    size = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + LARGEST, -1))
    broken: list[str] = []
    guard(folder, broken)
    signal.signal(signal.SIGALRM, lambda *_: say("it hangs") or os._exit(3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        signal.alarm(SECONDS)
        if wrong := case_quietly(case, folder, number):
            say(f"case {number}: {wrong}")
        signal.alarm(0)
        if broken:
            say(f"case {number}: {broken[:3]}")
            broken.clear()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
    if grown > LARGEST // 2:
        say(f"memory has grown by {grown} bytes")


def case_quietly(case, folder: Path, number: int) -> str | None:
    try:
        case(folder, random.Random(number))
    except LayertoolError as error:
        text = str(error)
        if "Traceback" in text or len(text) > 12_000 or isinstance(error.__cause__, MemoryError):
            return f"no sentence, or too little memory: {text[:500]}"
    except BaseException:
        return traceback.format_exc(limit=-6)
    return None


def run_apart(kind: str, numbers: range, folder: Path) -> str:
    """What is wrong with the cases, in a process of their own: one that is forked from threads may abort."""
    out, work = folder / "wrong.txt", folder / "work"
    out.touch()
    work.mkdir()
    command = [sys.executable, "-B", __file__, kind, str(numbers.start), str(numbers.stop), str(out), str(work)]
    # what Arrow and threads reserve without using it counts as address space, which is bounded here
    frugal = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    with open(folder / "noise.txt", "w") as noise:
        status = subprocess.run(command, stderr=noise, env=frugal).returncode
    return out.read_text() + (f"the process ended with {status}" if status else "")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_end_in_a_sentence(kind, tmp_path):
    assert run_apart(kind, range(KINDS[kind][2]), tmp_path) == ""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files_end_in_a_sentence(kind, tmp_path):
    assert run_apart(kind, range(1000, 1000 + KINDS[kind][3]), tmp_path) == ""


if __name__ == "__main__" and len(sys.argv) < 6:
    make, case, *_ = KINDS[sys.argv[1]]
    there = Path(sys.argv[3])
    there.mkdir(exist_ok=True)
    make(there)
    print(case_quietly(case, there, int(sys.argv[2])))


if __name__ == "__main__" and len(sys.argv) == 6:  # as ``run_apart`` asks
    kind_of, first, last, wrong, place = sys.argv[1:]
    with open(wrong, "a") as file:
        run(
            kind_of,
            range(int(first), int(last)),
            Path(place),
            lambda text: print(f"{kind_of}, {text}", file=file, flush=True),
        )
