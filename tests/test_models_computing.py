"""Networks compute what they say in every precision of this machine."""

import pytest
import torch

from layertool.models.computing import computing_in


@pytest.mark.parametrize(
    ("width", "groups", "kernel"), [(64, 16, 128), (64, 16, 16), (64, 1, 128), (96, 16, 31), (96, 2, 128)]
)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_grouped_convolutions_in_bfloat16(width, groups, kernel, n_rows):
    """oneDNN's are noise on CPUs with AMX where a group has four channels: 106 % off (torch 2.13)."""
    torch.manual_seed(0)
    layer = torch.nn.Conv1d(width, width, kernel, groups=groups, padding=kernel // 2)
    rows = torch.randn(n_rows, width, 100)
    enabled = torch.backends.mkldnn.enabled
    with torch.no_grad():
        right = layer(rows)
        with computing_in(torch.device("cpu"), torch.bfloat16):
            found = layer(rows)
    assert found.dtype == torch.bfloat16
    assert (found.float() - right).norm() < 0.02 * right.norm()
    assert torch.backends.mkldnn.enabled == enabled
