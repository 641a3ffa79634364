"""An exponential moving average of the trained weights, which often acts better than the weights
themselves at the end of a noisy training (Polyak and Juditsky, 1992)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """Averages of a module's parameters that were trained when this was made, as buffers.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the start is forgotten.
    Raises ValueError for a decay outside (0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 < decay < 1:
            raise ValueError(f"the decay of an average must lie within (0, 1), got {decay}")
        self.decay = decay
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        self.updates: Tensor
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        for name in self.names:
            self.register_buffer(_buffer(name), module.get_parameter(name).detach().clone())

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the module's weights as they are now. Raises ValueError if they have other
        shapes, as those of sharded training have."""
        averages = self.averages()
        for name, average in averages.items():
            if module.get_parameter(name).shape != average.shape:
                raise ValueError(
                    f"{name} is {tuple(module.get_parameter(name).shape)} here and "
                    f"{tuple(average.shape)} in the average: averaging does not work with sharded "
                    "training; set ema_decay=0"
                )
        self.updates += 1
        # On the weights' device: reading the count would wait for it.
        step = 1 - ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        for name, average in averages.items():
            average.lerp_(module.get_parameter(name), step.to(average.dtype))

    @property
    def address(self) -> int:
        """Where the first average lies: elsewhere once all have been moved or replaced."""
        return self.get_buffer(_buffer(self.names[0])).data_ptr()

    def averages(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return {name: self.get_buffer(_buffer(name)) for name in self.names}


def with_weights[Module: nn.Module](module: Module, weights: Mapping[str, Tensor]) -> Module:
    """A twin of the module with other tensors as some of its parameters. It shares all the rest,
    and these tensors too: changing them changes the twin."""
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    twin = copy.deepcopy(module, shared)  # a memo that holds them: tensors are not copied
    for name, tensor in weights.items():
        owner, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(owner), leaf, nn.Parameter(tensor, requires_grad=False))
    return twin


def _buffer(name: str) -> str:
    """Buffers may not have dots in their names."""
    return name.replace(".", "/")
