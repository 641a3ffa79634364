"""Transformer blocks that every preset shares.

Pre-norm RMSNorm, rotary positions, grouped key/value heads, a gated MLP and, where a condition is
given, an adaptive norm: the block of Gemma (arXiv 2403.08295), with the adaptive norm of DiT
(arXiv 2212.09748) as in pi-0.5. Attention is PyTorch's fused `scaled_dot_product_attention`.

Shapes: B batch, T tokens, C width, N heads, G key/value heads (N is a multiple of G), E head width.
Masks are (B, 1, 1, keys) where all queries look at the same, or grouped: (B, 1, N/G · T, keys).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class BlockShape:
    """Sizes of one transformer block. `width` may differ between two streams that attend to each
    other; `heads`, `key_value_heads` and `head_width` must not."""

    width: int
    hidden: int
    heads: int
    key_value_heads: int
    head_width: int

    def __post_init__(self) -> None:
        if self.heads % self.key_value_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of key_value_heads "
                f"({self.key_value_heads})"
            )
        if self.head_width % 2:
            raise ValueError(f"head_width must be even for rotary positions, got {self.head_width}")


class KeyValue(NamedTuple):
    """Keys and values of one layer, each (B, G, T, E), rotary positions already applied."""

    keys: Tensor
    values: Tensor


@dataclass
class DecodingCache:
    """What causal decoding keeps between calls: for each layer the keys and values of the prefix
    and of the action tokens so far, of which there are `length`. Starts empty."""

    layers: list[KeyValue] = field(default_factory=list)
    length: int = 0


class Rotation(NamedTuple):
    """Rotary tables (B or 1, 1, T, E/2) of one set of positions, shared by all layers."""

    cosine: Tensor
    sine: Tensor


def rotation(
    positions: Tensor,
    head_width: int,
    base: float = 10_000.0,
    dtype: torch.dtype = torch.float32,
) -> Rotation:
    """Rotary tables for `positions` (B, T) or (1, T) (RoFormer, arXiv 2104.09864), rounded to a
    dtype at the end."""
    exponent = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    frequency = base ** (-exponent / head_width)
    angle = positions[:, None, :, None].float() * frequency
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))


def rotate(x: Tensor, table: Rotation) -> Tensor:
    """Apply rotary positions to `x` (B, heads, T, E); halves are paired as in Gemma."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = table.cosine.to(x.dtype), table.sine.to(x.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def grouped(mask: Tensor, shape: BlockShape) -> Tensor:
    """A mask (B, 1, T, keys) for `attend`: (B, 1, N/G · T, keys)."""
    return mask.repeat(1, 1, shape.heads // shape.key_value_heads, 1)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries (B, N, T, E) to keys and values (B, G, keys, E) -> (B, N, T, E).

    The heads that share keys become more queries of one head, which every kernel can do; with
    PyTorch's own grouping and a mask, GPUs fall back to one that keeps all scores.
    """
    batch, groups, _, width = keys.shape
    folded = query.reshape(batch, groups, -1, width)
    attended = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask)
    return attended.reshape(query.shape)


class RMSNorm(nn.Module):
    """x / rms(x) · (1 + weight), Gemma's form: a zero weight is the identity scale."""

    def __init__(self, width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # In float32 whatever the tokens are: 1 + weight has no room in half precision.
        normed = F.rms_norm(x.float(), x.shape[-1:], 1.0 + self.weight.float(), self.epsilon)
        return normed.type_as(x)


class AdaptiveRMSNorm(nn.Module):
    """RMSNorm whose scale, shift and residual gate come from a condition (DiT's adaLN).

    The gate starts at one rather than DiT's zero, so that a fresh block is a plain pre-norm block.
    """

    def __init__(self, width: int, condition_width: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.modulation = nn.Linear(condition_width, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        with torch.no_grad():
            self.modulation.bias.view(3, width)[:] = torch.tensor([[0.0], [0.0], [1.0]])
        self.epsilon = epsilon

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """`x` (B, R·H, C), `condition` (B, R, condition width), one for every H tokens, or one for
        every token (B, R·H, condition width) -> normed x, residual gate."""
        modulation = self.modulation(condition)
        if condition.shape[1] not in (1, x.shape[1]):
            modulation = modulation.repeat_interleave(x.shape[1] // condition.shape[1], dim=1)
        scale, shift, gate = modulation.chunk(3, dim=-1)
        normed = F.rms_norm(x.float(), x.shape[-1:], eps=self.epsilon)
        return (normed * (1.0 + scale.float()) + shift.float()).type_as(x), gate.type_as(x)


class KeyValueProjection(nn.Module):
    """Keys (rotated) and values of a stream, from one fused projection."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.projection = nn.Linear(
            shape.width, 2 * shape.key_value_heads * shape.head_width, bias=False
        )

    def forward(self, x: Tensor, table: Rotation) -> KeyValue:
        batch, tokens, _ = x.shape
        both = self.projection(x).view(
            batch, tokens, 2, self.shape.key_value_heads, self.shape.head_width
        )
        keys, values = both.permute(2, 0, 3, 1, 4)
        return KeyValue(rotate(keys, table), values)


class Attention(nn.Module):
    """Grouped-query attention of one stream, optionally over another stream's keys and values."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.width, shape.heads * shape.head_width, bias=False)
        self.key_value = KeyValueProjection(shape)
        self.output = nn.Linear(shape.heads * shape.head_width, shape.width, bias=False)

    def forward(
        self, x: Tensor, table: Rotation, context: KeyValue | None, mask: Tensor | None
    ) -> tuple[Tensor, KeyValue]:
        """Attend from `x` (B, T, C) to [context, x]; True in the mask = may look.

        Returns the output (B, T, C), and the keys and values of [context, x]."""
        batch, tokens, _ = x.shape
        query = self.query(x).view(batch, tokens, self.shape.heads, -1).transpose(1, 2)
        keys, values = self.key_value(x, table)
        if context is not None:
            keys = torch.cat((context.keys, keys), dim=2)
            values = torch.cat((context.values, values), dim=2)
        attended = attend(rotate(query, table), keys, values, mask)
        output = self.output(attended.transpose(1, 2).reshape(batch, tokens, -1))
        return output, KeyValue(keys, values)


class GatedMLP(nn.Module):
    """GELU(gate(x)) · up(x), projected down (GEGLU, arXiv 2002.05202); gate and up are fused."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.gelu(gate, approximate="tanh") * up)


class Block(nn.Module):
    """Attention and gated MLP, each behind a pre-norm and a residual.

    With a `condition_width` its norms follow a condition, which also gates the residuals.
    """

    def __init__(self, shape: BlockShape, condition_width: int | None = None) -> None:
        super().__init__()
        self.attention_norm = make_norm(shape.width, condition_width)
        self.attention = Attention(shape)
        self.mlp_norm = make_norm(shape.width, condition_width)
        self.mlp = GatedMLP(shape.width, shape.hidden)

    def forward(
        self,
        x: Tensor,
        table: Rotation,
        mask: Tensor | None,
        context: KeyValue | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """`x` (B, T, C) attends to [context, x]; True in the mask = may look.

        Returns the output (B, T, C), and the keys and values of [context, x]."""
        normed, gate = apply_norm(self.attention_norm, x, condition)
        attended, key_value = self.attention(normed, table, context, mask)
        x = x + (attended if gate is None else gate * attended)
        normed, gate = apply_norm(self.mlp_norm, x, condition)
        hidden = self.mlp(normed)
        return x + (hidden if gate is None else gate * hidden), key_value


def make_norm(width: int, condition_width: int | None) -> RMSNorm | AdaptiveRMSNorm:
    """An adaptive norm where there is a condition for it, a plain one elsewhere."""
    if condition_width is None:
        return RMSNorm(width)
    return AdaptiveRMSNorm(width, condition_width)


def apply_norm(
    norm: RMSNorm | AdaptiveRMSNorm, x: Tensor, condition: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Normed `x` (B, T, C), and the gate of the residual where the norm is adaptive."""
    if isinstance(norm, RMSNorm):
        return norm(x), None
    return norm(x, condition)
