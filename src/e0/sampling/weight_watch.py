"""Whether weights are still those that something was made from, at a cost that stays the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

AT_ONCE = 128
"""Tensors that one look takes in: all of a small policy, every fifth of one with 3 B parameters."""


class _Part(NamedTuple):
    """A module where it was found; adapters put another into its place."""

    place: Mapping[str, nn.Module | None]
    name: str
    module: nn.Module

    def replaced(self) -> bool:
        return self.place.get(self.name) is not self.module


class _Seen(NamedTuple):
    """A tensor where it was found, and its state then."""

    part: _Part
    place: Mapping[str, Tensor | None]
    name: str
    tensor: Tensor
    version: int
    address: int

    def changed(self) -> bool:
        return (
            self.part.replaced()
            or self.place.get(self.name) is not self.tensor
            or _version(self.tensor) != self.version
            or self.tensor.data_ptr() != self.address
        )


class WeightWatch:
    """Remembers a module's parameters and buffers as they are when this is made.

    A tensor has changed if another lies in its place or its module's, it lies elsewhere in memory,
    or PyTorch counted a change in place (it counts none through `.data`, nor of tensors that were
    made under inference_mode). Optimizers, checkpoints, averages and moves between devices change
    whole parts together, so that a look at every fifth tensor, say, tells at once. What changes one
    tensor alone is told by `changed_anywhere`, or by the look that comes to it: they go round.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen = _look(module)
        self._stride = max(1, -(-len(self._seen) // AT_ONCE))
        self._next = 0

    def changed(self) -> bool:
        """Whether any of at most `AT_ONCE` tensors has changed, evenly spread over the module."""
        few = self._seen[self._next :: self._stride]
        self._next = (self._next + 1) % self._stride
        return any(seen.changed() for seen in few)

    def changed_anywhere(self) -> bool:
        """Whether any tensor has changed, or come or gone: takes as long as there are tensors."""
        now = _look(self._module)
        return len(now) != len(self._seen) or any(
            a.tensor is not b.tensor or a.version != b.version or a.address != b.address
            for a, b in zip(now, self._seen, strict=True)
        )


def _look(module: nn.Module) -> list[_Seen]:
    return [
        _Seen(part, place, name, tensor, _version(tensor), tensor.data_ptr())
        for part in _parts(_Part({"": module}, "", module))
        for place in (part.module._parameters, part.module._buffers)
        for name, tensor in place.items()
        if tensor is not None
    ]


def _parts(part: _Part) -> Iterator[_Part]:
    """A module and all within it."""
    yield part
    inside = part.module._modules
    for name, module in inside.items():
        if module is not None:
            yield from _parts(_Part(inside, name, module))


def _version(tensor: Tensor) -> int:
    """PyTorch's count of changes in place; it keeps none of what was made under inference_mode."""
    return 0 if tensor.is_inference() else tensor._version
