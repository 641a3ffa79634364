"""What a policy reads out of a LeRobot batch.

B observations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def read_vectors(
    batch: dict[str, Any], cameras: Sequence[str], names: Iterable[str]
) -> dict[str, Tensor]:
    """The vectors (B, n) of these names. Raises ValueError if the batch lacks any of them, or the
    picture of a camera."""
    names = list(names)
    expected = [*cameras, *names]
    missing = [name for name in expected if name not in batch]
    if missing:
        came = sorted(name for name in batch if name.startswith("observation"))
        raise ValueError(
            f"the batch lacks {missing}; this policy expects {sorted(expected)}, the batch has "
            f"{came}. Rename features with --rename_map, or use the cameras and state "
            "the policy was trained with"
        )
    # LeRobot adds the batch axis to its own state features, but not to further vectors.
    return {name: torch.atleast_2d(batch[name]) for name in names}


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
