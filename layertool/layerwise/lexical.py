"""Listeners' responses and Whisper models that hear the same stimuli: how likely, which words, from which layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.analysis.lexical.lexicon import cmudict_words, read_words, unique
from layertool.corpora.corpus import Corpus
from layertool.declared import option
from layertool.errors import UsageError, tell
from layertool.files import read_json
from layertool.layers import select
from layertool.layerwise.analysis import AnyAnalysis
from layertool.layerwise.engine import Watch
from layertool.layerwise.lexical_rows import EVERYTHING, IMPOSSIBLE, METRICS, UNFINISHED, scores
from layertool.layerwise.reading import Reading
from layertool.layerwise.stimuli import Stimulus, stimuli_of
from layertool.layerwise.stores import model_name, step_of
from layertool.result_rows import Result
from layertool.store import FeatureStore

if TYPE_CHECKING:
    from layertool.analysis.lexical.scorer import WhisperScorer
    from layertool.layerwise.listener import Listener, Outcome

TOLD = {  # numbers that say what others are worth
    IMPOSSIBLE.name: "{n} have a response of probability 0",
    UNFINISHED.name: "the search for top words was ended for {n}",
}


@dataclass(frozen=True)
class Task:
    """What models are asked: the stimuli of a corpus.

    ``words``: to rank; ``lexicon``: whose they are; ``vocabulary``: those and the words of the corpus, to guess among;
    ``settings``: of the part.
    """

    corpus: Corpus
    stimuli: Sequence[Stimulus]
    words: Sequence[str]
    lexicon: str
    vocabulary: Sequence[str]
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lexical(Reading, AnyAnalysis):
    """Base of the analyses of models that hear the stimuli of a corpus, which says what listeners heard."""

    split: Literal["train", "dev", "test", "all"] = option("all", "Part of the corpus to score.")
    target_disjoint: bool = option(False, "Take --split from the split in which no target word is in two parts.")
    device: str = option("auto", "Where it is computed: auto, cpu, cuda:N or mps.", decides=False)
    dtype: Literal["float32", "bfloat16", "float16"] = option("float32", "Precision of the computation.")
    random_init: int | None = option(
        None, "Untrained control: draw the weights anew.", metavar="SEED", decides=False
    )  # which the model's name says
    states: Path | None = option(
        None,
        "Keep the encoder's states there, or take them from there (one model).",
        metavar="STORE",
        parse=Path,
        decides=False,
    )

    name = "lexical"
    metrics = METRICS
    cites = ("cuervo2024",)
    inputs = ("MODEL...", "CORPUS")
    counted = "stimuli"
    at_once = 1
    in_threads = False  # one network, whose sums take all cores
    items: ClassVar[bool] = True  # numbers of each stimulus, too

    @property
    def searched(self) -> int:
        """How many prefixes are opened at most to rank words; 0: none are ranked."""
        return 0

    def check(self) -> None:
        if self.target_disjoint and self.split == "all":
            raise UsageError("--target-disjoint chooses one of two splits: add --split train, dev or test")

    def of(
        self, models: str | Path | Sequence[str | Path], corpus: Corpus | str | Path
    ) -> Callable[[Watch], list[Result]]:
        from layertool.analysis.lexical.scorer import open_whisper

        task = self.task(corpus if isinstance(corpus, Corpus) else Corpus.read(corpus))
        names = list(dict.fromkeys(map(str, [models] if isinstance(models, (str, Path)) else models)))
        if not names:
            raise UsageError("no model is named: give one or several")
        if len(names) > 1 and self.states is not None:
            raise UsageError("--states is a store of one model's states: give one MODEL")
        for model in names:
            open_whisper(model)
        return partial(self.of_models, task, names)

    def task(self, corpus: Corpus) -> Task:
        """What is asked of models about a corpus. Raises CorpusError and UsageError for one that has it not."""
        part = None if self.split == "all" else self.split
        stimuli = stimuli_of(corpus, part, self.target_disjoint, self.where)
        words, lexicon = self.lexicon_words()
        said = [word for one in stimuli_of(corpus) for word in one.words]
        settings = {"split_seed": corpus.provenance.get("split_seed") if part else None}
        return Task(corpus, stimuli, words, lexicon, unique([*words, *said]), settings)

    def lexicon_words(self) -> tuple[Sequence[str], str]:
        """The words, and whose they are."""
        return cmudict_words(), "CMUdict"

    def of_models(self, task: Task, models: Sequence[str], watch: Watch) -> list[Result]:
        """Rows of each model. Models whose folders have one name are named by their paths."""
        alike = len({Path(model).name for model in models}) < len(models)
        search = {"lexicon": f"{len(task.words)} words of {task.lexicon}", "most_prefixes": self.searched}
        rows = []
        for model in models:
            listener = self.listener(task, model, alike, watch)
            scorer = listener.scorer
            settings = {"states": listener.precision, "learned": self._learned(task, model, scorer)}
            name = model_name(scorer.provenance)
            # a local one's is the first digits of its sha256, as many are called 'tuned'
            digest = scorer.provenance.get("sha256")
            revision = scorer.provenance.get("revision") or (f"sha256:{digest[:12]}" if digest else None)
            facts = {"revision": revision, "step": step_of(scorer.provenance)}
            heard = listener.listen(task.stimuli, self.layers_of(scorer, model), watch)
            self._tell_of_search(name, listener, heard)
            for layer, outcomes in heard.items():
                for table in self.tables:
                    lines = (line for one in outcomes for line in self.lines(name, one))
                    watch.tables.setdefault(table, []).extend(lines)
                of = {"layer": layer, "layer_index": scorer.layers.index(layer), "store": listener.source, **facts}
                rows += self.rows(task, name, outcomes, {**settings, **self.of_layer(layer)}, search, **of)
        return rows

    def rows(
        self,
        task: Task,
        model: str,
        outcomes: Sequence[Outcome],
        settings: Mapping[str, Any],
        search: Mapping[str, Any],
        **facts: Any,
    ) -> list[Result]:
        """Rows of what one model, or one of its layers, said. ``search``: settings of what was ranked."""
        settings = {**task.settings, **settings}
        facts = {"model": model, "corpus": task.corpus.name, "unit": "utterance", **facts}
        found = list(scores(outcomes, len(task.vocabulary), search, self.seed, self.items))
        for score in found if self.items else ():
            if score.target == EVERYTHING and score.metric in TOLD:
                tell(f"{model}: {TOLD[score.metric].format(n=f'{score.value:.0f} of {score.n} stimuli')}")
        return [self.result(score, settings, **facts, target=score.target) for score in found]

    def of_layer(self, layer: str) -> dict[str, Any]:
        """Settings of the rows of one layer."""
        return {}

    def lines(self, model: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """The lines of the table beside the rows that a stimulus gives."""
        return iter(())

    def layers_of(self, scorer: WhisperScorer, model: str) -> list[str]:
        """The layers that are heard: the model itself."""
        return [scorer.output_layer]

    def listener(self, task: Task, model: str, alike: bool, watch: Watch | None = None) -> Listener:
        """A model that goes through the stimuli. A store of its states is made where it is not."""
        from layertool.analysis.lexical.scorer import WhisperScorer
        from layertool.layerwise.listener import Listener, States

        scorer = WhisperScorer(model, self.variant, self.device, self.dtype, self.random_init)
        if alike:
            scorer.provenance["id"] = model
        states = None
        if self.states is not None:
            layers = self.layers_of(scorer, model)
            needed = list(dict.fromkeys("final" if layer.startswith("D") else layer for layer in layers))
            states = States(self._kept(self.states, task, model, needed, watch or Watch()), scorer, task.corpus, needed)
        lexicon = scorer.lexicon(task.words) if self.searched else None
        return Listener(
            scorer, task.corpus, lexicon, states, self.searched, opened=partial(self.listener, task, model, alike)
        )

    def _kept(self, path: Path, task: Task, model: str, layers: Sequence[str], watch: Watch) -> FeatureStore:
        """The store of the encoder's states, which is made, or made whole, where it is not."""
        from layertool.extractors.run import extract

        if path.exists() and FeatureStore(path, allow_unfinished=True).finished:
            return FeatureStore(path)
        tell(f"keeping the encoder's states of {task.corpus.name} in {path}")
        return extract(
            model,
            task.corpus,
            path,
            ("frame",),
            layers,
            dtype=self.dtype,
            device=self.device,
            random_init=self.random_init,
            encoder_window=self.encoder_window,
            progress=watch.counting(len(task.stimuli)).progress,
        )

    @staticmethod
    def _learned(task: Task, model: str, scorer: WhisperScorer) -> str | None:
        """How many of the stimuli a fine-tuned model was trained on: told, as is another way of reading words."""
        record = Path(model) / "finetune.json"
        if not record.is_file() or scorer.provenance.get("random_init") is not None:  # drawn anew
            return None
        known = read_json(record, "the record of a fine-tuning")
        learned = (known.get("recipe") or {}).get("variant")
        if learned and learned != asdict(scorer.variant):
            tell(f"{model} learned in another variant than it is scored in ({learned}): see docs/lexical.md")
        trained = set((known.get("split") or {}).get("train", ()))
        n = sum(one.utterance in trained for one in task.stimuli)
        if not n:
            return None
        tell(f"{model} was trained on {n} of these {len(task.stimuli)} stimuli: type --split test")
        return f"{n} of the stimuli"

    @staticmethod
    def _tell_of_search(name: str, listener: Listener, heard: Mapping[str, Sequence[Outcome]]) -> None:
        opened = sorted(one.n_opened for outcomes in heard.values() for one in outcomes if one.n_opened is not None)
        if listener.lexicon is not None and opened:
            middle, of = opened[len(opened) // 2], listener.lexicon.n_prefixes
            tell(f"{name}: {middle} of {of} prefixes opened for a stimulus (median; at most {opened[-1]})")


@dataclass(frozen=True, kw_only=True)
class LexicalScore(Lexical):
    """How likely is what the listeners said? Log-likelihood of their responses, and Kendall's tau-b.

    \b
    Examples:
      layertool lexical score openai/whisper-small eccc -o zero_shot.csv
      layertool lexical score openai/whisper-small tuned eccc --split test
    """

    command = "lexical score"
    tables: ClassVar = {"responses": "Write the log-probability of each response, too (.csv, .parquet)."}

    def lines(self, model: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """How often each response was given, and what the model thinks of it."""
        one = outcome.stimulus
        of = {"model": model, "utterance": one.utterance, "masker": one.group, "target": one.target}
        for word, k, log_p in zip(one.responses, one.counts, outcome.log_p, strict=True):
            yield of | {"response": word, "count": k, "log_p": float(log_p)}


@dataclass(frozen=True, kw_only=True)
class Ranked(Lexical):
    """Base of those that rank words."""

    lexicon: Path | tuple[str, ...] | None = option(
        None,
        "Words to rank, one a line.",
        metavar="FILE",
        usual="the 126 052 of CMUdict",
        parse=lambda given: Path(given) if isinstance(given, (str, Path)) else tuple(given),
        decides=False,  # the numbers of ranked words say it
    )
    most_prefixes: int = option(
        20_000,
        "End the search for one stimulus after so many, and say so: what knows nothing opens all.",
        low=1,
        decides=False,
    )

    @property
    def searched(self) -> int:
        return self.most_prefixes

    def lexicon_words(self) -> tuple[Sequence[str], str]:
        """Lists of one name are told apart by their words."""
        import xxhash

        if self.lexicon is None:
            return super().lexicon_words()
        if isinstance(self.lexicon, Path):
            name, words = self.lexicon.name, read_words(self.lexicon)
        else:
            name, words = "a list", unique(self.lexicon)
        return words, f"{name} ({xxhash.xxh3_64_hexdigest(chr(10).join(words).encode())[:6]})"


@dataclass(frozen=True, kw_only=True)
class LexicalRank(Ranked):
    """Which words does the model hear? Exact top words of a lexicon against the listeners' responses.

    Top-1 accuracy, top-n coverage (n: a stimulus's different responses), Kendall's tau-b, log-likelihood.
    Homophones match, by CMUdict.

    \b
    Examples:
      layertool lexical rank openai/whisper-small eccc --split test -o ranks.csv
    """

    command = "lexical rank"
    tables: ClassVar = {"words": "Write the ranked words, too (.csv, .parquet)."}

    def lines(self, model: str, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """The ranked words."""
        for k, word in enumerate(outcome.top or (), 1):
            yield {"model": model, "utterance": outcome.stimulus.utterance, "rank": k, "word": word}


@dataclass(frozen=True, kw_only=True)
class LexicalLens(Ranked):
    """Where in the network do human-like confusions arise? Words read from every layer.

    An encoder layer goes through the encoder's last norm to the unchanged decoder; a decoder layer through the
    decoder's last norm to the output. The last one of each is the model itself.

    \b
    Examples:
      layertool lexical lens openai/whisper-small eccc --split test -o lens.csv
    """

    layers: str = option("all", "Encoder T0 to TL and final, decoder D0 to DM, e.g. T0-T4,D4.", metavar="LAYERS")
    top_words: bool = option(True, "Top words of every layer, too.", decides=False)
    most_prefixes: int = option(
        200,
        "End the search for one stimulus after so many, and say so: what knows nothing opens all.",
        low=1,
        decides=False,
    )

    name = command = "lexical lens"
    items = False

    @property
    def searched(self) -> int:
        return self.most_prefixes if self.top_words else 0

    def layers_of(self, scorer: WhisperScorer, model: str) -> list[str]:
        return scorer.layers if self.layers == "all" else select(self.layers, scorer.layers, model)

    def of_layer(self, layer: str) -> dict[str, Any]:
        return {"read_by": "the output layer" if layer.startswith("D") else "the decoder"}
