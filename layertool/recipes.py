"""Recipes of papers: data (``data/recipes/*.json``) that become command lines for given models, corpora and folders.

A step is one command for one model, or for all of them. Running a recipe goes on where it stopped: a record in the
folder of results says which command line made each file.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from layertool import columns, rehearsal
from layertool.account import duration
from layertool.corpora.corpus import Corpus
from layertool.errors import CorpusError, UsageError
from layertool.files import read_json, write_json

NAMES = ("pasad2021", "lin2024", "cuervo2024")
RECORD = "recipe.json"  # in the folder of results: which command lines are done
REHEARSAL = "rehearsal"  # in the data: what a setting or an input is in one
_FILE_ENDINGS = (".pt", ".ckpt", ".pth", ".bin")
_PLACE = re.compile(r"\{(\w+)\}")
Values = dict[str, list[str]]  # of a place: a place of several values is several words


@dataclass(frozen=True)
class Step:
    """One command of a recipe.

    ``gives``: the table or figure; ``makes``: files or folders; ``missing``: inputs that it waits for; ``needs``: what
    tables of a corpus have to hold, by the name of the corpus among the inputs.
    """

    name: str
    gives: str
    words: tuple[str, ...]
    makes: tuple[str, ...]
    missing: tuple[str, ...]
    needs: dict[str, dict]

    @property
    def line(self) -> str:
        """The command, to be copied."""
        return shlex.join(["layertool", *self.words])

    @property
    def results(self) -> list[str]:
        """The files of result rows that it makes."""
        return [made for made in self.makes if made.endswith(".csv")]

    def reads(self, paths: Iterable[str]) -> bool:
        """Whether an argument is one of the paths, or lies in one."""
        return any(f"{word}/".startswith(f"{path}/") for path in paths for word in self.words)


def read(name: str) -> dict:
    """The recipe as it is written in the package."""
    file = resources.files("layertool") / "data" / "recipes" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Recipe:
    """A recipe for what somebody has. ``given``: inputs by their names; ``models``: none for those of the paper.

    ``rehearse``: with the settings of a rehearsal, and with its stand-ins for inputs that are not given.
    Raises UsageError for models of one name, for inputs that the recipe does not have, and for a rehearsal without a
    model.
    """

    about: dict
    name: str
    corpus: str
    models: Sequence[str]
    out: str
    given: dict[str, str]
    rehearse: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        corpus: str,
        models: Sequence[str] = (),
        out: str | None = None,
        given: dict[str, str] | None = None,
        rehearse: bool = False,
    ) -> Recipe:
        """The recipe of a paper. ``out``: None for its name."""
        about = read(name)
        if rehearse and not models:
            raise UsageError(f"a rehearsal needs a small MODEL of your own: {about['small_model']}")
        out = (out or (f"{name}-{REHEARSAL}" if rehearse else name)).rstrip("/") or "/"
        return cls(about, name, corpus, list(dict.fromkeys(models)) or about["models"], out, given or {}, rehearse)

    def __post_init__(self) -> None:
        _check_names("input", self.given, self.about["inputs"])
        names = [folder_name(model) for model in self.models]
        if len(set(names)) < len(names):
            raise UsageError(
                f"the stores of {', '.join(self.models)} would have one name: make them in folders of their own (-o)"
            )

    def steps(self, only: Sequence[str] = ()) -> list[Step]:
        """Its steps, or ``only`` those of a name, one for each model where the command names one."""
        _check_names("step", only, [step["name"] for step in self.about["steps"]])
        inputs, out, names = self.about["inputs"], self.out, [folder_name(model) for model in self.models]
        fixed = {
            "corpus": [self.corpus],
            "out": [out],
            "stores": [f"{out}/{name}" for name in names],
            "first": [f"{out}/{names[0]}"],
            "last": [self.models[-1]],
            "last_name": [names[-1]],
        }
        values = dict(self.given)
        for name, about in inputs.items():
            stands_in = about.get(REHEARSAL if self.rehearse else "default", about.get("default"))
            if name not in values and stands_in:
                (values[name],) = _filled(stands_in, fixed)
        places = {name: [values.get(name, name.upper())] for name in inputs} | fixed
        settings = {
            name: about[REHEARSAL if self.rehearse else "paper"]
            for name, about in self.about.get("settings", {}).items()
        }
        steps = []
        for about in self.about["steps"]:
            if only and about["name"] not in only:
                continue
            extra = [text for name, text in about.get("when", {}).items() if name in values]
            command = _set(" ".join([about["command"], *extra]), settings)
            named = {*_PLACE.findall(command), *about.get("with", [])}
            missing = tuple(name for name in inputs if name in named and name not in values)
            of_models = list(zip(self.models, names, strict=True)) if named & {"model", "name", "store"} else [("", "")]
            for model, name in of_models:
                own = places | {"model": [model], "name": [name], "store": [f"{out}/{name}"]}
                makes = tuple(text for made in about["makes"] for text in _filled(_set(made, settings), own))
                words = tuple(text for word in shlex.split(command) for text in _filled(word, own))
                needs = about.get("needs", self.about.get("needs", {}))
                steps.append(Step(about["name"], about["gives"], words, makes, missing, needs))
        return steps

    @property
    def title(self) -> str:
        """The paper, and whether this is a rehearsal of it."""
        return rehearsal.says(self.about["paper"]) if self.rehearse else self.about["paper"]

    def input(self, name: str) -> str:
        """An input as it is asked for."""
        return f"{name}=... ({self.about['inputs'][name]['is']})"

    def lines(self, steps: Sequence[Step]) -> Iterator[str]:
        """Commands to copy; what waits for an input is a comment."""
        yield f"# {self.title}"
        for name, about in self.about["inputs"].items():
            if "default" in about and not self.rehearse:
                yield f"# --with {self.input(name)}; if it is not given: {about['default']}"
        for gives, part in _groups(steps):
            yield from ("", f"# {gives}")
            for number, step in enumerate(part):
                if not number or step.name != part[number - 1].name:  # else the same for another model
                    yield f"# step {step.name}" + "".join(
                        f"; waits for --with {self.input(name)}" for name in step.missing
                    )
                yield f"#   {step.line}" if step.missing else step.line
        if any(step.results for step in steps):
            yield from ("", "# All results on one page", self.report)

    @property
    def report(self) -> str:
        """The command that puts all results on one page."""
        line = f"layertool report {shlex.quote(f'{self.out}/')}*.csv -o {shlex.quote(f'{self.out}/report.html')}"
        return f"{line} --title 'A rehearsal: its numbers mean nothing'" if self.rehearse else line

    def missing_tables(self, steps: Iterable[Step]) -> list[str]:
        """A sentence for what a corpus that is there lacks and steps need."""
        corpora = {"corpus": self.corpus, **self.given}
        return lacking(steps, {name: folder for name, folder in corpora.items() if Path(folder).is_dir()})

    def check(self, steps: Sequence[Step]) -> None:
        """Raise UsageError or CorpusError for what would end the run later."""
        for name, value in self.given.items():
            wanted = self.about["inputs"][name]["is"]
            if wanted.split()[0] in ("CORPUS", "FILE", "FOLDER") and not Path(value).exists():
                raise UsageError(f"--with {name}={value} does not exist: give a {wanted}")
        Corpus.read(self.corpus)
        if problems := self.missing_tables(steps):
            raise CorpusError(f"{'; '.join(problems)}: {self.about['made_by']}, or choose other steps with --only")
        names = {step.name for step in steps}
        for other in self.steps():
            for path in other.makes if other.name not in names else ():
                for step in steps if not Path(path).exists() else ():
                    if step.reads([path]) and not step.missing:
                        raise UsageError(
                            f"step {step.name} reads {path}, which is not there: run step {other.name}, too (--only "
                            f"{other.name})"
                        )

    def run(self, steps: Sequence[Step], do: Callable[[Step], object], say: Callable[[str], object]) -> list[str]:
        """Have ``do`` run the steps that are not done; ``say`` is told what becomes of each.

        Returns what was made, in lines.
        """
        corpus = Corpus.read(self.corpus)
        record = Record(self.out, self.name, corpus.fingerprint, self.rehearse)
        if self.rehearse:
            self._begin_rehearsal(steps, corpus, say)
        made: list[str] = []  # by this call: what reads it is done again, too
        done: list[Step] = []
        for number, step in enumerate(steps, 1):
            head = f"[{number}/{len(steps)}] {step.name}"
            if why := self._why_not(step):
                say(f"{head}: left out, {why}")
                continue
            done.append(step)
            if record.has(step) and not step.reads(made):
                say(f"{head}: done already")
                continue
            say(f"{head}: {step.line}")
            record.begin(step)
            do(step)
            record.add(step)
            made.extend(step.makes)
        lines = ["", *([self.title] if self.rehearse else []), f"Results of {self.about['paper']}, in {self.out}:"]
        lines += [
            f"  {gives}: {', '.join(made for step in part for made in step.makes)}" for gives, part in _groups(done)
        ]
        return [*lines, *(["", "All on one page:", f"  {self.report}"] if any(step.results for step in done) else [])]

    def _begin_rehearsal(self, steps: Sequence[Step], corpus: Corpus, say: Callable[[str], object]) -> None:
        rehearsal.note(self.out, self.about["paper"])
        if any(f"{self.out}/{rehearsal.MADE_UP}/" in f"{word}/" for step in steps for word in step.words):
            rehearsal.make_up(self.out, corpus)
        say(self.title)
        if corpus.seconds > rehearsal.LONG_SECONDS:
            say(
                f"note: {corpus.name} has {duration(corpus.seconds)} of audio, all of which is extracted: a corpus of "
                "some minutes does for a rehearsal"
            )

    def _why_not(self, step: Step) -> str | None:
        """Why a step is left out: what it waits for, or what the corpus that stands for one that nobody gave lacks."""
        if step.missing:
            return "it waits for " + ", ".join(f"--with {self.input(missing)}" for missing in step.missing)
        stand_in = f"{self.out}/{rehearsal.MADE_UP}/corpus"
        if not self.rehearse or stand_in not in step.words:
            return None
        return "; ".join(lacking([step], dict.fromkeys(set(step.needs) - {"corpus"}, stand_in))) or None


class Record:
    """Which command line made each file of a folder; what another line is to make is made again."""

    def __init__(self, out: str, name: str, fingerprint: str, rehearse: bool = False):
        """Raises UsageError for a folder of another recipe or corpus, or where one is a rehearsal and the other is
        not.
        """
        self.path = Path(out) / RECORD
        self.about: dict = {"recipe": name, REHEARSAL: rehearse, "corpus": fingerprint, "made": {}}
        if not self.path.exists():
            return
        found = {REHEARSAL: False, **read_json(self.path, "the record of a recipe")}
        what = None
        if found.get("recipe") != name:
            what = f"results of another recipe ({found.get('recipe')})"
        elif found[REHEARSAL] != rehearse:
            what = "a rehearsal" if found[REHEARSAL] else "results of the recipe, and no rehearsal of it"
        elif found.get("corpus") != fingerprint:
            what = "results of another corpus, or of this one before it changed"
        if what:
            raise UsageError(f"{out} holds {what}: choose another folder with -o")
        self.about = found

    def has(self, step: Step) -> bool:
        """Whether a step's files are there, made by the same command line."""
        return all(self.about["made"].get(made) == step.line and Path(made).exists() for made in step.makes)

    def begin(self, step: Step) -> None:
        """From now on its files are not known to be whole."""
        self.about["made"] = {made: line for made, line in self.about["made"].items() if made not in step.makes}
        self._write()

    def add(self, step: Step) -> None:
        """Its files are whole."""
        self.about["made"] |= dict.fromkeys(step.makes, step.line)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.about)


def lacking(steps: Iterable[Step], corpora: dict[str, str]) -> list[str]:
    """A sentence for what a corpus lacks and steps need. ``corpora``: its folder, by its name in ``needs``."""
    opened = cache(Corpus.read)
    wanting: dict[tuple[str, str], dict[str, None]] = {}  # the names of steps, by corpus and thing
    for step in steps:
        for name, needs in step.needs.items():
            if not step.missing and name in corpora:
                for what in _absent(opened(corpora[name]), needs):
                    wanting.setdefault((corpora[name], what), {})[step.name] = None
    things: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (corpus, what), names in wanting.items():
        things.setdefault((corpus, tuple(names)), []).append(what)
    return [f"{corpus} has no {', '.join(what)} (for {', '.join(names)})" for (corpus, names), what in things.items()]


def _absent(corpus: Corpus, needs: dict) -> Iterator[str]:
    yield from (f"tier {tier}" for tier in needs.get("tiers", []) if tier not in corpus.tiers)
    for column, values in needs.get("columns", {}).items():
        if column not in corpus.utterances:
            yield f"column {column}"
        else:
            held = set(columns.texts(corpus.utterances[column].dropna()))
            yield from (f"{column}={value}" for value in values if value not in held)


def _groups(steps: Iterable[Step]) -> Iterator[tuple[str, list[Step]]]:
    steps = list(steps)
    for gives in dict.fromkeys(step.gives for step in steps):
        yield gives, [step for step in steps if step.gives == gives]


def _check_names(what: str, asked: Iterable[str], known: Iterable[str]) -> None:
    known = list(dict.fromkeys(known))
    for name in asked:
        if name not in known:
            said = f"it has {', '.join(known)}" if known else "it has none"
            raise UsageError(f"this recipe has no {what} '{name}': {said}")


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


def _filled(template: str, values: Values) -> list[str]:
    """The template with the value of each place; a place of several values alone is several texts."""
    if (alone := _PLACE.fullmatch(template)) is not None:
        return list(values[alone.group(1)])
    return [_PLACE.sub(lambda place: values[place.group(1)][0], template)]
