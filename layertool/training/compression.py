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
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from layertool.errors import ModelError, UsageError
from layertool.models.pruned import Block, Mask, blocks, check_heads_removable, cut_heads, cut_rows, fit_config, stored

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
    values = [getattr(linear, name) for linear, name in _places(model)]
    if any(value.is_meta for value in values):
        return Counts(n_all, None)
    return Counts(n_all, n_all - sum(value.numel() - int(value.count_nonzero()) for value in values))


# --- heads and rows --------------------------------------------------------------------------------


@torch.no_grad()
def head_scores(model: nn.Module) -> list[torch.Tensor]:
    """Sum of |weight| and |bias| over each head's rows of q, k and v (spec speat.md 4.1): one tensor (heads,) a
    block."""
    return [_head_scores(block) for block in blocks(model)]


def _head_scores(block: Block) -> torch.Tensor:
    of_rows = torch.stack([_sizes_of(linear.weight).sum(1) + _sizes_of(linear.bias) for linear in block.projections])
    return of_rows.view(len(of_rows), block.n_heads, block.attention.head_dim).sum((0, 2))


def _sizes_of(value: torch.Tensor) -> torch.Tensor:
    return _fine(value).abs()


def _fine(value: torch.Tensor) -> torch.Tensor:
    """In float32 or finer: sums of half precision overflow."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


@torch.no_grad()
def row_scores(model: nn.Module) -> list[torch.Tensor]:
    """Sum of |fc1.weight| and |fc1.bias| of a row and |fc2.weight| of its column (spec speat.md 4.2): (rows,) a
    block."""
    return [
        _sizes_of(block.fc1.weight).sum(1) + _sizes_of(block.fc1.bias) + _sizes_of(block.fc2.weight).sum(0)
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
    of = blocks(model)
    sizes = [block.n_heads for block in of]
    scores = _checked(head_scores(model) if scores is None else scores, sizes, "heads")
    gone = _lowest(scores, n_per_layer, "heads") if by == "layer" else _lowest_of_all(scores, n_per_layer)
    for block, heads in zip(of, gone, strict=True):
        if heads:
            cut_heads(block, heads, optimizer)
    fit_config(model)
    return gone


def prune_rows(
    model: nn.Module,
    n_per_layer: int = 128,
    scores: Sequence[torch.Tensor] | None = None,
    optimizer: Optimizer | None = None,
) -> list[list[int]]:
    """Remove the rows with the lowest scores (``row_scores`` by default) from each block's feed-forward part.

    Returns and raises as ``prune_heads`` does, and treats ``optimizer`` so.
    """
    of = blocks(model)
    scores = _checked(row_scores(model) if scores is None else scores, [block.n_rows for block in of], "rows")
    gone = _lowest(scores, n_per_layer, "rows")
    for block, rows in zip(of, gone, strict=True):
        cut_rows(block, rows, optimizer)
    fit_config(model)
    return gone


def _checked(scores: Sequence[torch.Tensor], sizes: list[int], what: str) -> list[torch.Tensor]:
    shapes = [tuple(one.shape) for one in scores]
    if shapes != [(size,) for size in sizes]:
        raise UsageError(
            f"scores of shapes {shapes} are not those of blocks with {sizes} {what}: give one tensor a block"
        )
    for k, one in enumerate(scores, start=1):
        if one.is_meta:
            raise UsageError(f"the {what} of block {k} have no values to score (meta device): give scores")
        if not one.isfinite().all():
            raise ModelError(
                f"a score of the {what} of block {k} is not finite: the network has diverged, take an earlier one"
            )
    return [one.detach().cpu().double() for one in scores]


def _lowest(scores: list[torch.Tensor], n_per_layer: int, what: str) -> list[list[int]]:
    _check_number(n_per_layer, what)
    for k, of_block in enumerate(scores, start=1):
        if len(of_block) <= n_per_layer:
            raise UsageError(
                f"block {k} has {len(of_block)} {what}, and {n_per_layer} of them cannot be removed: one at "
                "least must stay"
            )
    return [of_block.argsort(stable=True)[:n_per_layer].tolist() for of_block in scores]


def _lowest_of_all(scores: list[torch.Tensor], n_per_layer: int) -> list[list[int]]:
    _check_number(n_per_layer, "heads")
    places = [
        (float(score), k, head)
        for k, of_block in enumerate(scores)
        for head, score in enumerate(of_block)
        if head != int(of_block.argmax())
    ]
    n_gone = n_per_layer * len(scores)
    if len(places) < n_gone:
        raise UsageError(
            f"{n_gone} heads cannot be removed from blocks with {[len(of_block) for of_block in scores]}: the "
            "best of each must stay"
        )
    gone: list[list[int]] = [[] for _ in scores]
    for _, k, head in sorted(places)[:n_gone]:
        gone[k].append(head)
    return gone


def _check_number(n_per_layer: int, what: str) -> None:
    if not isinstance(n_per_layer, int) or n_per_layer < 1:
        raise UsageError(f"{n_per_layer} {what} of each block cannot be removed: give a whole number of 1 or more")


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
        self._batch: list[torch.Tensor | None] = [None] * len(self._blocks)
        self._hooks: list[Any] = []
        self.n_steps = 0

    def __enter__(self) -> DataDrivenScore:
        for k, block in enumerate(self._blocks):
            self._hooks.append(block.attention.out_proj.register_forward_pre_hook(self._watch(k)))
        return self

    def __exit__(self, *_: object) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def _watch(self, k: int):
        n_heads = len(self._sums[k])

        def add(context: torch.Tensor, gradient: torch.Tensor) -> None:
            products = _fine(gradient.detach() * context).view(*context.shape[:-1], n_heads, -1).sum(-1)
            total = products.abs().flatten(0, -2).sum(0).cpu().double()
            before = self._batch[k]
            self._batch[k] = total if before is None else before + total

        def watch(_module: nn.Module, inputs: tuple) -> None:
            context = inputs[0]
            if self._blocks[k].n_heads != n_heads:
                raise UsageError(f"block {k + 1} lost heads while they were scored: score the network as it is now")
            if context.requires_grad:  # not in what gradient checkpointing computes first
                values = context.detach()
                context.register_hook(lambda gradient: add(values, gradient))

        return watch

    def step(self) -> None:
        """End a batch, after its loss's ``backward()``. Raises UsageError when no gradient has come to any block."""
        if all(total is None for total in self._batch):
            raise UsageError(
                "no gradient has come to the heads' outputs: call backward() on the loss of a batch before step()"
            )
        for of_block, total in zip(self._sums, self._batch, strict=True):
            if total is not None:  # of a block that layer drop left out
                of_block += total
        self._batch = [None] * len(self._batch)
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
    places = _places(model)
    if any(stored(*place)[0].is_meta for place in places):
        raise UsageError("weights on the meta device have no values to prune by: load the network first")
    values = torch.cat([getattr(linear, name).detach().float().flatten() for linear, name in places]).abs_()
    if not values.isfinite().all():
        raise ModelError("weights of the blocks are not finite: the network has diverged, take an earlier one")
    n_gone, n_zeros = round(sparsity * len(values)), int((values == 0).sum())
    if n_gone < n_zeros:
        raise UsageError(
            f"a sparsity of {sparsity:g} is less than there is: {n_zeros} of {len(values)} weights are 0 already "
            f"({n_zeros / len(values):.4g})"
        )
    kept = _largest(values, n_gone)
    for (linear, name), mask in zip(places, kept.split([getattr(*place).numel() for place in places]), strict=True):
        _put_mask(linear, name, mask.view_as(getattr(linear, name)).clone())
    return n_gone


def keep_zeros(model: nn.Module) -> float:
    """Keep at 0 what an earlier weight pruning has made 0: a saved network has zeros, but no masks. Returns their
    share.

    A network with fewer zeros than ``PRUNED`` of its linears' weights has none of a pruning (biases may begin with 0).
    """
    weights = [linear.weight for linear, name in _places(model) if name == "weight"]
    zeros = sum(weight.numel() - int(weight.count_nonzero()) for weight in weights)
    if zeros < PRUNED * sum(weight.numel() for weight in weights):
        return 0.0
    values = [getattr(linear, name) for linear, name in _places(model)]
    gone, n = sum(int((value == 0).sum()) for value in values), sum(value.numel() for value in values)
    if gone < n:
        prune_weights(model, gone / n)
    return gone / n


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


def _places(model: nn.Module) -> list[tuple[nn.Linear, str]]:
    return [(linear, name) for block in blocks(model) for linear in block.linears for name in ("weight", "bias")]


def _put_mask(linear: nn.Linear, name: str, mask: torch.Tensor) -> None:
    parameter, there = stored(linear, name)
    if there is None:
        parametrize.register_parametrization(linear, name, Mask(mask))
        return
    parameter.copy_(there(parameter))  # what an earlier mask removed stays 0 whatever the new one says
    there.mask = mask


def masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """The masks of a network by the names of its dense parameters (bool, True where a weight stays); none: empty."""
    names = {id(module): name for name, module in model.named_modules()}
    found = {}
    for linear, name in _places(model):
        _, mask = stored(linear, name)
        if mask is not None:
            found[f"{names[id(linear)]}.{name}"] = mask.mask.clone()
    return found


@torch.no_grad()
def put_masks(model: nn.Module, found: Mapping[str, torch.Tensor]) -> None:
    """Put the masks of ``masks`` on a network of the same sizes: a run that was stopped goes on.

    Raises UsageError for masks of other parameters or shapes.
    """
    names = {id(module): name for name, module in model.named_modules()}
    places = {f"{names[id(linear)]}.{name}": (linear, name) for linear, name in _places(model)}
    for key, mask in found.items():
        if key not in places or mask.shape != (there := getattr(*places[key])).shape:
            what = (
                f"has the shape {tuple(mask.shape)}, not {tuple(there.shape)}"
                if key in places
                else "is of none of its weights"
            )
            raise UsageError(f"a mask does not fit the network ({key} {what}): give those of the same network")
    if found:
        for key, (linear, name) in places.items():
            there = getattr(linear, name)
            mask = found[key].bool().clone() if key in found else torch.ones(there.shape, dtype=torch.bool)
            _put_mask(linear, name, mask.to(there.device))


@torch.no_grad()
def make_permanent(model: nn.Module) -> None:
    """Take the masks away and leave zeros in their places; training from here on changes them."""
    for linear in dict.fromkeys(linear for linear, _ in _places(model)):
        found = {name: stored(linear, name) for name in ("weight", "bias")}
        if all(mask is None for _, mask in found.values()):
            continue
        # torch's remove_parametrizations takes the attributes off a class that deep copies of the network share
        linear.__class__ = type(linear).__bases__[0]
        del linear.parametrizations
        for name, (parameter, mask) in found.items():
            parameter.copy_(parameter if mask is None else mask(parameter))
            linear.register_parameter(name, parameter)
