"""MelHuBERT's network: HuBERT's encoder on log mel energies, with heads and rows of its own in each block (spec
speat.md 3.2).

Modules have the names of the original checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from layertool.errors import ModelError, UsageError


@dataclass(frozen=True)
class Config:
    """What a checkpoint says of its network, by the original names and with the original defaults.

    ``heads``, ``ffn_rows``: of each block where a network is pruned, None where all are as the config says.
    ``num_cluster``: 0 for a network without ``final_proj``. ``step``: of training, None where unknown.
    """

    feat_emb_dim: int = 40
    pos_emb_type: str = "conv"
    pos_conv_depth: int = 1
    conv_pos: int = 128
    conv_pos_groups: int = 16
    encoder_layers: int = 1
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    activation_fn: str = "gelu"
    layer_norm_first: bool = False
    attention_type: str = "original"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.1
    encoder_layerdrop: float = 0.0
    num_cluster: int = 512
    mask_prob: float = 0.8
    mask_length: int = 10
    mask_selection: str = "static"
    learnable_mask_emb: bool = False
    mask_before_proj: bool = True
    pred_masked_weight: float = 1.0
    pred_nomask_weight: float = 0.0
    skip_masked: bool = False
    skip_nomask: bool = True
    heads: tuple[int, ...] | None = None
    ffn_rows: tuple[int, ...] | None = None
    step: int | None = None

    @property
    def head_dim(self) -> int:
        """Width of one head; pruning leaves it as it is."""
        return self.encoder_embed_dim // self.encoder_attention_heads

    @property
    def heads_of_blocks(self) -> tuple[int, ...]:
        """Number of heads of each block."""
        return self.heads or (self.encoder_attention_heads,) * self.encoder_layers

    @property
    def rows_of_blocks(self) -> tuple[int, ...]:
        """Width inside each block's feed-forward part."""
        return self.ffn_rows or (self.encoder_ffn_embed_dim,) * self.encoder_layers

    @property
    def stride(self) -> int | None:
        """Milliseconds between frames, None where the input is that of no pipeline."""
        return {40: 10, 80: 20}.get(self.feat_emb_dim)


def _preset(n_blocks: int, width: int, ffn: int, heads: int) -> Config:
    return Config(
        feat_emb_dim=80,
        encoder_layers=n_blocks,
        encoder_embed_dim=width,
        encoder_ffn_embed_dim=ffn,
        encoder_attention_heads=heads,
        mask_prob=0.7,
        mask_length=5,
    )


# Lin et al. 2024, Table 2: 20 ms, 512 clusters
PRESETS = {
    "small": _preset(3, 640, 2048, 8),
    "slim": _preset(12, 384, 768, 8),
    "base": _preset(12, 768, 3072, 12),
}


@dataclass
class Output:
    """What a forward pass gives; (batch, frames, width) each.

    ``hidden_states``: the projection (before positions and norm), then the output of each block.
    ``last_hidden_state``: the last of them, after the encoder's norm where that comes last.
    ``logits``: of the clusters, None without ``final_proj``. Padded frames of all hold no meaning.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]
    logits: torch.Tensor | None


class Attention(nn.Module):
    """Self-attention whose heads may be fewer than the width divided by theirs."""

    def __init__(self, width: int, n_heads: int, head_dim: int, dropout: float):
        super().__init__()
        self.num_heads, self.head_dim, self.dropout = n_heads, head_dim, dropout
        self.q_proj = nn.Linear(width, n_heads * head_dim)
        self.k_proj = nn.Linear(width, n_heads * head_dim)
        self.v_proj = nn.Linear(width, n_heads * head_dim)
        self.out_proj = nn.Linear(n_heads * head_dim, width)

    def forward(self, hidden: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
        """``seen``: bool (batch, 1, 1, frames), None for all."""
        batch, frames, _ = hidden.shape
        query, key, value = (
            projection(hidden).view(batch, frames, self.num_heads, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
        return self.out_proj(out.transpose(1, 2).reshape(batch, frames, self.num_heads * self.head_dim))


class Block(nn.Module):
    """One transformer block, its norms after the residuals (the default) or before the sublayers."""

    def __init__(self, config: Config, n_heads: int, rows: int):
        super().__init__()
        width = config.encoder_embed_dim
        self.norm_first = config.layer_norm_first
        self.self_attn = Attention(width, n_heads, config.head_dim, config.attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, rows)
        self.fc2 = nn.Linear(rows, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.activation_dropout = nn.Dropout(config.activation_dropout)

    def forward(self, hidden: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        if self.norm_first:
            hidden = hidden + self.dropout(self.self_attn(self.self_attn_layer_norm(hidden), seen))
            return hidden + self.dropout(self._feed_forward(self.final_layer_norm(hidden)))
        hidden = self.self_attn_layer_norm(hidden + self.dropout(self.self_attn(hidden, seen)))
        return self.final_layer_norm(hidden + self.dropout(self._feed_forward(hidden)))

    def _feed_forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_dropout(functional.gelu(self.fc1(hidden))))


class Encoder(nn.Module):
    """Positions by convolution, then blocks."""

    def __init__(self, config: Config):
        super().__init__()
        width, kernel = config.encoder_embed_dim, config.conv_pos
        self.norm_first, self.layerdrop = config.layer_norm_first, config.encoder_layerdrop
        convolution = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.conv_pos_groups)
        nn.init.normal_(convolution.weight, std=math.sqrt(4 / (kernel * width)))
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        self.pos_conv = nn.Sequential(nn.utils.parametrizations.weight_norm(convolution, dim=2))
        shapes = zip(config.heads_of_blocks, config.rows_of_blocks, strict=True)
        self.layers = nn.ModuleList(Block(config, n_heads, rows) for n_heads, rows in shapes)
        self.layer_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        for module in self.layers.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self, hidden: torch.Tensor, valid: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """``hidden`` with zeros at padded frames, ``valid`` bool (batch, frames): the last state, and each block's."""
        positions = self.pos_conv(hidden.transpose(1, 2))[..., : hidden.shape[1]]  # an even kernel gives one too many
        hidden = hidden + functional.gelu(positions).transpose(1, 2)
        if not self.norm_first:
            hidden = self.layer_norm(hidden)
        hidden = self.dropout(hidden)
        seen = None if valid is None else valid[:, None, None, :]
        states = []
        for block in self.layers:
            if not (self.training and self.layerdrop and torch.rand(()) < self.layerdrop):
                hidden = block(hidden, seen)
            states.append(hidden)
        return (self.layer_norm(hidden) if self.norm_first else hidden), states


class MelHuBERT(nn.Module):
    """The network of a configuration, its weights drawn as for pre-training."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        check(config)
        width = config.encoder_embed_dim
        self.pre_extract_proj = nn.Linear(config.feat_emb_dim, width) if config.feat_emb_dim != width else None
        self.encoder = Encoder(config)
        self.final_proj = nn.Linear(width, config.num_cluster) if config.num_cluster else None

    def forward(
        self,
        features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
    ) -> Output:
        """All states of ``features`` (batch, frames, feat_emb_dim), which stay as they are.

        ``attention_mask`` (batch, frames): 1 or True where a frame belongs to the utterance; what stands
        at the others changes nothing. ``masked``, bool (batch, frames): frames of pre-training that are
        set to 0 before the projection (after it where the configuration says so).
        """
        if features.ndim != 3 or features.shape[2] != self.config.feat_emb_dim:
            raise UsageError(
                f"features of shape {tuple(features.shape)} do not fit this MelHuBERT: give (batch, frames, "
                f"{self.config.feat_emb_dim}), see melhubert.features"
            )
        for mask in (attention_mask, masked):
            if mask is not None and mask.shape != features.shape[:2]:
                raise UsageError(
                    f"a mask of shape {tuple(mask.shape)} does not fit features of shape {tuple(features.shape)}: "
                    "give (batch, frames)"
                )
        valid = None if attention_mask is None else attention_mask.bool()
        hidden = features
        if masked is not None and self.config.mask_before_proj:
            hidden = hidden.masked_fill(masked[..., None], 0)
        if self.pre_extract_proj is not None:
            hidden = self.pre_extract_proj(hidden)
        if masked is not None and not self.config.mask_before_proj:
            hidden = hidden.masked_fill(masked[..., None], 0)
        if valid is not None:
            hidden = hidden.masked_fill(~valid[..., None], 0)
        last, states = self.encoder(hidden, valid)
        return Output(last, (hidden, *states), None if self.final_proj is None else self.final_proj(last))


def check(config: Config) -> None:
    """Raise ModelError for a configuration that no network has."""
    # the only value of each that original networks were built with; others have no definition here
    only = {"pos_emb_type": "conv", "pos_conv_depth": 1, "activation_fn": "gelu", "attention_type": "original"}
    for name, value in only.items():
        if getattr(config, name) != value:
            raise ModelError(f"MelHuBERT with {name} = {getattr(config, name)!r} is not known here, only {value!r}")
    for name in (
        "feat_emb_dim",
        "conv_pos",
        "conv_pos_groups",
        "encoder_layers",
        "encoder_embed_dim",
        "encoder_ffn_embed_dim",
        "encoder_attention_heads",
    ):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ModelError(f"MelHuBERT with {name} = {value!r} cannot be: it is a number above 0")
    for name in ("encoder_attention_heads", "conv_pos_groups"):
        if config.encoder_embed_dim % getattr(config, name):
            raise ModelError(
                f"MelHuBERT of width {config.encoder_embed_dim} cannot have {name} = {getattr(config, name)}: it must "
                f"divide"
            )
    for name in ("heads", "ffn_rows"):
        of_blocks: Sequence[int] | None = getattr(config, name)
        if of_blocks is not None and (len(of_blocks) != config.encoder_layers or min(of_blocks) < 1):
            raise ModelError(
                f"MelHuBERT of {config.encoder_layers} blocks cannot have {name} = {list(of_blocks)}: one or more in "
                f"each"
            )
