"""The Python function of every analysis: the inputs of its command, then its options as keywords."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from layertool.layerwise import ANALYSES, declared
from layertool.spelling import meant

COMMON = {"engine": "local", "address": None, "workers": None, "progress": None}


@cache
def named(command: str) -> Callable[..., Any]:
    """The function of the analysis that a command names, e.g. "probe neighbours"."""
    return function(declared(command))


def function(analysis: Any) -> Callable[..., Any]:
    """The function of a declared analysis; it returns ``Results`` and raises LayertoolError, in one sentence.

    Besides the options of the declaration it takes ``engine`` (local or ray), ``address`` of a Ray cluster, ``workers``
    (pieces of work at once) and ``progress``, called with (done, total).
    """
    from layertool.declared import keywords, options_of
    from layertool.errors import UsageError, telling_once
    from layertool.results import Results

    words = analysis.command.replace(" ", ".")
    n_needed = sum(not name.startswith("[") for name in analysis.inputs)

    def call(*inputs: Any, **options: Any) -> Results:
        common = {name: options.pop(name, usual) for name, usual in COMMON.items()}
        tables: dict[str, list] = {}
        if not n_needed <= len(inputs) <= len(analysis.inputs):
            raise UsageError(
                f"layertool.{words} takes {' and '.join(analysis.inputs)}, not {len(inputs)} inputs: "
                "several stores are one list, options have names"
            )
        asked = analysis.of_call(words, options, COMMON)
        with telling_once():
            return Results(asked.run(*inputs, **common, tables=tables), tables)

    kinds = inspect.Parameter
    inputs = [
        kinds(name.strip(".[]").lower(), kinds.POSITIONAL_ONLY, default=None if name.startswith("[") else kinds.empty)
        for name in analysis.inputs
    ]
    common = [kinds(name, kinds.KEYWORD_ONLY, default=usual) for name, usual in COMMON.items()]
    call.__signature__ = inspect.Signature([*inputs, *keywords(analysis), *common])  # type: ignore[attr-defined]
    call.__name__ = call.__qualname__ = analysis.command.split()[-1]
    call.__doc__ = inspect.cleandoc(analysis.__doc__ or "").replace("\b\n", "") + "\n\nOptions:\n"
    call.__doc__ += "\n".join(f"    {one.name}: {one.about['help']}" for one in options_of(analysis))
    return call


def of_group(group: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a module that holds the functions of a group of commands."""
    names = {words.removeprefix(group + " "): words for words in ANALYSES if words.startswith(group + " ")}

    def get(name: str) -> Any:
        if name in names:
            return named(names[name])
        raise AttributeError(f"layertool.{group} has no '{name}'; {meant(name, names, 'functions')}")

    return get, lambda: sorted(names)
