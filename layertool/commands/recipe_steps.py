"""The steps of a recipe: the command lines that the data of a paper become for given models, corpora and folders."""

from __future__ import annotations

import glob
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from layertool.errors import UsageError

REHEARSAL = "rehearsal"  # in the data: what a setting or an input is in one
_FILE_ENDINGS = (".pt", ".ckpt", ".pth", ".bin")
_WORD = re.compile(r"'([^']*)'|(\S+)")
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Word:
    """One argument. ``pattern``: what the shell expands to the files that are there, if it is one."""

    text: str
    pattern: str | None = None

    def shown(self) -> str:
        """As it is typed in a shell."""
        if self.pattern is None:
            return shlex.quote(self.text)
        return "*".join(shlex.quote(part) if part else "" for part in self.text.split("*"))

    def expanded(self) -> list[str]:
        """The arguments that a command sees; of a pattern all files, step 900 before step 1000."""
        if self.pattern is None:
            return [self.text]
        found = sorted(glob.glob(self.pattern), key=_natural)
        if not found:
            raise UsageError(f"there is no {self.text}: run the steps before this one, too")
        return found


@dataclass(frozen=True)
class Step:
    """One command of a recipe for one model, or for all of them.

    ``gives``: the table or figure; ``makes``: files or folders; ``missing``: inputs that it waits for; ``needs``: what
    tables of a corpus have to hold, by the name of the corpus among the inputs.
    """

    name: str
    gives: str
    words: tuple[Word, ...]
    makes: tuple[str, ...]
    missing: tuple[str, ...]
    needs: dict[str, dict]

    @property
    def line(self) -> str:
        """The command, to be copied."""
        return " ".join(["layertool", *(word.shown() for word in self.words)])

    def arguments(self) -> list[str]:
        return [text for word in self.words for text in word.expanded()]

    def reads(self, paths: Iterable[str]) -> bool:
        """Whether an argument is one of the paths, or lies in one."""
        return any(f"{word.text}/".startswith(f"{path}/") for path in paths for word in self.words)


def read(name: str) -> dict:
    """The recipe as it is written in the package."""
    file = resources.files("layertool") / "data" / "recipes" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def steps_of(
    recipe: dict,
    corpus: str,
    models: Sequence[str],
    out: str,
    given: dict[str, str],
    only: Sequence[str] = (),
    rehearse: bool = False,
) -> list[Step]:
    """The steps of a recipe, one for each model where its command names one.

    ``rehearse``: with the settings of a rehearsal, and with its stand-ins for inputs that are not given.
    Raises UsageError for models of one name, and for steps and inputs that the recipe does not have.
    """
    inputs = recipe["inputs"]
    _check_names("input", given, inputs)
    _check_names("step", only, [step["name"] for step in recipe["steps"]])
    names = [folder_name(model) for model in models]
    if len(set(names)) < len(names):
        raise UsageError(
            f"the stores of {', '.join(models)} would have one name: make them in folders of their own (-o)"
        )
    fixed = {
        "corpus": [corpus], "out": [out], "stores": [f"{out}/{name}" for name in names], "first": [f"{out}/{names[0]}"],
        "last": [models[-1]], "last_name": [names[-1]],
    }  # fmt: skip
    kinds = (REHEARSAL, "default") if rehearse else ("default",)
    values = dict(given)
    for name, about in inputs.items():
        if name not in values and (stands_in := next((about[kind] for kind in kinds if kind in about), None)):
            (values[name],) = _filled(stands_in, fixed)
    places = {name: [values.get(name, name.upper())] for name in inputs} | fixed
    settings = {name: about[REHEARSAL if rehearse else "paper"] for name, about in recipe.get("settings", {}).items()}
    steps = []
    for about in recipe["steps"]:
        if only and about["name"] not in only:
            continue
        extra = [text for name, text in about.get("when", {}).items() if name in values]
        command = _set(" ".join([about["command"], *extra]), settings)
        named = {*_PLACE.findall(command), *about.get("with", [])}
        missing = tuple(name for name in inputs if name in named and name not in values)
        each: Iterable = zip(models, names, strict=True) if named & {"model", "name", "store"} else [("", "")]
        for model, name in each:
            own = places | {"model": [model], "name": [name], "store": [f"{out}/{name}"]}
            makes = tuple(text for made in about["makes"] for text in _filled(_set(made, settings), own))
            words = tuple(_words(command, own))
            needs = about.get("needs", recipe.get("needs", {}))
            steps.append(Step(about["name"], about["gives"], words, makes, missing, needs))
    return steps


def _check_names(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in asked:
        if name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"this recipe has no {what} '{name}': {there}")


def folder_name(model: str) -> str:
    """The name of a MODEL's store: the last part of its id or path."""
    if "*" in model or "?" in model:
        raise UsageError(f"'{model}' is many models: name each of them with a --model of its own")
    last = re.split(r"[/:]", model.rstrip("/"))[-1]
    for ending in _FILE_ENDINGS:
        last = last.removesuffix(ending)
    return re.sub(r"[^\w.-]", "-", last) or "model"


def _set(template: str, settings: dict[str, str]) -> str:
    """The template with the text of each setting; other places stay."""
    return _PLACE.sub(lambda place: settings.get(place.group(1), place.group()), template)


def _filled(template: str, values: dict[str, list[str]]) -> list[str]:
    """The template with the value of each place; a place of several values alone is several texts."""
    if (alone := _PLACE.fullmatch(template)) is not None:
        return list(values[alone.group(1)])
    return [_PLACE.sub(lambda place: values[place.group(1)][0], template)]


def _words(command: str, values: dict[str, list[str]]) -> Iterator[Word]:
    """As in a shell: what is in quotes stays as it is, a * elsewhere stands for files."""
    escaped = {name: [glob.escape(value) for value in found] for name, found in values.items()}
    for quoted, bare in _WORD.findall(command):
        for text, pattern in zip(_filled(quoted or bare, values), _filled(quoted or bare, escaped), strict=True):
            yield Word(text, pattern if "*" in bare else None)


def _natural(text: str) -> list:
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]
