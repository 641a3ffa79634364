"""What a policy reads out of a LeRobot batch.

B observations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def read_vectors(
    batch: dict[str, Any], cameras: Sequence[str], sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """The vectors (B, n) of these names and sizes. Raises ValueError if the batch lacks any of
    them, or the picture of a camera."""
    expected = [*cameras, *sizes]
    missing = [name for name in expected if name not in batch]
    if missing:
        came = sorted(name for name in batch if name.startswith("observation"))
        raise ValueError(
            f"the batch lacks {missing}; this policy expects {sorted(expected)}, the batch has "
            f"{came}. Rename features with --rename_map, or use the cameras and state "
            "the policy was trained with"
        )
    return {name: _rows(batch[name], size) for name, size in sizes.items()}


def _rows(vector: Tensor, size: int) -> Tensor:
    """A vector as (B, size). LeRobot adds the batch axis to its own state features, but not to
    further vectors, and has single numbers without an axis."""
    return vector.reshape(-1, 1) if size == 1 and vector.ndim < 2 else torch.atleast_2d(vector)


def read_pictures(batch: dict[str, Any], cameras: Sequence[str]) -> dict[str, Tensor]:
    """Pictures (B, 3, H, W) of these cameras, of which some may be monochrome, (B, 1, H, W)."""
    pictures = {name: batch[name] for name in cameras}
    return {
        name: x.expand(*x.shape[:-3], 3, -1, -1) if x.shape[-3] == 1 else x
        for name, x in pictures.items()
    }


def read_tasks(batch: dict[str, Any]) -> list[str]:
    """The instructions (B,). Raises ValueError if the batch has none."""
    if "task" not in batch:
        raise ValueError(
            "the batch has no 'task' text and this policy follows instructions; give one, or "
            "train with --policy.use_instruction=false"
        )
    return [batch["task"]] if isinstance(batch["task"], str) else list(batch["task"])


def batch_size(batch: dict[str, Any], names: Iterable[str]) -> int | None:
    """How many observations there are, by the first of these features that has a batch axis for
    sure: one with a single axis may be a vector without it. None if there is no such feature."""
    return next((len(batch[n]) for n in names if n in batch and batch[n].ndim > 1), None)
