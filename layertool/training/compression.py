"""Pruning a network in memory: heads, rows of the feed-forward parts, single weights (Lin et al. 2024; spec speat.md
4).

    compression.prune_heads(model)                    # the lowest-scoring head of each block is gone
    compression.prune_rows(model, 128)
    compression.prune_weights(model, 0.2)             # a fifth of the blocks' weights are 0, and stay 0 in training
    compression.n_parameters(model)                   # Counts(all, nonzero)

Works on MelHuBERT and on transformers' models of the wav2vec 2.0 kind, bare or with what stands on them;
``layertool.models.pruned`` says which, and writes and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from layertool.errors import ModelError, UsageError
from layertool.models.pruned import Mask, blocks, check_heads_removable, cut_heads, cut_rows, fit_config, stored

BY = ("layer", "whole")
Optimizer = torch.optim.Optimizer


class Counts(NamedTuple):
    """Parameters of a whole network: ``all``; ``nonzero``: without those that weight pruning has made 0, None where
    they have no values (meta device)."""

    all: int
    nonzero: int | None


PRUNED = 0.001  # of the weights: more zeros than that are of a pruning


@torch.no_grad()
def n_parameters(model: nn.Module) -> Counts:
    """How many parameters a network has (spec speat.md 4.5); masks are none, zeros count among what weight pruning
    prunes.

    So norms and convolutions that begin with biases of 0 lose nothing.
    """
    n_all = sum(parameter.numel() for parameter in model.parameters())
    values = [getattr(*place) for place in _places(model).values()]
    if any(value.is_meta for value in values):
        return Counts(n_all, None)
    return Counts(n_all, n_all - sum(value.numel() - int(value.count_nonzero()) for value in values))


# --- heads and rows --------------------------------------------------------------------------------


@torch.no_grad()
def head_scores(model: nn.Module) -> list[torch.Tensor]:
    """Sum of |weight| and |bias| over each head's rows of q, k and v (spec speat.md 4.1): one tensor (heads,) a
    block."""
    found = []
    for block in blocks(model):
        of_rows = torch.stack([_fine(one.weight).abs().sum(1) + _fine(one.bias).abs() for one in block.projections])
        found.append(of_rows.view(len(of_rows), block.n_heads, block.attention.head_dim).sum((0, 2)))
    return found


def _fine(value: torch.Tensor) -> torch.Tensor:
    """In float32 or finer: sums of half precision overflow."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


@torch.no_grad()
def row_scores(model: nn.Module) -> list[torch.Tensor]:
    """Sum of |fc1.weight| and |fc1.bias| of a row and |fc2.weight| of its column (spec speat.md 4.2): (rows,) a
    block."""
    return [
        _fine(block.fc1.weight).abs().sum(1) + _fine(block.fc1.bias).abs() + _fine(block.fc2.weight).abs().sum(0)
        for block in blocks(model)
    ]


def prune_heads(
    model: nn.Module,
    n_per_layer: int = 1,
    scores: Sequence[torch.Tensor] | None = None,
    by: str = "layer",
    optimizer: Optimizer | None = None,
) -> list[list[int]]:
    """Remove the heads with the lowest scores from the network itself: their weights are gone.

    ``scores``: one tensor (heads,) a block, ``head_scores`` by default. ``by``: "layer" takes ``n_per_layer`` of each
    block, "whole" as many on average, the lowest of all blocks, but no block's best. ``optimizer``: one that trains the
    network goes on with what is left; without it, make a new one: the old holds parameters that are no longer used.
    Returns the removed heads of each block by ascending score, numbered as they stood there before this call.
    Raises UsageError when a block would lose its last head, ModelError for networks that cannot be pruned.
    """
    if by not in BY:
        raise UsageError(f"heads are not pruned by '{by}': choose {' or '.join(BY)}")
    check_heads_removable(model)
    scores = head_scores(model) if scores is None else scores
    return _cut(model, "heads", n_per_layer, scores, by, optimizer)


def prune_rows(
    model: nn.Module,
    n_per_layer: int = 128,
    scores: Sequence[torch.Tensor] | None = None,
    optimizer: Optimizer | None = None,
) -> list[list[int]]:
    """Remove the rows with the lowest scores (``row_scores`` by default) from each block's feed-forward part.

    Returns and raises as ``prune_heads`` does, and treats ``optimizer`` so.
    """
    scores = row_scores(model) if scores is None else scores
    return _cut(model, "rows", n_per_layer, scores, "layer", optimizer)


def _cut(
    model: nn.Module, what: str, n: int, scores: Sequence[torch.Tensor], by: str, optimizer: Optimizer | None
) -> list[list[int]]:
    of, cut = blocks(model), cut_heads if what == "heads" else cut_rows
    sizes = [block.n_heads if what == "heads" else block.n_rows for block in of]
    scores = _checked(scores, sizes, what)
    if not isinstance(n, int) or n < 1:
        raise UsageError(f"{n} {what} of each block cannot be removed: give a whole number of 1 or more")
    if by == "whole":
        gone = _lowest_of_all(scores, n * len(scores))
    else:
        for k, size in enumerate(sizes, start=1):
            if size <= n:
                raise UsageError(f"block {k} has {size} {what}, and {n} of them cannot be removed: one must stay")
        gone = [of_block.argsort(stable=True)[:n].tolist() for of_block in scores]
    for block, parts in zip(of, gone, strict=True):
        if parts:
            cut(block, parts, optimizer)
    fit_config(model)
    return gone


def _checked(scores: Sequence[torch.Tensor], sizes: list[int], what: str) -> list[torch.Tensor]:
    shapes = [tuple(one.shape) for one in scores]
    if shapes != [(size,) for size in sizes]:
        raise UsageError(
            f"scores of shapes {shapes} are not those of blocks with {sizes} {what}: give one tensor a block"
        )
    if any(one.is_meta for one in scores):
        raise UsageError(f"the {what} of the blocks have no values to score (meta device): give scores")
    for k, one in enumerate(scores, start=1):
        if not one.isfinite().all():
            raise ModelError(
                f"a score of the {what} of block {k} is not finite: the network has diverged, take an earlier one"
            )
    return [one.detach().cpu().double() for one in scores]


def _lowest_of_all(scores: list[torch.Tensor], n: int) -> list[list[int]]:
    best = [int(of_block.argmax()) for of_block in scores]
    heads = [(float(score), k, head) for k, of_block in enumerate(scores) for head, score in enumerate(of_block)]
    removable = sorted(one for one in heads if one[2] != best[one[1]])
    if len(removable) < n:
        raise UsageError(
            f"{n} heads cannot be removed from blocks with {[len(of_block) for of_block in scores]}: the best of each "
            "must stay"
        )
    return [[head for _, block, head in removable[:n] if block == k] for k in range(len(scores))]


class DataDrivenScore:
    """Scores of heads from what the loss says of their outputs (spec speat.md 4.1), for ``prune_heads(scores=...)``.

    A head's output at a frame is its context vector c; with the loss's gradient g there, a batch adds |g · c| summed
    over its clips and frames. Scores are means over batches, of length 1 in each block.

        with DataDrivenScore(model) as found:
            for batch in batches:
                loss(model, batch).backward()
                found.step()
                model.zero_grad()
        prune_heads(model, scores=found.scores(), by="whole")
    """

    def __init__(self, model: nn.Module):
        check_heads_removable(model)
        self._blocks = blocks(model)
        self._sums = [torch.zeros(block.n_heads, dtype=torch.float64) for block in self._blocks]
        self._hooks: list[Any] = []
        self._has_gradient = False
        self.n_steps = 0

    def __enter__(self) -> DataDrivenScore:
        for k, block in enumerate(self._blocks):
            self._hooks.append(block.attention.out_proj.register_forward_pre_hook(partial(self._watch, k)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _watch(self, k: int, _module: nn.Module, inputs: tuple) -> None:
        if self._blocks[k].n_heads != len(self._sums[k]):
            raise UsageError(f"block {k + 1} lost heads while they were scored: score the network as it is now")
        if inputs[0].requires_grad:  # not in what gradient checkpointing computes first
            inputs[0].register_hook(partial(self._add, k, inputs[0].detach()))

    def _add(self, k: int, context: torch.Tensor, gradient: torch.Tensor) -> None:
        of_heads = _fine(gradient.detach() * context).unflatten(-1, (len(self._sums[k]), -1)).sum(-1)
        self._sums[k] += of_heads.abs().flatten(0, -2).sum(0).cpu().double()
        self._has_gradient = True

    def step(self) -> None:
        """End a batch, after its loss's ``backward()``. Raises UsageError when no gradient has come to any block."""
        if not self._has_gradient:
            raise UsageError(
                "no gradient has come to the heads' outputs: call backward() on the loss of a batch before step()"
            )
        self._has_gradient = False
        self.n_steps += 1

    def scores(self) -> list[torch.Tensor]:
        """One tensor (heads,) a block, float64, of length 1 each. Raises UsageError before the first step."""
        if not self.n_steps:
            raise UsageError("no batch has been scored: run some, and call step() after the backward() of each")
        return [nn.functional.normalize(of_block / self.n_steps, dim=0) for of_block in self._sums]


# --- weights ---------------------------------------------------------------------------------------


@torch.no_grad()
def prune_weights(model: nn.Module, sparsity: float) -> int:
    """Set the ``sparsity`` (0 to 1) smallest of the weights and biases of all blocks' linears to 0, and keep them
    there.

    One threshold for q, k, v, out, fc1 and fc2 of all blocks (spec speat.md 4.3); of equals, the later in that order
    go. ``sparsity`` is the whole share that is 0 afterwards, round(sparsity N) of N, with those that are 0 already.
    Stored parameters stay the same objects behind masks, so optimizers go on. Returns the number of zeros.
    Raises UsageError for less than there is, ModelError for values that are not finite.
    """
    if not 0 < sparsity < 1:
        raise UsageError(f"a sparsity of {sparsity} cannot be: give a number between 0 and 1, such as 0.2")
    places = list(_places(model).values())
    if any(stored(*place)[0].is_meta for place in places):
        raise UsageError("weights on the meta device have no values to prune by: load the network first")
    values = torch.cat([getattr(*place).detach().float().flatten() for place in places]).abs_()
    if not values.isfinite().all():
        raise ModelError("weights of the blocks are not finite: the network has diverged, take an earlier one")
    n_gone, n_zeros = round(sparsity * len(values)), int((values == 0).sum())
    if n_gone < n_zeros:
        raise UsageError(
            f"a sparsity of {sparsity:g} is less than there is: {n_zeros} of {len(values)} weights are 0 already "
            f"({n_zeros / len(values):.4g})"
        )
    kept = _largest(values, n_gone)
    for place, mask in zip(places, kept.split([getattr(*place).numel() for place in places]), strict=True):
        _put_mask(*place, mask.view_as(getattr(*place)).clone())
    return n_gone


def keep_zeros(model: nn.Module) -> float:
    """Keep at 0 what an earlier weight pruning has made 0: a saved network has zeros, but no masks. Returns their
    share.

    A network with fewer zeros than ``PRUNED`` of its linears' weights has none of a pruning (biases may begin with 0).
    """
    values = {key: getattr(*place) for key, place in _places(model).items()}
    n_zeros = {key: int((value == 0).sum()) for key, value in values.items()}
    weights = [key for key in values if key.endswith(".weight")]
    if sum(n_zeros[key] for key in weights) < PRUNED * sum(values[key].numel() for key in weights):
        return 0.0
    share = sum(n_zeros.values()) / sum(value.numel() for value in values.values())
    if share < 1:
        prune_weights(model, share)
    return share


def _largest(values: torch.Tensor, n_gone: int) -> torch.Tensor:
    """All but the ``n_gone`` smallest, bool; where equals are cut apart, the later are gone, as the golden numbers
    want."""
    if not n_gone:
        return torch.ones_like(values, dtype=torch.bool)
    threshold = values.kthvalue(n_gone).values
    kept = values > threshold
    equal = (values == threshold).nonzero().flatten()
    n_staying = len(values) - n_gone - int(kept.sum())
    kept[equal[:n_staying]] = True
    return kept


def _places(model: nn.Module) -> dict[str, tuple[nn.Linear, str]]:
    """What weight pruning prunes, in its order, by the names of the dense parameters."""
    names = {id(module): name for name, module in model.named_modules()}
    of = [linear for block in blocks(model) for linear in block.linears]
    return {f"{names[id(linear)]}.{name}": (linear, name) for linear in of for name in ("weight", "bias")}


def _put_mask(linear: nn.Linear, name: str, mask: torch.Tensor) -> None:
    parameter, earlier = stored(linear, name)
    if earlier is None:
        parametrize.register_parametrization(linear, name, Mask(mask))
        return
    parameter.copy_(earlier(parameter))  # what an earlier mask removed stays 0 whatever the new one says
    earlier.mask = mask


def masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """The masks of a network by the names of its dense parameters (bool, True where a weight stays); none: empty."""
    found = {key: stored(*place)[1] for key, place in _places(model).items()}
    return {key: mask.mask.clone() for key, mask in found.items() if mask is not None}


@torch.no_grad()
def put_masks(model: nn.Module, found: Mapping[str, torch.Tensor]) -> None:
    """Put the masks of ``masks`` on a network of the same sizes: a run that was stopped goes on.

    Raises UsageError for masks of other parameters or shapes.
    """
    places = _places(model)
    for key, mask in found.items():
        shape = tuple(getattr(*places[key]).shape) if key in places else None
        if mask.shape != shape:
            what = f"has the shape {tuple(mask.shape)}, not {shape}" if shape else "is of none of its weights"
            raise UsageError(f"a mask does not fit the network ({key} {what}): give those of the same network")
    if found:
        for key, place in places.items():
            value = getattr(*place)
            _put_mask(*place, found.get(key, torch.ones_like(value)).bool().clone().to(value.device))
