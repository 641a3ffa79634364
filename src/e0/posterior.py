"""What is done with the posterior of tokens: draw from it, measure it, read actions out of it.

Shapes: B chunks, H steps, D action dimensions, V codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from e0.known import require_known

READ_OUTS = ("argmax", "median", "mean", "window_mean")


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Draw tokens (..., D) from logits (..., D, V) / temperature; at 0 take the most likely.

    By the Gumbel-max trick: torch.multinomial would wait for the device to check its argument.
    """
    logits = logits.float()
    if temperature == 0:
        return logits.argmax(-1)
    return (logits / temperature + gumbel(logits, generator)).argmax(-1)


def gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel noise in the shape of `like`."""
    return -torch.empty_like(like).exponential_(generator=generator).log_()


def posterior_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of the posterior of each token: (..., V) to (...), between 0 and ln V."""
    return torch.special.entr(logits.float().softmax(-1)).sum(-1)


def read_out(
    logits: Tensor, codebook: Tensor, kind: str = "argmax", window: float = 0.02
) -> Tensor:
    """Actions (B, H, D) in the codebook's units from logits (B, H, D, V) and codebook (D, V).

    `argmax` is the most likely code. `median` is the first code up to which half of the posterior
    lies: it has the smallest expected absolute error, and always is a code. `mean` has the smallest
    expected squared error, and may lie between two ways to act. `window_mean` is the posterior mean
    over the codes within ± window * (last code - first code) of the most likely one: finer than the
    codebook, and never a mixture of modes that lie further apart. Raises ValueError for another
    kind, a negative window or shapes that do not match.
    """
    require_known("read-out", kind, READ_OUTS)
    if logits.shape[-2:] != codebook.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} must end in the codebook's shape (D, V), "
            f"{tuple(codebook.shape)}"
        )
    if kind == "mean":
        return (logits.float().softmax(-1) * codebook).sum(-1)
    if kind == "median":
        return codes_at(codebook, median_code(logits))
    value = codes_at(codebook, logits.argmax(-1))
    if kind == "argmax":
        return value
    if window < 0:
        raise ValueError(f"window must not be negative, got {window}")
    offset = codebook - value[..., None]
    radius = window * (codebook[:, -1:] - codebook[:, :1])
    near = logits.float().masked_fill(offset.abs() > radius, -torch.inf).softmax(-1)
    return value + (near * offset).sum(-1)


def median_code(logits: Tensor) -> Tensor:
    """The first code up to which half of the posterior lies: (..., V) to (...)."""
    return (logits.float().softmax(-1).cumsum(-1) < 0.5).sum(-1).clamp(max=logits.shape[-1] - 1)


def codes_at(codebook: Tensor, tokens: Tensor) -> Tensor:
    """Values (..., D) of tokens (..., D) in a codebook (D, V)."""
    return codebook[torch.arange(len(codebook), device=codebook.device), tokens]
