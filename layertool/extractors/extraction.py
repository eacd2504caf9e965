"""What an extraction is asked for, declared once.

The options of the command and the keywords of ``layertool.extract``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from layertool.cluster import Cluster
from layertool.declared import Declared, listed, option
from layertool.errors import UsageError

if TYPE_CHECKING:
    from layertool.extractors.prepare import Prepared

Dtype = Literal["float32", "bfloat16", "float16"]


def _pairs(given: Any) -> tuple[str, ...]:
    pairs = [f"{unit}={how}" for unit, how in given.items()] if isinstance(given, Mapping) else list(listed(given))
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"'{pair}' is not UNIT=HOW, e.g. phone=mean")
    return tuple(pairs)


@dataclass(frozen=True, kw_only=True)
class Extraction(Declared):
    """Run a model over a corpus once and write its layers into a store.

    \b
    MODEL is a Hugging Face id (facebook/wav2vec2-base, name@revision), a local folder, fairseq:FILE,
    melhubert:FILE, or an acoustic feature: stft, spectrogram, mel, mfcc, fbank, or a variant such as mel:pasad.
    With * or ? in it, all checkpoints of that name, each into a store of its own: a series.
    Families: wav2vec 2.0 (XLS-R, MMS), HuBERT (DistilHuBERT), WavLM, data2vec-audio, UniSpeech(-SAT),
    wav2vec2-conformer, Whisper, MelHuBERT.
    \b
    Examples:
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --units phone,word
      layertool extract openai/whisper-small corpus -o whisper --layers all,D0-D12
      layertool extract mel corpus -o mel --units phone,word
      layertool extract facebook/wav2vec2-base corpus -o untrained --random-init 0 --units phone,word
      layertool extract 'melhubert:run/*.ckpt' corpus -o series --units phone,utterance
      layertool extract facebook/wav2vec2-base corpus -o masked --units frame --layers T0-T12 --mask-seed 0
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --nshard 8 --rank 0
      layertool extract facebook/wav2vec2-base corpus -o w2v2 --engine ray --address auto
    """

    units: tuple[str, ...] = option(
        ("word", "utterance"), "Units of speech that get rows, among frame,phone,word,utterance.", metavar="UNITS"
    )
    layers: tuple[str, ...] = option(
        ("all",),
        "Layers to write, e.g. T0-T12,C7. 'all' leaves out Whisper's decoder; ask for it by name: all,D0-D4.",
        metavar="LAYERS",
    )
    pooling: tuple[str, ...] = option(
        (),
        "How frames are pooled to a unit: mean, min, max, centre-third, position@0.5, quarter1 to quarter4.",
        metavar="UNIT=HOW",
        usual="phone=centre-third, others mean",
        parse=_pairs,
    )
    store_dtype: Literal["float32", "float16"] = option("float32", "Precision of the numbers on the disk.")
    shard_seconds: float = option(600.0, "Audio in one shard, the unit of resuming.", low=0.01)
    window_seconds: float = option(
        60.0, "Longer utterances are run in windows of this length (Whisper: at most 30).", low=0.01
    )
    overlap_seconds: float = option(10.0, "What two windows share; they are joined in its middle.")
    channel: str | None = option(
        None, "Which channel of files that have several; mix is their mean.", metavar="N|mix|sum"
    )
    mask_seed: int | None = option(
        None,
        "Run with the time mask of pre-training on, and flag masked frames (wav2vec 2.0 kind).",
        metavar="SEED",
    )
    mask_prob: float | None = option(
        None,
        "Probability of that mask: spans * their length / frames.",
        low=0,
        high=1,
        usual="0.65, HuBERT, WavLM, UniSpeech-SAT 0.8",
    )
    mask_length: int | None = option(None, "Frames in a span of that mask.", low=1, usual="10")
    random_init: int | None = option(None, "Untrained control: draw the weights anew.", metavar="SEED")
    normalise: bool | None = option(None, "Zero mean, unit variance of the waveform.", usual="as the checkpoint says")
    cmvn: bool = option(False, "Per-utterance mean and variance normalisation of acoustic features.")
    language: str | None = option(None, "Language of the forced text, for Whisper's decoder layers.", usual="en")
    encoder_window: Literal["clip", "30s", "exact"] = option(
        "clip",
        "What Whisper's encoder sees: 30 s, the clip's frames are kept; 30 s, all frames are kept (--units frame); "
        "only the clip.",
    )
    statistics: str | None = option(
        None,
        "Statistics of MelHuBERT's input: 100, 360 or 960 hours of LibriSpeech, or a .npy file.",
        metavar="HOURS|FILE",
        usual="960",
    )
    device: str = option("auto", "Device that runs the model: auto, cpu, cuda:N or mps.")
    dtype: Dtype = option("float32", "Precision of the computation.")
    batch_seconds: float | None = option(
        None, "Padded audio in one batch.", low=0.001, usual="8 on a CPU, 400 on a GPU"
    )
    workers: int | None = option(
        None,
        "Threads that read audio, or workers of Ray.",
        metavar="N",
        low=1,
        usual="2; of Ray one a GPU, or else a core",
    )
    nshard: int | None = option(
        None,
        "Write only every N-th shard, beside other processes; 'layertool store merge' finishes.",
        metavar="N",
        low=1,
        usual="of a Slurm job array, or RANK and WORLD_SIZE",
    )
    rank: int | None = option(None, "Which of the N processes this is: 0 to N-1.", metavar="R", low=0)
    engine: Literal["local", "ray"] = option("local", "Who computes: this process, or a Ray cluster.")
    address: str | None = option(
        None,
        "Address of the Ray cluster; auto: the one this machine is part of.",
        metavar="ADDRESS",
        usual="one on this machine alone",
    )
    gpus_per_worker: float | None = option(
        None, "GPUs of each worker of Ray.", metavar="N", low=0, usual="1 where there are GPUs"
    )
    max_failures: int = option(0, "Leave out up to this many bad utterances, and list them.", low=0)
    overwrite: bool = option(False, "Start again.", usual="go on where an earlier run stopped")
    READING_THREADS: ClassVar[int] = 2
    _COMPUTED: ClassVar[tuple[str, ...]] = (
        *("device", "dtype", "random_init", "normalise", "cmvn", "language", "encoder_window", "statistics"),
    )

    def check(self) -> None:
        if self.engine == "ray" and (self.nshard, self.rank) != (None, None):
            raise UsageError("Ray deals out the shards itself: leave out --nshard and --rank, or --engine ray")
        for flag, value in (("--address", self.address), ("--gpus-per-worker", self.gpus_per_worker)):
            if self.engine != "ray" and value is not None:
                raise UsageError(f"{flag} is for Ray: add --engine ray")

    @property
    def poolings(self) -> dict[str, str]:
        """The pooling of each unit for which one was asked."""
        return {unit: how for unit, _, how in (pair.partition("=") for pair in self.pooling)}

    @property
    def computation(self) -> dict[str, Any]:
        """What decides the numbers of the model itself, as keywords of ``prepare``."""
        return {name: getattr(self, name) for name in self._COMPUTED}

    def prepared(self, model: Any, corpus: Any) -> Prepared:
        """The run, checked and planned."""
        # oneDNN, which computes convolutions on a CPU, keeps what it has prepared for each length of a batch, 1024
        # things by default, about 0.1 MB each. Lengths of speech hardly repeat, so memory grows and nothing is gained;
        # a batch needs ten. Read at the first convolution.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        from layertool.extractors.prepare import prepare

        return prepare(model, corpus, self, **self.computation)

    @contextmanager
    def cluster(self) -> Iterator[Cluster | None]:
        """The cluster that was asked for, if any, as long as it is open."""
        if self.engine == "local":
            yield None
            return
        with Cluster.open(self.address, self.workers, self.gpus_per_worker) as cluster:
            yield cluster
