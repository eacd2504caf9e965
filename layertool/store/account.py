"""What is in a store, for a person and for programs."""

from __future__ import annotations

from typing import Any

from layertool.account import Account, Table, count, duration, number, size
from layertool.layers import summary
from layertool.store import layout
from layertool.store.reader import FeatureStore


def account(store: FeatureStore) -> Account:
    """What is in a store, finished or not: what made it, its state, its rows and layers.

    ``data``: its description as it is.
    """
    about, configuration = store.about, store.configuration
    model, corpus, parameters = configuration["model"], about["corpus"], about.get("parameters") or {}
    identity = [f"{key} {model[key]}" for key in ("definition", "revision", "sha256") if model.get(key)]
    untrained = f", random weights of seed {model['random_init']}" if model.get("random_init") is not None else ""
    n, nonzero = parameters.get("all"), parameters.get("nonzero")  # acoustic features and older stores have none
    facts: list[tuple[str, Any]] = [
        ("model", f"{model['id']} ({model['family']}{untrained}; {(identity or ['no identity recorded'])[0]})"),
        ("statistics", f"{model['statistics']} (of MelHuBERT's input)" if model.get("statistics") else None),
        ("step", number(model["step"]) if isinstance(model.get("step"), int) else None),
        ("corpus", f"{corpus['name']}: {corpus['n_utterances']} utterances, {duration(corpus['seconds'])}"),
        ("state", f"{_state(store)}; left out: {len(store.failures) or 'nothing'}"),
        ("parameters", _parameters(n, nonzero) if n and nonzero is not None else None),
        ("computed in", f"{configuration['dtype']}, stored as {configuration['store_dtype']}"),
        ("size", size(sum(entry["size"] for entry in store.index.values()))),
        ("audio", _audio(about["audio"], configuration)),
        *mask_facts(configuration),
        ("made with", ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items())),
    ]
    table = Table(None, ("unit", "layers", "rows", "width", "pooling"), _rows(store))
    left_out = [f"left out: {failure['utterance']}: {failure['error']}" for failure in store.failures]
    data = {**about, "finished": store.finished, "failures": store.failures, "n_finished_shards": len(store.index)}
    return Account(str(store.path), [fact for fact in facts if fact[1] is not None], [table], left_out, data=data)


def _state(store: FeatureStore) -> str:
    if store.damaged:
        return f"damaged: shards {', '.join(map(str, store.damaged))}; run the same extract command again"
    if not store.finished:
        return f"unfinished: {len(store.index)} of {store.about['n_shards']} shards"
    return (
        f"complete, not merged: type layertool store merge {store.path}"
        if layout.part_indexes(store.path)
        else "complete"
    )


def _parameters(n: int, nonzero: int) -> str:
    return number(n) + ("" if n - nonzero < 0.01 * n else f", of which {number(n - nonzero)} are 0")


def _audio(audio: dict, configuration: dict) -> str:
    parts = [", ".join(f"{n} at {rate} Hz" for rate, n in audio.get("source_rates", {}).items())]
    if audio.get("resampler"):
        parts.append(f"resampled to {audio['sample_rate']} Hz with {audio['resampler']}")
    if configuration["channel"]:
        parts.append(f"channel {configuration['channel']}")
    if configuration["window_seconds"]:
        parts.append(f"windows of {configuration['window_seconds']:g} s where longer")
    return "; ".join(parts)


def mask_facts(configuration: dict) -> list[tuple[str, str]]:
    """The line about the time mask of pre-training, when it was on."""
    if "mask_seed" not in configuration:
        return []
    length, probability = configuration["mask_length"], configuration["mask_prob"]
    what = f"spans of {count(length, 'frame')}, probability {probability:g}, seed {configuration['mask_seed']}"
    return [("time mask", f"on: {what}")]


def _rows(store: FeatureStore) -> list[tuple]:
    """A line for each unit and row table."""
    lines = []
    for unit in store.units:
        by_table: dict[str, list[str]] = {}
        for layer, table in store.about["units"][unit]["rows"].items():
            by_table.setdefault(table, []).append(layer)
        for layers in by_table.values():
            pooling = store.configuration["units"][unit]
            if unit == "frame":
                pooling = "averaged to 10 ms" if store.about["layers"][layers[0]].get("frame_average") else ""
            widths = sorted({store.width(layer) for layer in layers})
            lines.append((unit, summary(layers), store.n_rows(unit, layers[0]), "/".join(map(str, widths)), pooling))
    return lines
