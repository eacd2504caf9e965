"""Stores that are not what was written: every command ends in one sentence, soon, and takes no byte from elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import small
from commands import run, succeeds

import layertool
from layertool.errors import StoreError
from layertool.store import FeatureStore, layout, verify
from layertool.store.concluding import merge

SECRET = b"the bytes of somebody else, which nobody may read or remove "
SECONDS = 20  # of any command; a pipe that is waited for, or a loop of 10**9, takes longer
INFO, VERIFY, EXPORT, ANALYSIS = "info", "verify", "export", "mi"
ALL = frozenset({INFO, VERIFY, EXPORT, ANALYSIS})
READING = ALL - {INFO}  # info reads no shard


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A sound store of three shards, and what is beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    corpus = small.corpus(folder / "corpus", 6)
    for name, pooling in (("store", {}), ("other", {"phone": "mean"})):
        layertool.extract(
            "mel", corpus, folder / name, ("frame", "phone", "utterance"), shard_seconds=1.3, pooling=pooling
        )
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A copy, to be damaged, and a file outside of it."""
    shutil.copytree(made / "store", tmp_path / "store")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET * 2000)
    return tmp_path


# what can be done to a store: each takes its folder


def described(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """With another store.json."""

    def damage(store: Path) -> None:
        about = json.loads((store / "store.json").read_text())
        change(about)
        (store / "store.json").write_text(json.dumps(about))

    return damage


def indexed(change: Callable[[dict], object], shard: int = 1) -> Callable[[Path], None]:
    """With another line of the index."""

    def damage(store: Path) -> None:
        lines = [json.loads(line) for line in (store / "index.jsonl").read_text().splitlines()]
        change(lines[shard])
        (store / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return damage


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda store: (store / name).write_bytes(content)  # type: ignore[return-value]


def without(name: str) -> Callable[[Path], None]:
    return lambda store: (store / name).unlink()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def linked(name: str) -> Callable[[Path], None]:
    """Moved out of the store, with a link in its place: all bytes are right, and none its own."""

    def damage(store: Path) -> None:
        (store / name).rename(store.parent / "outside" / Path(name).name)
        (store / name).symlink_to(store.parent / "outside" / Path(name).name)

    return damage


def linked_to(name: str, target: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        (store / name).unlink()
        (store / name).symlink_to(target)

    return damage


def piped(name: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        _remove(store / name)
        os.mkfifo(store / name)

    return damage


def a_socket(name: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        (store / name).unlink()
        here = os.getcwd()
        os.chdir(store)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
        os.chdir(here)

    return damage


def a_folder(name: str) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        _remove(store / name)
        (store / name).mkdir()

    return damage


def sparse(name: str) -> Callable[[Path], None]:
    """A terabyte of zeros, which takes no room."""
    return lambda store: os.truncate(store / name, 2**40)


def shard(change: Callable[[h5py.File], object], **line) -> Callable[[Path], None]:
    """With another shard 1, of which the index has the right size, checksums and rows, as of a wrong program."""

    def damage(store: Path) -> None:
        path = store / "shards" / "00001.h5"
        here = os.getcwd()
        os.chdir(store.parent / "outside")
        with h5py.File(path, "a") as file:
            change(file)
        os.chdir(here)
        rows = line.pop("rows", {})
        sums = {}
        with h5py.File(path, "r") as file:
            for name in ("frame/rows", "frame/mel", "phone/rows", "phone/mel"):
                try:
                    if file[name].size < 10**6:
                        sums[name] = layout.checksum(file[name])
                except (KeyError, OSError, TypeError, ValueError, AttributeError):
                    continue
        indexed(
            lambda e: e.update(size=path.stat().st_size, rows=e["rows"] | rows, checksums=e["checksums"] | sums, **line)
        )(store)

    return damage


def anew(name: str, make: Callable[[h5py.File, str, np.ndarray], object]) -> Callable[[h5py.File], None]:
    """One dataset made in another way."""

    def change(file: h5py.File) -> None:
        values, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        make(file, name, values)
        if isinstance(file.get(name, getlink=True), h5py.HardLink):
            file[name].attrs.update(attributes)

    return change


def external(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.create_dataset(name, values.shape, values.dtype, external=[(str(Path("secret").resolve()), 0, values.nbytes)])


def elsewhere(name: str, values: np.ndarray) -> str:
    with h5py.File("other.h5", "a") as other:
        other[name] = values
    return str(Path("other.h5").resolve())


def external_link(file: h5py.File, name: str, values: np.ndarray) -> None:
    file[name] = h5py.ExternalLink(elsewhere(name, values), name)


def link_to_a_pipe(file: h5py.File, name: str, values: np.ndarray) -> None:
    file[name] = h5py.ExternalLink(str(Path("pipe").resolve()), name)


def and_the_pipe(damage: Callable[[Path], None]) -> Callable[[Path], object]:
    """Made last: whatever follows the link waits for ever."""
    return lambda store: (damage(store), os.mkfifo(store.parent / "outside" / "pipe"))


def soft_link(file: h5py.File, name: str, values: np.ndarray) -> None:
    file["hidden"] = values
    file[name] = h5py.SoftLink("/hidden")


def virtual(file: h5py.File, name: str, values: np.ndarray) -> None:
    source = h5py.VirtualSource(elsewhere(name, values), name, values.shape)
    form = h5py.VirtualLayout(values.shape, values.dtype)
    form[:] = source
    file.create_virtual_dataset(name, form)


def linked_group(file: h5py.File) -> None:
    for name in file["phone"]:
        there = elsewhere(f"phone/{name}", file["phone"][name][:])
    del file["phone"]
    file["phone"] = h5py.ExternalLink(there, "phone")


def bomb(file: h5py.File, name: str, values: np.ndarray) -> None:
    """10**12 rows of nothing."""
    file.create_dataset(name, (10**12, values.shape[1]), values.dtype, chunks=(1, values.shape[1]), compression="gzip")


def many(file: h5py.File, name: str, _: np.ndarray) -> None:
    file.create_dataset(name, (10**9,), h5py.string_dtype(), chunks=(1,))


def never_written(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.create_dataset(name, values.shape, values.dtype, fillvalue=0.5)


def compressed(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.create_dataset(name, data=values, chunks=True, compression="gzip")


def as_type(dtype) -> Callable[[h5py.File, str, np.ndarray], object]:
    return lambda file, name, values: file.create_dataset(name, data=values.astype(dtype))


def texts(file: h5py.File, name: str, values: np.ndarray) -> None:
    file.create_dataset(name, data=values.astype(str).astype(object), dtype=h5py.string_dtype())


def ragged(file: h5py.File, name: str, values: np.ndarray) -> None:
    dataset = file.create_dataset(name, values.shape, h5py.vlen_dtype(np.float32))
    dataset[0, 0] = [1.0, 2.0]


def in_rows(field: str, value: int) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        rows = file["phone/rows"][:]
        rows[field][-1] = value
        file["phone/rows"][:] = rows

    return change


def viewed(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        os.chdir(store.parent / "outside")
        with h5py.File(store / "store.h5", "a") as file:
            change(file)

    return damage


def table(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(store: Path) -> None:
        change(pd.read_parquet(store / "utterances.parquet")).to_parquet(store / "utterances.parquet")

    return damage


def swapped(store: Path) -> None:
    """Two shards in each other's place."""
    a, b, c = (store / "shards" / name for name in ("00000.h5", "00001.h5", "x"))
    a.rename(c)
    b.rename(a)
    c.rename(b)


DEEP = b"[" * 100_000 + b"]" * 100_000
DEEP_LINE = b'{"shard": ' + b'{"a": ' * 100_000 + b"1" + b"}" * 100_000 + b"}\n"

VARIANTS: dict[str, tuple[Callable[[Path], object], frozenset[str]]] = {
    # store.json
    "description: no JSON": (written("store.json", b"{"), ALL),
    "description: a list": (written("store.json", b"[1, 2]"), ALL),
    "description: null": (written("store.json", b"null"), ALL),
    "description: not UTF-8": (written("store.json", b'{"schema": "\xff"}'), ALL),
    "description: deep": (written("store.json", DEEP), ALL),
    "description: deep but read": (
        described(lambda a: a["configuration"].update(x=json.loads("[" * 300 + "]" * 300))),
        ALL,
    ),
    "description: a terabyte": (sparse("store.json"), ALL),
    "description: a pipe": (piped("store.json"), ALL),
    "description: a socket": (a_socket("store.json"), ALL),
    "description: a device": (linked_to("store.json", "/dev/zero"), ALL),
    "description: a link": (linked("store.json"), ALL),
    "description: schema true": (described(lambda a: a.update(schema=True)), ALL),
    "n_shards 10**9": (described(lambda a: a.update(n_shards=10**9)), ALL),
    "n_shards and utterances 10**9": (
        described(lambda a: (a.update(n_shards=10**9), a["corpus"].update(n_utterances=10**9))),
        READING,
    ),
    "n_shards 10**30": (described(lambda a: a.update(n_shards=10**30)), ALL),
    "n_shards -1": (described(lambda a: a.update(n_shards=-1)), ALL),
    "n_shards a text": (described(lambda a: a.update(n_shards="3")), ALL),
    "n_shards true": (described(lambda a: a.update(n_shards=True)), ALL),
    "n_shards missing": (described(lambda a: a.pop("n_shards")), ALL),
    "layers a list": (described(lambda a: a.update(layers=["mel"])), ALL),
    "layers not described": (described(lambda a: a["layers"].clear()), ALL),
    "a layer more at a unit": (described(lambda a: a["units"]["phone"]["layers"].append("T7")), ALL),
    "a layer that leads out": (
        described(
            lambda a: (
                a["layers"].update({"../../x": {"width": 80}}),
                [u.update(layers=["../../x"], rows={"../../x": "rows"}) for u in a["units"].values()],
            )
        ),
        ALL,
    ),
    "rows of a layer missing": (described(lambda a: a["units"]["phone"]["rows"].clear()), ALL),
    "rows in another table": (described(lambda a: a["units"]["phone"]["rows"].update(mel="../rows")), ALL),
    "an unknown unit": (described(lambda a: a["units"].update(syllable=a["units"]["phone"])), ALL),
    "units null": (described(lambda a: a.update(units=None)), ALL),
    "width 0": (described(lambda a: a["layers"]["mel"].update(width=0)), ALL),
    "width 10**12": (described(lambda a: a["layers"]["mel"].update(width=10**12)), ALL),
    "width NaN": (described(lambda a: a["layers"]["mel"].update(width=float("nan"))), ALL),
    "width another": (described(lambda a: a["layers"]["mel"].update(width=40)), READING),
    "geometry of other fields": (described(lambda a: a["layers"]["mel"]["geometry"].update(evil=1)), ALL),
    "hop 0": (described(lambda a: a["layers"]["mel"]["geometry"].update(hop=0)), ALL),
    "dtype object": (described(lambda a: a["configuration"].update(store_dtype="object")), ALL),
    "dtype another": (described(lambda a: a["configuration"].update(store_dtype="float16")), READING),
    "configuration a list": (described(lambda a: a.update(configuration=[])), ALL),
    "model a text": (described(lambda a: a["configuration"].update(model="mel")), ALL),
    "pooling a list": (described(lambda a: a["configuration"]["units"].update(phone=["mean"])), ALL),
    "half a surrogate": (described(lambda a: a["corpus"].update(name="\ud800")), ALL),
    "sample rate 0": (described(lambda a: a["audio"].update(sample_rate=0)), ALL),
    "sample rate a text": (described(lambda a: a["audio"].update(sample_rate="16000")), ALL),
    "versions a list": (described(lambda a: a.update(versions=["1"])), ALL),
    "seconds a text": (described(lambda a: a["corpus"].update(seconds="3")), ALL),
    # index.jsonl
    "index: garbage": (written("index.jsonl", b"\0" * 100 + b"\n"), ALL),
    "index: not UTF-8": (written("index.jsonl", b'{"shard": "\xff"}\n'), ALL),
    "index: a list": (written("index.jsonl", b"[]\n"), ALL),
    "index: deep": (written("index.jsonl", DEEP_LINE), ALL),
    "index: a terabyte": (sparse("index.jsonl"), ALL),
    "index: a pipe": (piped("index.jsonl"), ALL),
    "index: a folder": (a_folder("index.jsonl"), ALL),
    "index: a link": (linked("index.jsonl"), ALL),
    "index: a part that is a pipe": (
        lambda store: ((store / "parts").mkdir(), os.mkfifo(store / "parts" / "00000-of-00001.jsonl")),
        ALL,
    ),
    "file: a path outside": (indexed(lambda e: e.update(file="../outside/secret")), ALL),
    "file: an absolute path": (indexed(lambda e: e.update(file="/etc/passwd")), ALL),
    "file: another shard": (indexed(lambda e: e.update(file="shards/00000.h5")), ALL),
    "file: a number": (indexed(lambda e: e.update(file=1)), ALL),
    "shard 10**9": (indexed(lambda e: e.update(shard=10**9, file="shards/1000000000.h5")), ALL),
    "shard -1": (indexed(lambda e: e.update(shard=-1, file="shards/-0001.h5")), ALL),
    "shard true": (indexed(lambda e: e.update(shard=True)), ALL),
    "shard twice": (indexed(lambda e: e.update(shard=0, file="shards/00000.h5")), ALL),
    "utterances overlap": (indexed(lambda e: e.update(utterances=[1, 4])), ALL),
    "utterances are left out": (indexed(lambda e: e.update(utterances=[3, 4])), ALL),
    "utterances that are not": (indexed(lambda e: e.update(utterances=[4, 600]), 2), ALL),
    "utterances a text": (indexed(lambda e: e.update(utterances="ab")), ALL),
    "rows a list": (indexed(lambda e: e.update(rows=[1])), ALL),
    "rows of a table missing": (indexed(lambda e: e["rows"].pop("phone/rows")), ALL),
    "rows negative": (indexed(lambda e: e["rows"].update({"phone/rows": -1})), ALL),
    "rows 10**12": (indexed(lambda e: e["rows"].update({"phone/rows": 10**12})), ALL),
    "rows one less": (indexed(lambda e: e["rows"].update({"phone/rows": e["rows"]["phone/rows"] - 1})), READING),
    "size negative": (indexed(lambda e: e.update(size=-1)), ALL),
    "size another": (indexed(lambda e: e.update(size=e["size"] + 1)), READING),
    "checksums missing": (indexed(lambda e: e["checksums"].clear()), ALL),
    "checksums numbers": (indexed(lambda e: e.update(checksums=dict.fromkeys(e["checksums"], 0))), ALL),
    "a checksum another": (indexed(lambda e: e["checksums"].update({"frame/mel": "0" * 32})), READING),
    "failures a text": (indexed(lambda e: e.update(failures="none")), ALL),
    "configuration of a shard another": (indexed(lambda e: e.update(configuration="0" * 32)), READING),
    # the tables
    "labels: a list": (written("labels.json", b"[]"), READING),
    "labels: of numbers": (written("labels.json", b'{"phone": [1, 2, 3, 4, 5]}'), READING),
    "labels: too few": (written("labels.json", b'{"phone": ["a"], "word": []}'), READING),
    "labels: missing": (without("labels.json"), READING),
    "labels: a pipe": (piped("labels.json"), READING),
    "labels: a link": (linked("labels.json"), READING),
    "utterances: garbage": (written("utterances.parquet", b"PAR1" * 100), READING),
    "utterances: missing": (without("utterances.parquet"), READING),
    "utterances: a pipe": (piped("utterances.parquet"), READING),
    "utterances: a folder": (a_folder("utterances.parquet"), READING),
    "utterances: a link": (linked("utterances.parquet"), READING),
    "utterances: of another corpus": (table(lambda t: t.iloc[:3]), READING),
    "utterances: without ids": (table(lambda t: t.drop(columns="utterance")), READING),
    "utterances: one id": (table(lambda t: t.assign(utterance="u")), READING),
    "utterances: lists for ids": (table(lambda t: t.assign(utterance=[[1]] * len(t))), READING),
    "utterances: lengths as text": (table(lambda t: t.assign(n_samples="many")), READING),
    "damage: a list": (written("damaged.json", b"[1]"), ALL),
    "damage: of no shard": (written("damaged.json", b'{"17": "gone"}'), ALL),
    "damage: known": (written("damaged.json", b'{"1": "gone"}'), frozenset({EXPORT, ANALYSIS})),
    # a shard
    "shard missing": (without("shards/00001.h5"), READING),
    "shard empty": (written("shards/00001.h5", b""), READING),
    "shard cut": (lambda store: os.truncate(store / "shards/00001.h5", 2000), READING),
    "shard of zeros": (
        lambda s: (s / "shards/00001.h5").write_bytes(bytes((s / "shards/00001.h5").stat().st_size)),
        READING,
    ),
    "shard with zeros": (
        lambda s: (s / "shards/00001.h5").write_bytes(
            (s / "shards/00001.h5").read_bytes()[:2000].ljust((s / "shards/00001.h5").stat().st_size, b"\0")
        ),
        READING,
    ),
    "shards swapped": (swapped, READING),
    "shard a terabyte": (sparse("shards/00001.h5"), READING),
    "shard a link": (linked("shards/00001.h5"), READING),
    "shard a link within": (linked_to("shards/00001.h5", "00000.h5"), READING),
    "shard a link to a device": (linked_to("shards/00001.h5", "/dev/zero"), READING),
    "shard a link to the secret": (linked_to("shards/00001.h5", "../../outside/secret"), READING),
    "shard a pipe": (piped("shards/00001.h5"), READING),
    "shard a folder": (a_folder("shards/00001.h5"), READING),
    "shards a link": (linked("shards"), READING),
    "shards a file": (lambda s: (_remove(s / "shards"), (s / "shards").write_bytes(b"")), READING),
    "external storage": (shard(anew("frame/mel", external)), READING),
    "external storage of rows": (shard(anew("phone/rows", external)), READING),
    "external link": (shard(anew("frame/mel", external_link)), READING),
    "external link to a group": (shard(linked_group), READING),
    "external link to a pipe": (and_the_pipe(shard(anew("frame/mel", link_to_a_pipe))), READING),
    "soft link": (shard(anew("frame/mel", soft_link)), READING),
    "virtual": (shard(anew("frame/mel", virtual)), READING),
    "float64": (shard(anew("frame/mel", as_type(np.float64))), READING),
    "big-endian": (shard(anew("frame/mel", as_type(">f4"))), READING),
    "texts": (shard(anew("frame/mel", texts)), READING),
    "ragged": (shard(anew("frame/mel", ragged)), READING),
    "one column less": (shard(anew("frame/mel", lambda f, n, v: f.create_dataset(n, data=v[:, :-1]))), READING),
    "one row less": (shard(anew("frame/mel", lambda f, n, v: f.create_dataset(n, data=v[:-1]))), READING),
    "flat": (shard(anew("frame/mel", lambda f, n, v: f.create_dataset(n, data=v.ravel()))), READING),
    "a number": (shard(anew("frame/mel", lambda f, n, v: f.create_dataset(n, data=1.5))), READING),
    "nothing": (shard(anew("frame/mel", lambda f, n, v: f.create_dataset(n, data=h5py.Empty("f4")))), READING),
    "a group": (shard(anew("frame/mel", lambda f, n, v: f.create_group(n))), READING),
    "a type": (shard(anew("frame/mel", lambda f, n, v: f.__setitem__(n, np.dtype("f4")))), READING),
    "no dataset": (shard(lambda f: f.__delitem__("frame/mel")), READING),
    "no unit": (shard(lambda f: f.__delitem__("phone")), READING),
    "a bomb": (lambda s: _bomb(s), READING),
    "compressed": (shard(anew("frame/mel", compressed)), READING),
    "never written": (shard(anew("frame/mel", never_written)), READING),
    "one dataset more, from outside": (
        shard(lambda f: f.__setitem__("more", h5py.ExternalLink("secret", "x"))),
        frozenset({VERIFY}),
    ),
    "rows of other fields": (
        shard(anew("phone/rows", lambda f, n, v: f.create_dataset(n, data=v[["utterance", "start"]]))),
        READING,
    ),
    "rows of numbers": (shard(anew("phone/rows", lambda f, n, v: f.create_dataset(n, data=v["start"]))), READING),
    "a label that is not": (shard(in_rows("label", 5)), READING),
    "a label -2": (shard(in_rows("label", -2)), READING),
    "an utterance that is not": (shard(in_rows("utterance", 10**6)), READING),
    "an utterance of another shard": (shard(in_rows("utterance", 5)), READING),
    "an utterance -1": (shard(in_rows("utterance", -1)), READING),
    "an end before the start": (shard(in_rows("end", -5)), READING),
    "an end in 10**18": (shard(in_rows("end", 10**18)), READING),
    "a start at -10**18": (shard(in_rows("start", -(10**18))), READING),
    "one bit": (lambda s: _flip(s), READING),
    # the view, which only other programs and verify read
    "view: garbage": (written("store.h5", b"\0" * 5000), frozenset({VERIFY})),
    "view: a pipe": (piped("store.h5"), frozenset({VERIFY})),
    "view: a link": (linked("store.h5"), frozenset({VERIFY})),
    "view: a virtual source outside": (viewed(anew("phone/mel", virtual)), frozenset({VERIFY})),
    "view: external storage": (viewed(anew("phone/mel", external)), frozenset({VERIFY})),
    "view: an external link": (viewed(anew("phone/mel", external_link)), frozenset({VERIFY})),
    "view: numbers of its own": (
        viewed(anew("phone/mel", lambda f, n, v: f.create_dataset(n, data=v))),
        frozenset({VERIFY}),
    ),
    "view: metadata from outside": (viewed(anew("utterances/speaker", external_link)), frozenset({VERIFY})),
    "view: a billion ids": (viewed(anew("utterances/utterance", many)), frozenset({VERIFY})),
    "view: groups in a ring": (
        viewed(
            lambda f: (
                f.__setitem__("word", f["phone"]),
                f["phone"].__setitem__("loop", f["phone"]),
                f["phone"].__setitem__("out", h5py.ExternalLink("x.h5", "x")),
            )
        ),
        frozenset({VERIFY}),
    ),
    "view: a link to a pipe": (and_the_pipe(viewed(anew("phone/mel", link_to_a_pipe))), frozenset({VERIFY})),
    "view: ids from a pipe": (and_the_pipe(viewed(anew("utterances/utterance", link_to_a_pipe))), frozenset({VERIFY})),
    "view: ids from outside": (viewed(anew("utterances/utterance", external_link)), frozenset({VERIFY})),
}


def _bomb(store: Path) -> None:
    """A shard of some kilobytes that claims terabytes, in a file with a hole of eight; the index says the same."""
    shard(anew("frame/mel", bomb))(store)
    with h5py.File(store / "shards/00001.h5", "a") as file:
        dtype = file["phone/rows"].dtype
        del file["phone/rows"]
        file.create_dataset("phone/rows", (10**10,), dtype, chunks=(1,), compression="gzip")
    os.truncate(store / "shards/00001.h5", 2**43)
    indexed(lambda e: (e.update(size=2**43), e["rows"].update({"phone/rows": 10**10})))(store)


def _flip(store: Path) -> None:
    with h5py.File(store / "shards/00001.h5") as file:
        offset = file["frame/mel"].id.get_offset()
    content = bytearray((store / "shards/00001.h5").read_bytes())
    content[offset + 5] ^= 1
    (store / "shards/00001.h5").write_bytes(content)


def commands(store: Path, out: Path) -> list[tuple[str, tuple]]:
    export = (EXPORT, store, "--units", "frame,phone", "--quiet", "-o")
    return [
        (INFO, (INFO, store)),
        (EXPORT, (*export, out / "npy")),
        (EXPORT, (*export, out / "npz", "--to", "npz")),
        (EXPORT, (EXPORT, store, "--quiet", "-o", out / "abx", "--to", "fastabx")),
        (
            ANALYSIS,
            (ANALYSIS, store, "--unit", "frame", "--labels", "phone", "--clusters", "5", "--sample", "all", "--quiet"),
        ),
        (VERIFY, (VERIFY, store, "--quiet")),
    ]


@pytest.fixture
def limited():
    """A command that hangs is interrupted."""

    def stop(*_):
        pytest.fail(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def contents_outside(place: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (place / "outside").rglob("*") if p.is_file() and p.stat().st_size < 2**30}


def test_the_commands_succeed_on_a_sound_store(place):
    for _, arguments in commands(place / "store", place / "out"):
        succeeds(*arguments)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_one_sentence(place, limited, monkeypatch, name):
    monkeypatch.chdir(place)
    damage, fails = VARIANTS[name]
    damage(place / "store")
    monkeypatch.chdir(place)
    before = contents_outside(place)
    for command, arguments in commands(place / "store", place / "out"):
        result = run(*arguments)
        if command not in fails:
            assert result.exit_code == 0, (command, result.output)
            continue
        assert result.exit_code == 1, (command, result.output)
        (line,) = result.stderr.strip().splitlines()
        assert line.startswith("Error: "), line
        assert len(line) < 1000
        said = result.output
        assert "delete" not in said or "outside" not in said, said
        assert command == VERIFY or not result.stdout, result.stdout
    assert contents_outside(place) == before
    assert not any(SECRET[:20] in p.read_bytes() for p in (place / "out").rglob("*") if p.is_file())


# what can be read is what was opened


def replace(made: Path, store: Path, name: str = "other") -> None:
    """Written anew by another process, with other pooling: as many rows, the same sizes."""
    shutil.rmtree(store)
    shutil.copytree(made / name, store)


def overwrite(place: Path, made: Path, pooling: dict) -> None:
    corpus = small.corpus(place / "corpus", 6)
    layertool.extract(
        "mel",
        corpus,
        place / "store",
        ("frame", "phone", "utterance"),
        shard_seconds=1.3,
        pooling=pooling,
        overwrite=True,
    )


def test_the_two_stores_differ_in_numbers_only(made):
    one, other = FeatureStore(made / "store"), FeatureStore(made / "other")
    assert [e["size"] for e in one.index.values()] == [e["size"] for e in other.index.values()]
    assert one.read("phone", "mel").shape == other.read("phone", "mel").shape
    assert not np.array_equal(one.read("phone", "mel"), other.read("phone", "mel"))


@pytest.mark.parametrize("read_before", [False, True])
def test_a_store_that_is_written_anew_under_a_reader(made, place, read_before):
    store = FeatureStore(place / "store")
    if read_before:  # what is in order then is not taken to be in order for ever
        store.read("phone", "mel"), store.rows("phone")
    overwrite(place, made, {"phone": "mean"})
    for unit in store.units:
        for read in (store.read, store.row_table, lambda u, n: list(store.blocks(u, n))):
            with pytest.raises(StoreError, match=r"store was written anew after it was opened: run this command again"):
                read(unit, "mel")
    assert verify(FeatureStore(place / "store")) == []


def test_tables_of_a_store_that_is_written_anew(made, place):
    store = FeatureStore(place / "store")
    replace(made, place / "store")
    for table in ("labels", "utterances"):
        with pytest.raises(StoreError, match="was written anew after it was opened"):
            getattr(store, table)


def test_a_store_that_is_written_anew_between_two_shards(made, place):
    store = FeatureStore(place / "store")
    blocks = store.blocks("phone", "mel")
    next(blocks)
    replace(made, place / "store")
    with pytest.raises(StoreError, match="was written anew after it was opened"):
        list(blocks)


def test_a_store_that_is_cleared_under_a_reader(place):
    store = FeatureStore(place / "store")
    shutil.rmtree(place / "store" / "shards")
    with pytest.raises(StoreError, match=r"00000\.h5 is missing: run the same extract command again"):
        store.read("phone", "mel")
    (place / "store" / "store.json").unlink()
    with pytest.raises(StoreError, match="was written anew after it was opened"):
        store.read("phone", "mel")


@pytest.mark.parametrize("is_read_before", [False, True])
@pytest.mark.parametrize("rows", [slice(None), slice(2, 3)])
def test_a_shard_of_the_same_size_in_its_place(made, place, is_read_before, rows):
    """Copied there by hand: only the numbers tell, also where few of them are read."""
    store = FeatureStore(place / "store")

    def read():
        first = range(store.n_rows("phone"))[rows][0]
        return next(store.blocks("phone", "mel", 1, first))

    before = read() if is_read_before else None
    shutil.copy(made / "other" / "shards" / "00000.h5", place / "store" / "shards" / "00000.h5")
    with pytest.raises(StoreError, match=r"00000\.h5 is not what the index says \(phone/mel: the checksum differs\)"):
        read()
    shutil.copy(made / "store" / "shards" / "00000.h5", place / "store" / "shards" / "00000.h5")
    np.testing.assert_array_equal(
        read(), before if is_read_before else FeatureStore(made / "store").read("phone", "mel")[rows][:1]
    )


def test_a_shard_that_is_redone_under_a_reader(place):
    """Another process has repaired a failed utterance: the shard has more rows, and its line of the index says so."""
    store = FeatureStore(place / "store")
    path = place / "store" / "shards" / "00001.h5"
    entry = dict(store.index[1])
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    with open(place / "store" / "index.jsonl", "a") as index:
        index.write(json.dumps({**entry, "size": entry["size"] + 8}) + "\n")
    with pytest.raises(
        StoreError, match=r"00001\.h5 was written anew after the store was opened: run this command again"
    ):
        store.read("phone", "mel")
    assert FeatureStore(place / "store").read("phone", "mel").shape == (24, 80)


def test_what_does_not_change_a_store_is_no_error(made, place):
    """Other shards that are finished, a merge, new dates, a link to the whole, the store in another process."""
    path = place / "store"
    lines = (path / "index.jsonl").read_text().splitlines(keepends=True)
    (path / "index.jsonl").write_text("".join(lines[:2]))
    half = FeatureStore(path, allow_unfinished=True)
    expected = half.read("phone", "mel")
    (path / "parts").mkdir()
    (path / "index.jsonl").unlink()
    (path / "parts" / "00000-of-00001.jsonl").write_text("".join(lines))
    np.testing.assert_array_equal(half.read("phone", "mel"), expected)
    whole = FeatureStore(path)
    merge(path)
    assert verify(half) == ["shard 2 of 3 is not in the index"]  # the view is of the whole, which is there now
    for one in path.rglob("*"):
        os.utime(one)
    (place / "link").symlink_to(path)
    for store in (whole, FeatureStore(place / "link")):
        np.testing.assert_array_equal(store.read("phone", "mel"), FeatureStore(made / "store").read("phone", "mel"))
        assert verify(store) == []


def test_a_checksum_is_computed_once(place, monkeypatch):
    store, computed = FeatureStore(place / "store"), []
    real = layout.checksum
    monkeypatch.setattr(layout, "checksum", lambda values: computed.append(values.name) or real(values))
    for _ in range(3):
        store.read("phone", "mel")
        list(store.blocks("phone", "mel", 2, 3))
    assert computed == ["/phone/mel"] * 3  # of three shards


def test_a_missing_number_of_shards_is_not_counted_out(place):
    """A store that says it has a billion shards is told at once, and so is how many are missing."""
    described(lambda a: (a.update(n_shards=10**9), a["corpus"].update(n_utterances=10**9)))(place / "store")
    with pytest.raises(StoreError, match="unfinished: 999999997 of 1000000000 shards are missing or damaged"):
        merge(place / "store")


# the writer


def contents_of_shards(store: Path) -> dict:
    """The view has the places of the audio, too."""
    return {name: content for name, content in small.contents(store).items() if name != "store.h5"}


def extract_again(place: Path, **options):
    corpus = small.corpus(place / "corpus", 6)
    return layertool.extract(
        "mel", corpus, place / "store", ("frame", "phone", "utterance"), shard_seconds=1.3, **options
    )


@pytest.mark.parametrize(
    "name", ["shard a link", "shard a link to the secret", "shard a pipe", "shard missing", "shard cut"]
)
def test_the_same_command_redoes_a_shard_that_is_not_there(made, place, name):
    VARIANTS[name][0](place / "store")
    before = contents_outside(place)
    extract_again(place)
    assert verify(FeatureStore(place / "store")) == []
    assert contents_of_shards(place / "store") == contents_of_shards(made / "store")
    assert contents_outside(place) == before


def test_nothing_is_written_through_a_link(made, place):
    linked("shards")(place / "store")
    before = contents_outside(place)
    with pytest.raises(
        StoreError, match="shards is a link, and a store's bytes are its own: put the folder itself there"
    ):
        extract_again(place)
    extract_again(place, overwrite=True)
    assert contents_outside(place) == before
    assert contents_of_shards(place / "store") == contents_of_shards(made / "store")
    assert verify(FeatureStore(place / "store")) == []


def test_a_damaged_description_is_no_other_configuration(place):
    for content in (b"[]", b'{"schema": 1, "configuration": []}', b"{"):
        (place / "store" / "store.json").write_bytes(content)
        with pytest.raises(StoreError, match=r"store\.json is"):
            extract_again(place)
    extract_again(place, overwrite=True)


def test_exports_stay_in_their_folder(place):
    """The id of the model and the name of the corpus become folders."""
    described(lambda a: (a["configuration"]["model"].update(id=".."), a["corpus"].update(name="..")))(place / "store")
    succeeds("export", place / "store", "-o", place / "deep" / "deeper" / "out", "--units", "phone")
    assert [p.name for p in (place / "deep" / "deeper").iterdir()] == ["out"]
    assert [p.name for p in (place / "deep").iterdir()] == ["deeper"]
