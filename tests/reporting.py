"""Result rows of every kind for the report, the page made of them, and what the page says back."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pandas as pd

from layertool import results
from layertool.report import page
from layertool.result_rows import PARAMETERS, Result

LAYERS = ("C1", "T0", "T1", "T2")
EVIL = '</script><script>document.title = "run"</script><img src=x onerror=\'document.title="run"\'>'
TARGET = "gender=female:male, valence=positive:negative"
HOW = "notimestamps, end token, lower case, 30 s window"


def row(**fields) -> Result:
    known = {
        "analysis": "cca", "variant": "pwcca, mean of both directions, held-out", "model": "base", "corpus": "dev", "unit": "phone",
        "layer": "T0", "layer_index": 0, "target": "phone", "value": 0.5, "chance": 0.1, "n": 1133, "seed": 0, "store": "stores/base",
    }  # fmt: skip
    return Result(**{**known, **fields})


def curve(top=0.3, ci=0.03, layers=LAYERS, **fields) -> list[Result]:
    """A curve with an odd value for each layer, one layer without an interval."""
    out = []
    for k, layer in enumerate(layers):
        value = top + 0.1 * k / 3
        ends = {} if k == 1 or ci is None else {"ci_low": value - ci, "ci_high": value + ci}
        out.append(row(layer=layer, layer_index=k, value=value, **ends, **fields))
    return out


def curves() -> list[Result]:
    """Two networks, mel and a baseline, for two targets."""
    out = []
    for target in ("phone", "word"):
        out += curve(0.3, target=target) + curve(0.5, target=target, model="large", store="stores/large")
        out.append(
            row(layer="mel", target=target, model="mel", store="stores/mel", value=0.2, ci_low=0.1, ci_high=0.25)
        )
        out.append(row(layer="baseline", target=target, model="most frequent label", store=None, value=0.15))
    return out


def matrix() -> list[Result]:
    return [
        row(analysis="cka", variant="linear CKA, debiased", layer=x, layer_index=i, target=y, value=1 / (1 + abs(i - j)), chance=0.0)
        for i, x in enumerate(LAYERS) for j, y in enumerate(LAYERS)
    ]  # fmt: skip


def checkpoints() -> list[Result]:
    return [
        one
        for k, step in enumerate((0, 100, 25_000))
        for one in curve(0.2 + 0.1 * k, analysis="mi", variant="MI (nats), k-means", model="run", step=step, store=f"run/{step}")
    ]  # fmt: skip


def bias() -> list[Result]:
    out = []
    for k, store in enumerate(("w/base", "w/pruned-1", "w/pruned-2")):
        about = {
            "analysis": "speat",
            "unit": "utterance",
            "model": store.split("/")[-1],
            "store": store,
            "target": TARGET,
            "n": 40,
        }
        for layer, how in (("T0-T2", "mean over layers T0-T2"), *((name, "one layer") for name in LAYERS)):
            context, own = f"{how}, mean over time", {**about, "layer": layer, "layer_index": 9}
            d = 0.4 + 0.1 * k
            out.append(
                row(
                    **own,
                    variant=f"SpEAT d, {context}, bootstrap of targets",
                    value=d,
                    ci_low=d - 0.2,
                    ci_high=d + 0.2,
                    chance=0.0,
                )
            )
            for name, p in (("p", 0.01), ("p (Bonferroni)", 0.06), ("p (Benjamini-Hochberg)", 0.03)):
                more = "" if name == "p" else ", 3 tests together"
                out.append(
                    row(
                        **own, variant=f"{name}, {context}, X nearer to A, 999 relabellings{more}", value=p, chance=None
                    )
                )
        size = {**about, "target": "model", "layer": "model", "layer_index": 9}
        out.append(row(**size, variant=PARAMETERS, value=1e6 - 2e5 * k, chance=None))
    return out  # fmt: skip


def lexical() -> list[Result]:
    about = {
        "analysis": "lexical",
        "unit": "utterance",
        "layer": "D4",
        "layer_index": 9,
        "store": None,
        "model": "whisper",
        "chance": -160.0,
    }
    out = []
    for metric in ("log-likelihood", "Kendall tau-b"):
        variant = f"{metric}, {HOW}"
        out += [
            row(**about, variant=variant, target=name, value=-120.5, ci_low=-130, ci_high=-110)
            for name in ("all", "SSN", "BMN3")
        ]
        out += [
            row(**about, variant=variant, target=f"{m}: u{k}", value=-100.0 - 3 * k)
            for m in ("SSN", "BMN3")
            for k in range(7)
        ]
    out.append(row(**about, variant=f"log-likelihood, {HOW}", target="SSN: silent", value=float("-inf")))
    lens = {**about, "analysis": "lexical lens"}
    for k, layer in enumerate(("T0", "T1", "D0", "D1")):
        out.append(
            row(
                **{**lens, "layer": layer, "layer_index": k},
                variant=f"log-likelihood, {HOW}",
                target="all",
                value=-200.0 + k,
            )
        )
    return out  # fmt: skip


def everything() -> list[Result]:
    """Mixed rows, with an analysis that nobody knows and names that would like to be code."""
    other = curve(
        0.1, analysis="my own", variant="a number of mine, somehow", model=EVIL, corpus="<b>bold</b>", store=EVIL
    )
    alone = row(
        analysis="my own", variant="a total, somehow", layer="model", target="all of it", value=3.25, n=None, seed=None
    )
    return [*curves(), *matrix(), *checkpoints(), *bias(), *lexical(), *other, alone]


def write(folder, found, name="rows.csv", more=(), **options):
    """The page of these rows, and the table that it was made of."""
    source = results.write(found, folder / name)
    out = page.write([source, *more], folder / "report.html", **options)
    return out, results.read([source])


class _Scripts(HTMLParser):
    """The scripts of a page, and what asks a browser for another file."""

    def __init__(self):
        super().__init__()
        self.scripts, self.asked, self.tags = [], [], []
        self.inside = False

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag == "script"
        if self.inside:
            self.scripts.append((dict(attributes), ""))
        self.asked += [
            value for name, value in attributes if name in ("src", "href", "srcset", "action", "data", "poster")
        ]

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "script"

    def handle_data(self, data):
        if self.inside:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)


def parsed(path) -> _Scripts:
    parser = _Scripts()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def data_of(path) -> dict:
    """The block of numbers in a page."""
    (text,) = [text for attributes, text in parsed(path).scripts if attributes.get("id") == "data"]
    return json.loads(text)


def rows_of(data: dict) -> pd.DataFrame:
    return pd.DataFrame(data["rows"]["data"], columns=data["rows"]["columns"])


def methods_of(path) -> str:
    import html

    text = path.read_text(encoding="utf-8")
    return html.unescape(re.search(r'<p id="methods-text">(.*?)</p>', text, re.S).group(1))
