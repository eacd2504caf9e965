"""From frames to rows, on the device where the frames are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from layertool.errors import UsageError
from layertool.extractors.base import Item, Layer
from layertool.extractors.unit_rows import UnitRows
from layertool.geometry import FRAME_FIELD, FRAME_HOP, FrameGeometry, Pooling, kept_frames, moving_average

_PIECE = 128  # frames summed in float32 at a stretch; longer rows are sums of pieces, so error does not grow


@dataclass(frozen=True)
class Slice:
    """Rows of one item inside a batch's pooled matrix: batch rows [first, first + len(target)).

    It outlives the batch, so it does not hold the item with its waveform.
    """

    position: int  # of the utterance in the corpus
    first: int
    target: np.ndarray  # row of the utterance that each batch row belongs to
    has_begun: np.ndarray  # whether an earlier window has a share in the row
    goes_on: np.ndarray  # whether a later window has


def segment_sums(frames: torch.Tensor, starts: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Sums of stretches of rows: (n, width) and n starts and lengths -> (len(starts), width), float32.

    One sparse product; stretches may overlap. The same on every run (no atomic additions).
    """
    if not len(lengths):
        return frames.new_zeros((0, frames.shape[1]))
    if lengths.max() > _PIECE:
        n_pieces = -(-lengths // _PIECE)
        within = np.arange(n_pieces.sum()) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
        piece_starts = np.repeat(starts, n_pieces) + within * _PIECE
        piece_lengths = np.minimum(np.repeat(starts + lengths, n_pieces) - piece_starts, _PIECE)
        pieces = segment_sums(frames, piece_starts, piece_lengths)
        return segment_sums(pieces, np.cumsum(n_pieces) - n_pieces, n_pieces)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR tensors beta
        selector = torch.sparse_csr_tensor(
            torch.from_numpy(offsets).to(frames.device),
            torch.from_numpy(columns).to(frames.device),
            torch.ones(len(columns), device=frames.device),
            size=(len(starts), len(frames)),
            check_invariants=False,
        )
        return selector @ frames


def _sums(frames: torch.Tensor, spans: Sequence[tuple[np.ndarray, np.ndarray]]) -> torch.Tensor:
    """Sums over stretches [lo, hi) of each item's frames: (items, frames, width) -> (stretches, width)."""
    if frames.device.type == "cpu" and frames.stride(1) == 1:
        # convolution layers lie channel by channel: summing along memory is faster than turning them round
        sums = [frames[k, a:b].sum(0) for k, (lo, hi) in enumerate(spans) for a, b in zip(lo, hi, strict=True)]
        return torch.stack(sums) if sums else frames.new_zeros((0, frames.shape[2]))
    starts = np.concatenate([lo + k * frames.shape[1] for k, (lo, _) in enumerate(spans)])
    lengths = np.concatenate([hi - lo for lo, hi in spans])
    return segment_sums(frames.reshape(-1, frames.shape[2]), starts, lengths)


def _extremes(frames: torch.Tensor, spans: Sequence[tuple[np.ndarray, np.ndarray]], reduction: str) -> torch.Tensor:
    """Smallest or largest value of each dimension over stretches [lo, hi).

    (items, frames, width) -> (stretches, width).
    """
    of = torch.amin if reduction == "min" else torch.amax
    found = [of(frames[k, a:b], 0) for k, (lo, hi) in enumerate(spans) for a, b in zip(lo, hi, strict=True)]
    return torch.stack(found) if found else frames.new_zeros((0, frames.shape[2]))


class Pooler:
    """Knows, for every unit and layer of a run, which frames make which row.

    ``layers``: the asked layers. ``pooling``: unit -> Pooling for phone, word and utterance.
    ``units``: the asked units, of which each layer gets those it can stand at.
    """

    def __init__(self, layers: Mapping[str, Layer], units: Sequence[str], pooling: Mapping[str, Pooling]):
        self.layers, self.units, self.pooling = layers, list(units), dict(pooling)
        self.geometry: dict[tuple[str, str], FrameGeometry | None] = {}
        self.averaging: dict[str, tuple[int, int]] = {}
        for name, layer in layers.items():
            geometry = layer.geometry
            for unit in self.units:
                if geometry is None and unit not in ("word", "utterance"):
                    continue
                self.geometry[unit, name] = geometry
                if unit == "frame" and geometry is not None and (average := moving_average(geometry)):
                    self.geometry[unit, name] = FrameGeometry(FRAME_HOP, FRAME_FIELD)
                    self.averaging[name] = average
            if not self.units_of(name):
                raise UsageError(
                    f"layer {name} stands at words and utterances only (its rows are tokens, they have no times): "
                    "add --units word or --units utterance"
                )
        frames = [g for (unit, _), g in self.geometry.items() if unit == "frame" and g is not None]
        main = max(reversed(frames), key=lambda g: g.hop, default=None)  # of the last of the slowest layers
        self.table: dict[tuple[str, str], str] = {}
        for (unit, name), geometry in self.geometry.items():
            own = unit == "frame" and geometry is not None and geometry != main
            table = f"rows_{geometry.hop}_{geometry.field}" if own and geometry else "rows"
            sharing = [other for (u, other), there in self.table.items() if unit == u == "frame" and there == table]
            if sharing and self.geometry[unit, sharing[0]] != geometry:
                raise UsageError(
                    f"frames of layers {sharing[0]} and {name} have one hop and field but begin at other samples: ask "
                    "for one of them at a time, or leave the unit frame out"
                )
            self.table[unit, name] = table

    def units_of(self, name: str) -> list[str]:
        """The asked units at which a layer stands."""
        return [unit for unit in self.units if (unit, name) in self.geometry]

    def reduction(self, unit: str) -> str:
        """What a unit's rows are of their frames: mean, min or max."""
        return self.pooling[unit].reduction if unit in self.pooling else "mean"

    def frame_tables(self) -> dict[str, FrameGeometry]:
        """Row tables of the unit ``frame``: name -> geometry."""
        return {
            self.table[unit, name]: geometry
            for (unit, name), geometry in self.geometry.items()
            if unit == "frame" and geometry is not None
        }

    def pool(
        self, name: str, frames: torch.Tensor, items: Sequence[Item], rows: Mapping[int, Mapping[str, UnitRows]]
    ) -> list[tuple[str, torch.Tensor, list[Slice]]]:
        """Pool one layer of one batch to every unit: [(unit, rows (n, width) float32, where they belong)].

        ``frames``: (items, frames or tokens, width). ``rows``: utterance position -> unit -> UnitRows.
        Rows of an utterance that is cut into windows are shares, to be joined: added up, or by ``reduction``.
        """
        with torch.autocast(frames.device.type, enabled=False):  # sums stay in float32 in runs of another dtype
            return self._pool(name, frames, items, rows)

    def _pool(self, name, frames, items, rows):
        frames = frames.float() if frames.device.type == "cuda" else frames.float().cpu()
        out = []
        for unit in self.units_of(name):
            geometry = self.geometry[unit, name]
            source = frames
            if unit == "frame" and name in self.averaging:  # a moving average over time, unpadded
                kernel, stride = self.averaging[name]
                source = torch.nn.functional.avg_pool1d(frames.transpose(1, 2), kernel, stride).transpose(1, 2)
            plans = [self._rows_of_item(unit, geometry, item, rows) for item in items]
            spans = [(lo, hi) for _, lo, hi, *_ in plans]
            if unit == "frame":
                pooled = torch.cat(
                    [source[k, a:b] for k, (lo, hi) in enumerate(spans) for a, b in zip(lo, hi, strict=True)]
                )
            elif (reduction := self.reduction(unit)) != "mean":
                pooled = _extremes(source, spans, reduction)
            else:
                whole = np.concatenate([full for _, _, _, full, *_ in plans])
                pooled = _sums(source, spans)
                pooled /= torch.from_numpy(whole.astype(np.float32)).to(pooled.device)[:, None]
            first, slices = 0, []
            for item, (target, _, _, _, has_begun, goes_on) in zip(items, plans, strict=True):
                slices.append(Slice(item.position, first, target, has_begun, goes_on))
                first += len(target)
            out.append((unit, pooled, slices))
        return out

    def _rows_of_item(self, unit, geometry, item, rows):
        """(target rows, local lo, local hi, full length, whether it has begun, whether it goes on) of one item's
        rows.
        """
        if geometry is None:  # decoder: tokens of the words, or of the whole text
            spans = (
                item.token_spans if unit == "word" else np.array([[item.token_spans[0, 0], item.token_spans[-1, 1]]])
            )
            lo, hi = spans[:, 0], spans[:, 1]
            whole = np.zeros(len(lo), bool)
            return np.arange(len(lo)), lo, hi, hi - lo, whole, whole
        n_frames = geometry.n_frames(item.n_samples)
        keep_lo, keep_hi = kept_frames(geometry, item.window, item.n_samples)
        shift = item.window.start // geometry.hop
        if unit == "frame":
            target = np.arange(keep_lo, keep_hi)
            lo = np.array([keep_lo - shift])
            whole = np.zeros(len(target), bool)
            return target, lo, lo + len(target), None, whole, whole
        spans = rows[item.position][unit]
        # centre-padded spectra have a frame at the end of the audio, too
        end = np.maximum(spans.end, n_frames * geometry.hop) if unit == "utterance" else spans.end
        lo, hi = self.pooling[unit].frames(spans.start, end, geometry.hop, n_frames)
        full, has_begun, goes_on = hi - lo, lo < keep_lo, hi > keep_hi
        lo, hi = np.maximum(lo, keep_lo), np.minimum(hi, keep_hi)
        target = np.flatnonzero(hi > lo)
        return target, *(one[target] for one in (lo - shift, hi - shift, full, has_begun, goes_on))
