"""What is refused, and the words that say so."""

import pytest

from layertool.errors import UsageError


def refused(match, call, *arguments, error=UsageError, **options):
    with pytest.raises(error, match=match):
        call(*arguments, **options)
