"""The loss of every predicted code, with its gradient in closed form.

With p = softmax(logits) over codes of values c, m = Σ p c and the true code k, the loss of a token
is -log p_k + w (m - c_k)², and its gradient p (1 + 2 w (m - c_k) (c - m)), less 1 at k. What
PyTorch derives by itself takes twice the time and keeps several arrays of the logits' size; this
keeps one.

Shapes: D action dimensions, V codes; `...` is anything, the same everywhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def token_loss(logits: Tensor, tokens: Tensor, values: Tensor, mean_weight: float) -> Tensor:
    """Loss of each token (..., D), of logits (..., D, V), true codes (..., D) and the codes' values
    (D, V), which learn nothing; in float32 also under autocast."""
    with torch.autocast(logits.device.type, enabled=False):
        return _TokenLoss.apply(logits.float(), tokens, values.float(), mean_weight)  # pyright: ignore[reportReturnType]


class _TokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, values: Tensor, mean_weight: float
    ) -> Tensor:
        # A dimension's codes lie together where the cosine head made them: nothing is copied.
        logarithms = logits.movedim(-2, 0).flatten(1, -2).log_softmax(-1)
        true = tokens.movedim(-1, 0).flatten(1)[..., None]
        surprise = -logarithms.gather(-1, true)[..., 0]
        posterior = logarithms.exp_()
        mean = torch.bmm(posterior, values[..., None])[..., 0]
        error = mean - values.gather(-1, true[..., 0])
        ctx.save_for_backward(posterior, true, values, mean, error)
        ctx.mean_weight = mean_weight
        return _by_token(surprise + mean_weight * error.square(), tokens.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (of_tokens,) = gradients
        posterior, true, values, mean, error = ctx.saved_tensors
        of_loss = of_tokens.movedim(-1, 0).flatten(1)
        slope = of_loss * 2 * ctx.mean_weight * error
        of_logits = slope[..., None] * values[:, None]
        of_logits += (of_loss - slope * mean)[..., None]
        of_logits *= posterior
        of_logits.scatter_add_(-1, true, -of_loss[..., None])
        by_dimension = of_logits.unflatten(1, of_tokens.shape[:-1])
        return by_dimension.movedim(0, -2), None, None, None


def _by_token(by_dimension: Tensor, shape: torch.Size) -> Tensor:
    """(D, N) as `shape` (..., D)."""
    return by_dimension.unflatten(1, shape[:-1]).movedim(0, -1)
