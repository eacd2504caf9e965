"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `import models`


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real speech and weights: LAYERTOOL_SHARED, or ../shared beside the project."""
    folder = Path(os.environ.get("LAYERTOOL_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("the shared folder is not here (set LAYERTOOL_SHARED)")
    return folder.resolve()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    """Runs of the command line that can be killed at any point (``forking.Forks``)."""
    import forking

    server = forking.Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _figures_closed():
    """Figures that a test draws and does not save stay open in matplotlib, and would be warned of in another test."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
