"""The loss with its gradient in closed form against what PyTorch derives by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from e0.token_loss import token_loss

D, V = 3, 40
COUNT = torch.tensor([40, 40, 7])  # the last dimension has fewer codes


def reference(logits: Tensor, tokens: Tensor, values: Tensor, mean_weight: float) -> Tensor:
    surprise = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none")
    mean = (logits.softmax(-1) * values).sum(-1)
    truth = values[torch.arange(D), tokens]
    return surprise.view(tokens.shape) + mean_weight * (mean - truth).square()


def problem(*shape: int, lie_together: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*shape, D, V, generator=generator)
    logits = logits.masked_fill(torch.arange(V) >= COUNT[:, None], -torch.inf)
    tokens = torch.randint(0, 7, (*shape, D), generator=generator)
    if lie_together:
        logits = logits.movedim(-2, 0).contiguous().movedim(0, -2)
    return logits, tokens, torch.randn(D, V, generator=generator)


@pytest.mark.parametrize("mean_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("shape", "lie_together"), [((4, 5), True), ((4, 5), False), ((6,), True)])
def test_loss_and_gradient_are_those_of_the_plain_formula(
    shape: tuple[int, ...], lie_together: bool, mean_weight: float
) -> None:
    logits, tokens, values = problem(*shape, lie_together=lie_together)
    share = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    losses = token_loss(ours, tokens, values, mean_weight)
    expected = reference(theirs, tokens, values, mean_weight)
    torch.testing.assert_close(losses, expected)
    (losses * share).sum().backward()
    (expected * share).sum().backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    padded = torch.arange(V) >= COUNT[:, None]
    assert not ours.grad[..., padded].any()


def test_what_is_certain_and_wrong_has_a_finite_loss() -> None:
    logits = torch.zeros(1, 1, V)
    logits[..., 0] = 500.0  # the probability of all other codes is zero in float32
    logits.requires_grad_()
    loss = token_loss(logits, torch.tensor([[3]]), torch.linspace(-2, 2, V)[None], 1.0)
    loss.sum().backward()
    assert loss.item() > 500
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[0, 0, 3] == -1


def test_the_loss_stays_float32_under_autocast() -> None:
    logits, tokens, values = problem(4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        losses = token_loss(logits.bfloat16(), tokens, values, 1.0)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(
        losses, reference(logits.bfloat16().float(), tokens, values, 1.0), atol=1e-5, rtol=1e-5
    )
