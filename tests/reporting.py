"""Result rows of every kind for the report, the page made of them, and what the page says back."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pandas as pd

from layertool import report, result_rows
from layertool.result_rows import PARAMETERS, Result

LAYERS = ("C1", "T0", "T1", "T2")
EVIL = '</script><script>document.title = "run"</script><img src=x onerror=\'document.title="run"\'>'
TARGET = "gender=female:male, valence=positive:negative"
HOW = {"end_token": True, "case": "lower", "window": "30 s"}


def row(metric="pwcca", settings=None, **fields) -> Result:
    known = {
        "analysis": "cca",
        "model": "base",
        "corpus": "dev",
        "unit": "phone",
        "layer": "T0",
        "layer_index": 0,
        "target": "phone",
        "value": 0.5,
        "chance": 0.1,
        "n": 1133,
        "seed": 0,
        "store": "stores/base",
    }
    return result_rows.row(metric, {"protocol": "held-out"} if settings is None else settings, **{**known, **fields})


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
        row("linear cka", {}, analysis="cka", layer=x, layer_index=i, target=y, value=1 / (1 + abs(i - j)), chance=0.0)
        for i, x in enumerate(LAYERS)
        for j, y in enumerate(LAYERS)
    ]


def checkpoints(steps=(0, 100, 25_000)) -> list[Result]:
    return [
        one
        for k, step in enumerate(steps)
        for one in curve(0.2 + 0.1 * k, analysis="mi", metric="mi", model="run", step=step, store=f"run/{step}")
    ]


def bias() -> list[Result]:
    out = []
    for k, store in enumerate(("w/whole", "w/pruned-1", "w/pruned-2")):
        about = {"analysis": "speat", "unit": "utterance", "model": store.split("/")[-1], "store": store}
        about |= {"target": TARGET, "n": 40, "layer_index": 9}
        for layer, aggregate in (("T0-T2", "mean"), *((name, "each") for name in LAYERS)):
            settings, d = {"aggregate": aggregate, "alternative": "greater"}, 0.4 + 0.1 * k
            own = {**about, "layer": layer, "settings": settings}
            out.append(row("d", **own, value=d, ci_low=d - 0.2, ci_high=d + 0.2, chance=0.0))
            for name, p in (("p", 0.01), ("p bonferroni", 0.06), ("p benjamini-hochberg", 0.03)):
                out.append(row(name, **own, value=p, chance=None))
        out.append(row(PARAMETERS, **about | {"target": "model"}, layer="model", value=1e6 - 2e5 * k, chance=None))
    return out


def lexical() -> list[Result]:
    about = {"analysis": "lexical", "unit": "utterance", "layer": "D4", "layer_index": 9, "store": None}
    about |= {"model": "whisper", "chance": -160.0, "settings": HOW}
    out = []
    for metric in ("log-likelihood", "Kendall tau-b"):
        for name in ("all", "SSN", "BMN3"):
            group = None if name == "all" else name
            out.append(row(metric, **about, target=name, group=group, value=-120.5, ci_low=-130, ci_high=-110))
        for m in ("SSN", "BMN3"):
            out += [
                row(metric, **about, target=f"{m}: u{k}", group=m, item=f"u{k}", value=-100.0 - 3 * k) for k in range(7)
            ]
    out.append(row("log-likelihood", **about, target="SSN: silent", group="SSN", item="silent", value=float("-inf")))
    lens = {**about, "analysis": "lexical lens", "target": "all"}
    for k, layer in enumerate(("T0", "T1", "D0", "D1")):
        out.append(row("log-likelihood", **{**lens, "layer": layer, "layer_index": k}, value=-200.0 + k))
    return out


def everything() -> list[Result]:
    """Mixed rows, with an analysis that nobody knows and names that would like to be code."""
    other = curve(0.1, analysis="my own", metric="a number of mine", model=EVIL, corpus="<b>bold</b>", store=EVIL)
    alone = {"layer": "model", "target": "all of it", "value": 3.25, "n": None, "seed": None}
    return [
        *curves(),
        *matrix(),
        *checkpoints(),
        *bias(),
        *lexical(),
        *other,
        row("a total", analysis="my own", **alone),
    ]


def write(folder, found, name="rows.csv", more=(), **options):
    """The page of these rows, and the table that it was made of."""
    source = result_rows.write(found, folder / name)
    out = report.write([source, *more], folder / "report.html", **options)
    return out, result_rows.read([source])


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


def about(model="base", revision="abc", corpus="dev"):
    return {
        "schema": 1, "n_shards": 1, "corpus": {"name": corpus, "n_utterances": 3, "seconds": 90.0}, "versions": {"torch": "2"},
        "configuration": {"model": {"id": model, "revision": revision, "family": "wav2vec2"}, "layers": list(LAYERS), "units": {"phone": "centre-third"}, "dtype": "float32", "store_dtype": "float16"},
        "configuration_hash": "c0ffee",
    }  # fmt: skip


def put(folder, known):
    folder.mkdir(parents=True)
    (folder / "store.json").write_text(known if isinstance(known, str) else json.dumps(known), encoding="utf-8")
