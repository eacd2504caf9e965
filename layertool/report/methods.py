"""The paragraph of methods: what was measured and how, in the words of the rows' variants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from layertool.report.inputs import Run
from layertool.report.provenance import Store
from layertool.report.references import cited
from layertool.result_rows import BASELINE, LIKELIHOOD, PARAMETERS, TAU, TOP_1, TOP_N, is_stimulus

MOST_NAMES = 8  # of models in a sentence
# What an analysis measures: the parts of its variants that a sentence is about, "" for all; each said once.
MEASURES: dict[str, list[tuple[str, str]]] = {
    "cca": [
        ("pwcca", f"Projection-weighted canonical correlation analysis {cited('hotelling1936', 'morcos2018')} relates each layer to its target, as in layer-wise analyses of speech models {cited('pasad2021', 'pasad2023')}."),
        ("mean ", f"Canonical correlations are averaged {cited('hotelling1936')}."),
        ("SVCCA", f"SVCCA reduces layers to their main directions before correlating them {cited('raghu2017')}."),
    ],
    "cka": [
        ("", f"Layers are compared with layers by centered kernel alignment {cited('kornblith2019')}."),
        (", debiased", f"It is estimated without bias {cited('song2012', 'nguyen2021')}."),
    ],
    "rsa": [("", f"Layers are compared with layers by representational similarity analysis {cited('kriegeskorte2008')}.")],
    "procrustes": [("", f"Layers are compared with layers by their distance after the best rotation {cited('schonemann1966')}.")],
    "mi": [
        ("", f"k-means clusters of each layer's vectors are related to labels by their mutual information {cited('pasad2021')}."),
        ("adjusted MI", f"Adjusted mutual information corrects for chance {cited('vinh2010')}."),
    ],
    "speat": [
        ("SpEAT d", f"Social bias is the effect size d of the Speech Embedding Association Test {cited('slaughter2023')}, as applied to self-supervised models {cited('lin2024')}: d > 0 says that the first group is nearer to the first attribute."),
        ("p,", "p is of a permutation test."),
        ("p (Benjamini", f"It is corrected for the tests made together by the false discovery rate {cited('benjamini1995')} and by Bonferroni's inequality."),
    ],
    "neighbours": [("", "Labels are read from each layer without training, by the nearest neighbours or centroids of its vectors.")],
    "probe neighbours": [("", "Labels are read from each layer without training, by the nearest neighbours or centroids of its vectors.")],
    "word discrimination": [("", f"Word discrimination is the average precision with which pairs of one word are told from pairs of two {cited('carlin2011', 'pasad2024')}.")],
    "word similarity": [("", f"Word similarity is Spearman's correlation of cosine similarities of words with human ratings {cited('pasad2024')}.")],
    "word segmentation": [
        ("", f"Word boundaries are found without training, as peaks of the dissimilarity of neighbouring frames {cited('pasad2024')}."),
        ("R-value", f"The R-value punishes over-segmentation {cited('rasanen2009')}."),
    ],
    "sentence similarity": [("", f"Sentence similarity is Spearman's correlation of cosine similarities of utterances with human ratings {cited('merkx2021', 'pasad2024')}.")],
    "lexical": [
        ("", f"Listeners' responses to single words in noise are predicted with Whisper's decoder {cited('radford2023', 'cuervo2024')}."),
        (LIKELIHOOD, "The log-likelihood is the mean over stimuli of the log multinomial probability of all responses."),
        (TAU, "Kendall's tau-b compares the ranks of responses by their counts and by their probabilities."),
        (TOP_1, "Top-1 accuracy is the share of stimuli whose most frequent response is the model's most likely word."),
        (TOP_N, "Top-n coverage is the share of the n responses to a stimulus that are among the model's n most likely words."),
    ],
    "lexical lens": [("", f"Responses {cited('cuervo2024')} are predicted from each encoder layer by the decoder of Whisper {cited('radford2023')}, and from each decoder layer by its output layer.")],
    "ctc": [
        ("", f"Models are judged by error rates of a linear head trained with connectionist temporal classification {cited('graves2006')}."),
        ("re-initialised", f"Top layers may be re-initialised before fine-tuning {cited('pasad2021')}."),
        ("frozen,", f"Frozen layers are summed with learned weights {cited('yang2021')}."),
    ],
}  # fmt: skip
TRAINED = {
    "melhubert": cited("lin2022"), "hubert": cited("hsu2021"), "wav2vec2": cited("baevski2020"),
    "distillation": cited("chang2022"), "compression": cited("lin2024"), "CTC fine-tuning": cited("graves2006"),
    "lexical fine-tuning": cited("cuervo2024"),
}  # fmt: skip


def paragraph(rows: pd.DataFrame, stores: Sequence[Store], runs: Sequence[Run]) -> str:
    """What was done, ready for a paper: every variant in the rows is named, and none that is not."""
    said = []
    if len(rows):
        said += _material(rows, stores)
        for analysis, part in rows.groupby("analysis", sort=False):
            said += _analysis(str(analysis), part)
        if rows["ci_low"].notna().any():
            said.append("Intervals are at 95 %.")
        seeds = sorted({int(seed) for seed in rows["seed"].dropna()})
        if seeds:
            said.append(f"Everything that is drawn at random is drawn from seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}.")  # fmt: skip
    said += _training(runs)
    return " ".join(said)


def _material(rows: pd.DataFrame, stores: Sequence[Store]) -> list[str]:
    versions = _listed(sorted(rows["layertool"].dropna().astype(str).unique()))
    tool = f"layertool {versions}" if versions else "layertool"
    about = rows[(rows["layer"] != BASELINE) & (rows["analysis"].notna())].drop_duplicates(
        ["model", "revision", "step"]
    )
    names = [_model(row) for _, row in about.iterrows()]
    corpora = _listed(list(dict.fromkeys(rows["corpus"].dropna().astype(str))))
    said = [f"We analysed {_listed(names, MOST_NAMES)} on {corpora or 'an unnamed corpus'} with {tool}."]
    if any(store.about for store in stores):
        said.append("Layers are named after where they are taken: C1, C2, … are outputs of the convolutions, T0 is the input of the first transformer block, Tl the output of block l.")  # fmt: skip
        pooled = {
            f"{unit} vectors ({how})" for store in stores if store.about
            for unit, how in ((store.about.get("configuration") or {}).get("units") or {}).items() if how != "none"
        }  # fmt: skip
        if pooled:
            said.append(f"Frames are pooled to {_listed(sorted(pooled))}.")
    return said


def _model(row: pd.Series) -> str:
    more = [str(row["revision"])[:12]] if isinstance(row["revision"], str) and row["revision"] else []
    if not pd.isna(row["step"]) and not math.isinf(row["step"]):
        more.append(f"step {int(row['step'])}")
    return f"{row['model']} ({', '.join(more)})" if more else str(row["model"])


def _analysis(name: str, rows: pd.DataFrame) -> list[str]:
    """What it measures, with citations, and its variants word by word."""
    variants = list(dict.fromkeys(rows["variant"].dropna().astype(str)))
    said = [text for part, text in MEASURES.get(name, []) if any(part in variant for variant in variants)]
    rows = rows[rows["variant"] != PARAMETERS]
    singles = is_stimulus(rows.assign(target=rows["target"].astype(str))) if name.startswith("lexical") else False
    targets = list(dict.fromkeys(rows["target"][~singles] if name.startswith("lexical") else rows["target"]))
    layers = set(rows["layer"].dropna().astype(str))
    others = [str(target) for target in targets if str(target).rpartition(":")[2] not in layers]
    units = _listed(list(dict.fromkeys(rows["unit"].dropna().astype(str))))
    about = "; ".join(part for part in (f"{units} rows" if units else "", _listed(others, MOST_NAMES)) if part)
    said.append(f"{name[:1].upper()}{name[1:]}{f' ({about})' if about else ''}: {'; '.join(_together(variants))}.")
    return said


def _together(variants: Sequence[str]) -> list[str]:
    """Variants, those of several metrics that were made in one way together: a, b and c, each “how”."""
    ways: dict[str, list[str]] = {}
    for variant in variants:
        metric, _, how = variant.partition(", ")
        ways.setdefault(how, []).append(metric)
    return [
        f"“{metrics[0]}{f', {how}' if how else ''}”" if len(metrics) == 1 else f"{_listed(metrics)}, each “{how}”"
        for how, metrics in ways.items()
    ]  # fmt: skip


def _training(runs: Sequence[Run]) -> list[str]:
    said = []
    for run in runs:
        settings, corpus = run.record.get("settings"), run.record.get("corpus")
        about = [
            f"{settings['steps']} steps" if isinstance(settings, dict) and "steps" in settings else "",
            f"learning rate {settings['learning_rate']:g}" if isinstance(settings, dict) and isinstance(settings.get("learning_rate"), (int, float)) else "",
            f"batches of {settings['batch_size']}" if isinstance(settings, dict) and "batch_size" in settings else "",
            f"on {corpus['name']}" if isinstance(corpus, dict) and "name" in corpus else "",
        ]  # fmt: skip
        model = run.record.get("model")
        model = model.get("id") if isinstance(model, dict) else model
        source = TRAINED.get(str(model) if run.kind == "pre-training" else run.kind, "")
        details = ", ".join(part for part in about if part)
        said.append(f"Run {run.folder.resolve().name}: {run.kind}{f' of {model}' if model else ''}{f' {source}' if source else ''}{f', {details}' if details else ''}.")  # fmt: skip
    return said


def _listed(names: Sequence[str], most: int | None = None) -> str:
    """a, b and c."""
    if most is not None and len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
