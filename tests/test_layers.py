import pytest

from layertool import layers
from layertool.errors import UsageError

BASE = [*(f"C{k}" for k in range(1, 8)), *(f"T{k}" for k in range(13))]
WHISPER = ["C1", "C2", "T0", "T1", "T2", "final", "D0", "D1"]


@pytest.mark.parametrize(
    ("asked", "available", "chosen"),
    [
        ("all", BASE, BASE),
        ("T0-T12,C7", BASE, BASE[6:]),
        ("T3", BASE, ["T3"]),
        (["T3", "C1-C2"], BASE, ["C1", "C2", "T3"]),
        (" T3 , C1 ", BASE, ["C1", "T3"]),
        ("T2,T1,T2", BASE, ["T1", "T2"]),
        ("all", WHISPER, WHISPER[:6]),
        ("all,D0-D1", WHISPER, WHISPER),
        ("final", WHISPER, ["final"]),
        ("all", ["mel"], ["mel"]),
    ],
)
def test_select(asked, available, chosen):
    assert layers.select(asked, available, "model") == chosen


@pytest.mark.parametrize("asked", ["T13", "T0-T13", "D0", "C0", "T1-C3", "t3", "final", "0", "T0-", "-T3"])
def test_a_layer_that_is_not_there(asked):
    with pytest.raises(UsageError, match=r"is no layer of the-model: it has C1-C7, T0-T12"):
        layers.select(asked, BASE, "the-model")


def test_a_range_that_goes_backwards():
    with pytest.raises(UsageError, match=r"the layers 'T3-T1' go backwards: type T1-T3"):
        layers.select("C1,T3-T1", BASE, "the-model")


@pytest.mark.parametrize("asked", ["", ",", []])
def test_no_layer(asked):
    with pytest.raises(UsageError, match="no layer was asked for"):
        layers.select(asked, BASE, "model")


def test_summary():
    assert layers.summary(WHISPER) == "C1-C2, T0-T2, final, D0-D1"
    assert layers.summary(["T1", "T3", "T4", "mel"]) == "T1, T3-T4, mel"
