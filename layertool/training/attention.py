"""Attention that is computed again on the way back, instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


@contextmanager
def attention_recomputed(device: torch.device) -> Iterator[None]:
    """Let no block keep its attention weights until the backward pass; the numbers, dropout's too, stay the same.

    With dropout torch's attention on a CPU keeps three matrices (frames, frames) of each head, block and utterance: of
    MelHuBERT base and 12 utterances of 15 s that was 12 of 19 GB. Computing them again costs a twentieth of a step.
    Fused kernels of GPUs keep none.
    """
    plain = functional.scaled_dot_product_attention

    def again(*inputs: Any, dropout_p: float = 0.0, **options: Any) -> torch.Tensor:
        attend = partial(plain, dropout_p=dropout_p, **options)
        if not dropout_p or not torch.is_grad_enabled():
            return attend(*inputs)
        return checkpoint(attend, *inputs, use_reentrant=False)

    if device.type == "cpu":
        functional.scaled_dot_product_attention = again
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
