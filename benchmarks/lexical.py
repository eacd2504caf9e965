"""How fast are exact top words and the scores of responses? Against a forward for every word.

    python benchmarks/lexical.py --model WHISPER --eccc EnglishCCC_v1.2 [--stimuli 20] [-o FILE.json]

Both ways begin with the encoder's states of a stimulus, which are not timed. Slow ways, with transformers' own decoder:
every word of the lexicon teacher-forced in batches of --batch, and one forward for each response. A better brute force
is this project's own scoring of every word, which has the clip's keys and values once and shares beginnings. Both are timed
on a sample of words of each stimulus and multiplied up to the whole lexicon. Before speed is spoken of, the
log-probabilities of both ways and the top 10 of the sampled words are compared.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import common
import numpy as np
import torch

from layertool import audio
from layertool.analysis.lexical import WhisperScorer, cmudict_words
from layertool.corpora import eccc
from layertool.layerwise.stimuli import stimuli_of

TOP = 10


def forced(scorer: WhisperScorer, states: torch.Tensor, words: list[str], batch: int) -> np.ndarray:
    """Log-probability of words with transformers' decoder, ``batch`` at a time, padded at the end."""
    prefix, end = scorer.decoder.prefix, scorer.tokenizer.eos_token_id
    tokens = [[*ids, end] for ids in scorer.tokenise(words)]
    scores = []
    for first in range(0, len(tokens), batch):
        part = tokens[first : first + batch]
        longest = max(map(len, part))
        inputs = torch.tensor([prefix + ids + [end] * (longest - len(ids)) for ids in part], device=scorer.device)
        outputs = (states.expand(len(part), -1, -1),)
        log_p = scorer.network(encoder_outputs=outputs, decoder_input_ids=inputs, use_cache=False).logits.log_softmax(
            -1
        )
        for k, ids in enumerate(part):
            at = torch.arange(len(ids)) + len(prefix) - 1
            scores.append(float(log_p[k, at, torch.tensor(ids)].sum()))
    return np.array(scores)


def scored(scorer: WhisperScorer, states: torch.Tensor, words: list[str]) -> np.ndarray:
    return scorer.score(scorer.read(states), words)


def ranked_words(scorer: WhisperScorer, states: torch.Tensor, lexicon):
    return scorer.rank(scorer.read(states), lexicon, TOP)


def timed(function, *arguments) -> tuple[float, object]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begun = time.perf_counter()
    result = function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun, result


def rows(report: dict) -> list[common.Row]:
    agreement = common.agree("log-probabilities", report["largest_difference_of_log_probabilities"], 1e-3)
    top, answers = report["top_10"], report["responses"]
    what = f"exact top 10 of {report['lexicon']['words']} words"
    ours = {"seconds": top["seconds_a_stimulus"]}
    return [
        common.Row(
            "lexical/top", what, "own scoring of every word (extrapolated)", top["ratio"], agreement, ours,
            {"seconds": top["brute_force_seconds_a_stimulus"]},
        ),
        common.Row(
            "lexical/top/transformers", what, "transformers' decoder for every word (extrapolated)", top["ratio_to_transformers"],
            agreement, ours, {"seconds": top["transformers_seconds_a_stimulus"]},
        ),
        common.Row(
            "lexical/responses", "scores of a stimulus's responses", "one decoder pass for each", answers["ratio"], agreement,
            {"seconds": answers["seconds_a_stimulus"]}, {"seconds": answers["one_forward_each_seconds"]},
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("LAYERTOOL_SHARED", "../shared"))
    parser.add_argument("--model", default=str(shared / "models/whisper-tiny.en"))
    parser.add_argument("--eccc", type=Path, default=shared / "data/eccc")
    parser.add_argument("--stimuli", type=int, default=20)
    parser.add_argument("--sample", type=int, default=2048)
    parser.add_argument("--sample-slow", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    if not Path(asked.model).exists() or not asked.eccc.exists():
        print("give a Whisper with --model and the ECCC with --eccc, or both below LAYERTOOL_SHARED", file=sys.stderr)
        raise SystemExit(common.NOT_RUN)
    scorer = WhisperScorer(asked.model, device=asked.device)
    corpus = eccc.read(asked.eccc)
    stimuli = stimuli_of(corpus)[:: max(1, 719 // asked.stimuli)][: asked.stimuli]
    words = cmudict_words()
    lexicon = scorer.lexicon(words)
    sample = lexicon.words[:: len(lexicon) // asked.sample][: asked.sample]
    small = scorer.lexicon(sample)
    projected = []
    for block in scorer.decoder.decoder.layers:
        block.encoder_attn.k_proj.register_forward_hook(lambda *_: projected.append(1))
    search_s, brute_s, own_s, opened, batches, tree_s, single_s, n_forms, worst = [], [], [], [], [], [], [], [], 0.0
    for number, stimulus in enumerate(stimuli):
        waveform = audio.read_utterance(corpus.utterances.iloc[stimulus.place])
        states = scorer.encode([waveform])["final"][0]
        responses = list(stimulus.responses)
        with scorer.computing():
            if number == 0:  # warm
                scorer.rank(scorer.read(states), lexicon, TOP)
            del projected[:]
            seconds, found = timed(ranked_words, scorer, states, lexicon)
            if len(projected) != scorer.decoder.n_layers or not found.exact:
                raise SystemExit(f"keys of the clip were computed {len(projected)} times, or the search was cut short")
            search_s.append(seconds)
            opened.append(found.n_opened)
            batches.append(found.n_batches)
            seconds, own = timed(scored, scorer, states, sample)
            own_s.append(seconds * len(lexicon) / len(sample))
            seconds, scores = timed(forced, scorer, states, sample[: asked.sample_slow], asked.batch)
            brute_s.append(seconds * len(lexicon) / asked.sample_slow)
            worst = max(worst, float(np.abs(scores - own[: asked.sample_slow]).max()))
            scores = own
            best = np.argsort(-scores, kind="stable")[:TOP]
            ranked = scorer.rank(scorer.read(states), small, TOP)
            if [sample[k] for k in best] != ranked.words:
                raise SystemExit(f"{stimulus.utterance}: the search and brute force differ")
            seconds, mine = timed(scored, scorer, states, responses)
            tree_s.append(seconds)
            seconds, theirs = timed(forced, scorer, states, responses, 1)
            single_s.append(seconds)
            n_forms.append(len(responses))
            worst = max(worst, float(np.abs(mine - theirs).max()), float(np.abs(scores[best] - ranked.log_p).max()))
    report = {
        "machine": common.machine(str(scorer.device)),
        "model": scorer.provenance["id"],
        "stimuli": len(stimuli),
        "lexicon": {"words": len(lexicon), "prefixes": lexicon.n_prefixes},
        "top_10": {
            "prefixes_opened": {"median": float(np.median(opened)), "most": int(max(opened))},
            "batches": {"median": float(np.median(batches)), "most": int(max(batches))},
            "share_of_evaluations_percent": 100 * float(np.mean(opened)) / len(lexicon),
            "seconds_a_stimulus": float(np.mean(search_s)),
            "brute_force_seconds_a_stimulus": float(np.mean(own_s)),
            "brute_force_is": f"own scoring of every word, extrapolated from {len(sample)} words",
            "ratio": float(np.sum(own_s) / np.sum(search_s)),
            "transformers_seconds_a_stimulus": float(np.mean(brute_s)),
            "transformers_is": f"batches of {asked.batch}, extrapolated from {asked.sample_slow} words",
            "ratio_to_transformers": float(np.sum(brute_s) / np.sum(search_s)),
        },
        "responses": {
            "mean_number": float(np.mean(n_forms)),
            "seconds_a_stimulus": float(np.mean(tree_s)),
            "one_forward_each_seconds": float(np.mean(single_s)),
            "ratio": float(np.sum(single_s) / np.sum(tree_s)),
        },
        "keys_and_values_of_the_clip_computed": "once per stimulus and layer (counted)",
        "largest_difference_of_log_probabilities": worst,
    }
    common.deliver(report, rows(report), asked.output)


if __name__ == "__main__":
    main()
