"""The readers of corpora: what each is called, what it takes, what it says of itself. Commands are made of this
table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertool.declared import Option
from layertool.errors import UsageError

if TYPE_CHECKING:
    from layertool.corpora.corpus import Corpus


def _option(
    name: str, help: str, kind: Any = str, default: Any = None, choices: tuple[str, ...] = (), **about
) -> Option:
    """An option of a reader: ``n_per_speaker`` is typed ``--n-per-speaker``.

    ``about``: ``metavar``, ``low``, ``many``; ``whole``, where one of many may hold commas; ``keyword`` of the reader's
    function, where it is another.
    """
    many, whole = about.pop("many", False), about.pop("whole", False)
    known = {"help": help, "metavar": None, "low": None, "high": None, "usual": None, "parse": tuple if whole else None}
    default = () if many else default
    return Option(
        name, ("--" + name.replace("_", "-"),), kind, many, choices, default, {**known, "keyword": name, **about}
    )


RAW_LABELS = _option(
    "raw_labels",
    "Keep labels as they are.  [default: of ARPABET AH0 -> ah; silences -> SIL, noises left out]",
    bool,
    False,
)
NON_SPEECH = _option(
    "non_speech",
    "Labels that are no phone and no word either, e.g. AP,xxx; may be given again.",
    many=True,
    metavar="LABELS",
)
METADATA = (
    _option(
        "metadata",
        "Table of metadata; may be given again, each with --by.",
        Path,
        many=True,
        whole=True,
        metavar="FILE",
    ),
    _option(
        "by",
        "What joins the last --metadata: a column, also as folder names, or a pattern like '(?P<speaker>\\d+)_.*'.",
        many=True,
        whole=True,
        metavar="KEY",
    ),
    _option("text_column", "Column with the transcript, renamed to text."),
)
LABELS = (RAW_LABELS, NON_SPEECH)
CHANNEL = _option("channel", "Which channel of files that have several; mix is their mean.", metavar="N|mix|sum")
# what every reader takes
COMMON = (
    _option("name", "Name of the corpus in results.  [default: from the source]"),
    _option(
        "max_failures",
        "Leave out up to this many utterances with unusable audio or label files, and list them.",
        int,
        0,
        low=0,
    ),
)
SEED = _option("seed", "Seed of whatever is drawn.", int, low=0)


@dataclass(frozen=True)
class Reader:
    """A layout of corpora.

    ``function``: MODULE below ``layertool.corpora``, and its function; imported when it is called. ``counted``: what
    its progress counts, empty where it has none. ``writes_audio``: whether it brings audio into the folder of the
    corpus.
    """

    function: str
    help: str
    options: tuple[Option, ...]
    counted: str = ""
    writes_audio: bool = False

    @property
    def all_options(self) -> tuple[Option, ...]:
        """Its own options and those that all readers take."""
        return (*self.options, *COMMON)


READERS = {
    "folder": Reader(
        "folder:read",
        """From a folder of audio, TextGrids, transcripts, metadata.

        TextGrids, label files (.phn, .wrd, .lab, .words, .phones, .ctm, .mlf) and transcripts (.lab, .txt) are found
        beside the audio; all may be absent. Speakers with tiers of their own become an utterance each.

        A table of --metadata has one row a file, and its rows decide what is in the corpus; with --by it has one row a
        speaker, or whatever else KEY names.

        \b
        Examples:
          layertool corpus folder recordings/ -o corpus --metadata files.csv
          layertool corpus folder wavs/ -o corpus --tier phone=MAU --non-speech AP,xxx
          layertool corpus folder AudioWAV/ -o corpus --metadata demographics.csv --by '(?P<ActorID>\\d+)_.*'
          layertool corpus folder interviews/ -o corpus --tier word='* : words'
        """,
        (
            _option("textgrids", "Folder of TextGrids.  [default: beside the audio]", Path),
            *METADATA,
            _option("id_column", "Its column that names the file.  [default: utterance, utt, id, path, ...]"),
            _option(
                "tier",
                "Name of a tier in the TextGrids, e.g. phone=MAU; word='* : words' where each speaker has one; or a "
                "suffix of label files, e.g. phone=.phn.  [default: word=words, phone=phones]",
                many=True,
                whole=True,
                metavar="TIER=NAME",
                keyword="tiers",
            ),
            *LABELS,
            CHANNEL,
        ),
        "TextGrids",
    ),
    "csv": Reader(
        "tables:read_csv",
        """From a table with one row per utterance.

        It needs the column audio (or path, file, filename); utterance, start, end, channel and metadata as you like.

        \b
        Examples:
          layertool corpus csv utterances.csv -o corpus --segments words.csv
          layertool corpus csv train.tsv -o corpus --audio-root clips --metadata speakers.csv --by client_id
        """,
        (
            _option("segments", "Table with utterance, tier, start, end, label; or a .ctm or .mlf file.", Path),
            _option("audio_root", "Folder that audio paths start from.  [default: that of the table]", Path),
            *METADATA,
            *LABELS,
            CHANNEL,
        ),
    ),
    "huggingface": Reader(
        "huggingface:read",
        """From a Hugging Face dataset with an audio column.

        SOURCE is a local folder or a hub id (ID@REVISION).

        \b
        Example:
          layertool corpus huggingface juice500/spoken_sts -o sts --split test --audio-column audio_a
        """,
        (
            _option("split", "Which split of the dataset."),
            _option("config", "Which configuration of the dataset."),
            _option("audio_column", "Column with the audio.  [default: the only one]"),
            _option("id_column", "Column with the ids.  [default: id, utterance, or the row's number]"),
            _option("text_column", "Column with the transcript, renamed to text."),
            CHANNEL,
        ),
        "utterances",
        writes_audio=True,
    ),
    "lhotse": Reader(
        "lhotse:read",
        """From a Lhotse cuts manifest (.jsonl, .jsonl.gz).

        \b
        Example:
          layertool corpus lhotse cuts.jsonl.gz -o corpus
        """,
        (*LABELS, CHANNEL),
    ),
    "librispeech": Reader(
        "librispeech:read",
        """From LibriSpeech as published, with TextGrid alignments.

        The alignments are those of zenodo record 2619474 or your own.

        \b
        Example:
          layertool corpus librispeech LibriSpeech/ -o dev --split dev-clean --alignments librispeech_alignments/
        """,
        (
            _option("alignments", "Folder of TextGrids, SPLIT/SPEAKER/CHAPTER/UTTERANCE.TextGrid.", Path),
            _option(
                "split", "E.g. dev-clean; may be given again.  [default: all there are]", many=True, keyword="splits"
            ),
            *LABELS,
        ),
        "TextGrids",
    ),
    "speech-accent-archive": Reader(
        "speech_accent_archive:read",
        """From the Speech Accent Archive: website scrape or Kaggle mirror.

        Groups for SpEAT are columns: age_group (young, old), native (us, korean), gender (female, male).
        What is missing is listed, and groups stay balanced.

        \b
        Example:
          layertool corpus speech-accent-archive archive/ -o accents
        """,
        (
            _option("metadata", "Table of the speakers.  [default: the one in SOURCE]", Path),
            _option(
                "selection",
                "People of the published SpEAT tests; drawn anew, matched on age and sex; everybody.",
                str,
                "published",
                ("published", "matched", "all"),
            ),
            SEED,
        ),
    ),
    "mess": Reader(
        "mess:read",
        """From the Morgan Emotional Speech Set.

        The column valence (positive, negative) is for SpEAT. Without the ratings it comes from the emotion in the
        file name, which is not the set of the paper.

        \b
        Example:
          layertool corpus mess MESS/ -o emotions
        """,
        (
            _option(
                "ratings",
                "'Coded stimuli final.xlsx', or a .csv or .tsv of it.  [default: the one below SOURCE]",
                Path,
            ),
            _option("selection", "Only clips of the two groups, or all.", str, "rated", ("rated", "all")),
            _option("n_per_speaker", "Clips of highest and of lowest valence, of each speaker.", int, 10, low=1),
            SEED,
        ),
    ),
    "eccc": Reader(
        "eccc:read",
        """From the English Consistent Confusion Corpus.

        Words in noise with what listeners heard (responses, counts, confusion). The columns split and split_by_target
        hold train, dev, test; in the second no target word is in two of them. Rows of the table that contradict
        themselves count for --max-failures too.

        \b
        Example:
          layertool corpus eccc EnglishCCC_v1.2/ -o confusions
        """,
        (_option("seed", "Seed of the splits.", int, 0, low=0, keyword="split_seed"),),
    ),
    "timit": Reader(
        "timit:read",
        """From TIMIT as published (LDC93S1), or a copy.

        Phones and words with the times of the .PHN and .WRD files. Everybody reads the two SA sentences, so leave
        them out where training and test data must differ: --sentences SX --sentences SI.

        \b
        Example:
          layertool corpus timit TIMIT/ -o timit --sentences SX --sentences SI --phones 39
        """,
        (
            _option("split", "train or test; may be given again.  [default: both]", many=True, keyword="splits"),
            _option(
                "sentences", "Type of sentences; may be given again.  [default: all]", many=True, metavar="SA|SX|SI"
            ),
            _option(
                "phones",
                "Phones of the files, or folded as by Lee & Hon (1989).",
                str,
                "61",
                ("61", "48", "39"),
            ),
            *LABELS,
        ),
        "label files",
    ),
    "buckeye": Reader(
        "buckeye:read",
        """From the Buckeye corpus as published, unpacked.

        An utterance is a stretch of the interviewee's words between pauses; words and phones are those of the
        .words and .phones files.

        \b
        Example:
          layertool corpus buckeye buckeye/ -o buckeye
        """,
        (
            _option(
                "pause",
                "Silence, noise or interviewer of this length parts utterances.",
                float,
                0.5,
                low=0,
                metavar="SECONDS",
            ),
            _option("whole_files", "An utterance is a file of some ten minutes.", bool, False),
            *LABELS,
        ),
        "label files",
    ),
    "spoken-sts": Reader(
        "spoken_sts:read",
        """From Spoken STS: sentence pairs with human similarity scores.

        SOURCE is a copy of the Hugging Face dataset juice500/spoken_sts (a folder written by save_to_disk, a parquet
        file or a folder of them) or its hub id. The columns pair, side (a, b), speaker and similarity say which
        utterances are compared. Pairs without a score are left out and counted.

        \b
        Example:
          layertool corpus spoken-sts juice500/spoken_sts -o sts
        """,
        (
            _option("split", "Which split of the dataset.  [default: test, or the only one]"),
            _option("config", "Which configuration of the dataset."),
            CHANNEL,
        ),
        "utterances",
        writes_audio=True,
    ),
}


def make(
    layout: str,
    source: Path | str,
    out: Path | str | None = None,
    progress: Callable[[float, float], object] | None = None,
    **options,
) -> Corpus:
    """Make a corpus of a layout of ``READERS``, as ``layertool corpus LAYOUT`` does, and do not write it yet.

    ``out``: the folder of the corpus, for readers that bring audio into it. ``options``: those of the command, with
    underscores. Raises UsageError for a layout that there is not, and what the reader raises.
    """
    if layout not in READERS:
        raise UsageError(f"there is no reader '{layout}': choose from {', '.join(READERS)}")
    reader = READERS[layout]
    declared = {option.name: option for option in reader.all_options}
    if unknown := options.keys() - declared.keys():
        raise UsageError(f"the reader '{layout}' has no option '{min(unknown)}': choose from {', '.join(declared)}")
    # what is not given is for the reader to decide
    given = {
        declared[name].about["keyword"]: declared[name].value(value)
        for name, value in options.items()
        if value not in (None, ())
    }
    if RAW_LABELS in reader.options:
        from layertool.corpora.labels import Rules

        given["rules"] = Rules(given.pop("raw_labels", False), tuple(given.pop("non_speech", ())))
    if reader.counted:
        given["progress"] = progress
    if reader.writes_audio:
        given["out"] = out
    module, function = reader.function.split(":")
    return getattr(import_module(f"layertool.corpora.{module}"), function)(source, **given)
