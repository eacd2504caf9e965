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


# Files that train networks or run whole commands: minutes in all, so that `make check` leaves them out.
_SLOW = {
    "test_compressing.py", "test_compressing_places.py", "test_compress_command.py", "test_compression.py", "test_ctc.py", "test_ctc_runs.py",
    "test_distillation.py", "test_distilling.py", "test_distill_command.py", "test_finetune_command.py",
    "test_pretraining.py", "test_pretrain_command.py", "test_pruned_models.py", "test_session.py",
    "test_probe_commands.py", "test_word_discrimination.py", "test_fairseq_oracle.py",
}  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in _SLOW:
            item.add_marker(pytest.mark.slow)
