"""Options that are declared once: fields of a frozen dataclass, which checks them; commands make their options of
them."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, Self

from layertool.errors import UsageError
from layertool.spelling import meant


def option(
    default: Any = MISSING,
    help: str = "",
    *,
    flags: tuple[str, ...] = (),
    metavar: str | None = None,
    low: float | None = None,
    high: float | None = None,
    usual: str | None = None,
    parse: Callable[[Any], Any] | None = None,
    decides: bool = True,
) -> Any:
    """A field of a ``Declared`` class that is an option of its command.

    ``help`` reads alone. ``flags``: instead of ``--name``. ``low``, ``high``: of a number. ``usual``: what help shows
    as the default. ``parse``: what makes the value of what was typed. ``decides``: whether it can change a number.
    """
    about = {"help": help, "flags": flags, "metavar": metavar, "low": low, "high": high, "usual": usual, "parse": parse}
    return field(default=default, metadata=about | {"decides": decides})


@dataclass(frozen=True)
class Option:
    """What a field declares: its Python ``name``, the command line's ``flags``, the ``kind`` of a value, whether there
    are ``many``."""

    name: str
    flags: tuple[str, ...]
    kind: Any
    many: bool
    choices: tuple[str, ...]
    default: Any
    about: typing.Mapping[str, Any]

    @classmethod
    def of(cls, one: Field, hint: Any) -> Option:
        """Of a field and its type: bool, int, float, str, Path, Literal, a tuple of one of these, or None beside it."""
        kinds = [kind for kind in _members(hint) if kind is not types.NoneType]
        many = typing.get_origin(kinds[0]) is tuple
        kind = typing.get_args(kinds[0])[0] if many else kinds[0]
        choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        flags = one.metadata["flags"] or ("--" + one.name.replace("_", "-"),)
        return cls(one.name, flags, str if choices else kind, many, choices, one.default, one.metadata)

    @property
    def flag(self) -> str:
        """The long one, as errors name it."""
        return next(flag for flag in self.flags if flag.startswith("--"))

    def value(self, given: Any) -> Any:
        """What was given as the field holds it. Raises UsageError, in one sentence."""
        if given is self.default or (given is None and self.default is not MISSING):
            return self.default
        if parse := self.about["parse"]:
            return parse(given)
        if not self.many:
            return self._one(given)
        parts = tuple(dict.fromkeys(self._one(part) for part in listed(given)))
        if not parts:
            raise UsageError(f"{self.flag} names nothing: type one or several, separated by commas")
        return parts

    def _one(self, given: Any) -> Any:
        if self.choices:
            if given not in self.choices:
                raise UsageError(f"'{given}' is nothing that {self.flag} takes: choose {', '.join(self.choices)}")
        elif self.kind in (int, float):
            return self._number(given)
        elif self.kind is bool and not isinstance(given, bool):
            raise UsageError(f"{self.flag} is True or False, not '{given}'")
        return given

    def _number(self, given: Any) -> float:
        low, high = self.about["low"], self.about["high"]
        try:
            number = self.kind(given)
            sound = number == float(given) and not isinstance(given, bool) and math.isfinite(number)
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            what = (
                ("whole numbers" if self.many else "a whole number")
                if self.kind is int
                else "numbers"
                if self.many
                else "a number"
            )
            raise UsageError(f"{self.flag} takes {what}{', separated by commas' if self.many else ''}, not '{given}'")
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            ends = ((low, "more"), (high, "less"))
            bounds = [f"{end:g} or {side}" for end, side in ends if end is not None]
            raise UsageError(f"{self.flag} {given} cannot be: it is {' and '.join(bounds)}")
        return number


def _members(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)


def listed(given: Any) -> Iterator[Any]:
    """The parts of a list, however it was given: "a,b", ["a", "b"], ["a,b", "c"], or one value."""
    for part in given if isinstance(given, Iterable) and not isinstance(given, str) else (given,):
        if isinstance(part, str):
            yield from filter(None, map(str.strip, part.split(",")))
        else:
            yield part


def _options_of(declared: type) -> tuple[Option, ...]:
    """The options that a class declares: its own first, then those of its bases, each in their order."""
    hints, bases = typing.get_type_hints(declared), declared.__mro__
    known = {one.name: one for one in fields(declared) if "decides" in one.metadata}
    home = {name: k for k, base in reversed([*enumerate(bases)]) for name in inspect.get_annotations(base)}
    names = sorted(known, key=lambda name: home[name])
    return tuple(Option.of(known[name], hints[name]) for name in names)


options_of: Callable[[type], tuple[Option, ...]] = cache(_options_of)


def keywords(declared: type) -> list[inspect.Parameter]:
    """The options of a class as parameters of a function that takes them by name."""
    kind, empty = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty
    return [
        inspect.Parameter(one.name, kind, default=empty if one.default is MISSING else one.default)
        for one in options_of(declared)
    ]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Base of classes whose fields are options: each value is checked, and brought to its type, when one is made."""

    def __post_init__(self) -> None:
        for one in options_of(self.__class__):
            object.__setattr__(self, one.name, one.value(getattr(self, one.name)))
        self.check()

    @classmethod
    def of_call(cls, function: str, options: Mapping[str, Any], beside: Collection[str] = ()) -> Self:
        """Of the keywords of a function of layertool, which takes others ``beside``.

        Raises UsageError for a name that there is not, and for an option that has to be given.
        """
        known = {one.name: one for one in options_of(cls)}
        for name in options:
            if name not in known:
                raise UsageError(
                    f"layertool.{function} has no option '{name}'; {meant(name, [*known, *beside], 'options')}"
                )
        for name, one in known.items():
            if one.default is MISSING and name not in options:
                raise UsageError(f"layertool.{function} needs the option {name}: {one.about['help']}")
        return cls(**options)

    def check(self) -> None:
        """Raise UsageError for values that no data could satisfy together."""
