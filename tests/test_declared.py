"""Options that are declared once: every way to give a value, what is refused, their order."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import Literal

import pytest

from layertool.declared import MISSING, Declared, listed, option, options_of
from layertool.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Base(Declared):
    seed: int = option(0, "Seed.", low=0)


@dataclass(frozen=True, kw_only=True)
class Toy(Base):
    labels: str = option(help="Labels.")
    kind: Literal["one", "two"] = option("one", "Kind.")
    kinds: tuple[Literal["a", "b"], ...] = option(("a",), "Kinds.")
    count: int | None = option(None, "Count.", flags=("-k", "--count"), low=1, high=9)
    share: float = option(0.5, "Share.", low=0, high=1)
    windows: tuple[int, ...] = option((1, 2), "Windows.", low=1)
    biased: bool = option(False, "Biased.")
    path: tuple[Path, ...] = option((), "Paths.", parse=lambda given: tuple(map(Path, listed(given))))
    derived: int = 3  # no option

    def check(self) -> None:
        if self.kind == "two" and self.biased:
            raise UsageError("two is never biased: leave --biased out")


def toy(**given) -> Toy:
    return Toy(labels="phone", **given)


def test_own_options_first_then_those_of_the_base():
    names = [one.name for one in options_of(Toy)]
    assert names == ["labels", "kind", "kinds", "count", "share", "windows", "biased", "path", "seed"]
    by_name = {one.name: one for one in options_of(Toy)}
    assert by_name["labels"].default is MISSING
    assert (by_name["count"].flags, by_name["count"].flag) == (("-k", "--count"), "--count")
    assert (by_name["count"].kind, by_name["count"].many) == (int, False)
    assert (by_name["windows"].kind, by_name["windows"].many) == (int, True)
    assert by_name["kinds"].choices == ("a", "b")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"kinds": "a,b"}, ("a", "b")),
        ({"kinds": ["b", "a", "b"]}, ("b", "a")),
        ({"kinds": ["a,b", "a"]}, ("a", "b")),
        ({"windows": "4, 8"}, (4, 8)),
        ({"windows": 4}, (4,)),
        ({"windows": [4, "8"]}, (4, 8)),
        ({"windows": None}, (1, 2)),
        ({"count": "7"}, 7),
        ({"count": 7.0}, 7),
        ({"count": None}, None),
        ({"share": 1}, 1.0),
        ({"share": "1e-1"}, 0.1),
        ({"seed": None}, 0),
        ({"path": "x,y"}, (Path("x"), Path("y"))),
        ({"path": [Path("x")]}, (Path("x"),)),
        ({"biased": True}, True),
    ],
)
def test_values_are_brought_to_their_type(given, value):
    """Text, lists and ready values alike."""
    (name,) = given
    found = getattr(toy(**given), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"kind": "three"}, "'three' is nothing that --kind takes: choose one, two"),
        ({"kinds": "a,c"}, "'c' is nothing that --kinds takes: choose a, b"),
        ({"kinds": ""}, "--kinds names nothing: type one or several, separated by commas"),
        ({"kinds": []}, "--kinds names nothing: type one or several, separated by commas"),
        ({"count": 0}, "--count 0 cannot be: it is 1 or more and 9 or less"),
        ({"count": 10}, "--count 10 cannot be: it is 1 or more and 9 or less"),
        ({"count": 1.5}, "--count takes a whole number, not '1.5'"),
        ({"count": "many"}, "--count takes a whole number, not 'many'"),
        ({"count": float("inf")}, "--count takes a whole number, not 'inf'"),
        ({"count": True}, "--count takes a whole number, not 'True'"),
        ({"share": "nan"}, "--share takes a number, not 'nan'"),
        ({"share": []}, "--share takes a number, not '[]'"),
        ({"share": 1.01}, "--share 1.01 cannot be: it is 0 or more and 1 or less"),
        ({"windows": "1,x"}, "--windows takes whole numbers, separated by commas, not 'x'"),
        ({"windows": (4, 0)}, "--windows 0 cannot be: it is 1 or more"),
        ({"biased": "yes"}, "--biased is True or False, not 'yes'"),
        ({"seed": -1}, "--seed -1 cannot be: it is 0 or more"),
        ({"kind": "two", "biased": True}, "two is never biased: leave --biased out"),
    ],
)
def test_what_cannot_be_is_one_sentence(given, says):
    with pytest.raises(UsageError) as caught:
        toy(**given)
    assert str(caught.value) == says


def test_what_is_asked_is_fixed():
    with pytest.raises(FrozenInstanceError):
        toy().kind = "two"
    with pytest.raises(TypeError, match="labels"):
        Toy()
    assert toy(windows="1,2") == toy()
    assert hash(toy(windows="1,2")) == hash(toy())


def test_parts_of_lists():
    assert list(listed("a, b,,c")) == ["a", "b", "c"]
    assert list(listed(["a,b", 3])) == ["a", "b", 3]
    assert list(listed(3)) == [3]
    assert list(listed(" ")) == []
