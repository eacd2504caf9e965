"""The options of a command from the classes that declare them (``layertool.declared``), and what was typed of them."""

from __future__ import annotations

from typing import Any, TypeVar

import click

from layertool.declared import MISSING, Declared, Option, options_of

Kind = TypeVar("Kind", bound=Declared)


def declared_options(*classes: type[Declared]):
    """Decorator: the options of these classes, in their order.

    A class may say what help shows as the defaults of options that it inherits (``usuals``: by name).
    """

    def decorate(command):
        for kind in reversed(classes):
            for one in reversed(options_of(kind)):
                option = click_option(one, getattr(kind, "usuals", {}).get(one.name))
                command.__dict__.setdefault("__click_params__", []).append(option)
        return command

    return decorate


def asked(kind: type[Kind], typed: dict[str, Any]) -> Kind:
    """What was typed as an instance of ``kind``; its values are taken out of ``typed``."""
    values = {one.name: typed.pop(one.name) for one in options_of(kind)}
    return kind(**{name: value for name, value in values.items() if value != ()})


def click_option(one: Option, usual: str | None = None) -> click.Option:
    """The click option of a declared one; what it cannot say is left to the declaration, which is asked afterwards.

    ``usual``: what help shows as the default, instead of what the declaration says.
    """
    is_flag = one.kind is bool and not one.many
    flags = list(one.flags)
    if is_flag and one.default is not False:
        flags[-1] += f"/--no-{flags[-1].removeprefix('--')}"
    default = None if one.default in (MISSING, ()) else one.default
    usual = usual or one.about["usual"]
    if one.many and default and not usual:
        usual = ",".join(map(str, default))
    # of an option that is required, click takes None for a value; of a flag, nothing for "no"
    given: dict[str, Any] = {} if one.default is MISSING else {"default": None if one.many else default}
    return click.Option(
        [*flags, one.name],
        type=None if is_flag else _type(one),
        is_flag=is_flag,
        multiple=one.many,
        required=one.default is MISSING,
        **given,
        metavar=one.about["metavar"],
        show_default=not usual and default is not None and default is not False,
        help=one.about["help"] + (f"  [default: {usual}]" if usual else ""),
    )


def _type(one: Option) -> Any:
    """The click type of one value. Lists, which may be one word, and what has a parser of its own are texts."""
    bounds = one.about["low"], one.about["high"]
    if one.many or one.about["parse"]:
        return str
    if one.choices:
        return click.Choice(one.choices)
    if one.kind in (int, float) and bounds != (None, None):
        return click.IntRange(*bounds) if one.kind is int else click.FloatRange(*bounds)
    return one.kind
