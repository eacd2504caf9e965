"""The options of a command from the classes that declare them (``layertool.declared``), and what was typed as one of these."""

from __future__ import annotations

import inspect
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import click

from layertool.commands.options import bundle
from layertool.declared import Declared, Option, options_of

Kind = TypeVar("Kind", bound=Declared)


def declared_options(*classes: type[Declared]):
    """Decorator: the options of these classes; those that a class adds before those of its bases.

    A class may say what help shows as the defaults of inherited options (``usuals``: by name).
    """
    return bundle(*(_option(one, getattr(kind, "usuals", {})) for kind in classes for one in _ordered(kind)))


def asked(kind: type[Kind], typed: dict[str, Any]) -> Kind:
    """What was typed as an instance of ``kind``; its values are taken out of ``typed``."""
    values = {one.name: typed.pop(one.name) for one in options_of(kind)}
    return kind(**{name: value for name, value in values.items() if value is not None and value != ()})


def _ordered(kind: type[Declared]) -> list[Option]:
    homes = [inspect.get_annotations(base) for base in kind.__mro__]
    return sorted(options_of(kind), key=lambda one: -max(k for k, names in enumerate(homes) if one.name in names))[::-1]


def _option(one: Option, usuals: dict[str, str]):
    default = None if one.default is MISSING or one.default == () else one.default
    usual = usuals.get(one.name, one.about["usual"]) or _shown(default)
    flags = list(one.flags)
    if one.kind is bool and default is not False:
        flags[-1] += f"/--no-{flags[-1].removeprefix('--')}"
    return click.option(
        *flags,
        one.name,
        type=_type(one),
        is_flag=one.kind is bool,
        multiple=one.many,
        required=one.default is MISSING,
        default=None if one.many else default,
        metavar=one.about["metavar"],
        help=one.about["help"] + (f"  [default: {usual}]" if usual else ""),
    )


def _type(one: Option) -> Any:
    if one.kind is bool or one.many:
        return None  # the class itself reads the parts of a list
    if one.choices:
        return click.Choice(one.choices)
    bounds = one.about["low"], one.about["high"]
    if one.kind in (int, float) and bounds != (None, None):
        return click.IntRange(*bounds) if one.kind is int else click.FloatRange(*bounds)
    return click.Path(path_type=Path) if one.kind is Path else one.kind


def _shown(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return "yes" if default else ""
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
