"""From what the network puts out to logits over the codes of every (step, dimension).

`linear` is the usual head: one output per code. It has to find out by itself that neighbouring
codes mean nearly the same, and on small data it learns that first and the observation later.
`cosine` knows it: the network puts out K coefficients of cosines over the code's rank, low
frequencies first. Its size does not grow with the vocabulary, and as logits are unbounded a peak
may still become as narrow as one code.

Shapes: B chunks, H steps, D action dimensions, V codes, K coefficients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HEADS = ("cosine", "linear")
COEFFICIENTS = 64


def head_width(head: str, vocabulary_size: int) -> int:
    """Network outputs for every (step, dimension). Raises ValueError for an unknown head."""
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}; known: {', '.join(HEADS)}")
    return vocabulary_size if head == "linear" else min(COEFFICIENTS, vocabulary_size)


def cosine_basis(code_count: Tensor, vocabulary_size: int) -> Tensor:
    """Cosines cos(πk(v + ½)/n) for k = 1..K over the rank v of a dimension's n codes: (D, K, V).

    code_count: (D,), n of each dimension. They are the cosine transform's (DCT-II), scaled by
    2/√k, so that a fresh network starts with smooth logits. Beyond rank n they are zero.
    """
    rank = torch.arange(vocabulary_size, device=code_count.device)
    frequency = 1 + torch.arange(head_width("cosine", vocabulary_size), device=code_count.device)
    place = ((rank + 0.5) / code_count[:, None]).clamp(max=1.0)
    cosines = torch.cos(math.pi * frequency[:, None] * place[:, None, :])
    return cosines * (2.0 / frequency.sqrt())[:, None] * (rank < code_count[:, None])[:, None]


def padding_bias(code_count: Tensor, vocabulary_size: int) -> Tensor:
    """0 for a dimension's codes and -inf for the padding of its codebook row: (D, V)."""
    rank = torch.arange(vocabulary_size, device=code_count.device)
    bias = torch.zeros(len(code_count), vocabulary_size, device=code_count.device)
    return bias.masked_fill(rank >= code_count[:, None], -torch.inf)


def cosine_logits(coefficients: Tensor, basis: Tensor) -> Tensor:
    """Logits (B, H, D, V) of coefficients (B, H, D, K), in float32 also under autocast."""
    with torch.autocast(coefficients.device.type, enabled=False):
        return torch.einsum("bhdk,dkv->bhdv", coefficients.float(), basis)
