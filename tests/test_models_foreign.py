"""Reading checkpoints of other tools: nothing of a file runs, hangs, or passes for numbers that it is not."""

from __future__ import annotations

import collections
import os
import pickle
import struct
from argparse import Namespace

import numpy as np
import pytest
import torch
from crafted_pickles import crafted, text

from layertool.errors import ModelError
from layertool.models import fairseq, melhubert
from layertool.models.foreign import check_tensors, plain, read_checkpoint, whole_step
from layertool.models.open import Model


def number(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


OBJECTS = b"cnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87R"  # numpy.dtype("O8", False, True)
NO_FLAGS = b"(" + number(3) + text("|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
ADDRESS = b"c_codecs\nencode\n" + text("\x10" + "\0" * 7) + text("latin1") + b"\x86R"


def test_bytes_are_never_taken_for_an_address(tmp_path):
    """numpy's own scalar, called with this, reads an object at address 16."""
    value = b"cnumpy.core.multiarray\nscalar\n" + OBJECTS + NO_FLAGS + ADDRESS + b"\x86R"
    assert read_checkpoint(crafted(tmp_path / "x.pt", value)) == {"Step": None}


def test_arrays_of_numpy_are_not_made(tmp_path):
    value = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + ADDRESS + b"\x87R"
    value += b"(" + number(1) + number(1) + b"\x85" + OBJECTS + NO_FLAGS + b"\x89" + ADDRESS + b"tb"
    assert not isinstance(read_checkpoint(crafted(tmp_path / "x.pt", value))["Step"], np.ndarray)


@pytest.mark.parametrize("value", [np.float64(3.5), np.float32(0.25), np.int64(-7), np.uint8(200), np.bool_(True)])
@pytest.mark.parametrize("is_zip", [True, False])
def test_numbers_of_numpy(tmp_path, value, is_zip):
    torch.save({"x": value}, tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    found = read_checkpoint(tmp_path / "x.pt")["x"]
    assert found == value.item()
    assert type(found) is type(value.item())


def test_settings_come_as_plain_values(tmp_path):
    stored = {
        "Args": Namespace(lr=0.1, layers=[1, 2]),
        "state": np.random.get_state(),
        "counts": collections.defaultdict(list, {"x": [1]}),
        "model": collections.OrderedDict(w=torch.ones(2)),
    }
    torch.save(stored, tmp_path / "x.pt")
    found = read_checkpoint(tmp_path / "x.pt")
    assert found["Args"] == {"lr": 0.1, "layers": [1, 2]}
    assert found["counts"] == {"x": [1]}
    assert torch.equal(found["model"]["w"], torch.ones(2))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("boom",)


@pytest.mark.parametrize("reader", [read_checkpoint, fairseq.read, melhubert.load])
@pytest.mark.parametrize("place", ["cfg", "model", "Args"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_is_refused_by_name(tmp_path, monkeypatch, reader, place, is_zip):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {}, place: {"x": Bomb()}}, "x.pt", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(ModelError, match=r"x\.pt: it asks for 'posix\.mkdir'"):
        reader("x.pt")
    assert not (tmp_path / "boom").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert (tmp_path / "boom").exists()  # it would have gone off


def no_tensor(stored):
    raise AssertionError(stored)


def test_what_stands_there_many_times_is_read_once():
    nested: list = [1]
    for _ in range(40):
        nested = [nested, nested]
    found = plain(nested, no_tensor)  # it ends
    for _ in range(40):
        assert found[0] is found[1]
        found = found[0]
    assert found == [1]
    own: dict = {}
    own["self"] = own
    with pytest.raises(ModelError, match="hold themselves"):
        plain(own, no_tensor)
    deep: list = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ModelError, match="nested too deep"):
        plain(deep, no_tensor)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (torch.ones(2, 3, device="meta"), "of a kind"),
        (torch.ones(2, dtype=torch.complex64), "of a kind"),
        (torch.ones(2, 2).to_sparse(), "of a kind"),
        (torch.ones(1, 3).expand(1000, 3), "repeats"),
        (torch.tensor([1.0, float("nan")]), "not finite"),
        (torch.tensor([float("inf")]), "not finite"),
        ("text", "among its tensors"),
    ],
)
def test_tensors_that_are_no_weights(tensor, says):
    with pytest.raises(ModelError, match=says):
        check_tensors({"w": tensor}, "x.pt")


def test_plain_tensors_pass():
    check_tensors({"a": torch.ones(3), "b": torch.ones(2, 2).T, "c": torch.tensor(1.0), "d": torch.ones(1, 4)}, "x.pt")


@pytest.mark.parametrize(
    ("value", "step"),
    [(4000, 4000), (4000.0, 4000), (0, 0), (-5, None), (10**30, None), (True, None), (float("nan"), None), ("7", None)],
)
def test_steps(value, step):
    assert whole_step(value) == step


@pytest.mark.parametrize("style", ["absolute", "relative", "above"])
def test_names_of_a_series_are_one_part_of_a_path(tmp_path, monkeypatch, style):
    for name in ("a/last.pt", "a/last.ckpt", "b/last.pt", "a/step_900.pt", "a/step_1000.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/folder.pt").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    start = {"absolute": str(tmp_path), "relative": "../../" + tmp_path.name, "above": ".."}[style]
    found = Model.series(f"fairseq:{start}/*/*")
    names = [name for name, _ in found]
    assert len(set(names)) == len(names) == 5
    assert all(os.sep not in name and name not in ("", ".", "..") for name in names)
    alone = Model.series(f"fairseq:{start}/a/step_*.pt")
    assert [name for name, _ in alone] == ["step_900", "step_1000"]
    with pytest.raises(ModelError, match="no checkpoint is called"):
        Model.series("melhubert:nowhere/*.ckpt")
