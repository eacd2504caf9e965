"""Extraction on a Ray cluster: workers write shards, this process names them in the index.

A worker is an actor that opens the model once and keeps it. A shard is the unit of work: one that a dead worker did not
finish is done again by another.
"""

from __future__ import annotations

import os
import queue
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from layertool.cluster import MAX_DEATHS, Cluster, go_to
from layertool.corpora.corpus import Corpus
from layertool.errors import LayertoolError, LayertoolWarning, MissingExtraError, ModelError, tell
from layertool.extractors.extraction import Extraction
from layertool.extractors.plan import Shard
from layertool.extractors.prepare import Prepared
from layertool.extractors.sink import Progress
from layertool.extractors.work import write_shards
from layertool.folders import sweep
from layertool.geometry import SAMPLE_RATE
from layertool.store import FeatureStore, StoreWriter, layout
from layertool.store.layout import differences
from layertool.store.writer import LooseShards

MAX_CHUNK = 16  # shards that a worker gets at a time, so that reading goes on from one to the next


@dataclass(frozen=True)
class Request:
    """What every worker prepares for itself. ``folder``: that paths are relative to."""

    model: str
    asked: Extraction
    folder: str = field(default_factory=os.getcwd)


@dataclass(frozen=True)
class Description:
    """What the driver has to know of a run; it opens no model itself."""

    configuration: dict
    about: dict
    labels: dict[str, list[str]]
    shards: list[Shard]
    told: list[str]  # by ``layertool.errors.tell``


class Worker:
    """The actor: one model on one device."""

    def __init__(self, request: Request, corpus: Corpus):
        self.request, self.corpus = request, corpus

    @cached_property
    def prepared(self) -> Prepared:
        """Made at the first call: of an error while an actor is made Ray passes on only the text."""
        go_to(self.request.folder)
        return self.request.asked.prepared(self.request.model, self.corpus)

    def describe(self) -> Description:
        """What it would do."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", LayertoolWarning)
            prepared = self.prepared
        said = [str(one.message) for one in told if issubclass(one.category, LayertoolWarning)]
        return Description(prepared.configuration, prepared.about, prepared.rows.labels, prepared.shards, said)

    def write(self, store: str, numbers: Sequence[int], max_failures: int, expected: dict) -> Iterator[tuple[str, Any]]:
        """Write shards; yields ("seconds", of audio since the last) and ("shard", its line of the index) as they come.

        ``expected``: the configuration of the store. Raises ModelError where the model of this machine is another.
        """
        if changed := differences(expected, self.prepared.configuration):
            raise ModelError(
                f"this machine has something else under the name {self.request.model} than the first one: "
                f"{'; '.join(changed)}; give a revision (name@revision), or the same files to all machines"
            )
        events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        asked, shards = self.request.asked, [self.prepared.shards[number] for number in numbers]
        place = LooseShards(store, self.prepared.configuration, lambda entry: events.put(("shard", entry)))

        def work() -> None:
            try:
                write_shards(
                    self.prepared,
                    place,
                    shards,
                    asked.batch_seconds,
                    asked.READING_THREADS,
                    max_failures,
                    lambda seconds: events.put(("seconds", seconds)),
                )
                events.put(("end", None))
            except BaseException as error:  # raised below, in the thread that Ray listens to
                events.put(("error", error))

        thread = threading.Thread(target=work, name="shards")
        thread.start()
        told = 0.0
        while (event := events.get())[0] not in ("end", "error"):
            if event[0] == "seconds":
                event, told = ("seconds", event[1] - told), event[1]
            yield event
        thread.join()
        if event[0] == "error":
            raise event[1]


@dataclass
class _Running:
    """A worker at its shards. ``left``: those that it has not finished; ``seconds``: of audio it has done of these."""

    actor: Any
    events: Any
    left: list[int]
    seconds: float = 0.0
    is_dead: bool = False


def extract_on_cluster(
    cluster: Cluster,
    request: Request,
    corpus: Corpus,
    out: Path | str,
    overwrite: bool = False,
    max_failures: int = 0,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> FeatureStore:
    """As ``layertool.extract``, by the workers of a cluster; the store has the same data. Every machine has to see the
    model, the audio and ``out`` under the same paths.

    Raises what a worker raises, and LayertoolError where ``MAX_DEATHS`` workers died of one shard.
    """
    import ray

    out, corpus_there = Path(out).resolve(), ray.put(corpus)
    first = cluster.start(Worker, request, corpus_there)
    described = _first_word(first, request)
    for text in described.told:
        tell(text)
    with StoreWriter(
        out, described.configuration, described.about, corpus.utterances, described.labels, overwrite
    ) as store:
        pending = [shard for shard in described.shards if shard.number not in store.finished]
        team = _Team(cluster, request, corpus_there, described, store, max_failures, progress, say)
        team.work([first], pending)
        store.finish(len(described.shards))
    return FeatureStore(out)


def _first_word(actor: Any, request: Request) -> Description:
    """What the first worker says of the run. Raises the error of its model or options."""
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(actor.describe.remote())
    except (RayActorError, RayTaskError) as error:
        raise _own_error(error, request) from None


def _own_error(error: Exception, request: Request) -> Exception:
    """The error that a worker raised, where it was one of ours: without Ray's account of where it was."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, LayertoolError):
        return cause if isinstance(cause, MissingExtraError) else type(cause)(f"a worker says: {cause}")
    return LayertoolError(
        f"a worker failed on {request.model} ({str(error).strip().splitlines()[-1]}): every machine of the cluster "
        "needs the model under this name, layertool, and enough memory"
    )


def _end(actors: Iterable[Any]) -> None:
    """Kill workers, and wait until they write no more."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    for actor in actors:
        ray.kill(actor)
    for actor in actors:
        with suppress(RayError, GetTimeoutError):  # dead, as it should be; or out of reach
            ray.get(actor.__ray_ready__.remote(), timeout=10)


class _Team:
    """The workers of a run, and who has which shards."""

    def __init__(
        self,
        cluster: Cluster,
        request: Request,
        corpus: Any,
        described: Description,
        store: StoreWriter,
        max_failures: int,
        progress: Progress | None,
        say: Callable[[str], object] | None,
    ):
        self.cluster, self.request, self.corpus, self.described = cluster, request, corpus, described
        self.store, self.max_failures, self.progress, self.say = store, max_failures, progress, say
        self.total = sum(shard.n_samples for shard in described.shards) / SAMPLE_RATE
        self.n_failed = 0
        self.deaths: dict[int, int] = {}

    def work(self, actors: list[Any], pending: Sequence[Shard]) -> None:
        """Have all of ``pending`` written. No worker is left when it returns or raises."""
        import ray

        waiting = [shard.number for shard in pending]
        idle, running, everyone = list(actors), dict[Any, _Running](), list(actors)
        starting: dict[Any, Any] = {}  # by what they answer when they have found a place
        try:
            while waiting or running:
                self._tell(running.values())
                while waiting and idle:
                    size = max(1, min(MAX_CHUNK, len(waiting) // (2 * self.cluster.n_workers)))
                    chunk, waiting = waiting[:size], waiting[size:]
                    actor = idle.pop()
                    events = actor.write.options(num_returns="streaming").remote(
                        str(self.store.path), chunk, self.max_failures, self.described.configuration
                    )
                    running[events] = _Running(actor, events, list(chunk))
                while waiting and len(running) + len(starting) < self.cluster.n_workers:
                    actor = self.cluster.start(Worker, self.request, self.corpus)
                    everyone.append(actor)
                    starting[actor.__ray_ready__.remote()] = actor
                for there in ray.wait([*running, *starting], num_returns=1)[0]:
                    if there in starting:
                        idle.append(starting.pop(there))
                        continue
                    one = running[there]
                    if self._goes_on(one):
                        continue
                    del running[there]
                    waiting = one.left + waiting  # where it died
                    if not one.is_dead:
                        idle.append(one.actor)
            self._tell(())
        finally:
            _end(everyone)
            sweep(self.store.path, layout.SHARDS)  # what they were writing

    def _goes_on(self, one: _Running) -> bool:
        """Take what a worker says next; False when it has no more to say, or is dead."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            kind, value = ray.get(next(one.events))
        except StopIteration:
            return False
        except RayTaskError as error:
            raise _own_error(error, self.request) from None
        except RayActorError as error:
            one.is_dead = True
            ray.kill(one.actor)  # it may only be out of reach, and hold its GPU
            if one.left:
                self._mourn(one, error)
            return False
        if kind == "seconds":
            one.seconds += value
            return True
        self.n_failed += len(value.get("failures", []))
        if self.n_failed > self.max_failures:
            first = value["failures"][0]
            raise LayertoolError(
                f"{self.n_failed} utterances failed, {self.max_failures} may (--max-failures): {first['error']}"
            )
        self.store.add(value)
        one.left.remove(value["shard"])
        one.seconds -= value["seconds"]
        return True

    def _mourn(self, one: _Running, error: Exception) -> None:
        """Count a death. Raises LayertoolError after too many over one shard."""
        number = one.left[0]
        self.deaths[number] = self.deaths.get(number, 0) + 1
        if self.deaths[number] >= MAX_DEATHS:
            shard = self.described.shards[number]
            raise LayertoolError(
                f"{MAX_DEATHS} workers died of shard {number} (utterances {shard.first} to {shard.last - 1} of the "
                "corpus): there may be too little memory; give a smaller --batch-seconds or fewer --workers, and run "
                "the same command again"
            ) from error
        if self.say:
            self.say(f"a worker died; shard {number} is done again by another")

    def _tell(self, running: Iterable[_Running]) -> None:
        if self.progress:
            finished = sum(self.described.shards[number].n_samples for number in self.store.finished) / SAMPLE_RATE
            self.progress(finished + sum(max(0.0, one.seconds) for one in running), self.total)
