"""Weights in bfloat16 for policies that act; what must not be rounded keeps float32."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from e0.network.action_tokens import ActionTokens
from e0.network.transformer import RMSNorm

KEEPS_FLOAT32 = (RMSNorm, ActionTokens, _BatchNorm)
"""In half precision 1 + weight has no room, nor have noisy actions and peaks one code wide."""


def in_dtype[Module: nn.Module](module: Module, dtype: torch.dtype | None) -> Module:
    """The module itself, or a copy in another dtype, made tensor by tensor.

    Raises ValueError if the device cannot compute with it.
    """
    parameter = next(module.parameters())
    if dtype is None or dtype == parameter.dtype:
        return module
    require_dtype(dtype, parameter.device)
    copied = {}
    for tensor in _following(module):
        converted = tensor.detach().to(dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        copied[id(tensor)] = nn.Parameter(converted, False) if is_parameter else converted
    return copy.deepcopy(module, copied)  # a memo of what needs no copy any more


def cast_in_place(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring a module to a dtype tensor by tensor, so that two forms of all never exist at once.

    Its weights can then be trained no more: they have lost what an optimizer's steps add up in.
    Raises ValueError if the device cannot compute with it.
    """
    require_dtype(dtype, next(module.parameters()).device)
    module.requires_grad_(False)
    for tensor in _following(module):
        tensor.data = tensor.data.to(dtype)


def require_dtype(dtype: torch.dtype, device: torch.device) -> None:
    """Raise ValueError if the device cannot compute in bfloat16."""
    if dtype is not torch.bfloat16:
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise ValueError(f"{name} has no bfloat16 (compute capability 8.0 does); use float32")
    if device.type == "mps":
        raise ValueError("bfloat16 is not used on Apple's devices here; use float32")


def _following(module: nn.Module) -> Iterator[Tensor]:
    """The parameters and buffers that follow a dtype."""
    if isinstance(module, KEEPS_FLOAT32):
        return
    own = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    yield from (tensor for tensor in own if tensor.is_floating_point())
    for part in module.children():
        yield from _following(part)
