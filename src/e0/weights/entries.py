"""A tensor of a file that is not read yet: shape and type now, numbers when asked for.

Checkpoints of 3 billion parameters are checked whole before any number is read, and then read one
tensor after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class WeightsError(ValueError):
    """Weights that cannot be read, or do not fit. The message says what was found."""


@dataclass(frozen=True)
class Entry:
    """One tensor: its shape, its type, and a function that reads it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Entry:
        """An entry for a tensor in memory."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    def apply(self, function: Callable[[Tensor], Tensor]) -> Entry:
        """`function` of this tensor, computed when it is read. It may only move numbers."""
        shape = function(torch.empty(self.shape, device="meta")).shape
        return Entry(tuple(shape), self.dtype, lambda: function(self.load()))


def concatenate(entries: Sequence[Entry]) -> Entry:
    """Entries under each other, along the first axis."""
    if len({entry.shape[1:] for entry in entries}) > 1:
        shapes = ", ".join(str(entry.shape) for entry in entries)
        raise WeightsError(f"tensors that belong together have shapes that do not: {shapes}")
    rows = sum(entry.shape[0] for entry in entries)
    return Entry(
        (rows, *entries[0].shape[1:]),
        entries[0].dtype,
        lambda: torch.cat([entry.load() for entry in entries]),
    )


Entries = Mapping[str, Entry]
