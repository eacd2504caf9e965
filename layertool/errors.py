"""The errors a user can meet.

Each message is one sentence that says what is wrong, where (file, utterance, layer) and what to do
about it. The command line prints the message and leaves with the class's ``exit_code``: 2 when the
command was asked wrongly, 1 when the data, the model or the machine is at fault.
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class LayertoolWarning(UserWarning):
    """Something that a person should know, and that does not stop the work; the command line prints its sentence."""


def tell(text: str) -> None:
    """Say one sentence to the person: a LayertoolWarning, which the command line prints on stderr, once.

    Python shows it at the line of the person's own program, not at one of ours.
    """
    if _told is not None:
        if text in _told:
            return
        _told.add(text)
    frame, depth, level = sys._getframe(1), 2, 2
    while frame.f_back:  # to the outermost of ours: cached properties, too, stand between
        if frame.f_globals.get("__name__", "").partition(".")[0] == "layertool":
            level = depth + 1
        frame, depth = frame.f_back, depth + 1
    warnings.warn(text, LayertoolWarning, stacklevel=level)


_told: set[str] | None = None  # what was said inside telling_once, by any of its threads


@contextmanager
def telling_once() -> Iterator[None]:
    """Inside, each sentence is told once."""
    global _told
    before, _told = _told, set() if _told is None else _told
    try:
        yield
    finally:
        _told = before


class LayertoolError(Exception):
    """Base of every error that layertool raises on purpose."""

    exit_code = 1


class UsageError(LayertoolError):
    """The request itself cannot be carried out: an unknown layer, unit, option value or model name."""

    exit_code = 2


class AudioError(LayertoolError):
    """A file that is missing, not audio, cut short, empty, or that needs a choice of channel."""


class CorpusError(LayertoolError):
    """A corpus, its source or its labels contradict themselves or the audio."""


class ModelError(LayertoolError):
    """A checkpoint that cannot be read, is not safe to read, or does not give what it promises."""


class FeatureError(LayertoolError):
    """Features that cannot be right: not finite, too large for the dtype, or of a wrong shape."""


class RowError(FeatureError):
    """The same of one row of a store; it says which: store, layer, utterance and time."""


class StoreError(LayertoolError):
    """A feature store that is damaged, unfinished, in use, or made with another configuration."""


class MissingExtraError(LayertoolError):
    """A package that only some commands need is not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        self.parts = (package, extra, purpose)
        super().__init__(f"{purpose} needs the package '{package}': pip install 'layertool[{extra}]'")

    def __reduce__(self):  # an exception with arguments of its own needs this to come back from another process
        return type(self), self.parts
