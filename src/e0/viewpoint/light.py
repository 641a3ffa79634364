"""Light as another camera might have seen it.

What a surface reflects depends on where it is seen from: a table's gloss moves with the camera, and
no warp of the home picture shows that. Policies trained on warped pictures alone follow the warp
and still fail on a camera that was really moved (`benchmarks/viewpoint_gap.py`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 4
"""Brightness is drawn at this many places along each side; between them it changes smoothly."""


def perturb_light(
    images: Tensor, strength: float, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """Pictures under another light: each is multiplied by a smooth random field, within
    [1 / (1 + strength), 1 + strength] and log-uniform at its `CELLS` x `CELLS` places.

    images: (B, 3, height, width) float within [0, 1]; brighter than 1 becomes 1, as in a camera.
    count: of fields; the B / count pictures of a sample follow each other and have one in common.
    Raises ValueError for a negative strength and for pictures that `count` does not divide.
    """
    check_strength(strength)
    if count < 1 or len(images) % count:
        raise ValueError(f"{len(images)} pictures cannot be shared among {count} samples")
    shape = (count, 1, CELLS, CELLS)
    drawn = torch.rand(shape, generator=generator, device=images.device) * 2 - 1
    gain = (drawn * math.log1p(strength)).exp().to(images.dtype)
    down, across = (_weights(images, size) for size in images.shape[-2:])
    # Bilinear, as two matrix products: faster than F.interpolate.
    field = down.T @ gain @ across
    return (images * field.repeat_interleave(len(images) // count, 0)).clamp_(max=1.0)


def _weights(images: Tensor, size: int) -> Tensor:
    """Linear weights (CELLS, size) of the places along a side at each of its pixels."""
    places = torch.eye(CELLS, dtype=images.dtype, device=images.device)
    return F.interpolate(places[None], size, mode="linear", align_corners=True)[0]


def check_strength(strength: float) -> None:
    """Raises ValueError unless this is a strength of `perturb_light`."""
    if not 0 <= strength < math.inf:
        raise ValueError(f"light must be a share of brightness, at least 0, got {strength}")
