"""The vision tower of PaliGemma: SigLIP (arXiv 2303.15343), a plain vision transformer.

Shapes: N images, P patches, C width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYER_NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class SiglipShape:
    """Sizes of the tower; `patch` is the side of a patch in pixels."""

    width: int
    depth: int
    hidden: int
    heads: int
    patch: int

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")


class VisionBlock(nn.Module):
    """Full attention and a GELU perceptron, each behind a LayerNorm and a residual."""

    def __init__(self, shape: SiglipShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width, LAYER_NORM_EPSILON)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.output = nn.Linear(shape.width, shape.width)
        self.mlp_norm = nn.LayerNorm(shape.width, LAYER_NORM_EPSILON)
        self.up = nn.Linear(shape.width, shape.hidden)
        self.down = nn.Linear(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """`x` (N, P, C) -> (N, P, C)."""
        images, patches, _ = x.shape
        projected = self.query_key_value(self.attention_norm(x))
        query, keys, values = projected.view(images, patches, 3, self.heads, -1).permute(
            2, 0, 3, 1, 4
        )
        attended = F.scaled_dot_product_attention(query, keys, values)
        x = x + self.output(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class SiglipTower(nn.Module):
    """Images -> one token for every patch, projected to the width of the language model."""

    def __init__(self, shape: SiglipShape, image_size: tuple[int, int], width: int) -> None:
        super().__init__()
        if image_size[0] % shape.patch or image_size[1] % shape.patch:
            raise ValueError(
                f"pictures of this tower must be multiples of {shape.patch} pixels high and wide, "
                f"got {image_size[0]} × {image_size[1]}"
            )
        patches = (image_size[0] // shape.patch) * (image_size[1] // shape.patch)
        self.patches = nn.Conv2d(3, shape.width, shape.patch, shape.patch)
        self.positions = nn.Parameter(torch.randn(patches, shape.width) * 0.02)
        self.blocks = nn.ModuleList(VisionBlock(shape) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, LAYER_NORM_EPSILON)
        self.projection = nn.Linear(shape.width, width)

    def embed(self, images: Tensor) -> Tensor:
        """`images` (N, 3, height, width) in [0, 1] -> tokens (N, P, C of the tower) before its
        blocks. The tower's own range is [-1, 1]."""
        return self.patches(images * 2.0 - 1.0).flatten(2).transpose(1, 2) + self.positions

    def read_out(self, x: Tensor) -> Tensor:
        """Tokens (N, P, C of the tower) after the blocks -> (N, P, C of the language model)."""
        return self.projection(self.norm(x))

    def forward(self, images: Tensor) -> Tensor:
        """`images` (N, 3, height, width) in [0, 1] -> tokens (N, P, C of the language model)."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.read_out(x)
