"""Options that several commands share."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import click
from click.core import ParameterSource

from layertool.cluster import ENGINES, Cluster
from layertool.errors import UsageError

HELP: dict = {"help_option_names": ["-h", "--help"], "max_content_width": 110}

quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no notes, only results and errors.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


class ModelText(click.ParamType):
    """What is typed for MODEL, as a ``layertool.Model``; ``series``: with a pattern in it many, each with a name for its store."""

    name = "model"

    def __init__(self, series: bool = False):
        self.series = series

    def convert(self, value, _param, _ctx):
        from layertool.models.open import Model

        if not isinstance(value, str):
            return value
        return Model.series(value) if self.series else Model.open(value)


def output_folder(what: str):
    """The -o option of a command that writes a folder."""
    return click.option(
        "-o",
        "--output",
        "out",
        type=click.Path(path_type=Path),
        required=True,
        metavar="FOLDER",
        help=f"{what} to write.",
    )


def _conditions(_ctx, _param, values: tuple[str, ...]):
    from layertool.analysis.rows import parse_where

    return parse_where(values)


where_option = click.option(
    "--where",
    multiple=True,
    callback=_conditions,
    metavar="COLUMN=VALUE",
    help="Only rows with this value (or COLUMN!=VALUE) of a column of theirs or of their utterance. Repeatable: the "
    "same column again is an alternative, another column has to hold too.",
)
seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything that is drawn."
)
device_option = click.option(
    "--device", default="auto", show_default=True, help="Where products are computed: auto, cpu or cuda:N."
)


def names(_ctx, _param, values: tuple[str, ...]) -> tuple[str, ...]:
    """Callback of an option that takes names separated by commas and may be given again: each once."""
    return tuple(dict.fromkeys(part.strip() for value in values for part in value.split(",") if part.strip()))


def typed(names: set[str]) -> list[str]:
    """Those of the running command's options that a person typed."""
    context = click.get_current_context()
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names and context.get_parameter_source(parameter.name) == ParameterSource.COMMANDLINE
    ]


def bundle(*options):
    """Several options as one decorator; help shows them in this order."""

    def decorate(command):
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


# Where the rows of an analysis go.
place_options = bundle(
    click.option("-o", "--output", "out", type=click.Path(path_type=Path), default=None,
                 metavar="FILE", help="Write the result rows as .csv, .parquet or .json."),
    click.option("--plot", type=click.Path(path_type=Path), default=None, metavar="FILE",
                 help="Draw the figure as .png, .pdf or .svg."),
    json_option,
    quiet_option,
)  # fmt: skip
# The options of every analysis of a store: which rows and layers it takes, its seed, where its rows go.
result_options = bundle(
    click.option("--unit", default=None, metavar="UNIT", help="frame, phone, word or utterance."),
    click.option("--layers", default="all", show_default=True, metavar="LAYERS", help="E.g. T0-T12,C7."),
    where_option,
    seed_option,
    place_options,
)  # fmt: skip


engine_options = bundle(
    click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True,
                 help="Who computes: this process, or a Ray cluster."),
    click.option("--address", default=None, metavar="ADDRESS",
                 help="Of the Ray cluster; auto: the one this machine is part of.  [default: one on this machine alone]"),
)  # fmt: skip


def on_an_engine(threads: bool = False):
    """Options of who computes, for a command that knows nothing of them: an open cluster takes its layers side by side.

    ``threads``: here it takes them side by side, too, and is told how many (``workers``). Goes right above the function.
    """

    def decorate(command):
        @wraps(command)
        def run(*arguments, engine: str, address: str | None, workers: int | None, **asked):
            own = {"workers": workers} if threads else {}
            if engine == "ray":
                with Cluster.open(address, workers):
                    return command(*arguments, **own, **asked)
            for name, value in (("--address", address), ("--workers", None if threads else workers)):
                if value is not None:
                    raise UsageError(f"{name} is for Ray: add --engine ray")
            return command(*arguments, **own, **asked)

        return bundle(
            click.option("--workers", type=click.IntRange(min=1), default=None, metavar="N",
                         help=("Layers at once, each in memory." if threads else "Of Ray: layers at once.") + "  [default: one a core]"),
            engine_options,
        )(run)  # fmt: skip

    return decorate


# How many rows are drawn of all there are.
draw_options = bundle(
    click.option("--max-utterances", type=click.IntRange(min=1), default=None, metavar="N",
                 help="Draw so many utterances instead."),
    click.option("--per-label", type=click.IntRange(min=1), default=None, metavar="N",
                 help="Draw up to so many rows of each label instead."),
    click.option("--top-labels", type=click.IntRange(min=2), default=None, metavar="N",
                 help="Take only so many of the most frequent labels instead."),
)  # fmt: skip
# The same, or what the papers drew.
sampling_options = bundle(
    click.option("--sample", type=click.Choice(["published", "all"]), default="published", show_default=True,
                 help="published: 500 utterances of frames, 200 rows a phone, 15 of the 500 most frequent words."),
    draw_options,
)  # fmt: skip
MEASURES = {
    "cka": "linear CKA",
    "cka-rbf": "RBF CKA",
    "procrustes": "Procrustes distance",
    "rsa": "RSA",
    "cca": "PWCCA",
}


def measure_options(what: str):
    """How layers are compared with layers; ``what``: the help of --measure."""
    return bundle(
        click.option("--measure", type=click.Choice(list(MEASURES)), default="cka", show_default=True, help=what),
        click.option("--biased", is_flag=True, help="CKA as in Kornblith et al. 2019, far above 0 by chance."),
        click.option("--distance", type=click.Choice(["correlation", "cosine", "euclidean"]), default="correlation",
                     show_default=True, help="Of rows, for rsa."),
        click.option("--max-rows", type=click.IntRange(min=4), default=2000, show_default=True,
                     help="Sample of rows for cka-rbf and rsa, which compare all pairs."),
    )  # fmt: skip


def sampling_of(sample: str, max_utterances: int | None, per_label: int | None, top_labels: int | None):
    """What the sampling options ask for; None is the published rules."""
    from layertool.analysis.rows import ALL, Sampling

    asked = Sampling(max_utterances, top_labels, per_label)
    return asked if asked != ALL else ALL if sample == "all" else None
