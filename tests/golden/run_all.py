"""The rows of every analysis and of the options that lead it another way, for comparison after a change.

``python -m tests.golden.run_all OUT.parquet`` writes them, each with the name of its case.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `import models` beside pytest

from commands import succeeds
from golden.inputs import BUILDERS

from layertool import results

GOLDEN = Path(__file__).with_name("rows.parquet")
# {name}: a folder that BUILDERS[name] fills; {out}: where rows go, if that is not -o; {case}: a folder of its own.
_CCA = "cca {planted}/one --device cpu"
_CKA = "cka {planted}/one {planted}/two --unit phone --device cpu"
_MI = "mi {planted}/one --clusters 12"
_GENDER = "--target gender=female:male --attribute valence=positive:negative --permutations 2000 --n-resamples 300"
_SPEAT = f"speat {{planted}}/one {_GENDER}"
_EDGES = "probe segmentation {planted}/one"
_HEARD = "{lexical}/corpus --encoder-window exact --device cpu"
_RANKED = f"{_HEARD} --lexicon {{lexical}}/words.txt"
_TINY = "shared/models/whisper-tiny.en {eccc}/corpus --where utterance=T_3892 --where utterance=T_3997 --device cpu"
_CTC = "{ctc}/corpus -o {case} --results {out} --steps 4 --save-steps 2 --batch-size 2 --device cpu"
CASES: dict[str, str] = {
    # correlation
    "cca phone": f"{_CCA} --with phone",
    "cca phone frames": f"{_CCA} --with phone --unit frame",
    "cca phone words": "cca {networks}/one --with phone --unit phone --device cpu",
    "cca word": f"{_CCA} --with word",
    "cca in-sample": f"{_CCA} --with phone --protocol in-sample",
    "cca in-sample eps": f"{_CCA} --with word --protocol in-sample --eps 1e-3",
    "cca eps published": f"{_CCA} --with phone --eps published",
    "cca eps published in-sample": f"{_CCA} --with phone --eps published --protocol in-sample",
    "cca eps list": f"{_CCA} --with phone --eps 1e-3,1e-1",
    "cca variants": f"{_CCA} --with phone --variant pwcca,pwcca-x,pwcca-y,mean,mean-square,svcca,legacy",
    "cca variants in-sample": f"{_CCA} --with T0 --protocol in-sample --variant pwcca,pwcca-x,pwcca-y,mean,"
    "mean-square,svcca,legacy",
    "cca svcca share": f"{_CCA} --with word --variant svcca --share 0.7",
    "cca folds random": f"{_CCA} --with phone --folds random --n-folds 8 --trials 2",
    "cca folds type-disjoint": f"{_CCA} --with embedding:{{planted}}/glove.txt --folds type-disjoint --n-folds 5"
    " --trials 1",
    "cca folds speaker-disjoint": f"{_CCA} --with phone --folds speaker-disjoint --n-folds 4 --trials 1",
    "cca samples": f"{_CCA} --with phone --draws 2 --seed 5 --per-label 20",
    "cca sample all": f"{_CCA} --with phone --sample all",
    "cca sampling": f"{_CCA} --with phone --per-label 25 --top-labels 5 --max-utterances 12",
    "cca where": f"{_CCA} --with phone --where speaker!=s0 --where label=h --where label=r --where label=g",
    "cca layer": f"{_CCA} --with T0 --sample all",
    "cca layer of networks": "cca {networks}/one --with C7 --with T0 --layers T1,T2 --n-folds 6 --device cpu",
    "cca store": "cca {planted}/one {planted}/checkpoint-1000 --with {planted}/two --with {planted}/two:T2"
    " --unit word --device cpu",
    "cca embedding": f"{_CCA} --with embedding:{{planted}}/glove.txt --min-coverage 0.9",
    "cca mel": "cca {networks}/one --with mel --with fbank --layers C7,T2 --device cpu",
    "cca mel of phones": "cca {speech}/whisper --with {speech}/mel:mel --unit phone --trials 1 --device cpu",
    "cca speech mel": "cca {speech}/whisper --with mel --layers T0,T4 --n-folds 6 --trials 1 --device cpu",
    "cca speech phone": "cca {speech}/whisper {speech}/mel --with phone --eps published --trials 1 --n-folds 5"
    " --layers all --device cpu",
    # layers with layers
    "cka": "cka {planted}/one --device cpu",
    "cka stores": _CKA,
    "cka other layers": f"{_CKA} --layers T1 --other-layers T0,T2",
    "cka biased": f"{_CKA} --biased",
    "cka sampling": f"{_CKA} --per-label 20 --seed 3 --where split=dev",
    "cka words": "cka {networks}/one {networks}/two --unit word --sample all --device cpu",
    **{f"cka {name}": f"{_CKA} --measure {name}" for name in ("cka-rbf", "procrustes", "rsa", "cca")},
    **{
        f"cka one {name}": f"cka {{networks}}/one --measure {name} --max-rows 120 --layers T0,T2 --device cpu"
        for name in ("cka-rbf", "procrustes", "rsa", "cca")
    },
    "cka rsa cosine": f"{_CKA} --measure rsa --distance cosine --max-rows 90",
    "cka rsa euclidean": f"{_CKA} --measure rsa --distance euclidean --max-rows 90",
    "cka cka-rbf biased": f"{_CKA} --measure cka-rbf --biased --max-rows 100",
    "cka speech": "cka {speech}/whisper --unit phone --device cpu",
    "compare stores": "compare {planted}/one {planted}/two {planted}/checkpoint-1000 --unit phone --device cpu",
    "compare same layer": "compare {planted}/checkpoint-1000 {planted}/checkpoint-2000 {planted}/checkpoint-4000"
    " --same-layer --unit word --measure procrustes --device cpu",
    "compare files": "compare {files}/mi.csv {files}/cca.json",
    "compare files, chosen": "compare {files}/mi.csv {files}/cca.json --analysis mi --target phone --metric mi",
    # information
    "mi phone": f"{_MI} --labels phone",
    "mi phone, usual clusters": "mi {networks}/one --labels phone --layers C7,T1",
    "mi word": f"{_MI} --labels word --batch-size 20",
    "mi column": f"{_MI} --labels speaker",
    "mi column of phones": f"{_MI} --labels speaker --unit phone --repeats 2 --seed 4",
    "mi frames": f"{_MI} --labels phone --unit frame --layers T2",
    "mi fit where": f"{_MI} --labels phone --fit-where split=train --where split=dev",
    "mi fit on": f"{_MI} --labels phone --fit-on {{planted}}/tune",
    "mi standardise": f"{_MI} --labels phone --standardise",
    "mi sample all": f"{_MI} --labels word --sample all",
    "mi stores": "mi {planted}/checkpoint-1000 {planted}/checkpoint-2000 --labels phone --clusters 8 --repeats 2",
    "mi speech": "mi {speech}/whisper --labels phone --clusters 40 --standardise --repeats 1",
    # probes
    "discrimination": "probe discrimination {planted}/one {planted}/mel --min-seconds 0.3",
    "discrimination dtw": "probe discrimination {planted}/one --distance dtw --layers T0,T2 --min-seconds 0.3"
    " --per-label 6",
    "discrimination cross-speaker": "probe discrimination {planted}/one --cross-speaker --resample speakers"
    " --min-seconds 0.3",
    "discrimination without intervals": "probe discrimination {planted}/one --resample none --min-characters 6"
    " --min-seconds 0.3",
    "discrimination sampling": "probe discrimination {planted}/one --min-seconds 0.3 --per-label 8 --top-labels 4"
    " --max-utterances 20 --seed 2 --where speaker!=s1",
    "discrimination speech": "probe discrimination {speech}/whisper --min-characters 3 --min-seconds 0.15",
    "word similarity": "probe similarity {planted}/one {planted}/two --benchmark {planted}/tasks"
    " --embeddings {planted}/glove.txt",
    "word similarity, few tokens": "probe similarity {planted}/one --benchmark {planted}/tasks/men.csv --min-tokens 2"
    " --max-tokens 3 --where split=dev --seed 1",
    "segmentation": f"{_EDGES} --window 1,2 --prominence 0.1,1",
    "segmentation, the whole grid": f"{_EDGES} --layers T1 --max-utterances 10",
    "segmentation tune-on": f"{_EDGES} --tune-on {{planted}}/tune --tune-for R-value --window 1,4 --prominence 0.1,1,3",
    "segmentation fixed": f"{_EDGES} --distance cosine --window 4 --prominence 0.03 --resample speakers --tolerance 40",
    "segmentation token F1": f"{_EDGES} --tune-for 'token F1' --resample none --window 1,2 --prominence 0.1,1"
    " --max-utterances 9 --where speaker!=s3",
    "segmentation speech": "probe segmentation {speech}/mel --window 1,4 --prominence 0.1,1",
    "sentences": "probe sentences {planted}/one {planted}/mel",
    "sentences across speakers": "probe sentences {planted}/one --across-speakers --resample speakers",
    "sentences without intervals": "probe sentences {planted}/one --resample none --where split=dev --seed 3",
    "neighbours phone": "probe neighbours {planted}/one {planted}/two --labels phone",
    "neighbours word": "probe neighbours {planted}/one --labels word --method knn -k 1 --top-labels 5",
    "neighbours speaker": "probe neighbours {planted}/one --labels speaker --unit utterance",
    "neighbours groups": "probe neighbours {planted}/one --labels gender --groups speaker --method centroid --n-folds 2",
    "neighbours sampling": "probe neighbours {planted}/one --labels phone --per-label 15 --max-utterances 20 --n-folds 3"
    " --seed 6 --where speaker!=s2 -k 3",
    "neighbours frames": "probe neighbours {planted}/one --labels phone --unit frame --max-utterances 6 --layers T2",
    "neighbours all": "probe neighbours {networks}/one --labels phone --sample all",
    "neighbours of the demo": "demo -o {case}",
    "neighbours speech": "probe neighbours {speech}/whisper {speech}/mel --labels phone --method centroid --sample all",
    # bias
    "speat": _SPEAT,
    "speat aggregates": f"{_SPEAT} --aggregate max,min,concat,normalized-mean,last",
    "speat compat": f"speat {{networks}}/one {{networks}}/two {_GENDER} --aggregate speat-compat,each",
    "speat two targets": f"{_SPEAT} --target age=young:old --aggregate mean --alternative two-sided",
    "speat less": f"{_SPEAT} --alternative less --aggregate each --layers T0,T2 --seed 4",
    "speat resample all": f"{_SPEAT} --resample all --aggregate mean",
    "speat resample none": f"{_SPEAT} --resample none --aggregate mean",
    "speat strata": f"{_SPEAT} --strata sex --aggregate mean",
    "speat pairs": f"{_SPEAT} --pairs twin --aggregate mean",
    "speat files": "speat {planted}/one --target ids=@{planted}/x.txt:@{planted}/y.txt --permutations 1000"
    " --attribute valence=positive:negative --n-resamples 200",
    "speat exact": f"{_SPEAT} --where sex=f --permutations 1000000 --aggregate mean",
    "speat words": f"{_SPEAT} --unit word --aggregate mean",
    "speat stores": f"speat {{planted}}/one {{planted}}/two {{planted}}/mel {_GENDER} --aggregate mean",
    "speat step": f"speat {{planted}}/checkpoint-1000 {{planted}}/checkpoint-2000 {_GENDER} --x step",
    "speat parameters": f"speat {{planted}}/p20 {{planted}}/p50 {_GENDER} --x parameters --reference {{planted}}/base",
    # lexical responses
    "lexical score": f"lexical score {{lexical}}/small {{lexical}}/other {_HEARD}",
    "lexical score test": f"lexical score {{lexical}}/small {_HEARD} --split test --no-end-token --seed 3",
    "lexical score disjoint": f"lexical score {{lexical}}/small {_HEARD} --split dev --target-disjoint --timestamps",
    "lexical score marginal": f"lexical score {{lexical}}/small {_HEARD} --surface marginal --where masker=SSN",
    "lexical score drawn anew": f"lexical score {{lexical}}/small {_HEARD} --random-init 5",
    "lexical score window": "lexical score {lexical}/small {lexical}/corpus --encoder-window clip --split dev"
    " --device cpu",
    "lexical score states": f"lexical score {{lexical}}/small {_HEARD} --states {{case}} --surface capitalised",
    "lexical rank": f"lexical rank {{lexical}}/small {_RANKED}",
    "lexical rank ended": f"lexical rank {{lexical}}/small {_RANKED} --most-prefixes 2 --split train",
    "lexical baselines": f"lexical baselines {{lexical}}/small {_RANKED}",
    "lexical baselines all": f"lexical baselines {{lexical}}/small {{lexical}}/other {_RANKED} --split all"
    " --smoothing 0",
    "lexical lens": f"lexical lens {{lexical}}/small {_RANKED} --split test",
    "lexical lens unranked": f"lexical lens {{lexical}}/small {_HEARD} --no-top-words --layers T1,final,D1",
    "lexical score whisper": f"lexical score {_TINY}",
    "lexical rank whisper": f"lexical rank {_TINY} --encoder-window clip",
    "lexical lens whisper": f"lexical lens {_TINY} --encoder-window exact --lexicon {{eccc}}/words.txt"
    " --layers T2,T4,D2,D4",
    # training
    "ctc sweep": f"finetune ctc {{ctc}}/run/step-10 {_CTC} --reinit-top 0,2 --sweep-reinit --test-where split=test",
    "ctc frozen": f"finetune ctc {{ctc}}/run/step-* {_CTC} --tokens phone --freeze --weighted-sum --normalise-layers",
}
KEY = ["analysis", "metric", "model", "step", "unit", "layer", "layer_index", "target"]
NUMBERS = ["value", "ci_low", "ci_high", "chance"]
EXACT = ["n", "seed"]


class Inputs:
    """A folder in which cases run, with what they read: made when a case asks for it first."""

    def __init__(self, root: Path, shared: Path) -> None:
        self.root = root
        self._made: set[str] = set()
        (root / "shared").symlink_to(shared)

    def rows_of(self, case: str) -> pd.DataFrame:
        """The rows of a case with the columns of ``KEY``, NUMBERS and EXACT."""
        out = Path(f"rows/{case.replace(' ', '-')}.parquet")
        asked = CASES[case]
        with contextlib.chdir(self.root), one_thread():
            for name in set(re.findall(r"\{(\w+)\}", asked)) & set(BUILDERS) - self._made:
                Path(name).mkdir()
                BUILDERS[name](Path(name))
                self._made.add(name)
            places = {name: name for name in BUILDERS} | {"out": out, "case": f"runs/{case.replace(' ', '-')}"}
            arguments = [*shlex.split(asked.format(**places)), "-q"]
            if asked.startswith("demo"):
                out = Path(places["case"]) / "demo.csv"
            elif "{out}" not in asked:
                arguments += ["-o", out]
            succeeds(*arguments)
            return keyed(results.read([out]), self.root)


def keyed(rows: pd.DataFrame, root: Path) -> pd.DataFrame:
    """What is compared of rows: without the wording of their variants, and without the folder they were made in."""
    if "metric" not in rows:
        rows = rows.assign(metric=rows["variant"].str.split(", ").str[0])
    rows = rows[[*KEY, *NUMBERS, *EXACT]].copy()
    for name in KEY:
        rows[name] = rows[name].map(lambda cell: "" if pd.isna(cell) else str(cell).replace(f"{root}/", ""))
    rows["step"] = rows["step"].str.removesuffix(".0")
    for name in [*NUMBERS, *EXACT]:
        rows[name] = pd.to_numeric(rows[name]).astype(float)
    return rows


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine."""
    import threadpoolctl
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def libraries() -> dict[str, str]:
    """What decides the last digits: other machines and libraries add in another order."""
    import threadpoolctl

    names = ("numpy", "scipy", "scikit-learn", "torch", "transformers", "soxr")
    kernels = sorted({str(one.get("architecture")) for one in threadpoolctl.threadpool_info()} - {"None"})
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"machine": platform.machine(), "kernels": " ".join(kernels)}


def main(out: Path, shared: Path) -> None:
    """Run all cases and write their rows."""
    import tempfile

    parts = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(Path(folder).resolve(), shared)
        for case in CASES:
            begun = time.perf_counter()
            rows = inputs.rows_of(case)
            rows.insert(0, "case", case)
            parts.append(rows)
            print(f"{time.perf_counter() - begun:6.2f} s {len(rows):5} rows  {case}", flush=True)
    table = pd.concat(parts, ignore_index=True)
    table.attrs["made_with"] = libraries()
    table.to_parquet(out, index=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(os.environ["LAYERTOOL_SHARED"]).resolve())
